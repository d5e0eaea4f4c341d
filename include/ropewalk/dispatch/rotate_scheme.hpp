// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/dispatch/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_VIEW_NAMESPACE::dispatch {

/// rotate(rope, q, k, rows), unrotate or rotate_gradient (`options.turn`) with the unit of this CPU.
/// Returns:  whether the call could be carried out; views that do not fit the scheme or the rows are refused.
/// Cost:     as dispatch::rotate. A scheme that reads one layout and writes another (DeepSeek's) is a gather
///           and a scatter in code of the caller's own flags.
/// Source:   design of this library.
template <class T>
[[nodiscard]] bool rotate(const rotary_scheme& rope, heads_view<T> q, heads_view<T> k,
                          std::type_identity_t<rows_for<T>> rows, call_options options = {}) noexcept {
    if (!rope.rotates) return true;
    const rotate_call call = make_rotate_call(rope.read_layout, rope.slice(q), rope.slice(k), rows, options);
    if (rope.read_layout == rope.write_layout) return rotate(call);
    if (call.size == 0) return false;
    switch (options.turn) {
        case ROPEWALK_UNROTATE: ropewalk::unrotate(rope, q, k, rows, options.part); break;
        case ROPEWALK_GRADIENT: ropewalk::rotate_gradient(rope, q, k, rows, options.part); break;
        default: ropewalk::rotate(rope, q, k, rows, options.part);
    }
    return true;
}
/// The same for one view.
template <class T>
[[nodiscard]] bool rotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
                          call_options options = {}) noexcept {
    return rotate(rope, x, heads_view<T>{}, rows, options);
}

}  // namespace ROPEWALK_VIEW_NAMESPACE::dispatch
