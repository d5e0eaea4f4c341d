// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// MLA attention of many new tokens over a cache of latents, in the caller's memory and in parts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/compression/latent_cache.hpp>
#include <ropewalk/compression/latent_form.hpp>

/// Attention of many new tokens over a cache of latents, in a caller's memory and in parts.
/// Source: deepseek-ai/DeepSeek-V3 inference/model.py, both of its attn_impl; register blocking, Goto and van
///         de Geijn 2008.
namespace ROPEWALK_NAMESPACE::detail {

/// Some rows, up to a strip of them, as columns [channels, strip] times `scale`; columns without a row are
/// zero. copy: [lanes, whole_packs(channels)].
template <class T, class E>
void fill_strip(heads_view<const E> rows, index first, index count, T scale, T* copy, T* strip) noexcept {
    constexpr index lanes = simd::lanes<T>, stride = strip_lanes<T>;
    const index channels = rows.channels(), width = whole_packs<T>(channels);
    const simd::pack<T> by = simd::broadcast(scale);
    for (index r = 0; r < stride; r += lanes) {
        const index some = std::clamp<index>(count - r, 0, lanes);
        std::fill_n(copy, lanes * width, T(0));
        for (index i = 0; i < some; ++i) read_row(rows.at(0, first + r + i, 0), copy + i * width, channels);
        for (index c = 0; c < channels; c += lanes) {
            simd::pack<T> x[std::size_t{simd::lanes<T>}];
            for (index i = 0; i < lanes; ++i)
                x[i] = by * simd::load(static_cast<const T*>(copy + i * width + c));
            simd::transpose<T>(x);
            for (index i = 0; i < std::min(lanes, channels - c); ++i)
                simd::store(strip + (c + i) * stride + r, x[i]);
        }
    }
}

/// to row n [rows] = w [rows, depth] times column n of a strip [depth, strip], for its first `count` columns.
/// squares: [whole_packs(rows), strip].
template <class T>
void fill_projection(matrix_at<const T> w, index rows, index depth, const T* columns, index count, T* squares,
                     matrix_at<T> to) noexcept {
    constexpr index lanes = simd::lanes<T>, stride = strip_lanes<T>;
    tile_product<left::rows, onto::nothing, T>(rows, whole_packs<T>(count) / lanes, depth, w,
                                               {columns, stride}, {squares, stride});
    for (index n = 0; n < count; n += lanes) {
        index r = 0;
        for (; r + lanes <= rows; r += lanes) {
            simd::pack<T> x[std::size_t{simd::lanes<T>}];
            for (index i = 0; i < lanes; ++i)
                x[i] = simd::load(static_cast<const T*>(squares + (r + i) * stride + n));
            simd::transpose<T>(x);
            for (index i = 0; i < std::min(lanes, count - n); ++i)
                simd::store(to.data + (n + i) * to.stride + r, x[i]);
        }
        for (; r < rows; ++r)
            for (index i = 0; i < std::min(lanes, count - n); ++i)
                to.data[(n + i) * to.stride + r] = squares[r * stride + n + i];
    }
}

/// Absorbed rows against keys [first, first + count) of a cache.
template <class T, class Rules, class E>
void attend_latents(const Rules& rules, heads_view<const T> q, const latent_cache<E>& cache, index first,
                    index count, double scale, heads_view<T> out, std::span<std::byte> workspace,
                    const attention::tiled_options<T>& options) noexcept {
    const tiled_scratch<T> at("latent_attention", workspace_cutter(workspace), q.channels(), out.channels(),
                              options);
    const auto by = static_cast<double>(cache.scale());
    const shared_source<const T, const E> scores(q, cache.keys().token_slice(first, count), scale * by,
                                                 at.queries, at.keys, at.row);
    tiled_attention(rules, scores, cache.latents().token_slice(first, count), out, at, options).run();
    for (index r = 0; by != 1 && r < out.tokens(); ++r)
        for (index c = 0; c < out.channels(); ++c) out.at(0, r, 0)[c] *= cache.scale();
}

/// What prefill reads of a layer of latent attention.
template <class T>
struct latent_layer {
    index heads, latent, nope, rope, value;
    const T* up;  // [heads, nope + value, latent]
    double scale;

    index each() const noexcept { return nope + rope; }
    /// Row `row` of a head's nope rows and value rows behind them.
    const T* up_at(index head, index row) const noexcept {
        return up + (head * (nope + value) + row) * latent;
    }
};

/// The newest tokens of a cache over all of it. Heads are shared among parts one by one (expanded) or in
/// groups that fill a tile of rows (absorbed), the same groups for every split.
template <class T, class E>
class latent_prefill {
    static constexpr index strip = strip_lanes<T>;

  public:
    latent_prefill(const latent_layer<T>& layer, const latent_cache<E>& cache, index tokens,
                   latent_form form) noexcept
        : layer_(layer), cache_(cache), tokens_(tokens), keys_(cache.tokens()), form_(form) {}

    /// Throws: invalid_config on a size that does not fit.
    index bytes() const { return form_ == latent_form::expanded ? expanded({}).bytes : absorbed({}).bytes; }
    /// queries [tokens, heads * (nope + rope)], out [tokens, heads * value].
    void run(const T* queries, T* out, std::span<std::byte> workspace, part_of part) const noexcept {
        if (form_ == latent_form::expanded)
            run_expanded(queries, out, expanded(workspace_cutter(workspace)), part);
        else
            run_absorbed(queries, out, absorbed(workspace_cutter(workspace)), part);
    }

  private:
    static constexpr const char* who = "latent_attention";
    struct expanded_memory {
        T *latents, *own, *squares, *copy;
        std::span<std::byte> attend;
        index bytes;
    };
    struct absorbed_memory {
        T *queries, *latents, *up, *columns, *squares, *copy;
        std::span<std::byte> attend;
        index bytes;
    };

    heads_view<const T> of_queries(const T* queries) const noexcept {
        return {queries, tokens_, layer_.heads, layer_.each()};
    }
    expanded_memory expanded(workspace_cutter cutter) const {
        expanded_memory m;
        const index strips = keys_ / strip + (keys_ % strip != 0);
        m.latents = cutter.template cut<T>(who, {strips, layer_.latent, strip});
        m.own = cutter.template cut<T>(who, {keys_, layer_.each() + layer_.value});
        m.squares = cutter.template cut<T>(who, {std::max(layer_.nope, layer_.value), strip});
        m.copy = cutter.template cut<T>(who, {simd::lanes<T>, whole_packs<T>(layer_.latent)});
        const index size =
            tiled_scratch<T>(who, {}, layer_.each(), layer_.value, attention::tiled_options<T>{}).bytes;
        m.attend = {cutter.template cut<std::byte>(who, {size}), static_cast<std::size_t>(size)};
        m.bytes = cutter.bytes();
        return m;
    }
    void run_expanded(const T* queries, T* out, const expanded_memory& at, part_of part) const noexcept {
        if (part.part >= layer_.heads) return;
        const index d = layer_.each(), width = d + layer_.value;
        const auto scale = static_cast<T>(cache_.scale());
        const auto strip_of = [&](index n) { return at.latents + n * layer_.latent; };
        for (index n = 0; n < keys_; n += strip)
            fill_strip(cache_.latents(), n, std::min(strip, keys_ - n), scale, at.copy, strip_of(n));
        for (index n = 0; n < keys_; ++n) {  // the rotated key is that of all heads
            T* const key = at.own + n * width + layer_.nope;
            read_row(cache_.shared_keys().at(0, n, 0), key, layer_.rope);
            for (index c = 0; scale != 1 && c < layer_.rope; ++c) key[c] *= scale;
        }
        const heads_view<const T> own(at.own, keys_, 1, width), q = of_queries(queries);
        const heads_view<T> to(out, tokens_, layer_.heads, layer_.value);
        for (index h = part.part; h < layer_.heads; h += part.parts) {
            const auto project = [&](index first, index rows, index channel, index n) {
                fill_projection<T>({layer_.up_at(h, first), layer_.latent}, rows, layer_.latent, strip_of(n),
                                   std::min(strip, keys_ - n), at.squares,
                                   {at.own + n * width + channel, width});
            };
            for (index n = 0; n < keys_; n += strip) {
                project(0, layer_.nope, 0, n);
                project(layer_.nope, layer_.value, d, n);
            }
            attention::attend(attention::causal_mask{}, q.head_slice(h, 1), own.channel_slice(0, d),
                              own.channel_slice(d, layer_.value), to.head_slice(h, 1), at.attend,
                              {.scale = layer_.scale});
        }
    }

    /// Heads of an item: rows of queries, tokens * heads, fill a tile.
    index group() const noexcept {
        constexpr index tile = 96;
        const index items = std::clamp<index>((layer_.heads * tokens_ + tile - 1) / tile, 1, layer_.heads);
        return (layer_.heads + items - 1) / items;
    }
    attention::tiled_options<T> tiles() const noexcept {
        constexpr index most = 144;  // rather one tile than one and a half
        const index rows = tokens_ * group();
        return {.query_tile = rows > 0 && rows <= most ? rows : 96};
    }
    index wide() const noexcept { return whole_packs<T>(layer_.latent) + whole_packs<T>(layer_.rope); }
    absorbed_memory absorbed(workspace_cutter cutter) const {
        absorbed_memory m;
        checked_product(who, "heads * tokens must fit", {layer_.heads, tokens_, wide()});
        m.queries = cutter.template cut<T>(who, {tokens_, group(), wide()});
        m.latents = cutter.template cut<T>(who, {tokens_, group(), layer_.latent});
        m.up = cutter.template cut<T>(who, {layer_.nope, whole_packs<T>(layer_.latent)});
        m.columns = cutter.template cut<T>(who, {layer_.latent, strip});
        m.squares = cutter.template cut<T>(who, {layer_.value, strip});
        m.copy = cutter.template cut<T>(who, {simd::lanes<T>, whole_packs<T>(layer_.latent)});
        const index size =
            tiled_scratch<T>(who, {}, layer_.latent + layer_.rope, layer_.latent, tiles()).bytes;
        m.attend = {cutter.template cut<std::byte>(who, {size}), static_cast<std::size_t>(size)};
        m.bytes = cutter.bytes();
        return m;
    }
    void run_absorbed(const T* queries, T* out, const absorbed_memory& at, part_of part) const noexcept {
        const heads_view<const T> q = of_queries(queries);
        for (index item = part.part; item * group() < layer_.heads; item += part.parts) {
            const index first = item * group(), heads = std::min(group(), layer_.heads - first);
            for (index h = 0; h < heads; ++h) {
                // Whole registers of the latent, and over what is past it the rotated channels.
                const heads_view<const T> up(layer_.up_at(first + h, 0), layer_.nope, 1, layer_.latent);
                tile_product<left::rows, onto::nothing, T>(
                    tokens_, whole_packs<T>(layer_.latent) / simd::lanes<T>, layer_.nope,
                    {q.at(0, 0, first + h), q.strides.token},
                    tile_rows<T>(up, 0, 0, 0, layer_.nope, true, at.up),
                    {at.queries + h * wide(), heads * wide()});
                for (index n = 0; n < tokens_; ++n)
                    std::copy_n(q.at(0, n, first + h) + layer_.nope, layer_.rope,
                                at.queries + (n * heads + h) * wide() + layer_.latent);
            }
            const heads_view<const T> rows(at.queries, {1, tokens_ * heads, 1, layer_.latent + layer_.rope},
                                           {.token = wide()});
            const heads_view<T> latents(at.latents, rows.tokens(), 1, layer_.latent);
            attend_latents(token_rows_mask{heads, keys_ - tokens_}, rows, cache_, 0, keys_, layer_.scale,
                           latents, at.attend, tiles());
            for (index h = 0; h < heads; ++h) {
                const heads_view<const T> own(at.latents + h * layer_.latent, {1, tokens_, 1, layer_.latent},
                                              {.token = heads * layer_.latent});
                for (index n = 0; n < tokens_; n += strip) {
                    const index count = std::min(strip, tokens_ - n);
                    fill_strip(own, n, count, T(1), at.copy, at.columns);
                    fill_projection<T>(
                        {layer_.up_at(first + h, layer_.nope), layer_.latent}, layer_.value, layer_.latent,
                        at.columns, count, at.squares,
                        {out + (n * layer_.heads + first + h) * layer_.value, layer_.heads * layer_.value});
                }
            }
        }
    }

    const latent_layer<T>& layer_;
    const latent_cache<E>& cache_;
    index tokens_, keys_;
    latent_form form_;
};

}  // namespace ROPEWALK_NAMESPACE::detail
