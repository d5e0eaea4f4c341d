// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "support/roof.hpp"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ROOF_X86 1
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12, inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

namespace bench {

namespace {

// The plain loops also finish what does not fill a register.
template <class T>
void scale_rest(T* x, std::size_t from, std::size_t count, T one) noexcept {
    for (std::size_t i = from; i < count; ++i) x[i] *= one;
}

#if defined(ROOF_X86)

bool has_avx512() noexcept {
    static const bool yes = __builtin_cpu_supports("avx512f");
    return yes;
}
bool has_avx() noexcept {
    static const bool yes = __builtin_cpu_supports("avx");
    return yes;
}

__attribute__((target("avx512f"))) std::size_t scale512(float* x, std::size_t count, float one) noexcept {
    const __m512 c = _mm512_set1_ps(one);
    std::size_t i = 0;
    for (; i + 64 <= count; i += 64)
        for (std::size_t j = 0; j < 64; j += 16)
            _mm512_storeu_ps(x + i + j, _mm512_mul_ps(_mm512_loadu_ps(x + i + j), c));
    return i;
}
__attribute__((target("avx512f"))) std::size_t scale512(double* x, std::size_t count, double one) noexcept {
    const __m512d c = _mm512_set1_pd(one);
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32)
        for (std::size_t j = 0; j < 32; j += 8)
            _mm512_storeu_pd(x + i + j, _mm512_mul_pd(_mm512_loadu_pd(x + i + j), c));
    return i;
}
__attribute__((target("avx512f"))) std::size_t touch512(char* x, std::size_t bytes, unsigned zero) noexcept {
    const __m512i z = _mm512_set1_epi32(static_cast<int>(zero));
    std::size_t i = 0;
    for (; i + 256 <= bytes; i += 256)
        for (std::size_t j = 0; j < 256; j += 64)
            _mm512_storeu_si512(x + i + j, _mm512_xor_si512(_mm512_loadu_si512(x + i + j), z));
    return i;
}
__attribute__((target("avx"))) std::size_t scale256(float* x, std::size_t count, float one) noexcept {
    const __m256 c = _mm256_set1_ps(one);
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32)
        for (std::size_t j = 0; j < 32; j += 8)
            _mm256_storeu_ps(x + i + j, _mm256_mul_ps(_mm256_loadu_ps(x + i + j), c));
    return i;
}
__attribute__((target("avx"))) std::size_t scale256(double* x, std::size_t count, double one) noexcept {
    const __m256d c = _mm256_set1_pd(one);
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (std::size_t j = 0; j < 16; j += 4)
            _mm256_storeu_pd(x + i + j, _mm256_mul_pd(_mm256_loadu_pd(x + i + j), c));
    return i;
}
__attribute__((target("avx"))) std::size_t touch256(char* x, std::size_t bytes, unsigned zero) noexcept {
    const __m256 z = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(zero)));
    std::size_t i = 0;
    for (; i + 128 <= bytes; i += 128)
        for (std::size_t j = 0; j < 128; j += 32) {
            auto* p = reinterpret_cast<float*>(x + i + j);
            _mm256_storeu_ps(p, _mm256_xor_ps(_mm256_loadu_ps(p), z));
        }
    return i;
}

#endif

}  // namespace

void scale_floats(float* x, std::size_t count, float one) noexcept {
    std::size_t done = 0;
#if defined(ROOF_X86)
    if (has_avx512()) {
        done = scale512(x, count, one);
    } else if (has_avx()) {
        done = scale256(x, count, one);
    }
#endif
    scale_rest(x, done, count, one);
}

void scale_doubles(double* x, std::size_t count, double one) noexcept {
    std::size_t done = 0;
#if defined(ROOF_X86)
    if (has_avx512()) {
        done = scale512(x, count, one);
    } else if (has_avx()) {
        done = scale256(x, count, one);
    }
#endif
    scale_rest(x, done, count, one);
}

void touch_words(void* x, std::size_t bytes, unsigned zero) noexcept {
    auto* p = static_cast<char*>(x);
    std::size_t done = 0;
#if defined(ROOF_X86)
    if (has_avx512()) {
        done = touch512(p, bytes, zero);
    } else if (has_avx()) {
        done = touch256(p, bytes, zero);
    }
#endif
    for (; done + 4 <= bytes; done += 4) {
        std::uint32_t word;
        std::memcpy(&word, p + done, 4);
        word ^= zero;
        std::memcpy(p + done, &word, 4);
    }
}

const char* roof_registers() noexcept {
#if defined(ROOF_X86)
    if (has_avx512()) return "avx512f";
    if (has_avx()) return "avx";
#endif
    return "plain";
}

}  // namespace bench
