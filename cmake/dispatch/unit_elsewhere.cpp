// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Of one unit of the run-time dispatch: rotation into other memory, and norm and rotation in one pass.
#include "unit_calls.hpp"
#include "unit_norms.hpp"

#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

misfit check_call(const ropewalk_into_call* call) noexcept {
    const misfit head = check_head(call, "size must be sizeof(ropewalk_into_call)",
                                   call != nullptr ? call->from_dtype : 0, ROPEWALK_BF16);
    if (!head.ok()) return head;
    const ropewalk_into_call& c = *call;
    if (c.to_dtype != 0 && !is_within(c.to_dtype, ROPEWALK_F64, ROPEWALK_BF16))
        return {"to_dtype must be 0 or an enum ropewalk_dtype", 0, c.to_dtype};
    if (c.to_dtype != 0 && (c.to_dtype == ROPEWALK_F64) != (c.from_dtype == ROPEWALK_F64))
        return {"from and to must both be ROPEWALK_F64 or neither, to_dtype", c.from_dtype, c.to_dtype};
    if (!is_within(c.unrotated, ROPEWALK_LEAVE_UNROTATED, ROPEWALK_COPY_UNROTATED))
        return {"unrotated must be an enum ropewalk_unrotated", 0, c.unrotated};
    if (c.reserved != 0) return {"reserved must be 0", 0, c.reserved};
    return first_misfit([&] { return check_layouts(c.layout, c.write_layout); },
                        [&] { return check_direction(c.direction); },
                        [&] { return check_extents(c.batches, c.tokens, c.channels, c.first_channel); },
                        [&] { return detail::in_argument("from", check_reach(c.from, c.batches, c.tokens)); },
                        [&] { return detail::in_argument("to", check_tensor(c.to)); },
                        [&] { return check_rows(c.rows, c.batches, c.tokens, c.from_dtype); },
                        [&] { return check_channels(c); }, [&] { return check_part(c.parts, c.part); });
}

template <class S, class D>
bool run(const ropewalk_into_call& c, ropewalk_detail_mode mode) noexcept {
    const index channels = channels_of(c);
    const auto from = view_of<const S>(c, c.from, channels);
    const auto to = view_of<D>(c, c.to, channels);
    const auto unrotated =
        c.unrotated == ROPEWALK_COPY_UNROTATED ? unrotated_numbers::copied : unrotated_numbers::left_alone;
    return with_rows<compute_t<D>>(
        c.rows, {c.batches, c.tokens, {c.parts, c.part}, false, mode}, [&](const auto& rows, part_of part) {
            return detail::rotate_elsewhere("rotate_into", slice_of(c), from, to, rows,
                                            direction_of(c.direction), {unrotated, part});
        });
}

misfit check_call(const ropewalk_normalize_call* call) noexcept {
    const misfit head = check_head(call, "size must be sizeof(ropewalk_normalize_call)",
                                   call != nullptr ? call->dtype : 0, ROPEWALK_BF16);
    if (!head.ok()) return head;
    const ropewalk_normalize_call& c = *call;
    if (c.normalize_all != 0 && c.normalize_all != 1)
        return {"normalize_all must be 0 or 1", 0, c.normalize_all};
    if (c.reserved != 0) return {"reserved must be 0", 0, c.reserved};
    const bool has_k = c.k.data != nullptr;
    return first_misfit(
        [&] { return check_layouts(c.layout, c.write_layout); },
        [&] { return check_extents(c.batches, c.tokens, c.channels, c.first_channel); },
        [&] { return detail::in_argument("q", check_tensor(c.q)); },
        [&] { return has_k ? detail::in_argument("k", check_tensor(c.k)) : misfit{}; },
        [&] { return detail::in_argument("q_norm", check_norm(c.q_norm, true)); },
        [&] { return has_k ? detail::in_argument("k_norm", check_norm(c.k_norm, true)) : misfit{}; },
        [&] { return check_rows(c.rows, c.batches, c.tokens, c.dtype); }, [&] { return check_channels(c); },
        [&] { return check_part(c.parts, c.part); });
}

template <class T>
bool run(const ropewalk_normalize_call& c, ropewalk_detail_mode mode) noexcept {
    using C = compute_t<T>;
    const index channels = channels_of(c);
    const auto q = view_of<T>(c, c.q, channels);
    const auto k = view_if<T>(c, c.k, channels);
    const auto norm_q = norm_of<C>(c.q_norm, channels), norm_k = norm_of<C>(c.k_norm, channels);
    const auto untouched = c.normalize_all != 0 ? untouched_tokens::normalised : untouched_tokens::left_alone;
    const bool whole = detail::keeps_heads_together(q, norm_q) || detail::keeps_heads_together(k, norm_k);
    return with_rows<C>(
        c.rows, {c.batches, c.tokens, {c.parts, c.part}, whole, mode}, [&](const auto& rows, part_of part) {
            return detail::normalize_views(slice_of(c), q, k, norm_q, norm_k, rows, {part, untouched});
        });
}

/// What is left to say of a call that fits, where it is only looked at.
int look(bool fits, const ropewalk_rows& rows, index batches, index tokens, bool any_heads) noexcept {
    if (!fits || !any_heads) return status_of(fits);
    return status_of(check_indices(rows, batches, tokens));
}

}  // namespace

int rotate_into(const ropewalk_into_call* call, ropewalk_detail_mode mode) noexcept {
    const misfit field = check_call(call);
    if (!field.ok()) return status_of(field);
    const ropewalk_into_call& c = *call;
    const std::int32_t to = c.to_dtype == 0 ? c.from_dtype : c.to_dtype;
    if (!has_rows(c.rows, c.batches, c.tokens)) mode = ropewalk_detail_look;
    const bool done = c.from_dtype == ROPEWALK_F64
                          ? run<double, double>(c, mode)
                          : with_short_dtype(c.from_dtype, [&]<class S>(S) {
                                return with_short_dtype(to, [&]<class D>(D) { return run<S, D>(c, mode); });
                            });
    if (mode == ropewalk_detail_run) return status_of(done);
    return look(done, c.rows, c.batches, c.tokens, c.to.heads != 0);
}

int normalize(const ropewalk_normalize_call* call, ropewalk_detail_mode mode) noexcept {
    const misfit field = check_call(call);
    if (!field.ok()) return status_of(field);
    const ropewalk_normalize_call& c = *call;
    if (!has_rows(c.rows, c.batches, c.tokens)) mode = ropewalk_detail_look;
    const bool done = with_dtype(c.dtype, [&]<class T>(T) { return run<T>(c, mode); });
    if (mode == ropewalk_detail_run) return status_of(done);
    return look(done, c.rows, c.batches, c.tokens, c.q.heads != 0 || (c.k.data != nullptr && c.k.heads != 0));
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
