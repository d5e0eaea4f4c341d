// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The cold checks behind every append plan: everything the hot calls rely on without checking it again.
#pragma once

#include <array>
#include <limits>
#include <string>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/kv/cache_plan.hpp>

namespace ROPEWALK_NAMESPACE::detail {

template <class T>
void require_source(const char* who, const heads_view<T>& x) {
    require_fits(who, "source", fit_strides_in_any_order(x.shape, x.strides));
}
template <class D>
void require_cache(const char* who, const cache_view<D>& cache, const cache_plan& plan, index heads,
                   index channels) {
    require(plan.fits(cache), who, "every cache must have the pages of the plan", cache.shape.pages);
    require_equal(who, "cache must have the heads of the source", heads, cache.shape.heads);
    require_equal(who, "cache must have the channels written to it", channels, cache.shape.channels);
    require(channels % numbers_in<D> == 0, who, "channels must be whole blocks", channels);
    require_fits(who, "cache", fit_cache_rows(cache));
}

/// The scales of an int8 cache, of which each token and head writes one.
inline void require_scales(const char* who, const cache_view<float>& scales, const cache_plan& plan,
                           index heads) {
    require(scales.data != nullptr, who, "scales must be given for an int8 cache", "none");
    require(scales.shape.channels == 1, who, "scales must have 1 channel", scales.shape.channels);
    require(plan.fits(scales), who, "scales must have the pages of the plan", scales.shape.pages);
    require_equal(who, "scales must have the heads of the source", heads, scales.shape.heads);
    require_cache(who, scales, plan, heads, 1);
}
/// One slot for each token.
inline void require_slots(const char* who, index batches, index tokens, index slots) {
    constexpr index most = std::numeric_limits<index>::max();
    const index wanted = batches > most / tokens ? most : batches * tokens;
    require_equal(who, "slots must be batches * tokens", wanted, slots);
}

/// A row of memory that one token and head reads or writes; `owner` identifies the token and head.
struct memory_row {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    index owner = 0;
    friend bool operator<(const memory_row& a, const memory_row& b) { return a.begin < b.begin; }
};
using memory_rows = std::vector<memory_row>;

template <class T>
memory_row row_of(const T* p, index channels, index owner) {
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    return {at, at + static_cast<std::size_t>(channels / numbers_in<T>) * sizeof(T), owner};
}
/// From the first to the last byte that strides and counts reach.
template <class T>
memory_row extent_of(const T* p, index channels,
                     const std::array<std::array<index, 2>, 3>& stride_and_count) {
    index low = 0, high = channels / numbers_in<T>;
    for (const auto& [stride, count] : stride_and_count) (stride < 0 ? low : high) += (count - 1) * stride;
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    return {at + static_cast<std::uintptr_t>(low) * sizeof(T),
            at + static_cast<std::uintptr_t>(high) * sizeof(T), 0};
}
template <class T>
memory_row extent_of(const heads_view<T>& x) {
    return extent_of(
        x.data, x.channels(),
        {{{x.strides.head, x.heads()}, {x.strides.token, x.tokens()}, {x.strides.batch, x.batches()}}});
}
template <class D>
memory_row extent_of(const cache_view<D>& x) {
    return extent_of(x.data, x.shape.channels,
                     {{{x.strides.head, x.shape.heads},
                       {x.strides.token, x.shape.page_tokens},
                       {x.strides.page, x.shape.pages}}});
}

template <class T>
memory_rows source_rows(const heads_view<T>& x, const cache_plan& plan, index first_owner) {
    memory_rows out;
    for (index token = 0; token < plan.tokens(); ++token)
        for (index h = 0; h < x.heads() && plan.place(token).page >= 0; ++h)
            out.push_back(row_of(x.at(token / x.tokens(), token % x.tokens(), h), x.channels(),
                                 first_owner + token * x.heads() + h));
    return out;
}
template <class D>
memory_rows cache_rows(const cache_view<D>& cache, const cache_plan& plan, index first_owner) {
    memory_rows out;
    for (index token = 0; token < plan.tokens(); ++token)
        for (index h = 0; h < cache.shape.heads && plan.place(token).page >= 0; ++h)
            out.push_back(row_of(cache.at(plan.place(token).page, plan.place(token).token, h),
                                 cache.shape.channels, first_owner + token * cache.shape.heads + h));
    return out;
}

/// Rows of views that overlap are compared one by one: 2^24 of them, 128 heads of 131072 tokens, take some
/// seconds and 800 MB.
inline void require_few_rows(const char* who, const cache_plan& plan, index heads) {
    constexpr index most_rows = index{1} << 24;
    require(plan.tokens() == 0 || heads <= most_rows / plan.tokens(), who,
            "tokens * heads must be at most 2^24 where views overlap, heads", heads);
}

inline void require_rows_apart(const char* who, const memory_rows& from, memory_rows to) {
    std::sort(to.begin(), to.end());
    for (const memory_row& row : from) {
        auto other = std::upper_bound(to.begin(), to.end(), row);
        while (other != to.begin() && std::prev(other)->end > row.begin) --other;
        for (; other != to.end() && other->begin < row.end; ++other)
            require(other->begin == row.begin && other->end == row.end && other->owner == row.owner, who,
                    "source must be the destination itself or not overlap it, token * heads + head",
                    row.owner);
    }
}

/// Requires that source and destination are the same rows (keys projected directly into their slots) or do
/// not overlap. Rows are compared one by one only if the whole extents overlap.
template <class T, class D>
void require_apart(const char* who, const heads_view<T>& from, const cache_view<D>& to,
                   const cache_plan& plan, index owner_from, index owner_to) {
    if (from.empty() || to.empty()) return;
    const memory_row a = extent_of(from), b = extent_of(to);
    if (a.begin >= b.end || b.begin >= a.end) return;
    require_few_rows(who, plan, std::max(from.heads(), to.shape.heads));
    require_rows_apart(who, source_rows(from, plan, owner_from), cache_rows(to, plan, owner_to));
}

/// Requires that two caches written by one call share no byte of its slots.
template <class A, class B>
void require_caches_apart(const char* who, const cache_view<A>& a, const cache_view<B>& b,
                          const cache_plan& plan) {
    if (a.empty() || b.empty() || plan.tokens() == 0) return;
    const memory_row first = extent_of(a), second = extent_of(b);
    if (first.begin >= second.end || second.begin >= first.end) return;
    require_few_rows(who, plan, std::max(a.shape.heads, b.shape.heads));
    const index rows = plan.tokens() * std::max(a.shape.heads, b.shape.heads);
    memory_rows other = cache_rows(b, plan, rows);
    std::sort(other.begin(), other.end());
    for (const memory_row& row : cache_rows(a, plan, 0)) {
        const auto next = std::lower_bound(other.begin(), other.end(), row);
        const bool meets = (next != other.end() && next->begin < row.end) ||
                           (next != other.begin() && std::prev(next)->end > row.begin);
        require(!meets, who, "what is written must be apart: keys, values and scales, token * heads + head",
                row.owner);
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
