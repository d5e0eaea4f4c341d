// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One mistake a run: mistakes NUMBER. Compiled three times, once for each ROPEWALK_ON_MISFIT. `stop` ends the program
// with the reason; `report` prints it and returns false; `ignore` only returns false; and nothing was touched.
#include <ropewalk/angles/fourier_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/angles/xpos_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/mix_blocks.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/kv/append.hpp>
#include <ropewalk/kv/prepare_attention.hpp>
#include <ropewalk/kv/shift_keys.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <limits>
#include <vector>

namespace rw = ropewalk;

int main(int argc, char** argv) {
    constexpr rw::index tokens = 6, heads = 4, dim = 16;
    std::vector<float> memory(2 * tokens * heads * dim, 1.0f), other = memory, keys(8 * heads * dim, 2.0f);
    const auto before = memory, keys_before = keys;
    const auto omega = rw::frequencies::geometric({.rotary_dim = dim});
    rw::position_table<float> table(omega, 16);
    const std::vector<int> positions{0, 1, 2, 3, 4, 5}, few{0, 1, 2}, slots{0, 1, 2, 3, 4, 5};
    const auto rows = table.rows(positions);
    const rw::heads_view<float> x(memory.data(), tokens, heads, dim), y(other.data(), tokens, heads, dim);
    const rw::heads_view<float> two_batches(memory.data(), {2, tokens, heads, dim});
    std::vector<double> each(heads * dim / 2);
    for (std::size_t i = 0; i < each.size(); ++i) each[i] = 0.1 * double(i);
    const auto own = rw::make_rotation_table<float>(rw::spectrum::selected(each, {}, 1, heads),
                                                    rw::position_ids::text(tokens));
    const auto wide = rw::make_rotation_table<float>(rw::frequencies::geometric({.rotary_dim = 32}),
                                                     rw::position_ids::text(tokens));
    const rw::rotary_scheme rope{.head_dim = dim, .rotary_dim = dim};
    const rw::head_norm<float> norm({.channels = dim}), narrow_norm({.channels = dim / 2});
    rw::append_call<float> call{.key = x,
                                .key_cache = rw::cache_view<float>::nhd(keys.data(), {1, 8, heads, dim})};
    const auto plan = rw::make_append_plan(call, slots);
    auto swapped = call;
    swapped.key = rw::heads_view<float>(memory.data(), heads, tokens, dim);
    auto other_cache = call;
    other_cache.key_cache.shape.channels = dim / 2;
    const std::int32_t wild[] = {0, 1, 99, 3, 4, 5};
    auto past_the_table = rows;
    past_the_table.indices.narrow = wild;
    const rw::half_split half;
    const std::vector<double> mixture(2 * 8 * 8, 0.5);  // of two kv heads
    const auto fourier =
        rw::make_fourier_table<float>({.pairs = dim / 2, .outputs = dim / 2, .heads = 2}, omega, mixture,
                                      mixture, rw::position_ids::text(tokens));
    const auto xpos =
        rw::make_xpos_table<float>({.rotary_dim = dim}, rw::xpos_side::key, rw::position_ids::text(tokens));
    const rw::rotation_blocks<float> blocks({tokens, 1, 5, 4});

    const std::function<bool()> mistakes[] = {
        [&] { return rw::rotate(half, x.head_slice(2, 2), own); },  // 1: rows of heads 0 and 1
        [&] {
            return rw::rotate(half, two_batches.batch_slice(1, 1).token_slice(0, 3), rows);
        },                                                    // 2: rows of another slice
        [&] { return rw::rotate(half, two_batches, rows); },  // 3: positions of one sequence
        [&] {
            return rw::rotate(half, rw::heads_view<float>(memory.data(), {1, tokens, heads, 8}, {0, 8, 0}),
                              wide.rows());
        },
        [&] {
            return rw::rotate(
                half, rw::heads_view<float>(memory.data(), {1, tokens, heads, dim}, {.token = heads * dim}),
                rows);
        },
        [&] { return rw::rotate(half, x, wide); },             // 6: another model's table
        [&] { return rw::rotate(half, x, table.rows(few)); },  // 7: too few rows
        [&] {
            return rw::rotate(half, x, rows, {0, 4});
        },                                                           // 8: part_of the wrong way round
        [&] { return rw::rotate(half, x.head_slice(3, 2), rows); },  // 9: a slice outside its view
        [&] {
            return rw::rotate(rw::pair_layout::blocked_by(6), x, rows);
        },  // 10: a group that does not divide
        [&] { return rw::rotate(half, rw::heads_view<float>(nullptr, tokens, heads, dim), rows); },
        [&] { return rw::rotate(rope, x.channel_slice(0, 8), rows); },  // 12: not the scheme's heads
        [&] { return rw::rotate(half, x, past_the_table); },            // 13: a row that is not there
        [&] {
            return rw::rotate_into(half, rw::heads_view<float>(memory.data() + 8, tokens, heads - 1, dim),
                                   x.head_slice(0, 3), rows);
        },
        [&] { return rw::rotate_into(half, y.token_slice(0, 3), x, rows); },   // 15: shapes that differ
        [&] { return rw::normalize_and_rotate(half, x, narrow_norm, rows); },  // 16: another norm
        [&] { return rw::append(rope, swapped, plan, rows); },                 // 17: tokens and heads swapped
        [&] { return rw::append(rope, other_cache, plan, rows); },             // 18: another model's cache
        [&] { return rw::append(rope, call, plan, table.rows(few)); },         // 19: rows of other tokens
        [&] { return rw::shift_keys(half, call.key_cache, plan, wide); },      // 20: wider rows than keys
        [&] { return rw::rotate(half, x, rw::rows_on_the_fly(omega, few)); },  // 21: too few positions
        [&] {                                                                  // 22: q_out of another shape
            rw::prepare_call<float> prologue{.q = y, .q_out = x.token_slice(0, 3), .new_rows = {}};
            return rw::prepare_attention(half, prologue, rw::cache_plan{}, rows);
        },
        [&] { return rw::rotate(half, x, fourier); },                    // 23: FoPE rows of the kv heads
        [&] { return rw::rotate(half, x.token_slice(0, 3), fourier); },  // 24: and of other tokens
        [&] {
            return rw::unrotate(rw::interleaved{}, x.channel_slice(0, 8), xpos);
        },                                                             // 25: xPos rows of another width
        [&] { return rw::rotate_gradient(half, two_batches, xpos); },  // 26: of one of two sequences
        [&] {
            return rw::rotate(rw::pair_layout::blocked_by(6), x, xpos);
        },                                          // 27: a group that does not divide
        [&] { return rw::mix_blocks(x, blocks); },  // 28: blocks of more channels
        [&] {                                       // 29: q_out without channels and strides
            rw::prepare_call<float> prologue{
                .q = two_batches, .q_out = {memory.data(), {2, tokens, heads, 0}, {}}, .new_rows = {}};
            return rw::prepare_attention(half, prologue, rw::cache_plan{}, rows);
        },
        [&] {  // 30: a cache whose strides were forgotten
            return rw::shift_keys(half, rw::cache_view<float>(keys.data(), {1, 8, heads, dim}, {}), plan,
                                  rows);
        },
        [&] {  // 31: a step of no length that an index can hold
            constexpr rw::index least = std::numeric_limits<rw::index>::min();
            return rw::rotate(half, rw::heads_view<float>(memory.data(), {1, 6, heads, dim}, {0, least, dim}),
                              rows);
        },
    };
    constexpr int count = static_cast<int>(std::size(mistakes));
    const int number = argc > 1 ? std::atoi(argv[1]) : 0;
    if (number == 0) {
        std::printf("%d\n", count);
        return 0;
    }
    if (number < 1 || number > count) return 2;
    const bool done = mistakes[number - 1]();
    // A row that the table does not have leaves its own token alone, the others are rotated.
    const bool touched = (memory != before && number != 13) || keys != keys_before;
    std::printf("returned %s, %s\n", done ? "true" : "false", touched ? "touched" : "untouched");
    return done || touched ? 3 : 0;
}
