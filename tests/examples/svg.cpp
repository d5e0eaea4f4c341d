// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "examples/figures/svg.hpp"

#include <limits>

#include "support/catch.hpp"

namespace {

std::size_t count(const std::string& text, const std::string& part) {
    std::size_t n = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
    return n;
}

}  // namespace

TEST_CASE("svg: a line chart has a path a series, a gap for what cannot be drawn, the same bytes twice",
          "[examples][svg]") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const svg::chart chart{.title = "a < b & c",
                           .x_label = "x",
                           .y_label = "y",
                           .lines = {{"one", {1, 2, 4, 8}, {1, nan, 10, 100}}, {"two", {1, 8}, {0, 5}}},
                           .x_scale = svg::axis_scale::log2,
                           .y_scale = svg::axis_scale::log10};
    const auto text = svg::make(chart);
    CHECK(text == svg::make(chart));
    CHECK(text.starts_with("<svg "));
    CHECK(text.ends_with("</svg>\n"));
    CHECK(text.find("a &lt; b &amp; c") != std::string::npos);
    CHECK(count(text, "<path ") == 2);
    CHECK(text.find("nan") == std::string::npos);
    CHECK(text.find("inf") == std::string::npos);
    CHECK(count(text, "M76.00") ==
          1);  // series one begins at the left edge; series two's first point is log 0
}

TEST_CASE("svg: an axis over neighbouring doubles, subnormal numbers or all of them has a few ticks",
          "[examples][svg]") {
    const double big = std::numeric_limits<double>::max(), least = std::numeric_limits<double>::denorm_min();
    const std::vector<std::pair<double, double>> ranges{{1, std::nextafter(1, 2)},
                                                        {1e16, std::nextafter(1e16, 1e17)},
                                                        {0, 1e-320},
                                                        {0, least},
                                                        {-least, least},
                                                        {-big, big},
                                                        {big, big},
                                                        {1e300, std::nextafter(1e300, big)},
                                                        {0, big},
                                                        {-1e-12, 1e-12}};
    for (const auto& [low, high] : ranges)
        for (const auto scale : {svg::axis_scale::linear, svg::axis_scale::log2, svg::axis_scale::log10}) {
            CAPTURE(low, high);
            const auto axis = svg::detail::make_axis({low, high}, scale);
            CHECK(axis.low < axis.high);
            CHECK(std::isfinite(axis.high - axis.low));
            CHECK(axis.ticks.size() >= 1);
            CHECK(axis.ticks.size() <= 1000);
            if (scale == svg::axis_scale::linear) CHECK(axis.ticks.size() <= 10);
            for (std::size_t k = 0; k < axis.ticks.size(); ++k) {
                CHECK(std::isfinite(axis.ticks[k]));
                if (k > 0) CHECK(axis.ticks[k] > axis.ticks[k - 1]);
            }
            const auto text = svg::make(svg::chart{.title = "",
                                                   .x_label = "",
                                                   .y_label = "",
                                                   .lines = {{"s", {1, 2}, {low, high}}},
                                                   .y_scale = scale});
            CHECK(text.size() < 100000);
            CHECK(text.find("inf") == std::string::npos);
        }
    // A single value has the range of 1 around it, as before.
    const auto one = svg::detail::make_axis({3, 3}, svg::axis_scale::linear);
    CHECK(one.low == 2.5);
    CHECK(one.high == 3.5);
}

TEST_CASE("svg: charts in a column keep their sizes", "[examples][svg]") {
    const svg::chart small{.title = "a", .x_label = "", .y_label = "", .width = 300, .height = 200},
        large{.title = "b", .x_label = "", .y_label = "", .width = 500, .height = 250};
    const auto text = svg::make(std::vector{small, large});
    CHECK(text.find("viewBox=\"0 0 500 450\"") != std::string::npos);
    CHECK(text.find("<svg y=\"0\" width=\"300\" height=\"200\" ") != std::string::npos);
    CHECK(text.find("<svg y=\"200\" width=\"500\" height=\"250\" ") != std::string::npos);
    CHECK(count(text, "<svg ") == 3);
    CHECK(count(text, "</svg>") == 3);
}

TEST_CASE("svg: bars, heat maps and sizes that disagree", "[examples][svg]") {
    const auto bars = svg::make(svg::bar_chart{.title = "t",
                                               .x_label = "x",
                                               .names = {"a", "b", "c"},
                                               .values = {1, 100, -2},
                                               .notes = {"", "off by 1", ""}});
    CHECK(count(bars, "<rect ") == 3);  // the page and two bars: a logarithm has no place for -2
    CHECK(bars.find(">100.00, off by 1<") != std::string::npos);
    CHECK(bars.find(">1.00<") != std::string::npos);
    const auto map = svg::make(svg::heat_map{
        .title = "t", .x_label = "x", .y_label = "y", .rows = 2, .columns = 3, .values = {0, 1, 2, 3, 4, 5}});
    CHECK(map.find("#ffffff") != std::string::npos);  // the least
    CHECK(map.find("#144187") != std::string::npos);  // the largest
    CHECK_NOTHROW(svg::make(svg::chart{}));
    CHECK_THROWS_WITH(
        svg::make(svg::chart{.title = "", .x_label = "", .y_label = "", .lines = {{"s", {1}, {}}}}),
        "svg: s must have as many y as x");
    CHECK_THROWS(svg::make(svg::bar_chart{.title = "", .x_label = "", .names = {"a"}}));
    CHECK_THROWS(svg::make(
        svg::bar_chart{.title = "", .x_label = "", .names = {"a"}, .values = {1}, .notes = {"", ""}}));
    CHECK_THROWS(svg::make(
        svg::heat_map{.title = "", .x_label = "", .y_label = "", .rows = 2, .columns = 2, .values = {1}}));
    CHECK_THROWS(svg::write("/no/such/folder/x.svg", svg::chart{}));
}

TEST_CASE("svg: the main of a program that draws", "[examples][svg]") {
    const char* const text[] = {"program", "--svg", "x.svg", "more"};
    std::string file = "unset";
    const auto run = [&](const std::string& f) { file = f; };
    CHECK(svg::run_main(1, text, run) == 0);
    CHECK(file == "");
    CHECK(svg::run_main(3, text, run) == 0);
    CHECK(file == "x.svg");
    CHECK(svg::run_main(2, text, run) == 1);
    CHECK(svg::run_main(4, text, run) == 1);
    const char* const other[] = {"program", "--csv", "x.svg"};
    CHECK(svg::run_main(3, other, run) == 1);
    CHECK(svg::run_main(1, text, [](const std::string&) { throw std::runtime_error("no"); }) == 1);
}
