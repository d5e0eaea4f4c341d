// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reorders rows of projection weights from one pair layout to another (half-split <-> interleaved).
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include <ropewalk/core/index.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE {

/// The output channels of a query or key projection. `heads` is that of the tensor itself: under
/// grouped-query attention k has fewer heads than q.
struct head_rows {
    index heads = 0;
    index head_dim = 0;
    index first_channel = 0;  ///< where the rotary slice begins in a head
    index rotary_dim = 0;     ///< channels of the slice; 0 = all of head_dim
};

/// The permutation of channels that changes a checkpoint's pair layout: channel c of the result is channel
/// order[c] of the original. Channels outside the rotary slices do not move. Queries and keys converted in
/// the same way give the same scores under the other layout.
/// Shapes:   [heads * head_dim].
/// Throws:   invalid_config on sizes that do not fit the layouts.
/// Source:   the row permutation of Hugging Face's convert_llama_weights_to_hf and of llama.cpp's
///           conversion (half_split <-> interleaved).
inline std::vector<index> make_channel_order(const head_rows& rows, pair_layout from, pair_layout to) {
    constexpr const char* who = "make_channel_order";
    detail::require(rows.heads >= 0, who, "heads must be >= 0", rows.heads);
    detail::require(rows.head_dim >= 1, who, "head_dim must be >= 1", rows.head_dim);
    const index rotary = rows.rotary_dim != 0 ? rows.rotary_dim : rows.head_dim;
    detail::require(rotary > 0 && rotary % 2 == 0, who, "rotary_dim must be even and > 0", rotary);
    detail::require(rows.first_channel >= 0 && rows.first_channel + rotary <= rows.head_dim, who,
                    "first_channel + rotary_dim must be <= head_dim", rows.first_channel + rotary);
    const index pairs = rotary / 2;
    detail::require(from.fits(pairs) && to.fits(pairs), who,
                    "rotary_dim must be a multiple of the layout's group", rotary);
    std::vector<index> order(static_cast<std::size_t>(
        detail::checked_product(who, "heads x head_dim must be >= 0", {rows.heads, rows.head_dim})));
    std::iota(order.begin(), order.end(), index{0});
    for (index h = 0; h < rows.heads; ++h) {
        const index start = h * rows.head_dim + rows.first_channel;
        for (index i = 0; i < pairs; ++i) {
            order[static_cast<std::size_t>(start + to.first(i, pairs))] = start + from.first(i, pairs);
            order[static_cast<std::size_t>(start + to.second(i, pairs))] = start + from.second(i, pairs);
        }
    }
    return order;
}

/// Writes the rows of `from` in another order. One call converts any tensor whose first extent is the output
/// channels: the weight [out, in] of q or k, its bias and a per-channel norm [out] (columns = 1), the B
/// factor of a LoRA [out, rank]. (The A factor [rank, in] is not touched: its rows are ranks.)
/// Shapes:   from, to [order.size(), columns] row-major; a norm shared by all heads has heads = 1.
/// Requires: `from` and `to` do not overlap.
/// Throws:   invalid_config on sizes that disagree.
template <class T>
void fill_reordered_rows(std::span<const T> from, std::span<T> to, std::span<const index> order,
                         index columns = 1) {
    constexpr const char* who = "fill_reordered_rows";
    detail::require(columns >= 1, who, "columns must be >= 1", columns);
    const auto count = static_cast<index>(order.size()) * columns;
    detail::require_equal(who, "from must hold rows x columns numbers", count, from.size());
    detail::require_equal(who, "to must hold rows x columns numbers", count, to.size());
    for (std::size_t r = 0; r < order.size(); ++r) {
        detail::require(order[r] >= 0 && order[r] < static_cast<index>(order.size()), who,
                        "order must name rows", order[r]);
        const auto row =
            from.subspan(static_cast<std::size_t>(order[r] * columns), static_cast<std::size_t>(columns));
        std::copy(row.begin(), row.end(), to.begin() + static_cast<index>(r) * columns);
    }
}

/// The rows of a projection (weight, bias, norm, LoRA B) under another pair layout.
/// Throws:   invalid_config on sizes that disagree.
/// Source:   make_channel_order.
template <class T>
std::vector<T> make_rows_in_layout(std::span<const T> from, const head_rows& rows, pair_layout from_layout,
                                   pair_layout to_layout, index columns = 1) {
    std::vector<T> to(from.size());
    fill_reordered_rows<T>(from, to, make_channel_order(rows, from_layout, to_layout), columns);
    return to;
}

}  // namespace ROPEWALK_NAMESPACE
