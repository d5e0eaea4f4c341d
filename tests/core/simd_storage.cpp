// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_storage.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace simd = rw::simd;

namespace {

/// What a register store must give: the scalar conversion, but the instruction of AVX512_BF16 flushes.
template <class T>
std::uint16_t rounded(float x) {
#if defined(ROPEWALK_DETAIL_X86_512) && defined(__AVX512BF16__)
    if (std::is_same_v<T, rw::bf16> && std::abs(x) < 0x1p-126f) x = std::copysign(0.0f, x);
#endif
    return T(x).bits;
}

std::uint32_t bits_of(float x) {
    auto u = std::bit_cast<std::uint32_t>(x);
#if defined(__i386__)  // functions return floats in a register of the x87, which quiets NaN
    if ((u & 0x7fffffffu) > 0x7f800000u) u |= 0x00400000u;
#endif
    return u;
}

}  // namespace

TEMPLATE_TEST_CASE("simd_storage: 16-bit registers convert as the scalar types do, every value",
                   "[core][simd]", rw::f16, rw::bf16) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<float>);
    long wrong = 0;
    for (std::uint32_t u = 0; u < 65536; u += n) {
        TestType in[n], back[n];
        float wide[n];
        for (std::size_t i = 0; i < n; ++i) in[i] = TestType::from_bits(static_cast<std::uint16_t>(u + i));
        simd::store(wide, simd::load(static_cast<const TestType*>(in)));
        simd::store(back, simd::load(static_cast<const float*>(wide)));
        for (std::size_t i = 0; i < n; ++i) {
            wrong += bits_of(wide[i]) != bits_of(static_cast<float>(in[i]));
            wrong += back[i].bits != rounded<TestType>(wide[i]);
        }
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("simd_storage: f32 to 16 bits rounds as the scalar types do", "[core][simd]", rw::f16,
                   rw::bf16) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<float>);
    long wrong = 0;
    std::uint64_t u = 0;  // a stride prime to 2^16, so that ties and all exponents come up
    while (u < (std::uint64_t{1} << 32)) {
        float in[n];
        TestType out[n];
        for (std::size_t i = 0; i < n; ++i, u += 641)
            in[i] = std::bit_cast<float>(static_cast<std::uint32_t>(u));
        simd::store(out, simd::load(static_cast<const float*>(in)));
        for (std::size_t i = 0; i < n; ++i) wrong += out[i].bits != rounded<TestType>(in[i]);
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("simd_storage: two registers at once round like two", "[core][simd]", float, rw::f16,
                   rw::bf16) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<float>);
    long wrong = 0;
    for (std::uint64_t u = 0; u < (std::uint64_t{1} << 32);) {
        float in[2 * n];
        TestType together[2 * n], apart[2 * n];
        for (std::size_t i = 0; i < 2 * n; ++i, u += 4099) {
            in[i] = std::bit_cast<float>(static_cast<std::uint32_t>(u));
            if (std::isnan(in[i])) in[i] = std::numeric_limits<float>::quiet_NaN();
        }
        const auto low = simd::load(static_cast<const float*>(in)),
                   high = simd::load(static_cast<const float*>(in + n));
        simd::store_two(together, low, high);
        simd::store(apart, low);
        simd::store(apart + n, high);
        wrong += std::memcmp(together, apart, sizeof apart) != 0;
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("simd_storage: partial loads and stores touch only what they say", "[core][simd]", double,
                   float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    constexpr auto n = static_cast<std::size_t>(simd::lanes<C>);
    for (std::size_t count = 0; count < n; ++count) {
        std::vector<TestType> in;                     // sized exactly: a sanitizer sees a read past the end
        in.reserve(std::max<std::size_t>(count, 1));  // and memcpy takes no null, not even for nothing
        for (std::size_t i = 0; i < count; ++i) in.push_back(TestType(C(i + 1)));
        std::vector<TestType> out(n, TestType(C(99)));
        const auto p = simd::load_some(static_cast<const TestType*>(in.data()), rw::index(count));
        C lanes[n];
        simd::store(lanes, p);
        simd::store_some(out.data(), p, rw::index(count));
        for (std::size_t i = 0; i < n; ++i) {
            CHECK(lanes[i] == (i < count ? C(i + 1) : C(0)));
            CHECK(static_cast<C>(out[i]) == (i < count ? C(i + 1) : C(99)));
        }
    }
}

TEST_CASE("simd_storage: as many registers are stored as there are, odd numbers of 16-bit ones too",
          "[core][simd_storage]") {
    constexpr rw::index n = rw::simd::lanes<float>;
    using stored = rw::stored_t<rw::bf16>;
    const auto check = [&]<std::size_t K, bool Twos>() {
        // What lies behind the registers in memory must not be taken for one of them.
        struct {
            rw::simd::pack<float> x[K];
            rw::simd::pack<float> behind[1];
        } of;
        for (std::size_t k = 0; k < K; ++k) of.x[k] = rw::simd::broadcast(static_cast<float>(k + 1));
        of.behind[0] = rw::simd::broadcast(-1.0f);
        std::vector<rw::bf16> to(static_cast<std::size_t>(n) * (K + 1), rw::bf16(9.0f));
        rw::simd::store<Twos>(reinterpret_cast<stored*>(to.data()), of.x);
        for (std::size_t i = 0; i < to.size(); ++i) {
            const std::size_t k = i / static_cast<std::size_t>(n);
            CHECK(static_cast<float>(to[i]) == (k < K ? static_cast<float>(k + 1) : 9.0f));
        }
    };
    check.operator()<1, true>();
    check.operator()<2, true>();
    check.operator()<3, true>();
    check.operator()<4, true>();
    check.operator()<1, false>();
    check.operator()<2, false>();
}
