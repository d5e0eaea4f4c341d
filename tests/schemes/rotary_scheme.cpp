// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::worst;

namespace {

constexpr rw::index tokens = 5, heads = 3, head_dim = 14;

/// 8 of 14 channels from channel 4 on, with a magnitude that is not 1.
rw::rotary_scheme middle(rw::pair_layout read, rw::pair_layout write) {
    const auto omega = rw::frequencies::yarn({.rotary_dim = 8, .factor = 4, .original_context = 64});
    auto rope = rw::make_fixed_scheme({.head_dim = head_dim, .first_channel = 4, .layout = read}, omega);
    rope.write_layout = write;
    return rope;
}
rw::rotation_table<double> table_of(const rw::rotary_scheme& rope) {
    return rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(tokens, 37));
}
/// DeepSeek's: reads interleaved pairs, writes half-split ones.
rw::rotary_scheme two_layouts() { return middle(rw::interleaved{}, rw::half_split{}); }
rw::rotary_scheme one_layout() { return middle(rw::interleaved{}, rw::interleaved{}); }

using buffer = support::heads_buffer<double>;
buffer filled(unsigned seed = 1) {
    buffer x({2, tokens, heads, head_dim}, 1);
    x.fill(seed);
    return x;
}
/// A row a token of both batches.
std::vector<std::int32_t> rows_of_both() { return {0, 1, 2, 3, 4, 4, 3, 2, 1, 0}; }

double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

}  // namespace

TEST_CASE("rotary_scheme: what does not rotate has no pairs and asks for no frequencies",
          "[schemes][rotary_scheme]") {
    rw::rotary_scheme rope;
    CHECK(rope.spectrum_for(1).pairs() == 0);
    int asked = 0;
    rope.frequencies = [&](std::int64_t length) {
        ++asked;
        return rw::frequencies::geometric({.rotary_dim = 2 * length});
    };
    CHECK(rope.spectrum_for(3).pairs() == 3);
    rope.rotates = false;
    CHECK(rope.spectrum_for(3).pairs() == 0);
    CHECK(asked == 1);
    CHECK_REFUSES("spectrum_for: context_length must be >= 1, got -5", rope.spectrum_for(-5));
}

TEST_CASE("rotary_scheme: the slice of a head, of a slice, and of what is neither",
          "[schemes][rotary_scheme]") {
    const auto rope = one_layout();
    std::vector<float> memory(100);
    const auto slice = [&](rw::index channels) {
        return rope.slice(rw::heads_view<float>(memory.data(), 2, 2, channels));
    };
    CHECK(slice(14).channels() == 8);
    CHECK(slice(14).at(0, 1, 1) == memory.data() + 3 * 14 + 4);
    CHECK(slice(8).channels() == 8);  // the slice already
    CHECK(slice(8).at(0, 1, 1) == memory.data() + 3 * 8);
    for (const rw::index other : {0, 2, 10, 12, 13, 15, 24}) {  // packed heads are not one wide head
        CHECK(slice(other).channels() == other);
        CHECK(slice(other).at(0, 0, 0) == memory.data());
    }
}

TEST_CASE("rotary_scheme: require_fits says what a hot call keeps to itself",
          "[schemes][rotary_scheme][errors]") {
    const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
    for (const auto& rope : {one_layout(), two_layouts()}) {
        const auto table = table_of(rope);
        std::vector<double> memory(1000);
        const auto fits = [&](rw::heads_shape shape) {
            rw::require_fits(rope, rw::heads_view<double>(memory.data(), shape), table);
        };
        fits({1, tokens, heads, head_dim});
        fits({1, tokens, heads, 8});
        fits({1, 0, heads, 77});
        rw::require_fits(rope, rw::heads_view<double>(memory.data(), 2, heads, head_dim),
                         table.rows().token_slice(1, 2));
        const std::string channels =
            "require_fits: channels must be the head_dim or the rotary_dim of the scheme: wanted 14, got ";
        CHECK_REFUSES(channels + "42", fits({1, tokens, 1, 42}));
        CHECK_REFUSES(channels + "10", fits({1, tokens, heads, 10}));
        CHECK_REFUSES("require_fits: rows must be one per token (batches * tokens): wanted 10, got 5",
                      fits({2, tokens, heads, head_dim}));
        CHECK_REFUSES("require_fits: rows must be one per token (batches * tokens): wanted 2, got 5",
                      fits({1, 2, heads, head_dim}));
        auto still = rope;
        still.rotates = false;
        rw::require_fits(still, rw::heads_view<double>(memory.data(), tokens, heads, 42), table);
    }
    const auto table = rw::make_rotation_table(omega, rw::position_ids::text(tokens));
    std::vector<float> memory(1000);
    const rw::heads_view<float> x(memory.data(), tokens, heads, 8);
    rw::require_fits(rw::pair_layout::blocked_by(4), x, table);
    CHECK_REFUSES("require_fits: rotated channels must be a multiple of the layout's group: wanted 6, got 8",
                  rw::require_fits(rw::pair_layout::blocked_by(6), x, table));
    rw::rows_view<float> of_heads = table.rows();
    of_heads.heads = 2;
    CHECK_REFUSES(
        "require_fits: rows with heads of their own must be as many as the heads of the view: wanted 3, "
        "got 2",
        rw::require_fits(rw::half_split{}, x, of_heads));
}

TEST_CASE("rotary_scheme: every verb takes q and k, with rows in common or of their own, or no rows at all",
          "[schemes][rotary_scheme]") {
    for (const auto& rope : {one_layout(), two_layouts()}) {
        const auto table = table_of(rope), other = rw::make_rotation_table<double>(
                                               rope.spectrum_for(1), rw::position_ids::text(tokens, -900));
        const auto numbers = rows_of_both();
        const auto rows = table.rows(std::span<const std::int32_t>(numbers));
        const auto rows_k = other.rows(std::span<const std::int32_t>(numbers));
        const auto check = [&](auto together, auto rotate_q, auto rotate_k) {
            auto q = filled(), k = filled(2), q_alone = filled(), k_alone = filled(2);
            together(q.view(), k.view());
            rotate_q(q_alone.view());
            rotate_k(k_alone.view());
            CHECK(support::same_bits(q.dense(), q_alone.dense()));
            CHECK(support::same_bits(k.dense(), k_alone.dense()));
            CHECK_FALSE(support::same_bits(k.dense(), filled(2).dense()));
        };
        const auto back = [&](auto x) { rw::unrotate(rope, x, rows); };
        const auto gradient = [&](auto x) { rw::rotate_gradient(rope, x, rows); };
        check([&](auto q, auto k) { rw::unrotate(rope, q, k, rows); }, back, back);
        check([&](auto q, auto k) { rw::rotate_gradient(rope, q, k, rows); }, gradient, gradient);
        check([&](auto q, auto k) { rw::rotate(rope, q, k, rows, rows_k); },
              [&](auto x) { rw::rotate(rope, x, rows); }, [&](auto x) { rw::rotate(rope, x, rows_k); });
    }
    // Made on the fly, f64 rows are those of a table.
    const auto rope = one_layout();
    const auto omega = rope.spectrum_for(1);
    auto q = filled(), k = filled(2), want_q = filled(), want_k = filled(2);
    std::vector<double> where;
    for (const std::int32_t row : rows_of_both()) where.push_back(37 + row);
    rw::rotate(rope, q.view(), k.view(), rw::rows_on_the_fly(omega, where));
    const auto table = rw::make_rotation_table<double>(omega, rw::position_ids::from(where));
    rw::rotate(rope, want_q.view(), want_k.view(), table);
    CHECK(worst(q.dense(), want_q.dense()) < 1e-14);
    CHECK(worst(k.dense(), want_k.dense()) < 1e-14);
    CHECK(q.canaries_alive());
}

TEST_CASE("rotary_scheme: rotating is rotating the slice, the rest passes through",
          "[schemes][rotary_scheme]") {
    const auto table_rows = rows_of_both();
    for (const auto& rope : {one_layout(), two_layouts()}) {
        const auto table = table_of(rope);
        const auto rows = table.rows(std::span<const std::int32_t>(table_rows));
        auto x = filled(), want = filled();
        const auto part = want.view().channel_slice(4, 8);
        rw::rotate_into(rw::layout_slice{.read = rope.read_layout, .write = rope.write_layout},
                        rw::heads_view<const double>(part), part, rows);
        rw::rotate(rope, x.view(), rows);
        CHECK(support::same_bits(x.dense(), want.dense()));
        CHECK(x.canaries_alive());
        CHECK(x.dense() != filled().dense());

        // Queries and keys in one call are each on its own, whole heads beside a slice that stands alone.
        auto q = filled(), k_whole = filled(2);
        support::heads_buffer<double> k({2, tokens, 1, 8}, 3), k_alone({2, tokens, 1, 8}, 3);
        k.fill(3);
        k_alone.fill(3);
        rw::rotate(rope, q.view(), k.view(), rows);
        rw::rotate(rope, k_alone.view(), rows);
        CHECK(support::same_bits(q.dense(), want.dense()));
        CHECK(support::same_bits(k.dense(), k_alone.dense()));
    }
}

TEST_CASE("rotary_scheme: the inverse goes back to the layout that was read, the gradient is the transpose",
          "[schemes][rotary_scheme]") {
    const auto table_rows = rows_of_both();
    for (const auto& rope : {one_layout(), two_layouts()}) {
        const auto table = table_of(rope);
        REQUIRE(table.magnitude() > 1.1);
        const auto rows = table.rows(std::span<const std::int32_t>(table_rows));
        auto x = filled();
        rw::rotate(rope, x.view(), rows);
        const auto rotated = x.dense();
        rw::unrotate(rope, x.view(), rows);
        CHECK(worst(x.dense(), filled().dense()) < 1e-15 * 8);
        auto gradient = filled(2);
        rw::rotate_gradient(rope, gradient.view(), rows);
        CHECK(gradient.canaries_alive());
        CHECK(dot(filled(2).dense(), rotated) ==
              Approx(dot(gradient.dense(), filled().dense())).epsilon(1e-12));
    }
}

TEST_CASE("rotary_scheme: a layer without positions is left alone", "[schemes][rotary_scheme]") {
    auto rope = two_layouts();
    const auto table = table_of(rope);
    const auto table_rows = rows_of_both();
    const auto rows = table.rows(std::span<const std::int32_t>(table_rows));
    rope.rotates = false;
    auto q = filled(), k = filled(2);
    rw::rotate(rope, q.view(), rows);
    rw::rotate(rope, q.view(), k.view(), rows);
    rw::unrotate(rope, q.view(), rows);
    rw::rotate_gradient(rope, k.view(), rows);
    CHECK(support::same_bits(q.dense(), filled().dense()));
    CHECK(support::same_bits(k.dense(), filled(2).dense()));
}

TEST_CASE("rotary_scheme: the parts of a split make the whole, each element once",
          "[schemes][rotary_scheme]") {
    const auto table_rows = rows_of_both();
    for (const auto& rope : {one_layout(), two_layouts()})
        for (const rw::index parts : {2, 3, 40}) {
            const auto table = table_of(rope);
            const auto rows = table.rows(std::span<const std::int32_t>(table_rows));
            auto whole = filled(), split = filled(), q = filled(), k = filled(2), k_whole = filled(2);
            rw::rotate(rope, whole.view(), rows);
            rw::rotate(rope, k_whole.view(), rows);
            for (rw::index part = 0; part < parts; ++part) {
                rw::rotate(rope, split.view(), rows, {parts, part});
                rw::rotate(rope, q.view(), k.view(), rows, {parts, part});
            }
            CHECK(support::same_bits(split.dense(), whole.dense()));
            CHECK(support::same_bits(q.dense(), whole.dense()));
            CHECK(support::same_bits(k.dense(), k_whole.dense()));
            for (rw::index part = 0; part < parts; ++part)
                rw::unrotate(rope, split.view(), rows, {parts, part});
            CHECK(worst(split.dense(), filled().dense()) < 1e-15 * 8);
        }
}

TEST_CASE("rotary_scheme: factored rows of a grid give what its table gives", "[schemes][rotary_scheme]") {
    auto rope = rw::make_axial_scheme({.name = "axial", .head_dim = 8, .layout = rw::interleaved{}});
    rope.head_dim = head_dim;
    rope.first_channel = 3;
    const auto where = rw::positions::grid({.height = 2, .width = 5});
    const auto omega = rope.spectrum_for(1);
    const auto table = rw::make_rotation_table<double>(omega, where);
    const auto factored = rw::make_factored_table<double>(omega, where);
    const auto check = [&](auto verb) {
        buffer x({1, 10, heads, head_dim}), y({1, 10, heads, head_dim});
        x.fill(4);
        y.fill(4);
        const auto before = y.dense();
        verb(x.view(), table);
        verb(y.view(), factored);
        CHECK(worst(x.dense(), y.dense()) < 2e-15);
        CHECK(worst(y.dense(), before) > 0.1);
        CHECK(y.canaries_alive());
        auto still = rope;
        still.rotates = false;
        const auto rotated = y.dense();
        rw::rotate(still, y.view(), factored);
        rw::rotate(still, y.view(), y.view(), factored);
        rw::unrotate(still, y.view(), factored);
        rw::unrotate(still, y.view(), y.view(), factored);
        rw::rotate_gradient(still, y.view(), y.view(), factored);
        rw::rotate_gradient(still, y.view(), factored);
        CHECK(support::same_bits(y.dense(), rotated));
    };
    check([&](auto x, const auto& rows) { rw::rotate(rope, x, rows); });
    check([&](auto x, const auto& rows) { rw::rotate(rope, x.head_slice(0, 2), x.head_slice(2, 1), rows); });
    check([&](auto x, const auto& rows) { rw::unrotate(rope, x, rows); });
    check(
        [&](auto x, const auto& rows) { rw::unrotate(rope, x.head_slice(0, 1), x.head_slice(1, 2), rows); });
    check([&](auto x, const auto& rows) {
        rw::rotate_gradient(rope, x.head_slice(0, 1), x.head_slice(1, 2), rows);
    });
    check([&](auto x, const auto& rows) { rw::rotate_gradient(rope, x, rows); });
}

TEST_CASE("rotary_scheme: a table ends at the scheme's longest context and says how to go past it",
          "[schemes][rotary_scheme][errors]") {
    auto rope = one_layout();
    CHECK(rw::make_position_table(rope, 5).max_rows() > 5);  // an unknown longest context bounds nothing
    rope.max_context = 64;
    auto table = rw::make_position_table(rope, 16);
    CHECK(table.row_count() == 16);
    CHECK(table.max_rows() == 64);
    const std::int32_t last = 63;
    static_cast<void>(table.rows(last));
    CHECK(table.row_count() == 64);
    CHECK(rw::make_position_table(rope, 64).row_count() == 64);
    CHECK_REFUSES(
        "make_position_table: context_length must be at most the scheme's max_context 64 (for more: "
        "position_table(rope.spectrum_for(n), n)), got 65",
        rw::make_position_table(rope, 65));
    CHECK(rw::position_table<float>(rope.spectrum_for(65), 65).row_count() == 65);  // as the message says
    CHECK_REFUSES("spectrum_for: context_length must be >= 1, got 0", rw::make_position_table(rope, 0));
}
