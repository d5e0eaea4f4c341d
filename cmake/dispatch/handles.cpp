// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Spectra and tables of the C interface.
#include "cold.hpp"
#include "unit_views.hpp"

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/llama3.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/frequencies/per_pair.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kv/rebase.hpp>
#include <ropewalk/kv/shift_keys.hpp>

#include <span>
#include <variant>
#include <vector>

struct ropewalk_table {
    std::variant<ropewalk::rotation_table<float>, ropewalk::rotation_table<double>> table;
};

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

using detail::require;
constexpr index most_channels = 65536, most_rows = 0x7fffffff, most_axes = 16;

std::span<const double> given(const double* numbers, index count) {
    return {numbers, static_cast<std::size_t>(count)};
}

spectrum scaled(const ropewalk_spectrum_options& o) {
    switch (o.scaling) {
        case ROPEWALK_UNSCALED: return frequencies::geometric({.rotary_dim = o.rotary_dim, .base = o.base});
        case ROPEWALK_LINEAR:
            return frequencies::linear({.rotary_dim = o.rotary_dim, .base = o.base, .factor = o.factor});
        case ROPEWALK_LLAMA3:
            return frequencies::llama3({.rotary_dim = o.rotary_dim,
                                        .base = o.base,
                                        .factor = o.factor,
                                        .low_freq_factor = o.low_freq_factor,
                                        .high_freq_factor = o.high_freq_factor,
                                        .original_context = o.original_context});
        case ROPEWALK_YARN: {
            frequencies::yarn_config c{.rotary_dim = o.rotary_dim,
                                       .base = o.base,
                                       .factor = o.factor,
                                       .original_context = o.original_context,
                                       .beta_fast = o.beta_fast,
                                       .beta_slow = o.beta_slow};
            if (o.attention_factor != 0) c.attention_factor = o.attention_factor;
            return frequencies::yarn(c);
        }
        case ROPEWALK_NTK:
            return frequencies::ntk({.rotary_dim = o.rotary_dim, .base = o.base, .alpha = o.factor});
        default: {
            constexpr const char* who = "ropewalk_make_spectrum";
            require(o.scaling == ROPEWALK_GIVEN_FREQUENCIES, who, "scaling must be an enum ropewalk_scaling",
                    o.scaling);
            require(o.frequencies != nullptr, who, "frequencies must not be null", 0);
            return spectrum::from_omega(given(o.frequencies, o.rotary_dim / 2));
        }
    }
}

spectrum spectrum_of(const ropewalk_spectrum_options* options) {
    constexpr const char* who = "ropewalk_make_spectrum";
    require(options != nullptr, who, "options must not be null", 0);
    const ropewalk_spectrum_options& o = *options;
    require(o.size == sizeof o, who, "size must be sizeof(ropewalk_spectrum_options)", o.size);
    require(o.version == ROPEWALK_C_VERSION, who, "version must be ROPEWALK_C_VERSION", o.version);
    require(o.rotary_dim >= 0 && o.rotary_dim <= most_channels && o.rotary_dim % 2 == 0, who,
            "rotary_dim must be even and at most 65536", o.rotary_dim);
    require(o.magnitude - o.magnitude == 0 && o.magnitude != 0, who, "magnitude must be finite and not 0",
            o.magnitude);
    require(o.axes >= 1 && o.axes <= most_axes, who, "axes must be from 1 to 16", o.axes);
    require(o.axes == 1 || o.axis_of_pair != nullptr, who, "axis_of_pair must not be null where axes is",
            o.axes);
    spectrum s = scaled(o);
    if (o.pair_factors != nullptr) s = frequencies::divide_pairs(s, given(o.pair_factors, o.rotary_dim / 2));
    if (o.axis_of_pair != nullptr) {
        const std::vector<int> axes(o.axis_of_pair, o.axis_of_pair + o.rotary_dim / 2);
        for (int axis : axes)
            require(axis >= 0 && axis < o.axes, who, "axis_of_pair must be from 0 to below axes", axis);
        s = frequencies::assign_axes(s, axes, o.axes);
    }
    return s.with_magnitude(s.magnitude() * o.magnitude);
}

/// The rows' positions as the library takes them.
position_ids positions_of(const char* must, const double* numbers, index rows, index axes) {
    if (numbers == nullptr) return position_ids::text(rows, 0, axes);
    const std::vector<double> all(numbers, numbers + rows * axes);
    for (double p : all) require(p - p == 0, "ropewalk_make_table", must, p);
    return position_ids::from_tokens_axes(all, axes);
}
template <class C>
ropewalk_table* table_of(const ropewalk_table_options& o) {
    const spectrum& s = o.spectrum->value;
    const position_ids positions = positions_of("positions must be finite", o.positions, o.rows, s.axes());
    if (o.for_shift != 0) return new ropewalk_table{make_shift_table<C>(s, positions)};
    if (o.from == nullptr) return new ropewalk_table{make_rotation_table<C>(s, positions)};
    const double* old = o.from_positions != nullptr ? o.from_positions : o.positions;
    require(o.from->value.axes() == s.axes(), "ropewalk_make_table", "from must have the axes of spectrum",
            o.from->value.axes());
    return new ropewalk_table{make_move_table<C>(
        o.from->value, s, positions_of("from_positions must be finite", old, o.rows, s.axes()), positions)};
}
ropewalk_table* new_table(const ropewalk_table_options* options) {
    constexpr const char* who = "ropewalk_make_table";
    require(options != nullptr, who, "options must not be null", 0);
    const ropewalk_table_options& o = *options;
    require(o.size == sizeof o, who, "size must be sizeof(ropewalk_table_options)", o.size);
    require(o.version == ROPEWALK_C_VERSION, who, "version must be ROPEWALK_C_VERSION", o.version);
    require(o.dtype == ROPEWALK_F32 || o.dtype == ROPEWALK_F64, who,
            "dtype must be ROPEWALK_F32 or ROPEWALK_F64", o.dtype);
    require(o.spectrum != nullptr, who, "spectrum must not be null", 0);
    require(o.rows >= 0 && o.rows <= most_rows, who, "rows must be >= 0 and below 2^31", o.rows);
    require(o.for_shift == 0 || o.for_shift == 1, who, "for_shift must be 0 or 1", o.for_shift);
    require(o.reserved == 0, who, "reserved must be 0", o.reserved);
    require(o.for_shift == 0 || o.from == nullptr, who, "from must be null where for_shift is", o.for_shift);
    require(o.from != nullptr || o.from_positions == nullptr, who,
            "from_positions must be null where from is", 1);
    return o.dtype == ROPEWALK_F64 ? table_of<double>(o) : table_of<float>(o);
}

int make_spectrum(const ropewalk_spectrum_options* options, ropewalk_spectrum** out, char* text,
                  std::size_t size) {
    return made(out, text, size, [&] { return new ropewalk_spectrum{spectrum_of(options)}; });
}
void free_spectrum(ropewalk_spectrum* s) { delete s; }
int spectrum_info(const ropewalk_spectrum* s, ropewalk_spectrum_info* info) {
    const misfit r =
        check_struct(info, "info must not be null", "size must be sizeof(ropewalk_spectrum_info)");
    if (!r.ok()) return status_of(r);
    if (s == nullptr) return status_of(misfit{"spectrum must not be null", 1, 0});
    info->pairs = s->value.pairs();
    info->axes = s->value.axes();
    info->heads = s->value.heads();
    info->magnitude = s->value.magnitude();
    return ROPEWALK_OK;
}
ptrdiff_t frequencies_of(const ropewalk_spectrum* s, double* numbers, ptrdiff_t count) {
    if (s == nullptr) return 0;
    for (index i = 0; numbers != nullptr && i < count && i < s->value.pairs(); ++i)
        numbers[i] = s->value.omega(i);
    return s->value.pairs();
}
int make_table(const ropewalk_table_options* options, ropewalk_table** out, char* text, std::size_t size) {
    return made(out, text, size, [&] { return new_table(options); });
}
void free_table(ropewalk_table* table) { delete table; }
ropewalk_rows table_rows(const ropewalk_table* table) {
    ropewalk_rows out{};
    out.table_heads = 1;
    if (table == nullptr) return out;
    return std::visit([](const auto& t) { return plain_rows_of(t.rows()); }, table->table);
}

}  // namespace

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit

namespace own = ropewalk::dispatch_unit;
extern "C" const ropewalk_detail_handles ROPEWALK_DETAIL_HANDLES = {
    &own::make_spectrum, &own::free_spectrum, &own::spectrum_info, &own::frequencies_of,
    &own::make_table,    &own::free_table,    &own::table_rows};
