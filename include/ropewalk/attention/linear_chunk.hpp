// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <ropewalk/attention/linear_state.hpp>

/// Linear attention a chunk of tokens at a time, by matrix products: what the keys before the chunk left
/// behind through the state, the chunk's own through its scores.
/// Source:   chunkwise form, Hua et al. 2022; Sun et al. 2023.
namespace ROPEWALK_NAMESPACE::detail {

/// The keys of a chunk of one kv head, brought to the powers that the state has after them.
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

    /// Takes tokens first .. first + count of (batch, head) into the state. With `causal`, read() may follow
    /// for the same tokens; false when products could lose what token by token keeps (numbers that are not
    /// finite, or powers that rise by more than the range of T allows inside the chunk), and then nothing was
    /// taken.
    template <class V>
    bool take(linear_attention_state<T>& state, const map& keys, heads_view<V> v, index batch, index head,
              index first, index count, bool causal) {
        first_ = first;
        count_ = count;
        const index pairs = channels_ / 2;
        const auto key = [&](index n) { return keys.at(batch, first + n, head); };
        for (index n = 0; n < count; ++n)
            if (!all_finite<T>({key(n).activations, channels_}, 1, channels_)) return false;
        const matrix_at<const T> values = tile_rows<T>(v, batch, head, first, count, true, values_.data());
        if (!all_finite<T>(values, count, width_)) return false;

        // The powers before the chunk, with its first token, and after it.
        std::copy(state.power_of_pair_.begin(), state.power_of_pair_.end(), old_pair_.begin());
        std::copy(state.power_of_mass_.begin(), state.power_of_mass_.end(), old_mass_.begin());
        T rise = 0;
        const auto lift = [&](std::vector<T>& top, index i, const auto& power_of) {
            T& now = top[static_cast<std::size_t>(i)];
            const T start = std::max(now, power_of(0));
            now = start;
            for (index n = 1; n < count; ++n) now = std::max(now, power_of(n));
            rise = std::max(rise, now - start);
        };
        for (index p = 0; p < pairs; ++p)
            lift(state.power_of_pair_, p, [&](index n) { return key(n).powers[p]; });
        for (index i = 0; i < channels_; ++i)
            lift(state.power_of_mass_, i, [&](index n) { return std::min(key(n).activations[i], T(0)); });
        constexpr T most = sizeof(T) == 4 ? T(30) : T(300);  // exp(-most)^2 is still a normal number
        if (causal && rise > most) {
            state.power_of_pair_ = old_pair_;
            state.power_of_mass_ = old_mass_;
            return false;
        }

        // What was there, and the keys, relative to the new powers.
        for (index p = 0; p < pairs; ++p) {
            const T shrink = shrunk(old_pair_, state.power_of_pair_, p);
            if (shrink == 1) continue;
            for (const index i : {p, pairs + p})
                for (index j = 0; j < stride_; ++j)
                    state.sums_[static_cast<std::size_t>(i * stride_ + j)] *= shrink;
        }
        for (index i = 0; i < channels_; ++i)
            state.mass_[static_cast<std::size_t>(i)] *= shrunk(old_mass_, state.power_of_mass_, i);
        T* mass = state.mass_.data();
        for (index n = 0; n < count; ++n) {
            const auto k = key(n);
            for (index p = 0; p < pairs; p += lanes) {
                const index c = std::min(lanes, pairs - p);
                const auto share = simd::exp_of_negative(simd::load_some(k.powers + p, c) -
                                                         simd::load_some(state.power_of_pair_.data() + p, c));
                T lane_of_first[std::size_t{simd::lanes<T>}], lane_of_second[std::size_t{simd::lanes<T>}];
                simd::store(lane_of_first, share * simd::load_some(k.features + p, c));
                simd::store(lane_of_second, share * simd::load_some(k.features + pairs + p, c));
                for (index i = 0; i < c; ++i) {
                    key_columns_[static_cast<std::size_t>((p + i) * size + n)] = lane_of_first[i];
                    key_columns_[static_cast<std::size_t>((pairs + p + i) * size + n)] = lane_of_second[i];
                }
            }
            T* const after = masses_.data() + n * channels_;
            for (index i = 0; i < channels_; i += lanes) {
                const index c = std::min(lanes, channels_ - i);
                const auto plain = plain_feature(simd::load_some(k.activations + i, c),
                                                 simd::load_some(state.power_of_mass_.data() + i, c));
                const auto sum = simd::load_some(static_cast<const T*>(mass) + i, c) + plain;
                simd::store_some(mass + i, sum, c);
                simd::store_some(after + i, sum, c);
            }
        }
        for (index n = count; n < size; ++n)
            for (index i = 0; i < channels_; ++i) key_columns_[static_cast<std::size_t>(i * size + n)] = 0;
        values_at_ = values;
        if (!causal) add(state);
        return true;
    }
    /// After take(.., causal): the state's sums take the chunk, once its queries have read.
    void add(linear_attention_state<T>& state) noexcept {
        tile_product<left::rows, onto::sum, T>(channels_, stride_ / lanes, count_,
                                               {key_columns_.data(), size}, values_at_,
                                               {state.sums_.data(), stride_});
    }

    /// Results of a query head for tokens first .. first + count, its queries finite. `causal`: take() came
    /// before with the same tokens and add() follows; else all of the state is seen.
    template <class O>
    void read(const linear_attention_state<T>& state, const map& queries, heads_view<O> out, index batch,
              index head, index first, index count, bool causal) noexcept {
        const index pairs = channels_ / 2;
        T above[size], below[size], weight[size];
        for (index m = 0; m < count; ++m) {
            const auto q = queries.at(batch, first + m, head);
            T top = -std::numeric_limits<T>::infinity(), most = top;
            for (index p = 0; p < pairs; ++p)
                top = std::max(top, q.powers[p] + state.power_of_pair_[static_cast<std::size_t>(p)]);
            for (index i = 0; i < channels_; ++i)
                most = std::max(most, std::min(q.activations[i], T(0)) +
                                          state.power_of_mass_[static_cast<std::size_t>(i)]);
            above[m] = top;
            below[m] = most;
            T* const row = query_.data() + m * channels_;
            for (index p = 0; p < pairs; p += lanes) {
                const index c = std::min(lanes, pairs - p);
                const auto share = simd::exp_of_negative(simd::load_some(q.powers + p, c) +
                                                         simd::load_some(state.power_of_pair_.data() + p, c) -
                                                         simd::broadcast(top));
                simd::store_some(row + p, share * simd::load_some(q.features + p, c), c);
                simd::store_some(row + pairs + p, share * simd::load_some(q.features + pairs + p, c), c);
            }
            const T* const mass = causal ? masses_.data() + m * channels_ : state.mass_.data();
            auto sum = simd::broadcast(T(0));
            T tail = 0;
            for (index i = 0; i < channels_; i += lanes) {
                const index c = std::min(lanes, channels_ - i);
                const auto x = simd::load_some(q.activations + i, c);
                const auto p = simd::load_some(state.power_of_mass_.data() + i, c);
                const auto term = plain_feature(x, simd::broadcast(most) - p) * simd::load_some(mass + i, c);
                if (c == lanes) {
                    sum = sum + term;
                } else {  // the lanes past the last channel hold no power
                    T lane[std::size_t{simd::lanes<T>}];
                    simd::store(lane, term);
                    for (index j = 0; j < c; ++j) tail += lane[j];
                }
            }
            weight[m] = lane_sum<T>(sum) + tail;
        }
        const matrix_at<T> to{out_.data(), stride_};
        const matrix_at<const T> query{query_.data(), channels_};
        tile_product<left::rows, onto::nothing, T>(count, stride_ / lanes, channels_, query,
                                                   {state.sums_.data(), stride_}, to);
        if (causal) {
            tile_product<left::rows, onto::nothing, T>(count, size / lanes, channels_, query,
                                                       {key_columns_.data(), size}, {scores_.data(), size});
            for (index m = 0; m < count; ++m)
                std::fill_n(scores_.data() + m * size + m + 1, size - m - 1, T(0));
            tile_product<left::rows, onto::sum, T>(count, stride_ / lanes, count, {scores_.data(), size},
                                                   values_at_, to);
        }
        for (index m = 0; m < count; ++m) {
            T* const row = out_.data() + m * stride_;
            const T power = std::exp(above[m] - below[m]);
            for (index j = 0; j < width_; ++j)
                row[j] = row[j] == 0 ? row[j] / weight[m] : row[j] / weight[m] * power;
            write_row(row, out.at(batch, first + m, head), width_);
        }
    }
    /// Whether read() may be used: a query of no features has no power.
    bool readable(const map& queries, index batch, index head, index first, index count) const noexcept {
        bool finite = true;
        for (index m = 0; m < count; ++m)
            finite = finite &&
                     all_finite<T>({queries.at(batch, first + m, head).activations, channels_}, 1, channels_);
        return finite;
    }

  private:
    static std::vector<T> numbers(index count) { return std::vector<T>(static_cast<std::size_t>(count)); }
    /// exp(old - now), 0 where there was nothing.
    static T shrunk(const std::vector<T>& old, const std::vector<T>& now, index i) noexcept {
        const T before = old[static_cast<std::size_t>(i)], after = now[static_cast<std::size_t>(i)];
        return before == after ? T(1) : std::exp(before - after);
    }
    /// (elu(x) + 1) exp(-power), for min(x, 0) <= power.
    static simd::pack<T> plain_feature(simd::pack<T> x, simd::pack<T> power) noexcept {
        const auto zero = simd::broadcast(T(0));
        const auto positive = simd::choose(zero < x, x, zero), negative = simd::choose(zero < x, zero, x);
        return (positive + simd::broadcast(T(1))) * simd::exp_of_negative(negative - power);
    }

    index channels_, width_, stride_, first_ = 0, count_ = 0;
    std::vector<T> key_columns_;  // [channels, size], relative to the state's powers
    std::vector<T> masses_;       // [size, channels], the mass after each token
    std::vector<T> values_;       // a padded copy where values do not lie as numbers of T
    std::vector<T> query_, scores_, out_, old_pair_, old_mass_;
    matrix_at<const T> values_at_{};
};

}  // namespace ROPEWALK_NAMESPACE::detail
