// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/dispatch/rotate.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
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
                CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(layout, q.view(), k.view(), view)));
                INFO(unit << " pairs " << pairs);
                CHECK(support::worst_over_budget(layout, q.view(), before_q, view) <= 1);
                CHECK(support::worst_over_budget(layout, k.view(), before_k, view) <= 1);
                CHECK(q.canaries_alive());
                CHECK(k.canaries_alive());
            }
    }
}

TEST_CASE(
    "dispatch: the unit of the tests' own flags has the bits of the kernels in all directions and parts",
    "[dispatch]") {
#define NAME2(x) #x
#define NAME(x) NAME2(x)
    if (ropewalk_use_unit(NAME(ROPEWALK_ISA)) != ROPEWALK_OK)
        return;  // compiled for something between two units
    const auto table = table_of<float>(20);
    heads_buffer<float> direct({1, 5, 3, 40}), through = direct.fill(1);
    rw::rotate(rw::interleaved{}, direct.view(), table);
    for (rw::index part = 0; part < 7; ++part)
        CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(rw::interleaved{}, through.view(),
                                                               table.rows(), {.part = {7, part}})));
    CHECK(support::same_bits(direct.dense(), through.dense()));
    rw::rotate_gradient(rw::interleaved{}, direct.view(), table);
    CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(rw::interleaved{}, through.view(), table.rows(),
                                                           {.direction = ROPEWALK_GRADIENT})));
    CHECK(support::same_bits(direct.dense(), through.dense()));
    rw::unrotate(rw::interleaved{}, direct.view(), table);
    CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(rw::interleaved{}, through.view(), table.rows(),
                                                           {.direction = ROPEWALK_UNROTATE})));
    CHECK(support::same_bits(direct.dense(), through.dense()));
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
        CHECK(refused([](call& c) { c.dtype = 0; }));
        CHECK(refused([](call& c) { c.dtype = 5; }));
        CHECK(refused([](call& c) { c.layout = 4; }));
        CHECK(refused([](call& c) { c.layout = ROPEWALK_BLOCKED, c.group = 3; }));
        CHECK(refused([](call& c) { c.direction = 3; }));
        CHECK(refused([](call& c) { c.tokens = -1; }));
        CHECK(refused([](call& c) { c.q.data = nullptr; }));
        CHECK(refused([](call& c) { c.q.heads = -2; }));
        CHECK(refused([](call& c) { c.rows.cos = nullptr; }));
        CHECK(refused([](call& c) { c.rows.table_heads = 0; }));
        CHECK(refused([](call& c) { c.rows.dtype = ROPEWALK_F64; }));
        CHECK(refused([](call& c) { c.rows.dtype = ROPEWALK_F16; }));
        CHECK(refused([](call& c) { c.rows = {}; }));
        CHECK(refused([](call& c) { c.rows = {}, c.channels = 16; }));
        CHECK(refused([](call& c) { c.rows.table_rows = 4; }));
        CHECK(refused([](call& c) { c.version = ROPEWALK_C_VERSION + 1; }));
        CHECK(refused([](call& c) {
            static const int four[] = {0, 1, 2, 3};
            c.rows.row_of_token = four, c.rows.row_count = 4;
        }));
        CHECK(refused([](call& c) { c.parts = 0; }));
        CHECK(refused([](call& c) { c.part = 1; }));
        auto empty = good;
        empty.tokens = 0, empty.q.data = nullptr, empty.rows.cos = nullptr;
        CHECK(ropewalk_rotate(&empty) == ROPEWALK_OK);
        // Rows of C++ that copy say so.
        const auto copied = rw::dispatch::make_rotate_call(rw::layout_slice{.read = rw::half_split{}},
                                                           x.view(), rw::copy_rows<float>(5));
        CHECK(copied.rows.dtype == ROPEWALK_NO_ROTATION);
        CHECK(rw::dispatch::run(copied));
        CHECK(support::same_bits(x.dense(), before));
    }
}

TEST_CASE("dispatch: a call with a row that the table does not have touches nothing and says which",
          "[dispatch][errors]") {
    const auto table = table_of<float>(8);
    heads_buffer<float> q({2, 35, 2, 16}, 1);
    heads_buffer<rw::f16> k({2, 35, 1, 16}, 1);
    const std::vector<int> threes(70, 3);
    std::vector<std::int32_t> narrow(70, 3);
    narrow[4] = -7;
    std::vector<std::int64_t> wide(narrow.begin(), narrow.end());
    for (const std::string& unit : units()) {
        REQUIRE(ropewalk_use_unit(unit.c_str()) == ROPEWALK_OK);
        for (const std::size_t missing : {0, 1, 31, 32, 34, 69})
            for (const int form : {0, 1, 2, 3, 4}) {
                const auto before_q = q.fill(1).dense();
                const auto before_k = k.fill(2).dense();
                auto call = rw::dispatch::make_rotate_call(rw::half_split{}, q.view(), table.rows(threes));
                if (form == 1) call.k = rw::dispatch::make_tensor(k.view()), call.k_dtype = ROPEWALK_F16;
                if (form == 2) call.rows.batch_stride = 35;
                if (form == 3) call.rows.batch_stride = ROPEWALK_SAME_ROWS;
                if (form == 4) call.parts = 70;  // of part 0, which has another token
                narrow[missing] = 5, wide[missing] = (std::int64_t(1) << 32) + 3;
                for (const bool is_wide : {false, true}) {
                    call.rows.row_of_token = is_wide ? nullptr : narrow.data();
                    call.rows.row_of_token_64 = is_wide ? wide.data() : nullptr;
                    call.rows.row_count = 70;
                    const bool read = form != 3 || missing < 35;
                    INFO(unit << " form " << form << " missing " << missing << " wide " << is_wide);
                    char text[128];
                    CHECK(ropewalk_explain_rotate(&call, text, sizeof text) ==
                          (read ? ROPEWALK_BAD_CALL : ROPEWALK_OK));
                    if (!read) continue;
                    const std::string why =
                        "row index of a token must be at most the last row of the table: wanted 4, got " +
                        std::string(is_wide ? "4294967299" : "5");
                    CHECK(text == why);
                    CHECK(ropewalk_rotate(&call) == ROPEWALK_BAD_CALL);
                    ropewalk_last_misfit(text, sizeof text);
                    CHECK(text == why);
                    CHECK(support::same_bits(q.dense(), before_q));
                    CHECK(support::same_bits(k.dense(), before_k));
                }
                narrow[missing] = 3, wide[missing] = 3;
            }
    }
}

TEST_CASE("dispatch: q and k of different types, as two calls have them", "[dispatch]") {
    const auto table = table_of<float>(24);
    const std::vector<std::int64_t> rows{4, -1, 0, 2};
    const auto view = table.rows(rows);
    for (const std::string& unit : units()) {
        REQUIRE(ropewalk_use_unit(unit.c_str()) == ROPEWALK_OK);
        heads_buffer<float> q({2, 2, 3, 48}, 1), want_q = q.fill(1);
        heads_buffer<rw::bf16> k({2, 2, 2, 48}, 1), want_k = k.fill(2);
        for (rw::index part = 0; part < 5; ++part)
            CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(rw::interleaved{}, q.view(), k.view(),
                                                                   view, {.part = {5, part}})));
        CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(rw::interleaved{}, want_q.view(), view)));
        CHECK(rw::dispatch::run(rw::dispatch::make_rotate_call(rw::interleaved{}, want_k.view(), view)));
        CHECK(support::same_bits(q.dense(), want_q.dense()));
        CHECK(support::same_bits(k.dense(), want_k.dense()));
        CHECK((q.canaries_alive() && k.canaries_alive()));
        // k does not fit: q is not touched either.
        auto call = rw::dispatch::make_rotate_call(rw::interleaved{}, q.view(), k.view(), view);
        call.k.head_stride = 47;
        CHECK(ropewalk_rotate(&call) == ROPEWALK_BAD_CALL);
        CHECK(support::same_bits(q.dense(), want_q.dense()));
        call = rw::dispatch::make_rotate_call(rw::interleaved{}, q.view(), k.view(), view);
        call.k_dtype = ROPEWALK_F64;  // reads rows of another type
        CHECK(ropewalk_rotate(&call) == ROPEWALK_BAD_CALL);
    }
}

TEST_CASE("dispatch: slices of rows and of channels, and two layouts", "[dispatch]") {
    const auto table = table_of<double>(6);
    const std::vector<std::uint32_t> numbers{4, 3, 0, 2, 1, 1};
    const auto all = table.rows(numbers);
    const rw::layout_slice slice{.read = rw::interleaved{}, .write = rw::half_split{}, .first_channel = 5};
    for (const std::string& unit : units()) {
        REQUIRE(ropewalk_use_unit(unit.c_str()) == ROPEWALK_OK);
        for (const auto& rows :
             {all.in_batches(2), all.in_batches(2).token_slice(1, 2), all, all.token_slice(2, 4),
              all.token_slice(0, 2).repeated(2), table.rows_from(1, 2).repeated(2)}) {
            const rw::index batches = 2, tokens = rows.count() / 2;
            heads_buffer<double> x({batches, tokens, 2, 20}, 1), want = x.fill(1);
            for (const auto direction : {ROPEWALK_ROTATE, ROPEWALK_GRADIENT, ROPEWALK_UNROTATE}) {
                CHECK(rw::dispatch::run(
                    rw::dispatch::make_rotate_call(slice, x.view(), rows, {.direction = direction})));
                if (direction == ROPEWALK_ROTATE) rw::rotate(slice, want.view(), rows);
                if (direction == ROPEWALK_GRADIENT) rw::rotate_gradient(slice, want.view(), rows);
                if (direction == ROPEWALK_UNROTATE) rw::unrotate(slice, want.view(), rows);
            }
            CHECK(support::worst(x.dense(), want.dense()) < 1e-14);
            CHECK(x.canaries_alive());
        }
    }
}

TEST_CASE("dispatch: products that wrap, strides under which heads meet, and what else was taken once",
          "[dispatch][errors]") {
    const auto table = table_of<float>(8);
    heads_buffer<float> x({1, 5, 2, 16});
    x.fill(1);
    const auto before = x.dense();
    const auto good = rw::dispatch::make_rotate_call(rw::half_split{}, x.view(), table.rows());
    using call = rw::dispatch::rotate_call;
    const auto why = [&](auto change) {
        auto changed = good;
        change(changed);
        char text[160];
        CHECK(ropewalk_rotate(&changed) == ROPEWALK_BAD_CALL);
        CHECK(support::same_bits(x.dense(), before));
        CHECK(ropewalk_explain_rotate(&changed, text, sizeof text) == ROPEWALK_BAD_CALL);
        const std::string reason = text;
        return reason.substr(0, reason.find(" must"));
    };
    for (const std::string& unit : units()) {
        REQUIRE(ropewalk_use_unit(unit.c_str()) == ROPEWALK_OK);
        CHECK(why([](call& c) {
                  c.batches = c.tokens = std::ptrdiff_t(1) << 32;
                  c.q.data = nullptr, c.rows.cos = c.rows.sin = nullptr;
              }) == "batches * tokens");
        CHECK(why([](call& c) { c.rows.pairs = std::ptrdiff_t(1) << 62; }) == "pairs");
        CHECK(why([](call& c) { c.rows.pairs = PTRDIFF_MAX; }) == "pairs");
        CHECK(why([](call& c) { c.rows.row_stride = 7; }) == "row_stride");
        CHECK(why([](call& c) { c.rows.row_stride = PTRDIFF_MAX; }) == "row_stride");
        CHECK(why([](call& c) { c.rows.table_rows = std::ptrdiff_t(1) << 55; }) == "the table");
        CHECK(why([](call& c) { c.q.head_stride = 15; }) == "q: the head stride");
        CHECK(why([](call& c) { c.q.token_stride = 31; }) == "q: the token stride");
        CHECK(why([](call& c) { c.q.token_stride = 0; }) == "q: the token stride");
        CHECK(why([](call& c) { c.q.head_stride = PTRDIFF_MIN; }) == "q: head_stride");
        CHECK(why([](call& c) { c.rows.table_heads = 2, c.rows.head_stride = 7; }) ==
              "head_stride of the rows");
        CHECK(why([](call& c) { c.rows.table_heads = 3, c.rows.head_stride = 8; }) ==
              "q: rows with heads of their own");
        CHECK(why([](call& c) { c.rows.first_token = 1; }) == "table_rows");
        CHECK(why([](call& c) { c.rows.first_token = PTRDIFF_MAX; }) == "first_token");
        CHECK(why([](call& c) { c.batches = 5, c.tokens = 1, c.rows.batch_stride = PTRDIFF_MAX; }) ==
              "batch_stride of the rows");
        CHECK(why([](call& c) { c.first_channel = 1; }) == "q: first_channel + 2 * pairs");
        CHECK(why([](call& c) { c.channels = PTRDIFF_MIN; }) == "channels");
        CHECK(why([](call& c) {
                  static const std::int32_t narrow[5] = {};
                  static const std::int64_t wide[5] = {};
                  c.rows.row_of_token = narrow, c.rows.row_of_token_64 = wide, c.rows.row_count = 5;
              }) == "row_of_token and row_of_token_64");
        CHECK(why([](call& c) { c.part = -1; }) == "part");
    }
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
        return !rw::dispatch::run(call) && support::same_bits(x.dense(), before) && x.canaries_alive();
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
    // Views without anything in them are done, whatever their rows.
    CHECK(rw::dispatch::run(make_rotate_call(rw::half_split{}, q.view().head_slice(0, 0), rows)));
    CHECK(rw::dispatch::run(make_rotate_call(rw::half_split{}, q.view().token_slice(0, 0), rows)));
    CHECK(refused(q, make_rotate_call(rw::half_split{}, q.view().token_slice(3, 3), rows)));
    // k alone is a call like q alone.
    const auto first = rows.token_slice(0, 1);
    heads_buffer<float> alone = k, other = k;
    CHECK(
        rw::dispatch::run(make_rotate_call(rw::half_split{}, rw::heads_view<float>{}, alone.view(), first)));
    CHECK(rw::dispatch::run(make_rotate_call(rw::half_split{}, other.view(), first)));
    CHECK(support::same_bits(alone.dense(), other.dense()));
    CHECK_FALSE(support::same_bits(alone.dense(), k.dense()));
}
