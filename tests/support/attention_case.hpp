// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Softmax attention by its definition, in long double and by three separate loops, for any mask and bias.

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <ropewalk/core/heads_view.hpp>

#include "support/numbers.hpp"

namespace support {

struct attention_sizes {
    rw::index batches = 1, queries = 5, keys = 5, heads = 2, kv_heads = 2, channels = 8, value_channels = 8;

    rw::heads_shape q() const { return {batches, queries, heads, channels}; }
    rw::heads_shape k() const { return {batches, keys, kv_heads, channels}; }
    rw::heads_shape v() const { return {batches, keys, kv_heads, value_channels}; }
    rw::heads_shape out() const { return {batches, queries, heads, value_channels}; }
    rw::index pairs() const { return batches * heads * queries * keys; }
    static rw::index count(rw::heads_shape s) { return s.batches * s.tokens * s.heads * s.channels; }
};

using seen_pair = std::function<bool(rw::index b, rw::index h, rw::index n, rw::index j)>;
using pair_bias = std::function<double(rw::index b, rw::index h, rw::index n, rw::index j)>;

/// Random q, k, v rounded to T, and what attention over them is.
template <class T>
struct attention_case {
    attention_sizes sizes;
    std::vector<T> q, k, v;
    std::vector<double> out, log_weight, probabilities;  // [b, n, h, c], [b, n, h], [b, h, n, j]

    explicit attention_case(attention_sizes s, unsigned seed = 1)
        : sizes(s),
          q(as<T>(noise(s.count(s.q()), seed, {0, 1.7}))),
          k(as<T>(noise(s.count(s.k()), seed + 1, {0, 1.7}))),
          v(as<T>(noise(s.count(s.v()), seed + 2, {0, 1.7}))) {}

    rw::heads_view<const T> q_view() const { return {q.data(), sizes.q()}; }
    rw::heads_view<const T> k_view() const { return {k.data(), sizes.k()}; }
    rw::heads_view<const T> v_view() const { return {v.data(), sizes.v()}; }

    void define(const seen_pair& seen, const pair_bias& bias = {}, double scale = 0) {
        const auto& s = sizes;
        if (scale == 0) scale = 1 / std::sqrt(static_cast<double>(s.channels));
        const auto at = [](const std::vector<T>& x, rw::heads_shape of, rw::index b, rw::index n,
                           rw::index h) {
            return x.data() + ((b * of.tokens + n) * of.heads + h) * of.channels;
        };
        out.clear(), log_weight.clear();
        probabilities.assign(static_cast<std::size_t>(s.pairs()), 0);
        for (rw::index b = 0; b < s.batches; ++b)
            for (rw::index n = 0; n < s.queries; ++n)
                for (rw::index h = 0; h < s.heads; ++h) {
                    const rw::index kv = h / (s.heads / s.kv_heads);
                    std::vector<long double> score(static_cast<std::size_t>(s.keys)),
                        mean(static_cast<std::size_t>(s.value_channels));
                    long double peak = -std::numeric_limits<long double>::infinity(), sum = 0;
                    for (rw::index j = 0; j < s.keys; ++j) {
                        if (!seen(b, h, n, j)) continue;
                        long double dot = 0;
                        for (rw::index c = 0; c < s.channels; ++c)
                            dot += static_cast<long double>(widened(at(q, s.q(), b, n, h)[c])) *
                                   static_cast<long double>(widened(at(k, s.k(), b, j, kv)[c]));
                        dot = dot * static_cast<long double>(scale) + (bias ? bias(b, h, n, j) : 0.0);
                        score[static_cast<std::size_t>(j)] = dot;
                        peak = std::isnan(dot) || dot > peak ? dot : peak;
                    }
                    for (rw::index j = 0; j < s.keys; ++j)
                        if (seen(b, h, n, j)) sum += std::exp(score[static_cast<std::size_t>(j)] - peak);
                    for (rw::index j = 0; j < s.keys; ++j) {
                        if (!seen(b, h, n, j)) continue;
                        const long double p = std::exp(score[static_cast<std::size_t>(j)] - peak) / sum;
                        probabilities[static_cast<std::size_t>(((b * s.heads + h) * s.queries + n) * s.keys +
                                                               j)] = static_cast<double>(p);
                        for (rw::index c = 0; c < s.value_channels; ++c)
                            mean[static_cast<std::size_t>(c)] +=
                                p * static_cast<long double>(widened(at(v, s.v(), b, j, kv)[c]));
                    }
                    log_weight.push_back(static_cast<double>(peak + std::log(sum)));
                    for (const long double m : mean) out.push_back(static_cast<double>(m));
                }
    }
};

}  // namespace support
