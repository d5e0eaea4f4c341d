// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rotate_reference.hpp>

#include <set>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/rotation_oracle.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

TEMPLATE_TEST_CASE("pair_arithmetic: kernels are the reference within a rounding, for the usual head sizes",
                   "[kernels][pair_arithmetic]", double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    for (rw::index dim : {32, 64, 80, 96, 128, 256})
        for (rw::pair_layout layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
            const auto table = rw::make_rotation_table<C>(rw::frequencies::geometric({.rotary_dim = dim}),
                                                          rw::position_ids::text(3, 777));
            support::heads_buffer<TestType> fast({1, 3, 4, dim}), plain({1, 3, 4, dim});
            rw::rotate(layout, fast.fill(1).view(), table);
            rw::rotate_reference(layout, plain.fill(1).view(), table.rows());
            const auto a = fast.numbers(), b = plain.numbers();
            const double unit =
                sizeof(TestType) == 2 ? 0x1p-6 : 8 * double(std::numeric_limits<C>::epsilon());
            double worst = 0;
            for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
            CHECK(worst <= unit);
        }
}

TEMPLATE_TEST_CASE("pair_arithmetic: past the caches the loops change places, and no bit changes",
                   "[kernels][pair_arithmetic]", double, float, rw::f16, rw::bf16) {
    const rw::index n = rw::simd::lanes<rw::compute_t<TestType>>;
    // Around the registers a row may fill, around one copy of a row, and with tails of every kind.
    const std::set<rw::index> sizes{n,
                                    2 * n + 1,
                                    4 * n,
                                    8 * n,
                                    8 * n + 3,
                                    rw::detail::copied_pairs,
                                    rw::detail::copied_pairs + 4 * n + 1,
                                    2 * rw::detail::copied_pairs + n + n / 2};
    constexpr rw::index heads = 3;
    for (rw::index pairs : sizes)
        for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
            for (rw::index gap : {0, 5}) {
                const auto bytes = heads * 2 * pairs * static_cast<rw::index>(sizeof(TestType));
                const rw::index tokens = rw::detail::cached_bytes / bytes + 1;
                std::vector<double> positions(static_cast<std::size_t>(tokens));
                for (std::size_t t = 0; t < positions.size(); ++t)
                    positions[t] = static_cast<double>(t * 37 % 1000) - 100;
                const auto table = rw::make_rotation_table<rw::compute_t<TestType>>(
                    rw::frequencies::geometric({.rotary_dim = 2 * pairs}).with_magnitude(1.25),
                    rw::position_ids::from(positions));
                heads_buffer<TestType> whole({1, tokens, heads, 2 * pairs}, gap, gap ? 3 : 0);
                auto apart = whole.fill(7);
                const auto before = whole.numbers();
                rw::rotate(layout, whole.view(), table);
                for (rw::index t = 0; t < tokens; ++t)
                    rw::rotate(layout, apart.view().token_slice(t, 1), table.rows().token_slice(t, 1));
                CAPTURE(pairs, int(layout.kind), gap);
                CHECK(support::same_bits(whole.dense(), apart.dense()));
                CHECK(whole.canaries_alive());
                CHECK(support::worst_over_budget(layout, whole.view(), before, table.rows()) <= 1);
            }
}
