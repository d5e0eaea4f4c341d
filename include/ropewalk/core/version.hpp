// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The version, instruction set and modes of a build, which name the library's inline namespaces; what is always inlined.
#pragma once

/// The only definition of the version; CMake and the package files read it from here.
/// Source: Semantic Versioning 2.0.
#define ROPEWALK_VERSION_MAJOR 0
#define ROPEWALK_VERSION_MINOR 2
#define ROPEWALK_VERSION_PATCH 0

#define ROPEWALK_DETAIL_TEXT2(x) #x
#define ROPEWALK_DETAIL_TEXT(x) ROPEWALK_DETAIL_TEXT2(x)
/// The version as text.
#define ROPEWALK_VERSION_STRING                  \
    ROPEWALK_DETAIL_TEXT(ROPEWALK_VERSION_MAJOR) \
    "." ROPEWALK_DETAIL_TEXT(ROPEWALK_VERSION_MINOR) "." ROPEWALK_DETAIL_TEXT(ROPEWALK_VERSION_PATCH)

#define ROPEWALK_DETAIL_JOIN2(a, b, c, d) a##b##c##d
#define ROPEWALK_DETAIL_JOIN(a, b, c, d) ROPEWALK_DETAIL_JOIN2(a, b, c, d)
// The patch number is part of the name: two releases in one process then share no function, each computes
// with its own.
#define ROPEWALK_DETAIL_JOIN6(a, b, c, d, e, f) a##b##c##d##e##f
#define ROPEWALK_DETAIL_JOIN5(a, b, c, d, e, f) ROPEWALK_DETAIL_JOIN6(a, b, c, d, e, f)
#define ROPEWALK_DETAIL_VERSION_NAMESPACE \
    ROPEWALK_DETAIL_JOIN5(v, ROPEWALK_VERSION_MAJOR, _, ROPEWALK_VERSION_MINOR, _, ROPEWALK_VERSION_PATCH)

#if defined(min) || defined(max)
#error "ropewalk: min and max are macros; define NOMINMAX before <windows.h>"
#endif

// The compiler of Microsoft defines macros for AVX and AVX2 only; every CPU with AVX2 has the other three
// extensions.
#if defined(__FMA__) || (defined(_MSC_VER) && defined(__AVX2__))
#define ROPEWALK_DETAIL_FMA 1
#endif
#if defined(__F16C__) || (defined(_MSC_VER) && defined(__AVX2__))
#define ROPEWALK_DETAIL_F16C 1
#endif
#if defined(__SSE4_1__) || (defined(_MSC_VER) && defined(__AVX__))
#define ROPEWALK_DETAIL_SSE4_1 1
#endif

/// ROPEWALK_ISA names the instruction set a translation unit is compiled for. Every function with a loop and
/// every type that owns memory lives in a namespace of that name. Two units built for different instruction
/// sets then share none of its symbols, so an older CPU never runs the other unit's instructions. The names
/// distinguish what compilers use for this code: vector levels, and the half-precision and multiply-add
/// extensions that some CPUs lack.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if defined(__AVX512BF16__)
#define ROPEWALK_ISA avx512_bf16
#else
#define ROPEWALK_ISA avx512
#endif
#elif defined(__AVX512F__)
#error "ropewalk: AVX512F without BW, DQ and VL (Knights Landing) is not supported; add -mno-avx512f"
#elif defined(__AVX__)
#if defined(__AVX2__)
#define ROPEWALK_DETAIL_LEVEL avx2
#elif defined(__XOP__) || defined(__FMA4__)
#define ROPEWALK_DETAIL_LEVEL avx_xop
#else
#define ROPEWALK_DETAIL_LEVEL avx
#endif
#if defined(ROPEWALK_DETAIL_FMA) && defined(ROPEWALK_DETAIL_F16C)
#define ROPEWALK_ISA ROPEWALK_DETAIL_JOIN(ROPEWALK_DETAIL_LEVEL, _fma, _f16c, )
#elif defined(ROPEWALK_DETAIL_FMA)
#define ROPEWALK_ISA ROPEWALK_DETAIL_JOIN(ROPEWALK_DETAIL_LEVEL, _fma, , )
#elif defined(ROPEWALK_DETAIL_F16C)
#define ROPEWALK_ISA ROPEWALK_DETAIL_JOIN(ROPEWALK_DETAIL_LEVEL, _f16c, , )
#else
#define ROPEWALK_ISA ROPEWALK_DETAIL_LEVEL
#endif
#elif defined(__SSE4_2__)
#define ROPEWALK_ISA sse4_2
#elif defined(__SSE4_1__)
#define ROPEWALK_ISA sse4_1
#elif defined(__SSSE3__)
#define ROPEWALK_ISA ssse3
#elif defined(__SSE3__)
#define ROPEWALK_ISA sse3
#elif defined(__SSE2__) || defined(_M_X64)
#define ROPEWALK_ISA sse2
#elif defined(__ARM_FEATURE_SVE) && defined(__ARM_FEATURE_SVE_BITS) && __ARM_FEATURE_SVE_BITS == 512
#define ROPEWALK_ISA sve512
#elif defined(__ARM_FEATURE_SVE) && defined(__ARM_FEATURE_SVE_BITS) && __ARM_FEATURE_SVE_BITS == 256
#define ROPEWALK_ISA sve256
#elif defined(__ARM_FEATURE_SVE) && defined(__ARM_FEATURE_SVE_BITS) && __ARM_FEATURE_SVE_BITS == 128
#define ROPEWALK_ISA sve128
#elif defined(__ARM_FEATURE_SVE)
#define ROPEWALK_ISA sve
#elif defined(__aarch64__) || defined(_M_ARM64)
#define ROPEWALK_ISA neon
// The portable path: the compiler's output for it differs with these.
#elif defined(__ARM_NEON)
#define ROPEWALK_ISA portable_neon
#elif defined(__riscv_vector)
#define ROPEWALK_ISA portable_rvv
#elif defined(__VSX__)
#define ROPEWALK_ISA portable_vsx
#elif defined(__VX__)
#define ROPEWALK_ISA portable_vx
#elif defined(__loongarch_sx)
#define ROPEWALK_ISA portable_lsx
#elif defined(__wasm_simd128__)
#define ROPEWALK_ISA portable_simd128
#else
#define ROPEWALK_ISA portable
#endif

/// What happens when a hot call does not fit: `stop` (the default) prints what disagrees to stderr and ends
/// the program, `report` prints it, touches nothing and returns false, `ignore` only returns false. Define it
/// before the first include. Units with different modes may be linked into one program; each keeps its own.
#ifndef ROPEWALK_ON_MISFIT
#define ROPEWALK_ON_MISFIT stop
#endif
#define ROPEWALK_DETAIL_MISFIT_stop 1
#define ROPEWALK_DETAIL_MISFIT_report 2
#define ROPEWALK_DETAIL_MISFIT_ignore 3
#define ROPEWALK_DETAIL_MISFIT_note 4  // for units of the run-time dispatch: ignore, and keep the misfit
#define ROPEWALK_DETAIL_ON_MISFIT ROPEWALK_DETAIL_JOIN(ROPEWALK_DETAIL_MISFIT_, ROPEWALK_ON_MISFIT, , )
#if ROPEWALK_DETAIL_ON_MISFIT < 1 || ROPEWALK_DETAIL_ON_MISFIT > 4
#error "ropewalk: ROPEWALK_ON_MISFIT must be stop, report or ignore"
#endif

// Everything that changes the code of a function is part of its name: units with and without exceptions, with
// and without assertions, or with different misfit modes share no copy of it.
#if defined(__cpp_exceptions)
#define ROPEWALK_DETAIL_ON_ERROR _throws
#else
#define ROPEWALK_DETAIL_ON_ERROR _aborts
#endif
#if defined(NDEBUG)
#define ROPEWALK_DETAIL_ASSERTIONS
#else
#define ROPEWALK_DETAIL_ASSERTIONS _asserts
#endif
#if defined(ROPEWALK_NO_XSIMD) && defined(ROPEWALK_NO_VECTORS)
#define ROPEWALK_DETAIL_REGISTERS no_xsimd_no_vectors_
#elif defined(ROPEWALK_NO_XSIMD)
#define ROPEWALK_DETAIL_REGISTERS no_xsimd_
#elif defined(ROPEWALK_NO_VECTORS)
#define ROPEWALK_DETAIL_REGISTERS no_vectors_
#else
#define ROPEWALK_DETAIL_REGISTERS
#endif
#define ROPEWALK_DETAIL_MODE                                                         \
    ROPEWALK_DETAIL_JOIN5(ROPEWALK_DETAIL_REGISTERS, on_misfit_, ROPEWALK_ON_MISFIT, \
                          ROPEWALK_DETAIL_ON_ERROR, ROPEWALK_DETAIL_ASSERTIONS, )

/// The namespace of views and plain data, which are the same in every translation unit and may be passed
/// between units. Their functions are a few instructions that an optimised build inlines; a build that does
/// not inline them may share one copy between units. In a sealed unit of the run-time dispatch they belong to
/// that unit: only ropewalk.h crosses its boundary.
#if defined(ROPEWALK_DETAIL_SEALED_UNIT)
#define ROPEWALK_VIEW_NAMESPACE ropewalk::inline ROPEWALK_DETAIL_VERSION_NAMESPACE::inline ROPEWALK_ISA
#else
#define ROPEWALK_VIEW_NAMESPACE ropewalk::inline ROPEWALK_DETAIL_VERSION_NAMESPACE
#endif
/// The namespace of everything else.
#define ROPEWALK_NAMESPACE \
    ropewalk::inline ROPEWALK_DETAIL_VERSION_NAMESPACE::inline ROPEWALK_ISA::inline ROPEWALK_DETAIL_MODE

#if defined(__GNUC__) || defined(__clang__)
#define ROPEWALK_ALWAYS_INLINE [[gnu::always_inline]] inline
// For lambdas that hold the registers of a loop: not inlined, they go through memory (half-split f32, 40
// heads of 128, AVX-512: 224 ns instead of 212 ns).
#define ROPEWALK_DETAIL_INLINE_LAMBDA __attribute__((always_inline))
#else
#define ROPEWALK_ALWAYS_INLINE inline
#define ROPEWALK_DETAIL_INLINE_LAMBDA
#endif
