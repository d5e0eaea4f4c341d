// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Counts what operator new and every library allocate with. One unit of a program includes it, for it defines
// malloc; TEST_COUNTS_MALLOC is there where that works: not under a sanitizer, which has its own.
#include <cstddef>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED
#endif
#endif

#if defined(__GLIBC__) && !defined(TEST_SANITIZED)
#define TEST_COUNTS_MALLOC
static std::size_t mallocs = 0;
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) {
    ++mallocs;
    return __libc_malloc(size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
    ++mallocs;
    return __libc_memalign(alignment, size);
}
}
#endif
