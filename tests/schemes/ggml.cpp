// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/ggml.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>

#include <ropewalk/frequencies/yarn.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
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
    CHECK_REFUSES(who + "n_ctx_orig must be > 0 with YaRN (reading::literal takes 0), got 0",
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
    CHECK_REFUSES(
        "ggml::rope_ext: mode must be 0 (normal), 2 (neox), 8 (mrope), 24 (vision) or 40 (imrope), got 16",
        ggml::make_scheme({.n_dims = 8, .mode = static_cast<ggml::rope_mode>(16)}));
    CHECK_REFUSES("ggml::rope_ext: freq_scale must be > 0, got 0",
                  ggml::make_scheme({.n_dims = 8, .freq_scale = 0}));
    CHECK_REFUSES("ggml::rope_ext: n_ctx_orig must be > 0 with YaRN (reading::literal takes 0), got 0",
                  ggml::make_scheme({.n_dims = 8, .ext_factor = 1}));
    CHECK_REFUSES(
        "ggml::rope_ext: freq_scale must be below e^10 with YaRN (its magnitude is 1 - 0.1 ln "
        "freq_scale), got 30000",
        ggml::make_scheme({.n_dims = 8, .n_ctx_orig = 64, .freq_scale = 3e4f, .ext_factor = 1}));
    CHECK_REFUSES("ggml::rope_ext: freq_factors must hold one number > 0 a pair, got 1 numbers for 4 pairs",
                  ggml::make_scheme({.n_dims = 8, .freq_factors = {1.0f}}));
    const auto multi = [](std::array<ropewalk::index, 4> sections) {
        return ggml::make_scheme({.n_dims = 8, .mode = ggml::rope_mode::mrope, .sections = sections});
    };
    CHECK_REFUSES("ggml::rope_ext: sections must give one of the first three axes a pair, got 0",
                  multi({0, 0, 0, 4}));
    CHECK_REFUSES("ggml::rope_ext: sections must be >= 0, got -1", multi({2, -1, 0, 0}));
    CHECK_REFUSES("ggml::rope_ext: sections must be <= 65536, got 65537", multi({2, 65537, 0, 0}));
    CHECK_REFUSES(
        "ggml::rope_ext: n_ctx_orig must be >= 0, got -1",
        ggml::make_scheme({.n_dims = 8, .n_ctx_orig = -1, .ext_factor = 1, .read = ggml::reading::literal}));
    CHECK_REFUSES("ggml::rope_ext: n_dims must be <= 65536, got 65538",
                  ggml::make_spectrum({.n_dims = 65538}));
    const std::vector<std::int32_t> five(5);
    CHECK_REFUSES("ggml::make_table: positions must hold four numbers a token, got 5",
                  ggml::make_table({.n_dims = 8, .mode = ggml::rope_mode::imrope, .sections = {4}}, five));
    CHECK_REFUSES("ggml::make_positions: positions must hold four numbers a token, got 5",
                  ggml::make_positions(ggml::rope_mode::vision, five));
}

namespace {

/// The axes that the pairs read.
std::vector<int> axes_of(const ggml::rope_ext& p) {
    const auto s = ggml::make_spectrum(p);
    std::vector<int> axes;
    for (ropewalk::index i = 0; i < s.pairs(); ++i) axes.push_back(static_cast<int>(s.axis_of(0, i)));
    return axes;
}

/// One head of ggml_rope_multi in f64, by what the modes mean: y of x, forward or backward. The step of a
/// pair is counted down from the last section border in vision, from the first pair elsewhere.
std::vector<double> by_definition(const ggml::rope_ext& p, const std::vector<std::int32_t>& position,
                                  std::vector<double> x, bool forward) {
    const auto pairs = static_cast<std::size_t>(p.mode == ggml::rope_mode::vision ? p.n_dims : p.n_dims / 2);
    std::vector<std::size_t> owner, start;  // of each number modulo the sum of the sections
    for (std::size_t a = 0; a < 4; ++a) {
        const std::size_t first = owner.size();
        for (ropewalk::index n = 0; n < p.sections[a]; ++n) owner.push_back(a), start.push_back(first);
    }
    double low = 0, high = 0;
    if (p.ext_factor != 0) {
        const auto at = [&](double beta) {
            return static_cast<double>(p.n_dims) *
                   std::log(static_cast<double>(p.n_ctx_orig) / (beta * 2 * std::numbers::pi)) /
                   (2 * std::log(static_cast<double>(p.freq_base)));
        };
        low = std::max(0.0, std::floor(at(static_cast<double>(p.beta_fast))));
        high = std::min(static_cast<double>(p.n_dims - 1), std::ceil(at(static_cast<double>(p.beta_slow))));
    }
    for (std::size_t i = 0; i < pairs; ++i) {
        std::size_t axis = 0, step = i;
        if (p.mode != ggml::rope_mode::normal && p.mode != ggml::rope_mode::neox) {
            const std::size_t sector = i % owner.size();
            axis = owner[sector];
            if (p.mode == ggml::rope_mode::vision) step = sector - start[sector];
            if (p.mode == ggml::rope_mode::imrope) {
                axis = 3;
                for (std::size_t a = 0; a < 3; ++a)
                    if (sector % 3 == a && sector < 3 * static_cast<std::size_t>(p.sections[a])) axis = a;
            }
        }
        double theta =
            position[axis] * std::pow(static_cast<double>(p.freq_base),
                                      -2.0 * static_cast<double>(step) / static_cast<double>(p.n_dims));
        if (!p.freq_factors.empty()) theta /= static_cast<double>(p.freq_factors[i]);
        double angle = theta * static_cast<double>(p.freq_scale), m = static_cast<double>(p.attn_factor);
        if (p.ext_factor != 0) {
            const double along = (static_cast<double>(i) - low) / std::max(0.001, high - low);
            const double keep = (1 - std::min(1.0, std::max(0.0, along))) * static_cast<double>(p.ext_factor);
            angle = angle * (1 - keep) + theta * keep;
            m *= 1 - 0.1 * std::log(static_cast<double>(p.freq_scale));
        }
        const bool near = p.mode == ggml::rope_mode::normal;
        const std::size_t first = static_cast<std::size_t>(p.n_offs) + (near ? 2 * i : i);
        const std::size_t second = near ? first + 1 : first + pairs;
        const double c = m * std::cos(angle), s = m * std::sin(forward ? angle : -angle);
        const double a = x[first], b = x[second];
        x[first] = a * c - b * s;
        x[second] = a * s + b * c;
    }
    return x;
}

}  // namespace

TEST_CASE("ggml: all five modes turn a head forward and backward as they are defined", "[schemes][ggml]") {
    using enum ggml::rope_mode;
    std::vector<ggml::rope_ext> cases;
    for (const auto mode : {normal, neox, mrope, vision, imrope})
        for (const std::array<ropewalk::index, 4>& sections : {std::array<ropewalk::index, 4>{4, 4, 4, 4},
                                                               {8, 4, 4, 0},
                                                               {6, 5, 5, 0},
                                                               {2, 1, 1, 0},
                                                               {42, 42, 42, 0},
                                                               {3, 0, 2, 1},
                                                               {0, 5, 3, 0},
                                                               {1, 0, 0, 0}})
            for (const int scaled : {0, 1, 2, 3}) {
                if ((mode == normal || mode == neox) && sections[0] != 4) continue;
                // Behind an empty section vision's ladders go on: see the test of that.
                if (mode == vision && sections[0] * sections[1] == 0) continue;
                ggml::rope_ext p{.n_dims = 16, .mode = mode, .sections = sections};
                if (scaled & 1)
                    p.freq_scale = 0.25f, p.ext_factor = 1, p.n_ctx_orig = 512, p.attn_factor = 0.75f;
                if (scaled & 2) {
                    p.n_offs = 4;
                    for (ropewalk::index i = 0; i < p.pairs(); ++i)
                        p.freq_factors.push_back(1 + 0.25f * static_cast<float>(i));
                }
                cases.push_back(p);
            }
    for (const auto& p : cases) {
        CAPTURE(static_cast<int>(p.mode), p.sections[0], p.sections[1], p.ext_factor, p.n_offs);
        const auto rope = ggml::make_scheme(p);
        // Two tokens, axis by axis.
        const std::vector<std::int32_t> multi{3, 7, 11, 2, 5, 9, 1, 4}, plain{3, 7};
        const auto& positions = ggml::is_multi(p.mode) ? multi : plain;
        support::heads_buffer<double> x({1, 2, 1, rope.head_dim}), y({1, 2, 1, rope.head_dim}),
            exact({1, 2, 1, rope.head_dim});
        x.fill(1);
        y.fill(1);
        exact.fill(1);
        const auto before = x.numbers();
        const auto table = ggml::make_table<double>(p, positions);
        const auto from_spectrum =
            make_rotation_table<double>(ggml::make_spectrum(p), ggml::make_positions(p.mode, positions));
        rotate(rope, x.view(), table);
        rotate_gradient(rope, y.view(), table);
        rotate(rope, exact.view(), from_spectrum);
        const auto width = static_cast<std::size_t>(rope.head_dim);
        for (std::size_t n = 0; n < 2; ++n) {
            std::vector<std::int32_t> at{plain[n]};
            if (ggml::is_multi(p.mode)) at = {multi[n], multi[2 + n], multi[4 + n], multi[6 + n]};
            const std::vector<double> head(before.begin() + static_cast<std::ptrdiff_t>(n * width),
                                           before.begin() + static_cast<std::ptrdiff_t>((n + 1) * width));
            const auto forward = by_definition(p, at, head, true), back = by_definition(p, at, head, false);
            for (std::size_t c = 0; c < width; ++c) {
                REQUIRE(std::abs(x.numbers()[n * width + c] - forward[c]) < 1e-5);
                REQUIRE(std::abs(y.numbers()[n * width + c] - back[c]) < 1e-5);
                REQUIRE(std::abs(exact.numbers()[n * width + c] - forward[c]) < 1e-13);
            }
        }
    }
}

TEST_CASE("ggml: sections wrap, are cut off at the last pair, and leave pairs to the fourth axis",
          "[schemes][ggml]") {
    using enum ggml::rope_mode;
    const auto wrapped = axes_of({.n_dims = 32, .mode = mrope, .sections = {4, 2, 2, 0}});
    CHECK(wrapped == std::vector<int>{0, 0, 0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 2, 2});
    const auto wide = axes_of({.n_dims = 128, .mode = mrope, .sections = {42, 42, 42, 0}});
    for (std::size_t i = 0; i < 64; ++i) CHECK(wide[i] == (i < 42 ? 0 : 1));
    // Qwen3-VL's sections: pairs 61 and 62 are past 3 * 20, and read the fourth axis where the model's own
    // code has time.
    const auto woven = axes_of({.n_dims = 128, .mode = imrope, .sections = {24, 20, 20, 0}});
    for (std::size_t i = 0; i < 64; ++i)
        CHECK(woven[i] == (i == 61 || i == 62 ? 3 : static_cast<int>(i % 3)));
    CHECK(ggml::make_spectrum({.n_dims = 8, .mode = mrope, .sections = {4}}).axes() == 4);
    CHECK(ggml::make_spectrum({.n_dims = 8, .sections = {4}}).axes() == 1);
}

TEST_CASE("ggml: vision starts the ladder again in each section, and its ramp counts pairs of the head",
          "[schemes][ggml]") {
    const ggml::rope_ext p{.n_dims = 16, .mode = ggml::rope_mode::vision, .sections = {8, 8, 8, 8}};
    const auto rope = ggml::make_scheme(p);
    CHECK(rope.rotary_dim == 32);  // n_dims is half of the head
    CHECK(rope.read_layout == pair_layout(half_split{}));
    const auto s = rope.spectrum_for(1);
    for (ropewalk::index i = 0; i < 16; ++i) {
        CHECK(s.axis_of(0, i) == i / 8);
        CHECK(s.omega(i) == Approx(std::pow(1e4, -2.0 * static_cast<double>(i % 8) / 16)).epsilon(1e-14));
    }
    // Under YaRN pair 8 is the ninth pair of the ramp, though the first of its ladder.
    auto scaled = p;
    scaled.n_ctx_orig = 512;
    scaled.freq_scale = 0.25f;
    scaled.ext_factor = 1;
    const auto bounds = ggml::make_correction_pairs(scaled);
    REQUIRE(bounds.high < 8);
    const auto y = ggml::make_spectrum(scaled);
    CHECK(y.omega(0) == Approx(1));
    CHECK(y.omega(8) == Approx(0.25));
    // Where two sections begin at one pair only the first of them starts again.
    const auto behind =
        ggml::make_spectrum({.n_dims = 16, .mode = ggml::rope_mode::vision, .sections = {8, 0, 8, 0}});
    CHECK(behind.axis_of(0, 8) == 2);
    CHECK(behind.omega(8) == Approx(std::pow(1e4, -1.0)).epsilon(1e-14));
}

TEST_CASE("ggml: the literal reading follows n_ctx_orig 0", "[schemes][ggml]") {
    for (const auto mode : {ggml::rope_mode::normal, ggml::rope_mode::neox, ggml::rope_mode::mrope,
                            ggml::rope_mode::vision, ggml::rope_mode::imrope}) {
        ggml::rope_ext p{.n_dims = 16,
                         .mode = mode,
                         .freq_scale = 0.5f,
                         .ext_factor = 1,
                         .sections = {4, 4, 4, 4},
                         .read = ggml::reading::literal};
        const auto bounds = ggml::make_correction_pairs(p);
        CHECK(bounds.low == 0);
        CHECK(bounds.high == -INFINITY);
        const auto s = ggml::make_spectrum(p);
        auto plain = p;
        plain.ext_factor = 0;
        const auto interpolated = ggml::make_spectrum(plain);
        for (ropewalk::index i = 0; i < s.pairs(); ++i)
            CHECK(s.omega(i) == Approx(interpolated.omega(i) * (i == 0 ? 2 : 1)).epsilon(1e-14));
        CHECK(s.magnitude() == Approx(1 + 0.1 * std::log(2)).epsilon(1e-14));
        const std::vector<std::int32_t> at{5, 6, 7, 8};
        const auto table = ggml::make_table<float>(p, at);
        for (ropewalk::index i = 0; i < table.pairs(); ++i) CHECK(std::isfinite(table.cos_row(0)[i]));
        p.read = ggml::reading::checked;
        CHECK_THROWS(ggml::make_spectrum(p));
    }
}

TEST_CASE("ggml: make_spectrum is the scheme's spectrum", "[schemes][ggml]") {
    const ggml::rope_ext p{.n_dims = 64, .n_ctx_orig = 4096, .freq_scale = 0.125f, .ext_factor = 1};
    const auto s = ggml::make_spectrum(p), of_scheme = ggml::make_scheme(p).spectrum_for(1);
    CHECK(s.omegas() == of_scheme.omegas());
    CHECK(s.magnitude() == of_scheme.magnitude());
    // The same ramp as YaRN with its ends rounded to pairs.
    const auto yarn = frequencies::yarn({.rotary_dim = 64, .factor = 8, .original_context = 4096});
    for (ropewalk::index i = 0; i < 32; ++i) CHECK(s.omega(i) == Approx(yarn.omega(i)).epsilon(1e-6));
}
