// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The C interface of the library: plain calls for C, other languages, and one binary for many CPUs.
#ifndef ROPEWALK_H
#define ROPEWALK_H

// Calls are executed by the widest of the units that ropewalk_add_dispatch() compiled and this CPU supports.
// The header compiles as C99, C11 and C++20. No call throws, ends the program or starts a thread, and only
// calls with make or read in their names allocate memory. Every struct that a call takes begins with its
// size and version and is created by the function new_ of its name; tensors, rows, norms and caches inside a
// struct have its version. Whatever a call returns through a pointer to a pointer is
// freed by the function free_ of its name. Apart from invalid pointers, a call that cannot be carried out is
// refused with nothing touched.
//
// Threads: every function may be called from any thread at any time, and none takes a lock of its own.
//          Objects are never changed after they were made, so any number of calls may read one spectrum,
//          table, plan or model at once; free it when none of these calls is running any more. Calls that
//          write to disjoint memory may run concurrently: the parts of one call (its fields parts and part),
//          and calls on different tensors. The reason of a refusal belongs to its thread. ropewalk_use_unit
//          takes effect for calls that begin after it.

#include <ropewalk/dispatch/c_cache.h>
#include <ropewalk/dispatch/c_model.h>
#include <ropewalk/dispatch/c_rotate.h>
#include <ropewalk/dispatch/c_tables.h>
#include <ropewalk/dispatch/c_types.h>

#ifdef __cplusplus
extern "C" {
#endif

/// An enum ropewalk_status in words.
const char* ropewalk_status_text(int status);
/// The reason of the last refused call of this thread: "tokens must be a count: wanted 1, got -3". If a tensor,
/// a cache or a norm does not fit, the reason begins with the name of its field: "k: channels must be ...". It is
/// empty if no call was refused. `text`, of `size` characters, may be NULL; the reason is truncated if it does not
/// fit, and always ends in 0. Returns the length of the whole reason, without the 0.
size_t ropewalk_last_misfit(char* text, size_t size);
/// For code that checks calls before it makes them: notes the reason of a refusal for ropewalk_last_misfit(),
/// as "must: wanted ..., got ...". `must` is copied, up to 199 characters; NULL notes nothing.
void ropewalk_note_misfit(const char* must, ptrdiff_t wanted, ptrdiff_t got);

/// The unit in use, for example "avx2_fma_f16c". The first call of any function chooses it: the widest one
/// that the CPU and the operating system support, or the one that the environment variable ROPEWALK_UNIT
/// names (a name that is not among them is ignored).
const char* ropewalk_unit(void);
/// The units that were built and that this CPU supports: number i, widest first; NULL past the last.
const char* ropewalk_available_unit(ptrdiff_t i);
/// Makes every later call use the named unit (tests, comparisons). Returns an enum ropewalk_status.
int ropewalk_use_unit(const char* name);
/// The version of the library, for example "0.2.0".
const char* ropewalk_version(void);

#ifdef __cplusplus
}
#endif

#endif
