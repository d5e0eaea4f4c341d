// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/block_rotation.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

using bytes = std::vector<unsigned char>;

/// Heads of blocks with gaps of one block between them and a guard behind, filled with encoded numbers.
template <class Block>
struct head_blocks {
    head_blocks(std::size_t head_count, std::size_t blocks_a_head, unsigned seed)
        : heads(head_count), blocks(blocks_a_head), memory(heads * (blocks + 1) * sizeof(Block) + 64, 0x5a) {
        std::mt19937 engine(seed);
        std::normal_distribution<float> normal;
        std::vector<float> x(static_cast<std::size_t>(Block::size));
        for (std::size_t h = 0; h < heads; ++h)
            for (std::size_t b = 0; b < blocks; ++b) {
                for (float& v : x) v = normal(engine) * (b % 2 != 0 ? 3.0f : 0.2f);
                rw::encode_block(at(h)[b], x.data());
            }
    }
    Block* at(std::size_t head) { return reinterpret_cast<Block*>(memory.data()) + head * (blocks + 1); }
    rw::block_heads<Block> view() {
        return {at(0), static_cast<rw::index>(blocks + 1), static_cast<rw::index>(heads)};
    }
    std::vector<float> numbers(std::size_t head) {
        const auto size = static_cast<std::size_t>(Block::size);
        std::vector<float> x(blocks * size);
        for (std::size_t b = 0; b < blocks; ++b) rw::decode_block(at(head)[b], &x[b * size]);
        return x;
    }
    std::size_t heads, blocks;
    bytes memory;
};

struct row_buffer {
    std::vector<float> cos, sin;
    row_buffer(std::size_t pairs, double angle, unsigned seed) : cos(pairs), sin(pairs) {
        std::mt19937 engine(seed);
        std::uniform_real_distribution<double> any(-angle, angle);
        for (std::size_t i = 0; i < pairs; ++i) {
            const double a = any(engine);
            cos[i] = static_cast<float>(std::cos(a)), sin[i] = static_cast<float>(std::sin(a));
        }
    }
    rw::block_row view(rw::index first_channel) const {
        return {cos.data(), sin.data(), static_cast<rw::index>(cos.size()), first_channel};
    }
};

/// One lane of the registers' arithmetic: fused where the build is, so that bits can be compared.
float fused(float a, float b, float c) {
    float lane[rw::simd::lanes<float>];
    rw::simd::store(lane,
                    rw::simd::fma(rw::simd::broadcast(a), rw::simd::broadcast(b), rw::simd::broadcast(c)));
    return lane[0];
}

/// Decoded, rotated number by number, encoded: what rotate_blocks does, by the references. Only blocks that
/// the slice touches are encoded.
template <class Block>
void by_reference(rw::pair_layout layout, head_blocks<Block>& x, const row_buffer& row, rw::index first) {
    const auto pairs = static_cast<rw::index>(row.cos.size());
    const rw::index size = Block::size;
    for (std::size_t h = 0; h < x.heads; ++h) {
        auto numbers = x.numbers(h);
        for (rw::index i = 0; i < pairs; ++i) {
            float& u = numbers[first + layout.first(i, pairs)];
            float& v = numbers[first + layout.second(i, pairs)];
            const float a = u, b = v, c = row.cos[i], s = row.sin[i];
            u = fused(a, c, -rw::detail::rounded_product(b, s));
            v = fused(b, c, rw::detail::rounded_product(a, s));
        }
        if (pairs > 0)
            for (rw::index b = first / size; b <= (first + 2 * pairs - 1) / size; ++b)
                rw::encode_block(x.at(h)[b], &numbers[b * size]);
    }
}

const rw::pair_layout layouts[] = {rw::half_split{}, rw::interleaved{}, rw::blocked<8>{}, rw::blocked<64>{}};

}  // namespace

TEMPLATE_TEST_CASE("block_rotation: every slice has the bytes of the references, and nothing else changes",
                   "[kv][blocks]", rw::q8_0, rw::q4_0, rw::q8_block<64>, rw::q4_block<64>) {
    // Whole blocks and parts of them, odd channels too, one to nine heads, batches that end inside a head.
    const auto size = static_cast<std::size_t>(TestType::size);
    struct slice {
        std::size_t heads, blocks;
        rw::index pairs, first;
    };
    const std::vector<slice> slices{{1, 1, 16, 0},  {9, 2, 32, 0},  {5, 4, 64, 0},    {3, 6, 96, 0},
                                    {7, 4, 32, 64}, {2, 8, 128, 0}, {2, 12, 64, 128}, {3, 5, 40, 8},
                                    {3, 5, 3, 31},  {4, 5, 17, 33}, {2, 5, 1, 30},    {3, 4, 12, 64},
                                    {2, 3, 0, 5},   {3, 4, 64, 0},  {1, 40, 512, 64}};
    for (const auto& layout : layouts)
        for (const auto& s : slices) {
            if (!layout.fits(s.pairs)) continue;
            head_blocks<TestType> x(
                s.heads,
                std::max(s.blocks, (static_cast<std::size_t>(s.first + 2 * s.pairs) + size - 1) / size), 5);
            auto expected = x;
            const row_buffer row(static_cast<std::size_t>(s.pairs), 3, 6);
            by_reference(layout, expected, row, s.first);
            REQUIRE(rw::block_slice_fits(layout, row.view(s.first), TestType::size));
            rw::rotate_blocks(layout, x.view(), row.view(s.first));
            INFO("layout " << static_cast<int>(layout.kind) << " group " << layout.group << ", heads "
                           << s.heads << ", pairs " << s.pairs << " from channel " << s.first);
            CHECK((x.memory == expected.memory));
        }
}

TEST_CASE("block_rotation: slices longer than the buffer", "[kv][blocks]") {
    const row_buffer row(1024, 3, 7);
    for (const rw::pair_layout layout :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
        for (const rw::index first : {0, 32, 10}) {
            head_blocks<rw::q8_0> x(2, 66, 8);
            auto expected = x;
            const bool fits = rw::block_slice_fits(layout, row.view(first), 32);
            CHECK(fits == (layout.kind == rw::pair_layout::kind_type::interleaved || first % 32 == 0));
            if (!fits) continue;
            by_reference(layout, expected, row, first);
            CHECK(rw::rotate_blocks(layout, x.view(), row.view(first)));
            CHECK((x.memory == expected.memory));
        }
    CHECK(!rw::block_slice_fits(rw::half_split{}, {nullptr, nullptr, -1, 0}, 32));
    CHECK(!rw::block_slice_fits(rw::half_split{}, {nullptr, nullptr, 4, -1}, 32));
    CHECK(!rw::block_slice_fits(rw::blocked<8>{}, {nullptr, nullptr, 6, 0}, 32));
    CHECK(!rw::block_slice_fits(rw::blocked<8>{}, {nullptr, nullptr, 1024, 0}, 32));
    CHECK(!rw::block_slice_fits(rw::interleaved{}, {nullptr, nullptr, 1024, 3}, 32));
}

TEMPLATE_TEST_CASE("block_rotation: by nothing, nothing changes", "[kv][blocks]", rw::q8_0, rw::q4_0) {
    for (const auto& layout : layouts)
        for (const rw::index first : {0, 16, 7}) {
            head_blocks<TestType> x(5, 5, 9);
            const bytes before = x.memory;
            const row_buffer row(64, 0, 1);
            rw::rotate_blocks(layout, x.view(), row.view(first));
            CHECK((x.memory == before));
            CHECK(rw::rotate_blocks(layout, rw::block_heads<TestType>{x.at(0), 6, 0},
                                    row_buffer(64, 3, 1).view(first)));
            CHECK((x.memory == before));
        }
}

TEMPLATE_TEST_CASE("block_rotation: a NaN spreads over its pair of blocks and no further", "[kv][blocks]",
                   rw::q8_0, rw::q4_0) {
    const float nan_value = std::numeric_limits<float>::quiet_NaN();
    for (const std::uint16_t scale : {0x7e00, 0x7c00}) {
        head_blocks<TestType> x(3, 4, 10);
        x.at(1)[1].scale.bits = scale;
        auto expected = x;
        const row_buffer row(64, 3, 6);
        by_reference(rw::half_split{}, expected, row, 0);
        rw::rotate_blocks(rw::half_split{}, x.view(), row.view(0));
        CHECK((x.memory == expected.memory));
        for (std::size_t h = 0; h < 3; ++h) {
            const auto y = x.numbers(h);
            for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (h == 1 && i / 32 % 2 == 1));
        }
    }
    row_buffer row(64, 3, 6);
    row.sin[40] = nan_value;
    head_blocks<TestType> x(2, 4, 10);
    rw::rotate_blocks(rw::half_split{}, x.view(), row.view(0));
    const auto y = x.numbers(1);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 32 % 2 == 1));
}

namespace {

struct drift {
    double worst = 0, mean_square = 0;  // in units of the scale of the block as it would be without rounding
};

/// n rotations of 16 heads of 128 channels by angle(i, step) against one rotation in f64 of what the first
/// blocks held.
template <class Block, class Angle>
drift after(int n, Angle angle) {
    head_blocks<Block> x(16, 4, 20);
    std::vector<std::vector<float>> start;
    for (std::size_t h = 0; h < x.heads; ++h) start.push_back(x.numbers(h));
    std::vector<double> total(64, 0);
    for (int step = 0; step < n; ++step) {
        row_buffer row(64, 0, 1);
        for (std::size_t i = 0; i < 64; ++i) {
            const double a = angle(i, step);
            total[i] += a;
            row.cos[i] = static_cast<float>(std::cos(a)), row.sin[i] = static_cast<float>(std::sin(a));
        }
        rw::rotate_blocks(rw::half_split{}, x.view(), row.view(0));
    }
    drift out;
    for (std::size_t h = 0; h < x.heads; ++h) {
        const auto y = x.numbers(h);
        std::vector<double> exact(128);
        for (std::size_t i = 0; i < 64; ++i) {
            const double a = start[h][i], b = start[h][i + 64], c = std::cos(total[i]),
                         s = std::sin(total[i]);
            exact[i] = a * c - b * s, exact[i + 64] = b * c + a * s;
        }
        for (std::size_t block = 0; block < 4; ++block) {
            // The scale of a block follows its largest pair as that turns: the pair norms bound it.
            double largest = 0;
            for (std::size_t i = 0; i < 32; ++i) {
                const std::size_t pair = (block * 32 + i) % 64;
                largest = std::max(largest, std::hypot(double(start[h][pair]), double(start[h][pair + 64])));
            }
            const double d = largest / (sizeof(Block) == 34 ? 127 : 8);
            for (std::size_t i = block * 32; i < block * 32 + 32; ++i) {
                const double e = std::abs(exact[i] - double(y[i])) / d;
                out.worst = std::max(out.worst, e);
                out.mean_square += e * e / (128.0 * 16);
            }
        }
    }
    return out;
}

double geometric(std::size_t i) { return std::pow(1e4, -static_cast<double>(i) / 64); }

}  // namespace

TEST_CASE("block_rotation: the errors of 1000 rotations by any deltas add up as independent ones",
          "[kv][blocks][drift]") {
    for (const int n : {1, 10, 100, 1000}) {
        std::mt19937 engine(3);
        std::uniform_real_distribution<double> any(-2000, 2000);
        std::vector<double> delta;
        for (int i = 0; i < n; ++i) delta.push_back(any(engine));
        const auto angle = [&](std::size_t i, int k) { return delta[k] * geometric(i); };
        const drift eight = after<rw::q8_0>(n, angle);
        INFO("n " << n << ", q8: worst " << eight.worst << " d, root of the mean square "
                  << std::sqrt(eight.mean_square) << " d");
        CHECK(eight.worst <= 1.5 * std::sqrt(n));
        CHECK(std::sqrt(eight.mean_square) <= 0.3 * std::sqrt(n));
        CHECK(std::sqrt(eight.mean_square) >= 0.2 * std::sqrt(n));  // the bound is near what happens
        if (n > 10) continue;
        const drift four = after<rw::q4_0>(n, angle);
        INFO("q4: worst " << four.worst << " d, root of the mean square " << std::sqrt(four.mean_square)
                          << " d");
        CHECK(four.worst <= 1.5 * std::sqrt(n));
        CHECK(std::sqrt(four.mean_square) <= 0.3 * std::sqrt(n));
    }
}

TEST_CASE("block_rotation: many small shifts lose what one far shift keeps, as the comment warns",
          "[kv][blocks][drift]") {
    const drift many = after<rw::q8_0>(1000, [](std::size_t i, int) { return -geometric(i); });
    const drift one = after<rw::q8_0>(1, [](std::size_t i, int) { return -1000 * geometric(i); });
    INFO("root of the mean square: 1000 shifts " << std::sqrt(many.mean_square) << " d, one "
                                                 << std::sqrt(one.mean_square) << " d, worst of one "
                                                 << one.worst << " d");
    CHECK(std::sqrt(many.mean_square) > 1.0 * std::sqrt(1000));
    CHECK(std::sqrt(one.mean_square) <= 0.3);
    CHECK(one.worst <= 0.5625);
}
