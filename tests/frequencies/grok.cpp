// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/grok.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using frequencies::grok_config;
using frequencies::grok_method;
namespace rw = ropewalk;

TEST_CASE("grok: each method by its formula in long double", "[frequencies][grok]") {
    grok_config c{.rotary_dim = 128, .base = 208533496, .factor = 16, .original_context = 8192};
    const long double pi = std::acos(-1.0L), ln_base = std::log(208533496.0L);
    const auto end = [&](long double beta) { return 128 * std::log(8192 / (2 * pi * beta)) / (2 * ln_base); };
    const long double low = std::floor(end(32)), high = std::ceil(end(1));
    for (const auto method : {grok_method::yarn, grok_method::yarn_log}) {
        c.method = method;
        const auto s = frequencies::grok(c);
        CHECK(s.magnitude() == 1);
        for (rw::index i = 0; i < 64; ++i) {
            const long double ramp = std::min(1.0L, std::max(0.0L, (i - low) / (high - low)));
            const long double theta = std::exp(-2.0L * i / 128 * ln_base), keep = 1 - ramp;
            const long double want =
                method == grok_method::yarn
                    ? theta * keep + theta / 16 * (1 - keep)
                    : std::exp(keep * std::log(theta) + (1 - keep) * std::log(theta / 16));
            CHECK(s.omega(i) == Approx(double(want)).epsilon(4e-15));
        }
    }
    c.method = grok_method::yarn_log;
    CHECK(frequencies::grok(c).omega(20) == Approx(0.00039583199924849924).epsilon(1e-13));
    CHECK(frequencies::grok_unused_mscale(c) == Approx(1.2772588722239782).epsilon(1e-15));
}

TEST_CASE("grok: the geometric mean is below the arithmetic one", "[frequencies][grok]") {
    grok_config c{.rotary_dim = 64, .factor = 4, .original_context = 8192};
    const auto log = frequencies::grok(c);
    c.method = grok_method::yarn;
    const auto linear = frequencies::grok(c);
    rw::index between = 0;
    for (rw::index i = 0; i < 32; ++i) {
        CHECK(log.omega(i) <= linear.omega(i) * (1 + 1e-15));
        between += log.omega(i) < 0.999 * linear.omega(i);
    }
    CHECK(between > 3);
}

TEST_CASE("grok: theta_scale keeps the pair that turns once over the context", "[frequencies][grok]") {
    grok_config c{
        .rotary_dim = 64, .factor = 4, .original_context = 8192, .method = grok_method::theta_scale};
    CHECK(frequencies::grok_scaled_base(c) == Approx(59300.534558827094).epsilon(1e-13));
    const double tau = 2 * std::acos(-1.0);
    // base^(-x) 8192 = 2 pi fixes the pair number x; under the new base it turns once over 4 * 8192.
    const double x = std::log(8192 / tau) / std::log(1e4);
    CHECK(std::pow(frequencies::grok_scaled_base(c), -x) * 4 * 8192 == Approx(tau).epsilon(1e-12));
}

TEST_CASE("grok: factor 1 changes nothing", "[frequencies][grok][reduces]") {
    for (const auto method :
         {grok_method::original, grok_method::yarn, grok_method::yarn_log, grok_method::theta_scale}) {
        const auto s =
            frequencies::grok({.rotary_dim = 64, .factor = 1, .original_context = 8192, .method = method});
        for (rw::index i = 0; i < 32; ++i)
            CHECK(s.omega(i) == Approx(frequencies::geometric({.rotary_dim = 64}).omega(i)).epsilon(1e-14));
    }
}

TEST_CASE("grok: an empty ramp keeps or interpolates its pair", "[frequencies][grok]") {
    // Both ends are pair 0: so short a context that every pair turns less than beta_slow times.
    grok_config c{
        .rotary_dim = 8, .base = 1e4, .factor = 2, .original_context = 6, .method = grok_method::yarn};
    CHECK(frequencies::grok(c).omega(0) == 1);
    c.empty = frequencies::empty_ramp::lower_low;
    CHECK(frequencies::grok(c).omega(0) == 0.5);
    CHECK(frequencies::grok(c).omega(1) == Approx(0.05).epsilon(1e-15));
}

TEST_CASE("grok: refuses bad numbers", "[frequencies][grok][errors]") {
    const auto refused = [](auto change) {
        grok_config c{.rotary_dim = 8, .factor = 2, .original_context = 64};
        change(c);
        return support::refusal([&] { static_cast<void>(frequencies::grok(c)); });
    };
    CHECK(refused([](auto& c) { c.rotary_dim = 3; }) == "grok: rotary_dim must be even and > 0, got 3");
    CHECK(refused([](auto& c) { c.base = 1; }) == "grok: base must not be 1, got 1");
    CHECK(refused([](auto& c) { c.factor = 0; }) == "grok: factor must be finite and > 0, got 0");
    CHECK(refused([](auto& c) { c.original_context = 0; }) == "grok: original_context must be > 0, got 0");
    CHECK(refused([](auto& c) { c.beta_slow = NAN; }) == "grok: beta_slow must be > 0, got nan");
    CHECK(refused([](auto& c) { c.method = grok_method::theta_scale, c.original_context = 6; }) ==
          "grok: original_context must be > 2 pi, got 6");
    CHECK(refused([](auto& c) { c.method = grok_method::theta_scale, c.factor = 0.0625; }) ==
          "grok: original_context * factor must be > 2 pi, got 4");
}
