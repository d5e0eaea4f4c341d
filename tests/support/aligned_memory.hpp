// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What tests that replace operator new allocate with. The C library of Windows has no aligned_alloc.

#include <cstddef>
#include <cstdlib>

#if defined(_WIN32)
#include <malloc.h>
#endif

namespace support {

/// Null where there is none.
inline void* aligned_memory(std::size_t bytes, std::size_t alignment) noexcept {
    const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    const std::size_t size = rounded ? rounded : alignment;
#if defined(_WIN32)
    return ::_aligned_malloc(size, alignment);
#else
    return std::aligned_alloc(alignment, size);
#endif
}
inline void free_aligned(void* p) noexcept {
#if defined(_WIN32)
    ::_aligned_free(p);
#else
    std::free(p);
#endif
}

}  // namespace support
