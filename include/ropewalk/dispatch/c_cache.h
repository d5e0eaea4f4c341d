// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// C calls on key and value caches: append, prepare attention and shift keys, contiguous or paged.
#ifndef ROPEWALK_DISPATCH_C_CACHE_H
#define ROPEWALK_DISPATCH_C_CACHE_H

#include <ropewalk/dispatch/c_rotate.h>

// A plan is made once the shapes are known; the calls of every layer then use it. A plan never changes: any
// number of threads may use it.

#ifdef __cplusplus
extern "C" {
#endif

/// Requests of different lengths with consecutive tokens, and their pages.
typedef struct ropewalk_ragged {
    size_t size;                  ///< sizeof(ropewalk_ragged)
    int32_t version;              ///< ROPEWALK_C_VERSION
    int32_t reserved;             ///< 0
    ptrdiff_t requests;           ///< how many
    const int64_t* offsets;       ///< [requests + 1]: the first token of each, and the end
    const int64_t* starts;        ///< [requests]: the position of the first of these tokens
    const int32_t* pages;         ///< [requests, pages_per_request]; NULL: request r has page r alone
    ptrdiff_t pages_per_request;  ///< unread without pages
    ptrdiff_t page_tokens;        ///< tokens a page holds
} ropewalk_ragged;
/// No requests.
static inline ropewalk_ragged ropewalk_new_ragged(void) {
    ropewalk_ragged batch;
    memset(&batch, 0, sizeof batch);
    batch.size = sizeof batch;
    batch.version = ROPEWALK_C_VERSION;
    return batch;
}
/// The slot (page * page_tokens + token in the page) and the position of every token; each array has `tokens`
/// entries or is NULL. `tokens` is offsets[requests]. On an error nothing is written, and `text` gives the
/// reason. Returns an enum ropewalk_status.
int ropewalk_fill_slots(const ropewalk_ragged* batch, int64_t* slots, int64_t* positions, ptrdiff_t tokens,
                        char* text, size_t size);

/// A cache of keys or of values, [pages, page_tokens, heads, channels] in any order. Strides are in elements,
/// or in blocks for block types; the channels of a head are adjacent.
typedef struct ropewalk_cache {
    void* data;                    ///< NULL: none
    ptrdiff_t page_stride;         ///< from a page to the next
    ptrdiff_t token_stride;        ///< from a token of a page to the next
    ptrdiff_t head_stride;         ///< from a head to the next
    float* scales;                 ///< ROPEWALK_INT8: one per token and head, written by the call; else NULL
    ptrdiff_t scale_page_stride;   ///< of scales
    ptrdiff_t scale_token_stride;  ///< of scales
    ptrdiff_t scale_head_stride;   ///< of scales
    double scale;                  ///< ROPEWALK_F8_*: number = code * scale; a float > 0
} ropewalk_cache;

/// New queries, keys and values before attention. ropewalk_append() uses keys and values only,
/// ropewalk_prepare_attention() all of them. Begin with ropewalk_new_attention_call().
typedef struct ropewalk_attention_call {
    size_t size;                 ///< sizeof(ropewalk_attention_call)
    int32_t version;             ///< ROPEWALK_C_VERSION
    int32_t dtype;               ///< an enum ropewalk_dtype: of q, q_out, key and value, up to ROPEWALK_BF16
    int32_t cache_dtype;         ///< of both caches: dtype, or any but ROPEWALK_F64 for data that are not
    int32_t layout;              ///< as in ropewalk_rotate_call
    int32_t write_layout;        ///< as in ropewalk_rotate_call: of q_out and of cached keys
    int32_t reserved;            ///< 0
    ptrdiff_t group;             ///< as in ropewalk_rotate_call
    ptrdiff_t write_group;       ///< as in ropewalk_rotate_call
    ptrdiff_t batches;           ///< of all tensors
    ptrdiff_t tokens;            ///< of a batch
    ptrdiff_t channels;          ///< of a head of q and key
    ptrdiff_t value_channels;    ///< of a head of value; 0: as channels
    ptrdiff_t first_channel;     ///< where the 2 * pairs channels that rotate begin
    ropewalk_tensor q;           ///< data NULL: none
    ropewalk_tensor q_out;       ///< rotated queries: q itself, or memory that does not overlap it
    ropewalk_tensor key;         ///< data NULL: none
    ropewalk_tensor value;       ///< data NULL: none
    ropewalk_norm q_norm;        ///< of queries
    ropewalk_norm k_norm;        ///< of keys
    ropewalk_cache key_cache;    ///< for rotated keys
    ropewalk_cache value_cache;  ///< for values
    ptrdiff_t pages;             ///< of both caches
    ptrdiff_t page_tokens;       ///< tokens a page holds
    ropewalk_rows rows;          ///< by which angles; unread where a plan is made
    const ropewalk_plan* plan;   ///< for a call of these shapes; not read where a plan is made
    ptrdiff_t parts;             ///< as in ropewalk_rotate_call
    ptrdiff_t part;              ///< as in ropewalk_rotate_call
} ropewalk_attention_call;

/// A call of one batch and one part, without norms.
static inline ropewalk_attention_call ropewalk_new_attention_call(void) {
    ropewalk_attention_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.version = ROPEWALK_C_VERSION;
    call.batches = 1;
    call.parts = 1;
    call.rows.table_heads = 1;
    call.q_norm.eps = 1e-6;
    call.q_norm.scale = 1;
    call.k_norm = call.q_norm;
    call.key_cache.scale = 1;
    call.value_cache.scale = 1;
    return call;
}

/// Checks the shapes of a call once and stores the slots of its tokens: slots [batches * tokens], where a
/// negative one skips the token. It refuses slots outside the cache or used twice, strides under which rows
/// overlap, and keys, values, caches and scales that overlap. The plan is valid for calls that differ from
/// this one only in pointers, rows and norms. On success *plan is to be freed by ropewalk_free_plan().
int ropewalk_make_plan(const ropewalk_attention_call* call, const int64_t* slots, ptrdiff_t count,
                       ropewalk_plan** plan, char* text, size_t size);
void ropewalk_free_plan(ropewalk_plan* plan);

/// Rotates new keys into their cache, in its format, and copies the values beside them. By the rows of
/// ropewalk_no_rotation() keys are cached as they are; a call with values alone has those too, or rows of
/// its tokens. A token with a negative slot or row is not touched. Returns an enum ropewalk_status.
int ropewalk_append(const ropewalk_attention_call* call);
/// Prepares attention in one pass: queries are normalised and rotated into q_out; keys are normalised,
/// rotated and appended; values are appended. A token with a negative row is not touched; for a token with a
/// negative slot only the query is prepared. Returns an enum ropewalk_status.
int ropewalk_prepare_attention(const ropewalk_attention_call* call);
/// As ropewalk_explain_rotate().
int ropewalk_explain_append(const ropewalk_attention_call* call, char* text, size_t size);
/// As ropewalk_explain_rotate().
int ropewalk_explain_prepare_attention(const ropewalk_attention_call* call, char* text, size_t size);

/// A rotation of cached keys: a context shift, or a change of frequencies (see ropewalk_table_options). Begin
/// with ropewalk_new_shift_call().
typedef struct ropewalk_shift_call {
    size_t size;                ///< sizeof(ropewalk_shift_call)
    int32_t version;            ///< ROPEWALK_C_VERSION
    int32_t dtype;              ///< an enum ropewalk_dtype: of the cache
    int32_t layout;             ///< an enum ropewalk_layout: of the cached keys
    int32_t reserved;           ///< 0
    ptrdiff_t group;            ///< where layout is ROPEWALK_BLOCKED
    ptrdiff_t heads;            ///< of the cache
    ptrdiff_t channels;         ///< of a head
    ptrdiff_t first_channel;    ///< where the 2 * pairs channels that rotate begin
    ropewalk_cache keys;        ///< rotated in place
    ptrdiff_t pages;            ///< of the cache
    ptrdiff_t page_tokens;      ///< tokens a page holds
    ropewalk_rows rows;         ///< one row per slot of the plan
    const ropewalk_plan* plan;  ///< from ropewalk_make_shift_plan() for a cache of these shapes
    ptrdiff_t parts;            ///< as in ropewalk_rotate_call
    ptrdiff_t part;             ///< as in ropewalk_rotate_call
} ropewalk_shift_call;

/// A call of one part.
static inline ropewalk_shift_call ropewalk_new_shift_call(void) {
    ropewalk_shift_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.version = ROPEWALK_C_VERSION;
    call.parts = 1;
    call.rows.table_heads = 1;
    call.keys.scale = 1;
    return call;
}
/// The plan of the slots that move; as ropewalk_make_plan().
int ropewalk_make_shift_plan(const ropewalk_shift_call* call, const int64_t* slots, ptrdiff_t count,
                             ropewalk_plan** plan, char* text, size_t size);
/// Rotates cached keys in place. Returns an enum ropewalk_status.
int ropewalk_shift_keys(const ropewalk_shift_call* call);
/// As ropewalk_explain_rotate().
int ropewalk_explain_shift_keys(const ropewalk_shift_call* call, char* text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
