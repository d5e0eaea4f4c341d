// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/block_rotations.hpp>

#include <cmath>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/mix_blocks.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

double loss(const rotation_blocks<double>& table, std::vector<double> x, const std::vector<double>& g,
            rw::heads_shape shape) {
    mix_blocks(heads_view<double>(x.data(), shape), table);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * g[i];
    return sum;
}

std::vector<double> product(const rotation_blocks<double>& table, rw::index transposed_row, rw::index row) {
    const rw::index size = table.shape().size;
    std::vector<double> out;
    for (rw::index i = 0; i < size; ++i)
        for (rw::index j = 0; j < size; ++j) {
            double sum = 0;
            for (rw::index k = 0; k < size; ++k)
                sum += table.at(transposed_row, 0, 0, k, i) * table.at(row, 0, 0, k, j);
            out.push_back(sum);
        }
    return out;
}
std::vector<double> matrix(const rotation_blocks<double>& table, rw::index row) {
    std::vector<double> out;
    for (rw::index i = 0; i < table.shape().size; ++i)
        for (rw::index j = 0; j < table.shape().size; ++j) out.push_back(table.at(row, 0, 0, i, j));
    return out;
}

}  // namespace

TEST_CASE("liere: one axis of pairs is RoPE with omega = -u", "[schemes][block_rotations][reduces]") {
    const liere::model_config c{.axes = 1, .blocks = 3, .size = 2};
    const std::vector<double> raw{9, 0.5, 7, 9, 0, -2, 0, 0, 1, 0.25, 3, 1};  // upper entries 0.5, -2, 0.25
    const auto where = position_ids::from(std::vector<double>{0, 1, 3.5});
    const auto table = liere::make_table<double>(c, liere::make_generators(c, raw), where);
    const auto rows =
        make_rotation_table<double>(spectrum::from_omega(std::vector<double>{-0.5, 2, -0.25}), where);
    support::heads_buffer<double> a({1, 3, 2, 6}), b({1, 3, 2, 6});
    a.fill(1), b.fill(1);
    mix_blocks(a.view(), table);
    rotate(interleaved{}, b.view(), rows);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-14);
}

TEST_CASE("liere: several axes of wide blocks know no relative law, one axis does",
          "[schemes][block_rotations]") {
    const auto apart = [](rw::index axes, rw::index size) {
        const liere::model_config c{.axes = axes, .blocks = 1, .size = size};
        auto raw = support::noise(axes * size * size, 3, {3, 3});
        std::vector<double> at{0.3, 0.2, 0.5, 0.9, 0.2, 0.7};  // p, q, q - p
        if (axes == 1) at = {0.3, 0.5, 0.2};
        const auto table = liere::make_table<double>(c, liere::make_generators(c, raw),
                                                     position_ids::from_tokens_axes(at, axes));
        return support::worst(product(table, 0, 1), matrix(table, 2));
    };
    CHECK(apart(1, 4) < 1e-13);
    CHECK(apart(2, 2) < 1e-13);
    CHECK(apart(2, 4) > 0.05);
}

TEST_CASE("liere: the gradient by differences", "[schemes][block_rotations]") {
    for (const rw::index heads : {1, 2}) {
        const liere::model_config c{.axes = 2, .heads = heads, .blocks = 2, .size = 3};
        const auto raw = support::noise(2 * heads * 2 * 9, 5, {1, 1});
        const auto where = position_ids::from_tokens_axes(support::noise(6, 6), 2);
        const rw::heads_shape shape{1, 3, 2, 7};
        auto x = support::noise(42, 7), g = support::noise(42, 8);
        const auto grad = liere::make_gradient(c, liere::make_generators(c, raw), where,
                                               heads_view<const double>(x.data(), shape),
                                               heads_view<const double>(g.data(), shape));
        for (std::size_t i = 0; i < raw.size(); ++i) {
            const auto at = [&](double by) {
                auto moved = raw;
                moved[i] += by;
                return loss(liere::make_table<double>(c, liere::make_generators(c, moved), where), x, g,
                            shape);
            };
            CHECK(grad[i] == Approx((at(1e-5) - at(-1e-5)) / 2e-5).margin(1e-8));
        }
    }
}

TEST_CASE("comrope: both forms obey the relative law", "[schemes][block_rotations]") {
    for (const auto kind : {comrope::commuting::axis_partition, comrope::commuting::linearly_dependent}) {
        const comrope::model_config c{.kind = kind, .axes = 2, .blocks = 1, .size = 4};
        const auto f = support::noise(16, 1, {0, 3});
        const auto m = support::noise(2, 2);
        const comrope::parameters p{f, kind == comrope::commuting::linearly_dependent
                                           ? std::span<const double>(m)
                                           : std::span<const double>()};
        const std::vector<double> at{0.3, 0.2, 0.5, 0.9, 0.2, 0.7};
        const auto table = comrope::make_table<double>(c, p, position_ids::from_tokens_axes(at, 2));
        CHECK(support::worst(product(table, 0, 1), matrix(table, 2)) < 1e-13);
    }
}

TEST_CASE("comrope: pairs are RoPE, dealt to the axes in turn", "[schemes][block_rotations][reduces]") {
    const comrope::model_config c{.axes = 2, .blocks = 3, .size = 2};
    const std::vector<double> f{0, -0.25, 0.25, 0, 5, -1, 1, 5, 0, 0, 3, 0};  // w = 0.5, 2, 3
    const auto where = position_ids::from_tokens_axes(support::noise(8, 1, {0, 5}), 2);
    const auto table = comrope::make_table<double>(c, {f, {}}, where);
    const auto s = frequencies::assign_axes(spectrum::from_omega(std::vector<double>{0.5, 2, 3}),
                                            std::vector<int>{0, 1, 0});
    const auto rows = make_rotation_table<double>(s, where);
    support::heads_buffer<double> a({1, 4, 1, 6}), b({1, 4, 1, 6});
    a.fill(1), b.fill(1);
    mix_blocks(a.view(), table);
    rotate(interleaved{}, b.view(), rows);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-14);
    CHECK(comrope::patch_position(0, 4) == 0.125);
    CHECK(comrope::patch_position(3, 4) == 0.875);
}

TEST_CASE("comrope: gradients by differences", "[schemes][block_rotations]") {
    for (const auto kind : {comrope::commuting::axis_partition, comrope::commuting::linearly_dependent}) {
        const bool linear = kind == comrope::commuting::linearly_dependent;
        const comrope::model_config c{.kind = kind, .axes = 2, .heads = 2, .blocks = 2, .size = 3};
        auto f = support::noise(36, 1);
        auto m = support::noise(linear ? 4 : 0, 2);
        const auto where = position_ids::from_tokens_axes(support::noise(6, 3), 2);
        const rw::heads_shape shape{1, 3, 2, 6};
        auto x = support::noise(36, 4), g = support::noise(36, 5);
        const auto got = comrope::make_gradients(c, {f, m}, where, heads_view<const double>(x.data(), shape),
                                                 heads_view<const double>(g.data(), shape));
        const auto check = [&](std::vector<double>& p, const std::vector<double>& grad) {
            for (std::size_t i = 0; i < p.size(); ++i) {
                const double old = p[i];
                p[i] = old + 1e-5;
                const double up = loss(comrope::make_table<double>(c, {f, m}, where), x, g, shape);
                p[i] = old - 1e-5;
                const double down = loss(comrope::make_table<double>(c, {f, m}, where), x, g, shape);
                p[i] = old;
                CHECK(grad[i] == Approx((up - down) / 2e-5).margin(1e-8));
            }
        };
        check(f, got.frequencies);
        check(m, got.multipliers);
    }
}

TEST_CASE("block_rotations: refuse sizes that do not fit", "[schemes][block_rotations][errors]") {
    const liere::model_config c{.axes = 1, .blocks = 1, .size = 2};
    CHECK_REFUSES("liere::make_generators: raw must hold axes * heads * blocks * size * size numbers, got 3",
                  liere::make_generators(c, std::vector<double>(3)));
    CHECK_REFUSES("liere::make_generators: size must be in 1 .. 64, got 0",
                  liere::make_generators({.size = 0}, {}));
    const std::vector<double> g(4);
    CHECK_REFUSES("liere::make_table: positions must have the generators' axes: wanted 1, got 2",
                  liere::make_table<>(c, g, position_ids::text(1, 0, 2)));
    const comrope::model_config m{.axes = 1, .blocks = 1, .size = 2};
    CHECK_REFUSES(
        "comrope::make_table: multipliers must hold axes * blocks numbers (none where the axes are dealt "
        "out), got 4",
        comrope::make_table<>(m, {g, g}, position_ids::text(1)));
    std::vector<double> x(4);
    CHECK_REFUSES(
        "liere::make_gradient: x must have one token a position, got 2",
        liere::make_gradient(c, g, position_ids::text(1), heads_view<const double>(x.data(), 2, 1, 2),
                             heads_view<const double>(x.data(), 2, 1, 2)));
    CHECK_REFUSES("comrope::patch_position: patches must be >= 1, got 0", comrope::patch_position(0, 0));
}
