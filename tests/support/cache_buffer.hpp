// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Memory for a cache of keys and values in any order, all of it canaries.

#include <algorithm>
#include <cstring>
#include <vector>

#include <ropewalk/kv/cache_plan.hpp>

namespace support {

namespace rw = ropewalk;

enum class cache_order { nhd, hnd, packed };  // packed: keys and values of a head in one row

template <class D>
class cache_buffer {
  public:
    cache_buffer(rw::cache_shape shape, cache_order order) : shape_(shape), order_(order) {
        values_.resize(static_cast<std::size_t>(2 * size() + 64));
        std::memset(static_cast<void*>(values_.data()), 0x5a, values_.size() * sizeof(D));
    }
    rw::cache_view<D> keys() { return at(32); }
    rw::cache_view<D> values() { return at(32 + (order_ == cache_order::packed ? shape_.channels : size())); }

    /// Whether the rows of the plan's tokens hold `dense`, [tokens, heads, channels], bit for bit.
    bool holds(rw::cache_view<D> rows, const rw::cache_plan& plan, const std::vector<D>& dense) const {
        const auto row = static_cast<std::size_t>(shape_.channels);
        for (rw::index n = 0; n < plan.tokens(); ++n)
            for (rw::index h = 0; h < shape_.heads && plan.place(n).page >= 0; ++h)
                if (std::memcmp(rows.at(plan.place(n).page, plan.place(n).token, h),
                                dense.data() + static_cast<std::size_t>(n * shape_.heads + h) * row,
                                row * sizeof(D)) != 0)
                    return false;
        return true;
    }
    /// Whether every byte outside the plan's rows still is a canary.
    bool nothing_else_written(const rw::cache_plan& plan) {
        std::vector<unsigned char> bytes(values_.size() * sizeof(D));
        std::memcpy(bytes.data(), values_.data(), bytes.size());
        for (rw::cache_view<D> rows : {keys(), values()})
            for (rw::index n = 0; n < plan.tokens(); ++n)
                for (rw::index h = 0; h < shape_.heads && plan.place(n).page >= 0; ++h) {
                    const auto first = rows.at(plan.place(n).page, plan.place(n).token, h) - values_.data();
                    std::memset(bytes.data() + static_cast<std::size_t>(first) * sizeof(D), 0x5a,
                                static_cast<std::size_t>(shape_.channels) * sizeof(D));
                }
        return std::all_of(bytes.begin(), bytes.end(), [](unsigned char c) { return c == 0x5a; });
    }
    bool same_memory(const cache_buffer& other) const {
        return values_.size() == other.values_.size() &&
               std::memcmp(values_.data(), other.values_.data(), values_.size() * sizeof(D)) == 0;
    }

  private:
    rw::index size() const { return shape_.pages * shape_.page_tokens * shape_.heads * shape_.channels; }
    rw::cache_view<D> at(rw::index first) {
        D* const p = values_.data() + first;
        if (order_ == cache_order::nhd) return rw::cache_view<D>::nhd(p, shape_);
        if (order_ == cache_order::hnd) return rw::cache_view<D>::hnd(p, shape_);
        const rw::index row = 2 * shape_.channels;
        return {p, shape_, {shape_.page_tokens * shape_.heads * row, shape_.heads * row, row}};
    }

    rw::cache_shape shape_;
    cache_order order_;
    std::vector<D> values_;
};

}  // namespace support
