// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <ranges>
#include <span>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// The caller's positions [tokens, axes], of any of four element types.
/// Source: design of this library.
class position_span {
  public:
    /// From a vector, an array or a span.
    template <class Range>
    requires std::is_constructible_v < std::span<const std::ranges::range_value_t<Range>>,
    const Range& > position_span(const Range& range) noexcept
        : count_(static_cast<index>(std::ranges::size(range))) {
        using P = std::ranges::range_value_t<Range>;
        static_assert(std::is_same_v<P, std::int32_t> || std::is_same_v<P, std::int64_t> ||
                          std::is_same_v<P, float> || std::is_same_v<P, double>,
                      "positions are int32, int64, float or double");
        data_ = std::ranges::data(range);
        kind_ = std::is_same_v<P, std::int32_t>   ? kind::i32
                : std::is_same_v<P, std::int64_t> ? kind::i64
                : std::is_same_v<P, float>        ? kind::f32
                                                  : kind::f64;
    }
    index size() const noexcept { return count_; }
    /// Element i of [tokens, axes]. The type is looked at here, at each coordinate, and not around the
    /// kernel: four kernels for four types would be four times the code.
    double operator[](index i) const noexcept {
        switch (kind_) {
            case kind::i32: return static_cast<const std::int32_t*>(data_)[i];
            case kind::i64: return static_cast<double>(static_cast<const std::int64_t*>(data_)[i]);
            case kind::f32: return static_cast<double>(static_cast<const float*>(data_)[i]);
            case kind::f64: break;
        }
        return static_cast<const double*>(data_)[i];
    }

  private:
    enum class kind : std::uint8_t { i32, i64, f32, f64 };
    const void* data_ = nullptr;
    index count_ = 0;
    kind kind_ = kind::f64;
};

namespace detail {

/// Pairs the row buffer of the kernel holds.
inline constexpr index max_fly_pairs = 512;

struct pack_cos_sin_f32 {
    simd::pack<float> cos;
    simd::pack<float> sin;
};

/// Polynomials of f32 lanes, turns in [-1/2, 1/2], both results times `magnitude`.
ROPEWALK_ALWAYS_INLINE pack_cos_sin_f32 cos_sin_of(simd::pack<float> turns,
                                                   simd::pack<float> magnitude) noexcept {
    using simd::broadcast;
    using simd::fma;
    const auto quarter = simd::nearest(turns * broadcast(4.0f));
    const auto r = fma(quarter, broadcast(-0.25f), turns);  // exact
    const auto z = r * r;
    // Minimax fits of sin(2 pi r) / r and cos(2 pi r) in z = r^2, |r| <= 1/8: 1.2e-9 and 3.2e-8.
    auto s = broadcast(-75.24033950961477f);
    s = fma(s, z, broadcast(81.5881328047286f));
    s = fma(s, z, broadcast(-41.34162811529847f));
    s = fma(s, z, broadcast(6.28318522052285f)) * r;
    auto c = broadcast(-83.66592149979137f);
    c = fma(c, z, broadcast(64.92322866093167f));
    c = fma(c, z, broadcast(-19.739167263598386f));
    c = fma(c, z, broadcast(1.0f));
    const auto distance = simd::absolute(quarter);
    const auto even_sign = (broadcast(1.0f) - distance) * magnitude;
    const auto odd_sign = quarter * magnitude;
    const auto odd = distance == broadcast(1.0f);
    return {simd::choose(odd, s * (-odd_sign), c * even_sign),
            simd::choose(odd, c * odd_sign, s * even_sign)};
}

/// position * turns less its nearest integer, lane by lane; the product is exact where fma is fused.
ROPEWALK_ALWAYS_INLINE simd::pack<double> reduced_turns(simd::pack<double> position,
                                                        simd::pack<double> turns) noexcept {
    return simd::fma(position, turns, -simd::nearest(position * turns));
}

/// Rows made for a token as the kernel comes to it: C is float (f32 polynomial) or double (f64 accuracy).
template <class C>
struct rows_on_the_fly {
    /// The coordinates of one token, by axis.
    struct coordinates {
        const position_span* positions;
        index first;
        double operator[](index axis) const noexcept { return (*positions)[first + axis]; }
    };

    const spectrum* frequencies;
    position_span positions;  // [tokens, axes]
    index pairs;
    index heads;
    index tokens;
    alignas(64) C cos[max_fly_pairs];
    alignas(64) C sin[max_fly_pairs];

    rows_on_the_fly(const spectrum& s, position_span p) noexcept
        : frequencies(&s), positions(p), pairs(s.pairs()), heads(s.heads()), tokens(p.size() / s.axes()) {}

    void expect(index) const noexcept {}
    row_in_memory<C> row_of(index token, index head) noexcept {
        const coordinates where{&positions, token * frequencies->axes()};
        if constexpr (std::is_same_v<C, float>) {
            fill_lanes(where, head);
        } else if (!frequencies->is_mixed() && frequencies->axes() == 1) {
            fill_cos_sin(where[0], frequencies->turns_data().data() + head * pairs, frequencies->magnitude(),
                         pairs, cos, sin);
        } else {
            double reduced[max_fly_pairs];
            for (index i = 0; i < pairs; ++i) reduced[i] = reduced_at(*frequencies, where, head, i);
            fill_cos_sin_reduced(reduced, frequencies->magnitude(), pairs, cos, sin);
        }
        return {cos, sin};
    }

  private:
    void fill_lanes(coordinates where, index head) noexcept {
        const spectrum& s = *frequencies;
        const double* turns = s.turns_data().data() + head * pairs * (s.is_mixed() ? s.axes() : 1);
        if (!s.is_mixed() && s.axes() == 1) {
            const auto p = simd::broadcast(where[0]);
            each_register([&](index i, auto load) { return reduced_turns(p, load(turns + i)); });
        } else if (!s.is_mixed()) {
            double of_pair[max_fly_pairs];
            for (index i = 0; i < pairs; ++i) of_pair[i] = where[s.axis_of(head, i)];
            each_register(
                [&](index i, auto load) { return reduced_turns(load(of_pair + i), load(turns + i)); });
        } else {
            each_register([&](index i, auto load) {
                auto sum = simd::broadcast(0.0);
                for (index a = 0; a < s.axes(); ++a)
                    sum = sum + reduced_turns(simd::broadcast(where[a]), load(turns + a * pairs + i));
                return sum - simd::nearest(sum);
            });
        }
    }

    /// Two registers of f64 turns make one of f32 rows. The last one may be partial: what lies behind the
    /// pairs is read as zero and written into the buffer's slack.
    template <class Reduced>
    ROPEWALK_ALWAYS_INLINE void each_register(Reduced reduced) noexcept {
        constexpr index n = simd::lanes<float>;
        constexpr index half = simd::lanes<double>;
        const auto m = simd::broadcast(static_cast<float>(frequencies->magnitude()));
        const auto all = [](const double* p) { return simd::load(p); };
        index i = 0;
        for (; i + n <= pairs; i += n) store_row(i, simd::narrow(reduced(i, all), reduced(i + half, all)), m);
        if (i < pairs) {
            const auto some = [&](index first) {
                const index count = std::clamp(pairs - first, index{0}, half);
                return count == half
                           ? reduced(first, all)
                           : reduced(first, [count](const double* p) { return simd::load_some(p, count); });
            };
            store_row(i, simd::narrow(some(i), some(i + half)), m);
        }
    }
    ROPEWALK_ALWAYS_INLINE void store_row(index i, simd::pack<float> turns, simd::pack<float> m) noexcept {
        const auto row = cos_sin_of(turns, m);
        simd::store(cos + i, row.cos);
        simd::store(sin + i, row.sin);
    }
};

template <class Layout, class TQ, class TK>
void turn_on_the_fly(Layout layout, heads_view<TQ> q, heads_view<TK> k, const spectrum& s,
                     position_span positions, part_of part) noexcept {
    ROPEWALK_EXPECT(s.pairs() <= max_fly_pairs);
    if (s.pairs() > max_fly_pairs) return;
    rows_on_the_fly<compute_t<TQ>> rows(s, positions);
    together_or_apart(q, k, [&](const auto&... x) {
        turn_tensors(layout, rows, row_factors<compute_t<TQ>>{}, part, x...);
    });
}

}  // namespace detail

/// rotate without a table: the row of a token is made from its position while the kernel runs. In prefill
/// this is as fast as a table or faster, because a table's bytes are traffic.
/// Shapes:   q, k [batches, tokens, heads, 2 * pairs]; positions [batches * tokens, axes] of int32, int64,
///           float or double, in any order, negative and fractional ones included. Every token is turned.
/// Requires: as rotate; at most 512 pairs; positions not past 2^52.
/// Cost:     about 15 ns of arithmetic a token of 64 pairs (AVX-512); no allocation.
/// Accuracy: rows within magnitude * (2e-7 + 2^-52 |angle|) for f32, f16 and bf16 data, at any position;
///           f64 data as a table of double. Then as rotate.
/// Source:   design of this library.
template <class TQ, class TK>
void rotate_on_the_fly(pair_layout layout, heads_view<TQ> q, heads_view<TK> k, const spectrum& s,
                       position_span positions, part_of part = {}) noexcept {
    detail::turn_on_the_fly(layout, q, k, s, positions, part);
}
template <class T>
void rotate_on_the_fly(pair_layout layout, heads_view<T> x, const spectrum& s, position_span positions,
                       part_of part = {}) noexcept {
    detail::turn_on_the_fly(layout, x, heads_view<T>{}, s, positions, part);
}
template <static_layout Layout, class TQ, class TK>
void rotate_on_the_fly(heads_view<TQ> q, heads_view<TK> k, const spectrum& s, position_span positions,
                       part_of part = {}) noexcept {
    detail::turn_on_the_fly(Layout{}, q, k, s, positions, part);
}
template <static_layout Layout, class T>
void rotate_on_the_fly(heads_view<T> x, const spectrum& s, position_span positions,
                       part_of part = {}) noexcept {
    detail::turn_on_the_fly(Layout{}, x, heads_view<T>{}, s, positions, part);
}

}  // namespace ROPEWALK_NAMESPACE
