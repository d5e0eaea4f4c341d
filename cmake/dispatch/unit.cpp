// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One unit of the run-time dispatch, compiled once for each instruction set with its flags and
// ROPEWALK_DISPATCH_UNIT set to the name that those flags must give. Here: rotation in place, and the table
// of what the unit offers.
#include "unit_calls.hpp"
#include "unit_views.hpp"

#define UNIT_TEXT2(x) #x
#define UNIT_TEXT(x) UNIT_TEXT2(x)

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

constexpr bool same(const char* a, const char* b) {
    for (; *a != 0 && *a == *b; ++a, ++b) {
    }
    return *a == *b;
}
static_assert(same(UNIT_TEXT(ROPEWALK_ISA), UNIT_TEXT(ROPEWALK_DISPATCH_UNIT)),
              "the flags of this unit do not give its instruction set: an -m flag of the whole project is "
              "stronger than the unit's own");

misfit check_call(const ropewalk_rotate_call* call) noexcept {
    const misfit head = check_head(call, "size must be sizeof(ropewalk_rotate_call)",
                                   call != nullptr ? call->dtype : 0, ROPEWALK_BF16);
    if (!head.ok()) return head;
    const ropewalk_rotate_call& c = *call;
    if (c.k_dtype != 0 && !is_within(c.k_dtype, ROPEWALK_F64, ROPEWALK_BF16))
        return {"k_dtype must be 0 or an enum ropewalk_dtype", 0, c.k_dtype};
    if (c.k_dtype != 0 && (c.k_dtype == ROPEWALK_F64) != (c.dtype == ROPEWALK_F64))
        return {"q and k must both be ROPEWALK_F64 or neither, k_dtype", c.dtype, c.k_dtype};
    return first_misfit(
        [&] { return check_layouts(c.layout, c.write_layout); }, [&] { return check_direction(c.direction); },
        [&] { return check_extents(c.batches, c.tokens, c.channels, c.first_channel); },
        [&] { return detail::in_argument("q", check_tensor(c.q)); },
        [&] { return c.k.data != nullptr ? detail::in_argument("k", check_tensor(c.k)) : misfit{}; },
        [&] { return check_rows(c.rows, c.batches, c.tokens, c.dtype); }, [&] { return check_channels(c); });
}

/// What nearly every call is, asked in a few instructions: no field of it can be one that check_call refuses.
/// Those questions, one by one, are a third of the cost of a call that is not worth more. The dtype of the rows is
/// left to run_usual, which knows the type of the data.
bool is_usual(const ropewalk_rotate_call& c) noexcept {
    const ropewalk_rows& r = c.rows;
    const auto u = [](index x) { return static_cast<std::size_t>(x); };
    constexpr int small =
        sizeof(index) > 4 ? 24 : 12;  // products of two such numbers, and their sums, are counts
    const std::size_t counts = u(c.batches) | u(c.tokens) | u(c.channels) | u(c.first_channel) |
                               u(c.q.heads) | u(r.pairs) | u(r.table_rows) | u(r.first_token) |
                               u(r.row_count) | u(r.row_stride);
    constexpr std::size_t far = std::size_t{1} << (2 * small);
    std::size_t strides =
        (u(c.q.batch_stride) + far) | (u(c.q.token_stride) + far) | (u(c.q.head_stride) + far);
    std::size_t k_heads = 0;
    if (c.k.data != nullptr) {
        strides |= (u(c.k.batch_stride) + far) | (u(c.k.token_stride) + far) | (u(c.k.head_stride) + far);
        k_heads = u(c.k.heads);
    }
    const auto enumerators = [](std::int32_t x, std::int32_t first, std::uint32_t count) {
        return static_cast<std::uint32_t>(x) - static_cast<std::uint32_t>(first) < count;
    };
    const index entries =
        r.row_of_token != nullptr || r.row_of_token_64 != nullptr ? r.row_count : r.table_rows;
    return ((counts | k_heads) >> small) == 0 && (strides >> (2 * small + 1)) == 0 && c.size == sizeof c &&
           c.version == ROPEWALK_C_VERSION && enumerators(c.dtype, ROPEWALK_F64, 4) &&
           (c.k_dtype == 0 || c.k_dtype == c.dtype) && enumerators(c.layout, ROPEWALK_HALF_SPLIT, 3) &&
           (c.write_layout == 0 || (c.write_layout == c.layout && c.write_group == c.group)) &&
           enumerators(c.direction, ROPEWALK_ROTATE, 3) && r.pairs > 0 && r.table_heads == 1 &&
           r.batch_stride == 0 && r.spectrum == nullptr && r.cos != nullptr && r.sin != nullptr &&
           (r.row_of_token == nullptr || r.row_of_token_64 == nullptr) && r.row_stride >= r.pairs &&
           r.first_token + c.batches * c.tokens <= entries;
}

/// One kernel for every direction. It is given the call as it stands and makes views and rows itself: those that
/// are handed on in memory are read back as registers before their words are there, some 10 ns.
template <class T>
[[gnu::flatten, gnu::noinline]] bool kernel(const ropewalk_rotate_call& call) noexcept {
    const index channels = channels_of(call);
    return detail::rotate_views("rotate", slice_of(call),
                                rows_of<compute_t<T>>(call.rows, call.batches, call.tokens),
                                direction_of(call.direction), part_of{call.parts, call.part},
                                view_of<T>(call, call.q, channels), view_if<T>(call, call.k, channels));
}
/// The same of a usual call: what is known of it and need not be asked costs 6 ns, a second tensor without
/// heads 7.
template <class T, bool Both>
[[gnu::flatten, gnu::noinline]] bool usual_kernel(const ropewalk_rotate_call& call) noexcept {
    auto rows = rows_of<compute_t<T>>(call.rows, call.batches, call.tokens);
    rows.heads = rows.batches = 1;
    rows.batch_stride = 0;
    rows.tokens = call.batches * call.tokens;
    const pair_layout pairs = layout_of(call.layout, call.group);
    const index channels = channels_of(call);
    const auto rotate_all = [&](const auto&... x) {
        return detail::rotate_views("rotate", layout_slice{pairs, pairs, call.first_channel}, rows,
                                    direction_of(call.direction), part_of{call.parts, call.part}, x...);
    };
    const auto q = view_of<T>(call, call.q, channels);
    if constexpr (Both) {
        return rotate_all(q, view_of<T>(call, call.k, channels));
    } else {
        return rotate_all(q);
    }
}
/// Tensors of one type, by rows of a table.
bool run_table(const ropewalk_rotate_call& call) noexcept {
    return with_dtype(call.dtype, [&]<class T>(T) { return kernel<T>(call); });
}
int look_at_rotate(const ropewalk_rotate_call* call) noexcept;
bool run_usual(const ropewalk_rotate_call& call) noexcept {
    return with_dtype(call.dtype, [&]<class T>(T) {
        // Neither 0 nor this bit alone, in one comparison: check_call refuses it.
        constexpr std::int32_t stated = std::is_same_v<T, double> ? ROPEWALK_F64 : ROPEWALK_F32;
        static_assert((stated & (stated - 1)) == 0);
        if ((call.rows.dtype & ~stated) != 0) return look_at_rotate(&call) == ROPEWALK_OK;
        return call.k.data == nullptr ? usual_kernel<T, false>(call) : usual_kernel<T, true>(call);
    });
}
/// Tensors of one type, by rows of either kind.
bool run(const ropewalk_rotate_call& call) noexcept {
    if (call.rows.spectrum == nullptr) return run_table(call);
    const part_of own{call.parts, call.part};
    const misfit wrong = detail::fit_part(own);
    if (!wrong.ok()) return detail::tell("rotate", wrong);
    const auto made = [&]<class C>(C) {
        return with_made_rows<C>(call.rows, {call.batches, call.tokens, own},
                                 [&](const rows_view<C>& rows, part_of part) {
                                     ropewalk_rotate_call now = call;
                                     now.rows = plain_rows_of(rows);
                                     now.parts = part.parts;
                                     now.part = part.part;
                                     return run_table(now);
                                 });
    };
    return call.dtype == ROPEWALK_F64 ? made(double{}) : made(float{});
}

/// The library's word on one tensor.
template <class T>
misfit fit_of(const ropewalk_rotate_call& call, const heads_view<T>& x) noexcept {
    const layout_slice layout = slice_of(call);
    const misfit m = fit(layout, x, rows_of<compute_t<T>>(call.rows, call.batches, call.tokens));
    if (!m.ok() || x.empty()) return m;
    const misfit changed = check_changed(layout, call.rows.pairs);
    if (!changed.ok()) return changed;
    if (call.first_channel > x.channels())  // with no pairs, all else fits
        return {"first_channel must be at most the channels", x.channels(), call.first_channel};
    return m;
}
std::int32_t k_dtype_of(const ropewalk_rotate_call& call) noexcept {
    return call.k_dtype == 0 ? call.dtype : call.k_dtype;
}
misfit fit_of_call(const ropewalk_rotate_call& call) noexcept {
    const misfit part = detail::fit_part({call.parts, call.part});
    if (!part.ok()) return part;
    const index channels = channels_of(call);
    const misfit q =
        with_dtype(call.dtype, [&]<class T>(T) { return fit_of(call, view_of<T>(call, call.q, channels)); });
    if (!q.ok()) return detail::in_argument("q", q);
    return detail::in_argument("k", with_dtype(k_dtype_of(call), [&]<class T>(T) {
                                   return fit_of(call, view_if<T>(call, call.k, channels));
                               }));
}

/// q and k of different types are two calls: sixteen kernels for four would be four times the code.
bool run_each(const ropewalk_rotate_call& call) noexcept {
    const auto one = [&](std::int32_t dtype, const ropewalk_tensor& x) {
        ropewalk_rotate_call alone = call;
        alone.dtype = dtype;
        alone.q = x;
        alone.k = {};
        return run(alone);
    };
    const bool q = one(call.dtype, call.q);
    const bool k = one(call.k_dtype, call.k);
    return q && k;
}

int look_at_rotate(const ropewalk_rotate_call* call) noexcept {
    const misfit field = check_call(call);
    if (!field.ok()) return status_of(field);
    const misfit m = fit_of_call(*call);
    if (!m.ok()) return status_of(m);
    // Views without heads say nothing of how many tokens there are in memory.
    if (call->q.heads == 0 && (call->k.data == nullptr || call->k.heads == 0)) return ROPEWALK_OK;
    return status_of(check_indices(call->rows, call->batches, call->tokens));
}

/// The status of a call that was carried out or refused. The reason becomes that of a look at it: a kernel of one
/// tensor does not name it.
int status_of_done(bool done, const ropewalk_rotate_call& call) noexcept {
    if (done) return ROPEWALK_OK;
    look_at_rotate(&call);
    return ROPEWALK_BAD_CALL;
}

/// What is not usual: refused, or carried out.
[[gnu::noinline]] int rotate_unusual(const ropewalk_rotate_call* pointer) noexcept {
    const misfit field = check_call(pointer);
    if (!field.ok()) return status_of(field);
    const ropewalk_rotate_call& call = *pointer;
    if (call.rows.pairs == 0) return status_of(fit_of_call(call));
    if (!has_rows(call.rows, call.batches, call.tokens)) return look_at_rotate(pointer);
    if (k_dtype_of(call) == call.dtype || call.k.data == nullptr) return status_of_done(run(call), call);
    const misfit m = fit_of_call(call);
    return m.ok() ? status_of(run_each(call)) : status_of(m);
}
/// A usual call with an index of its rows. A function of its own, so that one without keeps no register for it.
[[gnu::noinline]] int rotate_indexed(const ropewalk_rotate_call* call) noexcept {
    const ropewalk_rows& rows = call->rows;
    const bool single = call->batches == 1 && call->tokens == 1;  // what decoding has
    const bool there = !single ? check_indices(rows, call->batches, call->tokens).ok()
                       : rows.row_of_token != nullptr
                           ? rows.row_of_token[rows.first_token] < rows.table_rows
                           : rows.row_of_token_64[rows.first_token] < rows.table_rows;
    if (!there) return look_at_rotate(call);  // what is wrong, in the order of all checks
    return status_of_done(run_usual(*call), *call);
}
int rotate(const ropewalk_rotate_call* call) noexcept {
    if (call == nullptr || !is_usual(*call)) return rotate_unusual(call);
    if (call->rows.row_of_token != nullptr || call->rows.row_of_token_64 != nullptr)
        return rotate_indexed(call);
    return status_of_done(run_usual(*call), *call);
}

}  // namespace

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit

namespace own = ropewalk::dispatch_unit;
ROPEWALK_DETAIL_DECLARE_UNIT(ROPEWALK_DISPATCH_UNIT)
extern "C" const ropewalk_detail_unit ROPEWALK_DETAIL_UNIT(ROPEWALK_DISPATCH_UNIT) = {
    UNIT_TEXT(ROPEWALK_DISPATCH_UNIT),
    &own::rotate,
    &own::look_at_rotate,
    &own::rotate_into,
    &own::normalize,
    &own::prepare,
    &own::shift};
