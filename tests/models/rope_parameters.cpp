// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/rope_parameters.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("rope_parameters: vLLM's ntk scales the base and the frequencies", "[models][ntk]") {
    const rope_parameters p{.scaling = rope_scaling::fixed_ntk, .base = 1e4, .factor = 4};
    const auto s = make_spectrum(p, 64, 1);
    for (ropewalk::index i = 0; i < 32; ++i)
        CHECK(s.omega(i) ==
              Approx(std::pow(4e4, -static_cast<double>(i) / 32) / std::pow(4.0, 2.0 / 64)).epsilon(1e-13));
    // gte's mixed form: pair i, from 1, over factor^((i / pairs)^b); the last one over the factor itself.
    auto mixed = p;
    mixed.mixed_b = 0.5;
    const auto m = make_spectrum(mixed, 64, 1);
    for (ropewalk::index i : {0, 7, 31})
        CHECK(m.omega(i) == Approx(std::pow(1e4, -static_cast<double>(i) / 32) /
                                   std::pow(4.0, std::sqrt((static_cast<double>(i) + 1) / 32)))
                                .epsilon(1e-13));
    CHECK_THROWS_AS(make_spectrum({.scaling = rope_scaling::fixed_ntk, .factor = 0}, 64, 1), invalid_config);
    CHECK_THROWS_AS(make_spectrum({.scaling = rope_scaling::fixed_ntk}, 64, 1), invalid_config);
}

TEST_CASE("rope_parameters: Qwen-1's alpha grows in powers of two less one", "[models][ntk]") {
    const rope_parameters p{.scaling = rope_scaling::stepped_ntk, .base = 1e4, .max_context = 2048};
    const auto slowest = [&](std::int64_t length) { return make_spectrum(p, 128, length).omega(63); };
    const double plain = std::pow(1e4, -126.0 / 128);
    for (const auto& [length, alpha] : {std::pair<std::int64_t, double>{1, 1},
                                        {2048, 1},
                                        {2049, 3},
                                        {4096, 3},
                                        {4097, 7},
                                        {8192, 7},
                                        {8193, 15}})
        CHECK(slowest(length) == Approx(plain / alpha).epsilon(1e-12));
    CHECK_THROWS_AS(make_spectrum({.scaling = rope_scaling::stepped_ntk}, 128, 1), invalid_config);
}

TEST_CASE("rope_parameters: longrope's magnitudes where the config gives them", "[models][longrope]") {
    rope_parameters p{.scaling = rope_scaling::longrope,
                      .original_context = 4096,
                      .max_context = 131072,
                      .short_factors = std::vector<double>(32, 1.0),
                      .long_factors = std::vector<double>(32, 2.0)};
    const double own = make_spectrum(p, 64, 1).magnitude();
    p.short_mscale = 1.25;
    p.long_mscale = 1.5;
    CHECK(make_spectrum(p, 64, 4096).magnitude() == 1.25);
    CHECK(make_spectrum(p, 64, 4097).magnitude() == 1.5);
    p.short_mscale = {};
    CHECK(make_spectrum(p, 64, 4096).magnitude() == own);
}

TEST_CASE("rope_parameters: exponents over an odd share of the channels", "[models]") {
    // 11 pairs, exponents over 21: plain where a scaling leaves the frequencies as they are.
    const auto pair = [](double base, ropewalk::index i) {
        return std::pow(base, -2.0 * static_cast<double>(i) / 21);
    };
    const rope_parameters plain{.exponent_channels = 21};
    auto linear = plain, dynamic = plain, llama3 = plain, longrope = plain, yarn = plain;
    linear.scaling = rope_scaling::linear, linear.factor = 4;
    dynamic.scaling = rope_scaling::dynamic_ntk, dynamic.factor = 2, dynamic.max_context = 1000;
    llama3.scaling = rope_scaling::llama3, llama3.factor = 8, llama3.original_context = 8192;
    longrope.scaling = rope_scaling::longrope, longrope.original_context = 4096;
    longrope.max_context = 4096;
    longrope.short_factors.assign(11, 2.0), longrope.long_factors.assign(11, 3.0);
    yarn.scaling = rope_scaling::yarn, yarn.factor = 2, yarn.original_context = 4096;
    const double base = 1e4 * std::pow(3.0, 21.0 / 19);  // alpha = 2 * 2000 / 1000 - 1
    for (ropewalk::index i = 0; i < 11; ++i) {
        INFO(i);
        CHECK(make_spectrum(plain, 22, 1).omega(i) == Approx(pair(1e4, i)).epsilon(1e-13));
        CHECK(make_spectrum(linear, 22, 1).omega(i) == Approx(pair(1e4, i) / 4).epsilon(1e-13));
        CHECK(make_spectrum(dynamic, 22, 2000).omega(i) == Approx(pair(base, i)).epsilon(1e-13));
        CHECK(make_spectrum(longrope, 22, 1).omega(i) == Approx(pair(1e4, i) / 2).epsilon(1e-13));
    }
    // Llama 3: wavelengths below 8192 / 4 stay, those above 8192 are 8 times as long.
    const auto bent = make_spectrum(llama3, 22, 1);
    CHECK(bent.omega(3) == Approx(pair(1e4, 3)).epsilon(1e-13));
    CHECK(bent.omega(10) == Approx(pair(1e4, 10) / 8).epsilon(1e-13));
    CHECK_REFUSES("make_spectrum: rotary_dim must be even under this scaling, got yarn",
                  make_spectrum(yarn, 22, 1));
    for (const ropewalk::index n : {1, 2}) {
        dynamic.exponent_channels = n;
        CHECK_REFUSES("make_spectrum: exponent_channels must be > 2, got " + std::to_string(n),
                      make_spectrum(dynamic, 4, 2000));
    }
    dynamic.exponent_channels = 3;
    CHECK(make_spectrum(dynamic, 4, 2000).omega(1) ==
          Approx(std::pow(1e4 * 27, -2.0 / 3)).epsilon(1e-13));  // 3^(3 / (3 - 2)) = 27
}

TEST_CASE("rope_parameters: pairs that rotate the other way have negative frequencies", "[models]") {
    const auto forward = make_spectrum({}, 64, 1), back = make_spectrum({.backward = true}, 64, 1);
    for (ropewalk::index i = 0; i < 32; ++i) CHECK(back.omega(i) == -forward.omega(i));
}

TEST_CASE("rope_parameters: how sections are dealt to the pairs", "[models][mrope]") {
    const auto map = [](rope_parameters p, ropewalk::index rotary_dim) {
        const auto s = make_spectrum(p, rotary_dim, 1);
        std::vector<int> axes;
        for (ropewalk::index i = 0; i < s.pairs(); ++i) axes.push_back(static_cast<int>(s.axis_of(0, i)));
        return axes;
    };
    using v = std::vector<int>;
    CHECK(map({.sections = {1, 2, 1}}, 8) == v{0, 1, 1, 2});
    CHECK(map({.sections = {2, 1, 1}, .order = section_order::interleaved}, 8) == v{0, 1, 2, 0});
    CHECK(map({.sections = {2, 2, 1}, .order = section_order::rows_and_columns}, 10) == v{1, 2, 1, 2, 0});
    // Runs of 2, 2, 2, 2 channels over 8; the second channels 4 .. 7 read axes 2, 2, 3, 3.
    CHECK(map({.sections = {1, 1, 1, 1}, .order = section_order::doubled_channels}, 8) == v{2, 2, 3, 3});
    // More sections than axes begin again.
    CHECK(map({.sections = {1, 1, 1, 1}, .section_axes = 3}, 8) == v{0, 1, 2, 0});
    CHECK_REFUSES("make_spectrum: sections of rows and columns must be alike: wanted 2, got 1",
                  make_spectrum({.sections = {2, 1, 1}, .order = section_order::rows_and_columns}, 8, 1));
}

TEST_CASE("rope_parameters: equal parameters are equal, and every field counts", "[models]") {
    const rope_parameters p{};
    CHECK(p == rope_parameters{});
    CHECK_FALSE(p == rope_parameters{.base = 2e4});
    CHECK_FALSE(p == rope_parameters{.sections = {1}});
    CHECK_FALSE(p == rope_parameters{.backward = true});
    CHECK_FALSE(p == rope_parameters{.notes = {"x"}});
}
