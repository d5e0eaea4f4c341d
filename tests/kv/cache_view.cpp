// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/cache_view.hpp>

#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::cache_shape small{.pages = 3, .page_tokens = 4, .heads = 2, .channels = 5};

/// f(page, token, head) for every row.
template <class F>
void each_row(const rw::cache_shape& shape, F f) {
    for (rw::index page = 0; page < shape.pages; ++page)
        for (rw::index token = 0; token < shape.page_tokens; ++token)
            for (rw::index h = 0; h < shape.heads; ++h) f(page, token, h);
}

}  // namespace

TEST_CASE("cache_view: nhd is [pages, page_tokens, heads, channels]", "[kv][compression]") {
    std::vector<float> memory(3 * 4 * 2 * 5);
    const auto cache = rw::cache_view<float>::nhd(memory.data(), small);
    each_row(small, [&](rw::index page, rw::index token, rw::index h) {
        CHECK(cache.at(page, token, h) - memory.data() == ((page * 4 + token) * 2 + h) * 5);
    });
    CHECK(cache.slots() == 12);
}

TEST_CASE("cache_view: hnd is [pages, heads, page_tokens, channels]", "[kv][compression]") {
    std::vector<float> memory(3 * 4 * 2 * 5);
    const auto cache = rw::cache_view<float>::hnd(memory.data(), small);
    each_row(small, [&](rw::index page, rw::index token, rw::index h) {
        CHECK(cache.at(page, token, h) - memory.data() == ((page * 2 + h) * 4 + token) * 5);
    });
    CHECK(cache.slots() == 12);
}

TEST_CASE("cache_view: strides reach packed [K | V] rows, also from the last page to the first",
          "[kv][compression]") {
    std::vector<int> memory(3 * 4 * 2 * 10, 0);
    const rw::cache_view<int> keys(memory.data(), small, {4 * 2 * 10, 2 * 10, 10});
    const rw::cache_view<int> values(memory.data() + 5 + 2 * 4 * 2 * 10, small, {-4 * 2 * 10, 2 * 10, 10});
    each_row(small, [&](rw::index page, rw::index token, rw::index h) {
        for (int c = 0; c < 5; ++c) ++keys.at(page, token, h)[c], values.at(page, token, h)[c] += 2;
    });
    for (std::size_t i = 0; i < memory.size(); ++i) CHECK(memory[i] == (i % 10 < 5 ? 1 : 2));
    CHECK(values.at(2, 0, 0) == keys.at(0, 0, 0) + 5);
}

TEST_CASE("cache_view: a slice of channels keeps pages, heads and strides", "[kv][compression]") {
    std::vector<float> memory(3 * 4 * 2 * 5);
    const auto whole = rw::cache_view<float>::hnd(memory.data(), small);
    const auto slice = whole.channel_slice(1, 4).channel_slice(1, 2);
    CHECK(slice.shape.channels == 2);
    CHECK(slice.shape.pages == 3);
    CHECK(slice.shape.page_tokens == 4);
    CHECK(slice.shape.heads == 2);
    each_row(small, [&](rw::index page, rw::index token, rw::index h) {
        CHECK(slice.at(page, token, h) == whole.at(page, token, h) + 2);
    });
    CHECK(whole.shape.channels == 5);
}

TEST_CASE("cache_view: empty is no memory, whatever the shape", "[kv][compression]") {
    float x = 0;
    CHECK(rw::cache_view<float>{}.empty());
    CHECK(rw::cache_view<float>::nhd(nullptr, small).empty());
    CHECK_FALSE(rw::cache_view<float>::nhd(&x, {1, 1, 1, 1}).empty());
    CHECK(rw::cache_view<float>{}.slots() == 0);
    CHECK(rw::cache_place{}.page < 0);  // a place nobody named is nowhere
}

TEST_CASE("cache_view: a slice that leaves the head, or cuts a block, fits no call", "[kv][cache_view]") {
    float memory[5] = {};
    const auto cache = rw::cache_view<float>::nhd(memory, {1, 1, 1, 5});
    CHECK(cache.channel_slice(0, 5).shape.channels == 5);
    CHECK(cache.channel_slice(5, 0).shape.channels == 0);
    CHECK(cache.channel_slice(1, 5).shape.channels == -1);
    CHECK(cache.channel_slice(-1, 2).shape.channels == -1);
    CHECK(cache.channel_slice(2, -1).shape.channels == -1);
    rw::q8_0 blocks[8] = {};
    const auto coded = rw::cache_view<rw::q8_0>::nhd(blocks, {1, 2, 1, 128});
    CHECK(coded.strides.token == 4);
    CHECK(coded.channel_slice(32, 64).data == blocks + 1);
    CHECK(coded.channel_slice(16, 64).shape.channels == -1);
    CHECK(coded.channel_slice(32, 48).shape.channels == -1);
}
