// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include <random>
#include <vector>

#if defined(ROPEWALK_TEST_MPFR)
#include <mpfr.h>
#endif

#include "support/budgets.hpp"
#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

struct exact_cos_sin {
    double angle, cos, sin;
};

/// cos and sin of 2 pi position turns, from MPFR where there is one, else from long double.
exact_cos_sin exact(double position, double turns) {
#if defined(ROPEWALK_TEST_MPFR)
    mpfr_t angle, c, s;
    mpfr_inits2(200, angle, c, s, static_cast<mpfr_ptr>(nullptr));
    mpfr_const_pi(angle, MPFR_RNDN);
    mpfr_mul_ui(angle, angle, 2, MPFR_RNDN);
    mpfr_mul_d(angle, angle, position, MPFR_RNDN);
    mpfr_mul_d(angle, angle, turns, MPFR_RNDN);
    mpfr_sin_cos(s, c, angle, MPFR_RNDN);
    const exact_cos_sin out{mpfr_get_d(angle, MPFR_RNDN), mpfr_get_d(c, MPFR_RNDN), mpfr_get_d(s, MPFR_RNDN)};
    mpfr_clears(angle, c, s, static_cast<mpfr_ptr>(nullptr));
    return out;
#else
    const long double t = static_cast<long double>(position) * turns;
    const long double reduced = 2 * 3.141592653589793238462643383279502884L * (t - std::nearbyint(t));
    return {static_cast<double>(2 * 3.141592653589793238462643383279502884L * t),
            static_cast<double>(std::cos(reduced)), static_cast<double>(std::sin(reduced))};
#endif
}

}  // namespace

TEST_CASE("fill_cos_sin: both tables keep their bound up to position 1e7", "[angles][sincos]") {
    std::mt19937_64 engine(1);
    std::uniform_real_distribution<double> anywhere(-1e7, 1e7);
    std::vector<double> positions{0, 1, -1, 0.5, 255, 4095, 131071, 1048576, 9999999, 1e7, -1e7, 1e7 + 0.125};
    for (int k = 0; k < 60; ++k) positions.push_back(k % 2 ? anywhere(engine) : std::floor(anywhere(engine)));
    for (double base : {1e4, 5e5, 1e6}) {
        // 67 pairs: full registers and a tail.
        const auto rope = rw::frequencies::geometric({.rotary_dim = 134, .base = base});
        const double* turns = rope.turns_data().data();
        std::vector<float> c(67), s(67);
        std::vector<double> cd(67), sd(67);
        double worst = 0;
        for (double p : positions)
            for (double m : {1.0, 1.3465735902799727}) {
                rw::fill_cos_sin(p, turns, m, 67, c.data(), s.data());
                rw::fill_cos_sin(p, turns, m, 67, cd.data(), sd.data());
                for (std::size_t i = 0; i < 67; ++i) {
                    const auto want = exact(p, turns[i]);
                    const auto over = [&](double got, double entry) {
                        return std::abs(got - m * entry) / budgets::table_f32(m * entry, want.angle, m);
                    };
                    worst = std::max({worst, over(c[i], want.cos), over(s[i], want.sin)});
                    const double wide = budgets::table_f64(want.angle, m);
                    if (!(std::abs(cd[i] - m * want.cos) <= wide) ||
                        !(std::abs(sd[i] - m * want.sin) <= wide)) {
                        CAPTURE(p, i, m, cd[i], want.cos, sd[i], want.sin);
                        FAIL_CHECK("f64 row outside its bound");
                    }
                }
            }
        CHECK(worst <= 1);
        CHECK(worst > 0.5);
    }
}

TEST_CASE("fill_cos_sin: quarter turns are exact", "[angles][sincos]") {
    // turns = 1/4: positions 0 .. 7 walk around the circle.
    const double turns[] = {0.25};
    const double cos[] = {1, 0, -1, 0}, sin[] = {0, 1, 0, -1};
    for (int p = -8; p < 8; ++p) {
        float c, s;
        double cd, sd;
        rw::fill_cos_sin(p, turns, 1, 1, &c, &s);
        rw::fill_cos_sin(p, turns, 1, 1, &cd, &sd);
        const auto at = static_cast<std::size_t>((p + 8) % 4);
        CHECK(double(c) == cos[at]);
        CHECK(double(s) == sin[at]);
        CHECK(cd == cos[at]);
        CHECK(sd == sin[at]);
    }
}

TEST_CASE("fill_cos_sin: position 0 and frequency 0 are the identity, no pairs are nothing",
          "[angles][sincos]") {
    const double turns[] = {0.3, 0.0, 123.456};
    float c[4] = {7, 7, 7, 7}, s[4] = {7, 7, 7, 7};
    rw::fill_cos_sin(0, turns, 1, 3, c, s);
    for (int i = 0; i < 3; ++i) CHECK((c[i] == 1 && s[i] == 0));
    CHECK((c[3] == 7 && s[3] == 7));
    rw::fill_cos_sin(1e7, turns, 1, 2, c, s);
    CHECK((c[1] == 1 && s[1] == 0));
    rw::fill_cos_sin(1e7, turns, 1, 0, c + 3, s + 3);
    CHECK((c[3] == 7 && s[3] == 7));
}

TEST_CASE("fill_cos_sin: a row is a rotation at any position, a timestamp in nanoseconds included",
          "[angles][sincos]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 128, .base = 1e4});
    const double* turns = rope.turns_data().data();
    std::mt19937_64 engine(37);
    std::vector<double> positions{
        1764380000123456789.0, -1764380000123456789.0, 0x1p53, 0x1p62, 1e100, 0x1p1000};
    for (int exponent = 48; exponent < 70; ++exponent)
        for (int k = 0; k < 20; ++k)
            positions.push_back(std::ldexp(1 + static_cast<double>(engine() >> 11) * 0x1p-53, exponent));
    double off32 = 0, off64 = 0, off_reduced = 0, over = 0;
    for (const double p : positions) {
        float c[64], s[64];
        double cd[64], sd[64];
        rw::fill_cos_sin(p, turns, 1, 64, c, s);
        rw::fill_cos_sin(p, turns, 1, 64, cd, sd);
        for (std::size_t i = 0; i < 64; ++i) {
            off32 = std::max(off32, std::abs(std::hypot(double{c[i]}, double{s[i]}) - 1));
            off64 = std::max(off64, std::abs(std::hypot(cd[i], sd[i]) - 1));
            const double reduced = rw::detail::reduced_turns(p, turns[i]);
            off_reduced = std::max(off_reduced, std::abs(reduced));
            if (p > 1e30) continue;
            const auto want = exact(p, turns[i]);
            over =
                std::max({over, std::abs(double{c[i]} - want.cos) / budgets::table_f32(want.cos, want.angle),
                          std::abs(cd[i] - want.cos) / budgets::table_f64(want.angle)});
        }
    }
    CHECK(off32 < 2e-7);
    CHECK(off64 < 1e-15);
    CHECK(off_reduced <= 0.5);
    CHECK(over <= 1);
}
