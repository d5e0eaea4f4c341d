// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One unit of the run-time dispatch, compiled once for each instruction set with its flags and
// ROPEWALK_DISPATCH_UNIT set to the name that those flags must give.
//
// Sealed: the plain types that units of one program otherwise share are this unit's own, so that no inline
// function compiled here can be the copy that the linker keeps for everybody.
#define ROPEWALK_DETAIL_SEALED_UNIT 1
#define ROPEWALK_EXPECT(condition) static_cast<void>(0)
#define ROPEWALK_ON_MISFIT ignore  // a status is the answer of this interface

#include "unit.hpp"

#include <ropewalk/kernels/rotate.hpp>

#define UNIT_TEXT2(x) #x
#define UNIT_TEXT(x) UNIT_TEXT2(x)

namespace {

namespace rw = ropewalk;
using rw::index;
using reason = ropewalk_detail_reason;

constexpr bool same(const char* a, const char* b) {
    for (; *a != 0 && *a == *b; ++a, ++b) {
    }
    return *a == *b;
}
static_assert(same(UNIT_TEXT(ROPEWALK_ISA), UNIT_TEXT(ROPEWALK_DISPATCH_UNIT)),
              "the flags of this unit do not give its instruction set: an -m flag of the whole project is "
              "stronger than the unit's own");

/// No address space holds more elements than this, and sums of a few such numbers do not overflow.
constexpr index most = index{1} << (sizeof(index) > 4 ? 56 : 28);

constexpr bool is_stride(index stride) noexcept { return stride >= -most && stride <= most; }
constexpr bool is_count(index count) noexcept { return static_cast<std::size_t>(count) <= std::size_t(most); }
constexpr bool is_within(std::int32_t number, std::int32_t first, std::int32_t last) noexcept {
    return number >= first && number <= last;
}
/// a * b, counts both; more than `most` where it would be.
constexpr index product(index a, index b) noexcept {
    index result = 0;
    return __builtin_mul_overflow(a, b, &result) || result > most ? most + 1 : result;
}

/// What no view or row can express; whether they fit is for the library to say.
reason check_tensor(const ropewalk_tensor& x) noexcept {
    if (!is_stride(x.batch_stride)) return {"batch_stride must fit the address space", 0, x.batch_stride};
    if (!is_stride(x.token_stride)) return {"token_stride must fit the address space", 0, x.token_stride};
    if (!is_stride(x.head_stride)) return {"head_stride must fit the address space", 0, x.head_stride};
    if (!is_count(x.heads)) return {"heads must be a count", 0, x.heads};
    return {};
}

reason check_rows(const ropewalk_rows& rows, index batches, index tokens) noexcept {
    if (!is_count(rows.pairs)) return {"pairs must be a count", 0, rows.pairs};
    if (!is_count(rows.table_rows)) return {"table_rows must be a count", 0, rows.table_rows};
    if (!is_count(rows.table_heads)) return {"table_heads must be a count", 1, rows.table_heads};
    if (!is_count(rows.first_token)) return {"first_token must be a count", 0, rows.first_token};
    if (!is_count(rows.row_count)) return {"row_count must be a count", 0, rows.row_count};
    if (rows.batch_stride != ROPEWALK_SAME_ROWS && !is_count(rows.batch_stride))
        return {"batch_stride of the rows must be a count or ROPEWALK_SAME_ROWS", 0, rows.batch_stride};
    if (rows.row_of_token != nullptr && rows.row_of_token_64 != nullptr)
        return {"row_of_token and row_of_token_64 must not both be given", 1, 2};
    if (batches == 0 || tokens == 0 || rows.pairs == 0) return {};

    if (rows.cos == nullptr || rows.sin == nullptr) return {"cos and sin must not be null", 1, 0};
    if (rows.row_stride < rows.pairs || rows.row_stride > most)
        return {"row_stride must be at least pairs and fit the address space", rows.pairs, rows.row_stride};
    index end = product(rows.table_rows, rows.row_stride);
    if (rows.table_heads > 1) {
        if (rows.head_stride < rows.pairs || rows.head_stride > most)
            return {"head_stride of the rows must be at least pairs and fit the address space", rows.pairs,
                    rows.head_stride};
        end += product(rows.table_heads, rows.head_stride);
    }
    if (end > most) return {"the table must fit the address space, table_rows", 1, rows.table_rows};

    const bool ordinal = rows.row_of_token == nullptr && rows.row_of_token_64 == nullptr;
    const index between = rows.batch_stride == 0                    ? tokens
                          : rows.batch_stride == ROPEWALK_SAME_ROWS ? 0
                                                                    : rows.batch_stride;
    const index entries = rows.first_token + product(batches - 1, between) + tokens;
    if (ordinal && entries > rows.table_rows)
        return {"table_rows must be at least the entries that the tokens read", entries, rows.table_rows};
    if (!ordinal && entries > rows.row_count)
        return {"row_count must be at least the entries that the tokens read", entries, rows.row_count};
    return {};
}

reason check_call(const ropewalk_rotate_call* call) noexcept {
    if (call == nullptr) return {"call must not be null", 1, 0};
    const ropewalk_rotate_call& c = *call;
    if (c.size != sizeof c)
        return {"size must be sizeof(ropewalk_rotate_call)", sizeof c, static_cast<index>(c.size)};
    if (c.version != ROPEWALK_C_VERSION)
        return {"version must be ROPEWALK_C_VERSION", ROPEWALK_C_VERSION, c.version};
    if (!is_within(c.dtype, ROPEWALK_F64, ROPEWALK_BF16))
        return {"dtype must be an enum ropewalk_dtype", ROPEWALK_F32, c.dtype};
    if (c.k_dtype != 0 && !is_within(c.k_dtype, ROPEWALK_F64, ROPEWALK_BF16))
        return {"k_dtype must be 0 or an enum ropewalk_dtype", 0, c.k_dtype};
    if (c.k_dtype != 0 && (c.k_dtype == ROPEWALK_F64) != (c.dtype == ROPEWALK_F64))
        return {"q and k must both be ROPEWALK_F64 or neither, k_dtype", c.dtype, c.k_dtype};
    if (!is_within(c.layout, ROPEWALK_HALF_SPLIT, ROPEWALK_BLOCKED))
        return {"layout must be an enum ropewalk_layout", ROPEWALK_HALF_SPLIT, c.layout};
    if (c.write_layout != 0 && !is_within(c.write_layout, ROPEWALK_HALF_SPLIT, ROPEWALK_BLOCKED))
        return {"write_layout must be 0 or an enum ropewalk_layout", 0, c.write_layout};
    if (!is_within(c.direction, ROPEWALK_ROTATE, ROPEWALK_GRADIENT))
        return {"direction must be an enum ropewalk_direction", ROPEWALK_ROTATE, c.direction};
    if (!is_count(c.batches)) return {"batches must be a count", 1, c.batches};
    if (!is_count(c.tokens)) return {"tokens must be a count", 1, c.tokens};
    if (product(c.batches, c.tokens) > most)
        return {"batches * tokens must fit the address space, batches", 1, c.batches};
    if (!is_count(c.channels)) return {"channels must be a count", 0, c.channels};
    if (!is_count(c.first_channel)) return {"first_channel must be a count", 0, c.first_channel};
    reason r = check_tensor(c.q);
    if (r.must == nullptr && c.k.data != nullptr) r = check_tensor(c.k);
    return r.must == nullptr ? check_rows(c.rows, c.batches, c.tokens) : r;
}

rw::pair_layout layout_of(std::int32_t layout, index group) noexcept {
    switch (layout) {
        case ROPEWALK_INTERLEAVED: return rw::interleaved{};
        case ROPEWALK_BLOCKED: return rw::pair_layout::blocked_by(group);
        default: return rw::half_split{};
    }
}
rw::layout_slice slice_of(const ropewalk_rotate_call& call) noexcept {
    const rw::pair_layout read = layout_of(call.layout, call.group);
    return {read, call.write_layout == 0 ? read : layout_of(call.write_layout, call.write_group),
            call.first_channel};
}

template <class T>
rw::heads_view<T> view_of(const ropewalk_rotate_call& call, const ropewalk_tensor& x) noexcept {
    return {static_cast<T*>(x.data),
            {call.batches, call.tokens, x.heads, call.channels == 0 ? 2 * call.rows.pairs : call.channels},
            // A stride that leads nowhere may be anything; a part without heads still forms an address with it.
            {call.batches > 1 ? x.batch_stride : 0, call.tokens > 1 ? x.token_stride : 0,
             x.heads > 1 ? x.head_stride : 0}};
}
template <class T>
rw::heads_view<T> view_of_k(const ropewalk_rotate_call& call) noexcept {
    return call.k.data != nullptr ? view_of<T>(call, call.k) : rw::heads_view<T>{};
}

template <class C>
rw::rows_view<C> rows_of(const ropewalk_rotate_call& call) noexcept {
    rw::rows_view<C> rows;
    rows.cos = static_cast<const C*>(call.rows.cos);
    rows.sin = static_cast<const C*>(call.rows.sin);
    rows.table_rows = call.rows.table_rows;
    rows.heads = call.rows.table_heads;
    rows.pairs = call.rows.pairs;
    rows.row_stride = call.rows.row_stride;
    rows.head_stride = call.rows.head_stride;
    rows.indices.narrow = call.rows.row_of_token;
    rows.indices.wide = call.rows.row_of_token_64;
    rows.first_token = call.rows.first_token;
    if (call.rows.batch_stride == 0) {  // one behind the other: no division by the tokens of a batch
        rows.tokens = call.batches * call.tokens;
    } else {
        rows.tokens = call.tokens;
        rows.batches = call.batches;
        rows.batch_stride = call.rows.batch_stride == ROPEWALK_SAME_ROWS ? 0 : call.rows.batch_stride;
    }
    return rows;
}

/// One kernel for every direction and for one tensor or two.
template <class T>
bool run(const ropewalk_rotate_call& call, const rw::heads_view<T>& q, const rw::heads_view<T>& k) noexcept {
    using rw::detail::direction;
    const direction way = call.direction == ROPEWALK_ROTATE     ? direction::forward
                          : call.direction == ROPEWALK_UNROTATE ? direction::inverse
                                                                : direction::transpose;
    return rw::detail::rotate_views("rotate", slice_of(call), q, k, rows_of<rw::compute_t<T>>(call), way,
                                    {call.parts, call.part});
}

/// Calls f with an element of the type.
template <class F>
auto with_dtype(std::int32_t dtype, F f) noexcept {
    switch (dtype) {
        case ROPEWALK_F64: return f(double{});
        case ROPEWALK_F32: return f(float{});
        case ROPEWALK_F16: return f(rw::f16{});
        default: return f(rw::bf16{});
    }
}

/// The library's word on one tensor. In place, a change of layout goes through a buffer on the stack.
template <class T>
rw::misfit fit_of(const ropewalk_rotate_call& call, const rw::heads_view<T>& x) noexcept {
    const rw::misfit part = rw::detail::fit_part({call.parts, call.part});
    if (!part.ok()) return part;
    const rw::layout_slice layout = slice_of(call);
    const rw::misfit m = rw::fit(layout, x, rows_of<rw::compute_t<T>>(call));
    if (m.ok() && !x.empty() && layout.read != layout.write && call.rows.pairs > rw::detail::changed_pairs)
        return {"pairs must be at most 512 where the layout changes in place", rw::detail::changed_pairs,
                call.rows.pairs};
    if (m.ok() && !x.empty() && call.first_channel > x.channels())  // with no pairs, all else fits
        return {"first_channel must be at most the channels", x.channels(), call.first_channel};
    return m;
}
std::int32_t k_dtype_of(const ropewalk_rotate_call& call) noexcept {
    return call.k_dtype == 0 ? call.dtype : call.k_dtype;
}
rw::misfit fit_of_call(const ropewalk_rotate_call& call) noexcept {
    const rw::misfit q =
        with_dtype(call.dtype, [&]<class T>(T) { return fit_of(call, view_of<T>(call, call.q)); });
    if (!q.ok()) return q;
    return with_dtype(k_dtype_of(call), [&]<class T>(T) { return fit_of(call, view_of_k<T>(call)); });
}

/// No heads, at an address all the same: the kernel adds to the address of both tensors.
template <class T>
rw::heads_view<T> nothing_at(void* data) noexcept {
    rw::heads_view<T> nothing;
    nothing.data = static_cast<T*>(data);
    return nothing;
}
bool run_all(const ropewalk_rotate_call& call) noexcept {
    return with_dtype(call.dtype, [&]<class T>(T) {
        const bool has_q = call.q.heads != 0;
        const bool has_k = call.k.data != nullptr && call.k.heads != 0;
        return run<T>(call, has_q ? view_of<T>(call, call.q) : nothing_at<T>(call.k.data),
                      has_k ? view_of<T>(call, call.k) : nothing_at<T>(call.q.data));
    });
}
/// q and k of different types are two calls: sixteen kernels for four would be four times the code.
bool run_each(const ropewalk_rotate_call& call) noexcept {
    const auto one = [&](std::int32_t dtype, const ropewalk_tensor& x) {
        return x.heads == 0 || with_dtype(dtype, [&]<class T>(T) {
                   return run<T>(call, view_of<T>(call, x), nothing_at<T>(x.data));
               });
    };
    const bool q = one(call.dtype, call.q);
    const bool k = one(call.k_dtype, call.k);
    return q && k;
}

int rotate(const ropewalk_rotate_call* pointer) noexcept {
    if (check_call(pointer).must != nullptr) return ROPEWALK_BAD_CALL;
    const ropewalk_rotate_call& call = *pointer;
    if (call.rows.pairs == 0) return fit_of_call(call).ok() ? ROPEWALK_OK : ROPEWALK_BAD_CALL;
    if (k_dtype_of(call) == call.dtype || call.k.data == nullptr)
        return run_all(call) ? ROPEWALK_OK : ROPEWALK_BAD_CALL;
    return fit_of_call(call).ok() && run_each(call) ? ROPEWALK_OK : ROPEWALK_BAD_CALL;
}

/// Whether every row is there; a call finds that out token by token. Views without heads say nothing of how
/// many tokens there are in memory.
reason check_indices(const ropewalk_rotate_call& call) noexcept {
    const bool ordinal = call.rows.row_of_token == nullptr && call.rows.row_of_token_64 == nullptr;
    if (ordinal || call.rows.pairs == 0 ||
        (call.q.heads == 0 && (call.k.data == nullptr || call.k.heads == 0)))
        return {};
    auto rows = rows_of<float>(call);  // the indices are the same for either type
    if (call.rows.batch_stride == ROPEWALK_SAME_ROWS) rows = rows.batch_slice(0, call.batches == 0 ? 0 : 1);
    for (index token = 0; token < rows.count(); ++token)
        if (rows.row(token) >= rows.table_rows)
            return {"rows of the tokens must be among the rows of the table", rows.table_rows - 1,
                    rows.row(token)};
    return {};
}

reason explain_rotate(const ropewalk_rotate_call* call) noexcept {
    const reason field = check_call(call);
    if (field.must != nullptr) return field;
    const rw::misfit m = fit_of_call(*call);
    if (!m.ok()) return {m.must, m.wanted, m.got};
    return check_indices(*call);
}

}  // namespace

ROPEWALK_DETAIL_DECLARE_UNIT(ROPEWALK_DISPATCH_UNIT)
extern "C" const ropewalk_detail_unit ROPEWALK_DETAIL_UNIT(ROPEWALK_DISPATCH_UNIT) = {
    UNIT_TEXT(ROPEWALK_DISPATCH_UNIT), &rotate, &explain_rotate};
