// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// HiRoPE: hierarchical RoPE for source code, with token positions and function positions on different pairs.
#pragma once

#include <numbers>
#include <numeric>
#include <vector>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/positions/hierarchy.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// HiRoPE: source code consists of functions, so the slow pairs read the number of the function and the fast
/// pairs the token inside it.
/// Positions: positions::hierarchy, and positions::hierarchy_counter while decoding. For the window in which
/// plain positions apply see attention/windowed_scores.hpp.
/// Source: HiRoPE, Zhang et al. 2024 (no official code; where the paper is ambiguous, comments say which
///         reading is used).
namespace ROPEWALK_NAMESPACE::hirope {

/// Assigns the pairs to levels: the first channels_of_level[0] channels, which rotate fastest, read the token
/// level, the next ones the unit level, and so on. The frequencies continue across levels.
/// Shapes:   channels_of_level sums to 2 * pairs.
/// Throws:   invalid_config on odd or negative channels, or another sum.
/// Source:   HiRoPE, Zhang et al. 2024.
inline spectrum split(const spectrum& ladder, const std::vector<index>& channels_of_level) {
    constexpr const char* who = "hirope::split";
    std::vector<index> pairs;
    for (const index channels : channels_of_level) {
        detail::require(channels >= 0 && channels % 2 == 0, who, "channels of a level must be even and >= 0",
                        channels);
        pairs.push_back(channels / 2);
    }
    const index sum = std::accumulate(pairs.begin(), pairs.end(), index{0});
    detail::require(sum == ladder.pairs(), who, "channels of all levels must sum to 2 * pairs", 2 * sum);
    return frequencies::assign_axes(ladder, axis_map::sections(pairs), static_cast<index>(pairs.size()));
}

struct hierarchical_config {
    index head_dim = 128;
    double base = 1e4;
    /// Token level first, then unit levels; empty: two levels, half each.
    std::vector<index> channels_of_level = {};
    pair_layout layout = half_split{};
};

/// The scheme over the axes (token, unit, ...). For a model with context scaling, call split() on its own
/// spectrum.
/// Throws: invalid_config on an odd head_dim or channels that do not sum to it.
/// Source: HiRoPE, Zhang et al. 2024.
inline rotary_scheme hierarchical(const hierarchical_config& config) {
    std::vector<index> channels = config.channels_of_level;
    if (channels.empty()) {
        const index token = config.head_dim / 4 * 2;
        channels = {token, config.head_dim - token};
    }
    return make_fixed_scheme(
        {.name = "hirope", .head_dim = config.head_dim, .layout = config.layout},
        split(frequencies::geometric({.rotary_dim = config.head_dim, .base = config.base}), channels));
}

/// The recommended number of channels of the token level: those of all pairs that completed a turn in
/// training (wavelength <= trained_context), so that the model has seen all their angles.
/// Throws: invalid_config on a spectrum of several axes or trained_context < 1.
/// Source: HiRoPE, Zhang et al. 2024 (critical dimension); 2 * 46 for 128 channels, base 1e4, 4096 tokens.
inline index recommended_token_channels(const spectrum& ladder, double trained_context) {
    constexpr const char* who = "recommended_token_channels";
    detail::require(ladder.axes() == 1 && ladder.heads() == 1, who,
                    "ladder must have one axis and be shared by all heads", ladder.axes());
    detail::require(trained_context >= 1, who, "trained_context must be >= 1", trained_context);
    index pairs = 0;
    while (pairs < ladder.pairs() && ladder.omega(pairs) * trained_context >= 2 * std::numbers::pi) ++pairs;
    return 2 * pairs;
}

}  // namespace ROPEWALK_NAMESPACE::hirope
