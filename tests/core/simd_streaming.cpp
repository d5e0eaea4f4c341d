// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_streaming.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEMPLATE_TEST_CASE("simd_streaming: registers arrive at aligned and other addresses, and nowhere else",
                   "[core][simd]", float, double, rw::f16) {
    using C = rw::compute_t<TestType>;
    constexpr rw::index n = rw::simd::lanes<C>;
    alignas(64) TestType to[6 * n + 8];
    C from[3 * n];
    for (rw::index i = 0; i < 3 * n; ++i) from[i] = static_cast<C>(i + 1);
    for (const rw::index offset : {rw::index(0), rw::index(1), n / 2, n, n + 1, 2 * n - 1}) {
        for (TestType& x : to) x = TestType(C(-1));
        const rw::simd::pack<C> registers[3] = {rw::simd::load(from), rw::simd::load(from + n),
                                                rw::simd::load(from + 2 * n)};
        rw::simd::store_past_caches(to + offset, registers);
        rw::simd::store_fence();
        for (rw::index i = 0; i < 6 * n + 8; ++i) {
            CAPTURE(offset, i);
            CHECK(static_cast<C>(to[i]) == (i >= offset && i < offset + 3 * n ? from[i - offset] : C(-1)));
        }
    }
}
