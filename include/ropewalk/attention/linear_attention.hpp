// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
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

}  // namespace ROPEWALK_NAMESPACE::attention

namespace ROPEWALK_NAMESPACE::detail {

// elu(x) + 1 of a very negative x is too small for T long before the quotient of two such sums is. So a
// feature is kept as number * exp(power) with power = min(x, 0), sums are kept relative to the largest power
// that went in, and only differences of powers are ever exponentiated. What is rotated shares one power a
// pair, since a rotation mixes the two.

/// The features of every token, each pair relative to the larger of its two powers, ready to be rotated.
template <class T>
class scaled_feature_map {
  public:
    /// One head: its features [channels] and the power of each pair.
    struct head {
        const T* features;
        const T* powers;
    };
    scaled_feature_map(pair_layout layout, heads_view<const T> x)
        : shape_(x.shape),
          features_(static_cast<std::size_t>(x.batches() * x.tokens() * x.heads() * x.channels())),
          powers_(features_.size() / 2) {
        const index pairs = x.channels() / 2;
        T* power = powers_.data();
        for (index b = 0; b < x.batches(); ++b)
            for (index n = 0; n < x.tokens(); ++n)
                for (index h = 0; h < x.heads(); ++h)
                    for (index i = 0; i < pairs; ++i, ++power) {
                        const index first = layout.first(i, pairs), second = layout.second(i, pairs);
                        const T u = x.at(b, n, h)[first], v = x.at(b, n, h)[second];
                        *power = std::min(std::max(u, v), T(0));
                        view().at(b, n, h)[first] = relative(u, *power);
                        view().at(b, n, h)[second] = relative(v, *power);
                    }
    }
    heads_view<T> view() noexcept { return {features_.data(), shape_}; }
    head at(index b, index n, index h) const noexcept {
        const index row = (b * shape_.tokens + n) * shape_.heads + h;
        return {features_.data() + row * shape_.channels, powers_.data() + row * (shape_.channels / 2)};
    }
    /// f(x) exp(-power); 0 where f(x) is.
    static T relative(T x, T power) noexcept {
        if (x == -std::numeric_limits<T>::infinity()) return 0;
        return power < 0 ? std::exp(x - power) : attention::elu_plus_one(x);
    }

  private:
    heads_shape shape_;
    std::vector<T> features_;
    std::vector<T> powers_;
};

/// What the keys so far leave behind: sum of rotated features times values [channels, width], and the sum of
/// plain features [channels].
template <class T>
class linear_attention_state {
  public:
    linear_attention_state(index channels, index width)
        : channels_(channels),
          width_(width),
          sums_(static_cast<std::size_t>(channels * width)),
          mass_(static_cast<std::size_t>(channels)),
          power_of_pair_(mass_.size() / 2),
          power_of_mass_(mass_.size()) {}

    void clear() {
        std::fill(sums_.begin(), sums_.end(), T(0));
        std::fill(mass_.begin(), mass_.end(), T(0));
        std::fill(power_of_pair_.begin(), power_of_pair_.end(), nothing);
        std::fill(power_of_mass_.begin(), power_of_mass_.end(), nothing);
    }
    void take(pair_layout layout, const T* key, typename scaled_feature_map<T>::head rotated,
              const T* value) {
        for (std::size_t i = 0; i < mass_.size(); ++i) {
            const T power = std::min(key[i], T(0));
            if (power == nothing) continue;
            mass_[i] *= raise(power_of_mass_[i], power);
            mass_[i] += scaled_feature_map<T>::relative(key[i], power) * std::exp(power - power_of_mass_[i]);
        }
        const index pairs = channels_ / 2;
        for (index p = 0; p < pairs; ++p) {
            if (rotated.powers[p] == nothing) continue;
            T& top = power_of_pair_[static_cast<std::size_t>(p)];
            const T old = raise(top, rotated.powers[p]), fresh = std::exp(rotated.powers[p] - top);
            for (const index i : {layout.first(p, pairs), layout.second(p, pairs)}) {
                T* row = sums_.data() + i * width_;
                const T weight = rotated.features[i] * fresh;
                for (index j = 0; j < width_; ++j) row[j] = row[j] * old + weight * value[j];
            }
        }
    }
    void read(pair_layout layout, const T* query, typename scaled_feature_map<T>::head rotated,
              T* out) const {
        T above = nothing, below = nothing;  // the powers of numerator and denominator
        const index pairs = channels_ / 2;
        for (index p = 0; p < pairs; ++p)
            above = std::max(above, rotated.powers[p] + power_of_pair_[static_cast<std::size_t>(p)]);
        for (std::size_t i = 0; i < mass_.size(); ++i)
            below = std::max(below, std::min(query[i], T(0)) + power_of_mass_[i]);
        T weight = 0;
        for (std::size_t i = 0; i < mass_.size(); ++i) {
            const T power = std::min(query[i], T(0));
            weight += scaled_feature_map<T>::relative(query[i], power) * mass_[i] *
                      std::exp(power + power_of_mass_[i] - below);
        }
        for (index j = 0; j < width_; ++j) out[j] = 0;
        for (index p = 0; p < pairs; ++p) {
            const T share = std::exp(rotated.powers[p] + power_of_pair_[static_cast<std::size_t>(p)] - above);
            for (const index i : {layout.first(p, pairs), layout.second(p, pairs)})
                for (index j = 0; j < width_; ++j)
                    out[j] += rotated.features[i] * share * sums_[static_cast<std::size_t>(i * width_ + j)];
        }
        for (index j = 0; j < width_; ++j)
            out[j] = out[j] == 0 ? out[j] / weight : out[j] / weight * std::exp(above - below);
    }

  private:
    static constexpr T nothing = -std::numeric_limits<T>::infinity();

    /// Lifts `top` to `power` where that is larger; what is relative to it takes the factor returned.
    static T raise(T& top, T power) noexcept {
        if (!(power > top)) return 1;
        const T factor = std::exp(top - power);
        top = power;
        return factor;
    }

    index channels_, width_;
    std::vector<T> sums_, mass_, power_of_pair_, power_of_mass_;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// The tensors of one linear_attention call.
template <class T>
struct linear_attention_tensors {
    heads_view<const T> q;  ///< [batches, tokens, q heads, channels]
    heads_view<const T> k;  ///< [batches, tokens, kv heads, channels]
    heads_view<const T> v;  ///< [batches, tokens, kv heads, value channels]
    heads_view<T> out;      ///< [batches, tokens, q heads, value channels]
};

/// Linear attention with rotary positions: out_m = sum_n <R f(q_m), R f(k_n)> v_n / sum_n <f(q_m), f(k_n)>
/// with f = elu + 1. Only the numerator is rotated, after the feature map; the denominator stays positive,
/// however negative the activations are (down to half the range of T).
/// The numerator's weights may be negative, so this is no probability.
/// Shapes:   q, k, v, out as above; q heads a multiple of kv heads; rows as for rotate.
/// Requires: T double or float; rows of T, or a table of them; out overlaps none of the others.
/// Throws:   invalid_config on shapes that disagree.
/// Cost:     O(tokens * channels * value channels) a head; one state of that size.
/// Accuracy: arithmetic in T; features too small for T keep their share of the quotient.
/// Source:   RoFormer, Su et al. 2021, eq. 19.
template <class T, class R>
void fill_linear_attention(pair_layout layout, causality order, const linear_attention_tensors<T>& t,
                           const R& given) {
    const auto& rows = detail::rows_of(given);
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
    require(rows.count() == t.q.batches() * tokens, "rows must name one row a token", rows.count());

    detail::scaled_feature_map<T> fq(layout, t.q), fk(layout, t.k);
    rotate(layout, fq.view(), fk.view(), rows);

    detail::linear_attention_state<T> state(channels, width);
    for (index b = 0; b < t.q.batches(); ++b)
        for (index h = 0; h < t.q.heads(); ++h) {
            const index kv = h / (t.q.heads() / kv_heads);
            state.clear();
            const auto take = [&](index n) {
                state.take(layout, t.k.at(b, n, kv), fk.at(b, n, kv), t.v.at(b, n, kv));
            };
            if (order == causality::bidirectional)
                for (index n = 0; n < tokens; ++n) take(n);
            for (index n = 0; n < tokens; ++n) {
                if (order == causality::causal) take(n);
                state.read(layout, t.q.at(b, n, h), fq.at(b, n, h), t.out.at(b, n, h));
            }
        }
}

}  // namespace ROPEWALK_NAMESPACE::attention
