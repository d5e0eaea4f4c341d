// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

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
        rw::position_ids::from(std::vector<double>{5, 0, 100000}));
}

/// The layout `write` of a head that stands in the layout `read`.
template <class T>
std::vector<T> relaid(const std::vector<T>& x, rw::index channels, rw::pair_layout read,
                      rw::pair_layout write) {
    std::vector<T> out(x.size());
    const rw::index pairs = channels / 2;
    for (std::size_t head = 0; head < x.size(); head += std::size_t(channels))
        for (rw::index i = 0; i < pairs; ++i) {
            out[head + std::size_t(write.first(i, pairs))] = x[head + std::size_t(read.first(i, pairs))];
            out[head + std::size_t(write.second(i, pairs))] = x[head + std::size_t(read.second(i, pairs))];
        }
    return out;
}

}  // namespace

TEMPLATE_TEST_CASE("rotate_into: same dtype and layout is rotate, bit for bit", "[kernels][rotate_into]",
                   double, float, rw::f16, rw::bf16) {
    for (rw::index pairs : {1, 20, 64, 515, 1200})  // past one head buffer too
        for (rw::pair_layout layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
            const auto table = table_of<rw::compute_t<TestType>>(pairs);
            heads_buffer<TestType> from({1, 3, 2, 2 * pairs}, 1), to({1, 3, 2, 2 * pairs}, 3, 1);
            from.fill(7);
            const auto source = from.dense();
            rw::rotate_into(layout, from.view(), to.view(), table);
            CHECK(support::same_bits(from.dense(), source));
            rw::rotate(layout, from.view(), table);
            CHECK(support::same_bits(from.dense(), to.dense()));
            CHECK(to.canaries_alive());
        }
}

TEMPLATE_TEST_CASE("rotate_into: another layout is rotate and a permutation, also in place",
                   "[kernels][rotate_into]", double, float, rw::f16, rw::bf16) {
    const rw::pair_layout layouts[] = {rw::half_split{}, rw::interleaved{}, rw::blocked<8>{}};
    for (rw::index pairs : {4, 36, 512})
        for (auto read : layouts)
            for (auto write : layouts) {
                const auto table = table_of<rw::compute_t<TestType>>(pairs);
                heads_buffer<TestType> from({1, 3, 2, 2 * pairs}), to({1, 3, 2, 2 * pairs}, 2),
                    same = from.fill(7);
                rw::rotate_into(rw::layout_slice{.read = read, .write = write}, from.view(), to.view(),
                                table);
                rw::rotate_into(rw::layout_slice{.read = read, .write = write}, same.view(), same.view(),
                                table);
                rw::rotate(read, from.view(), table);
                CHECK(support::same_bits(relaid(from.dense(), 2 * pairs, read, write), to.dense()));
                CHECK(support::same_bits(same.dense(), to.dense()));
            }
}

TEST_CASE("rotate_into: f32 to other formats rounds once", "[kernels][rotate_into]") {
    const rw::index pairs = 40;
    heads_buffer<float> from({1, 3, 2, 2 * pairs});
    const auto before = from.fill(1).numbers();
    const auto narrow = [&]<class D>(D) {
        const auto table = table_of<rw::compute_t<D>>(pairs);
        heads_buffer<D> to({1, 3, 2, 2 * pairs}, 1);
        rw::rotate_into(rw::half_split{}, from.view(), to.view(), table);
        CHECK(support::worst_over_budget(rw::half_split{}, to.view(), before, table.rows()) <= 1);
        CHECK(to.canaries_alive());
    };
    narrow(rw::f16{});
    narrow(rw::bf16{});
    narrow(double{});
}

TEST_CASE("rotate_into: from some heads of a tensor into others, which lie between them",
          "[kernels][rotate_into]") {
    const auto table = table_of<float>(8);
    heads_buffer<float> both({1, 3, 4, 16}), alone({1, 3, 2, 16});
    both.fill(1);
    const auto whole = both.view();
    REQUIRE(rw::rotate_into(rw::half_split{}, whole.head_slice(0, 2), alone.view(), table.rows_from(0, 3)));
    REQUIRE(rw::rotate_into(rw::half_split{}, whole.head_slice(0, 2), whole.head_slice(2, 2),
                            table.rows_from(0, 3)));
    for (rw::index token = 0; token < 3; ++token)
        CHECK(std::equal(whole.at(0, token, 2), whole.at(0, token, 2) + 32, alone.view().at(0, token, 0)));
}

TEST_CASE("rotate_into: a source whose strides lead out of the address space is refused",
          "[kernels][rotate_into][errors]") {
    std::vector<float> memory(1024);
    constexpr rw::index far_away = std::numeric_limits<rw::index>::max() / 2;
    const rw::heads_view<float> to(memory.data(), {2, 3, 4, 8});
    const auto fit = [&](rw::heads_strides strides, rw::heads_shape shape = {2, 3, 4, 8}) {
        return to_string(
            rw::detail::fit_apart(rw::heads_view<const float>(memory.data() + 512, shape, strides), to));
    };
    const std::string text = "extents times strides must fit the address space, extent: wanted 1, got ";
    CHECK(fit({96, 32, 8}) == "fits");
    CHECK(fit({0, 0, 0}) == "fits");  // every head is the same one
    CHECK(fit({far_away, 32, 8}) == text + "2");
    CHECK(fit({96, -far_away, 8}) == text + "3");
    CHECK(fit({96, 32, std::numeric_limits<rw::index>::min()}) == text + "4");
    // The stride of a dimension of one is not used.
    const rw::heads_view<float> single(memory.data(), {1, 3, 4, 8}, {far_away, 32, 8});
    const rw::heads_view<const float> beside(memory.data() + 1, {1, 3, 4, 8}, {far_away, 32, 8});
    CHECK(to_string(rw::detail::fit_apart(beside, single)) ==
          "the source must be the target itself or apart from it, bytes between them: wanted 0, got -4");
}

TEST_CASE("rotate_into: a const source, and untouched rows are not written", "[kernels][rotate_into]") {
    const auto table = table_of<float>(8);
    heads_buffer<float> from({1, 3, 1, 16}), to({1, 3, 1, 16});
    from.fill(1), to.fill(2);
    const auto before = to.dense();
    const std::vector<int> rows{2, -1, 0};
    const rw::heads_view<const float> source = from.view();
    rw::rotate_into(rw::half_split{}, source, to.view(), table.rows(rows));
    const auto after = to.dense();
    CHECK(std::equal(after.begin() + 16, after.begin() + 32, before.begin() + 16));
    CHECK_FALSE(std::equal(after.begin(), after.begin() + 16, before.begin()));
}

TEMPLATE_TEST_CASE("rotate_into: a target larger than the caches gets the bits of rotate",
                   "[kernels][rotate_into]", float, double, rw::f16) {
    using C = rw::compute_t<TestType>;
    const TestType untouched = TestType(C(-7));
    constexpr rw::index heads = 4096;
    for (const rw::index pairs : {rw::index(64), rw::index(37)})  // whole registers, and a part of one
        for (const rw::pair_layout layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
            for (const rw::index offset :
                 {0, 1}) {  // numbers by which the target misses a register's boundary
                const rw::index head_bytes = 2 * pairs * static_cast<rw::index>(sizeof(TestType));
                const rw::index tokens = rw::detail::past_caches_bytes / (heads * head_bytes) + 1;
                std::vector<double> positions(static_cast<std::size_t>(tokens));
                std::iota(positions.begin(), positions.end(), 100.0);
                const auto table = rw::make_rotation_table<C>(
                    rw::frequencies::geometric({.rotary_dim = 2 * pairs}), rw::position_ids::from(positions));
                const auto size = static_cast<std::size_t>(tokens * heads * 2 * pairs);
                rw::detail::aligned_vector<TestType> from(size), to(size + 16, untouched);
                for (std::size_t i = 0; i < size; ++i) from[i] = TestType(static_cast<C>(i % 101) - 50);
                const rw::heads_view<TestType> source(from.data(), tokens, heads, 2 * pairs);
                const rw::heads_view<TestType> target(to.data() + offset, tokens, heads, 2 * pairs);
                REQUIRE(rw::rotate_into(layout, source, target, table));
                rw::rotate(layout, source, table);
                CHECK(std::memcmp(from.data(), to.data() + offset, size * sizeof(TestType)) == 0);
                const auto is_untouched = [&](const TestType& x) {
                    return std::memcmp(&x, &untouched, sizeof x) == 0;
                };
                CHECK(std::all_of(to.end() - 16 + offset, to.end(), is_untouched));
                if (offset == 1) CHECK(is_untouched(to[0]));
            }
}
