// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Pairs of a head that are gathered, turned and scattered at once.
inline constexpr index into_pairs = 512;

/// One head: first and second channels gathered in pair order, turned as a half-split head, scattered.
template <class S, class D, class C>
void rotate_head_into(pair_layout read, pair_layout write, const S* from, D* to, const C* cos, const C* sin,
                      index pairs, row_factors<C> factors) noexcept {
    C buffer[2 * into_pairs];
    for (index done = 0; done < pairs; done += into_pairs) {
        const index count = std::min(into_pairs, pairs - done);
        C* const first = buffer;
        C* const second = buffer + count;
        const index read_half = read.group_of(pairs) / 2;
        for (index i = 0; i < count; ++i) {
            const index pair = done + i;
            const S* u = from + pair / read_half * (2 * read_half) + pair % read_half;
            first[i] = static_cast<C>(static_cast<compute_t<S>>(*u));
            second[i] = static_cast<C>(static_cast<compute_t<S>>(u[read_half]));
        }
        rotate_half_span(cos + done, sin + done, count, count, factors, token_heads<C>{buffer, 0, 1});
        const index write_half = write.group_of(pairs) / 2;
        for (index i = 0; i < count; ++i) {
            const index pair = done + i;
            D* u = to + pair / write_half * (2 * write_half) + pair % write_half;
            *u = static_cast<D>(static_cast<compute_t<D>>(first[i]));
            u[write_half] = static_cast<D>(static_cast<compute_t<D>>(second[i]));
        }
    }
}

template <class S, class D>
bool views_agree(const heads_view<S>& from, const heads_view<D>& to) noexcept {
    return from.batches() == to.batches() && from.tokens() == to.tokens() && from.heads() == to.heads() &&
           from.channels() == to.channels();
}

template <turn Turn, class S, class D, class C>
void turn_into(pair_layout read, pair_layout write, heads_view<S> from, heads_view<D> to, rows_view<C> rows,
               part_of part) noexcept {
    const bool in_place = static_cast<const void*>(from.data) == static_cast<const void*>(to.data);
    const bool match = rows_match(read, to, rows) && write.fits(rows.pairs) && views_agree(from, to) &&
                       (!in_place || read == write || rows.pairs <= into_pairs);
    ROPEWALK_EXPECT(match);
    if (!match || to.empty()) return;
    const work_part work = partition_tokens(to.batches() * to.tokens(), part);
    const work_range heads = partition(to.heads(), work.heads);
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index b = token / to.tokens(), n = token % to.tokens(), row = rows.row(token);
        if (row < 0) continue;
        for (index h = heads.first; h < heads.first + heads.count; ++h)
            rotate_head_into(read, write, reinterpret_cast<const stored_t<S>*>(from.at(b, n, h)),
                             reinterpret_cast<stored_t<D>*>(to.at(b, n, h)), rows.cos_at(row, h),
                             rows.sin_at(row, h), rows.pairs, factors_of<Turn>(rows));
    }
}

}  // namespace detail

/// rotate that writes elsewhere: into another dtype, another pair layout (DeepSeek reads interleaved and
/// writes half-split), or both. The source may be the destination itself (same strides, element size and
/// at most 1024 channels) but must not overlap it otherwise.
/// Shapes:   from and to [batches, tokens, heads, 2 * pairs].
/// Requires: as rotate; a longer head in place, into another layout, is an assertion in debug and left alone
///           in release. Arithmetic runs in the table's type: f64 when the destination is f64.
///           Untouched tokens are not written.
/// Cost:     a gather and a scatter around the rotation; no allocation.
/// Accuracy: as rotate, one rounding to the destination's format.
/// Source:   Hugging Face models/deepseek_v3, apply_rotary_pos_emb_interleave.
template <class S, class D>
void rotate_into(pair_layout read, pair_layout write, heads_view<S> from, heads_view<D> to,
                 std::type_identity_t<rows_for<D>> rows, part_of part = {}) noexcept {
    detail::turn_into<detail::turn::forward>(read, write, from, to, rows, part);
}
template <static_layout ReadLayout, static_layout WriteLayout = ReadLayout, class S, class D>
void rotate_into(heads_view<S> from, heads_view<D> to, std::type_identity_t<rows_for<D>> rows,
                 part_of part = {}) noexcept {
    rotate_into(pair_layout(ReadLayout{}), pair_layout(WriteLayout{}), from, to, rows, part);
}

}  // namespace ROPEWALK_NAMESPACE
