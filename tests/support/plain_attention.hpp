// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// attend by its definition, one query after the other in long double: the reference of what runs on tiles.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ropewalk/attention/exact.hpp>

#include "support/numbers.hpp"

namespace support {

/// The options that position, documents and a mask of one batch and head give; no outputs beside `out`.
template <class Q, class K, class V, class O>
void plain_attend(rw::heads_view<Q> q, rw::heads_view<K> k, rw::heads_view<V> v, rw::heads_view<O> out,
                  const rw::attend_options<rw::compute_t<Q>>& options = {}) {
    using rw::index;
    const index keys = k.tokens(), group = q.heads() / k.heads();
    const index first = options.first_query.value_or(keys - q.tokens());
    const long double scale =
        options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(q.channels(), 1))));
    const auto at = []<class E>(const E* p, index c) {
        return static_cast<long double>(
            static_cast<rw::compute_t<E>>(reinterpret_cast<const rw::stored_t<E>*>(p)[c]));
    };
    const auto document = [](auto of, index b, index tokens, index n) {
        return of[static_cast<std::size_t>(static_cast<index>(of.size()) == tokens ? n : b * tokens + n)];
    };
    const auto seen = [&](index b, index n, index j) {
        const index ahead = j - (first + n);
        if (options.causal && ahead > 0) return false;
        if (options.window > 0 && std::abs(ahead) >= options.window) return false;
        if (!options.query_documents.empty()) {
            const auto of_keys =
                options.key_documents.empty() ? options.query_documents : options.key_documents;
            if (document(options.query_documents, b, q.tokens(), n) != document(of_keys, b, keys, j))
                return false;
        }
        return options.mask.empty() || options.mask[static_cast<std::size_t>(n * keys + j)] != 0;
    };
    for (index b = 0; b < q.batches(); ++b)
        for (index n = 0; n < q.tokens(); ++n)
            for (index h = 0; h < q.heads(); ++h) {
                std::vector<long double> score, mean(static_cast<std::size_t>(v.channels()));
                long double peak = -std::numeric_limits<long double>::infinity(), sum = 0;
                for (index j = 0; j < keys; ++j) {
                    long double dot = 0;
                    for (index c = 0; c < q.channels(); ++c)
                        dot += at(q.at(b, n, h), c) * at(k.at(b, j, h / group), c);
                    score.push_back(scale * dot);
                    if (seen(b, n, j)) peak = std::max(peak, score.back());
                }
                for (index j = 0; j < keys; ++j) {
                    if (!seen(b, n, j)) continue;
                    const long double w = std::exp(score[static_cast<std::size_t>(j)] - peak);
                    sum += w;
                    for (index c = 0; c < v.channels(); ++c)
                        mean[static_cast<std::size_t>(c)] += w * at(v.at(b, j, h / group), c);
                }
                for (index c = 0; c < v.channels(); ++c)
                    out.at(b, n, h)[c] = static_cast<O>(
                        sum > 0 ? static_cast<rw::compute_t<O>>(mean[static_cast<std::size_t>(c)] / sum)
                                : rw::compute_t<O>(0));
            }
}

}  // namespace support
