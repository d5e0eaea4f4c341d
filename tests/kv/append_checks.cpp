// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/append_checks.hpp>

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace checks = ropewalk::ROPEWALK_ISA::detail;  // not the one of the views

namespace {

using longs = std::vector<std::int64_t>;

const std::string overlap =
    "f: source must be the destination itself or not overlap it, token * heads + head, got ";

const std::string token_of_source = "f: source: the token stride must step over what a token holds: wanted ";

std::string source_refusal(rw::heads_shape shape, rw::heads_strides strides) {
    float x = 0;
    return support::refusal(
        [&] { checks::require_source("f", rw::heads_view<const float>(&x, shape, strides)); });
}
std::string cache_refusal(rw::cache_shape shape, rw::cache_strides strides) {
    float x = 0;
    const rw::cache_plan plan(longs{0}, shape.pages, shape.page_tokens);
    return support::refusal([&] {
        checks::require_cache("f", rw::cache_view<float>(&x, shape, strides), plan, shape.heads,
                              shape.channels);
    });
}

/// A cache of 2 pages of 4 tokens, 2 heads of 8 channels in packed [K | V] rows, inside a longer memory.
struct packed_cache {
    std::vector<float> memory = std::vector<float>(3 * 2 * 4 * 2 * 16);
    float* first = memory.data() + 256;
    rw::cache_view<float> keys{first, {2, 4, 2, 8}, {128, 32, 16}};
    rw::cache_view<float> values{first + 8, {2, 4, 2, 8}, {128, 32, 16}};
    /// Two tokens of rows like the cache's.
    template <class T>
    static rw::heads_view<const T> rows(const T* at, rw::index token_stride = 32) {
        return {at, {1, 2, 2, 8}, {0, token_stride, 16}};
    }
    template <class T>
    std::string refusal(rw::heads_view<const T> from, const rw::cache_view<float>& to, longs slots,
                        rw::index owner_from = 0, rw::index owner_to = 0) const {
        const rw::cache_plan plan(slots, 2, 4);
        return support::refusal([&] { checks::require_apart("f", from, to, plan, owner_from, owner_to); });
    }
};

}  // namespace

TEST_CASE("append_checks: dimensions may lie in any order, each a step over what is inside", "[kv][append]") {
    // [batches, tokens, heads], [heads, tokens, batches], and with gaps.
    CHECK(source_refusal({2, 3, 4, 8}, {96, 32, 8}) == "");
    CHECK(source_refusal({2, 3, 4, 8}, {8, 16, 48}) == "");
    CHECK(source_refusal({2, 3, 4, 8}, {1000, 40, 9}) == "");
    const std::string batch = "f: source: the batch stride must step over what a batch holds: wanted ";
    CHECK(source_refusal({2, 3, 4, 8}, {95, 32, 8}) == batch + "96, got 95");
    CHECK(source_refusal({2, 3, 4, 8}, {96, 31, 8}) == token_of_source + "32, got 31");
    CHECK(source_refusal({2, 3, 4, 8}, {8, 15, 48}) == token_of_source + "16, got 15");
    CHECK(source_refusal({2, 3, 4, 8}, {0, 32, 8}) == batch + "96, got 0");  // all batches in one place
}

TEST_CASE("append_checks: rows may run backwards, and a single one has no step", "[kv][append]") {
    CHECK(source_refusal({2, 3, 4, 8}, {-96, 32, -8}) == "");
    // What is named is the length of the step.
    CHECK(source_refusal({2, 3, 4, 8}, {-96, -31, 8}) == token_of_source + "32, got 31");
    CHECK(source_refusal({1, 3, 1, 8}, {0, 8, 0}) == "");
    CHECK(source_refusal({1, 1, 1, 8}, {3, -2, 1}) == "");
}

TEST_CASE("append_checks: rows without channels may all stand in one place", "[kv][append]") {
    CHECK(cache_refusal({2, 4, 2, 0}, {0, 0, 0}) == "");
    CHECK(cache_refusal({2, 4, 2, 0}, {0, 0, 16}) == "");
    CHECK(cache_refusal({2, 4, 2, 1}, {0, 0, 0}) ==
          "f: cache: the head stride must step over what a head holds: wanted 1, got 0");
}

TEST_CASE("append_checks: the longest step backwards is a step too far", "[kv][append]") {
    constexpr rw::index least = std::numeric_limits<rw::index>::min();
    CHECK(source_refusal({2, 3, 4, 8}, {least, 32, 8}) ==
          "f: source: extents times strides must fit the address space, extent: wanted 1, got 2");
    CHECK(source_refusal({1, 3, 4, 8}, {least, 32, 8}) == "");
}

TEST_CASE("append_checks: packed rows of keys and values pass, a cache whose rows meet does not",
          "[kv][append]") {
    const rw::cache_shape shape{2, 4, 2, 8};
    CHECK(cache_refusal(shape, {128, 32, 16}) == "");  // [pages, tokens, heads, K | V]
    CHECK(cache_refusal(shape, {128, 16, 64}) == "");  // [pages, heads, tokens, K | V]
    CHECK(cache_refusal(shape, {-64, 16, 8}) == "");
    CHECK(cache_refusal(shape, {63, 16, 8}) ==
          "f: cache: the page stride must step over what a page holds: wanted 64, got 63");
    const std::string head = "f: cache: the head stride must step over what a head holds: wanted ";
    CHECK(cache_refusal(shape, {64, 16, 7}) == head + "8, got 7");
    CHECK(cache_refusal(shape, {64, 8, 31}) == head + "32, got 31");
}

TEST_CASE("append_checks: a source inside a packed cache passes between its rows", "[kv][append]") {
    const packed_cache c;
    // The extents meet, the rows do not: values stand where keys are not.
    CHECK(c.refusal(c.rows(c.values.at(0, 0, 0)), c.keys, {0, 1}) == "");
    CHECK(c.refusal(c.rows(c.values.at(1, 2, 0)), c.keys, {7, 0}) == "");
    // One channel to either side, and a row that is met from below.
    CHECK(c.refusal(c.rows(c.values.at(0, 0, 0) + 1), c.keys, {2, 1}) == overlap + "1");
    CHECK(c.refusal(c.rows(c.values.at(0, 0, 0) - 1), c.keys, {2, 0}) == overlap + "0");
    // A row of keys that this call does not write may be read.
    CHECK(c.refusal(c.rows(c.keys.at(0, 2, 0)), c.keys, {0, 5}) == "");
    CHECK(c.refusal(c.rows(c.keys.at(0, 2, 0)), c.keys, {3, 0}) == overlap + "2");
}

TEST_CASE("append_checks: in place is the same row of the same token and head", "[kv][append]") {
    const packed_cache c;
    const auto here = c.rows(c.keys.at(0, 2, 0));
    CHECK(c.refusal(here, c.keys, {2, 3}) == "");
    CHECK(c.refusal(here, c.keys, {3, 2}) == overlap + "0");        // each token where the other reads
    CHECK(c.refusal(here, c.keys, {2, 3}, 0, 4) == overlap + "0");  // keys where values go
    // The same place read as another type, so rows of another length.
    const auto* const halves = reinterpret_cast<const rw::bf16*>(c.keys.at(0, 2, 0));
    CHECK(c.refusal(c.rows(halves, 64), c.keys, {2, 3}) == overlap + "0");
    // Heads swapped by a negative stride.
    const rw::heads_view<const float> swapped(c.keys.at(0, 2, 1), {1, 2, 2, 8}, {0, 32, -16});
    CHECK(c.refusal(swapped, c.keys, {2, 3}) == overlap + "0");
}

TEST_CASE("append_checks: a skipped token is in nobody's way", "[kv][append]") {
    const packed_cache c;
    const auto here = c.rows(c.keys.at(0, 2, 0));
    CHECK(c.refusal(here, c.keys, {3, 0}) == overlap + "2");
    CHECK(c.refusal(here, c.keys, {3, -1}) == "");  // nobody reads slot 3
    CHECK(c.refusal(here, c.keys, {0, 2}) == overlap + "0");
    CHECK(c.refusal(here, c.keys, {-1, 2}) == "");
    CHECK(c.refusal(here, c.keys, {-1, -1}) == "");
}

TEST_CASE("append_checks: memory that touches does not meet, backwards neither", "[kv][append]") {
    const packed_cache c;
    // Two tokens that end where the cache begins, begin where it ends, and run backwards into it.
    CHECK(c.refusal(c.rows(c.first - 56), c.keys, {0, 1}) == "");
    CHECK(c.refusal(c.rows(c.first - 55), c.keys, {0, 1}) == overlap + "3");
    CHECK(c.refusal(c.rows(c.first + 256), c.keys, {6, 7}) == "");
    const rw::heads_view<const float> backwards(c.first + 48, {1, 2, 2, 8}, {0, -32, -16});
    CHECK(c.refusal(backwards, c.keys, {4, 5}) == "");
    CHECK(c.refusal(backwards, c.keys, {4, 0}) == overlap + "2");
    // A cache that runs backwards from the source's end.
    const rw::cache_view<float> from_the_end(c.first + 128, {2, 4, 2, 8}, {-128, 32, 16});
    CHECK(c.refusal(c.rows(c.first), from_the_end, {0, 1}) == "");
    CHECK(c.refusal(c.rows(c.first), from_the_end, {0, 4}) == overlap + "0");
    // Nothing read, or nowhere to write.
    CHECK(c.refusal(rw::heads_view<const float>(c.first, {1, 0, 2, 8}, {0, 32, 16}), c.keys, {}) == "");
    CHECK(c.refusal(c.rows(c.first), rw::cache_view<float>{}, {0, 1}) == "");
}
