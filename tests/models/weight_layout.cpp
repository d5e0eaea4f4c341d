// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/models/weight_layout.hpp>

#include <cmath>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {

std::vector<double> numbers(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<double> v(count);
    for (double& x : v) x = normal(random);
    return v;
}

struct projection {
    std::vector<double> weight, bias, lora_a, lora_b, norm;
};

constexpr ropewalk::index width = 24, rank = 3, head_dim = 16, rotary = 12, first = 2, tokens = 5;

/// W x + b + B A x, then a per-channel gain, for every token.
std::vector<double> project(const projection& p, const std::vector<double>& x, ropewalk::index rows) {
    std::vector<double> out(tokens * rows);
    for (ropewalk::index n = 0; n < tokens; ++n)
        for (ropewalk::index r = 0; r < rows; ++r) {
            double sum = p.bias[r];
            for (ropewalk::index c = 0; c < width; ++c) {
                sum += p.weight[r * width + c] * x[n * width + c];
                for (ropewalk::index k = 0; k < rank; ++k)
                    sum += p.lora_b[r * rank + k] * p.lora_a[k * width + c] * x[n * width + c];
            }
            out[n * rows + r] = sum * p.norm[r];
        }
    return out;
}

}  // namespace

TEST_CASE("weight_layout: the permutation between the two layouts", "[models][weight_layout]") {
    const auto order = make_channel_order({.heads = 2, .head_dim = 6}, interleaved{}, half_split{});
    CHECK(order == std::vector<ropewalk::index>{0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11});
    const auto back = make_channel_order({.heads = 2, .head_dim = 6}, half_split{}, interleaved{});
    for (std::size_t c = 0; c < order.size(); ++c) CHECK(order[back[c]] == static_cast<ropewalk::index>(c));
    const auto same = make_channel_order({.heads = 1, .head_dim = 6}, half_split{}, half_split{});
    CHECK(same == std::vector<ropewalk::index>{0, 1, 2, 3, 4, 5});
    const auto slice = make_channel_order({.heads = 1, .head_dim = 8, .first_channel = 2, .rotary_dim = 4},
                                          interleaved{}, half_split{});
    CHECK(slice == std::vector<ropewalk::index>{0, 1, 2, 4, 3, 5, 6, 7});
}

TEST_CASE(
    "weight_layout: converted weights, biases, norms and LoRA give the same scores under the other layout",
    "[models][weight_layout]") {
    const ropewalk::index query_heads = 4, key_heads = 2;  // grouped-query attention
    const auto x = numbers(tokens * width, 1);
    const auto table = make_rotation_table<double>(frequencies::geometric({.rotary_dim = rotary}),
                                                   position_ids::text(tokens, 40));
    const auto make = [](ropewalk::index heads, unsigned seed) {
        const auto rows = static_cast<std::size_t>(heads * head_dim);
        return projection{numbers(rows * width, seed), numbers(rows, seed + 1),
                          numbers(rank * width, seed + 2), numbers(rows * rank, seed + 3),
                          numbers(rows, seed + 4)};
    };
    const auto convert = [](const projection& p, ropewalk::index heads) {
        const head_rows rows{
            .heads = heads, .head_dim = head_dim, .first_channel = first, .rotary_dim = rotary};
        const auto to = [&rows](const std::vector<double>& v, ropewalk::index columns) {
            return make_rows_in_layout<double>(v, rows, half_split{}, interleaved{}, columns);
        };
        return projection{to(p.weight, width), to(p.bias, 1), p.lora_a, to(p.lora_b, rank), to(p.norm, 1)};
    };
    const auto scores = [&](pair_layout layout, const projection& pq, const projection& pk) {
        auto q = project(pq, x, query_heads * head_dim), k = project(pk, x, key_heads * head_dim);
        const heads_view vq(q.data(), tokens, query_heads, head_dim),
            vk(k.data(), tokens, key_heads, head_dim);
        rotate(layout, vq.channel_slice(first, rotary), vk.channel_slice(first, rotary), table);
        std::vector<double> all;
        for (ropewalk::index m = 0; m < tokens; ++m)
            for (ropewalk::index n = 0; n < tokens; ++n)
                for (ropewalk::index h = 0; h < query_heads; ++h) {
                    double sum = 0;
                    for (ropewalk::index c = 0; c < head_dim; ++c)
                        sum += vq.at(0, m, h)[c] * vk.at(0, n, h / 2)[c];
                    all.push_back(sum);
                }
        return all;
    };
    const auto pq = make(query_heads, 10), pk = make(key_heads, 20);
    const auto want = scores(half_split{}, pq, pk);
    const auto got = scores(interleaved{}, convert(pq, query_heads), convert(pk, key_heads));
    const auto wrong = scores(interleaved{}, pq, pk);
    double difference = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        CHECK(std::abs(got[i] - want[i]) <= 1e-9 * (1 + std::abs(want[i])));
        difference = std::max(difference, std::abs(wrong[i] - want[i]));
    }
    CHECK(difference > 1);  // and without the conversion they are not
}

TEST_CASE("weight_layout: refuses sizes that do not fit", "[models][weight_layout][errors]") {
    CHECK_REFUSES("make_channel_order: rotary_dim must be even and > 0, got 7",
                  make_channel_order({.heads = 1, .head_dim = 7}, half_split{}, interleaved{}));
    CHECK_REFUSES("make_channel_order: first_channel + rotary_dim must be <= head_dim, got 12",
                  make_channel_order({.heads = 1, .head_dim = 8, .first_channel = 4, .rotary_dim = 8},
                                     half_split{}, interleaved{}));
    std::vector<float> from(12), to(11);
    const auto order = make_channel_order({.heads = 2, .head_dim = 6}, half_split{}, interleaved{});
    CHECK_REFUSES("fill_reordered_rows: to must hold rows x columns numbers: wanted 12, got 11",
                  fill_reordered_rows<float>(from, to, order));
}
