// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Linear attention by chunks of tokens: matrix products instead of a loop over tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ropewalk/attention/linear_state.hpp>

/// Linear attention by chunks of tokens, with matrix products. Keys before the chunk enter through the state,
/// keys of the chunk through their scores.
/// Source:   chunkwise form, Hua et al. 2022; Sun et al. 2023.
namespace ROPEWALK_NAMESPACE::detail {

/// The keys of a chunk of one kv head, scaled to the powers that the state has after the chunk.
template <class T>
class linear_chunk {
    static constexpr index lanes = simd::lanes<T>;
    using map = scaled_feature_map<T>;

  public:
    static constexpr index size = 64;

    linear_chunk(index channels, index width)
        : channels_(channels),
          width_(width),
          stride_(whole_packs<T>(width)),
          key_columns_(numbers(channels * size)),
          masses_(numbers(size * channels)),
          values_(numbers(size * stride_)),
          query_(numbers(size * channels)),
          scores_(numbers(size * size)),
          out_(numbers(size * stride_)),
          old_pair_(numbers(channels / 2)),
          old_mass_(numbers(channels)) {}

    /// Adds a chunk of keys and their values [1, tokens, 1, width] to the state; with `causal`, add() does
    /// that after read() has been called for the same tokens. Returns false, and does nothing, when products
    /// would be less exact than token by token: for numbers that are not finite, or powers that rise inside
    /// the chunk by more than the range of T allows.
    template <class V>
    bool take(linear_attention_state<T>& state, const map& keys, heads_view<V> v, bool causal) noexcept {
        count_ = keys.tokens();
        if (!keys.finite()) return false;
        // In place only where rows are whole registers.
        const matrix_at<const T> values =
            tile_rows<T>(v, 0, 0, 0, count_, width_ % lanes != 0, values_.data());
        if (!all_finite<T>(values, count_, width_)) return false;

        std::copy(state.power_of_pair_.begin(), state.power_of_pair_.end(), old_pair_.begin());
        std::copy(state.power_of_mass_.begin(), state.power_of_mass_.end(), old_mass_.begin());
        const T of_pairs = lift<false>(state.power_of_pair_, keys.at(0).powers);
        const T of_mass = lift<true>(state.power_of_mass_, keys.at(0).activations);
        constexpr T most = sizeof(T) == 4 ? T(30) : T(300);  // exp(-most)^2 is still a normal number
        if (causal && std::max(of_pairs, of_mass) > most) {
            std::copy(old_pair_.begin(), old_pair_.end(), state.power_of_pair_.begin());
            std::copy(old_mass_.begin(), old_mass_.end(), state.power_of_mass_.begin());
            return false;
        }
        shrink(state);
        for (index n = 0; n < count_; ++n) take_key(state, keys.at(n), n);
        for (index n = count_; n < whole_packs<T>(count_); ++n)
            for (index i = 0; i < channels_; ++i) key_columns_[static_cast<std::size_t>(i * size + n)] = 0;
        values_at_ = values;
        if (!causal) add(state);
        return true;
    }
    /// After take(.., causal) and read(): adds the chunk to the state's sums.
    void add(linear_attention_state<T>& state) noexcept {
        tile_product<left::rows, onto::sum, T>(channels_, stride_ / lanes, count_,
                                               {key_columns_.data(), size}, values_at_,
                                               {state.sums_.data(), stride_});
    }

    /// Writes the results of a query head, whose queries are finite, to out [1, tokens, 1, width]. `causal`:
    /// between take() and add() of the same tokens; else queries attend to all keys in the state.
    template <class O>
    void read(const linear_attention_state<T>& state, const map& queries, heads_view<O> out,
              bool causal) noexcept {
        const index count = queries.tokens();
        T power[size], weight[size];
        for (index m = 0; m < count; ++m) {
            const auto q = queries.at(m);
            const T above = top_power<false>(q.powers, state.power_of_pair_);
            const T below = top_power<true>(q.activations, state.power_of_mass_);
            fill_query(state, q, above, query_.data() + m * channels_);
            weight[m] = weigh(state, q, below, causal ? masses_.data() + m * channels_ : state.mass_.data());
            power[m] = std::exp(above - below);
        }
        const matrix_at<T> to{out_.data(), stride_};
        const matrix_at<const T> query{query_.data(), channels_};
        tile_product<left::rows, onto::nothing, T>(count, stride_ / lanes, channels_, query,
                                                   {state.sums_.data(), stride_}, to);
        if (causal) add_own(count);
        for (index m = 0; m < count; ++m) {
            T* const row = out_.data() + m * stride_;
            const auto by = simd::broadcast(power[m]), all = simd::broadcast(weight[m]);
            for (index j = 0; j < stride_; j += lanes) {
                const auto sum = simd::load(static_cast<const T*>(row) + j), mean = sum / all;
                simd::store(row + j, simd::choose(sum == simd::broadcast(T(0)), mean, mean * by));
            }
            write_row(row, out.at(0, m, 0), width_);
        }
    }

  private:
    static std::vector<T> numbers(index count) { return std::vector<T>(static_cast<std::size_t>(count)); }
    /// (elu(x) + 1) exp(-power), for min(x, 0) <= power.
    static simd::pack<T> plain_feature(simd::pack<T> x, simd::pack<T> power) noexcept {
        const auto zero = simd::broadcast(T(0));
        const auto positive = simd::choose(zero < x, x, zero), negative = simd::choose(zero < x, zero, x);
        return (positive + simd::broadcast(T(1))) * simd::exp_of_negative(negative - power);
    }
    /// Numbers as powers; activations above 0 have the power 0.
    template <bool Activations>
    static simd::pack<T> powers_of(const T* x, index count) noexcept {
        const auto power = simd::load_some(x, count);
        if constexpr (!Activations) return power;
        const auto zero = simd::broadcast(T(0));
        return simd::choose(power < zero, power, zero);
    }

    /// Raises the powers to those of the chunk's tokens, whose rows begin at `rows`. Returns the most by
    /// which one rose after the first token.
    template <bool Activations>
    T lift(std::vector<T>& top, const T* rows) const noexcept {
        const auto width = static_cast<index>(top.size());
        auto rise = simd::broadcast(T(0));
        for (index i = 0; i < width; i += lanes) {
            const index some = std::min(lanes, width - i);
            auto now = simd::larger(simd::load_some(static_cast<const T*>(top.data()) + i, some),
                                    powers_of<Activations>(rows + i, some));
            const auto start = now;
            for (index n = 1; n < count_; ++n)
                now = simd::larger(powers_of<Activations>(rows + n * width + i, some), now);
            rise = simd::larger(now - start, rise);
            simd::store_some(top.data() + i, now, some);
        }
        T lane[std::size_t{simd::lanes<T>}];
        simd::store(lane, rise);
        return *std::max_element(lane, lane + lanes);
    }
    /// Rescales the state to the new powers.
    void shrink(linear_attention_state<T>& state) const noexcept {
        const index pairs = channels_ / 2;
        const auto factor = [](const std::vector<T>& old, const std::vector<T>& now, index i) {
            const T before = old[static_cast<std::size_t>(i)], after = now[static_cast<std::size_t>(i)];
            return before == after ? T(1) : std::exp(before - after);
        };
        for (index p = 0; p < pairs; ++p) {
            const T by = factor(old_pair_, state.power_of_pair_, p);
            if (by == 1) continue;
            for (const index i : {p, pairs + p})
                for (index j = 0; j < stride_; ++j)
                    state.sums_[static_cast<std::size_t>(i * stride_ + j)] *= by;
        }
        for (index i = 0; i < channels_; ++i)
            state.mass_[static_cast<std::size_t>(i)] *= factor(old_mass_, state.power_of_mass_, i);
    }
    void take_key(linear_attention_state<T>& state, typename map::head k, index n) noexcept {
        const index pairs = channels_ / 2;
        for (index p = 0; p < pairs; p += lanes) {
            const index c = std::min(lanes, pairs - p);
            const auto share = simd::exp_of_negative(
                simd::load_some(k.powers + p, c) -
                simd::load_some(static_cast<const T*>(state.power_of_pair_.data()) + p, c));
            T first[std::size_t{simd::lanes<T>}], second[std::size_t{simd::lanes<T>}];
            simd::store(first, share * simd::load_some(k.features + p, c));
            simd::store(second, share * simd::load_some(k.features + pairs + p, c));
            T* const column = key_columns_.data() + p * size + n;
            for (index i = 0; i < c; ++i) {
                column[i * size] = first[i];
                column[(pairs + i) * size] = second[i];
            }
        }
        T* const mass = state.mass_.data();
        T* const after = masses_.data() + n * channels_;
        for (index i = 0; i < channels_; i += lanes) {
            const index c = std::min(lanes, channels_ - i);
            const auto plain =
                plain_feature(simd::load_some(k.activations + i, c),
                              simd::load_some(static_cast<const T*>(state.power_of_mass_.data()) + i, c));
            const auto sum = simd::load_some(static_cast<const T*>(mass) + i, c) + plain;
            simd::store_some(mass + i, sum, c);
            simd::store_some(after + i, sum, c);
        }
    }
    /// The largest sum of a query's power and the state's.
    template <bool Activations>
    T top_power(const T* x, const std::vector<T>& powers) const noexcept {
        const auto width = static_cast<index>(powers.size());
        constexpr T nothing = -std::numeric_limits<T>::infinity();
        auto top = simd::broadcast(nothing);
        index i = 0;
        for (; i + lanes <= width; i += lanes)
            top = simd::larger(powers_of<Activations>(x + i, lanes) + simd::load(powers.data() + i), top);
        T lane[std::size_t{simd::lanes<T>}];
        simd::store(lane, top);
        T most = *std::max_element(lane, lane + lanes);
        for (; i < width; ++i)
            most = std::max(
                most, (Activations ? std::min(x[i], T(0)) : x[i]) + powers[static_cast<std::size_t>(i)]);
        return most;
    }
    /// The query's features relative to the powers of the state and `above`.
    void fill_query(const linear_attention_state<T>& state, typename map::head q, T above,
                    T* row) const noexcept {
        const index pairs = channels_ / 2;
        for (index p = 0; p < pairs; p += lanes) {
            const index c = std::min(lanes, pairs - p);
            const auto share = simd::exp_of_negative(simd::load_some(q.powers + p, c) +
                                                     simd::load_some(state.power_of_pair_.data() + p, c) -
                                                     simd::broadcast(above));
            simd::store_some(row + p, share * simd::load_some(q.features + p, c), c);
            simd::store_some(row + pairs + p, share * simd::load_some(q.features + pairs + p, c), c);
        }
    }
    /// The denominator, relative to `below`.
    T weigh(const linear_attention_state<T>& state, typename map::head q, T below,
            const T* mass) const noexcept {
        auto sum = simd::broadcast(T(0));
        T tail = 0;
        for (index i = 0; i < channels_; i += lanes) {
            const index c = std::min(lanes, channels_ - i);
            const auto x = simd::load_some(q.activations + i, c);
            const auto p = simd::load_some(state.power_of_mass_.data() + i, c);
            const auto term = plain_feature(x, simd::broadcast(below) - p) * simd::load_some(mass + i, c);
            if (c == lanes) {
                sum = sum + term;
            } else {  // lanes past the last channel have no power
                T lane[std::size_t{simd::lanes<T>}];
                simd::store(lane, term);
                for (index j = 0; j < c; ++j) tail += lane[j];
            }
        }
        return lane_sum<T>(sum) + tail;
    }
    /// Adds the chunk's own keys, for each query up to itself. Past the diagonal, products are computed only
    /// within one register.
    void add_own(index count) noexcept {
        for (index m = 0; m < count; m += lanes) {
            const index rows = std::min(lanes, count - m), keys = std::min(m + lanes, count);
            const matrix_at<T> scores{scores_.data() + m * size, size};
            tile_product<left::rows, onto::nothing, T>(rows, m / lanes + 1, channels_,
                                                       {query_.data() + m * channels_, channels_},
                                                       {key_columns_.data(), size}, scores);
            for (index r = 0; r < rows; ++r)
                std::fill_n(scores.data + r * size + m + r + 1, lanes - r - 1, T(0));
            tile_product<left::rows, onto::sum, T>(rows, stride_ / lanes, keys, {scores.data, size},
                                                   values_at_, {out_.data() + m * stride_, stride_});
        }
    }

    index channels_, width_, stride_, count_ = 0;
    std::vector<T> key_columns_;  // [channels, size], relative to the state's powers
    std::vector<T> masses_;       // [size, channels], the mass after each token
    std::vector<T> values_;       // a padded copy where values are not numbers of T in whole registers
    std::vector<T> query_, scores_, out_, old_pair_, old_mass_;
    matrix_at<const T> values_at_{};
};

}  // namespace ROPEWALK_NAMESPACE::detail
