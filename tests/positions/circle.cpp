// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/circle.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

std::vector<media_segment> photo(rw::index height, rw::index width, rw::index before = 3) {
    return {{.tokens = before}, {.kind = media::image, .height = height, .width = width}, {.tokens = 3}};
}

}  // namespace

TEST_CASE("circle: the published first point and the next index", "[positions][circle]") {
    const auto s = make_stream(circle_rule{}, photo(3, 4));
    CHECK(s.next_position == Approx(14.9125).epsilon(1e-5));
    CHECK(s.positions.at(3, 0) == Approx(3).epsilon(1e-12));
    CHECK(s.positions.at(3, 1) == Approx(10.0711).epsilon(1e-5));
    CHECK(s.positions.at(3, 2) == Approx(-4.0711).epsilon(1e-5));
}

TEST_CASE("circle: every patch is as far from all text", "[positions][circle]") {
    for (const double alpha : {0.0, 0.5, 1.0})
        for (const bool centred : {true, false}) {
            const auto s =
                make_stream(circle_rule{.radius = 6, .alpha = alpha, .centred = centred}, photo(4, 5))
                    .positions;
            for (rw::index n = 3; n < 23; ++n) {
                double sum = 0, distance = 0;
                for (rw::index a = 0; a < 3; ++a) {
                    sum += s.at(n, a);
                    distance += std::pow(s.at(n, a) - 3, 2);
                }
                CHECK(sum == Approx(9).epsilon(1e-13));  // across the line of text
                CHECK(std::sqrt(distance) == Approx(6).epsilon(1e-13));
            }
        }
}

TEST_CASE("circle: points by an evaluation of their own", "[positions][circle]") {
    const rw::index height = 3, width = 2;
    const circle_rule rule{.radius_times = 2.5, .alpha = 0.3, .flat_share = 0.2, .above = 1.5};
    const auto got = rule.ring(height, width);
    std::vector<long double> x, y, angle;
    for (rw::index k = 0; k < 6; ++k) {
        x.push_back(k % width - 0.5L);
        y.push_back(k / width - 1.0L);
        angle.push_back(std::atan2(y.back(), x.back()));
    }
    const auto [low, high] = std::minmax_element(angle.begin(), angle.end());
    const long double from = *low, range = *high - *low, pi = std::acos(-1.0L);
    const long double u[3] = {-1 / std::sqrt(2.0L), 1 / std::sqrt(2.0L), 0};  // x, y, z
    const long double v[3] = {-1 / std::sqrt(6.0L), -1 / std::sqrt(6.0L), 2 / std::sqrt(6.0L)};
    std::vector<long double> want;
    for (rw::index k = 0; k < 6; ++k) {
        const long double a = 0.3L * (angle[k] - from) / range * 2 * pi + 0.7L * 2 * pi * k / 6;
        for (const int axis : {2, 1, 0})  // t is z, h is y, w is x
            want.push_back(0.8L * 2.5L * (std::cos(a) * u[axis] + std::sin(a) * v[axis]) +
                           0.2L * (x[k] * u[axis] + y[k] * v[axis]));
    }
    const long double up = std::abs(*std::min_element(want.begin(), want.end())) + 1.5L;
    for (std::size_t i = 0; i < want.size(); ++i)
        CHECK(got[i] == Approx(double(want[i] + up)).epsilon(1e-13));
}

TEST_CASE("circle: text alone is M-RoPE, a single patch is one point", "[positions][circle][reduces]") {
    CHECK(make_stream(circle_rule{}, {{.tokens = 4}}).positions.values() ==
          make_stream(mrope_rule{}, {{.tokens = 4}}).positions.values());
    const auto s = make_stream(circle_rule{.radius = 2}, photo(1, 1)).positions;
    CHECK(s.at(3, 1) == Approx(3 + std::sqrt(2.0)).epsilon(1e-14));
    CHECK(s.at(4, 0) == Approx(4 + std::sqrt(2.0)).epsilon(1e-14));
}

TEST_CASE("circle: refuses bad numbers", "[positions][circle][errors]") {
    CHECK_REFUSES("circle_rule: radius must be finite, got nan",
                  make_stream(circle_rule{.radius = NAN}, {{.tokens = 1}}));
    CHECK_REFUSES("circle_rule: above must be finite, got nan",
                  make_stream(circle_rule{.above = NAN}, {{.tokens = 1}}));
    CHECK_REFUSES(
        "position_stream: segment 0 (image 1 x 8192 x 8192): frames x height x width must be <= 2^24 "
        "patches, got 67108864",
        make_stream(circle_rule{}, {{.kind = media::image, .height = 8192, .width = 8192}}));
}
