// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/rotated_keys.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/numbers.hpp"

namespace rw = ropewalk;

TEST_CASE("rotated_keys: a row as it is read is the row that rotate makes", "[compression][retrieval]") {
    constexpr rw::index tokens = 40, heads = 2, d = 12;
    const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
    const auto rope =
        rw::make_fixed_scheme({.head_dim = d, .first_channel = 4, .layout = rw::interleaved{}}, omega);
    const auto k = support::noise(tokens * heads * d, 1);
    auto turned = k;
    rw::rotate(rope, rw::heads_view<double>(turned.data(), tokens, heads, d),
               rw::make_rotation_table<double>(omega, rw::position_ids::text(tokens)));
    std::vector<double> rows(3 * d), cos_sin(8);
    const rw::detail::rotated_keys<double, const double> keys{
        rw::heads_view<const double>(k.data(), tokens, heads, d), rope, omega, rows.data(), cos_sin.data()};
    for (rw::index n : {0, 1, 17, 39})
        for (rw::index h = 0; h < heads; ++h) {
            const double* const row = keys(n, h, n % 3);
            CHECK(row == rows.data() + n % 3 * d);
            for (rw::index c = 0; c < d; ++c)
                CHECK(row[c] ==
                      Approx(turned[static_cast<std::size_t>((n * heads + h) * d + c)]).margin(1e-14));
        }
}
