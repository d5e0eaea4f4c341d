// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The widest floating-point registers of a build and their arithmetic; only this header includes xsimd.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/index.hpp>

// What xsimd 8.1 to 14.x do differently (zip, fma on AVX-512, swizzle constants, 16-bit types) is written
// with intrinsics. Other architectures take the portable path: the compiler's vectors (RISC-V, POWER, s390x,
// 32-bit ARM, WebAssembly), or arrays where it has none or ROPEWALK_NO_VECTORS is defined.
#if !defined(ROPEWALK_NO_XSIMD) && __has_include(<xsimd/xsimd.hpp>)
#if defined(__SSE2__) || defined(_M_X64) || defined(__aarch64__)
#include <xsimd/xsimd.hpp>
#if !defined(XSIMD_NO_SUPPORTED_ARCHITECTURE)
#define ROPEWALK_DETAIL_XSIMD 1
#endif
#endif
#endif

#if defined(ROPEWALK_DETAIL_XSIMD) && XSIMD_WITH_AVX512F
#define ROPEWALK_DETAIL_X86_512 1
#elif defined(ROPEWALK_DETAIL_XSIMD) && XSIMD_WITH_AVX
#define ROPEWALK_DETAIL_X86_256 1
#elif defined(ROPEWALK_DETAIL_XSIMD) && XSIMD_WITH_SSE2
#define ROPEWALK_DETAIL_X86_128 1
#elif defined(ROPEWALK_DETAIL_XSIMD) && XSIMD_WITH_NEON64 && !defined(__ARM_FEATURE_SVE_BITS)
#define ROPEWALK_DETAIL_NEON 1
#elif !defined(ROPEWALK_DETAIL_XSIMD) && !defined(ROPEWALK_NO_VECTORS) && defined(__GNUC__)
#define ROPEWALK_DETAIL_VECTORS 1
#endif

// Loops over registers must be unrolled, or the registers live in memory. GCC 12 at -O2 does not unroll them
// by itself (half-split f32, 40 heads of 128, AVX-512: 577 ns instead of 209 ns).
#if defined(__clang__)
#define ROPEWALK_DETAIL_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define ROPEWALK_DETAIL_UNROLL _Pragma("GCC unroll 16")
#else
#define ROPEWALK_DETAIL_UNROLL
#endif

#if defined(ROPEWALK_DETAIL_XSIMD)
static_assert(std::endian::native == std::endian::little,
              "ropewalk reads 16-bit data as little-endian words");
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#if defined(ROPEWALK_DETAIL_VECTORS)
#pragma GCC diagnostic ignored "-Wpsabi"  // all of it is inlined: no vector is passed between units
#endif
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic ignored "-Wsign-conversion"  // its intrinsics are macros at -O0
#endif

namespace ROPEWALK_NAMESPACE::simd {

#if defined(ROPEWALK_DETAIL_XSIMD)

/// The widest register of floats or doubles in this build.
/// Source: xsimd.
template <class C>
using pack = xsimd::batch<C>;
template <class C>
inline constexpr index lanes = static_cast<index>(pack<C>::size);

template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> broadcast(C value) noexcept {
    return pack<C>(value);
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> load(const C* p) noexcept {
    return pack<C>::load_unaligned(p);
}
template <class C>
ROPEWALK_ALWAYS_INLINE void store(C* p, pack<C> x) noexcept {
    x.store_unaligned(p);
}
/// condition ? a : b, lane by lane; the condition is a mask from a comparison of packs.
template <class M, class P>
ROPEWALK_ALWAYS_INLINE P choose(const M& condition, const P& a, const P& b) noexcept {
    return xsimd::select(condition, a, b);
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> absolute(pack<C> x) noexcept {
    return xsimd::abs(x);
}

#elif defined(ROPEWALK_DETAIL_VECTORS)

/// 16 bytes of floats or doubles as a vector of the compiler, where xsimd lacks the architecture.
/// Source: the vector extensions of GCC and Clang.
template <class C>
struct pack {
    static constexpr std::size_t size = 16 / sizeof(C);
    typedef C register_type __attribute__((vector_size(16)));
    using bits = std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>;
    typedef bits mask_type __attribute__((vector_size(16)));
    struct mask {
        mask_type lane;
    };
    register_type lane;

    ROPEWALK_ALWAYS_INLINE friend pack operator*(pack a, pack b) noexcept { return {a.lane * b.lane}; }
    ROPEWALK_ALWAYS_INLINE friend pack operator+(pack a, pack b) noexcept { return {a.lane + b.lane}; }
    ROPEWALK_ALWAYS_INLINE friend pack operator-(pack a, pack b) noexcept { return {a.lane - b.lane}; }
    ROPEWALK_ALWAYS_INLINE friend pack operator/(pack a, pack b) noexcept { return {a.lane / b.lane}; }
    ROPEWALK_ALWAYS_INLINE friend pack operator-(pack a) noexcept { return {-a.lane}; }
    ROPEWALK_ALWAYS_INLINE friend mask operator==(pack a, pack b) noexcept { return {a.lane == b.lane}; }
    ROPEWALK_ALWAYS_INLINE friend mask operator<(pack a, pack b) noexcept { return {a.lane < b.lane}; }
};
template <class C>
inline constexpr index lanes = static_cast<index>(pack<C>::size);

template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> broadcast(C value) noexcept {
    return {value - typename pack<C>::register_type{}};
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> load(const C* p) noexcept {
    pack<C> x;
    std::memcpy(&x.lane, p, sizeof x.lane);
    return x;
}
template <class C>
ROPEWALK_ALWAYS_INLINE void store(C* p, pack<C> x) noexcept {
    std::memcpy(p, &x.lane, sizeof x.lane);
}
template <class M, class P>
ROPEWALK_ALWAYS_INLINE P choose(const M& condition, const P& a, const P& b) noexcept {
    return {condition.lane ? a.lane : b.lane};
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> absolute(pack<C> x) noexcept {
    using P = pack<C>;
    return {(typename P::register_type)((typename P::mask_type)(x.lane) &
                                        std::numeric_limits<typename P::bits>::max())};
}

#else

/// 16 bytes of floats or doubles in an array.
template <class C>
struct pack {
    static constexpr std::size_t size = 16 / sizeof(C);
    C lane[size];

    template <class F>
    static pack map(F f) noexcept {
        pack r;
        for (std::size_t i = 0; i < size; ++i) r.lane[i] = f(static_cast<index>(i));
        return r;
    }
    friend pack operator*(pack a, pack b) noexcept {
        return map([&](index i) { return a.lane[i] * b.lane[i]; });
    }
    friend pack operator+(pack a, pack b) noexcept {
        return map([&](index i) { return a.lane[i] + b.lane[i]; });
    }
    friend pack operator-(pack a, pack b) noexcept {
        return map([&](index i) { return a.lane[i] - b.lane[i]; });
    }
    friend pack operator/(pack a, pack b) noexcept {
        return map([&](index i) { return a.lane[i] / b.lane[i]; });
    }
    friend pack operator-(pack a) noexcept {
        return map([&](index i) { return -a.lane[i]; });
    }
    struct mask {
        bool lane[size];
    };
    friend mask operator==(pack a, pack b) noexcept {
        mask m;
        for (std::size_t i = 0; i < size; ++i) m.lane[i] = a.lane[i] == b.lane[i];
        return m;
    }
    friend mask operator<(pack a, pack b) noexcept {
        mask m;
        for (std::size_t i = 0; i < size; ++i) m.lane[i] = a.lane[i] < b.lane[i];
        return m;
    }
};
template <class C>
inline constexpr index lanes = static_cast<index>(pack<C>::size);

template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> broadcast(C value) noexcept {
    return pack<C>::map([&](index) { return value; });
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> load(const C* p) noexcept {
    return pack<C>::map([&](index i) { return p[i]; });
}
template <class C>
ROPEWALK_ALWAYS_INLINE void store(C* p, pack<C> x) noexcept {
    for (index i = 0; i < lanes<C>; ++i) p[i] = x.lane[i];
}
template <class M, class P>
ROPEWALK_ALWAYS_INLINE P choose(const M& condition, const P& a, const P& b) noexcept {
    return P::map([&](index i) { return condition.lane[i] ? a.lane[i] : b.lane[i]; });
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> absolute(pack<C> x) noexcept {
    return pack<C>::map([&](index i) { return std::abs(x.lane[i]); });
}

#endif

template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> square_root(pack<C> x) noexcept {
#if defined(ROPEWALK_DETAIL_XSIMD)
    return xsimd::sqrt(x);
#else
    C lane[lanes<C>];
    store(lane, x);
    for (C& v : lane) v = std::sqrt(v);
    return load(static_cast<const C*>(lane));
#endif
}

/// Keeps a loaded value in a register. Otherwise GCC repeats the load in every use, and a second read of a
/// line that is about to be written costs a third of the speed in L1 (half-split f32, 512-bit registers).
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> in_register(pack<C> x) noexcept {
#if defined(ROPEWALK_DETAIL_XSIMD) && defined(__GNUC__) && !defined(__wasm__)
    typename pack<C>::register_type r = x;
#if defined(ROPEWALK_DETAIL_X86_512)
    asm("" : "+v"(r));
#elif defined(ROPEWALK_DETAIL_X86_256) || defined(ROPEWALK_DETAIL_X86_128)
    asm("" : "+x"(r));
#elif defined(ROPEWALK_DETAIL_NEON)
    asm("" : "+w"(r));
#endif
    return pack<C>(r);
#else
    return x;
#endif
}

/// a * b + c, fused where the build has the instruction (xsimd 8.1 does not on AVX-512). Kernels always call
/// it: products contracted by the compiler would differ in the last bit from one call site to the next.
ROPEWALK_ALWAYS_INLINE pack<float> fma(pack<float> a, pack<float> b, pack<float> c) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<float>(_mm512_fmadd_ps(a, b, c));
#elif defined(ROPEWALK_DETAIL_XSIMD)
    return xsimd::fma(a, b, c);
#else
    return a * b + c;
#endif
}
ROPEWALK_ALWAYS_INLINE pack<double> fma(pack<double> a, pack<double> b, pack<double> c) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<double>(_mm512_fmadd_pd(a, b, c));
#elif defined(ROPEWALK_DETAIL_XSIMD)
    return xsimd::fma(a, b, c);
#else
    return a * b + c;
#endif
}

/// a * b - c, fused as fma is; same bits as fma(a, b, -c).
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> fms(pack<C> a, pack<C> b, pack<C> c) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (sizeof(C) == 4) {
        return pack<C>(_mm512_fmsub_ps(a, b, c));
    } else {
        return pack<C>(_mm512_fmsub_pd(a, b, c));
    }
#elif defined(ROPEWALK_DETAIL_XSIMD)
    return xsimd::fms(a, b, c);
#else
    return fma(a, b, -c);
#endif
}

/// Rounds to the nearest integer, ties to even. (xsimd 8.1 does not use NEON's instruction for it, and where
/// there is none it adds and subtracts 2^52, which -ffast-math removes.)
ROPEWALK_ALWAYS_INLINE pack<double> nearest(pack<double> x) noexcept {
#if defined(ROPEWALK_DETAIL_XSIMD) && defined(ROPEWALK_DETAIL_SSE4_1)
    return xsimd::nearbyint(x);
#elif defined(ROPEWALK_DETAIL_NEON)
    return pack<double>(vrndnq_f64(x));
#else
    double lane[lanes<double>];
    store(lane, x);
    for (double& v : lane) v = std::nearbyint(v);
    return load(static_cast<const double*>(lane));
#endif
}

ROPEWALK_ALWAYS_INLINE pack<float> nearest(pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_XSIMD) && defined(ROPEWALK_DETAIL_SSE4_1)
    return xsimd::nearbyint(x);
#elif defined(ROPEWALK_DETAIL_X86_128)
    return pack<float>(_mm_cvtepi32_ps(_mm_cvtps_epi32(x)));  // callers stay within 2^31
#elif defined(ROPEWALK_DETAIL_NEON)
    return pack<float>(vrndnq_f32(x));
#else
    float lane[lanes<float>];
    store(lane, x);
    for (float& v : lane) v = std::nearbyint(v);
    return load(static_cast<const float*>(lane));
#endif
}

template <class C>
struct two_packs {
    pack<C> first;
    pack<C> second;
};

/// (cos, sin) rotated by `quarter` right angles; `quarter` holds whole numbers of magnitude below 2^51.
ROPEWALK_ALWAYS_INLINE two_packs<double> turn_by_quarters(pack<double> quarter, pack<double> cos,
                                                          pack<double> sin) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    const __m512i k = _mm512_cvtpd_epi64(quarter);
    const __m512i top = _mm512_set1_epi64(static_cast<long long>(0x8000000000000000u));
    const __mmask8 odd = _mm512_test_epi64_mask(k, _mm512_set1_epi64(1));
    const __m512i c = _mm512_castpd_si512(_mm512_mask_blend_pd(odd, cos, sin));
    const __m512i s = _mm512_castpd_si512(_mm512_mask_blend_pd(odd, sin, cos));
    const __m512i next = _mm512_add_epi64(k, _mm512_set1_epi64(1));
    // Bit 1 of k flips the sign of the sine, bit 1 of k + 1 that of the cosine.
    return {pack<double>(
                _mm512_castsi512_pd(_mm512_xor_si512(c, _mm512_and_si512(_mm512_slli_epi64(next, 62), top)))),
            pack<double>(
                _mm512_castsi512_pd(_mm512_xor_si512(s, _mm512_and_si512(_mm512_slli_epi64(k, 62), top))))};
#else
    const pack<double> k = fma(nearest(quarter * broadcast(0.25)), broadcast(-4.0), quarter);  // -2 .. 2
    const pack<double> distance = absolute(k);
    const pack<double> even_sign = broadcast(1.0) - distance;
    const auto odd = distance == broadcast(1.0);
    return {choose(odd, sin * (-k), cos * even_sign), choose(odd, cos * k, sin * even_sign)};
#endif
}

/// Two registers of doubles as one register of floats (rounded to nearest even).
ROPEWALK_ALWAYS_INLINE pack<float> narrow(pack<double> low, pack<double> high) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<float>(
        _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1));
#elif defined(ROPEWALK_DETAIL_X86_256)
    return pack<float>(
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1));
#elif defined(ROPEWALK_DETAIL_X86_128)
    return pack<float>(_mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high)));
#elif defined(ROPEWALK_DETAIL_NEON)
    return pack<float>(vcvt_high_f32_f64(vcvt_f32_f64(low), high));
#else
    double lane[2 * lanes<double>];
    float out[2 * lanes<double>];
    store(lane, low);
    store(lane + lanes<double>, high);
    for (index i = 0; i < 2 * lanes<double>; ++i) out[i] = static_cast<float>(lane[i]);
    return load(static_cast<const float*>(out));
#endif
}

/// Stores lanes<double> doubles as floats (rounded to nearest even).
ROPEWALK_ALWAYS_INLINE void store_narrow(float* p, pack<double> x) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    _mm256_storeu_ps(p, _mm512_cvtpd_ps(x));
#elif defined(ROPEWALK_DETAIL_X86_256)
    _mm_storeu_ps(p, _mm256_cvtpd_ps(x));
#elif defined(ROPEWALK_DETAIL_X86_128)
    _mm_storel_pi(reinterpret_cast<__m64*>(p), _mm_cvtpd_ps(x));
#elif defined(ROPEWALK_DETAIL_NEON)
    vst1_f32(p, vcvt_f32_f64(x));
#else
    double lane[lanes<double>];
    store(lane, x);
    for (index i = 0; i < lanes<double>; ++i) p[i] = static_cast<float>(lane[i]);
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
