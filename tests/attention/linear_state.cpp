// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/linear_state.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;
namespace detail = ropewalk::ROPEWALK_ISA::detail;
using map = detail::scaled_feature_map<double>;

namespace {

constexpr double none = -std::numeric_limits<double>::infinity();

map features_of(rw::pair_layout layout, rw::heads_view<const double> x) {
    map features(x.tokens(), x.channels());
    features.fill(layout, x);
    return features;
}

long double feature(double x) { return x > 0 ? x + 1.0L : std::exp(static_cast<long double>(x)); }

}  // namespace

TEST_CASE("linear_state: elu + 1", "[attention][linear_attention]") {
    CHECK(rw::attention::elu_plus_one(2.5) == 3.5);
    CHECK(rw::attention::elu_plus_one(0.0) == 1);
    CHECK(rw::attention::elu_plus_one(-1.0) == Approx(0.36787944117144233).epsilon(1e-15));
    CHECK(rw::attention::elu_plus_one(none) == 0);
}

TEST_CASE("linear_state: features of every batch, token and head, half-split whatever the layout was",
          "[attention][linear_attention]") {
    const rw::heads_shape shape{2, 3, 2, 10};
    const rw::index pairs = shape.channels / 2;
    const auto numbers = support::noise(2 * 3 * 2 * 10, 1, {-1, 2});
    for (const rw::pair_layout layout :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        const rw::heads_view<const double> x(numbers.data(), shape);
        for (rw::index b = 0; b < shape.batches; ++b)
            for (rw::index h = 0; h < shape.heads; ++h) {
                map features = features_of(layout, x.batch_slice(b, 1).head_slice(h, 1));
                CHECK(features.tokens() == shape.tokens);
                CHECK(features.finite());
                for (rw::index n = 0; n < shape.tokens; ++n) {
                    const rw::index row = ((b * shape.tokens + n) * shape.heads + h) * shape.channels;
                    const auto head = features.at(n);
                    CHECK(features.view().at(0, n, 0) == head.features);
                    for (rw::index c = 0; c < shape.channels; ++c)
                        CHECK(head.activations[c] == numbers[static_cast<std::size_t>(row + c)]);
                    for (rw::index p = 0; p < pairs; ++p) {
                        const double first = numbers[static_cast<std::size_t>(row + layout.first(p, pairs))],
                                     second =
                                         numbers[static_cast<std::size_t>(row + layout.second(p, pairs))];
                        CHECK(head.powers[p] == std::min(std::max(first, second), 0.0));
                        const long double power = std::exp(static_cast<long double>(head.powers[p]));
                        CHECK(head.features[p] * power == Approx(double(feature(first))).epsilon(1e-14));
                        CHECK(head.features[pairs + p] * power ==
                              Approx(double(feature(second))).epsilon(1e-14));
                    }
                }
            }
    }
}

TEST_CASE("linear_state: what it gives is the quotient of the plain sums", "[attention][linear_attention]") {
    // Powers that rise and fall, above 0 and below; the sums still have room in long double.
    for (const double deep : {0.0, -3.0, -150.0}) {
        const rw::index tokens = 9, channels = 6, width = 5;
        auto k = support::noise(tokens * channels, 2, {deep, 2}), q = support::noise(channels, 3, {deep, 2});
        for (rw::index n = 0; n < tokens; n += 2)
            for (rw::index c = 0; c < channels; ++c)
                k[static_cast<std::size_t>(n * channels + c)] -= deep / 2;
        const auto v = support::noise(tokens * width, 4);
        map keys = features_of(rw::half_split{}, rw::heads_view<const double>(k.data(), tokens, 1, channels));
        map query = features_of(rw::half_split{}, rw::heads_view<const double>(q.data(), 1, 1, channels));
        detail::linear_attention_state<double> state(channels, width);
        std::vector<double> out(static_cast<std::size_t>(width));
        for (int again = 0; again < 2; ++again) {
            std::vector<long double> sum(static_cast<std::size_t>(width));
            long double weight = 0;
            CHECK(state.empty());
            for (rw::index n = 0; n < tokens; ++n) {
                state.take(keys.at(n), v.data() + n * width);
                CHECK_FALSE(state.empty());
                long double w = 0;
                for (rw::index c = 0; c < channels; ++c)
                    w += feature(q[static_cast<std::size_t>(c)]) *
                         feature(k[static_cast<std::size_t>(n * channels + c)]);
                weight += w;
                state.read(query.at(0), out.data());
                for (rw::index j = 0; j < width; ++j) {
                    sum[static_cast<std::size_t>(j)] += w * v[static_cast<std::size_t>(n * width + j)];
                    CHECK(out[static_cast<std::size_t>(j)] ==
                          Approx(double(sum[static_cast<std::size_t>(j)] / weight)).epsilon(0).margin(1e-12));
                }
            }
            state.clear();
        }
    }
}

TEST_CASE("linear_state: a key without features leaves no trace", "[attention][linear_attention]") {
    const std::vector<double> k{none, none, none, none, 1, 0, -2, 3}, q{0.5, -0.5, 2, 1}, v{7, 1};
    map keys = features_of(rw::half_split{}, rw::heads_view<const double>(k.data(), 2, 1, 4));
    map query = features_of(rw::half_split{}, rw::heads_view<const double>(q.data(), 1, 1, 4));
    CHECK(keys.at(0).powers[0] == none);
    CHECK(keys.at(0).features[0] == 0);
    detail::linear_attention_state<double> state(4, 1);
    state.take(keys.at(0), &v[0]);
    CHECK(state.empty());
    state.take(keys.at(1), &v[1]);
    CHECK_FALSE(state.empty());
    double out = 0;
    state.read(query.at(0), &out);
    CHECK(out == Approx(1).epsilon(1e-15));
}
