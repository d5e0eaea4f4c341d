// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/longrope2.hpp>

#include <cmath>
#include <initializer_list>
#include <utility>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

const frequencies::longrope2_config llama3{
    .rotary_dim = 128, .base = 5e5, .original_context = 8192, .target_context = 131072};

}  // namespace

TEST_CASE("longrope2: the critical dimension", "[frequencies][longrope2]") {
    CHECK(frequencies::critical_pair_number(llama3) == Approx(34.98411900147241).epsilon(1e-14));
    CHECK(frequencies::longrope2_critical_channels(llama3) == 70);
    CHECK(frequencies::longrope2_critical_pair(llama3) == 34);
    const frequencies::longrope2_config phi3{.rotary_dim = 96, .base = 1e4, .original_context = 2048};
    CHECK(frequencies::critical_pair_number(phi3) == Approx(30.157801007348134).epsilon(1e-14));
    CHECK(frequencies::longrope2_critical_channels(phi3) == 62);
    // The pair just before it completes a period within the trained context, that pair does not.
    const auto s = frequencies::geometric({.rotary_dim = 128, .base = 5e5});
    CHECK(s.omega(34) * 8192 > 2 * std::acos(-1.0));
    CHECK(s.omega(35) * 8192 < 2 * std::acos(-1.0));
}

TEST_CASE("longrope2: bounds and the first guess", "[frequencies][longrope2]") {
    auto c = llama3;
    c.critical_pair = 30;
    const auto bounds = frequencies::longrope2_bounds(c);
    const auto start = frequencies::longrope2_start(c);
    REQUIRE(start.size() == 64);
    for (rw::index i = 0; i < 64; ++i) {
        CHECK(bounds.low[i] == (i < 30 ? 1 : 16));
        CHECK(bounds.high[i] == (i < 30 ? 21 : 64));
        const long double want = i < 30 ? std::pow(64.0L, i / 30.0L) : 64 + 0.1L * (i - 30);
        CHECK(start[i] == Approx(double(want)).epsilon(1e-15));
        if (i > 0) CHECK(start[i] > start[i - 1]);
    }
}

TEST_CASE("longrope2: refuses bad numbers", "[frequencies][longrope2][errors]") {
    const auto refused = [](auto change) {
        auto c = llama3;
        change(c);
        return support::refusal([&] { static_cast<void>(frequencies::longrope2_start(c)); });
    };
    CHECK(refused([](auto& c) { c.rotary_dim = 3; }) == "longrope2: rotary_dim must be even and > 0, got 3");
    CHECK(refused([](auto& c) { c.base = 1; }) == "longrope2: base must not be 1, got 1");
    CHECK(refused([](auto& c) { c.rotary_dim = (rw::index{1} << 20) + 2; }) ==
          "longrope2: rotary_dim must be at most 2^20, got 1048578");
    // ceil of these is no index.
    for (const auto& [base, context] : {std::pair{std::nextafter(1.0, 2.0), 8192.0},
                                        {std::nextafter(1.0, 0.0), 8192.0},
                                        {1 + 1e-12, 1e300},
                                        {1 - 1e-12, 1e-300}}) {
        const frequencies::longrope2_config c{
            .rotary_dim = 128, .base = base, .original_context = context, .target_context = context};
        for (const auto& call : std::initializer_list<void (*)(const frequencies::longrope2_config&)>{
                 [](const auto& x) { static_cast<void>(frequencies::longrope2_critical_channels(x)); },
                 [](const auto& x) { static_cast<void>(frequencies::longrope2_critical_pair(x)); },
                 [](const auto& x) { static_cast<void>(frequencies::longrope2_bounds(x)); },
                 [](const auto& x) { static_cast<void>(frequencies::longrope2_start(x)); }})
            CHECK(support::refusal([&] {
                      call(c);
                  }).find("longrope2: base and original_context must put the critical pair within 2^28") ==
                  0);
    }
    CHECK(refused([](auto& c) { c.critical_pair = 65; }) ==
          "longrope2: critical_pair must be in 0 .. pairs, got 65");
    CHECK(refused([](auto& c) { c.target_context = 4096; }) ==
          "longrope2: target_context must be >= original_context, got 4096");
    CHECK(refused([](auto& c) { c.largest_factor = 15; }) ==
          "longrope2: largest_factor must be >= target_context / original_context, got 15");
}
