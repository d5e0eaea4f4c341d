// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The C types that all calls of ropewalk.h share: element types, tensors, rows and status codes.
#ifndef ROPEWALK_DISPATCH_C_TYPES_H
#define ROPEWALK_DISPATCH_C_TYPES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/// The version of this header: the `version` of every struct.
#define ROPEWALK_C_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/// Element types. Data have one of the first four; caches may have any of them.
enum ropewalk_dtype {
    ROPEWALK_F64 = 1,      ///< double
    ROPEWALK_F32 = 2,      ///< float
    ROPEWALK_F16 = 3,      ///< IEEE binary16
    ROPEWALK_BF16 = 4,     ///< the upper half of a float
    ROPEWALK_INT8 = 5,     ///< one byte, times one float per token and head
    ROPEWALK_F8_E4M3 = 6,  ///< one byte, up to 448, with one scale for the cache
    ROPEWALK_F8_E5M2 = 7,  ///< one byte, up to 57344, with one scale for the cache
    ROPEWALK_Q8_0 = 8,     ///< blocks of 32 numbers in 34 bytes, as in ggml
    ROPEWALK_Q4_0 = 9      ///< blocks of 32 numbers in 18 bytes, as in ggml
};
/// Which two channels form pair i.
enum ropewalk_layout {
    ROPEWALK_HALF_SPLIT = 1,   ///< i and i + pairs
    ROPEWALK_INTERLEAVED = 2,  ///< 2 i and 2 i + 1
    ROPEWALK_BLOCKED = 3       ///< half-split inside groups of `group` channels
};
/// The direction of a rotation.
enum ropewalk_direction {
    ROPEWALK_ROTATE = 0,    ///< forward
    ROPEWALK_UNROTATE = 1,  ///< the inverse: also divides by the squared magnitude of every pair's row
    ROPEWALK_GRADIENT = 2   ///< the transpose
};
/// The result of a call; ropewalk_status_text() describes it, ropewalk_last_misfit() gives the reason.
enum ropewalk_status {
    ROPEWALK_OK = 0,         ///< done
    ROPEWALK_BAD_CALL = 1,   ///< an invalid field, or tensors or rows that do not fit; nothing was touched
    ROPEWALK_NO_UNIT = 2,    ///< not built, or not for this CPU
    ROPEWALK_NO_MEMORY = 3,  ///< nothing was made
    ROPEWALK_NOT_BUILT = 4   ///< this build cannot read configs: it was made without nlohmann-json
};
/// The type of the positions of ropewalk_rows.
enum ropewalk_position_type {
    ROPEWALK_POSITIONS_I32 = 1,  ///< int32_t
    ROPEWALK_POSITIONS_I64 = 2,  ///< int64_t
    ROPEWALK_POSITIONS_F32 = 3,  ///< float
    ROPEWALK_POSITIONS_F64 = 4   ///< double
};
/// In ropewalk_rows::batch_stride: every batch reads the entries of the first.
#define ROPEWALK_SAME_ROWS (-1)
/// In ropewalk_rows::dtype: nothing rotates; see ropewalk_no_rotation().
#define ROPEWALK_NO_ROTATION (-1)

/// The frequency of every pair; see ropewalk_make_spectrum().
typedef struct ropewalk_spectrum ropewalk_spectrum;
/// cos and sin of many positions; see ropewalk_make_table().
typedef struct ropewalk_table ropewalk_table;
/// The slots of a call's tokens in a cache; see ropewalk_make_plan().
typedef struct ropewalk_plan ropewalk_plan;
/// The rotary embedding of a model's layers; see ropewalk_read_config().
typedef struct ropewalk_model ropewalk_model;

/// A tensor of heads: [batches, tokens, heads, channels], strides in elements, channels adjacent. Heads that
/// are written must not overlap; strides may be negative.
typedef struct ropewalk_tensor {
    void* data;              ///< the first element
    ptrdiff_t heads;         ///< how many
    ptrdiff_t batch_stride;  ///< from a batch to the next
    ptrdiff_t token_stride;  ///< from a token to the next
    ptrdiff_t head_stride;   ///< from a head to the next
} ropewalk_tensor;

/// The angles of a call's tokens, from a table or computed on the fly. Token (b, n) reads entry first_token +
/// b * batch_stride + n of the array of indices or positions.
///
/// From a table: cos and sin [table_rows, table_heads, pairs] of double for data of ROPEWALK_F64 and of float
/// otherwise, the magnitude multiplied in. `dtype` says which they are, and a call whose data need the other
/// is refused; where it is 0, the library takes them for those that the data need. The entry of the index
/// array (at most one of the two arrays, with row_count entries; neither: the entry's own number) is a row
/// number. A token with a negative row is not touched. Every call, also one of several parts, first looks at
/// the row numbers of all its tokens: if the table does not have one of them, it touches nothing and returns
/// ROPEWALK_BAD_CALL.
///
/// On the fly, where `spectrum` is given: the entry is one of the row_count `positions`. cos and sin are
/// computed as needed, for at most 512 pairs; pairs and table_heads are those of the spectrum, and the other
/// fields of a table are not read. Begin with ropewalk_rows_on_the_fly().
///
/// By the rows of ropewalk_no_rotation() nothing rotates. Other rows without pairs, such as a struct of zeros
/// or the rows of a table that was not made, are refused where there are tokens.
typedef struct ropewalk_rows {
    const void* cos;                 ///< cosines
    const void* sin;                 ///< sines
    ptrdiff_t table_rows;            ///< rows of the table
    ptrdiff_t table_heads;           ///< 1: all heads share a row; else the heads of q and of k
    ptrdiff_t pairs;                 ///< channels that rotate / 2
    ptrdiff_t row_stride;            ///< elements from row to row, at least pairs
    ptrdiff_t head_stride;           ///< elements from head to head, at least pairs; unread with one head
    const int32_t* row_of_token;     ///< the row of each token, or NULL
    const int64_t* row_of_token_64;  ///< the same in 64 bits, or NULL
    ptrdiff_t row_count;             ///< entries of the index array, or tokens of positions
    ptrdiff_t first_token;           ///< the entry of the first token
    ptrdiff_t batch_stride;          ///< entries from a batch to the next; 0: tokens; or ROPEWALK_SAME_ROWS
    const ropewalk_spectrum* spectrum;  ///< NULL: from a table
    const void* positions;              ///< [row_count, axes], or [axes, row_count] where axes_first
    int32_t position_type;              ///< an enum ropewalk_position_type
    int32_t axes_first;                 ///< 0 or 1: the order of positions with several axes
    int32_t dtype;  ///< ROPEWALK_F32 or ROPEWALK_F64 of cos and sin; 0: not stated; or ROPEWALK_NO_ROTATION
} ropewalk_rows;

/// The rows of a call in which nothing rotates: keys that are cached as they are, a layer without positions.
static inline ropewalk_rows ropewalk_no_rotation(void) {
    ropewalk_rows rows;
    memset(&rows, 0, sizeof rows);
    rows.table_heads = 1;
    rows.dtype = ROPEWALK_NO_ROTATION;
    return rows;
}

#ifdef __cplusplus
}
#endif

#endif
