// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The macro is replaced before the first include, as its comment offers.
namespace {
int broken_block_expectations = 0;
}
#define ROPEWALK_EXPECT(condition) ((condition) ? void() : void(++broken_block_expectations))
#include <ropewalk/kv/block_cache_view.hpp>

#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

using block = rw::q8_block<96>;  // of this unit alone: its views are compiled with this unit's macro
constexpr rw::cache_shape small{.pages = 3, .page_tokens = 4, .heads = 2, .channels = 288};

/// f(page, token, head) for every row.
template <class F>
void each_row(const rw::cache_shape& shape, F f) {
    for (rw::index page = 0; page < shape.pages; ++page)
        for (rw::index token = 0; token < shape.page_tokens; ++token)
            for (rw::index h = 0; h < shape.heads; ++h) f(page, token, h);
}

}  // namespace

TEST_CASE("block_cache_view: channels are numbers, strides blocks", "[kv][blocks]") {
    std::vector<block> memory(3 * 4 * 2 * 3);
    const auto nhd = rw::cache_view<block>::nhd(memory.data(), small);
    const auto hnd = rw::cache_view<block>::hnd(memory.data(), small);
    each_row(small, [&](rw::index page, rw::index token, rw::index h) {
        CHECK(nhd.at(page, token, h) - memory.data() == ((page * 4 + token) * 2 + h) * 3);
        CHECK(hnd.at(page, token, h) - memory.data() == ((page * 2 + h) * 4 + token) * 3);
    });
    for (const auto& view : {nhd, hnd}) {
        CHECK(view.shape.channels == 288);
        CHECK(view.blocks() == 3);
        CHECK(view.slots() == 12);
        CHECK(view.whole_blocks());
        CHECK(!view.empty());
    }
    CHECK(rw::cache_view<block>{}.empty());
    CHECK(rw::cache_view<block>{}.blocks() == 0);
    const rw::cache_view deduced(memory.data(), small, {24, 6, 3});
    CHECK(deduced.size == 96);
}

TEST_CASE("block_cache_view: a slice may begin and end inside a block", "[kv][blocks]") {
    std::vector<block> memory(3 * 4 * 2 * 3);
    const auto all = rw::cache_view<block>::nhd(memory.data(), small);
    for (rw::index first = 0; first <= 288; first += 7)
        for (rw::index count = 0; first + count <= 288; count += 5) {
            const auto slice = all.channel_slice(first, count);
            // The channel that the slice calls 0 is the head's channel `first`.
            const rw::index distance = slice.at(2, 3, 1) - all.at(2, 3, 1);
            CHECK(distance * 96 + slice.first_channel == first);
            CHECK((slice.first_channel >= 0 && slice.first_channel < 96));
            CHECK(slice.shape.channels == count);
            // The blocks are those of its first to its last channel.
            if (count > 0) CHECK(slice.blocks() == (first + count - 1) / 96 - first / 96 + 1);
            CHECK(slice.whole_blocks() == (first % 96 == 0 && count % 96 == 0));
        }
    // A slice of a slice is the slice of the sum.
    const auto twice = all.channel_slice(70, 200).channel_slice(50, 30), once = all.channel_slice(120, 30);
    CHECK(twice.data == once.data);
    CHECK(twice.first_channel == once.first_channel);
    CHECK(twice.strides.head == all.strides.head);
}

TEST_CASE("block_cache_view: what is no whole block or outside the head is an assertion", "[kv][blocks]") {
    std::vector<block> memory(3 * 4 * 2 * 3);
    const auto all = rw::cache_view<block>::nhd(memory.data(), small);
    const int before = broken_block_expectations;
    (void)all.channel_slice(1, 288);
    (void)all.channel_slice(-1, 2);
    (void)rw::cache_view<block>::nhd(memory.data(),
                                     {.pages = 1, .page_tokens = 1, .heads = 1, .channels = 80});
    (void)rw::cache_view<block>::hnd(memory.data(),
                                     {.pages = 1, .page_tokens = 1, .heads = 1, .channels = 80});
    CHECK(broken_block_expectations == before + 4);
}
