// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/musecontrollite.hpp>

#include <cmath>

#include "adapters/musecontrollite_layers.hpp"
#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace muse = ropewalk::musecontrollite;
using muse_layers::random_weights;
using support::noise;

namespace {

using vector = Eigen::VectorXd;

/// A head's map at a position, from the formulas.
vector mapped(const vector& x, double position, muse::position_map map) {
    const rw::index pairs = x.size() / 2;
    vector y = x;
    for (rw::index c = 0; c < pairs; ++c) {
        const double t = position * std::pow(1e4, -static_cast<double>(c) / static_cast<double>(pairs));
        const bool rotates = map == muse::position_map::rotation;
        y(c) = x(c) * std::cos(t) - (rotates ? x(c + pairs) : x(2 * c + 1)) * std::sin(t);
        y(c + pairs) = x(c + pairs) * std::cos(t) + (rotates ? x(c) : x(2 * c)) * std::sin(t);
    }
    return y;
}

constexpr rw::index batches = 2, queries = 5, keys = 7, heads = 4, dim = 6, width = heads * dim;

/// What one layer adds, number by number.
std::vector<double> expected(const std::vector<double>& q, const std::vector<double>& features,
                             const muse::control_weights<double>& w, muse::position_map map, double scale) {
    std::vector<double> added;
    for (rw::index b = 0; b < batches; ++b)
        for (rw::index n = 0; n < queries; ++n) {
            vector all(width);
            for (rw::index h = 0; h < heads; ++h) {
                const vector query =
                    mapped(Eigen::Map<const vector>(q.data() + ((b * queries + n) * heads + h) * dim, dim),
                           static_cast<double>(n) * keys / queries, map);
                vector sum = vector::Zero(dim);
                double weight = 0;
                for (rw::index j = 0; j < keys; ++j) {
                    const vector feature = Eigen::Map<const vector>(features.data() + (b * keys + j) * 5, 5);
                    const auto of = [&](const auto& m) {
                        return mapped(vector(m.middleRows(h / 2 * dim, dim) * feature),
                                      static_cast<double>(j), map);
                    };
                    const double share = std::exp(query.dot(of(w.to_k)) / std::sqrt(double(dim)));
                    sum += share * of(w.to_v);
                    weight += share;
                }
                all.segment(h * dim, dim) = sum / weight;
            }
            const vector out = scale * (w.conv_out * all);
            added.insert(added.end(), out.data(), out.data() + width);
        }
    return added;
}

}  // namespace

TEST_CASE("MuseControlLite layer: the sum of softmax, number by number, under both maps",
          "[adapters][musecontrollite]") {
    for (const auto map : {muse::position_map::rotation, muse::position_map::as_released}) {
        auto config = muse_layers::config;
        config.map = map;
        const auto weights = random_weights(3);
        const muse::control_layer<double> layer(config, weights);
        const auto q = noise(batches * queries * width, 1), features = noise(batches * keys * 5, 2);
        const auto before = noise(batches * queries * width, 4);
        auto hidden = before;
        const auto condition =
            layer.make_condition(rw::heads_view<const double>(features.data(), {batches, keys, 1, 5}));
        layer.add(rw::heads_view<const double>(q.data(), {batches, queries, heads, dim}), condition,
                  rw::heads_view<double>(hidden.data(), {batches, queries, 1, width}), 0.75);
        const auto added = expected(q, features, weights, map, 0.75);
        for (std::size_t i = 0; i < hidden.size(); ++i)
            CHECK(hidden[i] - before[i] == Approx(added[i]).margin(1e-12));
        CHECK(support::worst(hidden, before) > 0.1);
    }
}

TEST_CASE("MuseControlLite layer: where training starts it adds nothing; two conditions add up",
          "[adapters][musecontrollite]") {
    auto weights = random_weights(5);
    const auto other = random_weights(9);
    const auto q = noise(batches * queries * width, 1), melody = noise(batches * keys * 5, 2),
               sound = noise(batches * 3 * 5, 6), before = noise(batches * queries * width, 4);
    const rw::heads_view<const double> query(q.data(), {batches, queries, heads, dim});
    const auto after =
        [&](std::vector<std::pair<muse::control_weights<double>, const std::vector<double>*>> conditions) {
            auto hidden = before;
            for (const auto& [w, features] : conditions) {
                const muse::control_layer<double> layer(muse_layers::config, w);
                const auto tokens = static_cast<rw::index>(features->size()) / (batches * 5);
                layer.add(query,
                          layer.make_condition(
                              rw::heads_view<const double>(features->data(), {batches, tokens, 1, 5})),
                          rw::heads_view<double>(hidden.data(), {batches, queries, 1, width}));
            }
            return hidden;
        };
    const auto one = after({{weights, &melody}}), two = after({{other, &sound}}),
               both = after({{weights, &melody}, {other, &sound}});
    for (std::size_t i = 0; i < both.size(); ++i)
        CHECK(both[i] == Approx(one[i] + two[i] - before[i]).margin(1e-12));
    weights.conv_out.setZero();
    CHECK(after({{weights, &melody}}) == before);
}

TEST_CASE("MuseControlLite layer: f32 follows f64", "[adapters][musecontrollite]") {
    const auto w = random_weights(3);
    const muse::control_layer<double> wide(muse_layers::config, w);
    const muse::control_layer<float> narrow(
        muse_layers::config,
        {.to_k = w.to_k.cast<float>(), .to_v = w.to_v.cast<float>(), .conv_out = w.conv_out.cast<float>()});
    const auto run = [&]<class T>(const muse::control_layer<T>& layer) {
        const auto q = support::as<T>(noise(queries * width, 1)),
                   features = support::as<T>(noise(keys * 5, 2));
        std::vector<T> hidden(q.size());
        layer.add(rw::heads_view<const T>(q.data(), queries, heads, dim),
                  layer.make_condition(rw::heads_view<const T>(features.data(), keys, 1, 5)),
                  rw::heads_view<T>(hidden.data(), queries, 1, width));
        return support::widened(hidden);
    };
    CHECK(support::worst(run(wide), run(narrow)) < 1e-4);
}

TEST_CASE("MuseControlLite guidance: one condition and two", "[adapters][musecontrollite]") {
    const std::vector<double> u{1, 2}, t{3, -1}, c{0.5, 4}, a{7, 7};
    std::vector<double> to(2);
    const auto guided = [&](std::span<const double> both, const muse::guidance& by) {
        muse::fill_guided<double>(u, t, c, both, to, by);
        return to;
    };
    CHECK(guided({}, {}) == std::vector<double>{1 + 7 * 2 + 1.5 * -2.5, 2 + 7 * -3 + 1.5 * 5});
    CHECK(guided(a, {.text = 2, .condition = 3, .second = 0.5}) ==
          std::vector<double>{1 + 2 * 2 + 3 * -2.5 + 0.5 * 6.5, 2 + 2 * -3.0 + 3 * 5 + 0.5 * 3});
    // Weights of 1 believe the best informed, weights of 0 the least.
    CHECK(guided({}, {.text = 1, .condition = 1}) == c);
    CHECK(guided(a, {.text = 1, .condition = 1, .second = 1}) == a);
    CHECK(guided(a, {.text = 0, .condition = 0, .second = 0}) == u);
    CHECK_REFUSES("musecontrollite::fill_guided: both must be empty or of the size of nothing, got 1",
                  guided(std::span(a).first(1), {}));
}

TEST_CASE("MuseControlLite layer: what does not fit is refused", "[adapters][musecontrollite][errors]") {
    const auto with = [](auto change) {
        auto config = muse_layers::config;
        auto weights = random_weights(1);
        change(config, weights);
        return support::refusal([&] { muse::control_layer<double>(config, weights); });
    };
    const std::string who = "musecontrollite::control_layer: ";
    CHECK(with([](auto& c, auto&) { c.kv_heads = 3; }) == who + "kv_heads must divide heads, got 3");
    CHECK(with([](auto& c, auto&) { c.condition_channels = 0; }) ==
          who + "condition_channels must be >= 1, got 0");
    CHECK(with([](auto&, auto& w) { w.to_k.conservativeResize(11, 5); }) ==
          who + "to_k must be [kv_heads * head_dim, condition_channels]: wanted [12, 5], got [11, 5]");
    CHECK(with([](auto&, auto& w) { w.to_v.conservativeResize(13, 5); }) ==
          who + "to_v must be [kv_heads * head_dim, condition_channels]: wanted [12, 5], got [13, 5]");
    CHECK(with([](auto&, auto& w) { w.conv_out.conservativeResize(12, 24); }) ==
          who + "conv_out must be [heads * head_dim, heads * head_dim]: wanted [24, 24], got [12, 24]");
    const muse::control_layer<double> layer(muse_layers::config, random_weights(1));
    const auto x = noise(48, 1);
    auto hidden = x;
    const rw::heads_view<const double> q(x.data(), 2, heads, dim);
    const auto condition = layer.make_condition(rw::heads_view<const double>(x.data(), 3, 1, 5));
    CHECK_REFUSES(
        "musecontrollite::control_layer::make_condition: features must have condition_channels channels: "
        "wanted 5, got 6",
        layer.make_condition(rw::heads_view<const double>(x.data(), 3, 1, 6)));
    CHECK_REFUSES(
        "musecontrollite::control_layer::add: queries must have the layer's heads and head_dim, their heads "
        "being, got 2",
        layer.add(rw::heads_view<const double>(x.data(), 2, 2, dim), condition,
                  rw::heads_view<double>(hidden.data(), 2, 1, width)));
    CHECK_REFUSES(
        "musecontrollite::control_layer::add: hidden must have the queries' tokens and batches, got 1",
        layer.add(q, condition, rw::heads_view<double>(hidden.data(), 1, 1, width)));
    CHECK_REFUSES("musecontrollite::control_layer::add: condition must be one of this layer, got 35", [&] {
        auto cut = condition;
        cut.keys.pop_back();
        layer.add(q, cut, rw::heads_view<double>(hidden.data(), 2, 1, width));
    }());
    CHECK(hidden == x);
}
