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

/// What an element is.
enum ropewalk_dtype {
    ROPEWALK_F64 = 0,  ///< double
    ROPEWALK_F32 = 1,  ///< float
    ROPEWALK_F16 = 2,  ///< IEEE binary16
    ROPEWALK_BF16 = 3  ///< the upper half of a float
};
/// Which channels are pair i.
enum ropewalk_layout {
    ROPEWALK_HALF_SPLIT = 0,   ///< i and i + pairs
    ROPEWALK_INTERLEAVED = 1,  ///< 2 i and 2 i + 1
    ROPEWALK_BLOCKED = 2       ///< half-split inside groups of `group` channels
};
/// In which direction.
enum ropewalk_turn {
    ROPEWALK_ROTATE = 0,    ///< forward
    ROPEWALK_UNROTATE = 1,  ///< the inverse: also undoes the magnitude
    ROPEWALK_GRADIENT = 2   ///< the transpose
};
/// What came of a call.
enum ropewalk_status {
    ROPEWALK_OK = 0,        ///< done
    ROPEWALK_BAD_CALL = 1,  ///< a field that cannot be; nothing was touched
    ROPEWALK_NO_UNIT = 2    ///< ropewalk_use_unit: not built, or not for this CPU
};

/// Queries or keys: [batches, tokens, heads, 2 * pairs], strides in elements, channels adjacent.
typedef struct ropewalk_tensor {
    void* data;              ///< the first element
    ptrdiff_t heads;         ///< how many
    ptrdiff_t batch_stride;  ///< from a batch to the next
    ptrdiff_t token_stride;  ///< from a token to the next
    ptrdiff_t head_stride;   ///< from a head to the next
} ropewalk_tensor;

/// cos and sin [table_rows, table_heads, pairs] of double for ROPEWALK_F64 and of float otherwise, the
/// magnitude multiplied in. Token (b, n) reads row row_of_token[b * tokens + n] (at most one of the two index
/// arrays, of row_count numbers; neither: the ordinal itself); a negative row leaves the token alone, and so
/// does one that the table does not have.
typedef struct ropewalk_rows {
    const void* cos;                 ///< cosines
    const void* sin;                 ///< sines
    ptrdiff_t table_rows;            ///< rows of the table
    ptrdiff_t table_heads;           ///< 1, or at least the heads of q and k
    ptrdiff_t pairs;                 ///< channels that turn / 2
    ptrdiff_t row_stride;            ///< elements from row to row
    ptrdiff_t head_stride;           ///< elements from head to head, 0 with one head
    const int32_t* row_of_token;     ///< the row of each token, or NULL
    const int64_t* row_of_token_64;  ///< the same in 64 bits, or NULL
    ptrdiff_t row_count;  ///< numbers in the index array, at least batches * tokens; unread without one
    double magnitude;     ///< needed by ROPEWALK_UNROTATE
} ropewalk_rows;

/// One call: what is rotated, by which rows, in which direction.
typedef struct ropewalk_rotate_call {
    size_t size;         ///< sizeof(ropewalk_rotate_call): a later version may add fields at the end
    int32_t dtype;       ///< an enum ropewalk_dtype
    int32_t layout;      ///< an enum ropewalk_layout
    int32_t turn;        ///< an enum ropewalk_turn
    int32_t reserved;    ///< must be 0
    ptrdiff_t group;     ///< ROPEWALK_BLOCKED only
    ptrdiff_t batches;   ///< of q and of k
    ptrdiff_t tokens;    ///< of a batch
    ropewalk_tensor q;   ///< what is rotated
    ropewalk_tensor k;   ///< data NULL: q alone
    ropewalk_rows rows;  ///< by which angles
    ptrdiff_t parts;     ///< for a caller's own threads: into how many parts the work is cut; 1 for all of it
    ptrdiff_t part;      ///< which of them this call does, from 0
} ropewalk_rotate_call;

/// Rotates in place. No allocation, no thread, no exception. Returns an enum ropewalk_status.
int ropewalk_rotate(const ropewalk_rotate_call* call);

/// The unit in use, for example "avx2_fma_f16c". The first call of either function chooses it: the widest
/// that the CPU and the operating system support, or the one that the environment variable ROPEWALK_UNIT
/// names (a name that is not among them is passed over).
const char* ropewalk_unit(void);
/// Unit i of those that were built and run here, widest first; NULL past the last.
const char* ropewalk_available_unit(ptrdiff_t i);
/// Makes every later call use the named unit (tests, comparisons). Returns an enum ropewalk_status.
int ropewalk_use_unit(const char* name);

#ifdef __cplusplus
}
#endif

#endif
