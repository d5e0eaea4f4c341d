// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tile_pieces.hpp>

#include <cstdint>
#include <utility>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace detail = ropewalk::ROPEWALK_ISA::detail;
namespace attention = ropewalk::attention;
using attention::score_tile;

namespace {

template <class T>
constexpr rw::index lanes = detail::strip_lanes<T> / detail::strip_packs;

/// The pieces of a tile; each must be some registers of it.
template <class T, class Rules>
std::vector<detail::tile_piece> pieces_of(const Rules& rules, const score_tile& whole) {
    std::vector<detail::tile_piece> pieces;
    detail::each_piece<T>(rules, whole, rules.tile(whole), [&](const detail::tile_piece& p) {
        CHECK(p.tile.queries > 0);
        CHECK(p.tile.first_query + p.tile.queries <= whole.first_query + whole.queries);
        CHECK(p.row == p.tile.first_query - whole.first_query);
        CHECK((p.packs - 1) * lanes<T> < p.tile.queries * p.tile.heads);
        CHECK(p.packs * lanes<T> >= p.tile.queries * p.tile.heads);
        pieces.push_back(p);
    });
    return pieces;
}

/// What is seen is in one piece, what is in two is nowhere, and complete ones hide nothing.
template <class T, class Mask>
void check_pieces(const Mask& mask, const attention::score_extent& extent, const score_tile& whole) {
    const auto rules = mask.over(extent);
    std::vector<int> met(static_cast<std::size_t>(extent.queries * extent.keys));
    rw::index hidden = 0;
    for (const auto& p : pieces_of<T>(rules, whole))
        for (rw::index n = p.tile.first_query; n < p.tile.first_query + p.tile.queries; ++n)
            for (rw::index j = p.tile.first_key; j < p.tile.first_key + p.tile.keys; ++j) {
                ++met[static_cast<std::size_t>(n * extent.keys + j)];
                hidden += p.complete && !rules.seen(0, 0, n, j);
            }
    CHECK(hidden == 0);
    rw::index wrong = 0;
    for (rw::index n = 0; n < extent.queries; ++n)
        for (rw::index j = 0; j < extent.keys; ++j) {
            const bool inside = n >= whole.first_query && n < whole.first_query + whole.queries &&
                                j >= whole.first_key && j < whole.first_key + whole.keys;
            const int times = met[static_cast<std::size_t>(n * extent.keys + j)];
            wrong += times > 1 || (times > 0 && !inside) || (inside && rules.seen(0, 0, n, j) && times == 0);
        }
    CHECK(wrong == 0);
}

}  // namespace

TEMPLATE_TEST_CASE("tile_pieces: what is seen is in one piece, whatever the mask and the tile",
                   "[attention][tiled]", float, double) {
    constexpr rw::index strip = detail::strip_lanes<TestType>;
    const attention::score_extent extent{1, 1, 3 * strip, 4 * strip};
    std::vector<std::int32_t> documents, keys;
    for (rw::index n = 0; n < extent.queries; ++n)
        documents.push_back(static_cast<std::int32_t>(n / (strip - 1)));
    for (rw::index j = 0; j < extent.keys; ++j) keys.push_back(static_cast<std::int32_t>(j / (strip - 1)));
    for (const rw::index first : {rw::index{0}, strip, rw::index{5}})
        for (const rw::index queries : {rw::index{1}, lanes<TestType> + 1, strip, strip + 1, 2 * strip})
            for (const rw::index first_key : {rw::index{0}, strip, 2 * strip + 3}) {
                const score_tile whole{0,
                                       0,
                                       1,
                                       first,
                                       std::min(queries, extent.queries - first),
                                       first_key,
                                       extent.keys - first_key};
                CAPTURE(first, queries, first_key);
                check_pieces<TestType>(attention::causal_mask{}, extent, whole);
                check_pieces<TestType>(attention::causal_mask{.window = strip / 2}, extent, whole);
                check_pieces<TestType>(attention::document_mask{documents, keys}, extent, whole);
                check_pieces<TestType>(attention::dense_mask<TestType>{}, extent, whole);
            }
}

TEMPLATE_TEST_CASE("tile_pieces: as many strips as there are, by registers where that spares a tenth",
                   "[attention][tiled]", float, double) {
    constexpr rw::index strip = detail::strip_lanes<TestType>, most = detail::strip_packs;
    const auto count = [](const auto& mask, rw::index keys, const score_tile& whole) {
        return static_cast<rw::index>(
            pieces_of<TestType>(mask.over({1, whole.heads, keys, keys}), whole).size());
    };
    // Where all is seen: whole strips, and the rest of one.
    for (const auto& [queries, strips] :
         {std::pair<rw::index, rw::index>{1, 1}, {strip, 1}, {strip + 1, 2}, {2 * strip, 2}, {3 * strip, 3}})
        CHECK(count(attention::dense_mask<TestType>{}, 3 * strip, {0, 0, 1, 0, queries, 0, 3 * strip}) ==
              strips);
    // The last strip of a causal tile of `keys` keys spares lanes * most * (most - 1) / 2 of most * keys
    // columns: a tenth at keys = 5 * lanes * (most - 1).
    const auto diagonal = [&](rw::index keys) {
        return count(attention::causal_mask{}, keys, {0, 0, 1, keys - strip, strip, 0, keys});
    };
    const rw::index tenth = 5 * lanes<TestType> * (most - 1);
    CHECK(diagonal(strip) == most);
    CHECK(diagonal(tenth - 1) == most);
    CHECK(diagonal(tenth) == 1);
    // Heads that share their keys are one piece.
    CHECK(count(attention::causal_mask{}, 8, {0, 0, 4, 6, 2, 0, 8}) == 1);
}
