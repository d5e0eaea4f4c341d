// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// VideoRoPE over a text model: time on the slowest pairs, frames on a diagonal.
#pragma once

#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/positions/video_rope.hpp>
#include <ropewalk/schemes/mrope.hpp>

/// VideoRoPE over a text model.
/// Source: VideoRoPE, Wei et al. 2025; Wiselnn570/VideoRoPE.
namespace ROPEWALK_NAMESPACE::video_rope {

struct over_config {
    std::vector<index> sections = {16, 24, 24};  ///< pairs of t, h, w; t gets the slowest
    positions::video_rope_rule rule = {};        ///< spacing 2, the released code's centre and transition
};

/// VideoRoPE: time on the slowest pairs, rows and columns alternating on the fast ones, frames along the
/// diagonal. The context scaling is that of the text model. Text has plain RoPE.
/// Throws:   invalid_config unless there are three sections that sum to the number of pairs, or on a spacing
///           that the rule refuses.
/// Source:   VideoRoPE, Wei et al. 2025.
inline stream_scheme<positions::video_rope_rule> over(const rotary_scheme& text, const over_config& config) {
    config.rule.check();
    const auto map = [sections = config.sections](const spectrum& s) {
        detail::require_sections("video_rope::over", sections, s.pairs());
        return frequencies::assign_axes(s, axis_map::video_rope(sections), 3);
    };
    return {with_frequencies(text, "video_rope::over", map), config.rule};
}

struct extended_config {
    mrope::text_config text = {};     ///< the trained text model
    double factor = 4;                ///< how much longer the context is
    double original_context = 32768;  ///< the trained length
    over_config scheme = {};          ///< sections and rule
};

/// VideoRoPE over a context longer than the trained one: only the temporal pairs use NTK-scaled frequencies,
/// with base * ((original_context * factor - 1) / (original_context - 1))^(d / (d - 2)) and d the number of
/// channels that rotate; rows and columns keep theirs. This is the variant of VideoRoPE++ that the paper
/// calls YaRN-V. Text then no longer has plain RoPE.
/// Throws:   as over and mrope::text_model; invalid_config on factor <= 0, original_context <= 1 or
///           original_context * factor <= 1.
/// Source:   Wiselnn570/VideoRoPE videorope_plus, rotary_embedding.py ("videorope++_v1").
inline stream_scheme<positions::video_rope_rule> extended(const extended_config& config = {}) {
    const auto trained = over(mrope::text_model(config.text), config.scheme);
    const double alpha = frequencies::ntk_alpha_to_last(config.factor, config.original_context);
    mrope::text_config stretched_text = config.text;
    stretched_text.base = frequencies::ntk_base(
        {.rotary_dim = trained.rope.rotary_dim, .base = config.text.base, .alpha = alpha});
    const auto stretched = over(mrope::text_model(stretched_text), config.scheme).rope.spectrum_for(1);
    const auto temporal = [stretched](const spectrum& s) { return frequencies::take_axis(s, stretched, 0); };
    return {with_frequencies(trained.rope, "video_rope::extended", temporal), trained.rule};
}

}  // namespace ROPEWALK_NAMESPACE::video_rope
