// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What no view or row can express is refused here; whether they fit is for the library to say. Included first
// by every file of a unit: sealed, the plain types that units of one program otherwise share are this unit's
// own, so that no inline function compiled here can be the copy that the linker keeps for everybody.
#define ROPEWALK_DETAIL_SEALED_UNIT 1
#define ROPEWALK_EXPECT(condition) static_cast<void>(0)
#define ROPEWALK_ON_MISFIT note  // a status is the answer of this interface

#include "unit.hpp"

#include <ropewalk/kernels/fit.hpp>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

/// No address space holds more elements than this, and sums of a few such numbers do not overflow.
inline constexpr index most = index{1} << (sizeof(index) > 4 ? 56 : 28);

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

inline misfit check_tensor(const ropewalk_tensor& x) noexcept {
    if (!is_stride(x.batch_stride)) return {"batch_stride must fit the address space", 0, x.batch_stride};
    if (!is_stride(x.token_stride)) return {"token_stride must fit the address space", 0, x.token_stride};
    if (!is_stride(x.head_stride)) return {"head_stride must fit the address space", 0, x.head_stride};
    if (!is_count(x.heads)) return {"heads must be a count", 0, x.heads};
    return {};
}

/// `count` steps of every stride stay in the address space: what is only read may overlap, so no rule on
/// strides keeps them short.
inline misfit check_reach(const ropewalk_tensor& x, index batches, index tokens) noexcept {
    const misfit r = check_tensor(x);
    if (!r.ok()) return r;
    const auto far = [](index count, index stride) {
        return product(count, detail::magnitude(stride)) > most;
    };
    if (far(batches, x.batch_stride))
        return {"batches * batch_stride must fit the address space", 0, batches};
    if (far(tokens, x.token_stride)) return {"tokens * token_stride must fit the address space", 0, tokens};
    if (far(x.heads, x.head_stride)) return {"heads * head_stride must fit the address space", 0, x.heads};
    return {};
}

/// What every struct begins with.
template <class Struct>
misfit check_struct(const Struct* s, const char* must_not_be_null, const char* must_size) noexcept {
    if (s == nullptr) return {must_not_be_null, 1, 0};
    if (s->size != sizeof *s) return {must_size, sizeof *s, static_cast<index>(s->size)};
    if (s->version != ROPEWALK_C_VERSION)
        return {"version must be ROPEWALK_C_VERSION", ROPEWALK_C_VERSION, s->version};
    return {};
}
template <class Call>
misfit check_head(const Call* call, const char* must_size, std::int32_t dtype, std::int32_t last) noexcept {
    const misfit own = check_struct(call, "call must not be null", must_size);
    if (!own.ok()) return own;
    if (!is_within(dtype, ROPEWALK_F64, last))
        return {"dtype must be an enum ropewalk_dtype", ROPEWALK_F32, dtype};
    return {};
}
inline misfit check_layouts(std::int32_t layout, std::int32_t write_layout) noexcept {
    if (!is_within(layout, ROPEWALK_HALF_SPLIT, ROPEWALK_BLOCKED))
        return {"layout must be an enum ropewalk_layout", ROPEWALK_HALF_SPLIT, layout};
    if (write_layout != 0 && !is_within(write_layout, ROPEWALK_HALF_SPLIT, ROPEWALK_BLOCKED))
        return {"write_layout must be 0 or an enum ropewalk_layout", 0, write_layout};
    return {};
}
inline misfit check_direction(std::int32_t direction) noexcept {
    if (is_within(direction, ROPEWALK_ROTATE, ROPEWALK_GRADIENT)) return {};
    return {"direction must be an enum ropewalk_direction", ROPEWALK_ROTATE, direction};
}
inline misfit check_extents(index batches, index tokens, index channels, index first_channel) noexcept {
    if (!is_count(batches)) return {"batches must be a count", 1, batches};
    if (!is_count(tokens)) return {"tokens must be a count", 1, tokens};
    if (product(batches, tokens) > most)
        return {"batches * tokens must fit the address space, batches", 1, batches};
    if (!is_count(channels)) return {"channels must be a count", 0, channels};
    if (!is_count(first_channel)) return {"first_channel must be a count", 0, first_channel};
    return {};
}

/// What a dtype of rows may be but for 0, where the data have this one: half precision is computed in f32.
constexpr std::int32_t rows_dtype_for(std::int32_t dtype) noexcept {
    return dtype == ROPEWALK_F64 ? ROPEWALK_F64 : ROPEWALK_F32;
}
/// A table's own fields, for data of that type.
inline misfit check_table(const ropewalk_rows& rows, std::int32_t dtype) noexcept {
    if (rows.dtype != 0 && rows.dtype != rows_dtype_for(dtype))
        return {
            "cos and sin must be of ROPEWALK_F64 for data of ROPEWALK_F64, else of ROPEWALK_F32, dtype of "
            "the rows",
            rows_dtype_for(dtype), rows.dtype};
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
    return {};
}
misfit check_made_rows(const ropewalk_rows& rows) noexcept;

/// `dtype` is that of the data.
inline misfit check_rows(const ropewalk_rows& rows, index batches, index tokens,
                         std::int32_t dtype) noexcept {
    if (!is_count(rows.pairs)) return {"pairs must be a count", 0, rows.pairs};
    if (!is_count(rows.table_rows)) return {"table_rows must be a count", 0, rows.table_rows};
    if (!is_count(rows.table_heads)) return {"table_heads must be a count", 1, rows.table_heads};
    if (!is_count(rows.first_token)) return {"first_token must be a count", 0, rows.first_token};
    if (!is_count(rows.row_count)) return {"row_count must be a count", 0, rows.row_count};
    if (rows.batch_stride != ROPEWALK_SAME_ROWS && !is_count(rows.batch_stride))
        return {"batch_stride of the rows must be a count or ROPEWALK_SAME_ROWS", 0, rows.batch_stride};
    if (rows.row_of_token != nullptr && rows.row_of_token_64 != nullptr)
        return {"row_of_token and row_of_token_64 must not both be given", 1, 2};
    if (!is_within(rows.dtype, ROPEWALK_NO_ROTATION, ROPEWALK_F32))
        return {"dtype of the rows must be 0, ROPEWALK_F32, ROPEWALK_F64 or ROPEWALK_NO_ROTATION",
                ROPEWALK_F32, rows.dtype};
    const bool none = rows.dtype == ROPEWALK_NO_ROTATION;
    if (none && rows.pairs != 0)
        return {"pairs must be 0 where dtype of the rows is ROPEWALK_NO_ROTATION", 0, rows.pairs};
    if (rows.spectrum != nullptr) {
        const misfit r = check_made_rows(rows);
        if (!r.ok()) return r;
    }
    if (batches == 0 || tokens == 0 || none) return {};
    if (rows.pairs == 0) return {"rows must have pairs, or be those of ropewalk_no_rotation(), pairs", 1, 0};
    const bool indexed =
        rows.row_of_token != nullptr || rows.row_of_token_64 != nullptr || rows.spectrum != nullptr;
    if (rows.spectrum == nullptr) {
        const misfit r = check_table(rows, dtype);
        if (!r.ok()) return r;
    } else if (rows.positions == nullptr) {
        return {"positions must not be null", 1, 0};
    }
    const index between = rows.batch_stride == 0                    ? tokens
                          : rows.batch_stride == ROPEWALK_SAME_ROWS ? 0
                                                                    : rows.batch_stride;
    const index entries = rows.first_token + product(batches - 1, between) + tokens;
    if (!indexed && entries > rows.table_rows)
        return {"table_rows must be at least the entries that the tokens read", entries, rows.table_rows};
    if (indexed && entries > rows.row_count)
        return {"row_count must be at least the entries that the tokens read", entries, rows.row_count};
    return {};
}

/// A head's channels are by default those that rotate: where none do, a head that is forgotten is one of none.
template <class Call>
misfit check_channels(const Call& call) noexcept {
    if (call.channels != 0 || call.rows.pairs != 0 || call.batches == 0 || call.tokens == 0) return {};
    return {"channels must be given where nothing rotates", 1, 0};
}

inline misfit check_part(index parts, index part) noexcept { return detail::fit_part({parts, part}); }

/// Notes a refusal and is its status; ROPEWALK_OK where there is none.
inline int status_of(const misfit& r) noexcept {
    if (r.ok()) return ROPEWALK_OK;
    ROPEWALK_DETAIL_NOTE(r.must, r.wanted, r.got, r.argument);
    return ROPEWALK_BAD_CALL;
}
/// The library noted it already.
inline int status_of(bool done) noexcept { return done ? ROPEWALK_OK : ROPEWALK_BAD_CALL; }

/// The first refusal of several, each asked only where those before it had none.
template <class First, class... Rest>
misfit first_misfit(First first, Rest... rest) noexcept {
    const misfit r = first();
    if constexpr (sizeof...(Rest) == 0) {
        return r;
    } else {
        return !r.ok() ? r : first_misfit(rest...);
    }
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
