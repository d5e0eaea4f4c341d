// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#ifndef ROPEWALK_H
#define ROPEWALK_H

// The library for C, for other languages, and for programs that ship one binary to many CPUs: plain calls,
// carried out by the widest of the units that ropewalk_add_dispatch() compiled and this CPU has. C99, C11 and
// C++20 alike. No call throws, ends the program or starts a thread, and only those named make and read
// allocate. Every struct that a call takes begins with its size and version and is made by the function new_
// of its name; tensors, rows, norms and caches inside one are of its version. Whatever is made by a call that
// takes a pointer to a pointer is freed by the function free_ of its name. Bad memory apart, a call that
// cannot be is refused with nothing touched.
//
// Threads: every function may be called from any thread at any time, and none takes a lock of its own. What
// was made is never changed, so that any number of calls may read one spectrum, table, plan or model at once; it is freed
// when none of them runs any more. Calls whose written memory is disjoint run side by side: parts of one call by
// its fields parts and part, calls on different tensors as they are. The reason of a refusal belongs to its
// thread. ropewalk_use_unit counts for calls that begin after it.

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
/// Why the last call of this thread that was refused was: "tokens must be a count: wanted 1, got -3". Empty
/// where none was. `text`, of `size` characters, may be NULL; it is cut where it does not suffice, and always
/// ends in 0. Returns the characters of the whole text, without the 0.
size_t ropewalk_last_misfit(char* text, size_t size);

/// The unit in use, for example "avx2_fma_f16c". The first call of any function chooses it: the widest
/// that the CPU and the operating system support, or the one that the environment variable ROPEWALK_UNIT
/// names (a name that is not among them is passed over).
const char* ropewalk_unit(void);
/// Unit i of those that were built and run here, widest first; NULL past the last.
const char* ropewalk_available_unit(ptrdiff_t i);
/// Makes every later call use the named unit (tests, comparisons). Returns an enum ropewalk_status.
int ropewalk_use_unit(const char* name);
/// The version of the library, for example "0.2.0".
const char* ropewalk_version(void);

#ifdef __cplusplus
}
#endif

#endif
