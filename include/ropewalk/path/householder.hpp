// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// PaTH position encoding for decoding: Householder-like transforms applied to every cached key, and scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd_storage.hpp>
#include <ropewalk/core/simd_sums.hpp>
#include <ropewalk/kernels/fit.hpp>
#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/path/head_numbers.hpp>

/// PaTH: the score of query i and key j contains the product of the transforms of the tokens j + 1 .. i, H_t
/// = I - beta_t w_t w_t^T with |w_t| = 1 (or w_t = 0: the identity) and beta_t in [0, 2]. They depend on the
/// data and do not commute, so there is no table: a decode step applies the new token's transform to every
/// cached key.
/// Source: Yang et al. 2025 (arXiv 2505.16381); fla-org/flash-linear-attention, layers/path_attn.py.
namespace ROPEWALK_NAMESPACE::path {

/// The transform of one new token: w [kv heads, channels] as a view of one token, beta [kv heads] of any
/// stride.
template <class C>
struct step_transform {
    heads_view<const C> w;  ///< [kv heads, channels]
    head_numbers<C> beta;   ///< one per head, in [0, 2]
};

}  // namespace ROPEWALK_NAMESPACE::path

namespace ROPEWALK_NAMESPACE::detail {

template <class K>
heads_view<stored_t<K>> stored_view(heads_view<K> x) noexcept {
    return {reinterpret_cast<stored_t<K>*>(x.data), x.shape, x.strides};
}

template <std::size_t R, class C>
ROPEWALK_ALWAYS_INLINE void sum_rows(const simd::pack<C> (&x)[R], C* sums) noexcept {
    if constexpr (R == 4) {
        simd::sum_lanes_of_four(x, sums);
    } else {
        for (std::size_t r = 0; r < R; ++r) sums[r] = simd::sum_lanes(x[r]);
    }
}

/// A row of channels in registers: V whole ones and, with Rest, one with `rest` valid lanes.
template <std::size_t V, bool Rest, class C>
struct key_row {
    static constexpr std::size_t parts = V + (Rest ? 1 : 0);
    simd::pack<C> part[parts];

    template <class E>
    ROPEWALK_ALWAYS_INLINE void load(const E* p, index rest) noexcept {
        for (std::size_t v = 0; v < V; ++v) part[v] = simd::load(p + static_cast<index>(v) * simd::lanes<C>);
        if constexpr (Rest) part[V] = simd::load_some(p + static_cast<index>(V) * simd::lanes<C>, rest);
    }
    template <class E>
    ROPEWALK_ALWAYS_INLINE void store(E* p, index rest) const noexcept {
        for (std::size_t v = 0; v < V; ++v) simd::store(p + static_cast<index>(v) * simd::lanes<C>, part[v]);
        if constexpr (Rest) simd::store_some(p + static_cast<index>(V) * simd::lanes<C>, part[V], rest);
    }
};

template <std::size_t R, std::size_t V, bool Rest, class C>
ROPEWALK_ALWAYS_INLINE void dot_rows(const key_row<V, Rest, C> (&x)[R], const key_row<V, Rest, C>& y,
                                     C* sums) noexcept {
    simd::pack<C> sum[R];
    for (std::size_t r = 0; r < R; ++r) sum[r] = x[r].part[0] * y.part[0];
    for (std::size_t v = 1; v < key_row<V, Rest, C>::parts; ++v)
        for (std::size_t r = 0; r < R; ++r) sum[r] = simd::fma(x[r].part[v], y.part[v], sum[r]);
    sum_rows<R>(sum, sums);
}

/// The `group` queries of a key head, `stride` apart, and their scores[g * score_stride + row].
template <class C>
struct key_queries {
    const C* first;
    index stride;
    index group;
    C* scores;
    index score_stride;
};

/// Whether keys are updated by a token's transform, or only read.
enum class walk { carry, read };

/// R key rows, `stride` apart: k <- k - beta (k . w) w if they are updated, and the scores of the queries
/// with the rows as they are stored. `only` is the first query in registers, for a group of one.
template <walk Walk, std::size_t R, std::size_t V, bool Rest, class K, class C>
ROPEWALK_ALWAYS_INLINE void carry_rows(K* key, index stride, index rest, const key_row<V, Rest, C>& w, C beta,
                                       const key_queries<C>& q, const key_row<V, Rest, C>& only,
                                       std::type_identity_t<const K*> ahead) noexcept {
    using row = key_row<V, Rest, C>;
    row x[R];
    const auto load_rows = [&] {
        for (std::size_t r = 0; r < R; ++r)
            x[r].load(static_cast<const K*>(key + static_cast<index>(r) * stride), rest);
    };
    // Prefetches as much memory as these rows hold, further ahead.
    constexpr index line = 64 / static_cast<index>(sizeof(K));
    constexpr index held = static_cast<index>(R * row::parts) * simd::lanes<C>;
    for (index at = 0; at < held; at += line) {
        if constexpr (Walk == walk::carry)
            simd::prefetch(ahead + at);
        else
            simd::prefetch_read(ahead + at);
    }
    load_rows();
    if constexpr (Walk == walk::carry) {
        C along[R];
        dot_rows(x, w, along);
        for (std::size_t r = 0; r < R; ++r) {
            const auto step = simd::broadcast(static_cast<C>(-beta * along[r]));
            for (std::size_t v = 0; v < row::parts; ++v)
                x[r].part[v] = simd::fma(w.part[v], step, x[r].part[v]);
            x[r].store(key + static_cast<index>(r) * stride, rest);
        }
        if (q.group == 0) return;
        // A 16-bit cache is rounded once per token; the score uses the rounded key, as later steps will.
        if constexpr (sizeof(K) < sizeof(C)) load_rows();
    }
    dot_rows(x, only, q.scores);
    for (index g = 1; g < q.group; ++g) {
        row query;
        query.load(q.first + g * q.stride, rest);
        dot_rows(x, query, q.scores + g * q.score_stride);
    }
}

/// The same for rows of more than 8 registers: each step reads the row again from the L1 cache.
template <walk Walk, class K, class C>
void carry_long_key(K* key, index channels, const C* w, C beta, const key_queries<C>& q) noexcept {
    using P = simd::pack<C>;
    constexpr index n = simd::lanes<C>;
    const auto dot = [&](const C* with) {
        P sum = simd::broadcast(C(0));
        for (index i = 0; i < channels; i += n) {
            const index count = channels - i < n ? channels - i : n;
            sum = simd::fma(simd::load_some(static_cast<const K*>(key) + i, count),
                            simd::load_some(with + i, count), sum);
        }
        return simd::sum_lanes(sum);
    };
    if constexpr (Walk == walk::carry) {
        const P step = simd::broadcast(static_cast<C>(-beta * dot(w)));
        for (index i = 0; i < channels; i += n) {
            const index count = channels - i < n ? channels - i : n;
            const P x = simd::load_some(static_cast<const K*>(key) + i, count);
            simd::store_some(key + i, simd::fma(simd::load_some(w + i, count), step, x), count);
        }
    }
    for (index g = 0; g < q.group; ++g) q.scores[g * q.score_stride] = dot(q.first + g * q.stride);
}

/// The inputs of a pass over the cache: the token's transform, its queries ([1, heads, channels], `group` per
/// key head, none for a group of 0), and their scores[query head * stride + token].
template <class C>
struct key_walk {
    path::step_transform<C> transform;
    heads_view<const C> q;
    index group;
    C* scores;
    index score_stride;
};

/// The cache is read in memory order: head after head where the keys of a head are contiguous, else as many
/// tokens of a head as fit in the L1 cache, then the same tokens of the next head. Four tokens at a time
/// share w, q and the sums across lanes. The bits do not depend on the order.
template <walk Walk, std::size_t V, bool Rest, class K, class C>
void walk_keys_of(heads_view<K> keys, const key_walk<C>& by) noexcept {
    using std::integral_constant;
    constexpr bool is_long = V == 0 && !Rest;
    constexpr index abreast = is_long ? 1 : 4;
    const index tokens = keys.tokens(), channels = keys.channels(), group = by.group;
    const index rest = channels - static_cast<index>(V) * simd::lanes<C>;
    const path::step_transform<C>& t = by.transform;
    const heads_view<const C> betas = t.beta.view(1, 1, keys.heads());
    // Rows [first, last) of head h, R at a time; `ahead` gives the memory to prefetch meanwhile.
    const auto carry = [&]<std::size_t R>(index h, index first, index last, auto ahead,
                                          integral_constant<std::size_t, R>) {
        const C beta = Walk == walk::carry ? *betas.at(0, 0, h) : C(0);
        const C* const w = Walk == walk::carry ? t.w.at(0, 0, h) : nullptr;
        const auto queries_of = [&](index j) {
            return key_queries<C>{group ? by.q.at(0, 0, h * group) : nullptr, by.q.strides.head, group,
                                  group ? by.scores + h * group * by.score_stride + j : nullptr,
                                  by.score_stride};
        };
        if constexpr (is_long) {
            for (index j = first; j < last; ++j)
                carry_long_key<Walk>(keys.at(0, j, h), channels, w, beta, queries_of(j));
        } else {
            key_row<V, Rest, C> transform{}, only{};
            if constexpr (Walk == walk::carry) transform.load(w, rest);
            if (group) only.load(by.q.at(0, 0, h * group), rest);
            for (index j = first; j < last; j += static_cast<index>(R))
                carry_rows<Walk, R, V, Rest>(keys.at(0, j, h), keys.strides.token, rest, transform, beta,
                                             queries_of(j), only, ahead(j));
        }
    };
    constexpr integral_constant<std::size_t, 1> one;
    constexpr integral_constant<std::size_t, static_cast<std::size_t>(abreast)> several;
    const index whole = tokens / abreast * abreast;
    if (keys.strides.token < keys.strides.head) {
        constexpr index distance = 1024 / static_cast<index>(sizeof(K));
        for (index h = 0; h < keys.heads(); ++h) {
            const auto next = [&](index j) { return keys.at(0, j, h) + distance; };
            carry(h, 0, whole, next, several);
            carry(h, whole, tokens, next, one);
        }
        return;
    }
    constexpr index tile = 32;
    for (index first = 0; first < whole; first += tile) {
        const index count = std::min(tile, whole - first);
        // Prefetches the next tile, in memory order.
        for (index h = 0; h < keys.heads(); ++h)
            carry(
                h, first, first + count,
                [&](index j) { return keys.at(0, first + count, 0) + (h * count + j - first) * channels; },
                several);
    }
    for (index h = 0; h < keys.heads(); ++h)
        carry(
            h, whole, tokens, [&](index j) { return keys.at(0, j, h); }, one);
}

template <walk Walk, class K, class C>
void walk_keys(heads_view<K> keys, const key_walk<C>& by) noexcept {
    const index whole = keys.channels() / simd::lanes<C>;
    const bool rest = keys.channels() % simd::lanes<C> != 0;
    const auto run = [&]<std::size_t V>(std::integral_constant<std::size_t, V>) {
        rest ? walk_keys_of<Walk, V, true>(keys, by) : walk_keys_of<Walk, V, false>(keys, by);
    };
    using std::integral_constant;
    switch (whole) {
        case 0: return walk_keys_of<Walk, 0, true>(keys, by);
        case 1: return run(integral_constant<std::size_t, 1>{});
        case 2: return run(integral_constant<std::size_t, 2>{});
        case 3: return run(integral_constant<std::size_t, 3>{});
        case 4: return run(integral_constant<std::size_t, 4>{});
        case 6: return run(integral_constant<std::size_t, 6>{});
        case 8: return run(integral_constant<std::size_t, 8>{});
        default: return walk_keys_of<Walk, 0, false>(keys, by);
    }
}

/// The misfit of a token's transform with the keys.
template <class K, class C>
misfit fit_step(const heads_view<K>& keys, const path::step_transform<C>& t) noexcept {
    const misfit view = first_of(fit_writable("keys", keys), fit_readable("w", t.w));
    if (!view.ok() || keys.empty()) return view;
    if (t.w.batches() != 1) return {"batches of w must be 1", 1, t.w.batches()};
    if (keys.batches() != 1) return {"batches of the keys must be 1", 1, keys.batches()};
    if (t.w.tokens() != 1) return {"tokens of w must be 1", 1, t.w.tokens()};
    if (t.w.heads() != keys.heads()) return {"heads of w must be the keys'", keys.heads(), t.w.heads()};
    if (t.w.channels() != keys.channels())
        return {"channels of w must be the keys'", keys.channels(), t.w.channels()};
    if (!t.beta.fits(1, 1, keys.heads()))
        return {"beta must hold a number a kv head", keys.heads(), t.beta.size()};
    return {};
}
/// The misfit of the new token's queries with the keys.
template <class K, class C>
misfit fit_query(const heads_view<K>& keys, const heads_view<C>& q) noexcept {
    const misfit view = fit_readable("q", q);
    if (!view.ok() || keys.empty() || q.empty()) return view;
    if (q.batches() != 1) return {"batches of q must be 1", 1, q.batches()};
    if (q.tokens() != 1) return {"tokens of q must be 1", 1, q.tokens()};
    if (q.channels() != keys.channels())
        return {"channels of q must be the keys'", keys.channels(), q.channels()};
    if (q.heads() % keys.heads() != 0)
        return {"heads of q must be a multiple of the kv heads", keys.heads(), q.heads()};
    return {};
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::path {

/// Applies the transform of one new token to every cached key, in place: k <- k - beta (k . w) w.
/// Shapes:   keys [tokens, kv heads, channels], any strides; w [1, kv heads, channels]; beta [kv heads].
/// Requires: one sequence (batches = 1); beta in [0, 2] and |w| <= 1, otherwise norms grow. Parts share the
///           tokens.
/// Returns:  true; false, with nothing written, when the call does not fit and ROPEWALK_ON_MISFIT lets the
///           program continue.
/// Cost:     reads and writes the keys once; no allocation.
/// Accuracy: f64 within 1e-14, f32 within 1e-5 for order-1 rows of up to 200 channels; 16-bit: that plus half
///           a storage ulp per token. bf16 keys are off by 1.3 % after 64 tokens and by 21 % after 16384
///           (deferred_keys rounds once per block). w = 0 or beta = 0 leaves the bits of a key unchanged.
/// Source:   fla-org/flash-linear-attention, layers/path_attn.py, rank_one_update.
template <class K>
bool update_keys(heads_view<K> keys, std::type_identity_t<step_transform<compute_t<K>>> t,
                 part_of part = {}) noexcept {
    using C = compute_t<K>;
    if (!detail::fits("path::update_keys",
                      detail::first_of(detail::fit_step(keys, t), detail::fit_part(part))))
        return false;
    if (keys.empty()) return true;
    const work_range own = partition(keys.tokens(), part);
    detail::walk_keys<detail::walk::carry, stored_t<K>, C>(
        detail::stored_view(keys.token_slice(own.first, own.count)), {t, {}, 0, nullptr, 0});
    return true;
}

/// update_keys and the scores of the new token's queries in one pass, each row in registers throughout:
/// scores[h, j] = q_h . k_j with the key after its update, not scaled. Query head h reads kv head
/// h / (heads / kv heads).
/// Shapes:   q [1, heads, channels]; scores [heads, tokens].
/// Returns:  as update_keys.
/// Cost:     as update_keys plus heads * channels multiply-adds per token. A score is that of the key as it
///           is stored: the same bits as update_keys followed by the product.
/// Source:   fla-org/flash-linear-attention, layers/path_attn.py (there in two passes).
template <class K>
bool update_keys_and_score(heads_view<K> keys, std::type_identity_t<step_transform<compute_t<K>>> t,
                           std::type_identity_t<heads_view<const compute_t<K>>> q,
                           std::type_identity_t<std::span<compute_t<K>>> scores, part_of part = {}) noexcept {
    using C = compute_t<K>;
    const auto wrong = [&]() noexcept -> misfit {
        if (const misfit step = detail::fit_step(keys, t); !step.ok()) return step;
        if (const misfit query = detail::fit_query(keys, q); !query.ok()) return query;
        const auto held = static_cast<index>(scores.size());
        const index wanted = keys.empty() || q.empty() ? 0 : q.heads() * keys.tokens();
        if (held < wanted) return {"scores must hold heads * tokens numbers", wanted, held};
        return detail::fit_part(part);
    }();
    if (!detail::fits("path::update_keys_and_score", wrong)) return false;
    if (keys.empty() || q.empty()) return update_keys(keys, t, part);
    const work_range own = partition(keys.tokens(), part);
    detail::walk_keys<detail::walk::carry, stored_t<K>, C>(
        detail::stored_view(keys.token_slice(own.first, own.count)),
        {t, q, q.heads() / keys.heads(), scores.data() + own.first, keys.tokens()});
    return true;
}

}  // namespace ROPEWALK_NAMESPACE::path
