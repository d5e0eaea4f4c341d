// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/core/block_types.hpp>
#include <ropewalk/kv/cache_view.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// The caller's cache of keys or of values in blocks (q8_0, q4_0), over memory we do not own. Channels are
/// counted in numbers, as in every cache; strides are in elements, and an element is a block.
/// Shapes:   nhd [pages, page_tokens, heads, channels / size], hnd [pages, heads, page_tokens,
///           channels / size], or any strides; size = numbers_in<D>. A head begins with a block of its own.
/// Requires: nhd, hnd: channels is a multiple of size.
/// Source:   ggml's rows of blocks; FlashInfer's NHD and HND layouts.
///
///     auto keys = cache_view<q8_0>::nhd(pool, {.pages = 512, .page_tokens = 16, .heads = 8, .channels =
///     128});   // 4 blocks a head, strides 512, 32 and 4
template <class D>
requires is_block<D>
struct cache_view<D> {
    static constexpr index size = numbers_in<D>;  ///< numbers in a block

    D* data = nullptr;
    cache_shape shape;        ///< channels in numbers
    cache_strides strides;    ///< in blocks
    index first_channel = 0;  ///< channels of the first block that come before those of a channel_slice

    constexpr cache_view() = default;
    constexpr cache_view(D* p, cache_shape s, cache_strides d) noexcept : data(p), shape(s), strides(d) {}
    /// [pages, page_tokens, heads, channels / size], contiguous.
    static constexpr cache_view nhd(D* p, cache_shape s) noexcept {
        ROPEWALK_EXPECT(s.channels % size == 0);
        const index blocks = s.channels / size;
        return {p, s, {s.page_tokens * s.heads * blocks, s.heads * blocks, blocks}};
    }
    /// [pages, heads, page_tokens, channels / size], contiguous.
    static constexpr cache_view hnd(D* p, cache_shape s) noexcept {
        ROPEWALK_EXPECT(s.channels % size == 0);
        const index blocks = s.channels / size;
        return {p, s, {s.page_tokens * s.heads * blocks, blocks, s.page_tokens * blocks}};
    }

    /// Places for a token.
    constexpr index slots() const noexcept { return shape.pages * shape.page_tokens; }
    /// Whether there is no cache.
    constexpr bool empty() const noexcept { return data == nullptr; }
    /// Blocks of a head that hold channels of this view.
    constexpr index blocks() const noexcept {
        return shape.channels == 0 ? 0 : (first_channel + shape.channels + size - 1) / size;
    }
    /// Whether no block holds channels of this view and others.
    constexpr bool whole_blocks() const noexcept { return first_channel == 0 && shape.channels % size == 0; }
    /// The block of the first channel of head h of a token in a page.
    constexpr D* at(index page, index token, index head) const noexcept {
        return data + page * strides.page + token * strides.token + head * strides.head;
    }
    /// Channels [first, first + count) of every row, in numbers. They may begin and end inside a block.
    constexpr cache_view channel_slice(index first, index count) const noexcept {
        ROPEWALK_EXPECT(first >= 0 && count >= 0 && first + count <= shape.channels);
        cache_view v = *this;
        v.data += (first_channel + first) / size;
        v.first_channel = (first_channel + first) % size;
        v.shape.channels = count;
        return v;
    }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE
