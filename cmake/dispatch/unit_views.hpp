// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// The fields of a checked call as the library takes them.

#include "unit_checks.hpp"

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>

#include <cstring>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

inline pair_layout layout_of(std::int32_t layout, index group) noexcept {
    switch (layout) {
        case ROPEWALK_INTERLEAVED: return interleaved{};
        case ROPEWALK_BLOCKED: return pair_layout::blocked_by(group);
        default: return half_split{};
    }
}
template <class Call>
layout_slice slice_of(const Call& call) noexcept {
    const pair_layout read = layout_of(call.layout, call.group);
    return {read, call.write_layout == 0 ? read : layout_of(call.write_layout, call.write_group),
            call.first_channel};
}
inline detail::direction direction_of(std::int32_t way) noexcept {
    return way == ROPEWALK_ROTATE     ? detail::direction::forward
           : way == ROPEWALK_UNROTATE ? detail::direction::inverse
                                      : detail::direction::transpose;
}

template <class Call>
index channels_of(const Call& call) noexcept {
    return call.channels == 0 ? 2 * call.rows.pairs : call.channels;
}
template <class T, class Call>
heads_view<T> view_of(const Call& call, const ropewalk_tensor& x, index channels) noexcept {
    return {
        static_cast<T*>(x.data),
        {call.batches, call.tokens, x.heads, channels},
        // A stride that leads nowhere may be anything; a part without heads still forms an address with it.
        {call.batches > 1 ? x.batch_stride : 0, call.tokens > 1 ? x.token_stride : 0,
         x.heads > 1 ? x.head_stride : 0}};
}
/// A tensor that may be missing.
template <class T, class Call>
heads_view<T> view_if(const Call& call, const ropewalk_tensor& x, index channels) noexcept {
    return x.data != nullptr ? view_of<T>(call, x, channels) : heads_view<T>{};
}
/// Which entry each token reads.
template <class Rows>
void place_tokens(Rows& rows, const ropewalk_rows& given, index batches, index tokens) noexcept {
    rows.first_token = given.first_token;
    if (given.batch_stride == 0) {  // one behind the other: no division by the tokens of a batch
        rows.tokens = batches * tokens;
    } else {
        rows.tokens = tokens;
        rows.batches = batches;
        rows.batch_stride = given.batch_stride == ROPEWALK_SAME_ROWS ? 0 : given.batch_stride;
    }
}
template <class C>
rows_view<C> rows_of(const ropewalk_rows& given, index batches, index tokens) noexcept {
    rows_view<C> rows;
    rows.cos = static_cast<const C*>(given.cos);
    rows.sin = static_cast<const C*>(given.sin);
    rows.table_rows = given.table_rows;
    rows.heads = given.table_heads;
    rows.pairs = given.pairs;
    rows.row_stride = given.row_stride;
    rows.head_stride = given.head_stride;
    rows.indices.narrow = given.row_of_token;
    rows.indices.wide = given.row_of_token_64;
    place_tokens(rows, given, batches, tokens);
    return rows;
}

/// Rows of a table, one behind the other, as a call has them.
template <class C>
ropewalk_rows plain_rows_of(const rows_view<C>& rows) noexcept {
    ropewalk_rows out{};
    out.cos = rows.cos;
    out.sin = rows.sin;
    out.table_rows = rows.table_rows;
    out.table_heads = rows.heads;
    out.pairs = rows.pairs;
    out.row_stride = rows.row_stride;
    out.head_stride = rows.head_stride;
    out.first_token = rows.first_token;
    out.dtype = std::is_same_v<C, double> ? ROPEWALK_F64 : ROPEWALK_F32;
    return out;
}

/// A handle begins with the object that handles.cpp made: the same class compiled for another instruction
/// set, without virtual functions, so the same bytes.
inline const spectrum& spectrum_of(const ropewalk_rows& rows) noexcept {
    return *reinterpret_cast<const spectrum*>(rows.spectrum);
}

/// Numbers of cos, and of sin, that are made at once.
inline constexpr index made_numbers = 2048;

inline misfit check_made_rows(const ropewalk_rows& rows) noexcept {
    const spectrum& s = spectrum_of(rows);
    if (rows.row_of_token != nullptr || rows.row_of_token_64 != nullptr)
        return {"rows on the fly must have no row_of_token", 0, 1};
    if (rows.pairs != s.pairs())
        return {"pairs of the rows must be those of the spectrum", s.pairs(), rows.pairs};
    if (rows.table_heads != s.heads())
        return {"table_heads must be the heads of the spectrum", s.heads(), rows.table_heads};
    if (rows.pairs > fly_rows::max_pairs)
        return {"pairs must be at most 512 on the fly", fly_rows::max_pairs, rows.pairs};
    if (product(rows.pairs, rows.table_heads) > made_numbers)
        return {"table_heads * pairs must be at most 2048 on the fly, table_heads", 1, rows.table_heads};
    if (product(rows.row_count, s.axes()) > most)
        return {"row_count * axes must fit the address space, row_count", 0, rows.row_count};
    if (!is_within(rows.position_type, ROPEWALK_POSITIONS_I32, ROPEWALK_POSITIONS_F64))
        return {"position_type must be an enum ropewalk_position_type", ROPEWALK_POSITIONS_I32,
                rows.position_type};
    if (rows.axes_first != 0 && rows.axes_first != 1)
        return {"axes_first must be 0 or 1", 0, rows.axes_first};
    return {};
}
inline position_span positions_of(const ropewalk_rows& rows, index count) noexcept {
    const auto as = [&]<class P>(P) {
        return position_span(
            std::span<const P>(static_cast<const P*>(rows.positions), static_cast<std::size_t>(count)));
    };
    switch (rows.position_type) {
        case ROPEWALK_POSITIONS_I32: return as(std::int32_t{});
        case ROPEWALK_POSITIONS_I64: return as(std::int64_t{});
        case ROPEWALK_POSITIONS_F32: return as(float{});
        default: return as(double{});
    }
}

/// Of a call that is only looked at: the part of the first token that has no head. Of norms over all heads of
/// a token, a part without tokens.
constexpr part_of nothing_of(index tokens, bool whole) noexcept {
    constexpr index parts = index{1} << (sizeof(index) > 4 ? 60 : 30);
    if (whole || tokens < 1) return {parts, parts - 1};
    return {parts, (parts + tokens - 1) / tokens - 1};
}
/// And its rows: the first token, the only one of that part, has none, so no table is read.
template <class C>
rows_view<C> without_row(rows_view<C> rows, index tokens) noexcept {
    static constexpr std::int32_t none = untouched_row;
    rows.indices = {};
    rows.indices.narrow = &none;
    rows.first_token = rows.batch_stride = 0;
    rows.batches = 1;
    rows.tokens = tokens;
    return rows;
}

/// What decides how a call is cut.
struct run_extents {
    index batches, tokens;
    part_of part;
    bool whole = false;  ///< tokens are never cut
    ropewalk_detail_mode mode = ropewalk_detail_run;
};

/// Rows on the fly as rows of a table: for some tokens at a time, so that kernels are compiled once.
template <class C, class F>
[[gnu::noinline]] bool with_made_rows(const ropewalk_rows& given, const run_extents& run, F f) noexcept {
    const spectrum& s = spectrum_of(given);
    const index numbers = given.pairs * given.table_heads, total = run.batches * run.tokens;
    alignas(64) C cos[made_numbers];
    alignas(64) C sin[made_numbers];
    rows_view<C> rows;
    rows.cos = cos;
    rows.sin = sin;
    rows.tokens = rows.table_rows = total;
    rows.heads = given.table_heads;
    rows.pairs = given.pairs;
    if (run.mode == ropewalk_detail_look) return f(without_row(rows, total), nothing_of(total, run.whole));
    rows.row_stride = numbers;
    rows.head_stride = given.pairs;

    fly_rows fly(s, positions_of(given, given.row_count * s.axes()),
                 given.axes_first != 0 ? position_order::axes_tokens : position_order::tokens_axes);
    place_tokens(fly, given, run.batches, run.tokens);
    detail::row_cursor<fly_rows, C> cursor(fly);
    const index at_once = std::max(index{1}, made_numbers / numbers);
    const index share = total / run.part.parts + 1;
    const index pieces = std::max(index{1}, (share + at_once - 1) / at_once);
    for (index piece = 0; piece < pieces; ++piece) {
        const part_of part{run.part.parts * pieces, run.part.part * pieces + piece};
        const work_range whole = partition(total, part);
        const work_part work =
            run.whole ? work_part{whole.first, whole.count, {}} : partition_tokens(total, part);
        for (index n = 0; n < work.tokens; ++n)
            for (index h = 0; h < given.table_heads; ++h) {
                const auto row = cursor.row_of(work.first_token + n, h);
                const auto bytes = static_cast<std::size_t>(given.pairs) * sizeof(C);
                std::memcpy(cos + n * numbers + h * given.pairs, row.cos, bytes);
                std::memcpy(sin + n * numbers + h * given.pairs, row.sin, bytes);
            }
        rows.first_token = -work.first_token;
        if (!f(rows, part)) return false;
    }
    return true;
}

/// f(rows, part), once or for every piece of the part.
template <class C, class F>
bool with_rows(const ropewalk_rows& given, const run_extents& run, F f) noexcept {
    const bool no_pairs = given.pairs == 0;  // nothing of them is read then
    if (given.spectrum != nullptr && !no_pairs) return with_made_rows<C>(given, run, f);
    const index total = run.batches * run.tokens;
    const auto rows = no_pairs ? copy_rows<C>(total) : rows_of<C>(given, run.batches, run.tokens);
    if (run.mode == ropewalk_detail_look) return f(without_row(rows, total), nothing_of(total, run.whole));
    return f(rows, run.part);
}

/// Calls f with an element of the type.
template <class F>
auto with_dtype(std::int32_t dtype, F f) noexcept {
    switch (dtype) {
        case ROPEWALK_F64: return f(double{});
        case ROPEWALK_F32: return f(float{});
        case ROPEWALK_F16: return f(f16{});
        default: return f(bf16{});
    }
}
/// The three that f32 rows serve.
template <class F>
auto with_short_dtype(std::int32_t dtype, F f) noexcept {
    switch (dtype) {
        case ROPEWALK_F32: return f(float{});
        case ROPEWALK_F16: return f(f16{});
        default: return f(bf16{});
    }
}

/// The first of these row indices that the table does not have.
template <class I>
misfit missing_row_of(const I* entries, index count, index table_rows) noexcept {
    const std::int64_t last = std::int64_t{table_rows} - 1;
    // The sign of a difference, of many entries at once. It may also be set by entries near -2^63, which are not
    // missing: what comes after is asked one by one.
    const auto perhaps = [&](index first, index some) {
        std::uint64_t signs = 0;
        for (index i = 0; i < some; ++i)
            signs |= static_cast<std::uint64_t>(last) - static_cast<std::uint64_t>(entries[first + i]);
        return static_cast<std::int64_t>(signs) < 0;
    };
    constexpr index block = 32;  // a constant, so that -O2 vectorises
    index first = 0;
    while (first + block <= count && !perhaps(first, block)) first += block;
    for (; first < count; ++first)
        if (entries[first] > last)
            return {detail::missing_row_text, table_rows - 1, static_cast<index>(entries[first])};
    return {};
}
/// Whether the table has the row of every token of a call: asked before anything is written, of all parts alike,
/// so that a refused call touches nothing. A few bytes a token are read, once more than the call itself reads them.
inline misfit check_indices(const ropewalk_rows& rows, index batches, index tokens) noexcept {
    if ((rows.row_of_token == nullptr && rows.row_of_token_64 == nullptr) || rows.pairs == 0 || tokens == 0)
        return {};
    const bool adjacent = rows.batch_stride == 0, same = rows.batch_stride == ROPEWALK_SAME_ROWS;
    const index runs = adjacent || same ? std::min(batches, index{1}) : batches;
    const index count = adjacent ? batches * tokens : tokens;
    for (index b = 0; b < runs; ++b) {
        const index first = rows.first_token + (b == 0 ? 0 : b * rows.batch_stride);
        const misfit r = rows.row_of_token != nullptr
                             ? missing_row_of(rows.row_of_token + first, count, rows.table_rows)
                             : missing_row_of(rows.row_of_token_64 + first, count, rows.table_rows);
        if (!r.ok()) return r;
    }
    return {};
}

inline bool has_rows(const ropewalk_rows& rows, index batches, index tokens) noexcept {
    return check_indices(rows, batches, tokens).ok();
}

/// A changed layout goes through a buffer on the stack where source and target are one.
inline misfit check_changed(const layout_slice& layout, index pairs) noexcept {
    if (layout.read == layout.write || pairs <= detail::changed_pairs) return {};
    return {"pairs must be at most 512 where the layout changes in place", detail::changed_pairs, pairs};
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
