// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <type_traits>
#include <vector>

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// Which keys a query sees.
enum class causality : std::uint8_t { causal, bidirectional };

/// elu(x) + 1, the usual non-negative feature map.
/// Source: Transformers are RNNs, Katharopoulos et al. 2020, eq. 7.
template <class T>
T elu_plus_one(T x) noexcept {
    return x > 0 ? x + 1 : std::exp(x);
}

/// The tensors of one linear_attention call.
template <class T>
struct linear_attention_tensors {
    heads_view<const T> q;  ///< [batches, tokens, q heads, channels]
    heads_view<const T> k;  ///< [batches, tokens, kv heads, channels]
    heads_view<const T> v;  ///< [batches, tokens, kv heads, value channels]
    heads_view<T> out;      ///< [batches, tokens, q heads, value channels]
};

/// Linear attention with rotary positions: out_m = sum_n <R f(q_m), R f(k_n)> v_n / sum_n <f(q_m), f(k_n)>
/// with f = elu + 1. Only the numerator is rotated, after the feature map; the denominator stays positive.
/// The numerator's weights may be negative, so this is no probability.
/// Shapes:   q, k, v, out as above; q heads a multiple of kv heads; rows as for rotate.
/// Requires: T double or float; rows_view<T>; out overlaps none of the others.
/// Throws:   invalid_config on shapes that disagree.
/// Cost:     O(tokens * channels * value channels) a head; one state of that size.
/// Accuracy: arithmetic in T.
/// Source:   RoFormer, Su et al. 2021, eq. 19.
template <class T>
void fill_linear_attention(pair_layout layout, causality order, const linear_attention_tensors<T>& t,
                           std::type_identity_t<rows_view<T>> rows) {
    static_assert(std::is_same_v<T, double> || std::is_same_v<T, float>, "linear attention is f64 or f32");
    constexpr const char* who = "fill_linear_attention";
    const auto require = [](bool holds, const char* what, index got) {
        detail::require(holds, who, what, got);
    };
    const index tokens = t.q.tokens(), channels = t.q.channels(), width = t.v.channels();
    const index kv_heads = t.k.heads();
    for (const index n : {t.k.tokens(), t.v.tokens(), t.out.tokens()})
        require(n == tokens, "tokens of q, k, v and out must be equal", n);
    for (const index b : {t.k.batches(), t.v.batches(), t.out.batches()})
        require(b == t.q.batches(), "batches of q, k, v and out must be equal", b);
    require(t.k.channels() == channels, "channels of k must be those of q", t.k.channels());
    require(t.out.channels() == width, "channels of out must be those of v", t.out.channels());
    require(t.v.heads() == kv_heads, "heads of v must be those of k", t.v.heads());
    require(t.out.heads() == t.q.heads(), "heads of out must be those of q", t.out.heads());
    require(kv_heads >= 1 && t.q.heads() % kv_heads == 0, "heads of q must be a multiple of those of k",
            t.q.heads());
    require(channels == 2 * rows.pairs, "channels must be twice the pairs of the rows", channels);
    require(rows.tokens == t.q.batches() * tokens, "rows must name one row a token", rows.tokens);

    const auto mapped = [](heads_view<const T> x) {
        std::vector<T> flat(static_cast<std::size_t>(x.batches() * x.tokens() * x.heads() * x.channels()));
        heads_view<T> to(flat.data(), x.shape);
        for (index b = 0; b < x.batches(); ++b)
            for (index n = 0; n < x.tokens(); ++n)
                for (index h = 0; h < x.heads(); ++h)
                    for (index i = 0; i < x.channels(); ++i)
                        to.at(b, n, h)[i] = elu_plus_one(x.at(b, n, h)[i]);
        return flat;
    };
    std::vector<T> q_plain = mapped(t.q), k_plain = mapped(t.k), q_turned = q_plain, k_turned = k_plain;
    const heads_view<T> fq(q_plain.data(), t.q.shape), fk(k_plain.data(), t.k.shape);
    const heads_view<T> rq(q_turned.data(), t.q.shape), rk(k_turned.data(), t.k.shape);
    rotate(layout, rq, rk, rows);

    std::vector<T> state(static_cast<std::size_t>(channels * width));
    std::vector<T> mass(static_cast<std::size_t>(channels));
    for (index b = 0; b < t.q.batches(); ++b)
        for (index h = 0; h < t.q.heads(); ++h) {
            const index kv = h / (t.q.heads() / kv_heads);
            std::fill(state.begin(), state.end(), T(0));
            std::fill(mass.begin(), mass.end(), T(0));
            const auto take = [&](index n) {
                for (index i = 0; i < channels; ++i) {
                    mass[static_cast<std::size_t>(i)] += fk.at(b, n, kv)[i];
                    T* row = state.data() + i * width;
                    for (index j = 0; j < width; ++j) row[j] += rk.at(b, n, kv)[i] * t.v.at(b, n, kv)[j];
                }
            };
            if (order == causality::bidirectional)
                for (index n = 0; n < tokens; ++n) take(n);
            for (index n = 0; n < tokens; ++n) {
                if (order == causality::causal) take(n);
                T weight = 0;
                T* out = t.out.at(b, n, h);
                for (index j = 0; j < width; ++j) out[j] = 0;
                for (index i = 0; i < channels; ++i) {
                    weight += fq.at(b, n, h)[i] * mass[static_cast<std::size_t>(i)];
                    const T* row = state.data() + i * width;
                    for (index j = 0; j < width; ++j) out[j] += rq.at(b, n, h)[i] * row[j];
                }
                for (index j = 0; j < width; ++j) out[j] /= weight;
            }
        }
}

}  // namespace ROPEWALK_NAMESPACE::attention
