// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The functions of ropewalk.h that make and read, as visible as the target that holds them wants.
#include "unit.hpp"

ROPEWALK_DETAIL_API int ropewalk_make_spectrum(const ropewalk_spectrum_options* options,
                                               ropewalk_spectrum** spectrum, char* text, size_t size) {
    return ROPEWALK_DETAIL_HANDLES.make_spectrum(options, spectrum, text, size);
}
ROPEWALK_DETAIL_API void ropewalk_free_spectrum(ropewalk_spectrum* spectrum) {
    ROPEWALK_DETAIL_HANDLES.free_spectrum(spectrum);
}
ROPEWALK_DETAIL_API int ropewalk_get_spectrum_info(const ropewalk_spectrum* spectrum,
                                                   ropewalk_spectrum_info* info) {
    return ROPEWALK_DETAIL_HANDLES.spectrum_info(spectrum, info);
}
ROPEWALK_DETAIL_API ptrdiff_t ropewalk_get_frequencies(const ropewalk_spectrum* spectrum, double* frequencies,
                                                       ptrdiff_t count) {
    return ROPEWALK_DETAIL_HANDLES.frequencies(spectrum, frequencies, count);
}
ROPEWALK_DETAIL_API int ropewalk_make_table(const ropewalk_table_options* options, ropewalk_table** table,
                                            char* text, size_t size) {
    return ROPEWALK_DETAIL_HANDLES.make_table(options, table, text, size);
}
ROPEWALK_DETAIL_API void ropewalk_free_table(ropewalk_table* table) {
    ROPEWALK_DETAIL_HANDLES.free_table(table);
}
ROPEWALK_DETAIL_API ropewalk_rows ropewalk_table_rows(const ropewalk_table* table) {
    return ROPEWALK_DETAIL_HANDLES.table_rows(table);
}
ROPEWALK_DETAIL_API int ropewalk_fill_slots(const ropewalk_ragged* batch, int64_t* slots, int64_t* positions,
                                            ptrdiff_t tokens, char* text, size_t size) {
    return ROPEWALK_DETAIL_PLANS.fill_slots(batch, slots, positions, tokens, text, size);
}
ROPEWALK_DETAIL_API int ropewalk_make_plan(const ropewalk_attention_call* call, const int64_t* slots,
                                           ptrdiff_t count, ropewalk_plan** plan, char* text, size_t size) {
    return ROPEWALK_DETAIL_PLANS.make_plan(call, slots, count, plan, text, size);
}
ROPEWALK_DETAIL_API int ropewalk_make_shift_plan(const ropewalk_shift_call* call, const int64_t* slots,
                                                 ptrdiff_t count, ropewalk_plan** plan, char* text,
                                                 size_t size) {
    return ROPEWALK_DETAIL_PLANS.make_shift_plan(call, slots, count, plan, text, size);
}
ROPEWALK_DETAIL_API void ropewalk_free_plan(ropewalk_plan* plan) { ROPEWALK_DETAIL_PLANS.free_plan(plan); }
ROPEWALK_DETAIL_API int ropewalk_read_config(const char* config, size_t length, int strictness,
                                             ropewalk_model** model, char* text, size_t size) {
    return ROPEWALK_DETAIL_MODELS.read_config(config, length, strictness, model, text, size);
}
ROPEWALK_DETAIL_API int ropewalk_read_gguf(const void* bytes, size_t length, int strictness,
                                           ropewalk_model** model, char* text, size_t size) {
    return ROPEWALK_DETAIL_MODELS.read_gguf(bytes, length, strictness, model, text, size);
}
ROPEWALK_DETAIL_API void ropewalk_free_model(ropewalk_model* model) {
    ROPEWALK_DETAIL_MODELS.free_model(model);
}
ROPEWALK_DETAIL_API ptrdiff_t ropewalk_layers(const ropewalk_model* model) {
    return ROPEWALK_DETAIL_MODELS.layers(model);
}
ROPEWALK_DETAIL_API int ropewalk_get_layer(const ropewalk_model* model, ptrdiff_t number,
                                           ropewalk_layer* layer) {
    return ROPEWALK_DETAIL_MODELS.get_layer(model, number, layer);
}
ROPEWALK_DETAIL_API int ropewalk_describe_layer(const ropewalk_model* model, ptrdiff_t number, char* text,
                                                size_t size, size_t* needed) {
    return ROPEWALK_DETAIL_MODELS.describe_layer(model, number, text, size, needed);
}
ROPEWALK_DETAIL_API int ropewalk_make_layer_spectrum(const ropewalk_model* model, ptrdiff_t number,
                                                     int64_t context_length, ropewalk_spectrum** spectrum,
                                                     char* text, size_t size) {
    return ROPEWALK_DETAIL_MODELS.make_layer_spectrum(model, number, context_length, spectrum, text, size);
}
ROPEWALK_DETAIL_API ropewalk_rows ropewalk_rows_on_the_fly(const ropewalk_spectrum* spectrum,
                                                           const int32_t* positions, ptrdiff_t tokens) {
    ropewalk_spectrum_info info = ropewalk_new_spectrum_info();  // without a spectrum, no pairs
    if (spectrum != nullptr) ropewalk_get_spectrum_info(spectrum, &info);
    ropewalk_rows rows{};
    rows.spectrum = spectrum;
    rows.pairs = info.pairs;
    rows.table_heads = info.heads;
    rows.positions = positions;
    rows.position_type = ROPEWALK_POSITIONS_I32;
    rows.row_count = tokens;
    return rows;
}
