// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/mla.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("mla: published sizes", "[schemes][mla]") {
    const auto v3 = rw::mla::deepseek_v3();
    CHECK(rw::mla::cached_channels(v3) == 576);
    CHECK(v3.query_rank == 1536);
    CHECK(rw::mla::deepseek_v2_lite().query_rank == 0);
    CHECK(rw::mla::deepseek_v2_lite().heads == 16);
    const double m = 0.1 * std::log(40.0) + 1;
    CHECK(rw::mla::softmax_scale(v3) == Approx(m * m / std::sqrt(192.0)).epsilon(1e-15));
    const double lite = 0.1 * 0.707 * std::log(40.0) + 1;
    CHECK(rw::mla::logit_scale(rw::mla::deepseek_v2_lite()) == Approx(lite * lite).epsilon(1e-15));
}

TEST_CASE("mla: YaRN's ramp runs from pair 10 to pair 23 and leaves cos and sin unscaled", "[schemes][mla]") {
    const auto c = rw::mla::deepseek_v3();
    const auto scaled = rw::mla::make_spectrum(c);
    const auto plain = rw::frequencies::geometric({.rotary_dim = 64});
    CHECK(scaled.magnitude() == 1);
    for (rw::index i = 0; i < 32; ++i) {
        const double ratio = scaled.omega(i) / plain.omega(i);
        if (i <= 10) CHECK(ratio == Approx(1).epsilon(1e-14));
        if (i > 10 && i < 23) {
            CHECK(ratio > 1.0 / 40);
            CHECK(ratio < 1);
        }
        if (i >= 23) CHECK(ratio == Approx(1.0 / 40).epsilon(1e-14));
    }
}

TEST_CASE("mla: angles in f32 move what is turned at position 4095 by up to 3e-4, ours do not",
          "[schemes][mla]") {
    // The plain ladder: its fast pairs have turned by thousands of radians, of which f32 keeps 2^-13.
    auto c = rw::mla::deepseek_v3();
    c.max_context = c.original_context;
    const auto omega = rw::mla::make_spectrum(c);
    const auto where = rw::position_ids::text(1, 4095);
    const auto exact = rw::make_rotation_table<double>(omega, where);
    const auto own = rw::make_rotation_table<float>(omega, where);
    const auto f32 = rw::make_rotation_table<float>(omega, where, rw::angle_arithmetic::float32_product);
    const auto apart = [&](const rw::rotation_table<float>& table) {
        double worst = 0;
        for (std::size_t i = 0; i < 32; ++i) {
            worst = std::max(worst, std::abs(static_cast<double>(table.cos_row(0)[i]) - exact.cos_row(0)[i]));
            worst = std::max(worst, std::abs(static_cast<double>(table.sin_row(0)[i]) - exact.sin_row(0)[i]));
        }
        return worst;
    };
    CHECK(apart(f32) > 3e-5);
    CHECK(apart(f32) < 3e-4);
    CHECK(apart(own) < 6e-8);
}

TEST_CASE("mla: without an extension it is the plain ladder and the plain scale", "[schemes][mla][reduces]") {
    auto c = rw::mla::deepseek_v3();
    c.max_context = c.original_context;
    CHECK(rw::mla::make_spectrum(c).omegas() == rw::frequencies::geometric({.rotary_dim = 64}).omegas());
    CHECK(rw::mla::logit_scale(c) == 1);
    CHECK(rw::mla::make_scheme(c).logit_scale == 1);
}

TEST_CASE("mla: only the last channels of a head turn, the shared key turns whole", "[schemes][mla]") {
    rw::mla::config c{.heads = 3, .nope_dim = 6, .rope_dim = 4};
    const auto rope = rw::mla::make_scheme(c);
    std::vector<double> q(2 * 3 * 10), k(2 * 4);
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = 0.1 * static_cast<double>(i) - 2;
    for (std::size_t i = 0; i < k.size(); ++i) k[i] = 0.3 * static_cast<double>(i) - 1;
    auto q2 = q;
    auto k2 = k;
    const auto table = rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(2, 5));
    rw::rotate(rope, rw::heads_view(q2.data(), 2, 3, 10), rw::heads_view(k2.data(), 2, 1, 4), table);
    for (rw::index n = 0; n < 2; ++n)
        for (rw::index h = 0; h < 3; ++h)
            for (rw::index i = 0; i < 10; ++i) {
                const auto at = static_cast<std::size_t>((n * 3 + h) * 10 + i);
                if (i < 6) CHECK(q2[at] == q[at]);
                if (i >= 6) CHECK(q2[at] != q[at]);
            }
    const double angle = 5 * rope.spectrum_for(1).omega(0);
    CHECK(k2[0] == Approx(k[0] * std::cos(angle) - k[1] * std::sin(angle)).epsilon(1e-14));
    CHECK(k2[1] == Approx(k[0] * std::sin(angle) + k[1] * std::cos(angle)).epsilon(1e-14));
}

TEST_CASE("mla: writing half-split permutes and keeps every score", "[schemes][mla]") {
    const rw::mla::config c{.heads = 1, .nope_dim = 0, .rope_dim = 8};
    std::vector<double> q(8), k(8);
    for (std::size_t i = 0; i < 8; ++i) q[i] = 1 + 0.7 * i, k[i] = 2 - 0.4 * i;
    const auto scored = [&](const rw::rotary_scheme& rope) {
        auto q2 = q;
        auto k2 = k;
        const auto table =
            rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(1, 3));
        rw::rotate(rope, rw::heads_view(q2.data(), 1, 1, 8), rw::heads_view(k2.data(), 1, 1, 8), table);
        double sum = 0;
        for (std::size_t i = 0; i < 8; ++i) sum += q2[i] * k2[i];
        return std::pair(sum, q2);
    };
    const auto own = scored(rw::mla::make_scheme(c));
    const auto theirs = scored(rw::mla::make_half_split_scheme(c));
    CHECK(own.first == Approx(theirs.first).epsilon(1e-14));
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(theirs.second[i] == own.second[2 * i]);
        CHECK(theirs.second[i + 4] == own.second[2 * i + 1]);
    }
}

TEST_CASE("mla: what is refused, and how it says so", "[schemes][mla][errors]") {
    CHECK_THROWS_WITH(rw::mla::make_scheme({.rope_dim = 7}),
                      ContainsSubstring("rotary_dim") && ContainsSubstring("got 7"));
    CHECK_THROWS_WITH(rw::mla::make_scheme({.factor = 0.5}),
                      ContainsSubstring("factor must be >= 1, got 0.5"));
    CHECK_THROWS_WITH(rw::mla::make_scheme({.nope_dim = -1}),
                      ContainsSubstring("nope_dim") && ContainsSubstring("-1"));
    CHECK_THROWS_AS(rw::mla::make_scheme({.base = 0}), rw::invalid_config);
    // Numbers that no cast to a token count survives, and a factor on the logits that is none.
    for (double bad : {std::nan(""), HUGE_VAL, 1e300, -1.0}) {
        CHECK_THROWS_WITH(rw::mla::make_scheme({.max_context = bad}),
                          ContainsSubstring("mla: max_context must be 0 to 2^53"));
        CHECK_THROWS_WITH(rw::mla::make_scheme({.original_context = bad, .max_context = 0}),
                          ContainsSubstring("mla: original_context must be 0 to 2^53"));
        CHECK_THROWS_WITH(rw::mla::make_spectrum({.original_context = bad, .max_context = 0}),
                          ContainsSubstring("original_context"));
    }
    for (double bad : {std::nan(""), HUGE_VAL, 1e300})
        CHECK_THROWS_WITH(rw::mla::make_scheme({.mscale = bad}),
                          ContainsSubstring("mla: mscale must be finite"));
    for (double bad : {std::nan(""), HUGE_VAL, -1e-9})
        CHECK_THROWS_WITH(rw::mla::make_scheme({.rms_epsilon = bad}),
                          ContainsSubstring("mla: rms_epsilon must be"));
    for (rw::index bad : {rw::index{0}, support::huge(62)}) {
        CHECK_THROWS_WITH(rw::mla::make_scheme({.hidden = bad}), ContainsSubstring("mla: hidden"));
        CHECK_THROWS_WITH(rw::mla::make_scheme({.heads = bad}), ContainsSubstring("mla: heads"));
        CHECK_THROWS_WITH(rw::mla::make_scheme({.latent = bad}), ContainsSubstring("mla: latent"));
    }
    for (rw::index bad : {rw::index{-1}, support::huge(62)}) {
        CHECK_THROWS_WITH(rw::mla::make_scheme({.query_rank = bad}), ContainsSubstring("mla: query_rank"));
        CHECK_THROWS_WITH(rw::mla::make_scheme({.nope_dim = bad}), ContainsSubstring("mla: nope_dim"));
        CHECK_THROWS_WITH(rw::mla::make_scheme({.value_dim = bad}), ContainsSubstring("mla: value_dim"));
    }
    CHECK_THROWS_AS(rw::mla::make_scheme({.rope_dim = support::huge(62)}), rw::invalid_config);
}
