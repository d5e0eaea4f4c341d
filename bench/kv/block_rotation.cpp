// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Keys of a cache of q8_0 or q4_0 blocks rotated where they are, over a pass that reads and writes the cache
// (x_roof), and beside the route through f32 tensors: a layer decoded, rotated, encoded
// (unfused_over_kernel).
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kv/block_rotation.hpp>
#include <ropewalk/positions/position_ids.hpp>

#include "support/measure.hpp"
#include "support/worst_error.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index layers = 16, tokens = 8192, heads = 8;

template <class Block>
void shift_case(benchmark::State& state, rw::pair_layout layout, rw::index dim) {
    const rw::index blocks = dim / rw::numbers_in<Block>, layer = tokens * heads * blocks;
    rw::detail::aligned_vector<Block> cache(static_cast<std::size_t>(layers * layer));
    const auto numbers = bench::normal_numbers<float>(static_cast<std::size_t>(1024 * dim), 1);
    for (rw::index head = 0; head < layers * tokens * heads; ++head)
        rw::simd::encode_head(cache.data() + head * blocks, numbers.data() + head % 1024 * dim, blocks);
    // There and back, so that many turns do not rotate by one angle alone.
    const auto s = rw::frequencies::geometric({.rotary_dim = dim});
    const std::vector<double> shifts{-64, 64};
    const rw::rotation_table<float> there = rw::make_rotation_table<float>(s, rw::position_ids::from(shifts));
    const auto both_ways = there.rows();
    int way = 0;
    const auto rotate_token = [&](rw::index token, int way) {
        const rw::block_row row{both_ways.cos_at(way, 0), both_ways.sin_at(way, 0), dim / 2, 0};
        rw::rotate_blocks(layout,
                          rw::block_heads<Block>{cache.data() + token * heads * blocks, blocks, heads}, row);
    };
    bench::tensor<float> wide(static_cast<std::size_t>(tokens * heads * dim));
    const auto first_token = [&] {
        rw::simd::decode_head(wide.data(), static_cast<const Block*>(cache.data()), heads * blocks);
        return bench::as_f64(wide.data(), static_cast<std::size_t>(heads * dim));
    };
    auto before = first_token();
    rotate_token(0, 1);
    state.counters["worst_error"] = bench::worst_error(
        layout, std::move(before), first_token(), heads, dim,
        rw::make_rotation_table<double>(s, rw::position_ids::from(std::vector<double>{64})));
    const std::vector<std::int32_t> one_row(static_cast<std::size_t>(tokens), 0);
    const auto rows = there.rows(one_row);
    bench::compare(
        state, {.bytes = 2.0 * static_cast<double>(cache.size() * sizeof(Block)),
                .roof = [&] { bench::touch_words(cache.data(), cache.size() * sizeof(Block), 0); },
                .contenders = {
                    {"kernel",
                     [&] {
                         way ^= 1;
                         for (rw::index token = 0; token < layers * tokens; ++token) rotate_token(token, way);
                     }},
                    {"unfused", [&] {
                         for (rw::index l = 0; l < layers; ++l) {
                             Block* const first = cache.data() + l * layer;
                             rw::simd::decode_head(wide.data(), static_cast<const Block*>(first), layer);
                             rw::rotate(layout, rw::heads_view<float>(wide.data(), tokens, heads, dim), rows);
                             rw::simd::encode_head(first, wide.data(), layer);
                         }
                     }}}});
    for (const Block& b : cache)
        if ((b.scale.bits & 0x7c00u) == 0x7c00u) {
            state.SkipWithError("the data left their range");
            break;
        }
}

template <class Block>
void add(const std::string& type) {
    for (const rw::index dim : {64, 128, 256})
        for (const auto& [name, layout] :
             {std::pair{"half_split", rw::pair_layout(rw::half_split{})}, {"interleaved", rw::interleaved{}}})
            benchmark::RegisterBenchmark(
                ("block_rotation/" + type + "/" + name + "/dim:" + std::to_string(dim)).c_str(),
                [=, layout = layout](benchmark::State& state) { shift_case<Block>(state, layout, dim); })
                ->UseManualTime()
                ->Iterations(bench::turns);
}
const int registered = [] {
    add<rw::q8_0>("q8_0");
    add<rw::q4_0>("q4_0");
    return 0;
}();

}  // namespace
