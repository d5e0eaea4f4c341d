// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Tables for the C interface. Compiled for the baseline and with exceptions, which end here: a status is what
// leaves. Sealed as the units are, so that the program's own copies of the library stay its own.
#define ROPEWALK_DETAIL_SEALED_UNIT 1
#define ROPEWALK_ON_MISFIT ignore

#include "unit.hpp"

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/llama3.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include <cstdio>
#include <exception>
#include <new>
#include <span>
#include <variant>
#include <vector>

namespace rw = ropewalk;

struct ropewalk_table {
    std::variant<rw::rotation_table<float>, rw::rotation_table<double>> table;
};

namespace {

using options_type = ropewalk_table_options;
constexpr rw::index most_channels = 65536, most_rows = 0x7fffffff, most_axes = 16;

rw::spectrum spectrum_of(const options_type& o) {
    switch (o.scaling) {
        case ROPEWALK_UNSCALED:
            return rw::frequencies::geometric({.rotary_dim = o.rotary_dim, .base = o.base});
        case ROPEWALK_LINEAR:
            return rw::frequencies::linear({.rotary_dim = o.rotary_dim, .base = o.base, .factor = o.factor});
        case ROPEWALK_LLAMA3:
            return rw::frequencies::llama3({.rotary_dim = o.rotary_dim,
                                            .base = o.base,
                                            .factor = o.factor,
                                            .low_freq_factor = o.low_freq_factor,
                                            .high_freq_factor = o.high_freq_factor,
                                            .original_context = o.original_context});
        case ROPEWALK_YARN: {
            rw::frequencies::yarn_config c{.rotary_dim = o.rotary_dim,
                                           .base = o.base,
                                           .factor = o.factor,
                                           .original_context = o.original_context,
                                           .beta_fast = o.beta_fast,
                                           .beta_slow = o.beta_slow};
            if (o.attention_factor != 0) c.attention_factor = o.attention_factor;
            return rw::frequencies::yarn(c);
        }
        default: {
            rw::detail::require(o.scaling == ROPEWALK_GIVEN_FREQUENCIES, "ropewalk_make_table",
                                "scaling must be an enum ropewalk_scaling", o.scaling);
            rw::detail::require(o.frequencies != nullptr, "ropewalk_make_table",
                                "frequencies must not be null", 0);
            const auto pairs = static_cast<std::size_t>(o.rotary_dim / 2);
            return rw::spectrum::from_omega(std::span<const double>(o.frequencies, pairs));
        }
    }
}

template <class C>
rw::rotation_table<C> table_of(const options_type& o, const rw::spectrum& s) {
    if (o.positions == nullptr)
        return rw::make_rotation_table<C>(s, rw::position_ids::text(o.rows, 0, o.axes));
    const std::vector<double> positions(o.positions, o.positions + o.rows * o.axes);
    for (double p : positions)
        rw::detail::require(p - p == 0, "ropewalk_make_table", "positions must be finite", p);
    return rw::make_rotation_table<C>(s, rw::position_ids::from_tokens_axes(positions, o.axes));
}

ropewalk_table* make(const options_type* options) {
    constexpr const char* who = "ropewalk_make_table";
    using rw::detail::require;
    require(options != nullptr, who, "options must not be null", 0);
    const options_type& o = *options;
    require(o.size == sizeof o, who, "size must be sizeof(ropewalk_table_options)", o.size);
    require(o.version == ROPEWALK_C_VERSION, who, "version must be ROPEWALK_C_VERSION", o.version);
    require(o.dtype == ROPEWALK_F32 || o.dtype == ROPEWALK_F64, who,
            "dtype must be ROPEWALK_F32 or ROPEWALK_F64", o.dtype);
    require(o.reserved == 0, who, "reserved must be 0", o.reserved);
    require(o.rotary_dim >= 0 && o.rotary_dim <= most_channels && o.rotary_dim % 2 == 0, who,
            "rotary_dim must be even and at most 65536", o.rotary_dim);
    require(o.rows >= 0 && o.rows <= most_rows, who, "rows must be >= 0 and below 2^31", o.rows);
    require(o.magnitude - o.magnitude == 0 && o.magnitude != 0, who, "magnitude must be finite and not 0",
            o.magnitude);
    require(o.axes >= 1 && o.axes <= most_axes, who, "axes must be from 1 to 16", o.axes);
    require(o.axes == 1 || o.axis_of_pair != nullptr, who, "axis_of_pair must not be null where axes is",
            o.axes);
    rw::spectrum s = spectrum_of(o);
    if (o.axis_of_pair != nullptr) {
        const std::vector<int> axes(o.axis_of_pair, o.axis_of_pair + o.rotary_dim / 2);
        for (int axis : axes)
            require(axis >= 0 && axis < o.axes, who, "axis_of_pair must be from 0 to below axes", axis);
        s = rw::frequencies::assign_axes(s, axes, o.axes);
    }
    s = s.with_magnitude(s.magnitude() * o.magnitude);
    if (o.dtype == ROPEWALK_F64) return new ropewalk_table{table_of<double>(o, s)};
    return new ropewalk_table{table_of<float>(o, s)};
}

int said(const char* words, char* text, std::size_t size, int status) noexcept {
    if (text != nullptr && size > 0) std::snprintf(text, size, "%s", words);
    return status;
}

}  // namespace

ROPEWALK_DETAIL_API int ropewalk_make_table(const ropewalk_table_options* options, ropewalk_table** table,
                                            char* text, std::size_t size) {
    if (table == nullptr) return said("table must not be null", text, size, ROPEWALK_BAD_CALL);
    *table = nullptr;
    try {
        *table = make(options);
        return said("made", text, size, ROPEWALK_OK);
    } catch (const std::bad_alloc&) {
        return said("not enough memory", text, size, ROPEWALK_NO_MEMORY);
    } catch (const std::exception& e) {
        return said(e.what(), text, size, ROPEWALK_BAD_CALL);
    } catch (...) {
        return said("refused", text, size, ROPEWALK_BAD_CALL);
    }
}

ROPEWALK_DETAIL_API void ropewalk_free_table(ropewalk_table* table) { delete table; }

ROPEWALK_DETAIL_API ropewalk_rows ropewalk_table_rows(const ropewalk_table* table) {
    ropewalk_rows out{};
    out.table_heads = 1;
    if (table == nullptr) return out;
    std::visit(
        [&](const auto& t) {
            const auto rows = t.rows();
            out.cos = rows.cos;
            out.sin = rows.sin;
            out.table_rows = rows.table_rows;
            out.table_heads = rows.heads;
            out.pairs = rows.pairs;
            out.row_stride = rows.row_stride;
            out.head_stride = rows.head_stride;
        },
        table->table);
    return out;
}
