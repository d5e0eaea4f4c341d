// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/road.hpp>

#include <string>

#include <Eigen/LU>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "adapters/road_inputs.hpp"
#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace road = ropewalk::road;
using road::variant;
using road_inputs::expected;
using road_inputs::mix;
using road_inputs::random_adapter;
using support::as;
using support::noise;
using support::refusal;
using support::worst;

TEST_CASE("road: the identity at initialisation, for every variant", "[adapters][road]") {
    for (auto kind : {variant::road_1, variant::road_2, variant::road_4}) {
        const road::adapter a({.channels = 24, .group = 8, .variant = kind});
        CHECK(road::parameter_count(a.config()) == (kind == variant::road_1   ? 12
                                                    : kind == variant::road_2 ? 24
                                                                              : 48));
        auto h = as<float>(noise(72, 1));
        const auto before = h;
        mix(road::make_blocks(a), h);
        CHECK(h == before);
    }
}

TEST_CASE("road: mixing is the dense matrix, whatever the group", "[adapters][road]") {
    for (auto kind : {variant::road_1, variant::road_2, variant::road_4})
        for (rw::index group : {2, 4, 6, 34, 64, 102, 204})
            for (rw::index groups : {1, 3}) {
                const auto r = road::make_blocks(
                    random_adapter({.channels = group * groups, .group = group, .variant = kind}, 7));
                const auto h = noise(2 * group * groups, 3);
                auto wide = h;
                mix(r, wide);
                CHECK(worst(wide, expected(r, h)) < 1e-14);
                auto narrow = as<float>(h);
                mix(r, narrow);
                CHECK(worst(narrow, expected(r, h)) < 2e-6);
            }
}

TEST_CASE("road: 16-bit data is computed in f32 and rounded once", "[adapters][road]") {
    const auto r = road::make_blocks(random_adapter({.channels = 128, .group = 64}, 5));
    auto half = as<rw::bf16>(noise(256, 9));
    std::vector<double> widened;
    for (auto v : half) widened.push_back(static_cast<double>(static_cast<float>(v)));
    const auto want = expected(r, widened);
    mix(r, half);
    for (std::size_t i = 0; i < half.size(); ++i)
        CHECK(std::abs(static_cast<double>(static_cast<float>(half[i])) - want[i]) <=
              std::abs(want[i]) / 256 + 2e-6);
}

TEST_CASE("road: the variants nest", "[adapters][road][reduces]") {
    const road::adapter_config one{.channels = 16, .group = 8, .variant = variant::road_1};
    const road::adapter a = random_adapter(one, 11);
    const auto repeat = [](const std::vector<double>& x, std::size_t run) {
        std::vector<double> y;
        for (std::size_t at = 0; at < x.size(); at += run)
            for (int twice = 0; twice < 2; ++twice)
                y.insert(y.end(), x.begin() + static_cast<std::ptrdiff_t>(at),
                         x.begin() + static_cast<std::ptrdiff_t>(at + run));
        return y;
    };
    // One number a pair becomes one a channel (halves of a group), then two rows a group.
    const road::adapter two({16, 8, variant::road_2}, repeat(a.theta(), 4), repeat(a.alpha(), 4));
    const road::adapter four({16, 8, variant::road_4}, repeat(two.theta(), 8), repeat(two.alpha(), 8));
    CHECK(road::make_columns(a).first == road::make_columns(two).first);
    CHECK(road::make_columns(a).second == road::make_columns(two).second);
    CHECK(road::make_columns(two).first == road::make_columns(four).first);
    CHECK(road::make_columns(two).second == road::make_columns(four).second);
}

TEST_CASE("road: road_1 with alpha 1 keeps every pair's norm, and its inverse is its transpose",
          "[adapters][road]") {
    const road::adapter a({.channels = 32, .group = 16}, noise(16, 2), std::vector<double>(16, 1.0));
    const auto r = road::make_blocks(a);
    const auto inverse = road::make_inverse(r), transpose = road::make_transpose(r);
    CHECK((road::make_matrix(inverse) - road::make_matrix(transpose)).cwiseAbs().maxCoeff() < 1e-15);
    const auto h = noise(32, 4);
    auto y = h;
    mix(r, y);
    for (rw::index i = 0; i < 16; ++i) {
        const auto p = static_cast<std::size_t>(r.layout().first(i, 16)),
                   q = static_cast<std::size_t>(r.layout().second(i, 16));
        CHECK(std::hypot(y[p], y[q]) == Approx(std::hypot(h[p], h[q])).epsilon(1e-14));
    }
}

TEST_CASE("road: merged weights give what mixing gives, and merging the inverse takes it back",
          "[adapters][road]") {
    const auto r =
        road::make_blocks(random_adapter({.channels = 12, .group = 4, .variant = variant::road_4}, 21));
    Eigen::MatrixXd w = Eigen::MatrixXd::Random(12, 5);
    Eigen::VectorXd b = Eigen::VectorXd::Random(12);
    const Eigen::MatrixXd w0 = w;
    const Eigen::VectorXd b0 = b, x = Eigen::VectorXd::Random(5);
    const Eigen::VectorXd h = w0 * x + b0;
    std::vector<double> y(h.data(), h.data() + 12);
    mix(r, y);
    road::merge(r, w);
    road::merge(r, b);
    CHECK((w * x + b - Eigen::Map<const Eigen::VectorXd>(y.data(), 12)).cwiseAbs().maxCoeff() < 1e-14);
    CHECK((w - road::make_matrix(r) * w0).cwiseAbs().maxCoeff() < 1e-14);
    road::merge(road::make_inverse(r), w);
    road::merge(road::make_inverse(r), b);
    CHECK((w - w0).cwiseAbs().maxCoeff() < 1e-13);
    CHECK((b - b0).cwiseAbs().maxCoeff() < 1e-13);
    CHECK((road::make_matrix(road::make_inverse(r)) - road::make_matrix(r).inverse()).cwiseAbs().maxCoeff() <
          1e-12);
}

TEST_CASE("road: negated angles and inverse magnitudes undo road_1", "[adapters][road]") {
    const road::adapter a = random_adapter({.channels = 16, .group = 4}, 31);
    auto theta = a.theta(), alpha = a.alpha();
    for (double& t : theta) t = -t;
    for (double& v : alpha) v = 1 / v;
    const auto back = road::make_product(road::make_blocks({a.config(), theta, alpha}), road::make_blocks(a));
    CHECK((road::make_matrix(back) - Eigen::MatrixXd::Identity(16, 16)).cwiseAbs().maxCoeff() < 1e-15);
}

TEST_CASE("road: adapters on disjoint pairs commute, and selection is their product", "[adapters][road]") {
    const std::vector<std::uint8_t> mine{1, 0, 0, 1, 1, 0};
    std::vector<std::uint8_t> yours;
    for (auto m : mine) yours.push_back(m == 0);
    const auto none = road::make_identity_blocks(12, 4);
    const auto a = road::make_blocks(random_adapter({.channels = 12, .group = 4}, 1));
    const auto b =
        road::make_blocks(random_adapter({.channels = 12, .group = 4, .variant = variant::road_4}, 2));
    const auto only_a = road::select_pairs(mine, a, none), only_b = road::select_pairs(yours, b, none);
    const auto both = road::make_matrix(road::select_pairs(mine, a, b));
    CHECK((road::make_matrix(road::make_product(only_a, only_b)) - both).cwiseAbs().maxCoeff() == 0);
    CHECK((road::make_matrix(road::make_product(only_b, only_a)) - both).cwiseAbs().maxCoeff() == 0);
}

TEST_CASE("road: folded into RoPE's tables it turns as one after the other", "[adapters][road]") {
    const rw::index heads = 3, tokens = 5;
    const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
    const auto where = rw::position_ids::text(tokens, 100);
    for (const rw::pair_layout layout :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
          rw::pair_layout::blocked_by(4)}) {
        const rw::index group = layout.group_of(4);
        for (double alpha : {1.0, 0.75}) {
            const road::adapter a({.channels = heads * 8, .group = group}, noise(heads * 4, 3),
                                  std::vector<double>(static_cast<std::size_t>(heads * 4), alpha));
            auto one_by_one = noise(tokens * heads * 8, 8), folded = one_by_one;
            const auto h = one_by_one;
            mix(road::make_blocks(a), one_by_one);
            rw::rotate(layout, rw::heads_view<double>(one_by_one.data(), tokens, heads, 8),
                       rw::make_rotation_table<double>(omega, where));
            const auto table = road::make_folded_table<double>(a, omega, where, layout);
            const rw::heads_view<double> view(folded.data(), tokens, heads, 8);
            rw::rotate(layout, view, table);
            CHECK(worst(folded, one_by_one) < 1e-14);
            rw::unrotate(layout, view, table);
            CHECK(worst(folded, h) < 1e-14);
        }
    }
    const road::adapter uneven({.channels = 8, .group = 8}, noise(4, 1), {1, 1, 2, 1});
    const road::adapter wrong_group({.channels = 8, .group = 4});
    const road::adapter four({.channels = 8, .group = 8, .variant = variant::road_4});
    const auto fold = [&](const road::adapter& a) {
        return refusal([&] { road::make_folded_table<float>(a, omega, where, rw::half_split{}); });
    };
    CHECK(fold(uneven) == "road::make_folded_table: alpha must be one number for all pairs: wanted 1, got 2");
    CHECK(fold(wrong_group) == "road::make_folded_table: group must be the layout's own, got 4");
    CHECK(fold(four) == "road::make_folded_table: variant must be road_1, got 4");
}

TEST_CASE("road: what does not fit is refused with its value", "[adapters][road][errors]") {
    CHECK(refusal([] { road::adapter({.channels = 24, .group = 7}); }) ==
          "road::adapter: group must be even and > 0, got 7");
    CHECK(refusal([] { road::adapter({.channels = 24, .group = 10}); }) ==
          "road::adapter: group must divide channels, got 10");
    CHECK(refusal([] { road::adapter({.channels = 24, .group = 0}); }) ==
          "road::adapter: group must be even and > 0, got 0");
    CHECK(refusal([] { road::adapter({.channels = 24, .group = 8, .variant = variant{3}}); }) ==
          "road::adapter: variant must be road_1, road_2 or road_4, got 3");
    CHECK(refusal([] {
              road::adapter({.channels = 4, .group = 4}, {0, 0, 0}, {1, 1});
          }) == "road::adapter: theta must hold parameter_count numbers: wanted 2, got 3");
    CHECK(refusal([] {
              road::adapter({.channels = 4, .group = 4}, {0, 0}, {1, std::nan("")});
          }).starts_with("road::adapter: alpha must be finite, got"));
    const road::adapter zero({.channels = 4, .group = 4}, {0.3, 0.2}, {1, 0});
    CHECK(refusal([&] { road::make_inverse(road::make_blocks(zero)); }) ==
          "road::make_inverse: every block must be invertible, its determinant not 0, got 0");
    // road_2 with equal rows of opposite sign: (cos t, -sin t; sin u, cos u) with t - u = pi / 2.
    const road::adapter flat({.channels = 2, .group = 2, .variant = variant::road_2},
                             {0.4 + 2 * std::atan(1.0), 0.4}, {1, 1});
    CHECK_FALSE(refusal([&] { road::make_inverse(road::make_blocks(flat)); }).empty());
    const auto r = road::make_identity_blocks(8, 4);
    Eigen::MatrixXf w(6, 2);
    // Blocks that anyone may have filled: every entry checks them before it reads.
    const auto each_refuses = [&](const road::pair_blocks& bad, const std::string& text) {
        Eigen::MatrixXd any(bad.channels(), 1);
        CHECK(refusal([&] { road::make_inverse(bad); }) == "road::make_inverse: " + text);
        CHECK(refusal([&] { road::make_transpose(bad); }) == "road::make_transpose: " + text);
        CHECK(refusal([&] { road::make_matrix(bad); }) == "road::make_matrix: " + text);
        CHECK(refusal([&] { road::merge(bad, any); }) == "road::merge: " + text);
        CHECK(refusal([&] { road::make_product(bad, bad); }) == "road::make_product: " + text);
        CHECK(refusal([&] { road::make_table(bad); }) == "road::make_table: " + text);
        const std::vector<std::uint8_t> flags(static_cast<std::size_t>(bad.pairs()));
        CHECK(refusal([&] { road::select_pairs(flags, bad, bad); }) == "road::select_pairs: " + text);
    };
    const std::vector<double> two{1, 2};
    each_refuses({2, two, {}, {}, two}, "blocks' a, b, c and d must be of one size: wanted 2, got 0");
    each_refuses({0, two, two, two, two}, "blocks.group must be even and > 0, got 0");
    each_refuses({3, two, two, two, two}, "blocks.group must be even and > 0, got 3");
    each_refuses({-2, two, two, two, two}, "blocks.group must be even and > 0, got -2");
    each_refuses({8, two, two, two, two}, "blocks.group must divide the channels, got 8");
    CHECK(refusal([&] { road::merge(r, w); }) ==
          "road::merge: weight must have R's channels as rows: wanted 8, got 6");
    CHECK(refusal([&] { road::make_product(r, road::make_identity_blocks(8, 8)); }) ==
          "road::make_product: blocks must have the same group: wanted 4, got 8");
}
