// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#ifndef ROPEWALK_H
#define ROPEWALK_H

#include <stddef.h>
#include <stdint.h>

// The run-time door for C and for programs that ship one binary to many CPUs: one plain call, carried out by
// the widest of the units that ropewalk_add_dispatch() compiled and this CPU has. C11 and C++20 alike.
// Source: design of this library.

#ifdef __cplusplus
extern "C" {
#endif

enum ropewalk_dtype { ROPEWALK_F64 = 0, ROPEWALK_F32 = 1, ROPEWALK_F16 = 2, ROPEWALK_BF16 = 3 };
// Pair i is channels (i, i + pairs), (2 i, 2 i + 1), or half-split inside groups of `group` channels.
enum ropewalk_layout { ROPEWALK_HALF_SPLIT = 0, ROPEWALK_INTERLEAVED = 1, ROPEWALK_BLOCKED = 2 };
// Forward; the inverse (also undoes the magnitude); the transpose, for gradients.
enum ropewalk_turn { ROPEWALK_ROTATE = 0, ROPEWALK_UNROTATE = 1, ROPEWALK_GRADIENT = 2 };
enum ropewalk_status {
    ROPEWALK_OK = 0,
    ROPEWALK_BAD_CALL = 1,  // a field that cannot be; nothing was touched
    ROPEWALK_NO_UNIT = 2    // ropewalk_use_unit: not built, or not for this CPU
};

// Queries or keys: [batches, tokens, heads, 2 * pairs], strides in elements, channels adjacent.
typedef struct ropewalk_tensor {
    void* data;
    ptrdiff_t heads;
    ptrdiff_t batch_stride;
    ptrdiff_t token_stride;
    ptrdiff_t head_stride;
} ropewalk_tensor;

// cos and sin [table_rows, table_heads, pairs] of double for ROPEWALK_F64 and of float otherwise, the
// magnitude multiplied in. Token (b, n) reads row row_of_token[b * tokens + n] (at most one of the two index
// arrays, of row_count numbers; neither: the ordinal itself); a negative row leaves the token alone, and so
// does one that the table does not have.
typedef struct ropewalk_rows {
    const void* cos;
    const void* sin;
    ptrdiff_t table_rows;
    ptrdiff_t table_heads;  // 1, or at least the heads of q and k
    ptrdiff_t pairs;
    ptrdiff_t row_stride;   // elements from row to row
    ptrdiff_t head_stride;  // elements from head to head, 0 with one head
    const int32_t* row_of_token;
    const int64_t* row_of_token_64;
    ptrdiff_t row_count;  // numbers in the index array, at least batches * tokens; unread without one
    double magnitude;     // needed by ROPEWALK_UNROTATE
} ropewalk_rows;

typedef struct ropewalk_rotate_call {
    size_t size;  // sizeof(ropewalk_rotate_call): a later version may add fields at the end
    int32_t dtype;
    int32_t layout;
    int32_t turn;
    int32_t reserved;  // must be 0
    ptrdiff_t group;   // ROPEWALK_BLOCKED only
    ptrdiff_t batches;
    ptrdiff_t tokens;
    ropewalk_tensor q;
    ropewalk_tensor k;  // data NULL: q alone
    ropewalk_rows rows;
    ptrdiff_t parts;  // for a caller's own threads: part `part` of `parts`; 1 and 0 for all of it
    ptrdiff_t part;
} ropewalk_rotate_call;

// Rotates in place. No allocation, no thread, no exception. Returns an enum ropewalk_status.
int ropewalk_rotate(const ropewalk_rotate_call* call);

// The unit in use, for example "avx2_fma_f16c". The first call of either function chooses it: the widest that
// the CPU and the operating system support, or the one that the environment variable ROPEWALK_UNIT names (a
// name that is not among them is passed over).
const char* ropewalk_unit(void);
// Unit i of those that were built and run here, widest first; NULL past the last.
const char* ropewalk_available_unit(ptrdiff_t i);
// Makes every later call use the named unit (tests, comparisons). Returns an enum ropewalk_status.
int ropewalk_use_unit(const char* name);

#ifdef __cplusplus
}
#endif

#endif
