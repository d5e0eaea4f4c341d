// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Ragged batches, block tables and slots of paged caches, and the plan of a call, checked once per step.
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/kv/cache_view.hpp>

namespace ROPEWALK_NAMESPACE {

/// Requests of different lengths, their tokens consecutive.
/// Shapes:   offsets [requests + 1]: the first token of each request, and the end; starts [requests]: the
///           position of that token, which is how many tokens the cache already holds. Each of any integer
///           type, as vectors, arrays or spans.
/// Source:   the indptr and offsets of FlashInfer's ragged calls; cu_seqlens.
template <class I = std::int32_t, class J = I>
struct ragged_batch {
    std::span<const I> offsets;  ///< [requests + 1], first token of each request, and the end
    std::span<const J> starts;   ///< [requests], position of that token
};
template <class A, class B>
ragged_batch(const A&, const B&) -> ragged_batch<typename A::value_type, typename B::value_type>;

/// The pages of each request: which page holds positions [p * page_tokens, (p + 1) * page_tokens).
/// Shapes:   pages [requests, pages_per_request]; entries past the end of a request are not read.
template <class I = std::int32_t>
struct block_table {
    std::span<const I> pages;     ///< page numbers, [requests, pages_per_request]
    index pages_per_request = 0;  ///< columns of the table
    index page_tokens = 0;
};
template <class A>
block_table(const A&, index, index) -> block_table<typename A::value_type>;

namespace detail {

template <class I, class J>
index requests_of(const char* who, const ragged_batch<I, J>& batch) {
    require(!batch.offsets.empty(), who, "offsets must hold requests + 1 numbers", batch.offsets.size());
    require(batch.starts.size() + 1 == batch.offsets.size(), who,
            "starts must hold one number less than offsets", batch.starts.size());
    require(batch.offsets.front() == 0, who, "offsets must begin with 0", batch.offsets.front());
    for (std::size_t r = 0; r < batch.starts.size(); ++r) {
        require(batch.offsets[r + 1] >= batch.offsets[r], who, "offsets must not decrease",
                batch.offsets[r + 1]);
        require(batch.starts[r] >= J{0}, who, "starts must be >= 0", batch.starts[r]);
        require(std::in_range<index>(batch.offsets[r + 1]), who, "offsets must fit in 63 bits",
                batch.offsets[r + 1]);
        const index more = static_cast<index>(batch.offsets[r + 1] - batch.offsets[r]);
        require(std::in_range<index>(batch.starts[r]) &&
                    static_cast<index>(batch.starts[r]) <= std::numeric_limits<index>::max() - more,
                who, "starts must keep positions within 63 bits", batch.starts[r]);
    }
    return static_cast<index>(batch.starts.size());
}

/// Calls f(request, token, position) for every token of a checked batch.
template <class I, class J, class F>
void each_token(const ragged_batch<I, J>& batch, F f) {
    for (std::size_t r = 0; r < batch.starts.size(); ++r)
        for (I n = batch.offsets[r]; n < batch.offsets[r + 1]; ++n)
            f(static_cast<index>(r), static_cast<index>(n),
              static_cast<index>(batch.starts[r]) + static_cast<index>(n - batch.offsets[r]));
}

}  // namespace detail

/// The position of every token of a ragged batch, ready for position_table::rows().
/// Shapes:   -> [offsets.back()].
/// Throws:   invalid_config on offsets that do not start at 0 or decrease, or on negative starts.
template <class I, class J>
std::vector<std::int64_t> make_positions(ragged_batch<I, J> batch) {
    detail::requests_of("make_positions", batch);
    std::vector<std::int64_t> positions;
    detail::each_token(batch, [&](index, index, index p) { positions.push_back(p); });
    return positions;
}

/// The slot of every token of a ragged batch, in a paged cache whose tokens are in the order of their
/// positions. After shift_keys that is so only if whole pages were dropped from the block table; otherwise
/// give append slots of your own.
/// Shapes:   -> [offsets.back()], slot = page * page_tokens + position % page_tokens.
/// Throws:   invalid_config on sizes that disagree or do not fit in 63 bits, a position past the pages of its
///           request, or a page whose slots do not fit in 63 bits.
/// Source:   vLLM's slot mapping.
template <class I, class J, class P>
std::vector<std::int64_t> make_slots(ragged_batch<I, J> batch, block_table<P> table) {
    constexpr const char* who = "make_slots";
    const index requests = detail::requests_of(who, batch);
    detail::require(table.page_tokens >= 1, who, "page_tokens must be >= 1", table.page_tokens);
    const index entries =
        detail::checked_product(who, "pages_per_request must be >= 0", {requests, table.pages_per_request});
    detail::require_equal(who, "pages must hold requests * pages_per_request numbers", entries,
                          table.pages.size());
    const index last_page = std::numeric_limits<index>::max() / table.page_tokens - 1;
    std::vector<std::int64_t> slots;
    detail::each_token(batch, [&](index r, index, index position) {
        const index page = position / table.page_tokens;
        detail::require(page < table.pages_per_request, who, "positions must be below the pages of a request",
                        position);
        const auto entry = table.pages[static_cast<std::size_t>(r * table.pages_per_request + page)];
        detail::require(entry >= P{0}, who, "pages must be >= 0 where tokens stand", entry);
        detail::require(std::in_range<index>(entry) && static_cast<index>(entry) <= last_page, who,
                        "pages must have slots within 63 bits", entry);
        slots.push_back(static_cast<std::int64_t>(entry) * table.page_tokens + position % table.page_tokens);
    });
    return slots;
}
/// The same for a contiguous cache: each request has one page of `capacity` tokens.
template <class I, class J>
std::vector<std::int64_t> make_slots(ragged_batch<I, J> batch, index capacity) {
    std::vector<index> pages(batch.starts.size());
    for (std::size_t r = 0; r < pages.size(); ++r) pages[r] = static_cast<index>(r);
    return make_slots(batch, block_table<index>{pages, 1, capacity});
}

/// The cache slots of the tokens of a call: checked once, and used by every layer whose cache has the same
/// pages. The plan holds page and token numbers, no pointers.
/// Shapes:   slots [tokens]; a negative slot skips the token.
/// Throws:   invalid_config on a slot outside the pages and on two tokens in one slot.
/// Cost:     O(tokens log tokens), 8 bytes per token.
/// Source:   vLLM's slot mapping.
class cache_plan {
  public:
    cache_plan() = default;
    template <class I>
    cache_plan(std::span<const I> slots, index pages, index page_tokens)
        : pages_(pages), page_tokens_(page_tokens) {
        constexpr const char* who = "cache_plan";
        detail::require(page_tokens >= 1, who, "page_tokens must be >= 1", page_tokens);
        detail::require(pages >= 0 && pages <= 0x7fffffff, who, "pages must be >= 0 and below 2^31", pages);
        detail::require(page_tokens <= 0x7fffffff, who, "page_tokens must be below 2^31", page_tokens);
        std::vector<std::int64_t> taken;
        for (const I given : slots) {
            detail::require(std::in_range<std::int64_t>(given), who, "slots must fit in 63 bits", given);
            const auto slot = static_cast<std::int64_t>(given);
            if (slot < 0) {
                places_.emplace_back();
                continue;
            }
            detail::require(slot < pages * page_tokens, who, "slots must be below pages * page_tokens", slot);
            places_.push_back({static_cast<std::int32_t>(slot / page_tokens),
                               static_cast<std::int32_t>(slot % page_tokens)});
            taken.push_back(slot);
        }
        std::sort(taken.begin(), taken.end());
        const auto twice = std::adjacent_find(taken.begin(), taken.end());
        detail::require(twice == taken.end(), who, "slots must differ", twice == taken.end() ? 0 : *twice);
    }
    template <class I>
    cache_plan(const std::vector<I>& slots, index pages, index page_tokens)
        : cache_plan(std::span<const I>(slots), pages, page_tokens) {}

    index tokens() const noexcept { return static_cast<index>(places_.size()); }
    /// The number of pages of the cache that the plan is for.
    index pages() const noexcept { return pages_; }
    index page_tokens() const noexcept { return page_tokens_; }
    cache_place place(index token) const noexcept { return places_[static_cast<std::size_t>(token)]; }

    /// Whether a cache has the pages that this plan was made for.
    template <class D>
    bool fits(const cache_view<D>& cache) const noexcept {
        return cache.data != nullptr && cache.shape.pages >= pages_ &&
               cache.shape.page_tokens == page_tokens_;
    }

  private:
    index pages_ = 0;
    index page_tokens_ = 0;
    std::vector<cache_place> places_;
};

}  // namespace ROPEWALK_NAMESPACE
