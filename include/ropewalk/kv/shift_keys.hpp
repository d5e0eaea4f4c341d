// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kv/cache_plan.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// The table that moves cached keys by a delta a token, per axis for M-RoPE and other multi-axis spectra.
/// Its magnitude is 1 whatever the spectrum's: the keys carry theirs already.
/// Shapes:   deltas [tokens, axes], negative to move towards the start (a context shift by `discarded`
///           tokens is -discarded); one row a token.
/// Requires: one spectrum for old and new positions; where it changes too, make_rebase_table.
/// Throws:   invalid_config when the axes differ.
/// Source:   R(p + d) = R(d) R(p); ggml-org/llama.cpp pull request 2060.
template <class T = float>
rotation_table<T> make_shift_table(const spectrum& s, const position_ids& deltas) {
    return make_rotation_table<T>(s.with_magnitude(1), deltas);
}

/// Turns keys where they stand in a cache by the rows of the plan's tokens: a context shift with
/// make_shift_table, a change of frequencies with make_rebase_table. Everything else in the cache stays as it
/// is: values in the same rows, other slots, channels outside a channel_slice.
/// Shapes:   keys with channels = 2 * rows.pairs (slice first); rows hold one token a place of the plan.
/// Requires: the plan fits the cache; a misfit is an assertion in debug and touches nothing in release. A
///           negative slot or row leaves the token alone.
/// Cost:     as rotate over these keys, in place; nothing is gathered.
/// Accuracy: as rotate, a call. Shifts add up: after n of them f32 keys are within 2 n ulp of the pair norm
///           (n / 2 is typical: the rounding of one row of cos and sin repeats), bf16 keys within 4 sqrt(n)
///           half storage ulps (an eighth of the key at n = 1000): shift a 16-bit cache seldom and far.
/// Source:   LMCache/LMCache issue 4144 (packed rows); ggml-org/llama.cpp pull request 2060.
template <class T>
void shift_keys(pair_layout layout, cache_view<T> keys, const cache_plan& plan,
                std::type_identity_t<rows_for<T>> rows, part_of part = {}) noexcept {
    if (plan.tokens() == 0 || keys.shape.heads <= 0 || keys.shape.channels <= 0) return;
    const bool match = plan.fits(keys) && keys.shape.channels == 2 * rows.pairs &&
                       rows.tokens >= plan.tokens() && (rows.heads == 1 || rows.heads >= keys.shape.heads) &&
                       layout.fits(rows.pairs);
    ROPEWALK_EXPECT(match);
    if (!match) return;
    const work_part work = partition_tokens(plan.tokens(), part);
    const work_range range = partition(keys.shape.heads, work.heads);
    detail::with_layout(layout, [&](auto kind) {
        for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
            const cache_place place = plan.place(token);
            const index row = rows.row(token);
            if (place.page < 0 || row < 0) continue;
            const detail::token_heads<stored_t<T>> heads{
                reinterpret_cast<stored_t<T>*>(keys.at(place.page, place.token, range.first)),
                keys.strides.head, range.count};
            if (rows.heads == 1) {
                const detail::row_in_memory<compute_t<T>> whole{rows.cos_at(row, 0), rows.sin_at(row, 0), {}};
                detail::rotate_token(kind, detail::outer_loop::heads, whole, rows.pairs, heads);
            } else {
                for (index h = 0; h < range.count; ++h)
                    detail::rotate_token(kind, rows.cos_at(row, range.first + h),
                                         rows.sin_at(row, range.first + h), rows.pairs, {1, 1},
                                         heads.only(h));
            }
        }
    });
}

}  // namespace ROPEWALK_NAMESPACE
