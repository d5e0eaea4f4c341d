// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rope_parameters: the context scaling and axes of one kind of layer as plain data, and its spectrum.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/llama3.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/frequencies/p_rope.hpp>
#include <ropewalk/frequencies/yarn.hpp>

namespace ROPEWALK_NAMESPACE {

/// The context scaling methods that a config can name.
enum class rope_scaling {
    none,
    linear,
    dynamic_linear,
    ntk,
    fixed_ntk,  ///< vLLM's and gte's "ntk": base and frequencies are both scaled
    dynamic_ntk,
    stepped_ntk,  ///< Qwen-1's use_dynamic_ntk: alpha grows in powers of two
    ntk_by_parts,
    yarn,
    dynamic_yarn,
    longrope,
    llama3,
    proportional,
};

/// The name of a scaling, as configs write it.
/// Source: Hugging Face rope_type; jquesnelle/yarn for those that Hugging Face lacks.
inline const char* to_text(rope_scaling scaling) noexcept {
    switch (scaling) {
        case rope_scaling::none: return "default";
        case rope_scaling::linear: return "linear";
        case rope_scaling::dynamic_linear: return "dynamic-linear";
        case rope_scaling::ntk: return "ntk";
        case rope_scaling::fixed_ntk: return "fixed-ntk";
        case rope_scaling::dynamic_ntk: return "dynamic";
        case rope_scaling::stepped_ntk: return "stepped-ntk";
        case rope_scaling::ntk_by_parts: return "ntk-by-parts";
        case rope_scaling::yarn: return "yarn";
        case rope_scaling::dynamic_yarn: return "dynamic-yarn";
        case rope_scaling::longrope: return "longrope";
        case rope_scaling::llama3: return "llama3";
        case rope_scaling::proportional: return "proportional";
    }
    return "?";
}

/// How mrope_section is assigned to the pairs.
enum class section_order {
    contiguous,        ///< one run per section; sections past the axes begin again at axis 0
    interleaved,       ///< spread over all frequencies (Qwen3-VL)
    rows_and_columns,  ///< axes 1 and 2 alternate, then axis 0 (ERNIE 4.5 VL)
    doubled_channels,  ///< runs of 2 n channels over the whole head; a pair reads its second channel's axis
};

/// The rotary parameters of one kind of layer. A field that the scaling does not use is ignored. An absent
/// `factor` is derived as the publication of the scaling does.
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
    /// How strictly the ends of YaRN's ramp are checked.
    frequencies::bounds_check bounds = frequencies::bounds_check::literal;
    bool truncate = true;  ///< YaRN: whether the ramp's bounds are rounded to whole pairs
    double extrapolation_factor = 1;
    /// How a dynamic YaRN model was trained.
    frequencies::yarn_training trained = frequencies::yarn_training::plain;
    double low_freq_factor = 1;
    double high_freq_factor = 4;
    std::vector<double> short_factors = {};
    std::vector<double> long_factors = {};
    std::optional<double> short_mscale = {};  ///< longrope: the magnitude under the short factors, if given
    std::optional<double> long_mscale = {};   ///< longrope: the magnitude under the long factors, if given
    std::optional<double> alpha = {};       ///< dynamic_ntk: up to max_context the base is that of ntk(alpha)
    std::optional<double> mixed_b = {};     ///< fixed_ntk: the exponent of gte's mixed form
    std::vector<double> pair_factors = {};  ///< GGUF rope_freqs.weight: divisors on top, empty = none
    std::vector<index> sections = {};       ///< pairs of each position axis; empty = one axis
    index ladders = 1;  ///< position axes that each have frequencies over an equal share of the pairs
    section_order order = section_order::contiguous;  ///< how the sections are assigned to the pairs
    index section_axes = 0;                           ///< position axes of the sections; 0 = one per section
    bool backward = false;                            ///< whether every pair rotates by -p omega (nanochat)
    index exponent_channels = 0;  ///< divisor of the exponents; 0 = rotary_dim (GLM-4.5: an odd number)
    index rotary_dim = 0;         ///< given in channels (GPT-J); 0 = from partial_rotary_factor
    index head_dim = 0;           ///< 0 = the model's (Gemma 4's global layers have their own)
    double logit_scale = 1;       ///< factor on q.k besides 1/sqrt(head_dim)
    std::string name = {};        ///< the layer type in the config, if any
    std::vector<std::string> notes = {};  ///< what else the layer does to q.k, in words

    bool operator==(const rope_parameters&) const = default;
};

namespace detail {

/// The most channels of a head. Published heads have up to 576 channels; a config far above that is broken.
inline constexpr index longest_head = 65536;

/// The original context of a scaling: the config's, or else max_context.
inline double original_context_of(const rope_parameters& p) {
    return p.original_context != 0 ? p.original_context : p.max_context;
}

inline double required_factor(const rope_parameters& p) {
    require(p.factor.has_value(), "make_model_schemes", "factor must be given", to_text(p.scaling));
    return *p.factor;
}

/// YaRN's factor: as given, or else max_context / original context.
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

/// vLLM's and gte's "ntk": the base is multiplied by factor, and every frequency is divided by factor^(2 /
/// rotary_dim). In the mixed form the base does not change, and pair i (from 1) is divided by factor^((i /
/// pairs)^b).
inline spectrum fixed_ntk(const rope_parameters& p, index rotary_dim) {
    const double factor = required_factor(p);
    require_factor("make_spectrum", "factor must be finite and > 0", factor);
    const auto pairs = static_cast<double>(rotary_dim) / 2;
    if (p.mixed_b) {
        const double b = *p.mixed_b;
        const auto plain = frequencies::geometric({.rotary_dim = rotary_dim, .base = p.base});
        return map_omega(plain, [&](double omega, index i) {
            return omega / std::pow(factor, std::pow(static_cast<double>(i + 1) / pairs, b));
        });
    }
    const double slowed = std::pow(factor, 1 / pairs);
    const auto based = frequencies::geometric({.rotary_dim = rotary_dim, .base = p.base * factor});
    return map_omega(based, [&](double omega, index) { return omega / slowed; });
}

/// Qwen-1's alpha at n = length tokens: 2^ceil(log2(n / max_context) + 1) - 1, at least 1.
inline double stepped_alpha(const rope_parameters& p, std::int64_t length) {
    require_factor("make_spectrum", "max_context must be > 0", p.max_context);
    const double over = std::log2(static_cast<double>(length) / p.max_context) + 1;
    return std::max(1.0, std::exp2(std::ceil(over)) - 1);
}

inline spectrum with_mscale(const rope_parameters& p, const spectrum& s, std::int64_t length) {
    const bool is_long = static_cast<double>(length) > original_context_of(p);
    const auto& mscale = is_long ? p.long_mscale : p.short_mscale;
    return mscale ? s.with_magnitude(*mscale) : s;
}

/// The same frequencies with exponents over rotary_dim instead of n = exponent_channels: base^(1/n) =
/// (base^(rotary_dim / n))^(1/rotary_dim).
inline rope_parameters over_all_channels(rope_parameters p, index rotary_dim, std::int64_t length) {
    const auto n = static_cast<double>(p.exponent_channels);
    require(p.scaling == rope_scaling::none || p.scaling == rope_scaling::linear ||
                p.scaling == rope_scaling::llama3 || p.scaling == rope_scaling::longrope ||
                p.scaling == rope_scaling::dynamic_ntk,
            "make_spectrum", "rotary_dim must be even under this scaling", to_text(p.scaling));
    if (p.scaling == rope_scaling::dynamic_ntk) {
        require(n > 2, "make_spectrum", "exponent_channels must be > 2", p.exponent_channels);
        const double alpha = frequencies::dynamic_ntk_alpha({.rotary_dim = rotary_dim,
                                                             .base = p.base,
                                                             .factor = required_factor(p),
                                                             .max_context = p.max_context},
                                                            length);
        p.base *= std::pow(alpha, n / (n - 2));
        p.scaling = rope_scaling::none;
    }
    p.base = std::pow(p.base, static_cast<double>(rotary_dim) / n);
    p.exponent_channels = 0;
    return p;
}

/// The spectrum over one axis, before axis map and divisors.
inline spectrum scaled_spectrum(const rope_parameters& p, index rotary_dim, std::int64_t length) {
    using namespace frequencies;
    if (p.exponent_channels != 0)
        return scaled_spectrum(over_all_channels(p, rotary_dim, length), rotary_dim, length);
    switch (p.scaling) {
        case rope_scaling::none: return geometric({.rotary_dim = rotary_dim, .base = p.base});
        case rope_scaling::linear:
            return linear({.rotary_dim = rotary_dim, .base = p.base, .factor = required_factor(p)});
        case rope_scaling::dynamic_linear:
            return dynamic_linear({.rotary_dim = rotary_dim, .base = p.base, .max_context = p.max_context},
                                  length);
        case rope_scaling::ntk:
            return ntk({.rotary_dim = rotary_dim, .base = p.base, .alpha = required_factor(p)});
        case rope_scaling::fixed_ntk: return fixed_ntk(p, rotary_dim);
        case rope_scaling::stepped_ntk:
            return ntk({.rotary_dim = rotary_dim, .base = p.base, .alpha = stepped_alpha(p, length)});
        case rope_scaling::dynamic_ntk:
            if (p.alpha && static_cast<double>(length) <= p.max_context)
                return ntk({.rotary_dim = rotary_dim, .base = p.base, .alpha = *p.alpha});
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
            return with_mscale(p,
                               longrope({.rotary_dim = rotary_dim,
                                         .base = p.base,
                                         .short_factors = p.short_factors,
                                         .long_factors = p.long_factors,
                                         .original_context = original_context_of(p),
                                         .max_context = p.max_context,
                                         .factor = p.factor,
                                         .attention_factor = p.attention_factor},
                                        length),
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

/// Repeats a one-axis spectrum for each of `axes` axes, one after the other.
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

/// The position axis of each pair.
inline std::vector<int> axis_map_of(const rope_parameters& p, index axes) {
    constexpr const char* who = "make_spectrum";
    switch (p.order) {
        case section_order::contiguous: break;
        case section_order::interleaved: return axis_map::interleaved_sections(p.sections);
        case section_order::rows_and_columns:
            require(p.sections.size() == 3, who, "sections must be three numbers", p.sections.size());
            require_equal(who, "sections of rows and columns must be alike", p.sections[0], p.sections[1]);
            return axis_map::video_rope({p.sections[2], p.sections[0], p.sections[1]});
        case section_order::doubled_channels: {
            auto of_channel = axis_map::sections(p.sections);  // n pairs per axis are 2 n channels
            std::vector<int> map(of_channel.size());
            for (std::size_t i = 0; i < map.size(); ++i) map[i] = of_channel[(map.size() + i) / 2];
            return map;
        }
    }
    auto map = axis_map::sections(p.sections);
    for (int& axis : map) axis %= static_cast<int>(axes);
    return map;
}

inline std::int64_t as_length(double tokens) {
    return tokens >= 1 && tokens < 9e18 ? static_cast<std::int64_t>(tokens) : 0;
}

/// The longest context of a scaled model. max_position_embeddings is the trained length in some configs
/// (Qwen2.5 with YaRN) and the extended one in others (DeepSeek-V3). A scaling that divides frequencies by a
/// ratio of lengths reaches factor * original context where a config gives both, so the longer of the two
/// counts. Llama 3's factor is no such ratio (8 * 8192 of 131072 in Llama 3.1), and the other scalings take
/// their frequencies from the length itself.
inline std::int64_t longest_context_of(const rope_parameters& p) {
    const bool by_ratio = p.scaling == rope_scaling::yarn || p.scaling == rope_scaling::linear ||
                          p.scaling == rope_scaling::ntk_by_parts;
    const double reached = by_ratio && p.factor ? *p.factor * p.original_context : 0;
    return as_length(std::max(p.max_context, reached));
}

}  // namespace detail

/// The spectrum that one kind of layer has at a context length.
/// Throws:   invalid_config naming the parameter that the scaling refuses, or sections that do not sum to the
///           number of pairs.
/// Source:   the frequencies/ header of the scaling.
inline spectrum make_spectrum(const rope_parameters& p, index rotary_dim, std::int64_t context_length) {
    detail::require(p.ladders >= 1 && rotary_dim % (2 * p.ladders) == 0, "make_spectrum",
                    "ladders must divide the pairs", p.ladders);
    spectrum s = detail::scaled_spectrum(p, rotary_dim / p.ladders, context_length);
    const bool is_yarn = p.scaling == rope_scaling::yarn || p.scaling == rope_scaling::dynamic_yarn;
    if (!is_yarn) s = s.with_magnitude(s.magnitude() * p.attn_factor);  // YaRN's own magnitude includes it
    if (p.ladders > 1) s = detail::side_by_side(s, p.ladders);
    if (!p.pair_factors.empty()) s = frequencies::divide_pairs(s, p.pair_factors);
    if (p.backward) s = map_omega(s, [](double omega, index) { return -omega; });
    if (p.sections.empty()) return s;
    index left = s.pairs();
    for (index n : p.sections) {  // before an axis map is made of them
        detail::require(n >= 0 && n <= left, "make_spectrum",
                        "sections must be >= 0 and sum to no more than the pairs", n);
        left -= n;
    }
    const index axes = p.section_axes != 0 ? p.section_axes : static_cast<index>(p.sections.size());
    return frequencies::assign_axes(s, detail::axis_map_of(p, axes), axes);
}

}  // namespace ROPEWALK_NAMESPACE
