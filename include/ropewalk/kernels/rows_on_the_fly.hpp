// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rows of cos and sin computed from positions while a kernel runs, without a table.
#pragma once

#include <algorithm>
#include <span>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/angles/row_ranges.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/kernels/row_cursor.hpp>

namespace ROPEWALK_NAMESPACE {

/// The caller's positions, in one of four element types. Here -1 is an ordinary position: every token is
/// rotated.
class position_span {
  public:
    /// From a vector, an array or a span.
    template <class Range>
    requires(lasting_numbers<Range> && !std::is_same_v<std::remove_cvref_t<Range>, position_span>)
        position_span(Range&& range)
    noexcept : count_(static_cast<index>(std::size(range))) {
        using P = range_element_t<Range>;
        static_assert(std::is_same_v<P, std::int32_t> || std::is_same_v<P, std::int64_t> ||
                          std::is_same_v<P, float> || std::is_same_v<P, double>,
                      "positions are int32, int64, float or double");
        data_ = std::data(range);
        kind_ = std::is_same_v<P, std::int32_t>   ? kind::i32
                : std::is_same_v<P, std::int64_t> ? kind::i64
                : std::is_same_v<P, float>        ? kind::f32
                                                  : kind::f64;
    }
    index size() const noexcept { return count_; }
    /// Element i of [tokens, axes]. The type is tested here, for each coordinate, and not around the kernel:
    /// four kernels for four types would be four times the code.
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

/// The memory order of positions on several axes: token by token, or axis by axis as engines store those of
/// M-RoPE.
enum class position_order : std::uint8_t { tokens_axes, axes_tokens };

/// Rows computed from positions while the kernel runs; created by rows_on_the_fly.
struct fly_rows : token_rows<fly_rows> {
    using element = detail::any_element;     ///< f32 rows for f32 and 16-bit data, f64 rows for f64 data
    static constexpr index max_pairs = 512;  ///< capacity of a kernel's buffer for one row

    const spectrum* frequencies;  ///< the spectrum
    position_span positions;      ///< of all tokens
    position_order order;         ///< their memory order
    index heads;
    index pairs;
    double magnitude;
    index first_head = 0;  ///< the spectrum's head that head 0 of the call reads
    index head_step = 1;   ///< heads of the spectrum from one head of the call to the next

    fly_rows(const spectrum& s, position_span p, position_order o) noexcept
        : frequencies(&s),
          positions(p),
          order(o),
          heads(s.heads()),
          pairs(s.pairs()),
          magnitude(s.magnitude()) {
        tokens = p.size() % s.axes() == 0 ? p.size() / s.axes() : -1;
    }
    /// Rows of `count` heads: first, first + step, .... Rows that all heads share do not change.
    fly_rows head_slice(index first, index count, index step = 1) const noexcept {
        if (heads == 1) return *this;
        fly_rows v = *this;
        if (first < 0 || count < 0 || step < 1 || first > heads ||
            (count > 0 && (first == heads || count - 1 > (heads - 1 - first) / step))) {
            v.tokens = -1;
            return v;
        }
        v.first_head += first * head_step;
        v.head_step *= step;
        v.heads = count;
        return v;
    }
};

/// Rows without a table: each is computed from its position while the kernel runs. In prefill this is as fast
/// as a table or faster, because reading a table takes memory bandwidth. They are accepted wherever rows are.
/// Shapes:   positions [tokens, axes], or [axes, tokens] if `order` says so, of int32, int64, float or
///           double, in any order, negative and fractional ones included: -1 is a position like any other,
///           while a table's rows(positions) leave a token of -1 untouched. A number of positions that is not
///           a multiple of the axes fits no call. Of a position_ids, give a variable that holds its values().
/// Requires: spectrum and positions outlive the rows; at most 512 pairs; positions up to 2^52.
/// Cost:     about 15 ns of arithmetic per token of 64 pairs (AVX-512); no allocation.
/// Accuracy: rows within magnitude * (2e-7 + 2^-52 |angle|) for f32, f16 and bf16 data, at any position; for
///           f64 data as a table of double.
/// Source:   RoFormer, Su et al. 2021, eq. 34; the polynomials are our own minimax fits.
///
///     rotate(half_split{}, q, k, rows_on_the_fly(omega, positions));
[[nodiscard]] inline fly_rows rows_on_the_fly(const spectrum& s ROPEWALK_LIFETIMEBOUND,
                                              position_span positions,
                                              position_order order = position_order::tokens_axes) noexcept {
    return {s, positions, order};
}
fly_rows rows_on_the_fly(const spectrum&&, position_span,  // a temporary spectrum: name it
                         position_order = position_order::tokens_axes) = delete;

namespace detail {

struct pack_cos_sin_f32 {
    simd::pack<float> cos;
    simd::pack<float> sin;
};

/// Polynomials in f32 lanes for turns in [-1/2, 1/2]; both results are multiplied by `magnitude`.
ROPEWALK_ALWAYS_INLINE pack_cos_sin_f32 cos_sin_of(simd::pack<float> turns,
                                                   simd::pack<float> magnitude) noexcept {
    using simd::broadcast;
    using simd::fma;
    const auto quarter = simd::nearest(turns * broadcast(4.0f));
    const auto r = fma(quarter, broadcast(-0.25f), turns);  // exact
    const auto z = r * r;
    // Minimax fits of sin(2 pi r) / r and cos(2 pi r) in z = r^2, |r| <= 1/8: errors 1.2e-9 and 3.2e-8.
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

/// position * turns minus its nearest integer, lane by lane; the product is exact where fma is fused. It is
/// reduced twice: past 2^53 the rounded product is a whole number far from the exact one, and the remainder
/// would not be an angle.
ROPEWALK_ALWAYS_INLINE simd::pack<double> reduced_turns(simd::pack<double> position,
                                                        simd::pack<double> turns) noexcept {
    const simd::pack<double> t = simd::fma(position, turns, -simd::nearest(position * turns));
    return t - simd::nearest(t);
}

/// C is float (f32 polynomial) or double (f64 accuracy).
template <class C>
class row_cursor<fly_rows, C> {
  public:
    index heads;
    static constexpr index missing = -1;

    explicit row_cursor(const fly_rows& rows) noexcept : heads(rows.heads), rows_(rows) {}
    void expect(index) const noexcept {}
    row_in_memory<C> row_of(index token, index head_of_call) noexcept {
        const index head = rows_.first_head + head_of_call * rows_.head_step;
        const index at = rows_.ordinal(token);
        const bool by_token = rows_.order == position_order::tokens_axes;
        const coordinates where{&rows_.positions, by_token ? at * rows_.frequencies->axes() : at,
                                by_token ? 1 : rows_.positions.size() / rows_.frequencies->axes()};
        if constexpr (std::is_same_v<C, float>) {
            fill_lanes(where, head);
        } else if (!rows_.frequencies->is_mixed() && rows_.frequencies->axes() == 1) {
            fill_cos_sin(where[0], rows_.frequencies->turns_data().data() + head * rows_.pairs,
                         rows_.frequencies->magnitude(), rows_.pairs, cos_, sin_);
        } else {
            double reduced[fly_rows::max_pairs];
            for (index i = 0; i < rows_.pairs; ++i)
                reduced[i] = reduced_at(*rows_.frequencies, where, head, i);
            fill_cos_sin_reduced(reduced, rows_.frequencies->magnitude(), rows_.pairs, cos_, sin_);
        }
        return {cos_, sin_};
    }
    static constexpr bool touches(index) noexcept { return true; }

  private:
    /// The coordinates of one token, by axis.
    struct coordinates {
        const position_span* positions;
        index first, step;
        double operator[](index axis) const noexcept { return (*positions)[first + axis * step]; }
    };

    void fill_lanes(coordinates where, index head) noexcept {
        const spectrum& s = *rows_.frequencies;
        const double* turns = s.turns_data().data() + head * rows_.pairs * (s.is_mixed() ? s.axes() : 1);
        if (!s.is_mixed() && s.axes() == 1) {
            const auto p = simd::broadcast(where[0]);
            each_register([&](index i, auto load) { return reduced_turns(p, load(turns + i)); });
        } else if (!s.is_mixed()) {
            double of_pair[fly_rows::max_pairs];
            for (index i = 0; i < rows_.pairs; ++i) of_pair[i] = where[s.axis_of(head, i)];
            each_register(
                [&](index i, auto load) { return reduced_turns(load(of_pair + i), load(turns + i)); });
        } else {
            each_register([&](index i, auto load) {
                auto sum = simd::broadcast(0.0);
                for (index a = 0; a < s.axes(); ++a)
                    sum = sum + reduced_turns(simd::broadcast(where[a]), load(turns + a * rows_.pairs + i));
                return sum - simd::nearest(sum);
            });
        }
    }

    /// Two registers of f64 turns become one register of f32 rows. The last one may be partial: lanes past
    /// the pairs are read as zero and written to the padding of the buffer.
    template <class Reduced>
    ROPEWALK_ALWAYS_INLINE void each_register(Reduced reduced) noexcept {
        constexpr index n = simd::lanes<float>;
        constexpr index half = simd::lanes<double>;
        const auto m = simd::broadcast(static_cast<float>(rows_.frequencies->magnitude()));
        const auto all = [](const double* p) { return simd::load(p); };
        index i = 0;
        for (; i + n <= rows_.pairs; i += n)
            store_row(i, simd::narrow(reduced(i, all), reduced(i + half, all)), m);
        if (i < rows_.pairs) {
            const auto some = [&](index first) {
                const index count = std::clamp(rows_.pairs - first, index{0}, half);
                return count == half
                           ? reduced(first, all)
                           : reduced(first, [count](const double* p) { return simd::load_some(p, count); });
            };
            store_row(i, simd::narrow(some(i), some(i + half)), m);
        }
    }
    ROPEWALK_ALWAYS_INLINE void store_row(index i, simd::pack<float> turns, simd::pack<float> m) noexcept {
        const auto row = cos_sin_of(turns, m);
        simd::store(cos_ + i, row.cos);
        simd::store(sin_ + i, row.sin);
    }

    const fly_rows& rows_;
    alignas(64) C cos_[fly_rows::max_pairs];
    alignas(64) C sin_[fly_rows::max_pairs];
};

}  // namespace detail

}  // namespace ROPEWALK_NAMESPACE
