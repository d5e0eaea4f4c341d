// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/visual_rules.hpp>

#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

const std::vector<media_segment> photo{
    {.tokens = 3}, {.kind = media::image, .height = 3, .width = 4}, {.tokens = 3}};

}  // namespace

TEST_CASE("visual_rules: where text goes on after a picture of 3 x 4", "[positions][visual_rules]") {
    CHECK(make_stream(mrope_rule{}, photo).next_position == 10);
    CHECK(make_stream(spatial_reset_rule{}, photo).next_position == 10);
    CHECK(make_stream(mm_rope_rule{.scale = {4, 8, 8}}, photo).next_position == 31);
    CHECK(make_stream(ernie_rule{}, photo).next_position == 10);
    const auto v = make_stream(v2pe_rule{.span = 4}, photo);
    CHECK(v.next_position == 10);
    CHECK(v.positions.at(3) == Approx(7.0 / 3).epsilon(1e-15));
    CHECK(v.positions.at(14) == Approx(6).epsilon(1e-15));
    CHECK(v.positions.at(15) == 7);
}

TEST_CASE("visual_rules: every token by its formula", "[positions][visual_rules]") {
    const rw::index frames = 3, height = 2, width = 5;
    const double from = 7, dt = 1.5;
    const std::vector<media_segment> clip{
        {.tokens = 7},
        {.kind = media::video, .frames = frames, .height = height, .width = width},
        {.tokens = 2}};
    const auto reset = make_stream(spatial_reset_rule{.temporal_step = dt}, clip).positions;
    const auto scaled = make_stream(mm_rope_rule{.scale = {4, 8, 2}, .temporal_step = dt}, clip).positions;
    const auto even = make_stream(v2pe_rule{.span = 3, .axis_count = 2}, clip).positions;
    const auto ernie = make_stream(ernie_rule{}, clip).positions;
    for (rw::index f = 0, n = 7; f < frames; ++f)
        for (rw::index r = 0; r < height; ++r)
            for (rw::index c = 0; c < width; ++c, ++n) {
                const double want[3][3] = {{from + f * dt, double(r), double(c)},
                                           {from + f * dt * 4, from + r * 8, from + c * 2},
                                           {from + f, from + r, from + c}};
                for (rw::index a = 0; a < 3; ++a) {
                    CHECK(reset.at(n, a) == want[0][a]);
                    CHECK(scaled.at(n, a) == want[1][a]);
                    CHECK(ernie.at(n, a) == want[2][a]);
                }
                const long double k = (f * height + r) * width + c + 1;
                for (rw::index a = 0; a < 2; ++a)
                    CHECK(even.at(n, a) == Approx(double(from - 1 + k * 3 / 30)).epsilon(1e-15));
            }
    const rw::index after = 7 + frames * height * width;
    CHECK(reset.at(after) == from + std::max({2 * dt, 1.0, 4.0}) + 1);
    CHECK(scaled.at(after) == from + 2 * dt * 4 + 1);
    CHECK(even.at(after) == 10);
    CHECK(ernie.at(after) == from + 5);
}

TEST_CASE("visual_rules: scale 1 is M-RoPE", "[positions][visual_rules][reduces]") {
    CHECK(make_stream(mm_rope_rule{}, photo).positions.values() ==
          make_stream(mrope_rule{}, photo).positions.values());
    for (const rw::index tokens : {0, 1, 9}) {
        const std::vector<media_segment> text{{.tokens = tokens}};
        const auto plain = make_stream(mrope_rule{}, text).positions.values();
        CHECK(make_stream(spatial_reset_rule{}, text).positions.values() == plain);
        CHECK(make_stream(ernie_rule{}, text).positions.values() == plain);
        CHECK(make_stream(v2pe_rule{.axis_count = 3}, text).positions.values() == plain);
    }
    // An image whose span is its patches counts them.
    CHECK(make_stream(v2pe_rule{.span = 12}, photo).positions.values() ==
          make_stream(baseline_rule{}, photo).positions.values());
}

TEST_CASE("visual_rules: a picture's rows and columns do not know where it stands",
          "[positions][visual_rules]") {
    const media_segment image{.kind = media::image, .height = 2, .width = 3};
    const auto near = make_stream(spatial_reset_rule{}, {{.tokens = 2}, image}).positions;
    const auto far = make_stream(spatial_reset_rule{}, {{.tokens = 100}, image}).positions;
    for (rw::index n = 0; n < 6; ++n)
        for (rw::index a = 1; a < 3; ++a) CHECK(near.at(2 + n, a) == far.at(100 + n, a));
}

TEST_CASE("visual_rules: a prompt that ends in a block says where to go on", "[positions][visual_rules]") {
    const media_segment clip{.kind = media::video, .frames = 5, .height = 2, .width = 2};
    CHECK(make_stream(ernie_rule{}, {{.tokens = 2}, clip}).next_position == 4);  // t of the last frame is 6
    CHECK(make_stream(ernie_rule{}, {{.tokens = 2}, clip}).positions.at(21) == 6);
    CHECK(make_stream(spatial_reset_rule{}, {{.tokens = 2}, clip}).next_position == 7);
}

TEST_CASE("visual_rules: refuses sound and steps that are no numbers", "[positions][visual_rules][errors]") {
    const media_segment sound{.kind = media::audio, .tokens = 3};
    const auto text =
        "position_stream: segment 0 (audio): kind must be text, image or video (tmrope_rule places audio), "
        "got audio";
    CHECK_REFUSES(text, make_stream(spatial_reset_rule{}, {sound}));
    CHECK_REFUSES(text, make_stream(mm_rope_rule{}, {sound}));
    CHECK_REFUSES(text, make_stream(v2pe_rule{}, {sound}));
    CHECK_REFUSES(text, make_stream(ernie_rule{}, {sound}));
    const double infinite = std::numeric_limits<double>::infinity();
    CHECK_REFUSES("spatial_reset_rule: temporal_step must be finite and >= 0, got -1",
                  make_stream(spatial_reset_rule{.temporal_step = -1}, {sound}));
    CHECK_REFUSES("mm_rope_rule: scale must be finite and >= 0, got inf",
                  make_stream(mm_rope_rule{.scale = {1, infinite, 1}}, {sound}));
    CHECK_REFUSES("v2pe_rule: span must be finite and > 0, got 0",
                  make_stream(v2pe_rule{.span = 0}, {sound}));
    CHECK_REFUSES("v2pe_rule: axis_count must be >= 1, got 0",
                  make_stream(v2pe_rule{.axis_count = 0}, {sound}));
}
