// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/mix_blocks.hpp>

#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

template <class C>
rotation_blocks<C> noise_table(rw::index rows, rw::index heads, rw::index blocks, rw::index size) {
    rotation_blocks<C> table({rows, heads, blocks, size});
    for (rw::index r = 0; r < rows; ++r)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index b = 0; b < blocks; ++b)
                table.set(r, h, b, support::noise(size * size, unsigned((r * 31 + h) * 31 + b)));
    return table;
}

template <class T>
void against_long_double() {
    using C = compute_t<T>;
    for (const rw::index size : {1, 2, 3, 4, 5, 6, 7, 8, 16, 64})
        for (const rw::index blocks : {1, 3, 9, 40})
            for (const bool per_head : {false, true})
                for (const bool transposed : {false, true}) {
                    const rw::index heads = blocks == 9 ? 3 : 1, tokens = 4, tail = 2;
                    const auto table = noise_table<C>(tokens, per_head ? heads : 1, blocks, size);
                    const std::vector<std::int32_t> rows{2, -1, 0, 3};
                    support::heads_buffer<T> x({1, tokens, heads, blocks * size + tail}, 5, 1);
                    x.fill(9);
                    const auto before = x.numbers();
                    const auto of_tokens = table.rows(rows);
                    transposed ? mix_blocks_transposed(x.view(), of_tokens) : mix_blocks(x.view(), of_tokens);
                    const auto after = x.numbers();
                    CHECK(x.canaries_alive());
                    const rw::index channels = blocks * size + tail;
                    for (rw::index n = 0; n < tokens; ++n)
                        for (rw::index h = 0; h < heads; ++h)
                            for (rw::index c = 0; c < channels; ++c) {
                                const auto at = (n * heads + h) * channels;
                                long double want = before[at + c], sum = 0;
                                if (rows[n] >= 0 && c < blocks * size) {
                                    want = 0;
                                    for (rw::index j = 0; j < size; ++j) {
                                        const rw::index b = c / size, i = c % size;
                                        const auto m =
                                            (long double)table.at(rows[n], per_head ? h : 0, b,
                                                                  transposed ? j : i, transposed ? i : j);
                                        want += m * before[at + b * size + j];
                                        sum += std::abs(m * before[at + b * size + j]);
                                    }
                                }
                                const double ulp = std::is_same_v<C, double> ? 0x1p-52 : 0x1p-23;
                                CHECK(std::abs(double(after[at + c] - want)) <=
                                      double(size * ulp * sum) + budgets::storage_rounding<T>(double(want)));
                            }
                }
}

}  // namespace

TEST_CASE("mix_blocks: every size and type against long double", "[kernels][mix_blocks]") {
    against_long_double<double>();
    against_long_double<float>();
    against_long_double<bf16>();
    against_long_double<f16>();
}

TEST_CASE("mix_blocks: blocks of two are interleaved pairs", "[kernels][mix_blocks][reduces]") {
    const rw::index pairs = 17, tokens = 5;
    const auto rows = make_rotation_table<double>(frequencies::geometric({.rotary_dim = 2 * pairs}),
                                                  position_ids::text(tokens, 100));
    rotation_blocks<double> blocks({tokens, 1, pairs, 2});
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index i = 0; i < pairs; ++i) {
            const double c = rows.cos_row(n)[i], s = rows.sin_row(n)[i];
            blocks.set(n, 0, i, std::vector<double>{c, -s, s, c});
        }
    support::heads_buffer<double> a({1, tokens, 2, 2 * pairs}), b({1, tokens, 2, 2 * pairs});
    a.fill(1), b.fill(1);
    rotate(interleaved{}, a.view(), rows);
    mix_blocks(b.view(), blocks);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-15);
    unrotate(interleaved{}, a.view(), rows);
    mix_blocks_transposed(b.view(), blocks);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-15);
}

TEST_CASE("mix_blocks: parts make the whole, in any split", "[kernels][mix_blocks]") {
    const auto table = noise_table<float>(3, 4, 2, 8);
    support::heads_buffer<float> whole({1, 3, 4, 16}), parts({1, 3, 4, 16});
    whole.fill(2);
    mix_blocks(whole.view(), table);
    for (const rw::index count : {2, 5, 12}) {
        parts.fill(2);
        for (rw::index p = 0; p < count; ++p) mix_blocks(parts.view(), table, {count, p});
        CHECK(support::same_bits(whole.dense(), parts.dense()));
    }
}

TEST_CASE("mix_blocks: NaN stays in its block, in any size", "[kernels][mix_blocks]") {
    for (const rw::index size : {2, 3, 4, 5, 8, 11}) {
        const auto table = noise_table<float>(1, 1, 9, size);
        for (const bool transposed : {false, true}) {
            std::vector<float> x(9 * size, 1.0f);
            x[4 * size + 1] = NAN;
            const heads_view<float> view(x.data(), 1, 1, 9 * size);
            transposed ? mix_blocks_transposed(view, table) : mix_blocks(view, table);
            for (rw::index i = 0; i < 9 * size; ++i) CHECK(std::isnan(x[i]) == (i / size == 4));
        }
    }
}

TEST_CASE("mix_blocks: nothing is a no-op", "[kernels][mix_blocks]") {
    const rotation_blocks<float> none({0, 1, 0, 4});
    mix_blocks(heads_view<float>(), none);
    std::vector<float> x(4, 1.0f);
    const rotation_blocks<float> empty({1, 1, 0, 4});
    mix_blocks(heads_view<float>(x.data(), 1, 1, 4), empty);
    CHECK(x == std::vector<float>(4, 1.0f));
}
