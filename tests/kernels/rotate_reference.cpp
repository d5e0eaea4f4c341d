// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate_reference.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("rotate_reference: quarter turns by hand", "[kernels][rotate_reference]") {
    // Two pairs, cos = (0, 1), sin = (1, 0): the first pair turns by 90 degrees, the second stays.
    const double cos[] = {0, 1}, sin[] = {1, 0};
    const auto table = rw::rotation_table<double>::from_arrays(cos, sin, {.rows = 1, .pairs = 2});
    double half[] = {1, 2, 3, 4};  // pairs (1, 3), (2, 4)
    rw::rotate_reference(rw::half_split{}, rw::heads_view(half, 1, 1, 4), table.rows());
    CHECK(std::vector<double>(half, half + 4) == std::vector<double>{-3, 2, 1, 4});
    double inter[] = {1, 2, 3, 4};  // pairs (1, 2), (3, 4)
    rw::rotate_reference(rw::interleaved{}, rw::heads_view(inter, 1, 1, 4), table.rows());
    CHECK(std::vector<double>(inter, inter + 4) == std::vector<double>{-2, 1, 3, 4});
}
