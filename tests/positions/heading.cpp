// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/heading.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

TEST_CASE("wrapped_heading: into [-pi, pi], the same direction", "[positions][heading]") {
    constexpr double pi = 3.14159265358979323846;
    CHECK(positions::wrapped_heading(0.5) == 0.5);
    CHECK(positions::wrapped_heading(3 * pi / 2) == Approx(-pi / 2));
    for (const double phi : {-100.0, -3.2, 3.2, 1e6}) {
        const double w = positions::wrapped_heading(phi);
        CHECK(std::abs(w) <= pi);
        CHECK(std::cos(w) == Approx(std::cos(phi)).margin(1e-9));
        CHECK(std::sin(w) == Approx(std::sin(phi)).margin(1e-9));
    }
}

TEST_CASE("headings: radians as they are, degrees less whole turns", "[positions][heading]") {
    const std::vector<float> radians{0.5F, -4.0F};
    CHECK(positions::headings(std::span<const float>(radians)).values() == std::vector<double>{0.5, -4.0});
    const std::vector<double> degrees{90, 450, -270};
    const auto ids = positions::headings_in_degrees(std::span<const double>(degrees));
    CHECK(ids.at(0) == Approx(1.5707963267948966));
    CHECK(ids.at(1) == ids.at(0));
    CHECK(ids.at(2) == ids.at(0));
}

TEST_CASE("poses: x, y and heading side by side", "[positions][heading]") {
    const std::vector<double> xy{1, 2, 3, 4}, phi{0.1, 0.2};
    const auto ids = positions::poses(std::span<const double>(xy), std::span<const double>(phi));
    CHECK(ids.axes() == 3);
    CHECK(ids.values() == std::vector<double>{1, 2, 0.1, 3, 4, 0.2});
}

TEST_CASE("headings: what is no number is refused", "[positions][heading]") {
    const std::vector<double> nan{0, std::nan("")}, inf{std::numeric_limits<double>::infinity()}, one{1};
    CHECK_REFUSES("headings: headings must be finite, got nan",
                  positions::headings(std::span<const double>(nan)));
    CHECK_REFUSES("headings_in_degrees: headings must be finite, got inf",
                  positions::headings_in_degrees(std::span<const double>(inf)));
    CHECK_REFUSES("poses: xy must hold two numbers an agent: wanted 2, got 1",
                  positions::poses(std::span<const double>(one), std::span<const double>(one)));
    const std::vector<double> two{1, 2};
    CHECK_REFUSES("poses: headings must be finite, got inf",
                  positions::poses(std::span<const double>(two), std::span<const double>(inf)));
}
