// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/ggml.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("ggml: the exact scheme is what the running product approximates", "[schemes][ggml]") {
    for (const float ext : {0.0f, 1.0f, 0.5f})
        for (const bool divided : {false, true}) {
            ggml::rope_ext p{.n_dims = 32,
                             .mode = ggml::rope_mode::neox,
                             .n_ctx_orig = 512,
                             .freq_scale = 0.25f,
                             .ext_factor = ext};
            if (divided)
                for (int i = 0; i < 16; ++i) p.freq_factors.push_back(1 + 0.5f * i);
            const std::vector<std::int32_t> positions{0, 1, 10, 30};
            const auto table = ggml::make_table<float>(p, positions);
            const auto s = ggml::make_scheme(p).spectrum_for(1);
            CHECK(table.magnitude() == Approx(s.magnitude()).epsilon(1e-6));
            for (ropewalk::index n = 0; n < 4; ++n)
                for (ropewalk::index i = 0; i < 16; ++i) {
                    const double angle = positions[n] * s.omega(i);
                    CHECK(std::abs(table.cos_row(n)[i] - s.magnitude() * std::cos(angle)) < 2e-5);
                    CHECK(std::abs(table.sin_row(n)[i] - s.magnitude() * std::sin(angle)) < 2e-5);
                }
        }
}

TEST_CASE("ggml: without YaRN the scale interpolates and the magnitude is attn_factor", "[schemes][ggml]") {
    const auto s = ggml::make_scheme({.n_dims = 8, .freq_scale = 0.5f, .attn_factor = 1.25f}).spectrum_for(1);
    CHECK(s.magnitude() == 1.25);
    CHECK(s.omega(0) == 0.5);
    const auto y = ggml::make_scheme({.n_dims = 8, .n_ctx_orig = 512, .freq_scale = 0.125f, .ext_factor = 1})
                       .spectrum_for(1);
    CHECK(y.magnitude() == Approx(1.2079441541679836).epsilon(1e-15));
}

TEST_CASE("ggml: modes are layouts, n_offs shifts the window", "[schemes][ggml]") {
    CHECK(ggml::layout_of(ggml::rope_mode::normal) == pair_layout(interleaved{}));
    CHECK(ggml::layout_of(ggml::rope_mode::neox) == pair_layout(half_split{}));
    const auto rope = ggml::make_scheme({.n_dims = 64, .n_offs = 128});
    CHECK(rope.first_channel == 128);
    CHECK(rope.head_dim == 192);
}

TEST_CASE("ggml: the running product drifts by 1.3e-2 rad at position 131071, the scheme does not",
          "[schemes][ggml]") {
    const ggml::rope_ext p{.n_dims = 128};
    const std::vector<std::int32_t> positions{131071};
    const auto s = ggml::make_scheme(p).spectrum_for(1);
    const auto drift = [&](const rotation_table<double>& table) {
        double most = 0;
        for (ropewalk::index i = 0; i < 64; ++i) {
            const double off =
                std::atan2(table.sin_row(0)[i], table.cos_row(0)[i]) - positions[0] * s.omega(i);
            most = std::max(most, std::abs(std::remainder(off, 2 * std::numbers::pi)));
        }
        return most;
    };
    CHECK(drift(ggml::make_table<double>(p, positions)) == Approx(1.3e-2).epsilon(0.04));
    CHECK(drift(make_rotation_table<double>(s, position_ids::from(positions))) < 1e-9);
}

TEST_CASE("ggml: the ramp's ends are those of the spec, and what they need is checked",
          "[schemes][ggml][errors]") {
    const auto b = ggml::make_correction_pairs({.n_dims = 128, .n_ctx_orig = 4096});
    CHECK(b.low == 20);  // 20.944 rounded down, 45.027 up
    CHECK(b.high == 46);
    const std::string who = "ggml::make_correction_pairs: ";
    CHECK_REFUSES(who + "n_dims must be even and > 0, got 7",
                  ggml::make_correction_pairs({.n_dims = 7, .n_ctx_orig = 4096}));
    CHECK_REFUSES(who + "n_ctx_orig must be > 0 with YaRN, got 0",
                  ggml::make_correction_pairs({.n_dims = 32}));
    for (const float base : {NAN, 1.0f, -2.0f, INFINITY})
        CHECK_REFUSES(
            who + "freq_base must be finite, > 0 and not 1 with YaRN, got " + ropewalk::detail::text(base),
            ggml::make_correction_pairs({.n_dims = 32, .n_ctx_orig = 4096, .freq_base = base}));
    for (const float beta : {NAN, 0.0f, -1.0f, INFINITY}) {
        const std::string got = ropewalk::detail::text(beta);
        CHECK_REFUSES(who + "beta_fast must be finite and > 0, got " + got,
                      ggml::make_correction_pairs({.n_dims = 32, .n_ctx_orig = 4096, .beta_fast = beta}));
        CHECK_REFUSES(who + "beta_slow must be finite and > 0, got " + got,
                      ggml::make_correction_pairs({.n_dims = 32, .n_ctx_orig = 4096, .beta_slow = beta}));
    }
}

TEST_CASE("ggml: refuses impossible parameters", "[schemes][ggml][errors]") {
    CHECK_REFUSES("ggml::rope_ext: n_dims must be even and > 0, got 7", ggml::make_scheme({.n_dims = 7}));
    CHECK_REFUSES("ggml::rope_ext: mode must be 0 (normal) or 2 (neox), got 8",
                  ggml::make_scheme({.n_dims = 8, .mode = static_cast<ggml::rope_mode>(8)}));
    CHECK_REFUSES("ggml::rope_ext: freq_scale must be > 0, got 0",
                  ggml::make_scheme({.n_dims = 8, .freq_scale = 0}));
    CHECK_REFUSES("ggml::rope_ext: n_ctx_orig must be > 0 with YaRN, got 0",
                  ggml::make_scheme({.n_dims = 8, .ext_factor = 1}));
    CHECK_REFUSES(
        "ggml::rope_ext: freq_scale must be below e^10 with YaRN (its magnitude is 1 - 0.1 ln "
        "freq_scale), got 30000",
        ggml::make_scheme({.n_dims = 8, .n_ctx_orig = 64, .freq_scale = 3e4f, .ext_factor = 1}));
    CHECK_REFUSES("ggml::rope_ext: freq_factors must hold one number > 0 a pair, got 1 numbers for 4 pairs",
                  ggml::make_scheme({.n_dims = 8, .freq_factors = {1.0f}}));
}
