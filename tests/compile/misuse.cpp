// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Mistakes that the compiler refuses, chosen by MISTAKE. misuse.cmake asks that its words are few and name the
// mistake.
#include <cstdint>
#include <vector>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/kv/append.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace rw = ropewalk;

void misuse(float* data, const float* fixed, std::uint16_t* half, rw::position_table<float>& table,
            const rw::spectrum& omega, const rw::rotary_scheme& rope,
            const std::vector<std::int32_t>& positions) {
    const rw::heads_view<float> q(data, 4, 2, 64);
    const auto rows = table.rows(positions);
#if MISTAKE == 1  // rows of positions that die with the statement
    const auto dangling = table.rows(std::vector<std::int32_t>{0, 1, 2, 3});
#elif MISTAKE == 2   // rows of a table that dies with the statement
    const auto dangling = rw::make_rotation_table(omega, rw::position_ids::text(4)).rows();
#elif MISTAKE == 3   // no layout
    rw::rotate(q, rows);
#elif MISTAKE == 4   // the layout as a template argument
    rw::rotate<rw::half_split>(q, rows);
#elif MISTAKE == 5   // the layout behind the tensor
    rw::rotate(q, rope, rows);
#elif MISTAKE == 6   // positions where rows belong
    rw::rotate(rope, q, positions);
#elif MISTAKE == 7   // frequencies where rows belong
    rw::rotate(rope, q, omega);
#elif MISTAKE == 8   // a table that has no rows without positions
    rw::rotate(rope, q, table);
#elif MISTAKE == 9   // numbers that may not be written
    rw::rotate(rope, rw::heads_view<const float>(fixed, 4, 2, 64), rows);
#elif MISTAKE == 10  // 16 bits without a meaning
    rw::rotate(rope, rw::heads_view(half, 4, 2, 64), rows);
#elif MISTAKE == 11  // an append that does not say how the pairs lie
    rw::append(rw::append_call<float, float>{},
               rw::make_append_plan(rw::append_call<float, float>{}, positions), rows);
#elif MISTAKE == 12  // out of place into what may not be written
    rw::rotate_into(rope, q, rw::heads_view<const float>(fixed, 4, 2, 64), rows);
#elif MISTAKE == 13  // rows on the fly of frequencies that die with the statement
    const auto flying = rw::rows_on_the_fly(rw::spectrum(rope.spectrum_for(8192)), positions);
#elif MISTAKE == 14  // a bare pointer where a view belongs
    rw::rotate(rope, data, rows);
#elif MISTAKE == 15  // a norm without its extent of weights
    rw::normalize_and_rotate(rope, q, rows);
#elif MISTAKE == 16  // several axes without a word about their order
    const auto where = rw::position_ids::from(positions, 3);
#elif MISTAKE == 17  // a parameter that there is not
    const auto scaled = rw::frequencies::yarn({.rotary_dim = 64, .theta = 1e4});
#elif MISTAKE == 18  // rows for queries only
    rw::rotate(rope, q, q, rows, positions);
#elif MISTAKE == 19  // a group of channels that does not pair up
    rw::rotate(rw::blocked<3>{}, q, rows);
#elif MISTAKE == 20  // f64 data and f32 rows
    double wide[512] = {};
    rw::rotate(rope, rw::heads_view<double>(wide, 4, 2, 64), rows);
#elif MISTAKE == 21  // what no tensor holds
    int whole[512] = {};
    rw::rotate(rope, rw::heads_view<int>(whole, 4, 2, 64), rows);
#elif MISTAKE == 22  // 16 bits that may not be written
    rw::rotate(rope, rw::heads_view(rw::as_bf16(static_cast<const std::uint16_t*>(half)), 4, 2, 64), rows);
#elif MISTAKE == 23  // rows whose kernel is not included
    const rw::factored_table<float> factored(omega, rw::position_ids::text(4));
    rw::rotate(rope, q, factored);
#elif MISTAKE == 24  // a position that is a fraction
    const auto between = table.rows(1.5);
#elif MISTAKE == 25  // positions of eight bits
    const std::vector<std::uint8_t> bytes(4);
    const auto narrow = table.rows(bytes);
#elif MISTAKE == 26  // the table of a scheme
    const rw::position_table of_scheme(rope, 512);
#elif MISTAKE == 27  // rows of a table that are fractions
    const auto made = rw::make_rotation_table(omega, rw::position_ids::text(4));
    const auto between_rows = made.rows(std::vector<float>(4));
#endif
    (void)data, (void)fixed, (void)half, (void)omega, (void)rope, (void)q, (void)rows;
}
