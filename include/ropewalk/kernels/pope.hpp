// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// PoPE: polar position embeddings, which separate content (magnitude) from position (phase).
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/simd_exp.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/core/simd_storage.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/fit.hpp>

/// PoPE, polar position embeddings: the softplus of a channel is a magnitude, its position a phase, and
/// together they become two channels. Content and position no longer mix in the sign of a channel.
///
/// Attention over widened heads takes scale = 1 / sqrt(channels before widening). With fewer kv heads than
/// query heads, attention here pairs query head q with kv head q / (heads / kv_heads), as Llama does;
/// PoPE-pytorch repeats its keys, which pairs it with q mod kv_heads. For such weights call attention once
/// per kv head g with q.head_slice(g, heads / kv_heads, kv_heads), k.head_slice(g, 1) and v.head_slice(g, 1);
/// phases have one row per kv head in both orders.
/// Source: PoPE, arXiv 2509.10534; lucidrains/PoPE-pytorch.
namespace ROPEWALK_NAMESPACE::pope {

/// One frequency per channel, base^(-c / channels): twice as many as RoPE has for the same channels.
/// Throws:   invalid_config on channels < 1 or base not > 0.
/// Source:   PoPE, arXiv 2509.10534.
inline spectrum make_spectrum(index channels, double base = 1e4) {
    detail::require(channels >= 1 && channels <= std::numeric_limits<index>::max() / 4, "pope::make_spectrum",
                    "channels must be >= 1", channels);
    return frequencies::geometric({.rotary_dim = 2 * channels, .base = base});
}

/// The learned phases of keys as the model uses them, clamped to [-2 pi, 0].
/// Throws:   invalid_config on a NaN.
/// Source:   lucidrains/PoPE-pytorch pope.py.
inline std::vector<double> clamp_phases(std::span<const double> phases) {
    std::vector<double> out;
    for (const double v : phases) {
        detail::require(!std::isnan(v), "pope::clamp_phases", "phases must be numbers", v);
        out.push_back(std::clamp(v, -2 * std::numbers::pi, 0.0));
    }
    return out;
}

/// The rows of keys: position * frequency + phase. Queries use an ordinary table of the spectrum.
/// Shapes:   phases [heads, channels] in radians, clamped; the table [tokens, heads, channels].
/// Throws:   invalid_config if phases do not hold a positive number of heads, or are not finite.
/// Source:   PoPE, arXiv 2509.10534.
template <class T = float>
[[nodiscard]] rotation_table<T> make_key_table(const spectrum& s, std::span<const double> phases,
                                               const position_ids& positions) {
    constexpr const char* who = "pope::make_key_table";
    const auto count = static_cast<index>(phases.size());
    detail::require(s.heads() == 1, who, "spectrum must be one for all heads", s.heads());
    detail::require(s.pairs() > 0 && count > 0 && count % s.pairs() == 0, who,
                    "phases must hold heads * channels numbers", count);
    for (const double v : phases) detail::require(std::isfinite(v), who, "phases must be finite", v);
    const auto plain = make_rotation_table<double>(s, positions);
    rotation_table<T> table(plain.row_count(), count / s.pairs(), s.pairs());
    std::vector<double> cosines(phases.size()), sines(phases.size());
    for (std::size_t i = 0; i < phases.size(); ++i)
        cosines[i] = std::cos(phases[i]), sines[i] = std::sin(phases[i]);
    for (index r = 0; r < plain.row_count(); ++r)
        for (index h = 0; h < table.heads(); ++h) {
            const double *cos = plain.cos_row(r).data(), *sin = plain.sin_row(r).data();
            const double *by_cos = cosines.data() + h * s.pairs(), *by_sin = sines.data() + h * s.pairs();
            T *to_cos = table.cos_data(r, h), *to_sin = table.sin_data(r, h);
            for (index c = 0; c < s.pairs(); ++c) {
                to_cos[c] = static_cast<T>(cos[c] * by_cos[c] - sin[c] * by_sin[c]);
                to_sin[c] = static_cast<T>(sin[c] * by_cos[c] + cos[c] * by_sin[c]);
            }
        }
    auto row_of_token = ropewalk::detail::touched_rows(positions);
    if (!row_of_token.empty()) table.address_tokens(std::move(row_of_token));
    return table;
}

/// Channels of a head after widening: two for each rotated channel, one for each other channel.
constexpr index widened_channels(index channels, index rotated) noexcept { return channels + rotated; }

namespace detail_pope {

/// ln(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)); its series ends where the terms are below the
/// precision of C.
template <class C>
ROPEWALK_ALWAYS_INLINE simd::pack<C> log_of_one_and(simd::pack<C> e) noexcept {
    const auto z = e / (simd::broadcast(C(2)) + e);
    const auto square = z * z;
    if constexpr (sizeof(C) == 4) {
        constexpr C odd[] = {C(2) / 13, C(2) / 11, C(2) / 9, C(2) / 7, C(2) / 5, C(2) / 3, C(2)};
        return z * simd::polynomial(odd, square);
    } else {
        constexpr C odd[] = {C(2) / 31, C(2) / 29, C(2) / 27, C(2) / 25, C(2) / 23, C(2) / 21,
                             C(2) / 19, C(2) / 17, C(2) / 15, C(2) / 13, C(2) / 11, C(2) / 9,
                             C(2) / 7,  C(2) / 5,  C(2) / 3,  C(2)};
        return z * simd::polynomial(odd, square);
    }
}
template <class C>
ROPEWALK_ALWAYS_INLINE simd::pack<C> softplus(simd::pack<C> x) noexcept {
    const auto e = simd::exp_of_negative(-simd::absolute(x));
    return simd::larger(x, simd::broadcast(C(0))) + log_of_one_and<C>(e);
}
template <class C>
ROPEWALK_ALWAYS_INLINE simd::pack<C> sigmoid(simd::pack<C> x) noexcept {
    const auto one = simd::broadcast(C(1));
    const auto e = simd::exp_of_negative(-simd::absolute(x));
    return simd::choose(x < simd::broadcast(C(0)), e, one) / (one + e);
}

/// Loads `count` lanes: a whole register or fewer.
template <class T>
ROPEWALK_ALWAYS_INLINE simd::pack<compute_t<T>> load_up_to(const T* p, index count) noexcept {
    return count == simd::lanes<compute_t<T>> ? simd::load(p) : simd::load_some(p, count);
}
/// Calls f(first pair, pairs, first channel of the two members, their layout there) for runs of pairs whose
/// channels are two rows of adjacent channels or, interleaved, one row.
template <class F>
ROPEWALK_ALWAYS_INLINE void each_run(pair_layout layout, index pairs, F f) noexcept {
    if (layout.kind == pair_layout::kind_type::interleaved) return f(0, pairs, index{0}, index{1});
    const index half =
        layout.kind == pair_layout::kind_type::blocked ? static_cast<index>(layout.group) / 2 : pairs;
    for (index i = 0; i < pairs; i += half) f(i, half, 2 * i, 2 * i + half);
}
/// Stores the members of `count` pairs: a whole register of them or fewer.
template <class T>
ROPEWALK_ALWAYS_INLINE void store_members(T* x, bool interleaved, index apart, index count,
                                          simd::pack<compute_t<T>> a, simd::pack<compute_t<T>> b) noexcept {
    using C = compute_t<T>;
    constexpr index lanes = simd::lanes<C>;
    if (interleaved) {
        const auto low = simd::interleave_low(a, b), high = simd::interleave_high(a, b);
        if (count == lanes) {
            simd::store(x, low);
            simd::store(x + lanes, high);
        } else {
            simd::store_some(x, low, std::min(lanes, 2 * count));
            if (2 * count > lanes) simd::store_some(x + lanes, high, 2 * count - lanes);
        }
    } else if (count == lanes) {
        simd::store(x, a);
        simd::store(x + apart, b);
    } else {
        simd::store_some(x, a, count);
        simd::store_some(x + apart, b, count);
    }
}
template <class T>
ROPEWALK_ALWAYS_INLINE simd::two_packs<compute_t<T>> load_members(const T* x, bool interleaved, index apart,
                                                                  index count) noexcept {
    using C = compute_t<T>;
    constexpr index lanes = simd::lanes<C>;
    if (!interleaved) return {load_up_to(x, count), load_up_to(x + apart, count)};
    const auto low = load_up_to(x, std::min(lanes, 2 * count));
    return simd::deinterleave(
        low, 2 * count > lanes ? load_up_to(x + lanes, 2 * count - lanes) : simd::broadcast(C(0)));
}

template <class A, class B, class C>
misfit fit_widened(pair_layout layout, heads_view<A> x, heads_view<B> wide,
                   const rows_view<C>& rows) noexcept {
    const misfit views = ropewalk::detail::first_of(ropewalk::detail::fit_readable("x", x),
                                                    ropewalk::detail::fit_readable("wide", wide));
    if (!views.ok() || x.empty()) return views;
    if (x.batches() != wide.batches() || x.tokens() != wide.tokens() || x.heads() != wide.heads())
        return {"batches, tokens and heads of the wide view must be those of x, tokens", x.tokens(),
                wide.tokens()};
    if (rows.pairs > x.channels()) return {"pairs must be at most the channels", x.channels(), rows.pairs};
    if (wide.channels() != widened_channels(x.channels(), rows.pairs))
        return {"channels of the wide view must be channels + pairs",
                widened_channels(x.channels(), rows.pairs), wide.channels()};
    if (rows.count() != x.batches() * x.tokens())
        return {"rows must be one per token (batches * tokens)", x.batches() * x.tokens(), rows.count()};
    if (rows.batches != 1 && rows.batches != x.batches())
        return {"batches of the rows must be those of the view", x.batches(), rows.batches};
    if (rows.heads != 1 && rows.heads != x.heads())
        return {"rows with heads of their own must be as many as the heads of the view", x.heads(),
                rows.heads};
    if (!layout.fits(rows.pairs))
        return {"rotated channels must be a multiple of the layout's group", layout.group, 2 * rows.pairs};
    return {};
}

/// Calls f(batch, token, head, cos, sin) for the heads of a part that have a row. Reports a row that the
/// table does not have, and leaves that token alone.
template <class T, class C, class F>
bool each_head(const char* who, const heads_view<T>& x, const rows_view<C>& rows, const work_part& work,
               work_range heads, F f) noexcept {
    index missing = -1;
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index row = rows.row(token);
        if (row >= rows.table_rows) missing = row;
        if (row < 0 || row >= rows.table_rows) continue;
        for (index h = heads.first; h < heads.first + heads.count; ++h)
            f(token / x.tokens(), token % x.tokens(), h, rows.cos_at(row, h), rows.sin_at(row, h));
    }
    return missing < 0 || ropewalk::detail::tell(who, ropewalk::detail::missing_row(rows, missing));
}

}  // namespace detail_pope

/// Writes (mu cos, mu sin) with mu = softplus(x) for the first channels, and copies the other channels after
/// them.
/// Shapes:   x [batches, tokens, heads, channels]; rows of r <= channels frequencies; out [batches, tokens,
///           heads, channels + r], its first 2 r channels in the pair layout `layout`.
/// Requires: no overlap; as rotate. Negative rows leave a token of `out` unchanged.
/// Cost:     for each register of channels, two polynomials (exponential and logarithm) and a division.
/// Accuracy: 4e-7 of mu in f32, 1e-15 in f64, plus the rounding of the row; 16-bit: half a storage ulp more.
///           For x below -87 (f32) or -708 (f64) mu is 0.
/// Source:   PoPE, arXiv 2509.10534; lucidrains/PoPE-pytorch apply_pope_to_qk (interleaved), x-transformers
///           apply_polar_pos_emb (half_split).
template <class T>
bool widen(pair_layout layout, std::type_identity_t<heads_view<const T>> x, heads_view<T> out,
           std::type_identity_t<rows_view<compute_t<T>>> rows, part_of part = {}) noexcept {
    using C = compute_t<T>;
    if (!ropewalk::detail::fits("pope::widen",
                                ropewalk::detail::first_of(detail_pope::fit_widened(layout, x, out, rows),
                                                           ropewalk::detail::fit_writable("out", out),
                                                           ropewalk::detail::fit_part(part))))
        return false;
    if (x.empty()) return true;
    const work_part work = partition_tokens(x.batches() * x.tokens(), part);
    const work_range heads = partition(x.heads(), work.heads);
    constexpr index lanes = simd::lanes<C>;
    const bool interleaved = layout.kind == pair_layout::kind_type::interleaved;
    return detail_pope::each_head(
        "pope::widen", x, rows, work, heads, [&](index b, index n, index h, const C* cos, const C* sin) {
            const auto* from = reinterpret_cast<const stored_t<T>*>(x.at(b, n, h));
            auto* to = reinterpret_cast<stored_t<T>*>(out.at(b, n, h));
            detail_pope::each_run(
                layout, rows.pairs, [&](index pair, index pairs, index first, index second) {
                    for (index i = 0; i < pairs; i += lanes) {
                        const index count = std::min(lanes, pairs - i), c = pair + i;
                        const auto mu = detail_pope::softplus<C>(detail_pope::load_up_to(from + c, count));
                        detail_pope::store_members(to + first + (interleaved ? 2 * i : i), interleaved,
                                                   second - first, count,
                                                   mu * detail_pope::load_up_to(cos + c, count),
                                                   mu * detail_pope::load_up_to(sin + c, count));
                    }
                });
            std::copy_n(from + rows.pairs, x.channels() - rows.pairs, to + 2 * rows.pairs);
        });
}

/// The gradient with respect to x, from x and the gradient with respect to the output of widen.
/// Shapes:   x and by_x [batches, tokens, heads, channels], gradient [batches, tokens, heads, channels + r].
/// Requires: as widen.
/// Source:   the derivative of softplus is the logistic function.
template <class T>
bool widen_gradient(pair_layout layout, std::type_identity_t<heads_view<const T>> x,
                    std::type_identity_t<heads_view<const T>> gradient, heads_view<T> by_x,
                    std::type_identity_t<rows_view<compute_t<T>>> rows) noexcept {
    using C = compute_t<T>;
    misfit wrong = detail_pope::fit_widened(layout, x, gradient, rows);
    if (wrong.ok() && (by_x.batches() != x.batches() || by_x.tokens() != x.tokens() ||
                       by_x.heads() != x.heads() || by_x.channels() != x.channels()))
        wrong = {"by_x must have the shape of x, channels", x.channels(), by_x.channels()};
    if (wrong.ok()) wrong = ropewalk::detail::fit_writable("by_x", by_x);
    if (!ropewalk::detail::fits("pope::widen_gradient", wrong)) return false;
    if (x.empty()) return true;
    constexpr index lanes = simd::lanes<C>;
    const bool interleaved = layout.kind == pair_layout::kind_type::interleaved;
    return detail_pope::each_head(
        "pope::widen_gradient", x, rows, {0, x.batches() * x.tokens(), {}}, {0, x.heads()},
        [&](index b, index n, index h, const C* cos, const C* sin) {
            const auto* from = reinterpret_cast<const stored_t<T>*>(x.at(b, n, h));
            const auto* g = reinterpret_cast<const stored_t<T>*>(gradient.at(b, n, h));
            auto* to = reinterpret_cast<stored_t<T>*>(by_x.at(b, n, h));
            detail_pope::each_run(
                layout, rows.pairs, [&](index pair, index pairs, index first, index second) {
                    for (index i = 0; i < pairs; i += lanes) {
                        const index count = std::min(lanes, pairs - i), c = pair + i;
                        const auto of = detail_pope::load_members(g + first + (interleaved ? 2 * i : i),
                                                                  interleaved, second - first, count);
                        const auto along = simd::fma(of.first, detail_pope::load_up_to(cos + c, count),
                                                     of.second * detail_pope::load_up_to(sin + c, count));
                        const auto by =
                            along * detail_pope::sigmoid<C>(detail_pope::load_up_to(from + c, count));
                        if (count == lanes)
                            simd::store(to + c, by);
                        else
                            simd::store_some(to + c, by, count);
                    }
                });
            std::copy_n(g + 2 * rows.pairs, x.channels() - rows.pairs, to + rows.pairs);
        });
}

/// The gradient with respect to the phases of the keys, before they are clamped, summed over all tokens.
/// Shapes:   widened (the output of widen) and gradient [batches, tokens, heads, channels + r]; result
///           [heads, r].
/// Throws:   invalid_config on shapes that disagree.
/// Source:   d/dphase (mu cos, mu sin) = (-mu sin, mu cos).
template <class T>
std::vector<double> make_phase_gradient(pair_layout layout, heads_view<const T> widened,
                                        heads_view<const T> gradient, index rotated) {
    constexpr const char* who = "pope::make_phase_gradient";
    const bool same = widened.batches() == gradient.batches() && widened.tokens() == gradient.tokens() &&
                      widened.heads() == gradient.heads() && widened.channels() == gradient.channels();
    detail::require(same, who, "gradient must have widened's shape, tokens", gradient.tokens());
    detail::require(rotated >= 0 && 2 * rotated <= widened.channels() && layout.fits(rotated), who,
                    "rotated must fit in the channels", rotated);
    std::vector<double> out(static_cast<std::size_t>(widened.heads() * rotated), 0.0);
    for (index b = 0; b < widened.batches(); ++b)
        for (index n = 0; n < widened.tokens(); ++n)
            for (index h = 0; h < widened.heads(); ++h)
                for (index c = 0; c < rotated; ++c) {
                    const index i = layout.first(c, rotated), j = layout.second(c, rotated);
                    const auto value = [&](heads_view<const T> v, index at) {
                        return static_cast<double>(static_cast<compute_t<T>>(
                            reinterpret_cast<const stored_t<T>*>(v.at(b, n, h))[at]));
                    };
                    out[static_cast<std::size_t>(h * rotated + c)] +=
                        value(widened, i) * value(gradient, j) - value(widened, j) * value(gradient, i);
                }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::pope
