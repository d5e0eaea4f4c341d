// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Clipped RoPE (CoPE): the slowest pairs taper off to frequency 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// How the lowest frequencies end: `soft` lowers them along half a cosine, `hard` sets all of them to 0.
enum class clip_edge : std::uint8_t { soft, hard };

struct clip_config {
    index clipped_pairs = 20;  ///< how many of the slowest pairs are clipped; more than there are means all
    clip_edge edge = clip_edge::soft;  ///< how their frequencies end
};

/// The factor of every frequency: 1 for the fast pairs, falling to 0 over the last clipped_pairs.
/// Shapes:   [pairs].
/// Throws:   invalid_config on pairs or clipped_pairs < 0.
/// Accuracy: f64. The first soft factor is exactly 1 and the last exactly 0, so with one soft pair nothing is
///           clipped.
/// Source:   CoPE, arXiv 2602.05258; hrlics/CoPE modeling_cope.py.
inline std::vector<double> clip_mask(index pairs, const clip_config& config = {}) {
    detail::require(pairs >= 0, "clip_mask", "pairs must be >= 0", pairs);
    detail::require(config.clipped_pairs >= 0, "clip_mask", "clipped_pairs must be >= 0",
                    config.clipped_pairs);
    const index count = std::min(config.clipped_pairs, pairs);
    std::vector<double> mask(static_cast<std::size_t>(pairs), 1.0);
    for (index j = 0; j < count; ++j) {
        double& factor = mask[static_cast<std::size_t>(pairs - count + j)];
        if (config.edge == clip_edge::hard) {
            factor = 0;
        } else if (j > 0) {
            factor = 0.5 + 0.5 * std::cos(std::numbers::pi * static_cast<double>(j) /
                                          static_cast<double>(count - 1));
        }
    }
    return mask;
}

/// Clipped RoPE ("CoPE"): the frequencies of the slowest pairs, whose period is longer than the training
/// window, taper off to 0. It is applied after any scaling of the spectrum, whose magnitude it keeps. A
/// spectrum that depends on the context length is clipped again at every length. This is not the older
/// "contextual position encoding" that is also abbreviated CoPE.
/// Throws:   invalid_config as clip_mask.
/// Source:   CoPE, arXiv 2602.05258; hrlics/CoPE modeling_cope.py (20 pairs for every head size and base).
inline spectrum clip_low(const spectrum& s, const clip_config& config = {}) {
    const auto mask = clip_mask(s.pairs(), config);
    return map_omega(s, [&](double omega, index i) { return omega * mask[static_cast<std::size_t>(i)]; });
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
