// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/masks.hpp>

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using attention::both;
using attention::score_extent;
using attention::score_tile;

namespace {

/// What the rules say of a tile against what they say pair by pair, for tiles of many sizes and places.
template <class Mask>
void check_tiles(const Mask& mask, const score_extent& e) {
    const auto rules = mask.over(e);
    rw::index hidden_tiles = 0;
    for (rw::index queries : {1, 7, 20})
        for (rw::index keys : {1, 5, 16})
            for (rw::index b = 0; b < e.batches; ++b)
                for (rw::index n0 = 0; n0 + queries <= e.queries; n0 += 3)
                    for (rw::index j0 = 0; j0 + keys <= e.keys; j0 += 2) {
                        const score_tile tile{b, 0, e.heads, n0, queries, j0, keys};
                        const attention::seen_keys seen = rules.tile(tile);
                        const rw::index end = seen.first_key + seen.keys;
                        bool inside = seen.keys >= 0, all = true, nothing_lost = true;
                        if (seen.keys > 0) inside = seen.first_key >= j0 && end <= j0 + keys;
                        for (rw::index h = 0; h < e.heads; ++h)
                            for (rw::index n = n0; n < n0 + queries; ++n)
                                for (rw::index j = j0; j < j0 + keys; ++j) {
                                    const bool sees = rules.seen(b, h, n, j);
                                    if (j >= seen.first_key && j < end)
                                        all = all && sees;
                                    else
                                        nothing_lost = nothing_lost && !sees;
                                }
                        CHECK(inside);
                        CHECK(nothing_lost);
                        CHECK((!seen.complete || all));
                        if (seen.keys == 0) ++hidden_tiles;
                    }
    INFO("tiles skipped");
    CHECK((hidden_tiles > 0 || std::is_same_v<Mask, attention::full_mask> ||
           std::is_same_v<Mask, attention::dense_mask<float>>));
}

const score_extent extent{2, 3, 40, 60};

std::vector<std::int32_t> documents_of(rw::index count, rw::index each) {
    std::vector<std::int32_t> d;
    for (rw::index i = 0; i < count; ++i) d.push_back(std::int32_t(i / each));
    return d;
}

}  // namespace

TEST_CASE("masks: what is said of a tile is what is said pair by pair", "[attention][masks]") {
    check_tiles(attention::full_mask{}, extent);
    check_tiles(attention::causal_mask{}, extent);
    check_tiles(attention::causal_mask{.first_query = -5}, extent);
    check_tiles(attention::causal_mask{.window = 9}, extent);
    check_tiles(attention::causal_mask{.window = 1, .first_query = 30}, extent);
    check_tiles(attention::block_mask{.block = 8}, extent);
    const auto shared = documents_of(40, 13), keys = documents_of(60, 13);
    check_tiles(attention::document_mask{shared, keys}, extent);
    const auto each_batch = documents_of(80, 17), key_batches = documents_of(120, 17);
    check_tiles(attention::document_mask{each_batch, key_batches}, extent);
    check_tiles(both(attention::causal_mask{}, attention::document_mask{shared, keys}), extent);
    check_tiles(both(attention::block_mask{.block = 6}, attention::causal_mask{.window = 3}), extent);
    std::vector<std::uint8_t> pairs;
    for (const double x : support::noise(2 * 3 * 40 * 60, 1)) pairs.push_back(x > 0 ? 1 : 0);
    check_tiles(attention::dense_mask<float>{.seen_pairs = pairs}, extent);
}

TEST_CASE("masks: tiles that are wholly seen are told so", "[attention][masks]") {
    const auto complete = [](const auto& mask, score_tile tile) {
        return mask.over(extent).tile(tile).complete;
    };
    const score_tile late{0, 0, 1, 10, 8, 16, 15};  // queries stand at keys 30 .. 37
    CHECK(complete(attention::causal_mask{}, late));
    CHECK(complete(attention::causal_mask{.window = 22}, late));
    CHECK(!complete(attention::causal_mask{.window = 21}, late));
    CHECK(!complete(attention::causal_mask{}, {0, 0, 1, 10, 8, 16, 16}));
    CHECK(complete(attention::block_mask{.block = 64}, late));
    // A dense mask of nothing hides nothing; one that is given is looked at pair by pair.
    const std::vector<std::uint8_t> all(static_cast<std::size_t>(extent.queries * extent.keys), 1);
    const std::vector<float> none(all.size());
    CHECK(complete(attention::dense_mask<float>{}, late));
    CHECK(!complete(attention::dense_mask<float>{.seen_pairs = all}, late));
    CHECK(!complete(attention::dense_mask<float>{.added = none}, late));
    const auto documents = documents_of(40, 20), keys = documents_of(60, 20);
    CHECK(complete(attention::document_mask{documents, keys}, {0, 0, 1, 0, 20, 0, 20}));
    CHECK(complete(attention::document_mask{documents, keys},
                   {0, 0, 1, 0, 20, 10, 40}));  // trimmed to 10 .. 19
    CHECK(!complete(attention::document_mask{documents, keys}, {0, 0, 1, 10, 20, 0, 20}));
}

TEST_CASE("masks: a dense mask is spread over batches and heads by its size", "[attention][masks]") {
    const score_extent e{2, 3, 4, 5};
    for (rw::index copies : {1, 2, 6}) {
        std::vector<float> added;
        for (rw::index i = 0; i < copies * 20; ++i) added.push_back(float(i));
        added[7] = -std::numeric_limits<float>::infinity();
        const auto rules = attention::dense_mask<float>{.added = added}.over(e);
        CHECK(rules.bias(1, 2, 3, 4) == float(copies * 20 - 1));
        CHECK(rules.bias(0, 0, 2, 1) == 11);
        CHECK(!rules.seen(0, 0, 1, 2));
        CHECK(rules.seen(1, 2, 1, 2) == (copies > 1));
    }
}

TEST_CASE("masks: what does not fit is refused", "[attention][masks]") {
    const std::vector<std::int32_t> seven(7);
    CHECK_REFUSES("causal_mask: window must be >= 0, got -1",
                  attention::causal_mask{.window = -1}.over(extent));
    const rw::index far_off = std::numeric_limits<rw::index>::max();
    CHECK_REFUSES(
        "causal_mask: first_query must be within " + support::limit(60) + ", got " + std::to_string(far_off),
        attention::causal_mask{.first_query = far_off}.over(extent));
    CHECK_REFUSES("block_mask: block must be > 0, got 0", attention::block_mask{.block = 0}.over(extent));
    CHECK_REFUSES("block_mask: first_query must be >= 0, got -1",
                  attention::block_mask{.first_query = -1}.over(extent));
    CHECK_REFUSES("document_mask: query_documents must hold one number a query token, got 7",
                  attention::document_mask{seven, seven}.over(extent));
    CHECK_REFUSES("document_mask: key_documents must be given when keys are not as many as queries, got none",
                  attention::document_mask{seven}.over(extent));
    const std::vector<std::uint8_t> pairs(7);
    CHECK_REFUSES(
        "dense_mask: seen_pairs must hold queries * keys flags, or that a batch, or that a batch and head, "
        "got 7",
        attention::dense_mask<float>{.seen_pairs = pairs}.over(extent));
    CHECK(support::refusal([&] {
              static_cast<void>(attention::dense_mask<float>{.seen_pairs = pairs}.over(
                  {1, 1, support::huge(40), support::huge(40)}));
          }).find("must fit") != std::string::npos);
}
