// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary cross-attention of MuseControlLite (music control): its schemes, positions and released map.
#pragma once

#include <algorithm>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/positions/timeline.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// MuseControlLite adds a second cross-attention whose queries, keys and values are rotated. Query positions
/// are scaled so that both sequences cover the same time line.
/// Source: MuseControlLite, Tsai et al. 2025; fundwotsai2001/MuseControlLite MuseControlLite_setup.py.
namespace ROPEWALK_NAMESPACE::musecontrollite {

struct cross_attention_config {
    index head_dim = 64;
    double base = 1e4;
    pair_layout layout = half_split{};  ///< of the paper's form; new training may use either
};

/// The paper's form: rotate queries, keys and values with this scheme, queries at query_positions, keys and
/// values at key_positions. The output is not rotated back, so rotated values carry the condition's time into
/// it.
/// Throws: invalid_config on an odd head_dim or a base that is not > 0.
/// Source: MuseControlLite, Tsai et al. 2025.
inline rotary_scheme cross_attention(const cross_attention_config& config) {
    return make_fixed_scheme(
        {.name = "musecontrollite", .head_dim = config.head_dim, .layout = config.layout},
        frequencies::geometric({.rotary_dim = config.head_dim, .base = config.base}));
}

/// Positions of keys and values: 0, 1, ....
/// Throws: invalid_config on key_tokens < 0.
/// Source: fundwotsai2001/MuseControlLite MuseControlLite_setup.py.
inline position_ids key_positions(index key_tokens) {
    detail::require(key_tokens >= 0, "musecontrollite::key_positions", "key_tokens must be >= 0", key_tokens);
    return positions::timeline({.tokens = key_tokens});
}
/// Positions of queries: i * (key_tokens / query_tokens).
/// Throws: invalid_config on query_tokens < 1 or key_tokens < 0.
/// Source: fundwotsai2001/MuseControlLite MuseControlLite_setup.py.
inline position_ids query_positions(index query_tokens, index key_tokens) {
    constexpr const char* who = "musecontrollite::query_positions";
    detail::require(query_tokens >= 1, who, "query_tokens must be >= 1", query_tokens);
    detail::require(key_tokens >= 0, who, "key_tokens must be >= 0", key_tokens);
    return positions::timeline_over(key_tokens, query_tokens);
}

/// The most channels of a head that rotate_as_released accepts.
inline constexpr index max_channels = 1024;

/// The map of the released code, for its checkpoints only. It mixes interleaved and half-split pairs: out[c]
/// = x[c] cos_c - x[2c+1] sin_c, out[c+P] = x[c+P] cos_c + x[2c] sin_c, with P pairs. It is not a rotation:
/// norms change, and scores do not depend on position differences alone.
/// Shapes:   x [batches, tokens, heads, 2 * pairs], channels <= 1024; rows hold batches * tokens tokens.
/// Requires: as rotate.
/// Returns:  as rotate.
/// Cost:     one pass and a copy of each head.
/// Accuracy: f64, f32: 2 ulp of the largest input of an output.
/// Source:   fundwotsai2001/MuseControlLite MuseControlLite_setup.py.
template <class T, class R>
bool rotate_as_released(heads_view<T> x, const R& given) noexcept {
    static_assert(
        std::is_same_v<detail::rows_of_t<R>, rows_for<T>>,
        "ropewalk: rotate_as_released takes a rotation_table or its rows, of double for f64 data and of "
        "float for all other");
    using C = compute_t<T>;
    using S = stored_t<T>;
    constexpr const char* who = "musecontrollite::rotate_as_released";
    const rows_for<T>& rows = detail::rows_of(given);
    if (!detail::fits(who, fit(half_split{}, x, rows))) return false;
    if (x.empty()) return true;
    if (x.channels() > max_channels)
        return detail::tell(who, {"channels must be at most 1024", max_channels, x.channels()});
    const index pairs = rows.pairs;
    index missing = -1;
    C in[max_channels];
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n) {
            const index row = rows.row(b * x.tokens() + n);
            if (row >= rows.table_rows) missing = row;
            if (row < 0 || row >= rows.table_rows) continue;
            for (index h = 0; h < x.heads(); ++h) {
                S* const p = reinterpret_cast<S*>(x.at(b, n, h));
                const C* const cos = rows.cos_at(row, h);
                const C* const sin = rows.sin_at(row, h);
                for (index c = 0; c < 2 * pairs; ++c) in[c] = static_cast<C>(p[c]);
                for (index c = 0; c < pairs; ++c) {
                    p[c] = static_cast<S>(in[c] * cos[c] - in[2 * c + 1] * sin[c]);
                    p[c + pairs] = static_cast<S>(in[c + pairs] * cos[c] + in[2 * c] * sin[c]);
                }
            }
        }
    return missing < 0 || detail::tell(who, detail::missing_row(rows, missing));
}

}  // namespace ROPEWALK_NAMESPACE::musecontrollite
