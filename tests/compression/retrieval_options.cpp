// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/retrieval_options.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("retrieval_options: K rounds down and never passes the cache", "[compression][retrieval]") {
    CHECK(rw::retrieval_options{.top_fraction = 0.1}.top_of(99) == 9);
    CHECK(rw::retrieval_options{.top_fraction = 1}.top_of(7) == 7);
    CHECK(rw::retrieval_options{.top_fraction = 0}.top_of(7) == 0);
    CHECK(rw::retrieval_options{}.top_of(0) == 0);
    CHECK(rw::retrieval_options{}.top_of(2048) == 61);  // 0.03 of them
    CHECK(rw::retrieval_options{.top_fraction = 0.5, .top_count = 3}.top_of(100) == 3);
    CHECK(rw::retrieval_options{.top_count = 300}.top_of(100) == 100);
}

TEST_CASE("retrieval_options: sinks and window never overlap", "[compression][retrieval]") {
    const rw::retrieval_options options{.window = 5, .sinks = 3};
    for (rw::index tokens : {0, 1, 3, 4, 8, 9, 100}) {
        CAPTURE(tokens);
        CHECK(options.sinks_end(tokens) == std::min<rw::index>(3, tokens));
        CHECK(options.window_begin(tokens) == std::max(options.sinks_end(tokens), tokens - 5));
    }
    CHECK(rw::retrieval_options{.window = 0, .sinks = 0}.window_begin(10) == 10);
}

TEST_CASE("retrieval_options: what is refused, and how it says so", "[compression][retrieval][errors]") {
    using options = rw::retrieval_options;
    CHECK_REFUSES("step: window must be >= 0, got -1", options{.window = -1}.require_valid("step"));
    CHECK_REFUSES("step: sinks must be >= 0, got -2", options{.sinks = -2}.require_valid("step"));
    CHECK_REFUSES("step: value_channels must be >= 0, got -3",
                  options{.value_channels = -3}.require_valid("step"));
    CHECK_REFUSES("step: top_fraction must be in [0, 1], got 1.5",
                  options{.top_fraction = 1.5}.require_valid("step"));
    CHECK_REFUSES("step: top_count must be >= 0, got -4", options{.top_count = -4}.require_valid("step"));
    CHECK_REFUSES("step: relative_position must be finite, got inf",
                  options{.relative_position = HUGE_VAL}.require_valid("step"));
    CHECK_REFUSES("", options{}.require_valid("step"));
}
