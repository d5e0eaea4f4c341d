// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A2ATS at the context length it is made for: 16384 tokens. Keys and queries are generated, not trained. A
// token has one of 1024 subjects, which are encoded in the slowly rotating pairs, and every query asks for a
// needle: one far token whose subject occurs nowhere else. How often is it read, and how far is the output
// from full attention?
#include <algorithm>
#include <cstdio>
#include <random>

#include <ropewalk/compression.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

namespace rw = ropewalk;

int main() {
    using rw::index;
    constexpr index tokens = 16384, heads = 8, kv_heads = 2, dim = 128, subjects = 1024, needles = 64;
    constexpr index learned_tokens = 2048;
    constexpr double steps = needles / heads, row_bytes = 2 * dim * sizeof(float);  // one head of K and V
    const auto rope = rw::make_fixed_scheme({}, rw::frequencies::geometric({.rotary_dim = dim, .base = 5e5}));
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    const auto random_numbers = [&](index count) {
        std::vector<float> x(static_cast<std::size_t>(count));
        std::generate(x.begin(), x.end(), [&] { return normal(engine); });
        return x;
    };

    // A vector of a subject: noise, plus the subject's own numbers in the slow pairs. Pair i is channels i
    // and i + dim / 2 (half-split); the last quarter rotates by less than a radian in 16384 tokens.
    const auto subject_vectors = random_numbers(subjects * dim), v = random_numbers(tokens * kv_heads * dim);
    const auto write_subject = [&](float* to, index subject) {
        const float* const own = subject_vectors.data() + subject * dim;
        for (index c = 0; c < dim; ++c)
            to[c] = 0.3f * normal(engine) + (c % (dim / 2) < dim * 3 / 8 ? 0 : own[c]);
    };
    const auto random_subjects = [&](index rows, index first) {
        auto x = random_numbers(rows * dim);
        for (index n = 0; n < rows; ++n)
            write_subject(x.data() + n * dim, first + index(engine()) % (subjects - first));
        return x;
    };
    const auto needle_token = [](index needle) { return 200 * needle + 100; };

    // Quantizers are learned on other tokens of all subjects. In the cache the first 64 subjects are needles.
    const auto learned_q = random_subjects(learned_tokens * heads, 0);
    const auto learned_k = random_subjects(tokens * kv_heads, 0);
    auto k = random_subjects(tokens * kv_heads, needles), q = random_subjects(heads, 0), out = q;
    const rw::heads_view keys(k.data(), tokens, kv_heads, dim), query(q.data(), 1, heads, dim);
    const rw::heads_view values(v.data(), tokens, kv_heads, dim), other_keys(learned_k.data(), keys.shape);
    const rw::heads_view other_queries(learned_q.data(), learned_tokens, heads, dim);
    for (index x = 0; x < needles; ++x)
        write_subject(keys.at(0, needle_token(x), x % heads * kv_heads / heads), x);
    const rw::retrieval_calibration how{.codebook = {.codewords = 1024, .iterations = 60, .batch = 4096}};
    const auto quantizers = rw::make_retrieval_quantizers(other_queries, other_keys, rope, how);

    const char* const names[] = {"A2ATS", "latest", "random", "the best"};
    double found = 0;
    std::printf("%5s %-8s %7s %8s %8s %8s\n", "top", "tokens", "bytes", "needles", "recall", "error");
    for (const double top : {0.003, 0.01, 0.03}) {
        const rw::retrieval_options options{
            .heads = heads, .top_fraction = top, .keys = rw::cached_keys::unrotated};
        rw::retrieval_cache<> cache(quantizers, rope, options);
        cache.append(keys);
        double sums[4][4] = {};  // of the printed columns
        for (index first = 0; first < needles; first += heads) {
            // Each head asks for one needle, with large scores: a head that looks for one token is sharp.
            for (index h = 0; h < heads; ++h) write_subject(q.data() + h * dim, first + h);
            for (float& x : q) x *= 6;
            std::vector<std::uint8_t> picked(heads * tokens);
            cache.attend(query, keys, values, rw::heads_view(out.data(), 1, heads, dim), {.top = picked});

            const rw::retrieval_reference full(query, keys, values, rope, options);
            const std::vector selections{picked, full.make_recent(), full.make_random(7), full.best()};
            for (std::size_t s = 0; s < 4; ++s) {
                const auto quality = full.judge(selections[s]);
                auto& [bytes, needles_read, recall, error] = sums[s];
                bytes += (s == 0 ? double(cache.bytes_read()) : double(quality.rows_read) * row_bytes) /
                         (tokens * kv_heads * row_bytes);
                recall += quality.recall, error += quality.output_error;
                for (index h = 0; h < heads; ++h)
                    needles_read += selections[s].data()[h * tokens + needle_token(first + h)];
            }
        }
        for (int s = 0; s < 4; ++s)
            std::printf("%5.3f %-8s %7.3f %8.3f %8.3f %8.3f\n", top, names[s], sums[s][0] / steps,
                        sums[s][1] / needles, sums[s][2] / steps, sums[s][3] / steps);
        found = sums[0][1] / needles;
    }
    return found > 0.9 ? 0 : 1;
}
