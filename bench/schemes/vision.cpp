// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Images, diffusion and agents beside the 1-D table kernel on the same q and k: axial and mixed 2-D from
// factored rows, DRoPE's uniform rows, FLUX's joint sequence with its text beside the image alone.
#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/mixed.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/schemes/flux.hpp>
#include <ropewalk/schemes/rope_vit.hpp>

#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

struct image_case {
    rw::index side, heads, dim;
    rw::index tokens() const { return side * side; }
    std::string text() const {
        return "/side:" + std::to_string(side) + "/heads:" + std::to_string(heads) +
               "/dim:" + std::to_string(dim);
    }
};

struct data {
    bench::tensor<float> q, k;
    rw::index tokens, heads, dim;

    data(rw::index n, rw::index h, rw::index d)
        : q(bench::normal_numbers<float>(static_cast<std::size_t>(n * h * d), 1)),
          k(bench::normal_numbers<float>(static_cast<std::size_t>(n * h * d), 2)),
          tokens(n),
          heads(h),
          dim(d) {}
    rw::heads_view<float> qv() { return {q.data(), tokens, heads, dim}; }
    rw::heads_view<float> kv() { return {k.data(), tokens, heads, dim}; }
    double bytes() const { return 2.0 * static_cast<double>((q.size() + k.size()) * sizeof(float)); }
};

/// The kernel beside the 1-D table kernel with a row of its own for every token.
void beside_one_axis(benchmark::State& state, data& x, const std::function<void()>& kernel,
                     std::size_t bytes) {
    rw::position_table<float> one_axis(rw::frequencies::geometric({.rotary_dim = x.dim}), x.tokens,
                                       {.max_rows = x.tokens});
    std::vector<std::int32_t> row(static_cast<std::size_t>(x.tokens));
    std::iota(row.begin(), row.end(), 0);
    const auto rows = one_axis.rows(row);
    bench::compare(
        state, {.bytes = x.bytes(),
                .roof =
                    [&] {
                        bench::roof_pass(x.q);
                        bench::roof_pass(x.k);
                    },
                .contenders = {{"kernel", kernel},
                               {"table_1d", [&] { rw::rotate(rw::interleaved{}, x.qv(), x.kv(), rows); }}}});
    state.counters["table_bytes"] = static_cast<double>(bytes);
    if (!bench::still_normal(x.q)) state.SkipWithError("the data did not stay normal");
}

void axial(benchmark::State& state, image_case c) {
    data x(c.tokens(), c.heads, c.dim);
    const auto rope = rw::rope_vit::axial({.head_dim = c.dim});
    const auto where = rw::rope_vit::patches({.height = c.side, .width = c.side, .class_tokens = 0});
    const auto table = rw::make_factored_table(rope.spectrum_for(1), where);
    beside_one_axis(
        state, x, [&] { rw::rotate(rw::interleaved{}, x.qv(), x.kv(), table); }, table.byte_count());
}

void mixed(benchmark::State& state, image_case c) {
    data x(c.tokens(), c.heads, c.dim);
    std::mt19937 engine(5);
    const auto weights = rw::frequencies::make_mixed_start({.head_dim = c.dim}, c.heads, engine);
    const auto rope = rw::rope_vit::mixed({.heads = c.heads, .head_dim = c.dim}, weights);
    const auto where = rw::rope_vit::patches({.height = c.side, .width = c.side, .class_tokens = 0});
    const auto table = rw::make_factored_table(rope.spectrum_for(1), where);
    beside_one_axis(
        state, x, [&] { rw::rotate(rw::interleaved{}, x.qv(), x.kv(), table); }, table.byte_count());
    state.counters["rows"] = static_cast<double>(table.row_count());
    state.counters["full_table_bytes"] =
        static_cast<double>(c.tokens() * c.heads * c.dim) * static_cast<double>(sizeof(float));
}

void uniform(benchmark::State& state, image_case c) {
    data x(c.tokens(), c.heads, c.dim);
    const auto headings = bench::normal_numbers<double>(static_cast<std::size_t>(c.tokens()), 3);
    const rw::uniform_table<float> table(rw::position_ids::from(std::span<const double>(headings)));
    beside_one_axis(
        state, x, [&] { rw::rotate(rw::interleaved{}, x.qv(), x.kv(), table); }, table.byte_count());
}

/// 512 text tokens and an image of side x side: the joint call beside the image's own.
void flux(benchmark::State& state, image_case c) {
    constexpr rw::index text = 512;
    data x(text + c.tokens(), c.heads, c.dim);
    const auto omega = rw::flux::joint({}).spectrum_for(1);
    const auto joint = rw::make_factored_table(
        omega, rw::flux::flux1_positions({.text_tokens = text, .generated = {c.side, c.side}}));
    const auto image = rw::make_factored_table(
        omega, rw::flux::flux1_positions({.text_tokens = 0, .generated = {c.side, c.side}}));
    const auto q = x.qv().token_slice(text, c.tokens()), k = x.kv().token_slice(text, c.tokens());
    bench::compare(state,
                   {.bytes = 4.0 * static_cast<double>(c.tokens() * c.heads * c.dim) * sizeof(float),
                    .roof =
                        [&] {
                            bench::roof_pass(x.q);
                            bench::roof_pass(x.k);
                        },
                    .contenders = {{"kernel", [&] { rw::rotate(rw::interleaved{}, x.qv(), x.kv(), joint); }},
                                   {"image_alone", [&] { rw::rotate(rw::interleaved{}, q, k, image); }}}});
    state.counters["table_bytes"] = static_cast<double>(joint.byte_count());
}

[[maybe_unused]] const bool registered = [] {
    const auto add = [](const char* name, auto run, image_case c) {
        benchmark::RegisterBenchmark((std::string(name) + "/interleaved/f32" + c.text()).c_str(),
                                     [run, c](benchmark::State& s) { run(s, c); })
            ->UseManualTime()
            ->Iterations(bench::turns);
    };
    for (const image_case c : {image_case{14, 12, 64}, {32, 16, 64}, {64, 16, 64}}) {
        add("rotate_axial", axial, c);
        add("rotate_mixed", mixed, c);
        add("rotate_uniform", uniform, c);
    }
    add("rotate_flux", flux, {64, 24, 128});
    return true;
}();

}  // namespace
