// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <random>
#include <string>

#include <ropewalk/adapters/road_bank.hpp>
#include <ropewalk/adapters/road_intervention.hpp>
#include <ropewalk/core/simd_storage.hpp>

#include "support/measure.hpp"

// A mixed batch beside an element-wise multiply of the same bytes: x *= c with one c a channel and adapter,
// which is what the cheapest adapter (IA3) costs.
namespace {

namespace rw = ropewalk;
using rw::index;

constexpr int adapters = 4;

template <class T>
void mixed_batch(benchmark::State& state, index group, index tokens, index channels) {
    std::mt19937 engine(1);
    const auto uniform = [&] { return static_cast<double>(engine()) / 4294967296.0 + 0.5; };
    rw::road::adapter_bank<rw::compute_t<T>> bank(channels, {"a", "b", "c", "d"});
    for (const char* name : {"a", "b", "c", "d"}) {
        std::vector<double> theta, alpha;
        // Alpha 1: the data keep their size over any number of calls.
        for (index i = 0; i < channels / 2; ++i) theta.push_back(uniform()), alpha.push_back(1);
        bank.set(name, rw::road::make_blocks({{.channels = channels, .group = group}, theta, alpha}));
    }
    std::vector<std::int32_t> ids;
    for (index n = 0; n < tokens; ++n) ids.push_back(static_cast<std::int32_t>(engine() % adapters));
    std::vector<T> x;
    for (index i = 0; i < tokens * channels; ++i) x.push_back(T(static_cast<float>(uniform())));
    const std::vector<rw::compute_t<T>> factors(static_cast<std::size_t>(adapters * channels), 1);
    const auto rows = bank.rows(ids);
    const rw::heads_view<T> view(x.data(), tokens, 1, channels);
    const auto multiply = [&] {
        using C = rw::compute_t<T>;
        for (index n = 0; n < tokens; ++n) {
            T* p = x.data() + n * channels;
            const C* c = factors.data() + ids[static_cast<std::size_t>(n)] * channels;
            for (index i = 0; i + rw::simd::lanes<C> <= channels; i += rw::simd::lanes<C>)
                rw::simd::store(p + i, rw::simd::load(static_cast<const T*>(p + i)) * rw::simd::load(c + i));
        }
    };
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(x.size() * sizeof(T)),
                           .roof = multiply,
                           .contenders = {{"kernel", [&] { rw::road::mix_pairs(view, rows); }}}});
}

// Beside Eigen's two products of the same sizes, in the arithmetic of the kernel.
template <class T>
void intervention(benchmark::State& state, index subspace, index tokens, index channels) {
    using C = rw::compute_t<T>;
    using matrix = Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const auto count = static_cast<std::size_t>(subspace / 2);
    // Channels of the unit matrix: orthonormal, and the data keep their size.
    Eigen::MatrixXd projection = Eigen::MatrixXd::Zero(subspace, channels);
    for (index i = 0; i < subspace; ++i) projection(i, i * (channels / subspace)) = 1;
    const rw::road::adapter learned({.channels = subspace, .group = 2}, std::vector<double>(count, 0.3),
                                    std::vector<double>(count, 1.0));
    rw::road::intervention<C> change(projection, rw::road::make_blocks(learned));
    std::mt19937 engine(2);
    std::vector<T> x;
    for (index i = 0; i < tokens * channels; ++i)
        x.push_back(T(static_cast<float>(engine()) / 4294967296.0f));
    const rw::heads_view<T> view(x.data(), tokens, 1, channels);
    const matrix into = projection.transpose().cast<C>(), back = projection.cast<C>() * C(0.01);
    matrix h = matrix::Random(tokens, channels), moved(tokens, subspace);
    bench::compare(state,
                   {.bytes = 2.0 * static_cast<double>(x.size() * sizeof(T)),
                    .roof = {},
                    .contenders = {{"kernel", [&] { change.mix(view); }}, {"products", [&] {
                                                                               moved.noalias() = h * into;
                                                                               h.noalias() -= moved * back;
                                                                           }}}});
}

template <class T>
void add(const char* type) {
    // 18 and 34 are the slowest of the even ones: a half of a register and a little, of one and a little.
    for (index group : {2, 4, 8, 16, 18, 24, 34, 64, 4096})
        for (index tokens : {1, 64, 2048}) {
            const index channels = 4096 / group * group;
            benchmark::RegisterBenchmark(
                ("road/mixed_batch/" + std::string(type) + "/group:" + std::to_string(group) +
                 "/tokens:" + std::to_string(tokens) + "/channels:" + std::to_string(channels))
                    .c_str(),
                [=](benchmark::State& state) { mixed_batch<T>(state, group, tokens, channels); })
                ->UseManualTime()
                ->Iterations(bench::turns);
        }
    for (index subspace : {8, 64})
        for (index tokens : {1, 512})
            benchmark::RegisterBenchmark(
                ("road/intervention/" + std::string(type) + "/subspace:" + std::to_string(subspace) +
                 "/tokens:" + std::to_string(tokens) + "/channels:4096")
                    .c_str(),
                [=](benchmark::State& state) { intervention<T>(state, subspace, tokens, 4096); })
                ->UseManualTime()
                ->Iterations(bench::turns);
}
const bool added = [] {
    add<float>("f32");
    add<rw::bf16>("bf16");
    return true;
}();

}  // namespace
