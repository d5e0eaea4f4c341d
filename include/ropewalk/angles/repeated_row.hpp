// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One table row for every token of a call.
#pragma once

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// One row of a table for every token of a call: a constant offset of rotated keys, or queries held at one
/// distance.
/// Requires: the table outlives the view.
/// Throws:   invalid_config on a row that does not exist or tokens < 0.
/// Cost:     none: a view with row stride 0.
/// Source:   R(p + s) = R(s) R(p); FreeFlux, Wei et al. 2025; A2ATS, He et al. 2025.
///
///     const auto shift =
///         make_rotation_table(omega, position_ids::from_tokens_axes(std::vector{0., 10., 10.}, 3));
///     rotate(interleaved{}, image_keys, repeat_row(shift, 0, image_keys.tokens()));
template <class T>
rows_view<T> repeat_row(const rotation_table<T>& table, index row, index tokens) {
    detail::require(row >= 0 && row < table.row_count(), "repeat_row", "row must be below the table's rows",
                    row);
    detail::require(tokens >= 0, "repeat_row", "tokens must be >= 0", tokens);
    rows_view<T> v = table.rows().token_slice(0, 0);
    v.indices = {};
    v.cos = table.cos_row(row).data();
    v.sin = table.sin_row(row).data();
    v.row_stride = 0;
    v.table_rows = tokens;
    v.tokens = tokens;
    return v;
}

}  // namespace ROPEWALK_NAMESPACE
