// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Blocks of 2, 4 and 8 channels against pairs, and the tables of newer methods against a plain one of their size.
#include <ropewalk/angles/fourier_table.hpp>
#include <ropewalk/angles/xpos_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/kernels/mix_blocks.hpp>
#include <ropewalk/kernels/pope.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kv/rebase.hpp>

#include <string>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index heads = 8, dim = 128;

/// The rotation of interleaved pairs as blocks of `size` channels.
rw::rotation_blocks<float> blocks_of(const rw::rotation_table<float>& pairs, rw::index size) {
    rw::rotation_blocks<float> blocks({pairs.row_count(), 1, dim / size, size});
    std::vector<double> matrix(static_cast<std::size_t>(size * size));
    for (rw::index row = 0; row < pairs.row_count(); ++row)
        for (rw::index b = 0; b < dim / size; ++b) {
            for (rw::index i = 0; i < size; i += 2) {
                const auto pair = static_cast<std::size_t>((b * size + i) / 2);
                const auto at = [&](rw::index r, rw::index c) -> double& {
                    return matrix[static_cast<std::size_t>(r * size + c)];
                };
                at(i, i) = at(i + 1, i + 1) = static_cast<double>(pairs.cos_row(row)[pair]);
                at(i + 1, i) = static_cast<double>(pairs.sin_row(row)[pair]);
                at(i, i + 1) = -at(i + 1, i);
            }
            blocks.set(row, 0, b, matrix);
        }
    return blocks;
}

template <class T>
void mix(benchmark::State& state, rw::index size) {
    const rw::index tokens = state.range(0);
    const auto pairs = rw::make_rotation_table<float>(rw::frequencies::geometric({.rotary_dim = dim}),
                                                      rw::position_ids::text(tokens));
    const auto blocks = blocks_of(pairs, size);
    auto x = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * heads * dim), 1), y = x;
    const rw::heads_view<T> mixed(x.data(), tokens, heads, dim), rotated(y.data(), tokens, heads, dim);
    bench::compare(state,
                   {.bytes = 2.0 * static_cast<double>(x.size() * sizeof(T)),
                    .roof = [&] { bench::roof_pass(x); },
                    .contenders = {{"kernel", [&] { rw::mix_blocks(mixed, blocks.rows()); }},
                                   {"pairs", [&] { rw::rotate(rw::interleaved{}, rotated, pairs); }}}});
    if (!bench::still_normal(x)) state.SkipWithError("the data did not stay normal");
}

void widen(benchmark::State& state) {
    const rw::index tokens = state.range(0);
    const auto x = bench::normal_numbers<float>(static_cast<std::size_t>(tokens * heads * dim), 1);
    auto wide = bench::normal_numbers<float>(2 * x.size(), 2);
    const auto rows =
        rw::make_rotation_table<float>(rw::pope::make_spectrum(dim), rw::position_ids::text(tokens));
    const rw::heads_view<const float> from(x.data(), tokens, heads, dim);
    const rw::heads_view<float> to(wide.data(), tokens, heads, 2 * dim);
    bench::compare(
        state, {.bytes = 3.0 * static_cast<double>(x.size() * sizeof(float)),
                .roof = [&] { bench::roof_pass(wide); },
                .contenders = {
                    {"kernel", [&] { rw::pope::widen<float>(rw::half_split{}, from, to, rows.rows()); }}}});
}

/// Builds of 512 rows of 8 heads and 64 pairs, or of one head: a plain table's time over them.
void build(benchmark::State& state, const std::string& what) {
    const auto where = rw::position_ids::text(512);
    const auto one = rw::frequencies::geometric({.rotary_dim = dim});
    std::vector<double> omega, phases(heads * dim / 2, -0.5);
    for (rw::index h = 0; h < heads; ++h)
        for (rw::index i = 0; i < dim / 2; ++i) omega.push_back(one.omega(i));
    const auto many = rw::spectrum::selected(omega, {}, 1, heads);
    std::vector<rw::index> first;
    for (rw::index i = 0; i < 45; ++i) first.push_back(i);
    const auto kept = rw::frequencies::select_pairs(one, first, 1);
    const auto mixture = bench::normal_numbers<double>(2 * 45 * 45, 1);
    const auto keep = [](const auto& table) { benchmark::DoNotOptimize(table.cos_row(5).data()); };
    const bool of_heads = what == "pope_keys" || what == "fourier";
    const auto ours = [&] {
        if (what == "xpos")
            keep(rw::make_xpos_table<float>({.rotary_dim = dim}, rw::xpos_side::query, where));
        if (what == "move")
            keep(rw::make_move_table<float>(one, one, where, rw::position_ids::text(512, 100)));
        if (what == "pope_keys") keep(rw::pope::make_key_table<float>(one, phases, where));
        if (what == "fourier")
            keep(rw::make_fourier_table<float>({.pairs = dim / 2, .outputs = 45, .heads = 2, .group = 4},
                                               kept, mixture, mixture, where)
                     .table());
    };
    const auto plain = [&] { keep(rw::make_rotation_table<float>(of_heads ? many : one, where)); };
    bench::compare(state, {.roof = {}, .contenders = {{"kernel", ours}, {"plain_table", plain}}});
}

const int registered = [] {
    const auto add = [](const std::string& name, auto run) {
        return benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Iterations(bench::turns);
    };
    for (const rw::index size : {2, 4, 8}) {
        const std::string name = "/size:" + std::to_string(size) + "/heads:8/dim:128";
        for (const int tokens : {1, 512}) {
            add("mix_blocks/f32" + name, [size](benchmark::State& s) { mix<float>(s, size); })
                ->ArgName("tokens")
                ->Arg(tokens);
            add("mix_blocks/bf16" + name, [size](benchmark::State& s) { mix<rw::bf16>(s, size); })
                ->ArgName("tokens")
                ->Arg(tokens);
        }
    }
    for (const int tokens : {1, 512})
        add("pope/widen/f32/heads:8/dim:128", widen)->ArgName("tokens")->Arg(tokens);
    for (const std::string what : {"xpos", "move", "pope_keys", "fourier"})
        add("build_table/" + what, [what](benchmark::State& s) { build(s, what); });
    return 0;
}();

}  // namespace
