// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <random>
#include <string>

#include <ropewalk/adapters/phase_shift.hpp>

#include "support/measure.hpp"

// PSC's module beside Eigen's two products of the same sizes, head by head: what it costs beyond them is the
// activation, the gain, and the way in and out.
namespace {

namespace rw = ropewalk;
using rw::index;

template <class T, class W>
void calibrate(benchmark::State& state, index tokens, index heads, index dim) {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const auto start = rw::phase_shift::make_initial<W>(heads, dim);
    std::mt19937 engine(3);
    const auto uniform = [&] { return static_cast<float>(engine()) / 4294967296.0f - 0.5f; };
    std::vector<T> x;
    for (index i = 0; i < tokens * heads * dim; ++i) x.push_back(T(uniform()));
    const rw::heads_view<T> view(x.data(), tokens, heads, dim);
    // up is 0 at the start, so the data keep their size over any number of calls.
    const matrix in = matrix::Random(tokens, dim);
    const std::vector<matrix> up(static_cast<std::size_t>(heads), matrix::Random(dim, dim)), down = up;
    matrix t(tokens, dim), g(tokens, dim);
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(x.size() * sizeof(T)),
                           .roof = {},
                           .contenders = {{"kernel", [&] { rw::phase_shift::calibrate(start, view); }},
                                          {"products", [&] {
                                               for (std::size_t h = 0; h < up.size(); ++h) {
                                                   t.noalias() = in * up[h];
                                                   g.noalias() = t * down[h];
                                               }
                                           }}}});
}

template <class T, class W>
void add(const char* types) {
    for (index tokens : {1, 64, 1024})
        benchmark::RegisterBenchmark(
            ("phase_shift/calibrate/" + std::string(types) + "/tokens:" + std::to_string(tokens) +
             "/heads:32/dim:128")
                .c_str(),
            [=](benchmark::State& state) { calibrate<T, W>(state, tokens, 32, 128); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}
const bool added = [] {
    add<float, float>("f32");
    add<rw::bf16, rw::bf16>("bf16");
    return true;
}();

}  // namespace
