// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/road_intervention.hpp>

#include <Eigen/QR>

#include "adapters/road_inputs.hpp"
#include "support/catch.hpp"
#include "support/gaussian.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace road = ropewalk::road;
using road::variant;
using road_inputs::expected;
using road_inputs::random_adapter;
using support::noise;
using support::refusal;
using support::worst;

namespace {

/// `rows` orthonormal rows.
Eigen::MatrixXd orthonormal(rw::index rows, rw::index channels, unsigned seed) {
    const Eigen::MatrixXd any = support::gaussian(channels, channels, seed);
    return Eigen::MatrixXd(any.householderQr().householderQ()).topRows(rows);
}
road::pair_blocks blocks_of(rw::index channels, unsigned seed) {
    return road::make_blocks(
        random_adapter({.channels = channels, .group = 2, .variant = variant::road_4}, seed));
}
std::vector<double> product(const Eigen::MatrixXd& m, const std::vector<double>& h) {
    std::vector<double> y;
    for (std::size_t at = 0; at < h.size(); at += static_cast<std::size_t>(m.rows())) {
        const Eigen::VectorXd row = m * Eigen::Map<const Eigen::VectorXd>(h.data() + at, m.rows());
        y.insert(y.end(), row.data(), row.data() + row.size());
    }
    return y;
}

}  // namespace

TEST_CASE("road_intervention: h + M^T (R M h - M h) in f64, f32 and bf16", "[adapters][road_intervention]") {
    const rw::index channels = 24;
    for (rw::index subspace : {0, 2, 6, 24}) {
        const auto m = orthonormal(subspace, channels, 3);
        const auto r = blocks_of(subspace, 4);
        const auto h = noise(2 * 5 * 3 * channels, 5);
        std::vector<double> want;
        for (std::size_t at = 0; at < h.size(); at += static_cast<std::size_t>(channels)) {
            const Eigen::VectorXd x = Eigen::Map<const Eigen::VectorXd>(h.data() + at, channels);
            const Eigen::VectorXd y = x + m.transpose() * (road::make_matrix(r) * (m * x) - m * x);
            want.insert(want.end(), y.data(), y.data() + channels);
        }
        const auto mixed = [&]<class E>(E) {
            auto own = support::as<E>(h);
            road::intervention<rw::compute_t<E>> turn(m, r);
            CHECK(turn.channels() == channels);
            CHECK(turn.subspace() == subspace);
            turn.mix(rw::heads_view<E>(own.data(), {2, 5, 3, channels}));
            return support::widened(own);
        };
        CHECK(worst(mixed(double{}), want) < 1e-12);
        CHECK(worst(mixed(float{}), want) < 1e-5);
        CHECK(worst(mixed(rw::bf16{}), want) < 0.05);
        CHECK(worst(product(road::make_intervention_matrix(m, r), h), want) < 1e-12);
    }
}

TEST_CASE("road_intervention: more rows than go through together, and neither width a whole register",
          "[adapters][road_intervention]") {
    const rw::index channels = 83, tokens = 71, heads = 2, stride = channels + 5;
    const auto m = orthonormal(22, channels, 12);
    const auto r = blocks_of(22, 13);
    const Eigen::MatrixXd whole = road::make_intervention_matrix(m, r);
    const auto before = support::as<float>(noise(tokens * heads * stride, 14));
    auto x = before;
    road::intervention<float> change(m, r);
    change.mix(rw::heads_view<float>(x.data(), {1, tokens, heads, channels}, {0, heads * stride, stride}));
    double off = 0;
    bool outside_stays = true;
    for (rw::index row = 0; row < tokens * heads; ++row) {
        const auto first = static_cast<std::size_t>(row * stride);
        const Eigen::VectorXd want =
            whole * Eigen::Map<const Eigen::VectorXf>(before.data() + first, channels).cast<double>();
        for (rw::index c = 0; c < stride; ++c) {
            const auto at = first + static_cast<std::size_t>(c);
            if (c < channels)
                off = std::max(off, std::abs(static_cast<double>(x[at]) - want(c)));
            else
                outside_stays = outside_stays && x[at] == before[at];
        }
    }
    CHECK(off < 1e-5);
    CHECK(outside_stays);
}

TEST_CASE("road_intervention: a square identity is the adapter, chosen channels are selection",
          "[adapters][road_intervention][reduces]") {
    const auto r = blocks_of(8, 6);
    auto h = noise(3 * 8, 7);
    const auto whole = expected(r, h);
    CHECK(worst(product(road::make_intervention_matrix(Eigen::MatrixXd::Identity(8, 8), r), h), whole) <
          1e-14);
    // Channels 2, 3, 6, 7 of eight: pairs 1 and 3 of group 2.
    Eigen::MatrixXd chosen = Eigen::MatrixXd::Zero(4, 8);
    chosen(0, 2) = chosen(1, 3) = chosen(2, 6) = chosen(3, 7) = 1;
    const road::pair_blocks part{2, {r.a[1], r.a[3]}, {r.b[1], r.b[3]}, {r.c[1], r.c[3]}, {r.d[1], r.d[3]}};
    const std::vector<std::uint8_t> subset{0, 1, 0, 1};
    const auto selected = expected(road::select_pairs(subset, r, road::make_identity_blocks(8, 2)), h);
    road::intervention<double> turn(chosen, part);
    turn.mix(rw::heads_view<double>(h.data(), 3, 1, 8));
    CHECK(worst(h, selected) < 1e-14);
}

TEST_CASE("road_intervention: orthogonal subspaces commute, the rest of h stays",
          "[adapters][road_intervention]") {
    const auto basis = orthonormal(12, 12, 8);
    const auto one = road::make_intervention_matrix(basis.topRows(4), blocks_of(4, 9)),
               two = road::make_intervention_matrix(basis.middleRows(4, 6), blocks_of(6, 10));
    CHECK((one * two - two * one).cwiseAbs().maxCoeff() < 1e-12);
    const Eigen::MatrixXd outside = basis.bottomRows(2);
    CHECK((outside * one * two - outside).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("road_intervention: what does not fit is refused with its value",
          "[adapters][road_intervention][errors]") {
    const auto r = blocks_of(4, 11);
    CHECK(refusal([&] { road::intervention<float>(orthonormal(3, 8, 1), r); }) ==
          "road::intervention: projection must have a row for each of R's channels: wanted 4, got 3");
    Eigen::MatrixXd m = orthonormal(4, 8, 1);
    m.row(2) *= 2;
    CHECK(refusal([&] {
              road::intervention<float>(m, r);
          }).starts_with("road::intervention: projection must have orthonormal rows"));
    m(2, 2) = std::nan("");
    CHECK_FALSE(refusal([&] { road::make_intervention_matrix(m, r); }).empty());
    CHECK(refusal([&] {
              road::intervention<float>(orthonormal(4, 8, 1), {3, r.a, r.b, r.c, r.d});
          }) == "road::intervention: blocks.group must be even and > 0, got 3");
}
