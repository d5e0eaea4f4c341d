// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/yarn.hpp>

#include <cmath>

#include <ropewalk/frequencies/linear.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("yarn: factor 1 gives the unscaled spectrum", "[frequencies][yarn][reduces]") {
    const auto plain = frequencies::geometric({.rotary_dim = 128});
    const auto s = frequencies::yarn({.rotary_dim = 128, .factor = 1, .original_context = 4096});
    CHECK(s.magnitude() == 1.0);
    for (ropewalk::index i = 0; i < 64; ++i) CHECK(s.omega(i) == Approx(plain.omega(i)).epsilon(2e-15));
}

TEST_CASE("yarn: between interpolated and plain, falling, whole at both ends", "[frequencies][yarn]") {
    const double factor = 16;
    const auto plain = frequencies::geometric({.rotary_dim = 128});
    const auto s = frequencies::yarn({.rotary_dim = 128, .factor = factor, .original_context = 4096});
    for (ropewalk::index i = 0; i < 64; ++i) {
        CHECK(s.omega(i) <= plain.omega(i) * (1 + 1e-15));
        CHECK(s.omega(i) >= plain.omega(i) / factor * (1 - 1e-15));
        if (i > 0) CHECK(s.omega(i) < s.omega(i - 1));
        // 20.944 and 45.027 rounded outwards: pairs up to 20 stay, from 46 on all is interpolated
        if (i <= 20) CHECK(s.omega(i) == Approx(plain.omega(i)).epsilon(2e-15));
        if (i >= 46) CHECK(s.omega(i) == Approx(plain.omega(i) / factor).epsilon(2e-15));
        if (i == 21) CHECK(s.omega(i) < plain.omega(i) * 0.999);
        if (i == 45) CHECK(s.omega(i) > plain.omega(i) / factor * 1.001);
    }
}

TEST_CASE("yarn: extrapolation_factor 0 is interpolation", "[frequencies][yarn][reduces]") {
    const auto s = frequencies::yarn(
        {.rotary_dim = 64, .factor = 8, .original_context = 4096, .extrapolation_factor = 0});
    const auto linear = frequencies::linear({.rotary_dim = 64, .factor = 8});
    for (ropewalk::index i = 0; i < 32; ++i) CHECK(s.omega(i) == Approx(linear.omega(i)).epsilon(1e-15));
    CHECK(s.magnitude() == Approx(1.2079441541679836).epsilon(1e-15));
}

TEST_CASE("yarn: the published magnitudes", "[frequencies][yarn]") {
    const double published[][2] = {{2, 1.0693147180559945},
                                   {4, 1.138629436111989},
                                   {8, 1.2079441541679836},
                                   {16, 1.2772588722239782},
                                   {32, 1.3465735902799727},
                                   {40, 1.3688879454113936},
                                   {64, 1.4158883083359672},
                                   {1, 1},
                                   {0.5, 1}};
    for (const auto& row : published)
        CHECK(frequencies::yarn({.rotary_dim = 64, .factor = row[0], .original_context = 4096}).magnitude() ==
              Approx(row[1]).epsilon(1e-15));
}

TEST_CASE("yarn: the published ends of the ramp", "[frequencies][yarn]") {
    struct row {
        ropewalk::index d;
        double base, context, fast, slow;
    };
    for (const row& r : {row{128, 1e4, 4096, 20.944, 45.027}, row{128, 1e6, 32768, 23.596, 39.651},
                         row{64, 1e4, 4096, 10.472, 22.513}, row{64, 150000, 4096, 8.0928, 17.3980}}) {
        const auto bounds = ropewalk::detail::correction_range(32, 1, r.d, r.base, r.context, false);
        CHECK(std::abs(bounds.low - r.fast) < 5.1e-4);
        CHECK(std::abs(bounds.high - r.slow) < 5.1e-4);
    }
}

TEST_CASE("yarn: which rule gives the magnitude", "[frequencies][yarn]") {
    frequencies::yarn_config c{.rotary_dim = 64, .factor = 40, .original_context = 4096};
    c.mscale = 1;
    CHECK(frequencies::yarn(c).magnitude() ==
          Approx(1.3688879454113936).epsilon(1e-15));  // alone it is not read
    c.mscale = 0.5;
    CHECK(frequencies::yarn(c).magnitude() == Approx(1.3688879454113936).epsilon(1e-15));
    c.mscale = 0, c.mscale_all_dim = 0.5;  // nor is the other one
    CHECK(frequencies::yarn(c).magnitude() == Approx(1.3688879454113936).epsilon(1e-15));
    c.mscale = 1;
    c.mscale_all_dim = 1;
    CHECK(frequencies::yarn(c).magnitude() == 1.0);
    c.mscale_all_dim = 0.5;
    CHECK(frequencies::yarn(c).magnitude() ==
          Approx((0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1)).epsilon(1e-15));
    c.attention_factor = 1.0;  // given, and 1 is a value
    CHECK(frequencies::yarn(c).magnitude() == 1.0);
    c.attn_factor = 1.1;  // multiplies whatever was decided
    CHECK(frequencies::yarn(c).magnitude() == Approx(1.1).epsilon(1e-15));
}

TEST_CASE("yarn: truncate rounds the ramp outwards", "[frequencies][yarn]") {
    frequencies::yarn_config c{.rotary_dim = 64, .base = 150000, .factor = 32, .original_context = 4096};
    const auto rounded = frequencies::yarn(c);
    c.truncate = false;
    const auto exact = frequencies::yarn(c);
    CHECK(rounded.omega(8) == exact.omega(8));
    CHECK(exact.omega(9) > rounded.omega(9));    // 8.09 begins later than 8
    CHECK(exact.omega(17) < rounded.omega(17));  // 17.40 ends earlier than 18
}

TEST_CASE("dynamic_yarn: plain or extended up to max_context, then by the length",
          "[frequencies][yarn][dynamic]") {
    using frequencies::yarn_training;
    const frequencies::yarn_config y{.rotary_dim = 128, .original_context = 2048};
    const auto yarn_at = [&y](double factor) {
        auto c = y;
        c.factor = factor;
        return frequencies::yarn(c);
    };
    const frequencies::dynamic_yarn_config plain{.yarn = y, .max_context = 4096};
    CHECK(frequencies::dynamic_yarn(plain, 4096).omegas() ==
          frequencies::geometric({.rotary_dim = 128}).omegas());
    CHECK(frequencies::dynamic_yarn(plain, 4096).magnitude() == 1.0);
    CHECK(frequencies::dynamic_yarn(plain, 8192).omegas() == yarn_at(4).omegas());
    CHECK(frequencies::dynamic_yarn(plain, 8192).magnitude() == yarn_at(4).magnitude());
    const frequencies::dynamic_yarn_config extended{
        .yarn = y, .max_context = 4096, .trained = yarn_training::extended};
    CHECK(frequencies::dynamic_yarn(extended, 1).omegas() == yarn_at(2).omegas());
    CHECK(frequencies::dynamic_yarn(extended, 4096).magnitude() == yarn_at(2).magnitude());
    CHECK(frequencies::dynamic_yarn(extended, 6144).omegas() == yarn_at(3).omegas());
}

TEST_CASE("yarn: literal bounds keep the official code's clamps, strict ones refuse",
          "[frequencies][yarn][errors]") {
    // No pair turns even once over half a token: the clamps leave high = -1 below low = 0, and the ramp
    // saturates the wrong way. The official code then keeps every pair plain.
    frequencies::yarn_config c{.rotary_dim = 8, .factor = 4, .original_context = 0.5};
    const auto plain = frequencies::geometric({.rotary_dim = 8});
    for (ropewalk::index i = 0; i < 4; ++i) CHECK(frequencies::yarn(c).omega(i) == plain.omega(i));
    c.bounds = frequencies::bounds_check::strict;
    CHECK_REFUSES("yarn: original_context must let the ramp run upwards: low must be <= high, got 0",
                  frequencies::yarn(c));
    frequencies::yarn_config swapped{
        .rotary_dim = 64, .original_context = 4096, .beta_fast = 1, .beta_slow = 32};
    swapped.bounds = frequencies::bounds_check::strict;
    CHECK_REFUSES("yarn: beta_fast must be >= beta_slow, got 1", frequencies::yarn(swapped));
    frequencies::yarn_config far{.rotary_dim = 64, .original_context = 1e7};
    far.bounds = frequencies::bounds_check::strict;
    CHECK_REFUSES("yarn: original_context must let the ramp end at a pair: high must be <= pairs - 1, got 50",
                  frequencies::yarn(far));
}

TEST_CASE("yarn: refuses impossible numbers", "[frequencies][yarn][errors]") {
    CHECK_REFUSES("yarn: rotary_dim must be even and > 0, got 3", frequencies::yarn({.rotary_dim = 3}));
    CHECK_REFUSES("yarn: base must not be 1, got 1", frequencies::yarn({.rotary_dim = 8, .base = 1}));
    CHECK_REFUSES("yarn: factor must be > 0, got -4", frequencies::yarn({.rotary_dim = 8, .factor = -4}));
    CHECK_REFUSES("yarn: original_context must be > 0, got 0",
                  frequencies::yarn({.rotary_dim = 8, .factor = 4}));
    CHECK_REFUSES("yarn: beta_slow must be > 0, got 0",
                  frequencies::yarn({.rotary_dim = 8, .original_context = 64, .beta_slow = 0}));
    const frequencies::yarn_config good{.rotary_dim = 8, .factor = 4, .original_context = 64};
    const auto refused = [&good](auto change) {
        auto c = good;
        change(c);
        const auto text = support::refusal([&] { static_cast<void>(frequencies::yarn(c)); });
        // Dynamic YaRN refuses the same at every length, also where it is plain.
        CHECK(support::refusal([&] {
                  static_cast<void>(frequencies::dynamic_yarn({.yarn = c, .max_context = 64}, 1));
              }) == (text.find("must give a magnitude") == std::string::npos ? text : ""));
        return text;
    };
    for (const double v : {0.0, -1.0, double(NAN), double(INFINITY)})
        CHECK(refused([v](auto& c) { c.attention_factor = v; }) ==
              "yarn: attention_factor must be finite and > 0, got " + ropewalk::detail::text(v));
    CHECK(refused([](auto& c) { c.mscale = NAN; }) == "yarn: mscale must be finite, got nan");
    CHECK(refused([](auto& c) { c.mscale_all_dim = NAN; }) == "yarn: mscale_all_dim must be finite, got nan");
    CHECK(refused([](auto& c) { c.attn_factor = 0; }) == "yarn: attn_factor must be finite and not 0, got 0");
    CHECK(refused([](auto& c) { c.extrapolation_factor = NAN; }) ==
          "yarn: extrapolation_factor must be finite, got nan");
    CHECK(refused([](auto& c) { c.mscale = -100, c.mscale_all_dim = 1; })
              .starts_with("yarn: mscale and mscale_all_dim must give a magnitude that is finite and > 0, "
                           "got -"));
    CHECK_REFUSES("dynamic_yarn: max_context must be > 0, got 0",
                  frequencies::dynamic_yarn({.yarn = {.rotary_dim = 8, .original_context = 64}}, 5));
    CHECK_REFUSES(
        "dynamic_yarn: context_length must be >= 1, got 0",
        frequencies::dynamic_yarn({.yarn = {.rotary_dim = 8, .original_context = 64}, .max_context = 64}, 0));
}
