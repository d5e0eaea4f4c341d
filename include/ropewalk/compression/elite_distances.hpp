// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoPElite (EliteKV): the distance of scores from those of a full rotation, for every candidate pair of a
// round.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd_sums.hpp>
#include <ropewalk/core/simd_transpose.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The distance of the scores of one head from those of a full rotation when one more pair rotates, for every
/// candidate pair c: the sum of |sum of all candidates' deltas - delta_c| over queries and keys, where
/// delta_c is the change of a score by rotating pair c. With d = R x - x for the pair of a query or a key,
/// delta_c = d_q . (R k) + q . d_k, which loses no digits for pairs that rotate by small angles. The loop
/// takes four queries and two registers of keys at a time; only the deltas go through memory, and they stay
/// in cache.
/// Source: EliteKV, arXiv 2503.01586; the additive form is derived.
template <class C>
class elite_distances {
  public:
    elite_distances(const spectrum& omega, index tokens, pair_layout layout, bool causal)
        : tokens_(tokens),
          pairs_(omega.pairs()),
          layout_(layout),
          causal_(causal),
          added_(tokens, 1, omega.pairs()) {
        const auto table = make_rotation_table<double>(omega, position_ids::text(tokens));
        for (index n = 0; n < tokens; ++n)
            for (index i = 0; i < pairs_; ++i) {
                const auto at = static_cast<std::size_t>(i);
                added_.cos_data(n)[i] = static_cast<C>(table.cos_row(n)[at] - 1);
                added_.sin_data(n)[i] = static_cast<C>(table.sin_row(n)[at]);
            }
    }

    /// Adds the distances of one kv head, with the query heads that share it, for the queries of the tokens
    /// `where` (ascending).
    template <class Q, class K>
    void add(heads_view<Q> q, heads_view<K> k, index batch, index kv_head, std::span<const index> where,
             std::span<const index> candidates, double scale, std::span<double> distance) {
        const index group = q.heads() / k.heads(), channels = 2 * pairs_;
        const auto count = static_cast<index>(candidates.size());
        const auto rows = static_cast<index>(where.size()), blocks = (rows + queries - 1) / queries;
        const auto resized = [](auto& v, index size) { v.resize(static_cast<std::size_t>(size)); };
        const index per_block = count * queries * 4;
        checked_product("elite_search::add", "queries * pairs must fit", {group, blocks, count, queries * 4});
        coefficients_.assign(static_cast<std::size_t>(group * blocks * per_block), C(0));
        resized(plain_, keys * channels), resized(rotated_, keys * channels),
            resized(columns_, 2 * channels * keys);
        resized(tile_, count * 4 * keys), resized(deltas_, count * queries * keys);
        sums_.assign(static_cast<std::size_t>(count * lanes), C(0));
        for (index g = 0; g < group; ++g)
            for (index r = 0; r < rows; ++r) {
                read(q, batch, where[static_cast<std::size_t>(r)], 1, kv_head * group + g);
                C* const to = coefficients_.data() + (g * blocks + r / queries) * per_block + r % queries * 4;
                for (index c = 0; c < count; ++c) {
                    const index i = candidates[static_cast<std::size_t>(c)];
                    const auto x = static_cast<std::size_t>(layout_.first(i, pairs_)),
                               y = static_cast<std::size_t>(layout_.second(i, pairs_));
                    const C by = static_cast<C>(scale);
                    const C four[] = {by * rotated_[x], by * rotated_[y], by * plain_[x], by * plain_[y]};
                    std::copy_n(four, 4, to + c * queries * 4);
                }
            }
        C seen[std::size_t{queries * keys}];
        for (index j = 0; j < tokens_; j += keys) {
            fill_tile(k, batch, kv_head, j, candidates);
            const auto first_row =
                causal_ ? std::lower_bound(where.begin(), where.end(), j) - where.begin() : 0;
            for (index g = 0; g < group; ++g)
                for (index block = first_row / queries; block < blocks; ++block) {
                    const C* const of = coefficients_.data() + (g * blocks + block) * per_block;
                    const index first = where[static_cast<std::size_t>(block * queries)];
                    if (!causal_ || first >= j + keys - 1) {
                        add_block<false>(of, count, nullptr);
                    } else {
                        for (index i = 0; i < queries; ++i)
                            for (index l = 0; l < keys; ++l) {
                                const index r = block * queries + i;
                                seen[i * keys + l] =
                                    r < rows && j + l <= where[static_cast<std::size_t>(r)] ? C(1) : C(0);
                            }
                        add_block<true>(of, count, seen);
                    }
                    // f32 sums stay short.
                    if ((block - first_row / queries) % 64 == 63) flush(candidates, distance);
                }
            flush(candidates, distance);
        }
    }

  private:
    static constexpr index lanes = simd::lanes<C>, queries = 4, registers = 1, keys = registers * lanes;
    using pack = simd::pack<C>;

    /// plain_ and rotated_: the channels of `count` tokens, and what rotation adds to them.
    template <class E>
    void read(heads_view<E> x, index b, index n, index count, index head) {
        const index channels = 2 * pairs_;
        for (index t = 0; t < count; ++t) {
            const auto* from = reinterpret_cast<const stored_t<E>*>(x.at(b, n + t, head));
            C* const to = plain_.data() + t * channels;
            if constexpr (std::is_same_v<stored_t<E>, C>) {
                std::copy_n(from, channels, to);
            } else {
                for (index c = 0; c < channels; ++c)
                    to[c] = static_cast<C>(static_cast<compute_t<E>>(from[c]));
            }
        }
        std::copy_n(plain_.data(), count * channels, rotated_.data());
        rotate(layout_, heads_view<C>(rotated_.data(), count, 1, channels), added_.rows_from(n, count));
    }

    /// tile_: [candidates, 4, keys] of keys j, j + 1, ...: R k and R k - k, 0 past the last.
    template <class K>
    void fill_tile(heads_view<K> k, index b, index head, index j, std::span<const index> candidates) {
        const index channels = 2 * pairs_, count = std::min(keys, tokens_ - j);
        read(k, b, j, count, head);
        std::fill(plain_.begin() + count * channels, plain_.end(), C(0));
        std::fill(rotated_.begin() + count * channels, rotated_.end(), C(0));
        for (index part = 0; part < 2; ++part) {
            const C* const from = part == 0 ? plain_.data() : rotated_.data();
            C* const to = columns_.data() + part * channels * keys;
            for (index r = 0; r < registers; ++r)
                for (index c = 0; c < channels; c += lanes) {
                    pack square[std::size_t{lanes}];
                    const index some = std::min(lanes, channels - c);
                    for (index t = 0; t < lanes; ++t) {
                        const C* const row = from + (r * lanes + t) * channels + c;
                        square[t] = some == lanes ? simd::load(row) : simd::load_some(row, some);
                    }
                    simd::transpose<C>(square);
                    for (index t = 0; t < some; ++t) simd::store(to + (c + t) * keys + r * lanes, square[t]);
                }
        }
        C* to = tile_.data();
        for (const index i : candidates) {
            const index of[] = {layout_.first(i, pairs_) * keys, layout_.second(i, pairs_) * keys};
            for (index l = 0; l < keys; l += lanes)
                for (index m = 0; m < 2; ++m) {
                    const C* const column = columns_.data() + of[m] + l;
                    const pack change = simd::load(column + channels * keys);
                    simd::store(to + m * keys + l, simd::load(column) + change);
                    simd::store(to + (2 + m) * keys + l, change);
                }
            to += 4 * keys;
        }
    }

    /// sums_ += the distances of a block of queries and the tile. Masked: entries of `seen` weigh.
    template <bool Masked>
    void add_block(const C* of, index candidates, const C* seen) noexcept {
        pack rest[queries][registers];
        ROPEWALK_DETAIL_UNROLL
        for (index i = 0; i < queries; ++i) {
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < registers; ++r) rest[i][r] = simd::broadcast(C(0));
        }
        const C* key = tile_.data();
        C* delta = deltas_.data();
        for (index c = 0; c < candidates; ++c, key += 4 * keys) {
            pack x[registers], y[registers], dx[registers], dy[registers];
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < registers; ++r) {
                x[r] = simd::in_register(simd::load(key + r * lanes));
                y[r] = simd::in_register(simd::load(key + keys + r * lanes));
                dx[r] = simd::in_register(simd::load(key + 2 * keys + r * lanes));
                dy[r] = simd::in_register(simd::load(key + 3 * keys + r * lanes));
            }
            ROPEWALK_DETAIL_UNROLL
            for (index i = 0; i < queries; ++i, of += 4) {
                ROPEWALK_DETAIL_UNROLL
                for (index r = 0; r < registers; ++r, delta += lanes) {
                    pack change = simd::broadcast(of[0]) * x[r];
                    change = simd::fma(simd::broadcast(of[1]), y[r], change);
                    change = simd::fma(simd::broadcast(of[2]), dx[r], change);
                    change = simd::fma(simd::broadcast(of[3]), dy[r], change);
                    if constexpr (Masked) change = change * simd::load(seen + i * keys + r * lanes);
                    simd::store(delta, change);
                    rest[i][r] = rest[i][r] + change;
                }
            }
        }
        const C* from = deltas_.data();
        C* sum = sums_.data();
        for (index c = 0; c < candidates; ++c, sum += lanes) {
            pack total[registers];
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < registers; ++r) total[r] = simd::broadcast(C(0));
            ROPEWALK_DETAIL_UNROLL
            for (index i = 0; i < queries; ++i) {
                ROPEWALK_DETAIL_UNROLL
                for (index r = 0; r < registers; ++r, from += lanes)
                    total[r] = total[r] + simd::absolute(rest[i][r] - simd::load(from));
            }
            pack all = simd::load(static_cast<const C*>(sum));
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < registers; ++r) all = all + total[r];
            simd::store(sum, all);
        }
    }

    void flush(std::span<const index> candidates, std::span<double> distance) {
        C* sum = sums_.data();
        for (const index c : candidates) {
            distance[static_cast<std::size_t>(c)] +=
                static_cast<double>(simd::sum_lanes(simd::load(static_cast<const C*>(sum))));
            simd::store(sum, simd::broadcast(C(0)));
            sum += lanes;
        }
    }

    index tokens_, pairs_;
    pair_layout layout_;
    bool causal_;
    rotation_table<C> added_;            // (cos - 1, sin): what rotation adds
    aligned_vector<C> coefficients_;     // [query heads, blocks, candidates, queries, 4], scaled
    aligned_vector<C> plain_, rotated_;  // [keys, channels]
    aligned_vector<C> columns_;          // [2, channels, keys]
    aligned_vector<C> tile_, deltas_;    // [candidates, 4, keys], [candidates, queries, keys]
    aligned_vector<C> sums_;             // [candidates, lanes]
};

}  // namespace ROPEWALK_NAMESPACE::detail
