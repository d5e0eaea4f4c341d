// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// HoPE for language models: only pairs that complete a period within the trained context rotate.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// Which pairs rotate more than once within a length: omega > 2 pi / length. The other pairs never complete a
/// period in training, so a longer context shows the model angles it has not seen.
/// Shapes:   [pairs], 1 = rotates more than once.
/// Requires: a selected spectrum; the first head decides.
/// Throws:   invalid_config unless length is finite and > 0.
/// Source:   HoPE, Chen et al. 2024 (arXiv 2410.21216); FoPE, Hua et al. 2024 (arXiv 2412.17739).
inline std::vector<std::uint8_t> pairs_that_complete(const spectrum& s, double length) {
    detail::require_factor("pairs_that_complete", "length must be finite and > 0", length);
    std::vector<std::uint8_t> keep;
    for (const double omega : s.omegas()) keep.push_back(omega > 2 * std::numbers::pi / length);
    return keep;
}

struct hope_text_config {
    index rotary_dim = 0;
    double base = 1e4;
    double trained_context = 0;  ///< tokens; pairs with a longer period do not rotate
    index cut_more =
        0;  ///< further pairs set to frequency 0, in addition to those that never complete a period
};

/// HoPE of language models: the pairs that complete a period within the trained context rotate, the slower
/// ones get frequency 0. The paper does not say clearly how many more it cuts, so cut_more is an argument.
/// This is not the HoPE of video models.
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config on an odd rotary_dim, base or trained_context <= 0, cut_more < 0.
/// Source:   HoPE, Chen et al. 2024 (arXiv 2410.21216).
inline spectrum hope_text(const hope_text_config& c) {
    detail::require(c.cut_more >= 0, "hope_text", "cut_more must be >= 0", c.cut_more);
    const auto full = geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    auto keep = pairs_that_complete(full, c.trained_context);
    index more = c.cut_more;
    for (auto pair = keep.rbegin(); pair != keep.rend() && more > 0; ++pair)
        if (*pair) *pair = 0, --more;
    return keep_pairs(full, keep);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
