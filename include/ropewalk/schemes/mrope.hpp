// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Multimodal rotary schemes (scheme plus position rule), and M-RoPE of the Qwen-VL models.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/positions/mrope.hpp>
#include <ropewalk/positions/tmrope.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// A multimodal scheme: the rotation of queries and keys over several axes, and the rule that gives tokens
/// their positions.
///
///     const auto scheme = video_rope::over(text, {});
///     const auto prompt = positions::make_stream(scheme.rule, segments);
///     const auto table = make_factored_table(scheme.rope.spectrum_for(length), prompt.positions);
///     rotate(scheme.rope, q, k, table);
template <positions::position_rule Rule>
struct stream_scheme {
    rotary_scheme rope;  ///< the scheme that rotates queries and keys
    Rule rule;           ///< the positions of the tokens of a stream
};

/// A copy of a scheme with every spectrum changed by `change`. The context scaling, its dependence on the
/// length and the channels that rotate stay those of the text model.
/// Throws:   whatever `change` throws on the spectrum of length 1, so that bad sections are refused here.
inline rotary_scheme with_frequencies(const rotary_scheme& text, std::string name,
                                      std::function<spectrum(const spectrum&)> change) {
    rotary_scheme s = text;
    s.name = std::move(name);
    if (!text.rotates) return s;
    const spectrum first = change(text.spectrum_for(1));
    if (text.length_dependent) {
        s.frequencies = [of_text = text.frequencies, change = std::move(change)](std::int64_t length) {
            return change(of_text(length));
        };
    } else {
        s.frequencies = [first](std::int64_t) { return first; };
    }
    return s;
}

/// M-RoPE of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen2.5-Omni over a text model.
/// Source: Qwen2-VL, Wang et al. 2024; huggingface/transformers models/qwen2_vl, qwen2_5_vl, qwen3_vl.
namespace mrope {

/// How the sections are assigned to the pairs: one contiguous run per axis (Qwen2-VL, Qwen2.5-VL), or
/// interleaved over all frequencies (Qwen3-VL).
enum class section_map : std::uint8_t { contiguous, interleaved };

/// The numbers of pairs of t, h and w that models of each map were trained with: 16, 24, 24 for Qwen2-VL,
/// Qwen2.5-VL and Qwen2.5-Omni; 24, 20, 20 for Qwen3-VL, whose configs may omit them.
/// Source: the config.json of Qwen2-VL; huggingface/transformers models/qwen3_vl.
inline std::vector<index> default_sections(section_map map) {
    return map == section_map::interleaved ? std::vector<index>{24, 20, 20} : std::vector<index>{16, 24, 24};
}

/// The text model under a video scheme, for use without a model config. The defaults are those of Qwen2-VL,
/// which VideoRoPE, HoPE and Qwen2.5-Omni share.
struct text_config {
    index head_dim = 128;
    index rotary_dim = 0;  ///< channels that rotate, from the first; 0: all of them
    double base = 1e6;
    pair_layout layout = half_split{};
};
/// The text model of Qwen3-VL. Source: huggingface/transformers models/qwen3_vl.
inline constexpr text_config qwen3_vl_text{.base = 5e6};

/// The scheme of a text model: plain geometric frequencies, which `over` assigns to the axes.
/// Throws:   invalid_config on an odd or negative rotary_dim, one above head_dim, or a base that is not > 0.
/// Source:   huggingface/transformers models/qwen2_vl.
inline rotary_scheme text_model(const text_config& config = {}) {
    const index rotary_dim = config.rotary_dim == 0 ? config.head_dim : config.rotary_dim;
    return make_fixed_scheme(
        {.name = "mrope::text_model", .head_dim = config.head_dim, .layout = config.layout},
        frequencies::geometric({.rotary_dim = rotary_dim, .base = config.base}));
}

/// The defaults are Qwen2-VL's. Rule is positions::mrope_rule or positions::tmrope_rule.
template <class Rule = positions::mrope_rule>
struct over_config {
    std::vector<index> sections = {};           ///< pairs of t, h, w; empty: default_sections of the map
    section_map map = section_map::contiguous;  ///< how the sections are assigned to the pairs
    Rule rule = {};                             ///< the positions of the tokens of a stream
};

/// The text model's scheme with its pairs assigned to t, h and w; the context scaling does not change.
/// Throws:   invalid_config unless there are three sections that sum to the number of pairs.
/// Source:   Qwen2-VL, Wang et al. 2024; Qwen3-VL (interleaved).
template <class Rule>
stream_scheme<Rule> over_as(const char* name, const rotary_scheme& text, const over_config<Rule>& config) {
    config.rule.check();
    const auto sections = config.sections.empty() ? default_sections(config.map) : config.sections;
    return {with_frequencies(text, name,
                             [name, sections, map = config.map](const spectrum& s) {
                                 detail::require_sections(name, sections, s.pairs());
                                 return frequencies::assign_axes(
                                     s,
                                     map == section_map::interleaved
                                         ? axis_map::interleaved_sections(sections)
                                         : axis_map::sections(sections),
                                     3);
                             }),
            config.rule};
}
/// M-RoPE over the text model's scheme; see over_as.
inline stream_scheme<positions::mrope_rule> over(const rotary_scheme& text, const over_config<>& config) {
    return over_as("mrope::over", text, config);
}
/// TMRoPE, which numbers frames and sound by their time.
/// Throws:   as over.
/// Source:   Qwen2.5-Omni, Xu et al. 2025.
inline stream_scheme<positions::tmrope_rule> time_aligned_over(
    const rotary_scheme& text, const over_config<positions::tmrope_rule>& config) {
    return over_as("mrope::time_aligned_over", text, config);
}

}  // namespace mrope
}  // namespace ROPEWALK_NAMESPACE
