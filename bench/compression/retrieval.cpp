// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// One decode step of A2ATS on a long cache, against one pass over all of K and V and against exact
// attention over all of them.

#include <cstdlib>
#include <random>
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include <benchmark/benchmark.h>

#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "support/measure.hpp"

namespace {

using namespace ropewalk;
using ropewalk::index;  // <strings.h> has an index() too

constexpr index channels = 128, heads = 4, codewords = 4096;

std::vector<float> noise(index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& v : x) v = normal(engine);
    return x;
}

/// A cache as an engine has it: a mapping of its own, in large pages where the system grants them.
class cache_memory {
  public:
    explicit cache_memory(index count) : count_(static_cast<std::size_t>(count)) {
        data_ =
            static_cast<float*>(std::aligned_alloc(page, (count_ * sizeof(float) + page - 1) / page * page));
#if defined(MADV_HUGEPAGE)
        madvise(data_, count_ * sizeof(float), MADV_HUGEPAGE);
#endif
    }
    cache_memory(const cache_memory&) = delete;
    cache_memory& operator=(const cache_memory&) = delete;
    ~cache_memory() { std::free(data_); }
    float* data() const { return data_; }
    std::size_t size() const { return count_; }

  private:
    static constexpr std::size_t page = std::size_t{1} << 21;
    std::size_t count_;
    float* data_;
};

/// Every element read once with the widest registers, four sums in flight.
float read_once(const cache_memory& x) {
    constexpr index n = simd::lanes<float>;
    simd::pack<float> sum[4] = {simd::broadcast(0.0f), simd::broadcast(0.0f), simd::broadcast(0.0f),
                                simd::broadcast(0.0f)};
    for (index i = 0; i < static_cast<index>(x.size()); i += 4 * n)
        for (index s = 0; s < 4; ++s) sum[s] = sum[s] + simd::load(x.data() + i + s * n);
    return simd::sum_lanes(sum[0] + sum[1] + (sum[2] + sum[3]));
}

void decode(benchmark::State& state) {
    const auto tokens = static_cast<index>(state.range(0));
    // Keys around 2048 centres, as trained keys cluster; the codebook is a sample of them.
    const auto centres = noise(2048 * channels, 1), wobble = noise(tokens * channels, 2);
    const cache_memory k(tokens * channels), v(tokens * channels);
    std::mt19937 engine(3);
    for (index n = 0; n < tokens; ++n) {
        const float* centre = centres.data() + static_cast<index>(engine() % 2048) * channels;
        for (index c = 0; c < channels; ++c)
            k.data()[n * channels + c] =
                centre[c] + 0.5f * wobble[static_cast<std::size_t>(n * channels + c)];
    }
    const auto q = noise(heads * channels, 4), numbers = noise(tokens * channels, 5);
    std::copy(numbers.begin(), numbers.end(), v.data());
    Eigen::MatrixXd book(codewords, channels);
    for (index c = 0; c < codewords; ++c)
        for (index i = 0; i < channels; ++i)
            book(c, i) = static_cast<double>(k.data()[c * tokens / codewords * channels + i]);
    retrieval_cache<float> cache({{book, make_plain_metric(channels).cholesky, codeword_space::keys}},
                                 make_fixed_scheme({}, frequencies::geometric({.rotary_dim = channels})),
                                 {.heads = heads, .top_fraction = 0.01});
    cache.append(heads_view<const float>(k.data(), tokens, 1, channels));
    row_attention<float> exact({.heads = heads, .key_channels = channels, .value_channels = channels});
    std::vector<float> out(static_cast<std::size_t>(heads * channels));
    // The bytes of the rows do not care whether they hold rotated keys.
    const heads_view<const float> keys(k.data(), tokens, 1, channels), values(v.data(), tokens, 1, channels);
    const heads_view<const float> query(q.data(), 1, heads, channels);
    const heads_view<float> to(out.data(), 1, heads, channels);
    bench::compare(
        state, {.roof = {},
                .contenders = {{"kernel", [&] { cache.attend(query, keys, values, to); }},
                               {"read_once", [&] { benchmark::DoNotOptimize(read_once(k) + read_once(v)); }},
                               {"exact", [&] {
                                    exact.attend(query, keys, values, to, {.scale = 0.1, .count = tokens});
                                }}}});
    const double all = 2.0 * static_cast<double>(tokens * channels) * sizeof(float);
    // Beside what the step reads of the index and the cache, the scores of all codewords twice.
    const double scores = 2.0 * static_cast<double>(heads * codewords) * sizeof(float);
    const double read = static_cast<double>(cache.bytes_read()) + scores;
    state.counters["rows_read"] = static_cast<double>(cache.rows_read());
    state.counters["bytes_share"] = read / all;
}

BENCHMARK(decode)
    ->Name("compression/retrieval/f32/q_heads:4/kv_heads:1/dim:128/codewords:4096/top:0.01/tokens")
    ->Arg(32768)
    ->Arg(65536)
    ->UseManualTime()
    ->Iterations(bench::turns);

}  // namespace
