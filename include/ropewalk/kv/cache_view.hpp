// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A view of a paged cache of keys or values: [pages, page_tokens, heads, channels] with strides.
#pragma once

#include <ropewalk/core/block_types.hpp>
#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/core/quantized_types.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// The extents of a cache of keys or values. A contiguous cache has one page per request.
struct cache_shape {
    index pages = 1;  ///< pages of the cache
    index page_tokens = 0;
    index heads = 0;
    index channels = 0;
};

/// Distances in elements, or in blocks if the cache holds blocks. Channels are adjacent.
struct cache_strides {
    index page = 0;   ///< from one page to the next
    index token = 0;  ///< from one token to the next
    index head = 0;   ///< from one head to the next
};

/// The caller's cache of keys or of values, in memory that the view does not own. A slot is page *
/// page_tokens + token in the page, the numbering of block tables.
/// Shapes:   nhd [pages, page_tokens, heads, channels], hnd [pages, heads, page_tokens, channels], or any
///           strides (keys inside packed [K | V] rows: head stride 2 * channels). Channels are counted in
///           numbers, also if the elements are blocks (q8_0, q4_0).
/// Source:   FlashInfer's NHD and HND layouts; vLLM's slot mapping.
///
///     auto keys =
///         cache_view<bf16>::nhd(pool, {.pages = 512, .page_tokens = 16, .heads = 8, .channels = 128});
template <class D>
struct cache_view {
    D* data = nullptr;
    cache_shape shape;
    cache_strides strides;

    constexpr cache_view() = default;
    constexpr cache_view(D* p, cache_shape s, cache_strides d) noexcept : data(p), shape(s), strides(d) {}
    /// [pages, page_tokens, heads, channels], contiguous.
    static constexpr cache_view nhd(D* p, cache_shape s) noexcept {
        const index row = s.channels / numbers_in<D>;
        return {p, s, {s.page_tokens * s.heads * row, s.heads * row, row}};
    }
    /// [pages, heads, page_tokens, channels], contiguous.
    static constexpr cache_view hnd(D* p, cache_shape s) noexcept {
        const index row = s.channels / numbers_in<D>;
        return {p, s, {s.page_tokens * s.heads * row, row, s.page_tokens * row}};
    }

    /// The number of slots.
    constexpr index slots() const noexcept { return shape.pages * shape.page_tokens; }
    /// Whether there is no cache.
    constexpr bool empty() const noexcept { return data == nullptr; }
    /// First channel of head h of a token in a page.
    constexpr D* at(index page, index token, index head) const noexcept {
        return data + page * strides.page + token * strides.token + head * strides.head;
    }
    /// Channels [first, first + count) of every row, in whole blocks. A slice outside the row, or one that
    /// cuts a block, has -1 channels, which fit no call.
    constexpr cache_view channel_slice(index first, index count) const noexcept {
        cache_view v = *this;
        if (first < 0 || count < 0 || first > shape.channels || count > shape.channels - first ||
            first % numbers_in<D> != 0 || count % numbers_in<D> != 0) {
            v.shape.channels = -1;
            return v;
        }
        v.data += first / numbers_in<D>;
        v.shape.channels = count;
        return v;
    }
};

/// The slot of a token of a call in the cache; a negative page: none, the token is skipped.
struct cache_place {
    std::int32_t page = untouched_row;  ///< page of the cache; negative: none
    std::int32_t token = 0;             ///< token within the page
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// The misfit of strides with which two rows of a cache share a channel.
template <class D>
misfit fit_cache_rows(const cache_view<D>& cache) noexcept {
    return fit_rows_apart(
        cache.shape.channels / numbers_in<D>,
        {cache.shape.heads, cache.strides.head, "the head stride must step over what a head holds"},
        {cache.shape.page_tokens, cache.strides.token, "the token stride must step over what a token holds"},
        {cache.shape.pages, cache.strides.page, "the page stride must step over what a page holds"});
}

}  // namespace ROPEWALK_NAMESPACE::detail
