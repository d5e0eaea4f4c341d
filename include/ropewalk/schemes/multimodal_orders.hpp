// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Multimodal rotary schemes from a text model, an assignment of pairs to axes and a position rule.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/frequencies/axis_orders.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/positions/circle.hpp>
#include <ropewalk/positions/visual_rules.hpp>
#include <ropewalk/positions/xd_rope.hpp>
#include <ropewalk/schemes/mrope.hpp>

/// Multimodal schemes, each a combination of a text model, an assignment of pairs to axes and a position
/// rule: MRoPE-I, IL-RoPE, OmniRoPE, MM-RoPE, V2PE, Circle-RoPE, GRAPE-3D, Ernie-4.5-VL, XD-RoPE.
/// Source: arXiv 2510.23095; JJJYmmm/Multimodal-RoPEs.
namespace ROPEWALK_NAMESPACE::multimodal {

/// How the pairs are assigned to the axes. sections (one run per axis), interleaved (Qwen3-VL's) and ernie
/// (sections h, w, t) need sections; cyclic and mm_rope do not.
enum class pair_order : std::uint8_t { sections, interleaved, cyclic, mm_rope, ernie };

struct order_config {
    pair_order order = pair_order::sections;  ///< how pairs are assigned to the axes
    std::vector<index> sections = {};         ///< pairs of each axis, where the order needs them
    index axes = 3;
};

/// The axis of each of `pairs` pairs.
/// Throws:   invalid_config on sections that do not suit the order or do not sum to the pairs.
/// Source:   the maps of axis_map.
inline std::vector<int> axes_of_pairs(const order_config& c, index pairs) {
    constexpr const char* who = "multimodal::axes_of_pairs";
    detail::require(c.axes >= 1, who, "axes must be >= 1", c.axes);
    std::vector<int> axis_of;
    switch (c.order) {
        case pair_order::cyclic: axis_of = axis_map::cyclic(pairs, c.axes); break;
        case pair_order::mm_rope: axis_of = axis_map::mm_rope(pairs); break;
        case pair_order::interleaved: axis_of = axis_map::interleaved_sections(c.sections); break;
        case pair_order::ernie: axis_of = axis_map::ernie(c.sections); break;
        default:
            detail::require_equal(who, "sections must be one number an axis", c.axes, c.sections.size());
            axis_of = axis_map::sections(c.sections);
    }
    const auto named = static_cast<index>(axis_of.size());
    detail::require(named == pairs, who,
                    ("sections must sum to the " + detail::text(pairs) + " pairs").c_str(), named);
    return axis_of;
}

/// The text model's scheme over several axes; its context scaling and layout do not change.
/// Throws:   invalid_config as axes_of_pairs and the rule's check.
/// Source:   as each rule.
///
///     const auto scheme = multimodal::over(text, {.order = pair_order::mm_rope},
///                                          positions::mm_rope_rule{.scale = {4, 8, 8}});
template <positions::position_rule Rule>
stream_scheme<Rule> over(const rotary_scheme& text, const order_config& order, Rule rule) {
    rule.check();
    return {with_frequencies(text, "multimodal::over",
                             [order](const spectrum& s) {
                                 return frequencies::assign_axes(s, axes_of_pairs(order, s.pairs()),
                                                                 order.axes);
                             }),
            std::move(rule)};
}

struct xd_rope_config {
    index head_dim = 128;
    double base = 1e4;
    double alpha = 1000;                ///< NTK's factor: the base becomes base * alpha^(d / (d - 2))
    std::vector<index> sections = {};   ///< pairs of each axis of the rule
    positions::xd_rope_rule rule = {};  ///< the positions of the tokens
    pair_layout layout = half_split{};
};

/// XD-RoPE of HunyuanVL and HunyuanOCR as vLLM computes it: one section of the pairs per axis. The code in
/// transformers assigns doubled sections to the channels instead, so the two channels of a pair read
/// different axes, and the map is not a rotation.
/// Throws:   invalid_config unless there is a section for each axis and they sum to the pairs.
/// Source:   vllm-project/vllm rotary_embedding/xdrope.py.
inline stream_scheme<positions::xd_rope_rule> make_xd_rope(const xd_rope_config& c) {
    const auto text =
        make_fixed_scheme({.name = "xd_rope", .head_dim = c.head_dim, .layout = c.layout},
                          frequencies::ntk({.rotary_dim = c.head_dim, .base = c.base, .alpha = c.alpha}));
    return over(text, {.sections = c.sections, .axes = c.rule.axes()}, c.rule);
}

}  // namespace ROPEWALK_NAMESPACE::multimodal
