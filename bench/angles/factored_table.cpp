// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A clip's positions and rows: factored against a row a token, to build and to rotate from, beside the 1-D
// table kernel at the same sizes.
#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/positions/mrope.hpp>
#include <ropewalk/positions/video_rope.hpp>
#include <ropewalk/positions/vrope.hpp>

#include <numeric>
#include <string>

#include "support/measure.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

namespace {

constexpr rw::index q_heads = 32, k_heads = 8, dim = 128;

rw::spectrum ladder() { return rw::frequencies::geometric({.rotary_dim = dim, .base = 1e6}); }

struct stream_case {
    const char* name;
    rw::spectrum omega;
    rw::position_ids where;
};

template <class Rule>
rw::position_ids clip(const Rule& rule, rw::index frames) {
    return positions::make_stream(
               rule, {{.kind = positions::media::video, .frames = frames, .height = 16, .width = 16}})
        .positions;
}

rw::spectrum sections() {
    return rw::frequencies::assign_axes(ladder(), rw::axis_map::sections({24, 20, 20}));
}

/// A clip of frames x 16 x 16 under three schemes, one level a pair, two and three.
stream_case make_case(int which, rw::index frames) {
    if (which == 0) return {"mrope", sections(), clip(positions::mrope_rule{}, frames)};
    if (which == 1)
        return {"video_rope", rw::frequencies::assign_axes(ladder(), rw::axis_map::video_rope({24, 20, 20})),
                clip(positions::video_rope_rule{}, frames)};
    return {"vrope", rw::frequencies::assign_axes(ladder(), rw::axis_map::vrope({.pairs = 64})),
            clip(positions::vrope_rule{}, frames)};
}

double full_table_bytes(const rw::position_ids& where, const rw::spectrum& s) {
    return static_cast<double>(where.tokens() * s.heads() * s.pairs()) * 2 * sizeof(float);
}

void rotate_clip(benchmark::State& state, int which, rw::index frames) {
    const auto c = make_case(which, frames);
    const rw::index tokens = c.where.tokens();
    auto q = bench::normal_numbers<float>(static_cast<std::size_t>(tokens * q_heads * dim), 1);
    auto k = bench::normal_numbers<float>(static_cast<std::size_t>(tokens * k_heads * dim), 2);
    const rw::heads_view qv(q.data(), tokens, q_heads, dim), kv(k.data(), tokens, k_heads, dim);
    const auto factored = rw::make_factored_table(c.omega, c.where);
    const auto full = rw::make_rotation_table(c.omega, c.where);
    rw::position_table<float> one_axis(ladder(), tokens, {.max_rows = tokens});
    std::vector<std::int32_t> row(static_cast<std::size_t>(tokens));
    std::iota(row.begin(), row.end(), 0);
    const auto rows = one_axis.rows(row);
    bench::compare(state,
                   {.bytes = 2.0 * static_cast<double>((q.size() + k.size()) * sizeof(float)),
                    .roof =
                        [&] {
                            bench::roof_pass(q);
                            bench::roof_pass(k);
                        },
                    .contenders = {{"kernel", [&] { rw::rotate(rw::half_split{}, qv, kv, factored); }},
                                   {"table_1d", [&] { rw::rotate(rw::half_split{}, qv, kv, rows); }},
                                   {"full_table", [&] { rw::rotate(rw::half_split{}, qv, kv, full); }}}});
    state.counters["table_bytes"] = static_cast<double>(factored.byte_count());
    state.counters["full_over_table_bytes"] =
        full_table_bytes(c.where, c.omega) / static_cast<double>(factored.byte_count());
    if (!bench::still_normal(q)) state.SkipWithError("the data did not stay normal");
}

/// Positions and rows of 64 frames of 16 x 16 at sections 24/20/20, from the request to the first rotation.
void build_clip(benchmark::State& state, int which) {
    const auto rule = positions::mrope_rule{};
    const auto c = make_case(which, 64);
    std::size_t bytes = 0;
    const auto build = [&] {
        const auto where = which == 0   ? clip(rule, 64)
                           : which == 1 ? clip(positions::video_rope_rule{}, 64)
                                        : clip(positions::vrope_rule{}, 64);
        const auto table = rw::make_factored_table(c.omega, where);
        bytes = table.byte_count();
        benchmark::DoNotOptimize(table.rows().values);
    };
    const auto full = [&] {
        const auto where = which == 0   ? clip(rule, 64)
                           : which == 1 ? clip(positions::video_rope_rule{}, 64)
                                        : clip(positions::vrope_rule{}, 64);
        const auto table = rw::make_rotation_table(c.omega, where);
        benchmark::DoNotOptimize(table.cos_row(0).data());
    };
    bench::compare(state, {.roof = {}, .contenders = {{"kernel", build}, {"full_table", full}}});
    state.counters["table_bytes"] = static_cast<double>(bytes);
    state.counters["full_over_table_bytes"] = full_table_bytes(c.where, c.omega) / static_cast<double>(bytes);
}

[[maybe_unused]] const bool registered = [] {
    for (int which = 0; which < 3; ++which) {
        const std::string map = std::string("/map:") + make_case(which, 1).name;
        benchmark::RegisterBenchmark(("factored_build" + map + "/frames:64/height:16/width:16").c_str(),
                                     [which](benchmark::State& s) { build_clip(s, which); })
            ->UseManualTime()
            ->Iterations(bench::turns);
        for (const rw::index frames : {1, 4, 16})
            benchmark::RegisterBenchmark(
                ("rotate_factored/half_split/f32" + map + "/frames:" + std::to_string(frames) +
                 "/height:16/width:16/q_heads:32/k_heads:8/dim:128")
                    .c_str(),
                [which, frames](benchmark::State& s) { rotate_clip(s, which, frames); })
                ->UseManualTime()
                ->Iterations(bench::turns);
    }
    return true;
}();

}  // namespace
