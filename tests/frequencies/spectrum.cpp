// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/spectrum.hpp>

#include <ropewalk/frequencies/linear.hpp>

#include <limits>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using rw::spectrum;

namespace {

/// omega -> turns -> omega rounds twice: 1.5 ulp.
bool is_close(double got, double wanted) {
    return std::fabs(got - wanted) <= 1.5 * std::numeric_limits<double>::epsilon() * std::fabs(wanted);
}

}  // namespace

TEST_CASE("spectrum: one axis, shared by all heads", "[frequencies][spectrum]") {
    const std::vector<double> omega = {1, 0.5, 1e-3, 0, -2};
    const auto s = spectrum::from_omega(omega, 1.25);
    CHECK(s.heads() == 1);
    CHECK(s.axes() == 1);
    CHECK(s.pairs() == 5);
    CHECK(s.magnitude() == 1.25);
    CHECK(!s.is_mixed());
    for (rw::index i = 0; i < 5; ++i) {
        const double wanted = omega[static_cast<std::size_t>(i)];
        CHECK(is_close(s.omega(i), wanted));
        CHECK(is_close(s.omega(0, 0, i), wanted));
        CHECK(s.axis_of(0, i) == 0);
        CHECK(s.omegas()[static_cast<std::size_t>(i)] == s.omega(i));
    }
    CHECK(s.omega(3) == 0);
}

TEST_CASE("spectrum: omega survives the way through turns within 1.5 ulp", "[frequencies][spectrum]") {
    std::vector<double> omega;
    for (int i = -2000; i < 2000; ++i) omega.push_back(std::exp(i * 0.0103));
    const auto s = spectrum::from_omega(omega);
    int wrong = 0;
    for (rw::index i = 0; i < s.pairs(); ++i)
        if (!is_close(s.omega(i), omega[static_cast<std::size_t>(i)])) ++wrong;
    CHECK(wrong == 0);
}

TEST_CASE("spectrum: a full turn is one turn", "[frequencies][spectrum]") {
    const double omega[] = {2 * std::numbers::pi, std::numbers::pi};
    const auto s = spectrum::from_omega(omega);
    CHECK(s.turns(0, 0, 0) == 1.0);
    CHECK(s.turns(0, 0, 1) == 0.5);
}

TEST_CASE("spectrum: a selected pair reads one axis, head by head", "[frequencies][spectrum]") {
    const double omega[] = {1, 2, 3, 4, 5, 6};
    const int axis[] = {0, 1, 2, 2, 1, 0};
    const auto s = spectrum::selected(omega, axis, 3, 2, 0.5);
    CHECK(s.heads() == 2);
    CHECK(s.pairs() == 3);
    CHECK(s.axes() == 3);
    for (rw::index h = 0; h < 2; ++h)
        for (rw::index i = 0; i < 3; ++i) {
            const auto at = static_cast<std::size_t>(h * 3 + i);
            CHECK(s.axis_of(h, i) == axis[at]);
            for (rw::index a = 0; a < 3; ++a) {
                if (a == axis[at]) {
                    CHECK(is_close(s.omega(h, a, i), omega[at]));
                } else {
                    CHECK(s.turns(h, a, i) == 0);
                }
            }
        }
    // The short form is head 0 on the pair's own axis.
    CHECK(is_close(s.omega(2), 3));
}

TEST_CASE("spectrum: a mixed pair reads every axis", "[frequencies][spectrum]") {
    std::vector<double> omega(2 * 3 * 4);
    for (std::size_t i = 0; i < omega.size(); ++i) omega[i] = static_cast<double>(i + 1);
    const auto s = spectrum::mixed(omega, 2, 3, 2.0);
    CHECK(s.is_mixed());
    CHECK(s.heads() == 2);
    CHECK(s.axes() == 3);
    CHECK(s.pairs() == 4);
    for (rw::index h = 0; h < 2; ++h)
        for (rw::index a = 0; a < 3; ++a)
            for (rw::index i = 0; i < 4; ++i)
                CHECK(is_close(s.omega(h, a, i), static_cast<double>((h * 3 + a) * 4 + i + 1)));
}

TEST_CASE("spectrum: a one-hot mixed spectrum holds what the selected one holds",
          "[frequencies][spectrum][reduces]") {
    const double omega[] = {1, 0.3, 0.1, 0.03};
    const int axis[] = {1, 0, 1, 1};
    const auto one = spectrum::selected(omega, axis, 2);
    std::vector<double> dense(2 * 4, 0.0);
    for (std::size_t i = 0; i < 4; ++i) dense[static_cast<std::size_t>(axis[i]) * 4 + i] = omega[i];
    const auto other = spectrum::mixed(dense, 1, 2);
    for (rw::index a = 0; a < 2; ++a)
        for (rw::index i = 0; i < 4; ++i) CHECK(one.turns(0, a, i) == other.turns(0, a, i));
}

TEST_CASE("spectrum: with_magnitude changes nothing else", "[frequencies][spectrum]") {
    const double omega[] = {1, 2};
    const auto s = spectrum::from_omega(omega);
    const auto t = s.with_magnitude(-0.7);
    CHECK(t.magnitude() == -0.7);
    CHECK(s.magnitude() == 1);
    CHECK(t.omegas() == s.omegas());
}

TEST_CASE("spectrum: no pairs are legal", "[frequencies][spectrum]") {
    CHECK(spectrum().pairs() == 0);
    CHECK(spectrum().heads() == 1);
    CHECK(spectrum().axes() == 1);
    CHECK(spectrum().magnitude() == 1);
    CHECK(!spectrum().is_mixed());
    CHECK(spectrum::from_omega({}).pairs() == 0);
    CHECK(spectrum::mixed({}, 2, 3).pairs() == 0);
    CHECK(spectrum::from_omega({}).omegas().empty());
}

TEST_CASE("spectrum: bad input is refused with the parameter and its value", "[frequencies][spectrum]") {
    const double omega[] = {1, 2, 3};
    const double broken[] = {1, std::numeric_limits<double>::infinity()};
    const double not_a_number[] = {std::numeric_limits<double>::quiet_NaN()};
    const int axis[] = {0, 1, 2};
    REQUIRE_THROWS_WITH(spectrum::from_omega(broken), "spectrum: frequencies must be finite, got inf");
    REQUIRE_THROWS_AS(spectrum::from_omega(not_a_number), rw::invalid_config);
    REQUIRE_THROWS_WITH(spectrum::from_omega(omega, 0),
                        "spectrum: magnitude must be finite and not 0, got 0");
    REQUIRE_THROWS_AS(spectrum::from_omega(omega).with_magnitude(broken[1]), rw::invalid_config);
    REQUIRE_THROWS_WITH(spectrum::selected(omega, {}, 1, 2),
                        "spectrum: omega must hold heads * pairs numbers, got 3");
    REQUIRE_THROWS_WITH(spectrum::selected(omega, {}, 1, 0), "spectrum: heads must be >= 1, got 0");
    REQUIRE_THROWS_WITH(spectrum::selected(omega, {}, 0), "spectrum: axes must be >= 1, got 0");
    REQUIRE_THROWS_WITH(spectrum::selected(omega, axis, 2),
                        "spectrum: axis_of_pair must name an axis below axes, got 2");
    REQUIRE_THROWS_WITH(spectrum::selected(omega, std::span(axis, 2), 3),
                        "spectrum: axis_of_pair must be empty or as long as omega, got 2");
    REQUIRE_THROWS_WITH(spectrum::mixed(omega, 1, 2),
                        "spectrum: omega must hold heads * axes * pairs numbers, got 3");
    REQUIRE_THROWS_AS(spectrum::mixed(omega, -1, 1), rw::invalid_config);
    REQUIRE_THROWS_AS(spectrum::mixed(omega, 1, 0), rw::invalid_config);
}

TEST_CASE("spectrum: frequencies and magnitudes that no table holds are refused", "[frequencies][spectrum]") {
    const std::vector<double> most{0x1p30, -0x1p30, 0}, past{1, 0x1.0000001p30}, below{-1e200};
    CHECK(spectrum::from_omega(most).omega(1) == Approx(-0x1p30));
    CHECK_THROWS_WITH(spectrum::from_omega(past),
                      "spectrum: frequencies must be at most 2^30 radians a position, got 1073741828");
    CHECK_THROWS_AS(spectrum::mixed(below, 1, 1), rw::invalid_config);
    CHECK_THROWS_AS(rw::map_omega(spectrum::from_omega(most), [](double w, rw::index) { return 2 * w; }),
                    rw::invalid_config);
    for (const double m : {0x1p60, -0x1p60, 0x1p-60})
        CHECK(spectrum::from_omega(most).with_magnitude(m).magnitude() == m);
    for (const double m : {0x1.1p60, 0x1.fp-61, 5e-324, 1e308, -1e300})
        CHECK_THROWS_AS(spectrum::from_omega(most).with_magnitude(m), rw::invalid_config);
    CHECK_THROWS_WITH(spectrum::from_omega(most, 0x1p-61),
                      "spectrum: magnitude must be 2^-60 to 2^60 in size, got 4.336808689942018e-19");
    // From bases and factors as files have them.
    CHECK_THROWS_AS(rw::frequencies::geometric({.rotary_dim = 64, .base = 1e-200}), rw::invalid_config);
    CHECK_THROWS_AS(rw::frequencies::linear({.rotary_dim = 64, .factor = 1e-308}), rw::invalid_config);
    CHECK_THROWS_AS(spectrum::mixed(most, support::huge(40), support::huge(40)), rw::invalid_config);
}
