// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoPE++: attention heads that score with the imaginary part of the complex product, beside ordinary ones.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/fit_view.hpp>

/// RoPE++ has heads that score with the imaginary part of the complex product q.k, beside heads that score
/// with the real part. An imaginary query is the query rotated by its angle minus a quarter turn; keys are
/// rotated as usual.
/// Source: OpenMOSS/rope_pp rope_pp/modeling_llama_rope_pp.py.
namespace ROPEWALK_NAMESPACE::rope_plus_plus {

/// Which of the query heads are imaginary. paired: each projected head becomes two, first real, then
/// imaginary (imag1 and imag2). second_half (imagh), odd (imagx) and all (imago) keep the number of heads.
enum class imaginary : std::uint8_t { none, paired, second_half, odd, all };

/// The number of query heads after widen_queries.
constexpr index output_heads(imaginary which, index projected_heads) noexcept {
    return which == imaginary::paired ? 2 * projected_heads : projected_heads;
}
/// Whether an output head is imaginary.
constexpr bool is_imaginary(imaginary which, index head, index output_heads) noexcept {
    switch (which) {
        case imaginary::paired:
        case imaginary::odd: return head % 2 == 1;
        case imaginary::second_half: return head >= output_heads / 2;
        case imaginary::all: return true;
        default: return false;
    }
}

/// The table of the queries: ordinary angles for a real head, angles minus a quarter turn for an imaginary
/// one. Keys use the ordinary table of the same spectrum and positions.
/// Shapes:   [tokens, output_heads(which, projected_heads), pairs].
/// Throws:   invalid_config on heads < 1, a spectrum whose heads are neither 1 nor the output heads, or axes
///           that differ.
/// Accuracy: as make_rotation_table: the quarter turn exchanges cos and sin without rounding.
/// Source:   OpenMOSS/rope_pp apply_rotary_pos_emb.
template <class T = float>
[[nodiscard]] rotation_table<T> make_query_table(imaginary which, index projected_heads, const spectrum& s,
                                                 const position_ids& positions) {
    constexpr const char* who = "rope_plus_plus::make_query_table";
    detail::require(projected_heads >= 1, who, "projected_heads must be >= 1", projected_heads);
    const index heads = detail::checked_product(who, "projected_heads must be >= 0",
                                                {output_heads(which, 1), projected_heads});
    detail::require(s.heads() == 1 || s.heads() == heads, who,
                    "spectrum must have one head or the output heads", s.heads());
    const auto plain = make_rotation_table<T>(s, positions);
    rotation_table<T> table(plain.row_count(), heads, plain.pairs(), s.magnitude());
    for (index r = 0; r < plain.row_count(); ++r)
        for (index h = 0; h < heads; ++h) {
            const auto cos = plain.cos_row(r, s.heads() == 1 ? 0 : h);
            const auto sin = plain.sin_row(r, s.heads() == 1 ? 0 : h);
            if (is_imaginary(which, h, heads)) {
                std::ranges::copy(sin, table.cos_data(r, h));
                std::ranges::transform(cos, table.sin_data(r, h), [](T c) { return -c; });
            } else {
                std::ranges::copy(cos, table.cos_data(r, h));
                std::ranges::copy(sin, table.sin_data(r, h));
            }
        }
    if (!positions.all_touched()) {
        std::vector<std::int32_t> row_of_token;
        std::int32_t next = 0;
        for (index n = 0; n < positions.tokens(); ++n)
            row_of_token.push_back(positions.touched(n) ? next++ : untouched_row);
        table.address_tokens(std::move(row_of_token));
    }
    return table;
}

/// Copies projected queries to their output heads, each head `out.heads() / q.heads()` times in succession.
/// `paired` needs this before the rotation.
/// Shapes:   q [batches, tokens, heads, channels], out [batches, tokens, n * heads, channels], no overlap.
/// Throws:   invalid_config on other extents.
/// Source:   OpenMOSS/rope_pp apply_rotary_pos_emb (re_0, im_0, re_1, im_1, ...).
template <class T>
void widen_queries(heads_view<const T> q, heads_view<T> out) {
    constexpr const char* who = "widen_queries";
    detail::require_readable(who, "q", q);
    detail::require_writable(who, "out", out);
    detail::require_equal(who, "out.batches must be q's", q.batches(), out.batches());
    detail::require_equal(who, "out.tokens must be q's", q.tokens(), out.tokens());
    detail::require_equal(who, "out.channels must be q's", q.channels(), out.channels());
    detail::require(q.heads() > 0 ? out.heads() % q.heads() == 0 : out.heads() == 0, who,
                    "out.heads must be a multiple of q's", out.heads());
    const index times = q.heads() > 0 ? out.heads() / q.heads() : 0;
    for (index b = 0; b < out.batches(); ++b)
        for (index n = 0; n < out.tokens(); ++n)
            for (index h = 0; h < out.heads(); ++h)
                std::copy_n(q.at(b, n, h / times), q.channels(), out.at(b, n, h));
}
template <class T>
void widen_queries(heads_view<T> q, heads_view<T> out) {
    widen_queries(heads_view<const T>(q), out);
}

}  // namespace ROPEWALK_NAMESPACE::rope_plus_plus
