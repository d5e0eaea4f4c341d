// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// C calls that rotate: in place, out of place, and with the norm before the rotation.
#ifndef ROPEWALK_DISPATCH_C_ROTATE_H
#define ROPEWALK_DISPATCH_C_ROTATE_H

#include <ropewalk/dispatch/c_types.h>

// Calls on disjoint data may run at the same time; parts and part split one call over the caller's threads.

#ifdef __cplusplus
extern "C" {
#endif

/// A rotation in place. Begin with ropewalk_new_rotate_call().
typedef struct ropewalk_rotate_call {
    size_t size;              ///< sizeof(ropewalk_rotate_call): a later version may add fields at the end
    int32_t version;          ///< ROPEWALK_C_VERSION
    int32_t dtype;            ///< an enum ropewalk_dtype: of q
    int32_t k_dtype;          ///< of k; 0: as q. Both are ROPEWALK_F64 or neither is
    int32_t layout;           ///< an enum ropewalk_layout
    int32_t write_layout;     ///< of the results; 0: as layout. If different, at most 512 pairs
    int32_t direction;        ///< an enum ropewalk_direction; all but ROTATE read write_layout, write layout
    ptrdiff_t group;          ///< where layout is ROPEWALK_BLOCKED: channels of a group, even
    ptrdiff_t write_group;    ///< where write_layout is ROPEWALK_BLOCKED
    ptrdiff_t batches;        ///< of q and of k
    ptrdiff_t tokens;         ///< of a batch
    ptrdiff_t channels;       ///< of a head; 0: 2 * pairs, if any rotate
    ptrdiff_t first_channel;  ///< where the 2 * pairs channels that rotate begin
    ropewalk_tensor q;        ///< what is rotated
    ropewalk_tensor k;        ///< data NULL: q alone
    ropewalk_rows rows;       ///< by which angles
    ptrdiff_t parts;          ///< for the caller's threads: the number of parts of the work
    ptrdiff_t part;           ///< the part that this call does, from 0
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

/// Rotates in place. Returns an enum ropewalk_status.
int ropewalk_rotate(const ropewalk_rotate_call* call);
/// What ropewalk_rotate(call) would return, and the reason, such as "first_channel + 2 * pairs must be at
/// most the channels: wanted 64, got 128", or "fits". It does not access tensors, but reads all indices.
/// `text`, of `size` characters, may be NULL; a text that is too long is cut, and it always ends in 0.
int ropewalk_explain_rotate(const ropewalk_rotate_call* call, char* text, size_t size);

/// What ropewalk_rotate_into() does with numbers that do not rotate: channels outside the slice, tokens of a
/// negative row.
enum ropewalk_unrotated {
    ROPEWALK_LEAVE_UNROTATED = 0,  ///< the target keeps its contents
    ROPEWALK_COPY_UNROTATED = 1    ///< they are copied unchanged
};

/// A rotation out of place: into other memory, another type or another layout. Source and target are either
/// the same memory or do not overlap. Begin with ropewalk_new_into_call().
typedef struct ropewalk_into_call {
    size_t size;              ///< sizeof(ropewalk_into_call)
    int32_t version;          ///< ROPEWALK_C_VERSION
    int32_t from_dtype;       ///< an enum ropewalk_dtype: of what is read
    int32_t to_dtype;         ///< of what is written; 0: as from_dtype. Both are ROPEWALK_F64 or neither is
    int32_t layout;           ///< as in ropewalk_rotate_call
    int32_t write_layout;     ///< as in ropewalk_rotate_call
    int32_t direction;        ///< as in ropewalk_rotate_call
    int32_t unrotated;        ///< an enum ropewalk_unrotated
    int32_t reserved;         ///< 0
    ptrdiff_t group;          ///< as in ropewalk_rotate_call
    ptrdiff_t write_group;    ///< as in ropewalk_rotate_call
    ptrdiff_t batches;        ///< of both
    ptrdiff_t tokens;         ///< of a batch
    ptrdiff_t channels;       ///< of a head; 0: 2 * pairs, if any rotate
    ptrdiff_t first_channel;  ///< where the 2 * pairs channels that rotate begin
    ropewalk_tensor from;     ///< what is read; not written unless it is the target
    ropewalk_tensor to;       ///< what is written, of as many heads
    ropewalk_rows rows;       ///< by which angles
    ptrdiff_t parts;          ///< as in ropewalk_rotate_call
    ptrdiff_t part;           ///< as in ropewalk_rotate_call
} ropewalk_into_call;

/// A call of one batch and one part.
static inline ropewalk_into_call ropewalk_new_into_call(void) {
    ropewalk_into_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.version = ROPEWALK_C_VERSION;
    call.batches = 1;
    call.parts = 1;
    call.rows.table_heads = 1;
    return call;
}
/// Rotates out of place. Returns an enum ropewalk_status.
int ropewalk_rotate_into(const ropewalk_into_call* call);
/// As ropewalk_explain_rotate().
int ropewalk_explain_rotate_into(const ropewalk_into_call* call, char* text, size_t size);

/// The kind of norm: x / sqrt(mean(x^2) + eps), or the same after subtracting the mean.
enum ropewalk_norm_kind {
    ROPEWALK_NO_NORM = 0,    ///< none: the other fields of the norm are not read
    ROPEWALK_RMS_NORM = 1,   ///< RMSNorm
    ROPEWALK_LAYER_NORM = 2  ///< LayerNorm without bias
};
/// What the mean is taken over.
enum ropewalk_norm_extent {
    ROPEWALK_NORM_HEAD = 0,  ///< each head by itself
    ROPEWALK_NORM_TOKEN = 1  ///< all heads of a token together (OLMo 2)
};
/// The norm of queries or keys before the rotation: x <- norm(x) * weight * scale.
typedef struct ropewalk_norm {
    int32_t kind;        ///< an enum ropewalk_norm_kind
    int32_t extent;      ///< an enum ropewalk_norm_extent
    const void* weight;  ///< factors, [channels] or [heads, channels]: double for ROPEWALK_F64, else float
    ptrdiff_t weight_heads;  ///< 0: all heads share the weights of one
    double eps;              ///< > 0
    double scale;            ///< a further factor
} ropewalk_norm;

/// Norm and rotation in place, in one pass. Begin with ropewalk_new_normalize_call().
typedef struct ropewalk_normalize_call {
    size_t size;              ///< sizeof(ropewalk_normalize_call)
    int32_t version;          ///< ROPEWALK_C_VERSION
    int32_t dtype;            ///< an enum ropewalk_dtype: of q and k
    int32_t layout;           ///< as in ropewalk_rotate_call
    int32_t write_layout;     ///< as in ropewalk_rotate_call
    int32_t normalize_all;    ///< 1: tokens with a negative row are normalised too; 0: not touched
    int32_t reserved;         ///< 0
    ptrdiff_t group;          ///< as in ropewalk_rotate_call
    ptrdiff_t write_group;    ///< as in ropewalk_rotate_call
    ptrdiff_t batches;        ///< of q and of k
    ptrdiff_t tokens;         ///< of a batch
    ptrdiff_t channels;       ///< of a head; 0: 2 * pairs, if any. All are normalised
    ptrdiff_t first_channel;  ///< where the 2 * pairs channels that rotate begin
    ropewalk_tensor q;        ///< what is normalised and rotated
    ropewalk_tensor k;        ///< data NULL: q alone
    ropewalk_norm q_norm;     ///< of q; its kind is not ROPEWALK_NO_NORM
    ropewalk_norm k_norm;     ///< of k
    ropewalk_rows rows;       ///< by which angles
    ptrdiff_t parts;          ///< as in ropewalk_rotate_call
    ptrdiff_t part;           ///< as in ropewalk_rotate_call
} ropewalk_normalize_call;

/// A call of one batch and one part, with RMSNorm of each head, eps 1e-6 and no further factor.
static inline ropewalk_normalize_call ropewalk_new_normalize_call(void) {
    ropewalk_normalize_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.version = ROPEWALK_C_VERSION;
    call.batches = 1;
    call.parts = 1;
    call.rows.table_heads = 1;
    call.q_norm.kind = ROPEWALK_RMS_NORM;
    call.q_norm.eps = 1e-6;
    call.q_norm.scale = 1;
    call.k_norm = call.q_norm;
    return call;
}
/// Normalises and rotates in place. Returns an enum ropewalk_status.
int ropewalk_normalize_and_rotate(const ropewalk_normalize_call* call);
/// As ropewalk_explain_rotate().
int ropewalk_explain_normalize_and_rotate(const ropewalk_normalize_call* call, char* text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
