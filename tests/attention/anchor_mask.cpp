// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/anchor_mask.hpp>

#include <string>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/plain_attention.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using attention::anchor_packing;
using support::noise;
using support::refusal;
using support::worst;

namespace {

const std::vector<std::int64_t> ids{1, 11, 12, 13, 1, 21, 22, 23, 24, 7, 8, 1, 31, 32, 33, 34, 35};
const std::vector<rw::index> ends{4, 9, 11, 17};  // the third document has two tokens

}  // namespace

TEST_CASE("anchor: one shared anchor, documents stripped of theirs, short ones dropped",
          "[attention][anchor]") {
    const auto pack = attention::make_anchor_pack(
        ids, ends, {.packing = anchor_packing::shared, .tokens = 10, .anchor = 1});
    CHECK(pack.input_ids == std::vector<std::int64_t>{1, 11, 12, 13, 21, 22, 23, 24, 31, 32});
    CHECK(pack.labels == std::vector<std::int64_t>{11, 12, 13, 21, 22, 23, 24, 31, 32, 33});
    CHECK(pack.boundaries == std::vector<rw::index>{1, 4, 8, 11});
    CHECK(pack.segments == std::vector<std::int32_t>{0, 1, 1, 1, 2, 2, 2, 2, 3, 3});
    CHECK(pack.segment_positions == std::vector<std::int32_t>{0, 0, 1, 2, 0, 1, 2, 3, 0, 1});
    CHECK(pack.positions == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
}

TEST_CASE("anchor: a copy before every document, each at position 0", "[attention][anchor]") {
    const std::vector<std::int64_t> bare{11, 12, 13, 1, 21, 22, 23, 31, 32, 33};
    const std::vector<rw::index> bare_ends{3, 7, 7, 10};  // one empty document
    const auto pack = attention::make_anchor_pack(
        bare, bare_ends, {.packing = anchor_packing::copied, .tokens = 10, .anchor = 1});
    CHECK(pack.input_ids == std::vector<std::int64_t>{1, 11, 12, 13, 1, 21, 22, 23, 1, 31});
    CHECK(pack.boundaries == std::vector<rw::index>{4, 8, 11});
    CHECK(pack.segments == std::vector<std::int32_t>{0, 0, 0, 0, 1, 1, 1, 1, 2, 2});
    CHECK(pack.positions == std::vector<std::int32_t>{0, 1, 2, 3, 0, 5, 6, 7, 0, 9});
    CHECK(pack.mask.dense() == pack.mask.dense_within_documents());
}

TEST_CASE("anchor: the mask is causal, sees itself and column 0, and counts its entries",
          "[attention][anchor]") {
    for (auto packing : {anchor_packing::shared, anchor_packing::copied}) {
        const auto pack =
            attention::make_anchor_pack(ids, ends, {.packing = packing, .tokens = 11, .anchor = 1});
        const auto dense = pack.mask.dense();
        rw::index seen = 0;
        for (rw::index i = 0; i < 11; ++i)
            for (rw::index j = 0; j < 11; ++j) {
                const bool on = dense[static_cast<std::size_t>(i * 11 + j)] != 0;
                CHECK(on == pack.mask.seen(i, j));
                seen += on;
                if (j > i) CHECK_FALSE(on);
                if (i == j) CHECK(on);
                if (j == 0 && packing == anchor_packing::shared) CHECK(on);
            }
        CHECK(seen == pack.mask.seen_count());
    }
    const std::vector<rw::index> one{9};
    const std::vector<std::int64_t> document{1, 2, 3, 4, 5, 6, 7, 8, 9};
    const auto single = attention::make_anchor_pack(document, one, {.tokens = 8, .anchor = 1});
    CHECK(single.mask.seen_count() == 36);  // a plain causal mask
}

TEST_CASE("anchor: what is said of a tile is what is said pair by pair", "[attention][anchor]") {
    const attention::anchor_mask mask{{0, 1, 1, 1, 4, 4, 4, 4, 4, 9}, true}, apart{mask.document_start};
    for (const auto* m : {&mask, &apart}) {
        const auto rules = m->over({1, 1, 10, 10});
        rw::index wrong = 0;
        for (rw::index n0 = 0; n0 < 10; ++n0)
            for (rw::index queries = 1; n0 + queries <= 10; ++queries)
                for (rw::index j0 = 0; j0 < 10; ++j0)
                    for (rw::index keys = 1; j0 + keys <= 10; ++keys) {
                        const auto said = rules.tile({0, 0, 1, n0, queries, j0, keys});
                        for (rw::index n = n0; n < n0 + queries; ++n)
                            for (rw::index j = j0; j < j0 + keys; ++j) {
                                const bool inside = j >= said.first_key && j < said.first_key + said.keys;
                                const bool seen = rules.seen(0, 0, n, j);
                                wrong += seen && !inside;
                                wrong += inside && said.complete && !seen;
                            }
                    }
        CHECK(wrong == 0);
        // Wholly seen: the document's own past, also that of the first document, and the anchor alone.
        CHECK(rules.tile({0, 0, 1, 0, 1, 0, 5}).complete);
        CHECK(rules.tile({0, 0, 1, 7, 2, 4, 4}).complete);
        CHECK(!rules.tile({0, 0, 1, 7, 3, 4, 4}).complete);
        const auto anchor = rules.tile({0, 0, 1, 5, 3, 0, 4});
        CHECK(anchor.keys == (m == &mask ? 1 : 0));
        CHECK(anchor.complete);
    }
    // One document and its own anchor is a causal mask.
    const attention::anchor_mask one{std::vector<std::int32_t>(10, 0), true};
    CHECK(one.over({1, 1, 10, 10}).tile({0, 0, 1, 6, 3, 0, 7}).complete);
    CHECK(!one.over({1, 1, 10, 10}).tile({0, 0, 1, 6, 3, 0, 8}).complete);
}

TEST_CASE("anchor: attention is exact attention under the written mask", "[attention][anchor]") {
    // 150 tokens: one document longer than a tile of queries, several shorter.
    std::vector<std::int64_t> long_ids;
    for (int i = 0; i < 200; ++i) long_ids.push_back(2 + i);
    const std::vector<rw::index> long_ends{5, 95, 96, 130, 200};
    for (auto packing : {anchor_packing::shared, anchor_packing::copied}) {
        const auto pack = attention::make_anchor_pack(long_ids, long_ends,
                                                      {.packing = packing, .tokens = 150, .anchor = 1});
        const rw::index n = 150, heads = 4, kv_heads = 2, d = 8;
        auto q = noise(2 * n * heads * d, 1), k = noise(2 * n * kv_heads * d, 2),
             v = noise(2 * n * kv_heads * d, 3);
        std::vector<double> got(q.size()), want(q.size());
        const rw::heads_view<double> qv(q.data(), {2, n, heads, d}), kv(k.data(), {2, n, kv_heads, d}),
            vv(v.data(), {2, n, kv_heads, d});
        attention::attend_anchored(pack.mask, qv, kv, vv,
                                   rw::heads_view<double>(got.data(), {2, n, heads, d}));
        support::plain_attend(qv, kv, vv, rw::heads_view<double>(want.data(), {2, n, heads, d}),
                              {.mask = pack.mask.dense()});
        CHECK(worst(got, want) < 1e-12);
        std::vector<float> q32(q.begin(), q.end()), k32(k.begin(), k.end()), v32(v.begin(), v.end()),
            got32(q.size());
        attention::attend_anchored(pack.mask, rw::heads_view<float>(q32.data(), {2, n, heads, d}),
                                   rw::heads_view<float>(k32.data(), {2, n, kv_heads, d}),
                                   rw::heads_view<float>(v32.data(), {2, n, kv_heads, d}),
                                   rw::heads_view<float>(got32.data(), {2, n, heads, d}));
        CHECK(worst(got32, want) < 1e-5);
    }
}

TEST_CASE("anchor: shared and copied anchors give every document token the same result",
          "[attention][anchor][reduces]") {
    // Documents of 6 and 7 tokens behind one anchor, or each behind its own. Scores see distances, and the
    // anchor's distance is its token's position: the copies' positions must be those of the shared pack.
    const rw::index d = 8, shared_tokens = 14, copied_tokens = 15;
    const auto x = noise(shared_tokens * d, 4);
    attention::anchor_mask shared{{}, true}, copied{{}, false};
    std::vector<double> shared_at, copied_at;
    std::vector<rw::index> source;  // of each copied token in the shared pack
    for (rw::index n = 0; n < shared_tokens; ++n) {
        shared.document_start.push_back(n == 0 ? 0 : n < 7 ? 1 : 7);
        shared_at.push_back(static_cast<double>(n));
    }
    for (rw::index n = 0; n < copied_tokens; ++n) {
        copied.document_start.push_back(n < 7 ? 0 : 7);
        source.push_back(n == 7 ? 0 : n < 7 ? n : n - 1);
        copied_at.push_back(static_cast<double>(source.back()));
    }
    const auto omega = rw::frequencies::geometric({.rotary_dim = d});
    const auto run = [&](const attention::anchor_mask& mask, const std::vector<double>& at, auto source_of) {
        const auto n = mask.tokens();
        std::vector<double> q, out(static_cast<std::size_t>(n * d));
        for (rw::index i = 0; i < n; ++i)
            q.insert(q.end(), x.begin() + source_of(i) * d, x.begin() + (source_of(i) + 1) * d);
        auto k = q, v = q;
        const rw::heads_view<double> qv(q.data(), n, 1, d), kv(k.data(), n, 1, d);
        rw::rotate(rw::half_split{}, qv, kv,
                   rw::make_rotation_table<double>(omega, rw::position_ids::from(at)));
        attention::attend_anchored(mask, qv, kv, rw::heads_view<double>(v.data(), n, 1, d),
                                   rw::heads_view<double>(out.data(), n, 1, d));
        return out;
    };
    const auto one = run(shared, shared_at, [](rw::index i) { return i; });
    const auto two = run(copied, copied_at, [&](rw::index i) { return source[static_cast<std::size_t>(i)]; });
    for (rw::index n = 0; n < copied_tokens; ++n)
        for (rw::index c = 0; c < d; ++c)
            CHECK(two[static_cast<std::size_t>(n * d + c)] ==
                  Approx(one[static_cast<std::size_t>(source[static_cast<std::size_t>(n)] * d + c)])
                      .margin(1e-13));
}

TEST_CASE("anchor: a copied anchor's id may stand inside a document, where it is a token like others",
          "[attention][anchor]") {
    const std::vector<std::int64_t> tokens{1, 11, 1, 13, 14, 1, 21, 22, 23};
    const std::vector<rw::index> at{5, 9};
    const auto pack = attention::make_anchor_pack(
        tokens, at, {.packing = anchor_packing::copied, .tokens = 8, .anchor = 1});
    CHECK(pack.input_ids == std::vector<std::int64_t>{1, 11, 1, 13, 14, 1, 21, 22});
    CHECK(pack.boundaries == std::vector<rw::index>{5, 9});
    CHECK(pack.positions == std::vector<std::int32_t>{0, 1, 2, 3, 4, 0, 6, 7});
    CHECK(pack.mask.document_start == std::vector<std::int32_t>{0, 0, 0, 0, 0, 5, 5, 5});
}

TEST_CASE("anchor: shifting one document's positions changes its anchor column and nothing else",
          "[attention][anchor]") {
    const auto pack = attention::make_anchor_pack(
        ids, ends, {.packing = anchor_packing::shared, .tokens = 10, .anchor = 1});
    const rw::index n = 10, d = 8;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d});
    const auto scored = [&](double shift) {
        auto q = noise(n * d, 5), k = noise(n * d, 6), v = noise(n * d, 7);
        std::vector<double> at, out(q.size()), scores(static_cast<std::size_t>(n * n));
        for (std::size_t i = 0; i < 10; ++i)
            at.push_back(pack.positions[i] + (pack.segments[i] == 2 ? shift : 0.0));
        const rw::heads_view<double> qv(q.data(), n, 1, d), kv(k.data(), n, 1, d);
        rw::rotate(rw::half_split{}, qv, kv,
                   rw::make_rotation_table<double>(omega, rw::position_ids::from(at)));
        rw::attend(qv, kv, rw::heads_view<double>(v.data(), n, 1, d),
                   rw::heads_view<double>(out.data(), n, 1, d),
                   {.mask = pack.mask.dense(), .scores = scores});
        return scores;
    };
    const auto here = scored(0), there = scored(1000);
    for (rw::index i = 0; i < n; ++i)
        for (rw::index j = 0; j < n; ++j) {
            if (!pack.mask.seen(i, j)) continue;
            const auto entry = static_cast<std::size_t>(i * n + j);
            const bool anchor_column = pack.segments[static_cast<std::size_t>(i)] == 2 && j == 0;
            if (anchor_column) CHECK(std::abs(there[entry] - here[entry]) > 1e-3);
            if (!anchor_column) CHECK(there[entry] == Approx(here[entry]).margin(1e-12));
        }
}

TEST_CASE("anchor: what is hidden from a query cannot reach it, NaN included", "[attention][anchor]") {
    // A document longer than a tile, then a short one.
    attention::anchor_mask mask{{0}, true};
    const rw::index n = 90, d = 4;
    for (rw::index i = 1; i < n; ++i) mask.document_start.push_back(i < 80 ? 1 : 80);
    const auto run = [&](bool poisoned) {
        auto q = noise(n * d, 1), k = noise(n * d, 2), v = noise(n * d, 3);
        if (poisoned) {
            v[50 * d] = std::nan("");
            v[85 * d + 1] = HUGE_VAL;
            k[88 * d + 2] = std::nan("");
        }
        std::vector<double> out(q.size());
        const auto view = [&](std::vector<double>& x) { return rw::heads_view<double>(x.data(), n, 1, d); };
        attention::attend_anchored(mask, view(q), view(k), view(v), view(out));
        return out;
    };
    const auto clean = run(false), got = run(true);
    for (rw::index i = 0; i < n; ++i)
        for (rw::index c = 0; c < d; ++c) {
            const auto entry = static_cast<std::size_t>(i * d + c);
            const bool reached = (i >= 50 && i < 80 && c == 0) || (i >= 85 && c == 1) || i >= 88;
            if (reached) CHECK_FALSE(std::isfinite(got[entry]));
            if (!reached) CHECK(got[entry] == Approx(clean[entry]).margin(1e-14));
        }
}

TEST_CASE("anchor: what cannot be packed is refused with its value", "[attention][anchor][errors]") {
    const auto pack = [](std::vector<std::int64_t> tokens, std::vector<rw::index> at, rw::index length,
                         anchor_packing packing = anchor_packing::shared) {
        return refusal([&] {
            attention::make_anchor_pack(tokens, at, {.packing = packing, .tokens = length, .anchor = 1});
        });
    };
    CHECK(pack({}, {}, 4) == "make_anchor_pack: documents must fill tokens + 1 tokens, got 1");
    CHECK(pack({}, {}, 4, anchor_packing::copied) ==
          "make_anchor_pack: documents must fill tokens + 1 tokens, got 0");
    CHECK(pack({5, 6}, {0, 2}, 1) == "make_anchor_pack: documents must fill tokens + 1 tokens, got 1");
    CHECK(pack({1, 5, 6, 1, 7}, {5}, 4) ==
          "make_anchor_pack: anchor must not be inside a document when it is shared, got 1");
    CHECK(pack({1, 5, 6, 8, 7}, {4, 3}, 2) ==
          "make_anchor_pack: document_ends must rise and stay within ids, got 3");
    CHECK(pack({1, 5, 6, 8, 7}, {6}, 2) ==
          "make_anchor_pack: document_ends must rise and stay within ids, got 6");
    CHECK(pack({1, 5, 6}, {3}, 0) == "make_anchor_pack: tokens must be > 0, got 0");
    std::vector<float> x(8);
    const rw::heads_view<float> view(x.data(), 2, 1, 4);
    CHECK(refusal([&] {
              attention::attend_anchored({{0, 2}, true}, view, view, view, view);
          }) == "anchor_mask: document_start must not fall, nor pass its token, got 2");
    CHECK(refusal([&] {
              attention::attend_anchored({{0}, true}, view, view, view, view);
          }) == "anchor_mask: queries must be the mask's tokens: wanted 1, got 2");
}
