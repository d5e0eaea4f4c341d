// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include <ropewalk/core/version.hpp>

namespace ROPEWALK_NAMESPACE::detail {

template <class T>
struct cache_line_allocator {
    using value_type = T;
    static constexpr std::align_val_t alignment{64};

    cache_line_allocator() = default;
    template <class U>
    cache_line_allocator(const cache_line_allocator<U>&) noexcept {}
    T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), alignment)); }
    void deallocate(T* p, std::size_t) noexcept { ::operator delete(p, alignment); }
    friend bool operator==(cache_line_allocator, cache_line_allocator) { return true; }
};

/// Tables start on a cache line, so that a row of 64 pairs never straddles one more line than it must.
/// Source: design of this library.
template <class T>
using aligned_vector = std::vector<T, cache_line_allocator<T>>;

}  // namespace ROPEWALK_NAMESPACE::detail
