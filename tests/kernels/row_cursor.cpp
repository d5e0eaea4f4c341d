// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/rotate.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/rotation_oracle.hpp"

namespace rw = ropewalk;

namespace {

/// The same angles as an ordinary table: the kernels must agree bit for bit.
template <class C>
rw::rotation_table<C> spread(const rw::uniform_table<C>& table, rw::index pairs) {
    std::vector<C> cos, sin;
    for (const C c : table.cos()) cos.insert(cos.end(), static_cast<std::size_t>(pairs), c);
    for (const C s : table.sin()) sin.insert(sin.end(), static_cast<std::size_t>(pairs), s);
    return rw::rotation_table<C>::from_arrays(cos.data(), sin.data(),
                                              {.rows = table.row_count(), .pairs = pairs});
}

}  // namespace

TEMPLATE_TEST_CASE("rotate uniform: the bits of a full table, every layout and width",
                   "[kernels][row_cursor]", float, double, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    const std::vector<double> phi{0.3, -2.9, 100.5, 3.1};
    const rw::uniform_table<C> table(rw::position_ids::from(phi));
    for (const rw::index pairs : {0, 1, 3, 4, 16, 24, 64, 65, 96, 130})
        for (const rw::index gap : {0, 3})
            for (const auto layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                                      rw::pair_layout::blocked_by(8)}) {
                if (!layout.fits(pairs)) continue;
                const rw::heads_shape shape{2, 2, 3, 2 * pairs};
                support::heads_buffer<TestType> got(shape, gap, 1), want(shape, gap, 1);
                got.fill(7);
                want.fill(7);
                rw::rotate(layout, got.view(), table);
                const auto full = spread(table, pairs);
                rw::rotate(layout, want.view(), full);
                CHECK(support::same_bits(got.dense(), want.dense()));
                CHECK(got.canaries_alive());
            }
}

TEST_CASE("rotate uniform: untouched tokens, both tensors, parts, and back", "[kernels][row_cursor]") {
    rw::position_ids ids;
    ids.append(rw::listed_run{{1.5}}).append(rw::untouched_run{1}).append(rw::listed_run{{-0.5}});
    const rw::uniform_table<float> table(ids);
    support::heads_buffer<float> q({1, 3, 4, 8}), k({1, 3, 2, 8}), parts({1, 3, 4, 8});
    q.fill(1);
    k.fill(2);
    parts.fill(1);
    const auto before = q.numbers();
    rw::rotate(rw::half_split{}, q.view(), k.view(), table);
    const auto after = q.numbers();
    for (std::size_t i = 32; i < 64; ++i) CHECK(after[i] == before[i]);
    CHECK(after[0] != before[0]);
    for (rw::index part = 0; part < 5; ++part)
        rw::rotate(rw::half_split{}, parts.view(), table, {.parts = 5, .part = part});
    CHECK(support::same_bits(parts.dense(), q.dense()));
    rw::unrotate(rw::half_split{}, q.view(), table);
    const auto back = q.numbers();
    for (std::size_t i = 0; i < back.size(); ++i) CHECK(back[i] == Approx(before[i]).margin(1e-6));
}

TEST_CASE("rotate uniform: half a turn changes every sign", "[kernels][row_cursor]") {
    const std::vector<double> pi{3.14159265358979323846};
    const rw::uniform_table<double> table(rw::position_ids::from(pi));
    support::heads_buffer<double> x({1, 1, 2, 6});
    x.fill(3);
    const auto before = x.numbers();
    rw::rotate(rw::interleaved{}, x.view(), table);
    const auto after = x.numbers();
    for (std::size_t i = 0; i < before.size(); ++i)
        CHECK(after[i] == Approx(-before[i]).epsilon(1e-14).margin(1e-14));
}
