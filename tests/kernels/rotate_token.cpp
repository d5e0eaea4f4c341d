// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rotate_reference.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;

TEMPLATE_TEST_CASE("rotate_token: kernels are the reference within a rounding, for the usual head sizes",
                   "[kernels][rotate_token]", double, float, rw::f16, rw::bf16) {
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
