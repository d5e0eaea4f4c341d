// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/heads_view.hpp>

#include <numeric>
#include <vector>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

/// Memory in which every element holds its own offset, so that a view's address is its value.
std::vector<int> numbered(std::size_t count) {
    std::vector<int> memory(count);
    std::iota(memory.begin(), memory.end(), 0);
    return memory;
}

}  // namespace

TEST_CASE("heads_view: contiguous [tokens, heads, channels]", "[core][heads_view]") {
    auto memory = numbered(3 * 4 * 8);
    const rw::heads_view v(memory.data(), 3, 4, 8);
    CHECK(v.batches() == 1);
    CHECK(v.tokens() == 3);
    CHECK(v.heads() == 4);
    CHECK(v.channels() == 8);
    CHECK(!v.empty());
    for (rw::index n = 0; n < 3; ++n)
        for (rw::index h = 0; h < 4; ++h) CHECK(*v.at(0, n, h) == (n * 4 + h) * 8);
}

TEST_CASE("heads_view: batches follow each other, heads_first swaps tokens and heads", "[core][heads_view]") {
    auto memory = numbered(2 * 3 * 4 * 8);
    const rw::heads_shape shape{.batches = 2, .tokens = 3, .heads = 4, .channels = 8};
    const rw::heads_view bshd(memory.data(), shape);
    const auto bhsd = rw::heads_view<int>::heads_first(memory.data(), shape);
    CHECK(bhsd.tokens() == 3);
    CHECK(bhsd.heads() == 4);
    for (rw::index b = 0; b < 2; ++b)
        for (rw::index n = 0; n < 3; ++n)
            for (rw::index h = 0; h < 4; ++h) {
                CHECK(*bshd.at(b, n, h) == ((b * 3 + n) * 4 + h) * 8);
                CHECK(*bhsd.at(b, n, h) == ((b * 4 + h) * 3 + n) * 8);
            }
}

TEST_CASE("heads_view: Q, K and V inside one packed row are slices of heads", "[core][heads_view]") {
    // 4 query heads, 2 key heads, 2 value heads of 8 channels a token.
    auto memory = numbered(5 * 8 * 8);
    const rw::heads_view packed(memory.data(), 5, 8, 8);
    const auto q = packed.head_slice(0, 4);
    const auto k = packed.head_slice(4, 2);
    CHECK(q.heads() == 4);
    CHECK(k.heads() == 2);
    CHECK(*q.at(0, 2, 3) == (2 * 8 + 3) * 8);
    CHECK(*k.at(0, 2, 1) == (2 * 8 + 5) * 8);

    // The same by strides, without a view of the whole.
    const rw::heads_view k2(memory.data() + 4 * 8, {.tokens = 5, .heads = 2, .channels = 8},
                            {.token = 64, .head = 8});
    for (rw::index n = 0; n < 5; ++n)
        for (rw::index h = 0; h < 2; ++h) CHECK(k2.at(0, n, h) == k.at(0, n, h));
}

TEST_CASE("heads_view: slices compose and keep the strides of the whole", "[core][heads_view]") {
    auto memory = numbered(2 * 6 * 8 * 16);
    const rw::heads_view v(memory.data(), {.batches = 2, .tokens = 6, .heads = 8, .channels = 16});
    const auto s = v.batch_slice(1, 1).token_slice(2, 3).head_slice(1, 3, 2).channel_slice(4, 12);
    CHECK(s.batches() == 1);
    CHECK(s.tokens() == 3);
    CHECK(s.heads() == 3);
    CHECK(s.channels() == 12);
    for (rw::index n = 0; n < 3; ++n)
        for (rw::index h = 0; h < 3; ++h) CHECK(*s.at(0, n, h) == ((6 + 2 + n) * 8 + 1 + 2 * h) * 16 + 4);
    // A step inside a step.
    CHECK(*v.head_slice(0, 4, 2).head_slice(1, 2, 2).at(0, 0, 1) == 6 * 16);
}

TEST_CASE("heads_view: negative strides run backwards", "[core][heads_view]") {
    auto memory = numbered(4 * 2 * 8);
    const rw::heads_view reversed(memory.data() + 3 * 16, {.tokens = 4, .heads = 2, .channels = 8},
                                  {.token = -16, .head = 8});
    for (rw::index n = 0; n < 4; ++n) CHECK(*reversed.at(0, n, 1) == (3 - n) * 16 + 8);
}

TEST_CASE("heads_view: zero of anything is empty, also a slice of nothing at the end", "[core][heads_view]") {
    CHECK(rw::heads_view<float>().empty());
    float x = 0;
    CHECK(rw::heads_view(&x, 0, 1, 1).empty());
    CHECK(rw::heads_view(&x, 1, 0, 1).empty());
    CHECK(rw::heads_view(&x, 1, 1, 0).empty());
    CHECK(rw::heads_view(&x, {.batches = 0, .tokens = 1, .heads = 1, .channels = 1}).empty());
    const rw::heads_view one(&x, 1, 1, 1);
    CHECK(!one.empty());
    CHECK(one.channel_slice(1, 0).empty());
    CHECK(one.head_slice(1, 0).empty());
    CHECK(one.token_slice(1, 0).empty());
    CHECK(one.batch_slice(1, 0).empty());
}

TEST_CASE("heads_view: a mutable view becomes a read-only one of the same place", "[core][heads_view]") {
    float memory[12] = {};
    const rw::heads_view v(memory, 2, 3, 2);
    const rw::heads_view<const float> c = v;
    CHECK(c.data == memory);
    CHECK(c.at(0, 1, 2) == v.at(0, 1, 2));
    CHECK(c.shape.heads == 3);
}

TEST_CASE("heads_view: a slice outside its view has extents of -1", "[core][heads_view]") {
    float memory[12] = {};
    const rw::heads_view v(memory, 2, 3, 2);
    for (const auto& outside : {v.token_slice(1, 2), v.token_slice(-1, 1), v.token_slice(3, 0),
                                v.head_slice(2, 2), v.head_slice(0, 2, 3), v.head_slice(0, 1, 0),
                                v.channel_slice(1, 2), v.batch_slice(1, 1), v.batch_slice(0, -1)}) {
        CHECK(outside.tokens() == -1);
        CHECK(outside.heads() == -1);
        CHECK(outside.data == nullptr);
        CHECK_FALSE(outside.empty());  // nothing to do is what a caller may ask for
    }
}
