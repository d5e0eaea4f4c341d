// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rotation of queries and keys by a rotary_scheme through run-time dispatch.
#pragma once

#include <ropewalk/dispatch/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_VIEW_NAMESPACE::dispatch {

/// rotate(rope, q, k, rows), unrotate or rotate_gradient (`options.direction`) with the unit of this CPU.
/// Returns:  whether the call was executed; views that do not fit the scheme or the rows are refused, and
///           ropewalk_last_misfit() gives the reason.
/// Cost:     as dispatch::run.
template <class TQ, class TK>
[[nodiscard]] bool rotate_scheme(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
                                 const std::type_identity_t<rows_view<compute_t<TQ>>>& rows,
                                 call_options options = {}) noexcept {
    if (!rope.rotates) return true;
    const layout_slice layout{.read = rope.read_layout, .write = rope.write_layout};
    rotate_call call = make_rotate_call(layout, rope.slice(q), rope.slice(k), rows, options);
    if (call.size != 0 && rows.pairs != rope.rotary_dim / 2)
        detail::refuse_call(call, {"pairs of the rows must be half the rotary_dim of the scheme",
                                   rope.rotary_dim / 2, rows.pairs});
    if (call.size != 0 && call.channels != 0 && call.channels != rope.rotary_dim)
        detail::refuse_call(call, {"channels must be the head_dim or the rotary_dim of the scheme",
                                   rope.head_dim, q.empty() ? k.channels() : q.channels()});
    return run(call);
}
/// The same for one view.
template <class T>
[[nodiscard]] bool rotate_scheme(const rotary_scheme& rope, heads_view<T> x,
                                 const std::type_identity_t<rows_view<compute_t<T>>>& rows,
                                 call_options options = {}) noexcept {
    return rotate_scheme(rope, x, heads_view<T>{}, rows, options);
}

}  // namespace ROPEWALK_VIEW_NAMESPACE::dispatch
