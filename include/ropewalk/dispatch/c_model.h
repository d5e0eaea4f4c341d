// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// C calls that read a model's rotary embedding from config.json or GGUF, layer by layer.
#ifndef ROPEWALK_DISPATCH_C_MODEL_H
#define ROPEWALK_DISPATCH_C_MODEL_H

#include <ropewalk/dispatch/c_types.h>

// In a build without nlohmann-json these calls return ROPEWALK_NOT_BUILT. A model never changes: any number
// of threads may use it.

#ifdef __cplusplus
extern "C" {
#endif

/// How a config is read.
enum ropewalk_strictness {
    ROPEWALK_STRICT = 0,  ///< a key that would be ignored is an error that names it
    ROPEWALK_LENIENT = 1  ///< defaults are used, and rotary keys without effect are ignored
};

/// Reads `length` bytes of a Hugging Face config.json. On success *model is to be freed by
/// ropewalk_free_model(); else it is NULL and `text`, of `size` characters or NULL, names the key. Returns an
/// enum ropewalk_status.
int ropewalk_read_config(const char* config, size_t length, int strictness, ropewalk_model** model,
                         char* text, size_t size);
/// Reads the first `length` bytes of a GGUF file: all of its keys, and its rotary tensors, which must be
/// within them. Otherwise as ropewalk_read_config().
int ropewalk_read_gguf(const void* bytes, size_t length, int strictness, ropewalk_model** model, char* text,
                       size_t size);
void ropewalk_free_model(ropewalk_model* model);

/// What one layer does to its queries and keys.
typedef struct ropewalk_layer {
    size_t size;                ///< sizeof(ropewalk_layer)
    int32_t version;            ///< ROPEWALK_C_VERSION
    int32_t rotates;            ///< 0: a layer without positions (NoPE): its rows are ropewalk_no_rotation()
    int32_t layout;             ///< an enum ropewalk_layout
    int32_t write_layout;       ///< differs from layout where the model rearranges channels
    int32_t depends_on_length;  ///< 1: its frequencies change with the context length
    int32_t kind;               ///< equal in layers that share their frequencies, from 0
    ptrdiff_t group;            ///< where layout is ROPEWALK_BLOCKED
    ptrdiff_t write_group;      ///< where write_layout is ROPEWALK_BLOCKED
    ptrdiff_t head_dim;         ///< channels of a head
    ptrdiff_t first_channel;    ///< where those that rotate begin
    ptrdiff_t rotary_dim;       ///< how many rotate
    double logit_scale;         ///< a factor on q.k besides 1 / sqrt(head_dim)
    int64_t original_context;   ///< the length the model was trained at; 0: unknown
    int64_t max_context;        ///< its longest context; 0: unknown
} ropewalk_layer;
/// To be filled in by ropewalk_get_layer().
static inline ropewalk_layer ropewalk_new_layer(void) {
    ropewalk_layer layer;
    memset(&layer, 0, sizeof layer);
    layer.size = sizeof layer;
    layer.version = ROPEWALK_C_VERSION;
    return layer;
}

/// Layers of the model; 0 where it is NULL.
ptrdiff_t ropewalk_layers(const ropewalk_model* model);
/// What a layer does. ROPEWALK_BAD_CALL where there is no such layer, or `layer` is of another version.
int ropewalk_get_layer(const ropewalk_model* model, ptrdiff_t number, ropewalk_layer* layer);
/// A description of a layer with frequencies and wavelengths. A `text` that is too small gets its beginning;
/// *needed, which may be NULL, is set to the size required.
int ropewalk_describe_layer(const ropewalk_model* model, ptrdiff_t number, char* text, size_t size,
                            size_t* needed);
/// The frequencies of a layer at a context length >= 1; without pairs where it does not rotate. Otherwise as
/// ropewalk_make_spectrum().
int ropewalk_make_layer_spectrum(const ropewalk_model* model, ptrdiff_t number, int64_t context_length,
                                 ropewalk_spectrum** spectrum, char* text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
