// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A2ATS where it is meant to win: 16384 tokens of context. Keys and queries are made, not trained: a token has one
// of 1024 subjects, which live in the slowly rotating pairs, and every query asks for a needle, one far token whose
// subject occurs nowhere else. How often is it read, and how far is the output from full attention?
#include <algorithm>
#include <cstdio>
#include <random>

#include <ropewalk/compression.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

namespace rw = ropewalk;

int main() {
    using rw::index;
    constexpr index tokens = 16384, heads = 8, kv_heads = 2, d = 128, subjects = 1024, needles = 64;
    constexpr double steps = needles / heads, row = 2 * d * sizeof(float);  // one head of K and V
    const auto rope = rw::make_fixed_scheme({}, rw::frequencies::geometric({.rotary_dim = d, .base = 5e5}));
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    const auto numbers = [&](index count) {
        std::vector<float> x(static_cast<std::size_t>(count));
        std::generate(x.begin(), x.end(), [&] { return normal(engine); });
        return x;
    };
    // Half-split: pair i is channels i and i + d / 2; in 16384 tokens the last quarter rotates by less than a radian.
    const auto meaning = numbers(subjects * d), v = numbers(tokens * kv_heads * d);
    const auto speak = [&](float* to, index subject) {
        const float* const own = meaning.data() + subject * d;
        for (index c = 0; c < d; ++c) to[c] = 0.3f * normal(engine) + (c % (d / 2) < d * 3 / 8 ? 0 : own[c]);
    };
    const auto text = [&](index rows, index first) {
        auto x = numbers(rows * d);
        for (index n = 0; n < rows; ++n)
            speak(x.data() + n * d, first + index(engine()) % (subjects - first));
        return x;
    };
    const auto learned_q = text(2048 * heads, 0), learned_k = text(tokens * kv_heads, 0);
    auto k = text(tokens * kv_heads, needles), q = text(heads, 0), out = q;
    const rw::heads_view keys(k.data(), tokens, kv_heads, d), query(q.data(), 1, heads, d);
    const rw::heads_view values(v.data(), tokens, kv_heads, d), other_keys(learned_k.data(), keys.shape);
    const rw::heads_view other_queries(learned_q.data(), 2048, heads, d);
    for (index x = 0; x < needles; ++x) speak(keys.at(0, 200 * x + 100, x % heads * kv_heads / heads), x);
    const rw::retrieval_calibration how{.codebook = {.codewords = 1024, .iterations = 60, .batch = 4096}};
    const auto quantizers = rw::make_retrieval_quantizers(other_queries, other_keys, rope, how);
    const char* const ways[] = {"A2ATS", "latest", "random", "the best"};
    double found = 0;
    std::printf("%5s %-8s %7s %8s %8s %8s\n", "top", "tokens", "bytes", "needles", "recall", "error");
    for (const double top : {0.003, 0.01, 0.03}) {
        const rw::retrieval_options options{
            .heads = heads, .top_fraction = top, .keys = rw::cached_keys::unrotated};
        rw::retrieval_cache<> cache(quantizers, rope, options);
        cache.append(keys);
        double sums[4][4] = {};  // of the columns that are printed
        for (index first = 0; first < needles; first += heads) {
            for (index h = 0; h < heads; ++h) speak(q.data() + h * d, first + h);
            for (float& x : q) x *= 6;  // a head that looks for one token is sharp
            std::vector<std::uint8_t> picked(heads * tokens);
            cache.attend(query, keys, values, rw::heads_view(out.data(), 1, heads, d), {.top = picked});
            const rw::retrieval_reference all(query, keys, values, rope, options);
            const std::vector chosen{picked, all.make_recent(), all.make_random(7), all.best()};
            for (std::size_t way = 0; way < 4; ++way) {
                const auto judged = all.judge(chosen[way]);
                auto& [bytes, read, recall, error] = sums[way];
                bytes += (way == 0 ? double(cache.bytes_read()) : double(judged.rows_read) * row) /
                         (tokens * kv_heads * row);
                recall += judged.recall, error += judged.output_error;
                for (index h = 0; h < heads; ++h)
                    read += chosen[way].data()[h * tokens + 200 * (first + h) + 100];
            }
        }
        for (int way = 0; way < 4; ++way)
            std::printf("%5.3f %-8s %7.3f %8.3f %8.3f %8.3f\n", top, ways[way], sums[way][0] / steps,
                        sums[way][1] / needles, sums[way][2] / steps, sums[way][3] / steps);
        found = sums[0][1] / needles;
    }
    return found > 0.9 ? 0 : 1;
}
