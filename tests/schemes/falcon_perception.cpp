// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/falcon_perception.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("falcon_perception: the grid keeps the aspect ratio", "[schemes][falcon_perception]") {
    const auto g = falcon_perception::aspect_grid(2, 3);
    CHECK(g.tokens() == 6);
    CHECK(g.at(0, 0) == Approx(-0.81649658).epsilon(1e-8));
    CHECK(g.at(0, 1) == Approx(-1.22474487).epsilon(1e-8));
    CHECK(g.at(5, 0) == Approx(0.81649658).epsilon(1e-8));
    CHECK(g.at(4, 1) == Approx(0).margin(1e-15));
    const auto row = falcon_perception::aspect_grid(1, 2);
    CHECK(row.at(0, 0) == Approx(-0.70710678).epsilon(1e-8));
    CHECK(row.at(1, 1) == Approx(1.41421356).epsilon(1e-8));
    CHECK_REFUSES("aspect_grid: height must be >= 1, got 0", falcon_perception::aspect_grid(0, 2));
}

TEST_CASE("falcon_perception: halves by their formula in long double", "[schemes][falcon_perception]") {
    const rw::index heads = 2, dim = 8;
    const auto model = falcon_perception::make_model({.heads = heads, .head_dim = dim, .base = 1e5});
    const auto directions = frequencies::golden_directions({.heads = heads, .axes = 2, .pairs = 2});
    position_ids place(2), text;
    place.append(untouched_run{1}).append(falcon_perception::aspect_grid(2, 2));
    text.append(listed_run{{0, 1, 1, 1, 1}});
    support::heads_buffer<double> x({1, 5, heads, dim});
    x.fill(4);
    const auto before = x.dense();
    const auto by_text = make_rotation_table<double>(model.text.spectrum_for(1), text);
    const auto by_place = make_rotation_table<double>(model.image.spectrum_for(1), place);
    rotate(model.image, x.view(), by_place);
    rotate(model.text, x.view(), by_text);
    const auto after = x.dense();
    for (rw::index n = 0; n < 5; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index i = 0; i < 4; ++i) {  // neighbouring channels: two pairs of text, two of the image
                long double angle = text.at(n) * std::pow(1e5L, -i / 2.0L);
                if (i >= 2) {
                    const long double speed = i == 2 ? 1 : 20;
                    angle = 0;
                    for (rw::index a = 0; a < 2; ++a)
                        angle += speed * place.at(n, a) * directions[(h * 2 + i - 2) * 2 + a];
                }
                const auto at = (n * heads + h) * dim + 2 * i;
                CHECK(after[at] ==
                      Approx(double(before[at] * std::cos(angle) - before[at + 1] * std::sin(angle)))
                          .margin(1e-13));
                CHECK(after[at + 1] ==
                      Approx(double(before[at] * std::sin(angle) + before[at + 1] * std::cos(angle)))
                          .margin(1e-13));
            }
    for (rw::index c = dim / 2; c < dim; ++c) CHECK(after[c] == before[c]);  // text keeps its second half
    CHECK_REFUSES("falcon_perception::make_model: head_dim must be a multiple of 4 and > 0, got 6",
                  falcon_perception::make_model({.head_dim = 6}));
}
