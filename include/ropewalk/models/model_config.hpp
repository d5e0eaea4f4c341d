// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/llama3.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/frequencies/p_rope.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// The scaling methods a config can name.
enum class rope_scaling {
    none,
    linear,
    dynamic_linear,
    ntk,
    dynamic_ntk,
    ntk_by_parts,
    yarn,
    dynamic_yarn,
    longrope,
    llama3,
    proportional,
};

/// The name of a scaling, as configs write it.
/// Source: Hugging Face rope_type; jquesnelle/yarn for the ones Hugging Face has not.
inline const char* to_text(rope_scaling scaling) noexcept {
    switch (scaling) {
        case rope_scaling::none: return "default";
        case rope_scaling::linear: return "linear";
        case rope_scaling::dynamic_linear: return "dynamic-linear";
        case rope_scaling::ntk: return "ntk";
        case rope_scaling::dynamic_ntk: return "dynamic";
        case rope_scaling::ntk_by_parts: return "ntk-by-parts";
        case rope_scaling::yarn: return "yarn";
        case rope_scaling::dynamic_yarn: return "dynamic-yarn";
        case rope_scaling::longrope: return "longrope";
        case rope_scaling::llama3: return "llama3";
        case rope_scaling::proportional: return "proportional";
    }
    return "?";
}

/// How mrope_section is dealt to the pairs: one run an axis, or spread over the ladder (Qwen3-VL).
enum class section_order { contiguous, interleaved };

/// What a config says of one kind of layer. A field that its scaling does not read is ignored; `factor`
/// absent means what the scaling's publication derives it from.
/// Source: Hugging Face rope_parameters; GGUF rope.* keys.
struct rope_parameters {
    rope_scaling scaling = rope_scaling::none;  ///< which scaling the other fields belong to
    double base = 1e4;
    double partial_rotary_factor = 1;   ///< of the rotary channels; proportional: p of p-RoPE
    std::optional<double> factor = {};  ///< s; ntk: alpha
    double original_context = 0;        ///< L0; 0 = max_context
    double max_context = 0;             ///< max_position_embeddings
    std::optional<double> attention_factor = {};
    double mscale = 0;
    double mscale_all_dim = 0;
    double attn_factor = 1;  ///< multiplies the magnitude of any scaling
    double beta_fast = 32;
    double beta_slow = 1;
    /// How the ramp's ends are read: a strict reader sets strict.
    frequencies::bounds_check bounds = frequencies::bounds_check::literal;
    bool truncate = true;  ///< YaRN: whether the ramp's bounds are rounded to whole pairs
    double extrapolation_factor = 1;
    /// What a dynamic YaRN model was trained with.
    frequencies::yarn_training trained = frequencies::yarn_training::plain;
    double low_freq_factor = 1;
    double high_freq_factor = 4;
    std::vector<double> short_factors = {};
    std::vector<double> long_factors = {};
    std::vector<double> pair_factors = {};  ///< GGUF rope_freqs.weight: divisors on top, empty = none
    std::vector<index> sections = {};       ///< pairs of each position axis; empty = one axis
    index ladders = 1;  ///< position axes with a ladder each over an equal share of the pairs (ChatGLM-6B)
    section_order order = section_order::contiguous;  ///< how the sections are dealt to the pairs
    index rotary_dim = 0;                 ///< given in channels (GPT-J); 0 = from partial_rotary_factor
    index head_dim = 0;                   ///< 0 = the model's (Gemma 4's global layers have their own)
    double logit_scale = 1;               ///< factor on q.k beside 1/sqrt(head_dim)
    std::string name = {};                ///< the layer type the config gives it, if any
    std::vector<std::string> notes = {};  ///< what else is done to q.k there, in words
};

/// What any config says of a model's rotary embedding, as plain data: read one with from_huggingface or
/// from_gguf, take a preset, or fill it in.
/// Source: design of this library.
struct model_config {
    std::string model_type = {};
    index layers = 1;
    index query_heads = 0;  ///< 0: not said
    index key_heads = 0;
    index head_dim = 0;
    index first_channel = 0;    ///< where the rotary part of a head begins (MLA: behind the no-position part)
    index rotary_channels = 0;  ///< how long it is before partial_rotary_factor; 0 = head_dim
    pair_layout read_layout = {};
    pair_layout write_layout = {};
    std::vector<rope_parameters> ropes = {};  ///< one a kind of layer
    std::vector<int> rope_of_layer = {};      ///< [layers], -1 = NoPE; empty = ropes[0] everywhere
    std::vector<std::string> ignored = {};    ///< keys a lenient reader passed over
};

namespace detail {

/// Published heads have up to 576 channels; far above that a config is broken.
inline constexpr index longest_head = 65536;

/// The context length that a scaling falls back on where the config names no original one.
inline double original_context_of(const rope_parameters& p) {
    return p.original_context != 0 ? p.original_context : p.max_context;
}

inline double required_factor(const rope_parameters& p) {
    require(p.factor.has_value(), "make_model_schemes", "factor must be given", to_text(p.scaling));
    return *p.factor;
}

/// YaRN's factor: given, or by how much max_context exceeds the original one.
inline double yarn_factor_of(const rope_parameters& p) {
    if (p.factor) return *p.factor;
    const double original = original_context_of(p);
    require(original > 0, "make_model_schemes", "original_context must be given where factor is not",
            original);
    require(p.max_context > 0, "make_model_schemes", "factor must be given where max_context is not",
            p.max_context);
    return p.max_context / original;
}

inline frequencies::yarn_config yarn_of(const rope_parameters& p, index rotary_dim) {
    return {.rotary_dim = rotary_dim,
            .base = p.base,
            .factor = p.scaling == rope_scaling::yarn ? yarn_factor_of(p) : 1,  // else the length decides
            .original_context = original_context_of(p),
            .beta_fast = p.beta_fast,
            .beta_slow = p.beta_slow,
            .truncate = p.truncate,
            .extrapolation_factor = p.extrapolation_factor,
            .attention_factor = p.attention_factor,
            .mscale = p.mscale,
            .mscale_all_dim = p.mscale_all_dim,
            .attn_factor = p.attn_factor,
            .bounds = p.bounds};
}

/// The spectrum on one axis, before axis map and divisors.
inline spectrum scaled_spectrum(const rope_parameters& p, index rotary_dim, std::int64_t length) {
    using namespace frequencies;
    switch (p.scaling) {
        case rope_scaling::none: return geometric({.rotary_dim = rotary_dim, .base = p.base});
        case rope_scaling::linear:
            return linear({.rotary_dim = rotary_dim, .base = p.base, .factor = required_factor(p)});
        case rope_scaling::dynamic_linear:
            return dynamic_linear({.rotary_dim = rotary_dim, .base = p.base, .max_context = p.max_context},
                                  length);
        case rope_scaling::ntk:
            return ntk({.rotary_dim = rotary_dim, .base = p.base, .alpha = required_factor(p)});
        case rope_scaling::dynamic_ntk:
            return dynamic_ntk({.rotary_dim = rotary_dim,
                                .base = p.base,
                                .factor = required_factor(p),
                                .max_context = p.max_context},
                               length);
        case rope_scaling::ntk_by_parts:
            return ntk_by_parts({.rotary_dim = rotary_dim,
                                 .base = p.base,
                                 .factor = required_factor(p),
                                 .original_context = original_context_of(p),
                                 .extrapolation_factor = p.extrapolation_factor});
        case rope_scaling::yarn: return yarn(yarn_of(p, rotary_dim));
        case rope_scaling::dynamic_yarn:
            return dynamic_yarn(
                {.yarn = yarn_of(p, rotary_dim), .max_context = p.max_context, .trained = p.trained}, length);
        case rope_scaling::longrope:
            return longrope({.rotary_dim = rotary_dim,
                             .base = p.base,
                             .short_factors = p.short_factors,
                             .long_factors = p.long_factors,
                             .original_context = original_context_of(p),
                             .max_context = p.max_context,
                             .factor = p.factor,
                             .attention_factor = p.attention_factor},
                            length);
        case rope_scaling::llama3:
            return llama3({.rotary_dim = rotary_dim,
                           .base = p.base,
                           .factor = required_factor(p),
                           .low_freq_factor = p.low_freq_factor,
                           .high_freq_factor = p.high_freq_factor,
                           .original_context = original_context_of(p)});
        case rope_scaling::proportional:
            return p_rope({.head_dim = rotary_dim,
                           .base = p.base,
                           .p = p.partial_rotary_factor,
                           .factor = p.factor.value_or(1)});
    }
    return {};
}

/// The same one-axis spectrum once an axis, one after the other.
inline spectrum side_by_side(const spectrum& s, index axes) {
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index a = 0; a < axes; ++a)
        for (index i = 0; i < s.pairs(); ++i) {
            omega.push_back(s.omega(i));
            axis_of.push_back(static_cast<int>(a));
        }
    return spectrum::selected(omega, axis_of, axes, 1, s.magnitude());
}

inline std::int64_t as_length(double tokens) {
    return tokens >= 1 && tokens < 9e18 ? static_cast<std::int64_t>(tokens) : 0;
}

}  // namespace detail

/// The spectrum that one kind of layer has at a context length.
/// Throws:   invalid_config naming the parameter that the scaling refuses, or sections that do not add up
///           to the pairs.
/// Source:   the frequencies/ header of the scaling.
inline spectrum make_spectrum(const rope_parameters& p, index rotary_dim, std::int64_t context_length) {
    detail::require(p.ladders >= 1 && rotary_dim % (2 * p.ladders) == 0, "make_spectrum",
                    "ladders must divide the pairs", p.ladders);
    spectrum s = detail::scaled_spectrum(p, rotary_dim / p.ladders, context_length);
    const bool is_yarn = p.scaling == rope_scaling::yarn || p.scaling == rope_scaling::dynamic_yarn;
    if (!is_yarn) s = s.with_magnitude(s.magnitude() * p.attn_factor);  // YaRN has it in its own magnitude
    if (p.ladders > 1) s = detail::side_by_side(s, p.ladders);
    if (!p.pair_factors.empty()) s = frequencies::divide_pairs(s, p.pair_factors);
    if (p.sections.empty()) return s;
    index left = s.pairs();
    for (index n : p.sections) {  // before a map of them is made
        detail::require(n >= 0 && n <= left, "make_spectrum",
                        "sections must be >= 0 and sum to no more than the pairs", n);
        left -= n;
    }
    const auto map = p.order == section_order::interleaved ? axis_map::interleaved_sections(p.sections)
                                                           : axis_map::sections(p.sections);
    return frequencies::assign_axes(s, map, static_cast<index>(p.sections.size()));
}

/// The schemes of a model's layers. Layers of one kind share one scheme, so one table serves them all.
/// Source: design of this library.
class model_schemes {
  public:
    model_schemes() = default;
    model_schemes(std::vector<rotary_scheme> distinct, std::vector<int> scheme_of_layer)
        : distinct_(std::move(distinct)), of_layer_(std::move(scheme_of_layer)) {
        for (int s : of_layer_)
            detail::require(s >= 0 && s < static_cast<int>(distinct_.size()), "model_schemes",
                            "scheme_of_layer must name a scheme", s);
    }

    index layers() const noexcept { return static_cast<index>(of_layer_.size()); }
    /// Requires: 0 <= layer < layers().
    const rotary_scheme& operator[](index layer) const noexcept {
        ROPEWALK_EXPECT(layer >= 0 && layer < layers());
        return distinct_[static_cast<std::size_t>(of_layer_[static_cast<std::size_t>(layer)])];
    }
    /// The different schemes, and which one a layer takes.
    const std::vector<rotary_scheme>& distinct() const noexcept { return distinct_; }
    /// Which of distinct() the layer takes.
    int scheme_of(index layer) const noexcept { return of_layer_[static_cast<std::size_t>(layer)]; }

  private:
    std::vector<rotary_scheme> distinct_;
    std::vector<int> of_layer_;
};

/// What one kind of layer does, from the plain data. Everything that does not depend on the length is
/// checked here: a scheme that was made answers spectrum_for at every length >= 1 or says why not.
/// Throws:   invalid_config naming the parameter and its value.
/// Source:   the frequencies/ header of the scaling.
inline rotary_scheme make_scheme(const model_config& config, const rope_parameters& rope) {
    constexpr const char* who = "make_model_schemes";
    rotary_scheme s;
    s.name = config.model_type;
    if (!rope.name.empty()) s.name += (s.name.empty() ? "" : " ") + rope.name;
    s.head_dim = rope.head_dim != 0 ? rope.head_dim : config.head_dim;
    s.first_channel = config.first_channel;
    detail::require(s.head_dim <= detail::longest_head, who, "head_dim must be <= 65536", s.head_dim);
    const index channels = config.rotary_channels != 0 ? config.rotary_channels : s.head_dim;
    detail::require(channels >= 1, who, "head_dim must be >= 1", channels);
    // Each alone first, so that their sum cannot overflow.
    detail::require(channels <= s.head_dim, who, "rotary_channels must be <= head_dim", channels);
    detail::require(s.first_channel >= 0 && s.first_channel <= s.head_dim, who,
                    "first_channel must be in [0, head_dim]", s.first_channel);
    detail::require(s.first_channel + channels <= s.head_dim, who,
                    "first_channel + rotary_channels must be <= head_dim", s.first_channel + channels);
    s.rotary_dim = rope.scaling == rope_scaling::proportional ? channels
                   : rope.rotary_dim != 0
                       ? rope.rotary_dim
                       : frequencies::partial_rotary_dim(channels, rope.partial_rotary_factor);
    detail::require(s.rotary_dim >= 0 && s.rotary_dim <= channels && s.rotary_dim % 2 == 0, who,
                    "rotary_dim must be even and <= head_dim", s.rotary_dim);
    s.notes = rope.notes;
    s.read_layout = config.read_layout;
    s.write_layout = config.write_layout;
    detail::require(s.read_layout.fits(s.rotary_dim / 2) && s.write_layout.fits(s.rotary_dim / 2), who,
                    "rotary_dim must be a multiple of the layout's group", s.rotary_dim);
    s.logit_scale = rope.logit_scale;
    s.original_context = detail::as_length(detail::original_context_of(rope));
    s.max_context = detail::as_length(rope.max_context);
    s.length_dependent = rope.scaling == rope_scaling::dynamic_linear ||
                         rope.scaling == rope_scaling::dynamic_ntk ||
                         rope.scaling == rope_scaling::dynamic_yarn || rope.scaling == rope_scaling::longrope;
    s.frequencies = [rope, rotary_dim = s.rotary_dim](std::int64_t length) {
        return make_spectrum(rope, rotary_dim, length);
    };
    const spectrum first = s.spectrum_for(1);
    if (s.length_dependent) return s;
    s.frequencies = [first](std::int64_t) { return first; };
    return s;
}

/// Layer -> scheme. One scheme an entry of `ropes` that some layer uses, and one for the NoPE layers.
/// Throws:   invalid_config naming the parameter and its value.
/// Source:   design of this library.
inline model_schemes make_model_schemes(const model_config& config) {
    constexpr const char* who = "make_model_schemes";
    detail::require(config.layers >= 1 && config.layers <= 65536, who, "layers must be in [1, 65536]",
                    config.layers);
    std::vector<int> rope_of_layer = config.rope_of_layer;
    if (rope_of_layer.empty()) rope_of_layer.assign(static_cast<std::size_t>(config.layers), 0);
    detail::require(static_cast<index>(rope_of_layer.size()) == config.layers, who,
                    "rope_of_layer must have one entry a layer", rope_of_layer.size());
    std::vector<rotary_scheme> distinct;
    std::vector<int> place(config.ropes.size() + 1, -1);  // of NoPE first, then of each entry of ropes
    for (int& rope : rope_of_layer) {
        detail::require(rope >= -1 && rope < static_cast<int>(config.ropes.size()), who,
                        "rope_of_layer must be -1 or name an entry of ropes", rope);
        int& at = place[static_cast<std::size_t>(rope + 1)];
        if (at < 0) {
            at = static_cast<int>(distinct.size());
            if (rope >= 0) {
                distinct.push_back(make_scheme(config, config.ropes[static_cast<std::size_t>(rope)]));
            } else {
                rotary_scheme nope;
                nope.name = config.model_type + (config.model_type.empty() ? "NoPE" : " NoPE");
                nope.head_dim = config.head_dim;
                nope.rotates = false;
                distinct.push_back(std::move(nope));
            }
        }
        rope = at;
    }
    return {std::move(distinct), std::move(rope_of_layer)};
}

}  // namespace ROPEWALK_NAMESPACE
