// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Three requests decoded together, with pages scattered over one pool: a step is one call, split over
// threads, that normalises, rotates, quantises and appends. Prints bytes per token and error of each format.
#include <algorithm>
#include <cstdio>
#include <random>
#include <thread>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kv/prepare_attention.hpp>

namespace rw = ropewalk;

constexpr rw::index dim = 64, q_heads = 8, kv_heads = 2, all = q_heads + 2 * kv_heads;
constexpr rw::index pages = 64, page_tokens = 16, columns = 20, steps = 40;

/// The keys and values of a head, as attention reads them.
void read(const float* from, float* to) { std::copy_n(from, 2 * dim, to); }
void read(const auto* from, float* to) {
    for (rw::index c = 0; c < 2 * dim; c += 32) rw::decode_block(*from++, to + c);
}

/// The output of attention in every step, for a cache of type D that `threads` threads fill.
template <class D>
std::vector<float> decode(rw::index parts) {
    rw::position_table table(rw::frequencies::geometric({.rotary_dim = dim, .base = 1e6}), 512);
    const rw::head_norm<float> norm({.channels = dim});
    std::vector<D> pool(pages * page_tokens * kv_heads * 2 * dim / rw::numbers_in<D>);
    const auto cache = rw::cache_view<D>::nhd(pool.data(), {pages, page_tokens, kv_heads, 2 * dim});
    std::vector<std::int32_t> starts(3), page(3 * columns), offsets{0, 1, 3, 6};  // 1, 2, 3 tokens per step
    for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::int32_t>(i * 37 % pages);
    std::mt19937 engine(1);
    std::vector<float> input(6 * all * dim), kv(columns * page_tokens * kv_heads * 2 * dim);
    std::vector<float> out(steps * 3 * q_heads * dim);
    for (auto to = out.data(); to < out.data() + out.size();) {
        for (float& x : input) x = std::normal_distribution<float>()(engine);
        const auto [q, k, v] = rw::split_qkv(rw::heads_view(input.data(), 6, all, dim), q_heads, kv_heads);
        const rw::prepare_call<float, float, D> call{
            q, q, {k, v, cache.channel_slice(0, dim), cache.channel_slice(dim, dim)}, norm, norm};
        const rw::ragged_batch batch{offsets, starts};
        const auto positions = rw::make_positions(batch);
        const auto rows = table.rows(positions);
        const auto slots = rw::make_slots(batch, rw::block_table{page, columns, page_tokens});
        const auto plan = rw::make_prepare_plan(call, slots);  // one per step, for all layers
        std::vector<std::jthread> team;
        for (rw::index t = 0; t < parts; ++t)
            team.emplace_back([&, t] { prepare_attention(rw::half_split{}, call, plan, rows, {parts, t}); });
        team.clear();
        for (std::size_t r = 0; r < 3; ++r, to += q_heads * dim) {
            starts[r] += offsets[r + 1] - offsets[r];
            for (rw::index n = 0; n < starts[r] * kv_heads; ++n) {
                const rw::index at = page[r * columns + std::size_t(n / kv_heads / page_tokens)];
                read(cache.at(at, n / kv_heads % page_tokens, n % kv_heads), kv.data() + n * 2 * dim);
            }
            const rw::heads_view cached(kv.data(), starts[r], kv_heads, 2 * dim);
            rw::attend(q.token_slice(offsets[r + 1] - 1, 1), cached.channel_slice(0, dim),
                       cached.channel_slice(dim, dim), rw::heads_view(to, 1, q_heads, dim));
        }
    }
    return out;
}

template <class D>
bool show(const char* name, float most) {
    const auto exact = decode<float>(1), y = decode<D>(1), of_four = decode<D>(4);
    float worst = 0;
    for (std::size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(y[i] - exact[i]));
    const bool same = y == of_four;
    const auto bytes = 2 * kv_heads * dim * sizeof(D) / rw::numbers_in<D>;
    std::printf("%-4s %4zu bytes a token, attention off by %.4f, four threads write %s\n", name, bytes, worst,
                same ? "the same bits" : "OTHER BITS");
    return same && worst < most;
}

int main() {
    return show<float>("f32", 1e-9f) && show<rw::q8_0>("q8_0", 0.05f) && show<rw::q4_0>("q4_0", 1) ? 0 : 1;
}
