// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Models of the C interface, read from their configs.
#include "cold.hpp"

#include <ropewalk/models/explain.hpp>
#include <ropewalk/models/gguf.hpp>
#include <ropewalk/models/gguf_file.hpp>

#if __has_include(<nlohmann/json.hpp>)
#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#define ROPEWALK_DISPATCH_READS_JSON 1
#endif

#include <span>
#include <string>
#include <string_view>

struct ropewalk_model {
    ropewalk::model_schemes schemes;
};

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

using detail::require;

strictness strictness_of(const char* who, int given) {
    require(given == ROPEWALK_STRICT || given == ROPEWALK_LENIENT, who,
            "strictness must be an enum ropewalk_strictness", given);
    return given == ROPEWALK_STRICT ? strictness::strict : strictness::lenient;
}

[[maybe_unused]] int read_config(const char* config, std::size_t length, int how, ropewalk_model** model,
                                 char* text, std::size_t size) {
#if defined(ROPEWALK_DISPATCH_READS_JSON)
    return made(model, text, size, [&] {
        constexpr const char* who = "ropewalk_read_config";
        require(config != nullptr || length == 0, who, "config must not be null", 0);
        huggingface_reading reading;
        reading.keys = strictness_of(who, how);
        const auto json = parse_config(std::string_view(config != nullptr ? config : "", length));
        return new ropewalk_model{make_model_schemes(from_huggingface(json, reading))};
    });
#else
    static_cast<void>(config), static_cast<void>(length), static_cast<void>(how);
    if (model != nullptr) *model = nullptr;
    return said("this build was made without nlohmann-json", text, size, ROPEWALK_NOT_BUILT);
#endif
}
int read_gguf_bytes(const void* bytes, std::size_t length, int how, ropewalk_model** model, char* text,
                    std::size_t size) {
    return made(model, text, size, [&] {
        constexpr const char* who = "ropewalk_read_gguf";
        require(bytes != nullptr || length == 0, who, "bytes must not be null", 0);
        const auto file = read_gguf(std::span(static_cast<const std::byte*>(bytes), length));
        return new ropewalk_model{
            make_model_schemes(from_gguf(file.metadata, gguf_reading{.keys = strictness_of(who, how)}))};
    });
}
void free_model(ropewalk_model* model) { delete model; }

ptrdiff_t layers(const ropewalk_model* model) { return model != nullptr ? model->schemes.layers() : 0; }

const rotary_scheme* scheme_of(const ropewalk_model* model, ptrdiff_t number) {
    return number >= 0 && number < layers(model) ? &model->schemes[number] : nullptr;
}
const rotary_scheme& needed_scheme(const char* who, const ropewalk_model* model, ptrdiff_t number) {
    const rotary_scheme* s = scheme_of(model, number);
    require(s != nullptr, who, "number must be that of a layer of a model", number);
    return *s;
}
int get_layer(const ropewalk_model* model, ptrdiff_t number, ropewalk_layer* layer) {
    const rotary_scheme* s = scheme_of(model, number);
    const misfit r = check_struct(layer, "layer must not be null", "size must be sizeof(ropewalk_layer)");
    if (!r.ok()) return status_of(r);
    if (s == nullptr)
        return status_of(
            misfit{"number must be that of a layer of a model, last", layers(model) - 1, number});
    const auto number_of = [](pair_layout l) {
        return static_cast<std::int32_t>(l.kind) + ROPEWALK_HALF_SPLIT;
    };
    layer->rotates = s->rotates;
    layer->layout = number_of(s->read_layout);
    layer->write_layout = number_of(s->write_layout);
    layer->depends_on_length = s->length_dependent;
    layer->kind = model->schemes.scheme_of(number);
    layer->group = s->read_layout.group;
    layer->write_group = s->write_layout.group;
    layer->head_dim = s->head_dim;
    layer->first_channel = s->first_channel;
    layer->rotary_dim = s->rotary_dim;
    layer->logit_scale = s->logit_scale;
    layer->original_context = s->original_context;
    layer->max_context = s->max_context;
    return ROPEWALK_OK;
}

int describe_layer(const ropewalk_model* model, ptrdiff_t number, char* text, std::size_t size,
                   std::size_t* needed) {
    std::string words;
    char refusal[200];
    const int status = answered(refusal, sizeof refusal, [&] {
        words = explain(needed_scheme("ropewalk_describe_layer", model, number));
    });
    if (needed != nullptr)
        *needed = status == ROPEWALK_OK ? words.size() + 1 : std::string_view(refusal).size() + 1;
    return said(status == ROPEWALK_OK ? words.c_str() : refusal, text, size, status);
}
int make_layer_spectrum(const ropewalk_model* model, ptrdiff_t number, std::int64_t context_length,
                        ropewalk_spectrum** out, char* text, std::size_t size) {
    return made(out, text, size, [&] {
        const rotary_scheme& s = needed_scheme("ropewalk_make_layer_spectrum", model, number);
        return new ropewalk_spectrum{s.spectrum_for(context_length)};
    });
}

}  // namespace

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit

namespace own = ropewalk::dispatch_unit;
extern "C" const ropewalk_detail_models ROPEWALK_DETAIL_MODELS = {
    &own::read_config, &own::read_gguf_bytes, &own::free_model,         &own::layers,
    &own::get_layer,   &own::describe_layer,  &own::make_layer_spectrum};
