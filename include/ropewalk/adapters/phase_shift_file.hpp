// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads the modules of Phase Shift Calibration (PSC) from the safetensors files of the official code.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/adapters/phase_shift.hpp>
#include <ropewalk/models/safetensors.hpp>

namespace ROPEWALK_NAMESPACE::phase_shift {

/// The modules of queries and keys of a layer.
template <class W>
struct layer_modules {
    parameters<W> queries;  ///< q_phase, of the query heads
    parameters<W> keys;     ///< k_phase, of the key heads
};

/// The modules of a model, layer by layer, from a file of the official code (trainable_params.safetensors, or
/// the whole model): model.layers.N.self_attn.q_phase.up_phase and .down_phase, the same for k_phase, each of
/// [heads, head_dim, head_dim] in any real type. W is bf16 (the training type), f16, float or double. Tensors
/// with other names (LoRA's, the model's) are ignored.
/// Throws:   invalid_config naming the tensor: one of a layer's four missing, or a layer missing; a shape
///           that is not square blocks, or that differs from its counterpart or from layer 0; another name
///           with "phase"; numbers that are not finite or not real.
/// Cost:     O(file).
/// Source:   WNQzhu/PSC PSC_code/phase.py and lora_llama.py.
template <class W = bf16>
std::vector<layer_modules<W>> read_modules(const safetensors& file) {
    using detail::shown_name, detail::text;
    const auto wrong = [&](std::string_view name, const std::string& must, const std::string& got) {
        detail::fail("phase_shift::read_modules: " + file.called() + ": " + shown_name(name) + " must " +
                     must + ", got " + got);
    };
    const auto tensor_of = [](std::size_t layer, const char* of) {
        return "model.layers." + std::to_string(layer) + ".self_attn." + of;
    };
    const auto read = [&](const std::string& name, const std::vector<index>& extents) {
        auto numbers = file.numbers<W>(name, extents);
        for (const W v : numbers)
            if (const auto wide = static_cast<compute_t<W>>(v); !std::isfinite(wide))
                wrong(name, "hold finite numbers", text(wide));
        return numbers;
    };
    std::size_t found = 0;
    for (const auto& [name, tensor] : file.all())
        if (name.ends_with("_phase")) ++found;
    std::vector<layer_modules<W>> layers;
    std::vector<index> of_queries, of_keys;
    for (; file.contains(tensor_of(layers.size(), "q_phase.up_phase")); found -= found < 4 ? found : 4) {
        layer_modules<W> made;
        for (const bool queries : {true, false}) {
            const std::string stem = tensor_of(layers.size(), queries ? "q_phase." : "k_phase.");
            const auto& extents = file.at(stem + "up_phase").extents;
            if (extents.size() != 3 || extents[0] < 1 || extents[1] < 1 || extents[1] != extents[2])
                wrong(stem + "up_phase", "have shape [heads, head_dim, head_dim]",
                      detail::extents_text(extents));
            auto& first = queries ? of_queries : of_keys;
            if (first.empty()) first = extents;
            if (extents != first)
                wrong(stem + "up_phase", "have the shape of layer 0, " + detail::extents_text(first),
                      detail::extents_text(extents));
            (queries ? made.queries : made.keys) = parameters<W>{.heads = extents[0],
                                                                 .head_dim = extents[1],
                                                                 .up = read(stem + "up_phase", extents),
                                                                 .down = read(stem + "down_phase", extents)};
        }
        if (made.queries.head_dim != made.keys.head_dim || made.queries.heads % made.keys.heads != 0)
            wrong(tensor_of(layers.size(), "k_phase.up_phase"),
                  "have the queries' head_dim and a divisor of their heads, " +
                      detail::extents_text(of_queries),
                  detail::extents_text(of_keys));
        layers.push_back(std::move(made));
    }
    if (layers.empty()) file.at(tensor_of(0, "q_phase.up_phase"));  // throws that it is missing
    if (found != 0)
        for (const auto& [name, tensor] : file.all()) {
            bool known = !name.ends_with("_phase");
            for (std::size_t l = 0; l < layers.size() && !known; ++l)
                for (const char* of :
                     {"q_phase.up_phase", "q_phase.down_phase", "k_phase.up_phase", "k_phase.down_phase"})
                    known = known || name == tensor_of(l, of);
            if (!known)
                wrong(name, "be one of the four of a layer, layers counted from 0",
                      "a phase of another name");
        }
    return layers;
}

}  // namespace ROPEWALK_NAMESPACE::phase_shift
