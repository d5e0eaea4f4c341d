// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/attention/banded.hpp>
#include <ropewalk/attention/self_extend.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/attention/tiled_dual_chunk.hpp>

#include "model.hpp"

/// Attention that reads further than a model was trained without other frequencies: other positions for far
/// keys. Both rotate inside, so the hook beside them only rotates what is cached.
namespace tinylm {

inline std::vector<std::byte> workspace_of(index bytes) {
    return std::vector<std::byte>(static_cast<std::size_t>(bytes));
}
/// Causal attention in tiles.
inline attention_hook tiled_attention() {
    return [](index, auto q, auto k, auto v, auto out) {
        auto memory = workspace_of(rw::attention::attend_workspace(q, k, v));
        rw::attention::attend(rw::attention::causal_mask{}, q, k, v, out, memory);
    };
}

/// Rotated copies of a tensor.
template <class Rows>
std::vector<float> rotated_copy(rw::heads_view<const float> x, const Rows& rows) {
    std::vector<float> copy(x.data, x.data + x.tokens() * x.heads() * x.channels());
    rw::rotate(rw::half_split{}, rw::heads_view<float>(copy.data(), x.shape), rows);
    return copy;
}
inline rw::heads_view<const float> constant(rw::heads_view<float> x) { return {x.data, x.shape, x.strides}; }

/// Keys as they are: what Self-Extend caches.
inline rotate_hook no_rotation() {
    return [](index, auto, auto, auto) {};
}
/// Keys at their positions in their chunk, queries as they are.
inline rotate_hook chunk_keys(const rw::dual_chunk& chunks, const rw::spectrum& s) {
    auto table = std::make_shared<rw::position_table<float>>(s, chunks.rows_needed());
    return [table, chunks](index, auto, auto k, auto positions) {
        const auto at = chunks.key_positions(k.tokens(), positions.front());
        rw::rotate(rw::half_split{}, k, table->rows(at));
    };
}
/// Dual chunk attention over them.
inline attention_hook dual_chunk_attention(const rw::dual_chunk& chunks, const rw::spectrum& s) {
    auto table = std::make_shared<rw::rotation_table<float>>(
        rw::make_rotation_table<float>(s, rw::position_ids::text(chunks.rows_needed())));
    return [table, chunks](index, auto q, auto k, auto v, auto out) {
        const index first = k.tokens() - q.tokens();
        const auto copy = [&](rw::chunk_row row) {
            const auto at = chunks.query_positions(row, q.tokens(), first);
            return rotated_copy(constant(q), table->rows(at));
        };
        const auto same = copy(rw::chunk_row::same), previous = copy(rw::chunk_row::previous),
                   older = copy(rw::chunk_row::older);
        const auto view = [&](const std::vector<float>& x) {
            return rw::heads_view<const float>(x.data(), q.shape);
        };
        const rw::dual_chunk_queries<const float> queries{view(same), view(previous), view(older)};
        auto memory = workspace_of(rw::attention::attend_dual_chunk_workspace(queries, v));
        rw::attention::attend_dual_chunk(rw::attention::causal_mask{}, chunks, queries, k, v, out, memory);
    };
}
/// Self-Extend over unrotated keys.
inline attention_hook self_extend_attention(const rw::self_extend& extend, const rw::spectrum& s) {
    return [extend, s](index, auto q, auto k, auto v, auto out) {
        const index first = k.tokens() - q.tokens(), count = q.tokens();
        const auto copy = [&](rw::heads_view<const float> x, const rw::position_ids& at) {
            return rotated_copy(x, rw::make_rotation_table<float>(s, at));
        };
        const auto near_q = copy(constant(q), rw::position_ids::text(count, static_cast<double>(first)));
        const auto far_q = copy(constant(q), extend.far_queries(count, first));
        const auto near_k = copy(k, rw::position_ids::text(k.tokens()));
        const auto far_k = copy(k, extend.far_keys(k.tokens()));
        const rw::attention::banded_copies<const float, const float> copies{{near_q.data(), q.shape},
                                                                            {near_k.data(), k.shape},
                                                                            {far_q.data(), q.shape},
                                                                            {far_k.data(), k.shape}};
        auto memory = workspace_of(rw::attention::attend_banded_workspace(copies, v));
        rw::attention::attend_banded(rw::attention::causal_mask{}, copies, {.window = extend.config().window},
                                     v, out, memory);
    };
}

}  // namespace tinylm
