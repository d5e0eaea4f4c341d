// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/dispatch/rotate.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <cstddef>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/rotation_oracle.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

namespace {

template <class C>
rw::rotation_table<C> table_of(rw::index pairs) {
    return rw::make_rotation_table<C>(
        rw::frequencies::geometric({.rotary_dim = 2 * pairs}).with_magnitude(1.1),
        rw::position_ids::from(std::vector<double>{3, 70000, -5, 0.5, 9}));
}
std::vector<std::string> units() {
    std::vector<std::string> out;
    for (std::ptrdiff_t i = 0; ropewalk_available_unit(i) != nullptr; ++i)
        out.emplace_back(ropewalk_available_unit(i));
    return out;
}

}  // namespace

TEST_CASE("dispatch: the call is plain data", "[dispatch]") {
    STATIC_REQUIRE(std::is_trivially_copyable_v<rw::dispatch::rotate_call>);
    STATIC_REQUIRE(std::is_standard_layout_v<rw::dispatch::rotate_call>);
    STATIC_REQUIRE(offsetof(rw::dispatch::rotate_call, size) == 0);
    REQUIRE_FALSE(units().empty());
}

TEMPLATE_TEST_CASE("dispatch: every unit of this CPU keeps the kernels' promise", "[dispatch]", double, float,
                   rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    for (const std::string& unit : units()) {
        REQUIRE(ropewalk_use_unit(unit.c_str()) == ROPEWALK_OK);
        CHECK(ropewalk_unit() == unit);
        for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                                       rw::pair_layout::blocked_by(2)})
            for (rw::index pairs : {1, 3, 15, 16, 17, 33, 64}) {
                const auto table = table_of<C>(pairs);
                const std::vector<int> rows{4, -1, 0, 2};
                heads_buffer<TestType> q({2, 2, 3, 2 * pairs}, 1, 1), k({2, 2, 1, 2 * pairs}, 2);
                const auto before_q = q.fill(1).numbers(), before_k = k.fill(2).numbers();
                const auto view = table.rows(rows);
                CHECK(rw::dispatch::rotate(rw::dispatch::make_rotate_call(layout, q.view(), k.view(), view)));
                INFO(unit << " pairs " << pairs);
                CHECK(support::worst_over_budget(layout, q.view(), before_q, view) <= 1);
                CHECK(support::worst_over_budget(layout, k.view(), before_k, view) <= 1);
                CHECK(q.canaries_alive());
                CHECK(k.canaries_alive());
            }
    }
}

TEST_CASE("dispatch: the unit of the tests' own flags has the bits of the kernels in all turns and parts",
          "[dispatch]") {
#define NAME2(x) #x
#define NAME(x) NAME2(x)
    if (ropewalk_use_unit(NAME(ROPEWALK_ISA)) != ROPEWALK_OK)
        return;  // compiled for something between two units
    const auto table = table_of<float>(20);
    heads_buffer<float> direct({1, 5, 3, 40}), door = direct.fill(1);
    rw::rotate(rw::interleaved{}, direct.view(), table);
    for (rw::index part = 0; part < 7; ++part)
        CHECK(rw::dispatch::rotate(rw::dispatch::make_rotate_call(rw::interleaved{}, door.view(),
                                                                  table.rows(), {.part = {7, part}})));
    CHECK(support::same_bits(direct.dense(), door.dense()));
    rw::rotate_gradient(rw::interleaved{}, direct.view(), table);
    CHECK(rw::dispatch::rotate(rw::dispatch::make_rotate_call(rw::interleaved{}, door.view(), table.rows(),
                                                              {.turn = ROPEWALK_GRADIENT})));
    CHECK(support::same_bits(direct.dense(), door.dense()));
    rw::unrotate(rw::interleaved{}, direct.view(), table);
    CHECK(rw::dispatch::rotate(rw::dispatch::make_rotate_call(rw::interleaved{}, door.view(), table.rows(),
                                                              {.turn = ROPEWALK_UNROTATE})));
    CHECK(support::same_bits(direct.dense(), door.dense()));
}

TEST_CASE("dispatch: a call that cannot be is refused and touches nothing", "[dispatch][errors]") {
    const auto table = table_of<float>(8);
    heads_buffer<float> x({1, 5, 2, 16});
    x.fill(1);
    const auto before = x.dense();
    const auto good = rw::dispatch::make_rotate_call(rw::half_split{}, x.view(), table.rows());
    const auto refused = [&](auto change) {
        auto call = good;
        change(call);
        return ropewalk_rotate(&call) == ROPEWALK_BAD_CALL && support::same_bits(x.dense(), before);
    };
    using call = rw::dispatch::rotate_call;
    for (const std::string& unit : units()) {
        REQUIRE(ropewalk_use_unit(unit.c_str()) == ROPEWALK_OK);
        CHECK(refused([](call& c) { c.size = 8; }));
        CHECK(refused([](call& c) { c.dtype = -1; }));
        CHECK(refused([](call& c) { c.dtype = 4; }));
        CHECK(refused([](call& c) { c.layout = 3; }));
        CHECK(refused([](call& c) { c.layout = ROPEWALK_BLOCKED, c.group = 3; }));
        CHECK(refused([](call& c) { c.turn = 3; }));
        CHECK(refused([](call& c) { c.turn = ROPEWALK_UNROTATE, c.rows.magnitude = 0; }));
        CHECK(refused([](call& c) { c.tokens = -1; }));
        CHECK(refused([](call& c) { c.q.data = nullptr; }));
        CHECK(refused([](call& c) { c.q.heads = -2; }));
        CHECK(refused([](call& c) { c.rows.cos = nullptr; }));
        CHECK(refused([](call& c) { c.rows.table_heads = 0; }));
        CHECK(refused([](call& c) { c.rows.table_rows = 4; }));
        CHECK(refused([](call& c) { c.reserved = 1; }));
        CHECK(refused([](call& c) {
            static const int four[] = {0, 1, 2, 3};
            c.rows.row_of_token = four, c.rows.row_count = 4;
        }));
        CHECK(refused([](call& c) { c.parts = 0; }));
        CHECK(refused([](call& c) { c.part = 1; }));
        auto empty = good;
        empty.tokens = 0, empty.q.data = nullptr, empty.rows.cos = nullptr;
        CHECK(ropewalk_rotate(&empty) == ROPEWALK_OK);
    }
    // A row that the table does not have leaves its token alone.
    std::vector<int> rows{0, 99, 1, -7, 2};
    auto outside = good;
    outside.rows.row_of_token = rows.data(), outside.rows.row_count = 5;
    CHECK(ropewalk_rotate(&outside) == ROPEWALK_OK);
    const auto after = x.dense();
    for (std::size_t token : {1u, 3u})
        CHECK(std::equal(after.begin() + std::ptrdiff_t(token) * 32,
                         after.begin() + std::ptrdiff_t(token + 1) * 32,
                         before.begin() + std::ptrdiff_t(token) * 32));
    CHECK_FALSE(std::equal(after.begin(), after.begin() + 32, before.begin()));
}

TEST_CASE("dispatch: views that do not fit their rows or each other make a call that is refused",
          "[dispatch][errors]") {
    const auto table = table_of<float>(8);
    const std::vector<int> two{0, 1};
    heads_buffer<float> q({1, 5, 2, 16}, 2), k({1, 1, 2, 16}, 2), wide({1, 5, 2, 32}, 2),
        narrow({1, 5, 2, 8}, 2);
    q.fill(1), k.fill(2), wide.fill(3), narrow.fill(4);
    const auto refused = [](heads_buffer<float>& x, const rw::dispatch::rotate_call& call) {
        const auto before = x.dense();
        return !rw::dispatch::rotate(call) && support::same_bits(x.dense(), before) && x.canaries_alive();
    };
    using rw::dispatch::make_rotate_call;
    const auto rows = table.rows();
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        CHECK(refused(k, make_rotate_call(layout, q.view(), k.view(), rows)));
        CHECK(refused(q, make_rotate_call(layout, q.view(), k.view(), rows)));
        CHECK(refused(wide, make_rotate_call(layout, wide.view(), rows)));
        CHECK(refused(narrow, make_rotate_call(layout, narrow.view(), rows)));
        CHECK(refused(wide, make_rotate_call(layout, q.view(), wide.view(), rows)));
        CHECK(refused(q, make_rotate_call(layout, q.view(), table.rows(two))));
    }
    // k alone is a call like q alone.
    heads_buffer<float> alone = k, other = k;
    CHECK(rw::dispatch::rotate(
        make_rotate_call(rw::half_split{}, rw::heads_view<float>{}, alone.view(), rows)));
    CHECK(rw::dispatch::rotate(make_rotate_call(rw::half_split{}, other.view(), rows)));
    CHECK(support::same_bits(alone.dense(), other.dense()));
    CHECK_FALSE(support::same_bits(alone.dense(), k.dense()));
}
