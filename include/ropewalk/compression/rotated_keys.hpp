// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Keys that row_attention rotates while it reads them from a cache.
#pragma once

#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/compression/row_products.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Keys that are rotated when they are read from memory; token n has position n.
template <class T, class K>
struct rotated_keys {
    heads_view<K> view;
    const rotary_scheme& rope;
    const spectrum& omega;
    T* rows;  ///< [row_attention::tile, channels]
    T* cos_sin;

    const T* operator()(index token, index head, index slot) const noexcept {
        const index channels = view.channels(), pairs = omega.pairs();
        T* const row = rows + slot * channels;
        const auto* from = reinterpret_cast<const stored_t<K>*>(view.at(0, token, head));
        for (index c = 0; c < channels; ++c) row[c] = static_cast<T>(from[c]);
        fill_cos_sin(static_cast<double>(token), omega.turns_data().data(), omega.magnitude(), pairs, cos_sin,
                     cos_sin + pairs);
        rotate(rope, heads_view<T>(row, 1, 1, channels), row_of(cos_sin, pairs));
        return row;
    }
    void prefetch(index token, index head) const noexcept {
        prefetch_row(view.at(0, token, head), view.channels());
    }
    /// One row, for one token and all heads.
    static rows_view<T> row_of(const T* cos_sin, index pairs) noexcept {
        rows_view<T> rows;
        rows.cos = cos_sin;
        rows.sin = cos_sin + pairs;
        rows.table_rows = rows.tokens = 1;
        rows.pairs = pairs;
        return rows;
    }
};

}  // namespace detail

}  // namespace ROPEWALK_NAMESPACE
