// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#ifndef ROPEWALK_H
#define ROPEWALK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Rotation for C, and for programs that ship one binary to many CPUs: plain calls, carried out by the widest
// of the units that ropewalk_add_dispatch() compiled and this CPU has. C11 and C++20 alike. No call throws,
// ends the program or starts a thread, and none but ropewalk_make_table() allocates.

/// What this header understands: the `version` of every struct.
#define ROPEWALK_C_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/// What an element is.
enum ropewalk_dtype {
    ROPEWALK_F64 = 1,  ///< double
    ROPEWALK_F32 = 2,  ///< float
    ROPEWALK_F16 = 3,  ///< IEEE binary16
    ROPEWALK_BF16 = 4  ///< the upper half of a float
};
/// Which channels are pair i.
enum ropewalk_layout {
    ROPEWALK_HALF_SPLIT = 1,   ///< i and i + pairs
    ROPEWALK_INTERLEAVED = 2,  ///< 2 i and 2 i + 1
    ROPEWALK_BLOCKED = 3       ///< half-split inside groups of `group` channels
};
/// In which direction.
enum ropewalk_direction {
    ROPEWALK_ROTATE = 0,    ///< forward
    ROPEWALK_UNROTATE = 1,  ///< the inverse: also divides by the squared magnitude of every pair's row
    ROPEWALK_GRADIENT = 2   ///< the transpose
};
/// What came of a call; ropewalk_status_text() has it in words.
enum ropewalk_status {
    ROPEWALK_OK = 0,  ///< done
    ROPEWALK_BAD_CALL =
        1,  ///< a field that cannot be, or tensors that do not fit the rows; nothing was touched
    ROPEWALK_NO_UNIT = 2,   ///< not built, or not for this CPU
    ROPEWALK_NO_MEMORY = 3  ///< nothing was made
};
/// In ropewalk_rows::batch_stride: every batch reads the entries of the first.
#define ROPEWALK_SAME_ROWS (-1)

/// Queries or keys: [batches, tokens, heads, channels], strides in elements, channels adjacent. Heads do not
/// share channels; strides may be negative.
typedef struct ropewalk_tensor {
    void* data;              ///< the first element
    ptrdiff_t heads;         ///< how many
    ptrdiff_t batch_stride;  ///< from a batch to the next
    ptrdiff_t token_stride;  ///< from a token to the next
    ptrdiff_t head_stride;   ///< from a head to the next
} ropewalk_tensor;

/// cos and sin [table_rows, table_heads, pairs] of double for ROPEWALK_F64 and of float otherwise, the
/// magnitude multiplied in. Token (b, n) reads the row that entry first_token + b * batch_stride + n of the
/// index array names (at most one of the two arrays, of row_count entries; neither: the entry's own number).
/// A negative row leaves the token alone. So does one that the table does not have, and the call says
/// ROPEWALK_BAD_CALL when the other tokens are done.
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
    ptrdiff_t row_count;             ///< entries of the index array; unread without one
    ptrdiff_t first_token;           ///< the entry of the first token
    ptrdiff_t batch_stride;          ///< entries from a batch to the next; 0: tokens; or ROPEWALK_SAME_ROWS
} ropewalk_rows;

/// One call: what is rotated, by which rows, in which direction. Begin with ropewalk_new_rotate_call().
typedef struct ropewalk_rotate_call {
    size_t size;              ///< sizeof(ropewalk_rotate_call): a later version may add fields at the end
    int32_t version;          ///< ROPEWALK_C_VERSION
    int32_t dtype;            ///< an enum ropewalk_dtype: of q
    int32_t k_dtype;          ///< of k; 0: as q. Both are ROPEWALK_F64 or neither is
    int32_t layout;           ///< an enum ropewalk_layout
    int32_t write_layout;     ///< of the results; 0: as layout. Another one takes at most 512 pairs
    int32_t direction;        ///< an enum ropewalk_direction; the others read write_layout and write layout
    ptrdiff_t group;          ///< where layout is ROPEWALK_BLOCKED: channels of a group, even
    ptrdiff_t write_group;    ///< where write_layout is ROPEWALK_BLOCKED
    ptrdiff_t batches;        ///< of q and of k
    ptrdiff_t tokens;         ///< of a batch
    ptrdiff_t channels;       ///< of a head; 0: 2 * pairs
    ptrdiff_t first_channel;  ///< where the 2 * pairs channels that rotate begin
    ropewalk_tensor q;        ///< what is rotated
    ropewalk_tensor k;        ///< data NULL: q alone
    ropewalk_rows rows;       ///< by which angles
    ptrdiff_t parts;          ///< for a caller's own threads: into how many parts the work is cut
    ptrdiff_t part;           ///< which of them this call does, from 0
} ropewalk_rotate_call;

/// A call of one batch and one part; the tensors, their dtype, layout and the rows are to be filled in.
static inline ropewalk_rotate_call ropewalk_new_rotate_call(void) {
    ropewalk_rotate_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.version = ROPEWALK_C_VERSION;
    call.batches = 1;
    call.parts = 1;
    call.rows.table_heads = 1;
    return call;
}

/// Rotates in place. Calls on disjoint data may run side by side. Returns an enum ropewalk_status.
int ropewalk_rotate(const ropewalk_rotate_call* call);

/// What ropewalk_rotate(call) would return, and why: "channels must be twice the pairs of the rows: wanted
/// 128, got 64", or "fits". Touches no tensor and reads all indices. `text`, of `size` characters, may be
/// NULL; it is cut where it does not suffice, and always ends in 0.
int ropewalk_explain_rotate(const ropewalk_rotate_call* call, char* text, size_t size);

/// Frequencies that a model names by a few numbers; the numbers a rule does not use are not read.
enum ropewalk_scaling {
    ROPEWALK_UNSCALED = 0,          ///< base^(-2 i / rotary_dim)
    ROPEWALK_LINEAR = 1,            ///< those, divided by factor
    ROPEWALK_LLAMA3 = 2,            ///< factor, original_context, low_freq_factor, high_freq_factor
    ROPEWALK_YARN = 3,              ///< factor, original_context, beta_fast, beta_slow, attention_factor
    ROPEWALK_GIVEN_FREQUENCIES = 4  ///< frequencies
};

/// What a table is made of. Begin with ropewalk_new_table_options().
typedef struct ropewalk_table_options {
    size_t size;                ///< sizeof(ropewalk_table_options)
    int32_t version;            ///< ROPEWALK_C_VERSION
    int32_t dtype;              ///< of cos and sin: ROPEWALK_F64 for data of f64, ROPEWALK_F32 for all others
    int32_t scaling;            ///< an enum ropewalk_scaling
    int32_t reserved;           ///< 0
    ptrdiff_t rotary_dim;       ///< channels that rotate, even, at most 65536
    double base;                ///< rope_theta
    double factor;              ///< the context extension
    double original_context;    ///< the length the model was trained at
    double low_freq_factor;     ///< Llama 3.1
    double high_freq_factor;    ///< Llama 3.1
    double beta_fast;           ///< YaRN
    double beta_slow;           ///< YaRN
    double attention_factor;    ///< YaRN's magnitude; 0: 0.1 ln(factor) + 1
    const double* frequencies;  ///< rotary_dim / 2 numbers in radians a position, or NULL
    double magnitude;           ///< a further factor on cos and sin
    ptrdiff_t rows;             ///< rows of the table, at most 2^31 - 1
    ptrdiff_t axes;             ///< of a position, at most 16
    const int32_t* axis_of_pair;  ///< which axis each of the rotary_dim / 2 pairs reads; NULL with one axis
    const double* positions;      ///< [rows, axes]; NULL: row r is position r on every axis
} ropewalk_table_options;

/// Unscaled, base 10000, YaRN's betas 32 and 1, Llama 3.1's factors 1 and 4, f32, one axis; rotary_dim and
/// rows are to be filled in.
static inline ropewalk_table_options ropewalk_new_table_options(void) {
    ropewalk_table_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.version = ROPEWALK_C_VERSION;
    options.dtype = ROPEWALK_F32;
    options.base = 10000;
    options.factor = 1;
    options.low_freq_factor = 1;
    options.high_freq_factor = 4;
    options.beta_fast = 32;
    options.beta_slow = 1;
    options.magnitude = 1;
    options.axes = 1;
    return options;
}

/// cos and sin of many positions, as accurate at position 10^6 as at 0.
typedef struct ropewalk_table ropewalk_table;

/// Makes a table: the one kind of call here that allocates. On success *table is to be freed by
/// ropewalk_free_table(); else it is NULL and `text`, of `size` characters or NULL, says which parameter was
/// refused. Returns an enum ropewalk_status.
int ropewalk_make_table(const ropewalk_table_options* options, ropewalk_table** table, char* text,
                        size_t size);
void ropewalk_free_table(ropewalk_table* table);
/// The rows of the table for ropewalk_rotate_call::rows, valid until it is freed; without an index array,
/// token n reads row n. Any number of threads may use them. No rows where table is NULL.
ropewalk_rows ropewalk_table_rows(const ropewalk_table* table);

/// An enum ropewalk_status in words.
const char* ropewalk_status_text(int status);

/// The unit in use, for example "avx2_fma_f16c". The first call of any function chooses it: the widest
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
