// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rotation through run-time dispatch: plain calls that the unit compiled for this CPU carries out.
#pragma once

#include <algorithm>

#include <ropewalk/ropewalk.h>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/kernels/partition.hpp>

namespace ROPEWALK_VIEW_NAMESPACE::dispatch {

/// The plain call that passes from code compiled for any CPU to a unit compiled for this one; see ropewalk.h
/// for its fields. A call made from views that do not fit has size 0.
using rotate_call = ::ropewalk_rotate_call;

/// Executes the call with the unit of this CPU. Link a target that was given to ropewalk_add_dispatch().
/// Returns:  whether the call was executed. A call with an invalid field, or made from views that do not fit
///           their rows, is refused with nothing written; ropewalk_last_misfit() gives the reason, which for
///           views that do not fit was noted when the call was made.
/// Cost:     one indirect call, a check of the fields and a copy of about forty numbers.
/// Accuracy: each unit as rotate. Results of units with and without fused multiply-add differ in the last
///           bit.
[[nodiscard]] inline bool run(const rotate_call& call) noexcept {
    return call.size != 0 && ::ropewalk_rotate(&call) == ROPEWALK_OK;
}

/// `direction` and `part` as in the kernels.
struct call_options {
    ropewalk_direction direction = ROPEWALK_ROTATE;  ///< forward, inverse or transpose
    part_of part = {};                               ///< the share of the work that this call does
};

namespace detail {

template <class T>
constexpr std::int32_t dtype_number() noexcept {
    static_assert(int(storage::f64) + 1 == ROPEWALK_F64 && int(storage::f32) + 1 == ROPEWALK_F32 &&
                  int(storage::f16) + 1 == ROPEWALK_F16 && int(storage::bf16) + 1 == ROPEWALK_BF16);
    return static_cast<std::int32_t>(dtype<T>::format) + 1;
}
constexpr std::int32_t layout_number(pair_layout layout) noexcept {
    using kind = pair_layout::kind_type;
    static_assert(int(kind::half_split) + 1 == ROPEWALK_HALF_SPLIT &&
                  int(kind::interleaved) + 1 == ROPEWALK_INTERLEAVED &&
                  int(kind::blocked) + 1 == ROPEWALK_BLOCKED);
    return static_cast<std::int32_t>(layout.kind) + 1;
}

/// What a plain call cannot express: the shapes of both views and of their rows, in the words of fit().
template <class C>
constexpr misfit fit_call(const heads_shape& shape, const heads_shape* k, const rows_view<C>& rows) noexcept {
    const index smallest = std::min(std::min(shape.batches, shape.tokens), shape.channels);
    if (smallest < 0) return {"extents must be >= 0 (a slice outside its view has -1)", 0, smallest};
    if (k != nullptr && k->batches != shape.batches)
        return {"k must have the batches of q", shape.batches, k->batches};
    if (k != nullptr && k->tokens != shape.tokens)
        return {"k must have the tokens of q", shape.tokens, k->tokens};
    if (k != nullptr && k->channels != shape.channels)
        return {"k must have the channels of q", shape.channels, k->channels};
    if (rows.count() != shape.batches * shape.tokens)
        return {"rows must be one per token (batches * tokens)", shape.batches * shape.tokens, rows.count()};
    if (rows.batches != 1 && rows.batches != shape.batches)
        return {"batches of the rows must be those of the view", shape.batches, rows.batches};
    return {};
}
/// Makes run() refuse the call, for a reason that ropewalk_last_misfit() returns.
inline void refuse_call(rotate_call& call, const misfit& why) noexcept {
    call.size = 0;
    ::ropewalk_note_misfit(why.must, why.wanted, why.got);
}

}  // namespace detail

/// A view as a plain struct.
template <class T>
constexpr ropewalk_tensor make_tensor(heads_view<T> x) noexcept {
    return {x.data, x.shape.heads, x.strides.batch, x.strides.token, x.strides.head};
}

/// Rows as a plain struct, for a view of that many batches and tokens.
template <class C>
ropewalk_rows make_rows(const rows_view<C>& rows) noexcept {
    ropewalk_rows out{};
    out.cos = rows.cos;
    out.sin = rows.sin;
    out.table_rows = rows.table_rows;
    out.table_heads = rows.heads;
    out.pairs = rows.pairs;
    out.row_stride = rows.row_stride;
    out.head_stride = rows.head_stride;
    // Checked rows are below 2^31, so unsigned ones can be read as signed.
    out.row_of_token = rows.indices.unsigned_narrow != nullptr
                           ? reinterpret_cast<const std::int32_t*>(rows.indices.unsigned_narrow)
                           : rows.indices.narrow;
    out.row_of_token_64 = rows.indices.wide;
    const index last_batch = rows.batches > 1 ? (rows.batches - 1) * rows.batch_stride : 0;
    out.row_count = rows.first_token + last_batch + rows.tokens;
    out.first_token = rows.first_token;
    if (rows.batches != 1) out.batch_stride = rows.batch_stride == 0 ? ROPEWALK_SAME_ROWS : rows.batch_stride;
    out.dtype = rows.pairs == 0 ? ROPEWALK_NO_ROTATION : detail::dtype_number<C>();  // as copy_rows are meant
    return out;
}

/// A call from views and their rows. q and k have the same batches and tokens (otherwise make one call for
/// each), and may have different types. Views that do not fit make a call that run() refuses.
template <class TQ, class TK>
[[nodiscard]] rotate_call make_rotate_call(layout_slice layout, heads_view<TQ> q, heads_view<TK> k,
                                           const rows_view<compute_t<TQ>>& rows,
                                           call_options options = {}) noexcept {
    static_assert(std::is_same_v<compute_t<TQ>, compute_t<TK>>,
                  "ropewalk: q and k of f64 and of another type read rows of two types: make a call each");
    static_assert(!std::is_const_v<TQ> && !std::is_const_v<TK>,
                  "ropewalk: a view of const elements cannot be rotated in place");
    const bool nothing = q.empty() && k.empty();
    const heads_shape shape = q.empty() ? k.shape : q.shape;
    rotate_call call = ::ropewalk_new_rotate_call();
    const misfit why = nothing ? misfit{} : detail::fit_call(shape, k.empty() ? nullptr : &k.shape, rows);
    if (!why.ok()) detail::refuse_call(call, why);
    call.dtype = q.empty() ? detail::dtype_number<TK>() : detail::dtype_number<TQ>();
    call.k_dtype = detail::dtype_number<TK>();
    call.layout = detail::layout_number(layout.read);
    call.write_layout = detail::layout_number(layout.write);
    call.direction = options.direction;
    call.group = layout.read.group;
    call.write_group = layout.write.group;
    call.batches = shape.batches;
    call.tokens = shape.tokens;
    call.channels = shape.channels;
    call.first_channel = layout.first_channel;
    call.q = q.empty() ? make_tensor(k) : make_tensor(q);
    if (!q.empty() && !k.empty()) call.k = make_tensor(k);
    call.rows = make_rows(rows);
    if (nothing) {  // whatever the rows are
        call.batches = call.tokens = call.channels = 0;
        call.q = {};
    }
    call.parts = options.part.parts;
    call.part = options.part.part;
    return call;
}
/// The same for one view.
template <class T>
[[nodiscard]] rotate_call make_rotate_call(layout_slice layout, heads_view<T> x,
                                           const rows_view<compute_t<T>>& rows,
                                           call_options options = {}) noexcept {
    return make_rotate_call(layout, x, heads_view<T>{}, rows, options);
}
/// The same for a layout of whole heads: views of twice as many channels as the rows have pairs.
template <class TQ, class TK>
[[nodiscard]] rotate_call make_rotate_call(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
                                           const rows_view<compute_t<TQ>>& rows,
                                           call_options options = {}) noexcept {
    rotate_call call = make_rotate_call(layout_slice{.read = layout}, q, k, rows, options);
    if (call.size != 0 && call.channels != 0 && call.channels != 2 * rows.pairs)
        detail::refuse_call(call,
                            {"channels must be twice the pairs of the rows", 2 * rows.pairs, call.channels});
    return call;
}
template <class T>
[[nodiscard]] rotate_call make_rotate_call(pair_layout layout, heads_view<T> x,
                                           const rows_view<compute_t<T>>& rows,
                                           call_options options = {}) noexcept {
    return make_rotate_call(layout, x, heads_view<T>{}, rows, options);
}

}  // namespace ROPEWALK_VIEW_NAMESPACE::dispatch
