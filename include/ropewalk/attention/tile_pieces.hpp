// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Splits a masked tile of attention scores into the products that are needed.
#pragma once

#include <algorithm>

#include <ropewalk/attention/masks.hpp>
#include <ropewalk/attention/tile_product.hpp>

/// The products that a tile of queries and keys needs under a mask.
/// Source: skipping of masked tiles, Dao et al. 2022.
namespace ROPEWALK_NAMESPACE::detail {

/// One product: whole registers of queries, from row `row` of the tile on, and the keys that they see.
struct tile_piece {
    attention::score_tile tile;
    bool complete;
    index row, packs;
};

/// The offset of row `row` of a tile that is stored as strips one after the other, each [channels, strip].
template <class T>
constexpr index strip_offset(index row, index channels) noexcept {
    return row / strip_lanes<T> * strip_lanes<T> * channels + row % strip_lanes<T>;
}

/// Calls f(piece) for all visible pairs of the queries of `whole` (rows are query * heads + head) and the
/// keys `any`. A strip that sees only part of its keys is split register by register where that saves a tenth
/// of its product: along the diagonal, or where a document ends.
template <class T, class Rules, class F>
void each_piece(const Rules& rules, const attention::score_tile& whole, const attention::seen_keys& any,
                const F& f) {
    constexpr index lanes = simd::lanes<T>, strip = strip_lanes<T>;
    const auto ask = [&](attention::score_tile tile) {
        if (any.complete) return any;
        return rules.tile(tile);
    };
    const auto piece_of = [&](attention::score_tile tile, const attention::seen_keys& seen, index row) {
        tile.first_key = seen.first_key;
        tile.keys = seen.keys;
        const index packs = (tile.queries * tile.heads + lanes - 1) / lanes;
        return tile_piece{tile, seen.complete, row, packs};
    };
    attention::score_tile tile = whole;
    tile.first_key = any.first_key;
    tile.keys = any.keys;
    if (whole.heads > 1) {  // decode: one strip
        f(piece_of(tile, any, 0));
        return;
    }
    for (index row = 0; row < whole.queries; row += strip) {
        tile.first_query = whole.first_query + row;
        tile.queries = std::min(strip, whole.queries - row);
        const attention::seen_keys seen = ask(tile);
        if (seen.keys <= 0) continue;
        const tile_piece all = piece_of(tile, seen, row);
        if (!seen.complete && all.packs > 1) {
            attention::seen_keys each[strip_packs];
            index sum = 0;
            attention::score_tile part = all.tile;
            const auto set_part = [&](index p) {
                part.first_query = tile.first_query + p * lanes;
                part.queries = std::min(lanes, tile.queries - p * lanes);
            };
            for (index p = 0; p < all.packs; ++p) {
                set_part(p);
                each[p] = rules.tile(part);
                sum += std::max<index>(each[p].keys, 0);
            }
            if (10 * sum < 9 * all.packs * seen.keys) {
                for (index p = 0; p < all.packs; ++p) {
                    set_part(p);
                    if (each[p].keys > 0) f(piece_of(part, each[p], row + p * lanes));
                }
                continue;
            }
        }
        f(all);
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
