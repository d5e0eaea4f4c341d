// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/compression/low_rank.hpp>
#include <ropewalk/compression/rope_folding.hpp>

#include "trace.hpp"

namespace tinylm {

using dense = Eigen::MatrixXd;

/// Scores of every window's last query, exact and with changed keys: |difference| / |exact|.
inline double score_error(
    const model& m, const std::vector<layer_trace>& traces, const rw::model_schemes& schemes,
    const std::function<void(index, rw::heads_view<float>,
                             const std::function<void(rw::heads_view<float>)>&)>& change) {
    double off = 0, all = 0;
    std::vector<std::int32_t> positions(static_cast<std::size_t>(traces.front().kv_shape.tokens));
    for (std::size_t n = 0; n < positions.size(); ++n) positions[n] = static_cast<std::int32_t>(n);
    for (std::size_t l = 0; l < traces.size(); ++l) {
        const auto layer = static_cast<index>(l);
        const index tokens = traces[l].kv_shape.tokens;
        rw::position_table<float> table(schemes[layer].spectrum_for(tokens), tokens);
        const std::function<void(rw::heads_view<float>)> rotate = [&](rw::heads_view<float> x) {
            rw::rotate(schemes[layer], x,
                       table.rows(std::span(positions).last(static_cast<std::size_t>(x.tokens()))));
        };
        for (index w = 0; w < traces[l].kv_shape.batches; ++w) {
            const auto window = traces[l].window(w);
            const auto copy = [](rw::heads_view<const float> x) {
                return std::vector<float>(x.data, x.data + x.tokens() * x.heads() * x.channels());
            };
            auto k = copy(window.k), q = copy(window.last_q());
            const rw::heads_view<float> keys(k.data(), window.k.tokens(), m.kv_heads, m.head_dim),
                query(q.data(), 1, m.heads, m.head_dim);
            rotate(query);
            change(layer, keys, rotate);
            for (index h = 0; h < m.heads; ++h)
                for (index n = 0; n < keys.tokens(); ++n) {
                    double want = 0, got = 0;
                    for (index c = 0; c < m.head_dim; ++c) {
                        const double x = static_cast<double>(query.at(0, 0, h)[c]);
                        want +=
                            x * static_cast<double>(window.rotated_k.at(0, n, h * m.kv_heads / m.heads)[c]);
                        got += x * static_cast<double>(keys.at(0, n, h * m.kv_heads / m.heads)[c]);
                    }
                    off += (got - want) * (got - want), all += want * want;
                }
        }
    }
    return std::sqrt(off / all);
}

/// Every layer's keys in TransMLA's basis: virtual head 0 rotates, of the others a latent of `rank` is kept.
struct transmla {
    struct layer_maps {
        rw::rope_folding fold;
        dense rest;  ///< [other channels, other channels]: what the latent leaves of them
    };
    const model& m;
    std::vector<layer_maps> layers;
    index rank;
    rw::spectrum omega;

    double bytes_a_head() const {
        return 4.0 * static_cast<double>(m.head_dim + rank) / static_cast<double>(m.kv_heads);
    }
    double share() const {
        double sum = 0;
        for (const auto& l : layers) sum += l.fold.first_head_share() / static_cast<double>(layers.size());
        return sum;
    }
    /// Latent keys [tokens, all channels], rotated in their first head.
    matrix keys(index layer, rw::heads_view<const float> k) const {
        const auto& [fold, rest] = layers[static_cast<std::size_t>(layer)];
        const index width = m.kv_heads * m.head_dim, first = fold.virtual_dim();
        const Eigen::Map<const matrix> plain(k.data, k.tokens(), width);
        dense latent = plain.cast<double>() * fold.map.transpose();
        latent.rightCols(width - first) *= rest;
        matrix out = latent.cast<float>();
        rotate_first(fold, rw::heads_view<float>(out.data(), k.tokens(), 1, width), 0);
        return out;
    }
    /// Queries of them, [tokens, heads * all channels].
    matrix queries(index layer, rw::heads_view<const float> q, index first_position) const {
        const auto& fold = layers[static_cast<std::size_t>(layer)].fold;
        const index width = m.kv_heads * m.head_dim;
        matrix out(q.tokens(), m.heads * width);
        const Eigen::Map<const matrix> plain(q.data, q.tokens(), m.heads * m.head_dim);
        for (index h = 0; h < m.heads; ++h)
            out.middleCols(h * width, width) = plain.middleCols(h * m.head_dim, m.head_dim) *
                                               fold.query_map(h, m.heads).transpose().cast<float>();
        rotate_first(fold, rw::heads_view<float>(out.data(), q.tokens(), m.heads, width), first_position);
        return out;
    }
    void rotate_first(const rw::rope_folding& fold, rw::heads_view<float> x, index first_position) const {
        const auto scheme = fold.scheme(omega);
        const auto rows = rw::make_rotation_table<float>(
            scheme.spectrum_for(1), rw::position_ids::text(x.tokens(), static_cast<double>(first_position)));
        rw::rotate(scheme, x.channel_slice(0, fold.virtual_dim()), rows);
    }
    attention_hook attention() const {
        return [this](index layer, auto q, auto k, auto v, auto out) {
            const index width = m.kv_heads * m.head_dim, n = q.tokens();
            const matrix ql = queries(layer, {q.data, q.shape}, k.tokens() - n), kl = keys(layer, k);
            // One key for all heads: a head stride of 0.
            const rw::heads_view<const float> queries_of(ql.data(), n, m.heads, width),
                key(kl.data(), {1, k.tokens(), m.kv_heads, width}, {.token = width});
            auto memory = std::vector<std::byte>(
                static_cast<std::size_t>(rw::attention::attend_workspace(queries_of, key, v)));
            rw::attention::attend(rw::attention::causal_mask{}, queries_of, key, v, out, memory,
                                  {.scale = 1 / std::sqrt(static_cast<double>(m.head_dim))});
        };
    }
    double score_error(const std::vector<layer_trace>& traces) const {
        double off = 0, all = 0;
        for (std::size_t l = 0; l < traces.size(); ++l)
            for (index w = 0; w < traces[l].kv_shape.batches; ++w) {
                const auto window = traces[l].window(w);
                const auto layer = static_cast<index>(l);
                const index last = window.k.tokens() - 1, width = m.kv_heads * m.head_dim;
                const matrix kl = keys(layer, window.k), ql = queries(layer, window.last_q(), last);
                std::vector<float> q(window.last_q().data, window.last_q().data + m.heads * m.head_dim);
                const auto rows = rw::make_rotation_table<float>(
                    omega, rw::position_ids::text(1, static_cast<double>(last)));
                rw::rotate(rw::half_split{}, rw::heads_view<float>(q.data(), 1, m.heads, m.head_dim), rows);
                for (index h = 0; h < m.heads; ++h)
                    for (index n = 0; n <= last; ++n) {
                        double want = 0;
                        for (index c = 0; c < m.head_dim; ++c)
                            want +=
                                static_cast<double>(q[static_cast<std::size_t>(h * m.head_dim + c)]) *
                                static_cast<double>(window.rotated_k.at(0, n, h * m.kv_heads / m.heads)[c]);
                        const double got =
                            static_cast<double>(ql.row(0).segment(h * width, width).dot(kl.row(n)));
                        off += (got - want) * (got - want), all += want * want;
                    }
            }
        return std::sqrt(off / all);
    }
};

inline transmla make_transmla(const model& m, const std::vector<layer_trace>& calibration, index fold,
                              index rank) {
    transmla made{
        m,
        {},
        rank,
        rw::frequencies::geometric({.rotary_dim = m.head_dim, .base = m.config.value("rope_theta", 1e4)})};
    const index width = m.kv_heads * m.head_dim;
    for (const auto& layer : calibration) {
        const Eigen::Map<const matrix> keys(layer.k_data.data(),
                                            static_cast<index>(layer.k_data.size()) / width, width);
        transmla::layer_maps maps{
            rw::make_rope_folding({.heads = m.kv_heads, .head_dim = m.head_dim, .fold = fold}, keys), {}};
        const index first = maps.fold.virtual_dim();
        const dense latent = keys.cast<double>() * maps.fold.map.transpose(),
                    others = latent.rightCols(width - first);
        // The projection onto the directions of the other channels that hold most of them.
        const auto best = rw::make_low_rank(others.transpose(), rank);
        maps.rest = best.down * best.down.transpose();
        made.layers.push_back(std::move(maps));
    }
    return made;
}

}  // namespace tinylm
