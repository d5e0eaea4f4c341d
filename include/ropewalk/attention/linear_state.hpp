// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The state of rotary linear attention: scaled feature maps that neither underflow nor overflow.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/core/simd_exp.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// elu(x) + 1, the usual non-negative feature map.
/// Source: Transformers are RNNs, Katharopoulos et al. 2020, eq. 7.
template <class T>
T elu_plus_one(T x) noexcept {
    return x > 0 ? x + 1 : std::exp(x);
}

}  // namespace ROPEWALK_NAMESPACE::attention

/// Source: Transformers are RNNs, Katharopoulos et al. 2020; RoFormer, Su et al. 2021, eq. 19.
namespace ROPEWALK_NAMESPACE::detail {

// elu(x) + 1 of a very negative x underflows in T long before the quotient of two sums of such features does.
// So a feature is stored as number * exp(power) with power = min(x, 0), sums are stored relative to the
// largest power in them, and only differences of powers are ever exponentiated. The two channels of a pair
// share one power, since a rotation mixes them.

/// The features of some tokens of one head, each pair relative to the larger of its two powers, in half-split
/// order for any input layout, ready for a half-split rotation; and the activations that they come from. C is
/// the type of the arithmetic.
template <class C>
class scaled_feature_map {
  public:
    /// One token: its activations and features [channels] and the power of each pair.
    struct head {
        const C* activations;
        const C* features;
        const C* powers;
    };
    /// Room for `most` tokens.
    scaled_feature_map(index most, index channels)
        : channels_(channels),
          activations_(static_cast<std::size_t>(most * channels)),
          features_(activations_.size()),
          powers_(activations_.size() / 2),
          ordered_(static_cast<std::size_t>(channels)) {}

    /// Replaces the contents by the features of x [1, at most `most` tokens, 1, channels].
    template <class E>
    void fill(pair_layout layout, heads_view<E> x) noexcept {
        constexpr index lanes = simd::lanes<C>;
        const index pairs = channels_ / 2;
        read(x);
        for (index n = 0; n < tokens_; ++n) {
            const C* const row = activations_.data() + n * channels_;
            C* const feature = features_.data() + n * channels_;
            C* const power = powers_.data() + n * pairs;
            const C* from = row;
            if (layout != pair_layout(half_split{})) {
                from = ordered_.data();
                for (index i = 0; i < pairs; ++i) {
                    ordered_[static_cast<std::size_t>(i)] = row[layout.first(i, pairs)];
                    ordered_[static_cast<std::size_t>(pairs + i)] = row[layout.second(i, pairs)];
                }
            }
            for (index i = 0; i < pairs; i += lanes) {
                const index count = std::min(lanes, pairs - i);
                const auto u = simd::load_some(from + i, count);
                const auto v = simd::load_some(from + pairs + i, count);
                const auto zero = simd::broadcast(C(0));
                const auto top = simd::larger(u, v);
                const auto shared = simd::choose(top < zero, top, zero);
                simd::store_some(feature + i, relative(u, shared), count);
                simd::store_some(feature + pairs + i, relative(v, shared), count);
                simd::store_some(power + i, shared, count);
            }
        }
    }
    /// Reads the activations only, for finite().
    template <class E>
    void read(heads_view<E> x) noexcept {
        tokens_ = x.tokens();
        for (index n = 0; n < tokens_; ++n)
            read_row(x.at(0, n, 0), activations_.data() + n * channels_, channels_);
    }
    index tokens() const noexcept { return tokens_; }
    /// The features, to be rotated.
    heads_view<C> view() noexcept { return {features_.data(), tokens_, 1, channels_}; }
    head at(index n) const noexcept {
        return {activations_.data() + n * channels_, features_.data() + n * channels_,
                powers_.data() + n * (channels_ / 2)};
    }
    /// Whether every activation is a finite number.
    bool finite() const noexcept {
        return all_finite<C>({activations_.data(), tokens_ * channels_}, 1, tokens_ * channels_);
    }
    /// f(x) exp(-power); 0 where f(x) is.
    static C relative(C x, C power) noexcept {
        if (x == -std::numeric_limits<C>::infinity()) return 0;
        return power < 0 ? std::exp(x - power) : attention::elu_plus_one(x);
    }
    /// The same in registers, for x <= power or a power of 0.
    static simd::pack<C> relative(simd::pack<C> x, simd::pack<C> power) noexcept {
        const auto zero = simd::broadcast(C(0));
        const auto power_of_e = simd::exp_of_negative(simd::choose(zero < x, zero, x - power));
        const auto none = x == simd::broadcast(-std::numeric_limits<C>::infinity());
        return simd::choose(none, zero, simd::choose(zero < x, x + simd::broadcast(C(1)), power_of_e));
    }

  private:
    index channels_, tokens_ = 0;
    std::vector<C> activations_, features_, powers_, ordered_;
};

template <class C>
class linear_chunk;

/// The sums over the keys so far: rotated features times values [channels, width], and plain features
/// [channels].
template <class T>
class linear_attention_state {
  public:
    linear_attention_state(index channels, index width)
        : channels_(channels),
          width_(width),
          stride_(whole_packs<T>(width)),
          sums_(static_cast<std::size_t>(channels * stride_)),
          mass_(static_cast<std::size_t>(channels)),
          power_of_pair_(mass_.size() / 2),
          power_of_mass_(mass_.size()) {
        clear();
    }

    void clear() {
        std::fill(sums_.begin(), sums_.end(), T(0));
        std::fill(mass_.begin(), mass_.end(), T(0));
        std::fill(power_of_pair_.begin(), power_of_pair_.end(), nothing);
        std::fill(power_of_mass_.begin(), power_of_mass_.end(), nothing);
    }
    /// Whether no key with nonzero features was added.
    bool empty() const noexcept {
        return std::any_of(power_of_pair_.begin(), power_of_pair_.end(), [](T p) { return p == nothing; });
    }
    void take(typename scaled_feature_map<T>::head key, const T* value) {
        for (std::size_t i = 0; i < mass_.size(); ++i) {
            const T power = std::min(key.activations[i], T(0));
            if (power == nothing) continue;
            mass_[i] *= raise(power_of_mass_[i], power);
            mass_[i] += scaled_feature_map<T>::relative(key.activations[i], power) *
                        std::exp(power - power_of_mass_[i]);
        }
        const index pairs = channels_ / 2;
        for (index p = 0; p < pairs; ++p) {
            if (key.powers[p] == nothing) continue;
            T& top = power_of_pair_[static_cast<std::size_t>(p)];
            const T old = raise(top, key.powers[p]), fresh = std::exp(key.powers[p] - top);
            for (const index i : {p, pairs + p}) {
                T* row = sums_.data() + i * stride_;
                const T weight = key.features[i] * fresh;
                for (index j = 0; j < width_; ++j) row[j] = row[j] * old + weight * value[j];
            }
        }
    }
    void read(typename scaled_feature_map<T>::head query, T* out) const {
        T above = nothing, below = nothing;  // the powers of numerator and denominator
        const index pairs = channels_ / 2;
        for (index p = 0; p < pairs; ++p)
            above = std::max(above, query.powers[p] + power_of_pair_[static_cast<std::size_t>(p)]);
        for (std::size_t i = 0; i < mass_.size(); ++i)
            below = std::max(below, std::min(query.activations[i], T(0)) + power_of_mass_[i]);
        T weight = 0;
        for (std::size_t i = 0; i < mass_.size(); ++i) {
            const T power = std::min(query.activations[i], T(0));
            weight += scaled_feature_map<T>::relative(query.activations[i], power) * mass_[i] *
                      std::exp(power + power_of_mass_[i] - below);
        }
        for (index j = 0; j < width_; ++j) out[j] = 0;
        for (index p = 0; p < pairs; ++p) {
            const T share = std::exp(query.powers[p] + power_of_pair_[static_cast<std::size_t>(p)] - above);
            for (const index i : {p, pairs + p})
                for (index j = 0; j < width_; ++j)
                    out[j] += query.features[i] * share * sums_[static_cast<std::size_t>(i * stride_ + j)];
        }
        for (index j = 0; j < width_; ++j)
            out[j] = out[j] == 0 ? out[j] / weight : out[j] / weight * std::exp(above - below);
    }

    friend class linear_chunk<T>;

  private:
    static constexpr T nothing = -std::numeric_limits<T>::infinity();

    /// Raises `top` to `power` where that is larger. Returns the factor for numbers that are relative to
    /// `top`.
    static T raise(T& top, T power) noexcept {
        if (!(power > top)) return 1;
        const T factor = std::exp(top - power);
        top = power;
        return factor;
    }

    index channels_, width_, stride_;
    std::vector<T> sums_, mass_, power_of_pair_, power_of_mass_;
};

}  // namespace ROPEWALK_NAMESPACE::detail
