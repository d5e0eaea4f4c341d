// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Selection of the K best tokens among many that share few scores, by radix search.
#pragma once

#include <bit>
#include <cstdint>

#include <ropewalk/core/index.hpp>

/// Finds the K best of many tokens that share few scores: a radix search over the scores, each weighted by
/// the number of its tokens. Source: radix selection, as in GPU top-k kernels, extended by weights.

namespace ROPEWALK_NAMESPACE::detail {

/// An unsigned number with the order of the scores; both zeros are equal.
inline std::uint32_t order_key(float score) noexcept {
    const auto u = std::bit_cast<std::uint32_t>(score);
    if (u == 0x80000000u) return 0x80000000u;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
inline std::uint64_t order_key(double score) noexcept {
    constexpr std::uint64_t top = std::uint64_t{1} << 63;
    const auto u = std::bit_cast<std::uint64_t>(score);
    if (u == top) return top;
    return u & top ? ~u : u | top;
}

/// Tokens above `key` are selected, and the first `equal` tokens with that key.
template <class Key>
struct score_threshold {
    Key key = 0;
    index equal = 0;
};

/// The threshold of the `wanted` best tokens. Requires: 0 < wanted <= sum of counts; counts >= 0.
template <class Key>
score_threshold<Key> find_threshold(const Key* keys, const std::int32_t* counts, index items,
                                    index wanted) noexcept {
    constexpr int bits = 8 * static_cast<int>(sizeof(Key));
    Key prefix = 0, mask = 0;
    for (int shift = bits - 8; shift >= 0; shift -= 8) {
        index tokens[256] = {};
        for (index c = 0; c < items; ++c)
            if ((keys[c] & mask) == prefix) tokens[(keys[c] >> shift) & 0xff] += counts[c];
        Key digit = 0xff;
        for (; digit > 0 && tokens[digit] < wanted; --digit) wanted -= tokens[digit];
        prefix |= digit << shift;
        mask |= Key{0xff} << shift;
    }
    return {prefix, wanted};
}

}  // namespace ROPEWALK_NAMESPACE::detail
