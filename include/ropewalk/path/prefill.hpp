// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend: PaTH attention over whole sequences by blocks, and the key cache for decoding.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/path/attend_options.hpp>
#include <ropewalk/path/block_transform.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The betas of `count` tokens of one kv head.
template <class T>
std::vector<T> betas_of(const path_plan<T>& plan, index b, index h, index first, index count) {
    std::vector<T> own;
    for (index n = 0; n < count; ++n) own.push_back(*plan.beta.at(b, first + n, h));
    return own;
}
/// Rows [first, first + count) of head h as a matrix of T.
template <class T, class E>
path::matrix<T> rows_of(heads_view<E> x, index b, index h, index first, index count) {
    path::matrix<T> m(count, x.channels());
    for (index n = 0; n < count; ++n) {
        const auto* p = reinterpret_cast<const stored_t<E>*>(x.at(b, first + n, h));
        for (index c = 0; c < x.channels(); ++c) m(n, c) = static_cast<T>(static_cast<compute_t<E>>(p[c]));
    }
    return m;
}
template <class T, class E>
void store_row(const Eigen::Ref<const Eigen::Matrix<T, 1, Eigen::Dynamic>>& row, E* to) {
    auto* p = reinterpret_cast<stored_t<E>*>(to);
    for (index c = 0; c < row.cols(); ++c) p[c] = stored_t<E>(static_cast<compute_t<E>>(row[c]));
}

/// The queries of one key head and sequence while they are transformed back over earlier blocks, ordered by
/// blocks of tokens and within a block by heads, with their running softmax: peaks, weights and weighted
/// values.
template <class T>
struct path_walk {
    using column = Eigen::Array<T, Eigen::Dynamic, 1>;
    const path_plan<T>& plan;
    index batch, kv, start, length, block, group;
    path::matrix<T> queries, sum;
    column peak, weight;
    std::vector<std::vector<double>> gates;

    path_walk(const path_plan<T>& p, index b, index head, index first, index count, index tokens)
        : plan(p),
          batch(b),
          kv(head),
          start(first),
          length(count),
          block(tokens),
          group(p.group()),
          queries(group * count, p.q.channels),
          sum(path::matrix<T>::Zero(group * count, p.v.channels)),
          peak(column::Constant(group * count, -std::numeric_limits<T>::infinity())),
          weight(column::Zero(group * count)) {
        for (index g = 0; g < group && p.gated(); ++g) {
            gates.emplace_back(static_cast<std::size_t>(count));
            p.fill_gate_sums(b, head * group + g, first, count, gates.back().data());
        }
    }
    struct place {
        index head, token;  ///< head of the group; token of the sequence
    };
    place place_of(index row) const noexcept {
        const index first = row / (group * block) * block;
        const index count = std::min(block, length - first), inside = row - group * first;
        return {inside / count, first + inside % count};
    }
    /// Adds the keys first .. first + values.rows() to the queries from `row` on: scores [queries, keys], not
    /// scaled; those that a query does not see are overwritten.
    void add(index row, path::matrix<T>& scores, index first, const path::matrix<T>& values) {
        const index rows = scores.rows(), keys = values.rows();
        for (index r = 0; r < rows; ++r) {
            const auto [g, token] = place_of(row + r);
            auto own = scores.row(r);
            const index seen = std::min(keys, token - first + 1);
            if (plan.gated()) {
                const auto& sums = gates[static_cast<std::size_t>(g)];
                for (index c = 0; c < seen; ++c)
                    own[c] += static_cast<T>(sums[static_cast<std::size_t>(token)] -
                                             sums[static_cast<std::size_t>(first + c)]);
            }
            own *= plan.scale;
            if (!plan.options.logits.empty())
                std::copy_n(own.data(), seen,
                            plan.logit_row(batch, kv * group + g, start + token) + start + first);
            own.tail(keys - seen).setConstant(-std::numeric_limits<T>::infinity());
            const T top = std::max(peak[row + r], own.maxCoeff());
            const T shrink = std::exp(peak[row + r] - top);
            own.array() = (own.array() - top).exp();
            weight[row + r] = weight[row + r] * shrink + own.sum();
            if (shrink != 1) sum.row(row + r) *= shrink;
            peak[row + r] = top;
        }
        sum.middleRows(row, rows).noalias() += scores * values;
    }
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::path {

/// Causal PaTH attention over whole sequences, block by block: the transforms of each block become one UT
/// transform, and its queries are transformed back over the earlier blocks, nearest first, with a running
/// softmax.
///     logit(i, j) = scale (q_i^T H_i ... H_{j+1} k_j + G_i - G_j), j <= i; values are not transformed.
/// Shapes:   q [batches, tokens, heads, channels]; k, w [.., kv heads, channels]; v [.., kv heads, value
///           channels]; beta [batches, tokens, kv heads]; out [batches, tokens, heads, value channels].
///           Any strides, each of any element type; w, beta and gates in T. Parts share batches * kv heads *
///           sequences; each needs the memory of one call.
/// Throws:   invalid_config on sizes that disagree, beta outside [0, 2], a positive log gate, a block of 0.
/// Cost:     heads tokens^2 (3 channels + value channels) multiply-adds in matrix products; scratch of
///           tokens (3 channels + value channels) numbers.
/// Accuracy: f64 within 1e-12 of the explicit product, for any block, for |w| <= 1 and order-1 inputs; f32
///           within 1e-4. A later token cannot change a query's result, even if it is NaN.
/// Source:   Yang et al. 2025, section 3; fla-org/flash-linear-attention, ops/path_attn/naive.py. As there,
///           the gate is scaled together with the product.
template <class Q, class K, class V, class O>
void attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v,
            std::type_identity_t<heads_view<const compute_t<Q>>> w,
            std::type_identity_t<head_numbers<compute_t<Q>>> beta, heads_view<O> out,
            const attend_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    const detail::path_plan<T> plan("path::attend", q, k, v, w, out, beta, options);
    if (q.empty()) return;
    const index group = plan.group();

    struct stage {
        index first;
        block_transform<T> transform;
        matrix<T> keys, values;  // keys at the block's end
    };
    plan.each_sequence([&](index b, index kv, index start, index length) {
        plan.clear_logits(b, kv, start, length);
        // The products of a block multiply hidden numbers by 0, and 0 times NaN is not 0. A block of one
        // token has no hidden numbers.
        const auto finite = [&](const auto& view) {
            return detail::rows_of<T>(view, b, kv, start, length).allFinite();
        };
        const index block = finite(v) && finite(w) ? plan.options.block : 1;
        detail::path_walk<T> walk(plan, b, kv, start, length, block);
        std::vector<stage> stages;
        matrix<T> scores, tile;
        for (index first = 0; first < length; first += block) {
            const index count = std::min(block, length - first);
            const auto at = [&](const auto& view, index h) {
                return detail::rows_of<T>(view, b, h, start + first, count);
            };
            const auto betas = detail::betas_of(plan, b, kv, start + first, count);
            const matrix<T> keys = at(k, kv);
            stages.push_back({first, block_transform<T>(at(w, kv), betas), {}, at(v, kv)});
            stage& own = stages.back();
            const matrix<T> inner = own.transform.own_keys(keys, betas);
            own.keys = own.transform.keys_at_end(keys, inner);

            // Inside the block: query r has the transforms up to its own, key s those after s.
            auto queries = walk.queries.middleRows(group * first, group * count);
            for (index g = 0; g < group; ++g) queries.middleRows(g * count, count) = at(q, kv * group + g);
            matrix<T> through = queries * own.transform.w().transpose();
            for (index g = 0; g < group; ++g) {
                auto part = through.middleRows(g * count, count);
                part = part.template triangularView<Eigen::Lower>().toDenseMatrix();
            }
            scores.noalias() = queries * keys.transpose();
            scores.noalias() -= through * inner;
            walk.add(group * first, scores, first, own.values);
            queries.noalias() -= through * own.transform.y();
        }
        // Then all later queries together, over one earlier block after the other, nearest first.
        constexpr index tall = 256;
        for (std::size_t back = stages.size(); back-- > 1;) {
            const stage& with = stages[back - 1];
            for (index row = group * stages[back].first; row < group * length; row += tall) {
                const index rows = std::min(tall, group * length - row);
                tile = walk.queries.middleRows(row, rows);
                scores.noalias() = tile * with.keys.transpose();
                walk.add(row, scores, with.first, with.values);
                if (back == 1) continue;
                with.transform.apply_to_query(tile);
                walk.queries.middleRows(row, rows) = tile;
            }
        }
        for (index row = 0; row < group * length; ++row) {
            const auto [g, token] = walk.place_of(row);
            if (!options.log_weight.empty())
                plan.log_weight_at(b, start + token, kv * group + g) =
                    walk.peak[row] + std::log(walk.weight[row]);
            detail::store_row<T>(walk.sum.row(row) / walk.weight[row],
                                 out.at(b, start + token, kv * group + g));
        }
    });
}

/// The same by definition in plain loops, one transform at a time, for tests and comparisons.
/// Cost:     heads tokens^2 / 2 dependent steps of 3 channels + value channels multiply-adds.
/// Source:   Yang et al. 2025, eq. 4.
template <class Q, class K, class V, class O>
void attend_naive(heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                  std::type_identity_t<heads_view<const compute_t<Q>>> w,
                  std::type_identity_t<head_numbers<compute_t<Q>>> beta, heads_view<O> out,
                  const attend_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    const detail::path_plan<T> plan("path::attend_naive", q, k, v, w, out, beta, options);
    if (q.empty()) return;
    plan.each_sequence([&](index b, index kv, index start, index length) {
        plan.clear_logits(b, kv, start, length);
        for (index h = kv * plan.group(); h < (kv + 1) * plan.group(); ++h) {
            const auto at = [&](const auto& view, index head) {
                return detail::rows_of<T>(view, b, head, start, length);
            };
            const matrix<T> keys = at(k, kv), values = at(v, kv), ws = at(w, kv), queries = at(q, h);
            const auto betas = detail::betas_of(plan, b, kv, start, length);
            std::vector<double> gates(static_cast<std::size_t>(length));
            if (plan.gated()) plan.fill_gate_sums(b, h, start, length, gates.data());
            const index channels = q.channels();
            std::vector<T> x(static_cast<std::size_t>(channels)), scores(static_cast<std::size_t>(length));
            const auto dot = [&](const T* with) {
                T sum = 0;
                for (index c = 0; c < channels; ++c) sum += x.data()[c] * with[c];
                return sum;
            };
            for (index i = 0; i < length; ++i) {
                std::copy_n(queries.row(i).data(), channels, x.data());
                T peak = -std::numeric_limits<T>::infinity(), weight = 0;
                for (index j = i; j >= 0; --j) {
                    const auto n = static_cast<std::size_t>(j);
                    const auto gate = static_cast<T>(gates[static_cast<std::size_t>(i)] - gates[n]);
                    scores[n] = plan.scale * (dot(keys.row(j).data()) + gate);
                    peak = std::max(peak, scores[n]);
                    const T step = betas[n] * dot(ws.row(j).data());
                    for (index c = 0; c < channels; ++c) x.data()[c] -= step * ws(j, c);
                }
                if (!options.logits.empty())
                    std::copy_n(scores.data(), i + 1, plan.logit_row(b, h, start + i) + start);
                Eigen::Matrix<T, 1, Eigen::Dynamic> mixed =
                    Eigen::Matrix<T, 1, Eigen::Dynamic>::Zero(v.channels());
                for (index j = 0; j <= i; ++j) {
                    const T e = std::exp(scores[static_cast<std::size_t>(j)] - peak);
                    weight += e;
                    mixed += e * values.row(j);
                }
                if (!options.log_weight.empty())
                    plan.log_weight_at(b, start + i, h) = peak + std::log(weight);
                detail::store_row<T>(mixed / weight, out.at(b, start + i, h));
            }
        }
    });
}

/// The keys as decoding needs them, with the transforms of all later tokens of the sequence applied: H_T ...
/// H_{j+1} k_j.
/// Shapes:   k, cache [batches, tokens, kv heads, channels], cache of any element type; it may be k itself.
///           of the options, block, sequence_ends and part are used.
/// Throws:   invalid_config as attend.
/// Cost:     tokens channels (3 block + 2 channels) multiply-adds per head: blocks from the last to the
///           first, with the product of the later ones as one matrix.
/// Accuracy: as attend, before the rounding to the cache's type.
/// Source:   fla-org/flash-linear-attention, ops/path_attn/prepare_k_cache.py (there key by key).
template <class K, class C>
void fill_key_cache(heads_view<K> k, std::type_identity_t<heads_view<const compute_t<K>>> w,
                    std::type_identity_t<head_numbers<compute_t<K>>> beta, heads_view<C> cache,
                    const attend_options<compute_t<K>>& options = {}) {
    using T = compute_t<K>;
    const attend_options<T> own{
        .block = options.block, .sequence_ends = options.sequence_ends, .part = options.part};
    const detail::path_plan<T> plan("path::fill_key_cache", k, k, k, w, cache, beta, own);
    if (k.empty()) return;
    plan.each_sequence([&](index b, index h, index start, index length) {
        matrix<T> later = matrix<T>::Identity(k.channels(), k.channels());  // P of all later blocks
        const index block = plan.options.block;
        for (index first = (length - 1) / block * block; first >= 0; first -= block) {
            const index count = std::min(block, length - first);
            const auto betas = detail::betas_of(plan, b, h, start + first, count);
            const matrix<T> keys = detail::rows_of<T>(k, b, h, start + first, count);
            const block_transform<T> transform(detail::rows_of<T>(w, b, h, start + first, count), betas);
            const matrix<T> carried =
                transform.keys_at_end(keys, transform.own_keys(keys, betas)) * later.transpose();
            for (index n = 0; n < count; ++n)
                detail::store_row<T>(carried.row(n), cache.at(b, start + first + n, h));
            transform.apply_to_query(later);
        }
    });
}

}  // namespace ROPEWALK_NAMESPACE::path
