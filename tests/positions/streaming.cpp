// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/streaming.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

/// llama.cpp's own steps over a list of positions, one window at a time.
struct step_by_step {
    std::int64_t n, w, n_past = 0, ga_i = 0;
    std::vector<std::int64_t> at;

    void add_batch(std::int64_t tokens) {
        while (n > 1 && n_past >= ga_i + w) {
            const auto ib = n * ga_i / w, bd = w / n * (n - 1), dd = w / n - ib * bd - w;
            const auto change = [&](std::int64_t from, std::int64_t to, auto f) {
                for (auto& p : at)
                    if (p >= from && p < to) p = f(p);
            };
            // One pass at a time over what stands there at that moment, as the cache's calls do it.
            change(ga_i, n_past, [&](auto p) { return p + ib * bd + 1000000; });
            change(ga_i + ib * bd + 1000000, ga_i + ib * bd + w + 1000000,
                   [&](auto p) { return (p - 1000000) / n + 2000000; });
            change(ga_i + ib * bd + w + 1000000, n_past + ib * bd + 1000000,
                   [&](auto p) { return p + dd + 1000000; });
            for (auto& p : at) p = p >= 2000000 ? p - 2000000 : p;
            n_past -= bd;
            ga_i += w / n;
        }
        for (std::int64_t i = 0; i < tokens; ++i) at.push_back(n_past++);
    }
};

}  // namespace

TEST_CASE("group_attention: the worked example", "[positions][streaming]") {
    group_attention cache({.group = 4, .window = 8});
    for (const rw::index batch : {5, 7, 9, 3, 1, 1}) cache.add_batch(batch);
    const std::vector<std::int64_t> want{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3,
                                         3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 7};
    CHECK(std::vector<std::int64_t>(cache.positions().begin(), cache.positions().end()) == want);
    CHECK(cache.next_position() == 8);
    CHECK(cache.compressed() == 6);
    group_attention longer({.group = 4, .window = 2048});
    for (int b = 0; b < 17; ++b) longer.add_batch(512);
    CHECK(longer.positions().back() == 2559);
}

TEST_CASE("group_attention: agrees with llama.cpp's steps", "[positions][streaming]") {
    for (const rw::index group : {1, 2, 3, 4})
        for (const rw::index window : {12, 24}) {
            group_attention cache({.group = group, .window = window});
            step_by_step steps{group, window, 0, 0, {}};
            std::vector<std::int64_t> before;
            for (const rw::index batch : {1, 5, 30, 2, 11, 12, 1, 1, 40, 1}) {
                cache.add_batch(batch);
                steps.add_batch(batch);
                const std::vector<std::int64_t> now(cache.positions().begin(), cache.positions().end());
                CHECK(now == steps.at);
                CHECK(cache.next_position() == steps.n_past);
                CHECK(cache.compressed() == steps.ga_i);
                REQUIRE(cache.shifts().size() == before.size());
                for (std::size_t i = 0; i < before.size(); ++i)
                    CHECK(before[i] + cache.shifts()[i] == now[i]);
                before = now;
            }
        }
}

TEST_CASE("group_attention: group 1 counts tokens", "[positions][streaming][reduces]") {
    group_attention cache;
    cache.add_batch(700), cache.add_batch(3);
    for (std::int64_t i = 0; i < 703; ++i) CHECK(cache.positions()[i] == i);
    CHECK(cache.compressed() == 0);
}

TEST_CASE("sink_cache: the worked example", "[positions][streaming]") {
    sink_cache cache({.sinks = 2, .recent = 5});
    std::vector<rw::index> stands;
    for (int step = 0; step < 13; ++step) {
        cache.append();
        stands.push_back(cache.query_position());
        if (step == 7) CHECK(cache.tokens().size() == 8);
        cache.trim();
        if (step == 7) CHECK(cache.tokens()[2] == 3);
    }
    CHECK(stands == std::vector<rw::index>{0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7});
    CHECK(std::vector<std::int64_t>(cache.tokens().begin(), cache.tokens().end()) ==
          std::vector<std::int64_t>{0, 1, 8, 9, 10, 11, 12});
}

TEST_CASE("sink_cache: nothing goes while it fits", "[positions][streaming][reduces]") {
    sink_cache cache({.sinks = 3, .recent = 4});
    cache.append(7), cache.trim();
    CHECK(cache.tokens().size() == 7);
    cache.make_room(2);
    CHECK(std::vector<std::int64_t>(cache.tokens().begin(), cache.tokens().end()) ==
          std::vector<std::int64_t>{0, 1, 2, 5, 6});
    cache.append(2), cache.trim();
    CHECK(cache.tokens().size() == 7);
    CHECK(cache.query_position() == 6);
    sink_cache none({.sinks = 0, .recent = 0});
    none.append(3), none.trim();
    CHECK(none.tokens().empty());
}

TEST_CASE("streaming: refuses bad numbers", "[positions][streaming][errors]") {
    CHECK_REFUSES("group_attention: group must be >= 1, got 0", group_attention({.group = 0}));
    CHECK_REFUSES("group_attention: window must be a positive multiple of group, got 10",
                  group_attention({.group = 4, .window = 10}));
    group_attention cache;
    CHECK_REFUSES("group_attention::add_batch: tokens must be >= 0, got -1", cache.add_batch(-1));
    CHECK_REFUSES("sink_cache: sinks must be >= 0, got -1", sink_cache({.sinks = -1}));
    sink_cache small({.sinks = 1, .recent = 2});
    CHECK_REFUSES("sink_cache::make_room: count must be in 0 .. recent, got 3", small.make_room(3));
    CHECK_REFUSES("sink_cache::append: count must be >= 0, got -1", small.append(-1));
}
