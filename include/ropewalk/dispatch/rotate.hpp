// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/ropewalk.h>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/kernels/partition.hpp>

namespace ROPEWALK_VIEW_NAMESPACE::dispatch {

/// The plain call that crosses from code compiled for any CPU to a unit compiled for this one; see
/// ropewalk.h for its fields. Source: design of this library.
using rotate_call = ::ropewalk_rotate_call;

/// Carries the call out with the unit of this CPU. Link a target given to ropewalk_add_dispatch().
/// Returns:  whether the call could be carried out; one with a field that cannot be, or made from views that
///           do not fit their rows, is refused whole.
/// Cost:     one indirect call, a check of the fields and a copy of some twenty numbers: 8 to 16 ns.
/// Accuracy: as rotate, each unit. Units differ in the last bit where only some have fused multiply-add.
/// Source:   design of this library.
[[nodiscard]] inline bool rotate(const rotate_call& call) noexcept {
    return ::ropewalk_rotate(&call) == ROPEWALK_OK;
}

/// `turn` and `part` as in the kernels.
/// Source:   design of this library.
struct call_options {
    ropewalk_turn turn = ROPEWALK_ROTATE;  ///< which of the three turns
    part_of part = {};                     ///< the share of the work that this call takes
};
/// A view as a plain struct.
template <class T>
constexpr ropewalk_tensor make_tensor(heads_view<T> x) noexcept {
    return {x.data, x.shape.heads, x.strides.batch, x.strides.token, x.strides.head};
}
/// A call from views that fit the rows: [batches, tokens, heads, 2 * pairs], q and k with the same batches
/// and tokens (others: a call each). Views that do not fit make a call that is refused.
/// Source:   design of this library.
template <class T>
constexpr rotate_call make_rotate_call(pair_layout layout, heads_view<T> q, heads_view<T> k,
                                       rows_view<compute_t<T>> rows, call_options options = {}) noexcept {
    static_assert(int(storage::f64) == ROPEWALK_F64 && int(storage::f32) == ROPEWALK_F32 &&
                  int(storage::f16) == ROPEWALK_F16 && int(storage::bf16) == ROPEWALK_BF16);
    static_assert(int(pair_layout::kind_type::interleaved) == ROPEWALK_INTERLEAVED &&
                  int(pair_layout::kind_type::blocked) == ROPEWALK_BLOCKED);
    if (q.empty()) {
        q = k;
        k = {};
    }
    const bool fits = (q.empty() || q.channels() == 2 * rows.pairs) &&
                      (k.empty() || (k.channels() == q.channels() && k.batches() == q.batches() &&
                                     k.tokens() == q.tokens())) &&
                      rows.tokens >= q.batches() * q.tokens();
    rotate_call call{};
    call.size = fits ? sizeof call : 0;
    call.dtype = static_cast<std::int32_t>(dtype<T>::format);
    call.layout = static_cast<std::int32_t>(layout.kind);
    call.turn = options.turn;
    call.group = layout.group;
    call.batches = q.batches();
    call.tokens = q.tokens();
    call.q = make_tensor(q);
    call.k = make_tensor(k);
    call.rows = {rows.cos,          rows.sin,        rows.table_rows,  rows.heads,
                 rows.pairs,        rows.row_stride, rows.head_stride, rows.indices.narrow,
                 rows.indices.wide, rows.tokens,     rows.magnitude};
    call.parts = options.part.parts;
    call.part = options.part.part;
    return call;
}
/// The same for one view.
template <class T>
constexpr rotate_call make_rotate_call(pair_layout layout, heads_view<T> x, rows_view<compute_t<T>> rows,
                                       call_options options = {}) noexcept {
    return make_rotate_call(layout, x, heads_view<T>{}, rows, options);
}

}  // namespace ROPEWALK_VIEW_NAMESPACE::dispatch
