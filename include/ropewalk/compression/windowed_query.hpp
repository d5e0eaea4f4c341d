// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rotate_twice: rotates a query to two positions in one pass (windowed RoPE).
#pragma once

#include <ropewalk/kernels/rotate_into.hpp>

namespace ROPEWALK_NAMESPACE {

/// Rotates queries twice in one pass: to their own positions for keys inside a window, and to a fixed
/// position for keys beyond it, which are used without rotation (windowed RoPE).
/// Shapes:   q [batches, tokens, heads, channels] of any storage; inside and beyond likewise, in any type
///           with the same compute type.
/// Requires: both rows as for rotate; outputs that do not overlap q or each other. A token that lacks either
///           row is not written.
/// Returns:  as rotate.
/// Cost:     q is read from memory once. No allocation.
/// Accuracy: as rotate, bit for bit.
/// Source:   A2ATS, arXiv 2502.12665; junhuihe-hjh/A2ATS vqkey/models/llama_masked.py.
template <class L, class S, class T, class Inside, class Beyond>
bool rotate_twice(const L& layout, heads_view<S> q, heads_view<T> inside, heads_view<T> beyond,
                  const Inside& rows_inside, const Beyond& rows_beyond) noexcept {
    if constexpr (detail::types_fit<L, Inside, T>() && detail::types_fit<L, Beyond, T>()) {
        constexpr const char* who = "rotate_twice";
        const heads_view<const S> from = q;
        const detail::layout_plan plan = detail::plan_of(layout);
        const auto& near_rows = detail::rows_of(rows_inside);
        const auto& far_rows = detail::rows_of(rows_beyond);
        const auto near_extents = detail::extents_of(near_rows), far_extents = detail::extents_of(far_rows);
        if (!detail::fits(who, detail::first_of(
                                   detail::fit_written(plan, inside, near_extents),
                                   detail::fit_written(plan, beyond, far_extents),
                                   detail::fit_same_shape(from, inside), detail::fit_same_shape(from, beyond),
                                   detail::fit_apart(from, inside), detail::fit_apart(from, beyond),
                                   detail::fit_apart(heads_view<const T>(inside), beyond))))
            return false;
        if (q.empty()) return true;
        const index channels = q.channels();
        const index pairs = plan.rotates ? detail::pairs_of(plan, channels, near_extents.pairs) : 0;
        const detail::slice_extents slice{pairs, detail::first_channel_of(plan, channels, pairs), channels};
        const index tokens = q.batches() * q.tokens();
        const work_range heads{0, q.heads()};
        const auto run = [&](const auto& near_of_call, const auto& far_of_call) {
            detail::row_cursor<std::remove_cvref_t<decltype(far_of_call)>, compute_t<T>> far_cursor(
                far_of_call);
            return detail::each_token(
                who, layout, plan, near_of_call, compute_t<T>{}, 0, work_part{0, tokens, {}},
                [&](auto kind, detail::outer_loop outer, auto& cursor, index token, auto a, auto b) {
                    const detail::token_rotation near_rotation(cursor, token, detail::direction::forward);
                    const detail::token_rotation far_rotation(far_cursor, token, detail::direction::forward);
                    if (pairs > 0 && (!near_rotation.has_row() || !far_rotation.has_row())) return;
                    detail::rotate_slice(kind, outer, near_rotation, slice, a);
                    detail::rotate_slice(kind, outer, far_rotation, slice, b);
                },
                detail::tensor_part<const S, T>{from, inside, heads, 0},
                detail::tensor_part<const S, T>{from, beyond, heads, 0});
        };
        if (pairs == 0) return run(copy_rows<compute_t<T>>(tokens), copy_rows<compute_t<T>>(tokens));
        return run(near_rows, far_rows);
    } else {
        return false;
    }
}

}  // namespace ROPEWALK_NAMESPACE
