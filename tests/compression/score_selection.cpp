// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/score_selection.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

TEMPLATE_TEST_CASE("score_selection: keys have the order of the scores", "[compression][selection]", float,
                   double) {
    using limits = std::numeric_limits<TestType>;
    const std::vector<TestType> ascending{-limits::infinity(),  limits::lowest(),      TestType(-1),
                                          -limits::min(),       -limits::denorm_min(), TestType(0),
                                          limits::denorm_min(), limits::min(),         TestType(1),
                                          limits::max(),        limits::infinity()};
    for (std::size_t i = 0; i < ascending.size(); ++i)
        for (std::size_t j = 0; j < ascending.size(); ++j) {
            CAPTURE(ascending[i], ascending[j]);
            CHECK((rw::detail::order_key(ascending[i]) < rw::detail::order_key(ascending[j])) == (i < j));
        }
    CHECK(rw::detail::order_key(TestType(-0.0)) == rw::detail::order_key(TestType(0)));
}

TEST_CASE("score_selection: the weighted threshold finds the K best", "[compression][selection]") {
    std::mt19937 engine(5);
    for (int round = 0; round < 200; ++round) {
        const int items = 1 + int(engine() % 40);
        std::vector<float> scores(items);
        std::vector<std::int32_t> counts(items);
        std::vector<std::uint32_t> keys(items);
        std::vector<float> all;
        for (int c = 0; c < items; ++c) {
            scores[c] = float(int(engine() % 9) - 4) * (engine() % 2 ? 1.0f : 1e-30f);
            counts[c] = std::int32_t(engine() % 4);
            keys[c] = rw::detail::order_key(scores[c]);
            all.insert(all.end(), counts[c], scores[c]);
        }
        if (all.empty()) continue;
        std::sort(all.begin(), all.end(), std::greater<>());
        const auto wanted = rw::index(1 + engine() % all.size());
        const auto t = rw::detail::find_threshold(keys.data(), counts.data(), items, wanted);
        const float edge = all[wanted - 1];
        CHECK(t.key == rw::detail::order_key(edge));
        rw::index above = 0;
        for (float s : all) above += s > edge;
        CHECK(t.equal == wanted - above);
    }
}

TEMPLATE_TEST_CASE("score_selection: ties, empty scores and everything", "[compression][selection]", float,
                   double) {
    using key = decltype(rw::detail::order_key(TestType{}));
    const std::vector<TestType> scores{2, 5, 5, TestType(-3), 9};
    const std::vector<std::int32_t> counts{4, 1, 2, 3, 0};  // no token has the best score
    std::vector<key> keys;
    for (TestType s : scores) keys.push_back(rw::detail::order_key(s));
    const auto threshold = [&](rw::index wanted) {
        return rw::detail::find_threshold(keys.data(), counts.data(), 5, wanted);
    };
    CHECK(threshold(1).key == keys[1]);
    CHECK(threshold(1).equal == 1);
    CHECK(threshold(3).key == keys[1]);  // both items at 5 share the place
    CHECK(threshold(3).equal == 3);
    CHECK(threshold(4).key == keys[0]);
    CHECK(threshold(4).equal == 1);
    CHECK(threshold(10).key == keys[3]);
    CHECK(threshold(10).equal == 3);

    const key one = rw::detail::order_key(TestType(0));
    const std::int32_t many = 2000000000;
    CHECK(rw::detail::find_threshold(&one, &many, 1, many).key == one);
    CHECK(rw::detail::find_threshold(&one, &many, 1, many).equal == many);
}
