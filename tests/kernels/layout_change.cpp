// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/layout_change.hpp>

#include <numeric>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEMPLATE_TEST_CASE("layout_change: pairs come out in their order and go back where they stood",
                   "[kernels][layout_change]", double, float) {
    const rw::pair_layout layouts[] = {rw::half_split{}, rw::interleaved{}, rw::blocked<8>{}};
    for (const rw::index pairs : {4, 8, 20, 36, 64})
        for (const rw::pair_layout layout : layouts)
            for (const rw::index first : {rw::index(0), rw::index(3)}) {
                std::vector<TestType> head(static_cast<std::size_t>(2 * pairs) + 2, TestType(-1));
                std::iota(head.begin() + 1, head.end() - 1, TestType(0));
                const rw::index count = pairs - first;
                std::vector<TestType> x(static_cast<std::size_t>(count) + 1, TestType(-7)), y = x;
                const rw::detail::plain_heads<TestType> source{head.data() + 1, 0};
                rw::detail::gather_pairs(layout, source.at(0), first, count, pairs, x.data(), y.data());
                for (rw::index i = 0; i < count; ++i) {
                    CHECK(x[std::size_t(i)] == TestType(layout.first(first + i, pairs)));
                    CHECK(y[std::size_t(i)] == TestType(layout.second(first + i, pairs)));
                }
                CHECK(x.back() == TestType(-7));
                CHECK(y.back() == TestType(-7));
                std::vector<TestType> back(head.size(), TestType(-1));
                rw::detail::scatter_pairs(layout, back.data() + 1, first, count, pairs,
                                          static_cast<const TestType*>(x.data()),
                                          static_cast<const TestType*>(y.data()));
                std::vector<TestType> want(head.size(), TestType(-1));
                for (rw::index i = first; i < pairs; ++i)
                    for (const rw::index c : {layout.first(i, pairs), layout.second(i, pairs)})
                        want[std::size_t(c) + 1] = head[std::size_t(c) + 1];
                CHECK(back == want);
            }
}
