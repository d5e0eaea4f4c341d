// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/multimodal_orders.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;
using multimodal::pair_order;
using positions::media;

TEST_CASE("multimodal_orders: each order deals all pairs", "[schemes][multimodal_orders]") {
    const auto of = [](pair_order order, std::vector<rw::index> sections, rw::index pairs) {
        return multimodal::axes_of_pairs({.order = order, .sections = std::move(sections)}, pairs);
    };
    CHECK(of(pair_order::sections, {1, 2, 1}, 4) == std::vector<int>{0, 1, 1, 2});
    CHECK(of(pair_order::interleaved, {2, 1, 1}, 4) == std::vector<int>{0, 1, 2, 0});
    CHECK(of(pair_order::cyclic, {}, 4) == std::vector<int>{0, 1, 2, 0});
    CHECK(of(pair_order::mm_rope, {}, 4) == std::vector<int>{0, 0, 1, 2});
    CHECK(of(pair_order::ernie, {1, 2, 1}, 4) == std::vector<int>{1, 2, 1, 0});
    CHECK_REFUSES("multimodal::axes_of_pairs: sections must sum to the 5 pairs, got 4",
                  of(pair_order::sections, {1, 2, 1}, 5));
    CHECK_REFUSES("multimodal::axes_of_pairs: sections must be one number an axis: wanted 3, got 2",
                  of(pair_order::sections, {1, 2}, 3));
}

TEST_CASE("multimodal_orders: text alone is RoPE for every order and rule",
          "[schemes][multimodal_orders][reduces]") {
    const auto text = mrope::text_model({.head_dim = 16});
    const auto plain = make_rotation_table<double>(text.spectrum_for(1), position_ids::text(6, 0));
    const auto check = [&](multimodal::order_config order, auto rule) {
        const auto scheme = multimodal::over(text, order, rule);
        const auto stream = positions::make_stream(scheme.rule, {{.tokens = 6}});
        const auto rows = make_rotation_table<double>(scheme.rope.spectrum_for(1), stream.positions);
        for (rw::index n = 0; n < 6; ++n)
            for (rw::index i = 0; i < 8; ++i)
                CHECK(rows.cos_row(n)[i] == Approx(plain.cos_row(n)[i]).margin(1e-15));
    };
    const std::vector<rw::index> sections{4, 2, 2};
    check({.order = pair_order::interleaved, .sections = sections}, positions::spatial_reset_rule{});
    check({.order = pair_order::mm_rope}, positions::mm_rope_rule{.scale = {4, 8, 8}});
    check({.order = pair_order::cyclic}, positions::v2pe_rule{.axis_count = 3});
    check({.order = pair_order::sections, .sections = sections}, positions::circle_rule{});
    check({.order = pair_order::ernie, .sections = sections}, positions::ernie_rule{});
}

TEST_CASE("multimodal_orders: scores inside a picture do not see where it stands",
          "[schemes][multimodal_orders]") {
    const auto scheme = multimodal::over(mrope::text_model({.head_dim = 12}), {.order = pair_order::cyclic},
                                         positions::spatial_reset_rule{});
    const auto scores = [&](rw::index before) {
        const auto s = positions::make_stream(
            scheme.rule, {{.tokens = before}, {.kind = media::image, .height = 2, .width = 2}});
        support::heads_buffer<double> q({1, 4, 1, 12}), k({1, 4, 1, 12});
        q.fill(1), k.fill(2);
        position_ids picture(3);
        for (rw::index n = 0; n < 4; ++n)
            picture.append(listed_run{{s.positions.at(before + n, 0), s.positions.at(before + n, 1),
                                       s.positions.at(before + n, 2)}});
        const auto rows = make_rotation_table<double>(scheme.rope.spectrum_for(1), picture);
        rotate(scheme.rope, q.view(), k.view(), rows);
        std::vector<double> all;
        for (rw::index i = 0; i < 4; ++i)
            for (rw::index j = 0; j < 4; ++j) {
                double sum = 0;
                for (rw::index c = 0; c < 12; ++c) sum += q.view().at(0, i, 0)[c] * k.view().at(0, j, 0)[c];
                all.push_back(sum);
            }
        return all;
    };
    CHECK(support::worst(scores(1), scores(1000)) < 1e-12);
}

TEST_CASE("multimodal_orders: XD-RoPE's ladder and map", "[schemes][multimodal_orders]") {
    const auto scheme = multimodal::make_xd_rope({.sections = {16, 16, 16, 16}});
    const auto s = scheme.rope.spectrum_for(1);
    for (rw::index i = 0; i < 64; ++i) {
        CHECK(s.axis_of(0, i) == i / 16);
        const long double base = 1e4L * std::pow(1000.0L, 128 / 126.0L);
        CHECK(s.omega(i) == Approx(double(std::pow(base, -i / 64.0L))).epsilon(1e-14));
    }
    CHECK_REFUSES("multimodal::axes_of_pairs: sections must be one number an axis: wanted 4, got 3",
                  multimodal::make_xd_rope({.sections = {24, 20, 20}}));
    CHECK(multimodal::make_xd_rope({.sections = {24, 20, 20},
                                    .rule = {.order = {positions::xd_axis::column, positions::xd_axis::row,
                                                       positions::xd_axis::image}}})
              .rope.spectrum_for(1)
              .axes() == 3);
}
