// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The choice between the absorbed and the expanded form of latent attention, by operation count.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ropewalk/attention/masks.hpp>
#include <ropewalk/schemes/mla.hpp>

namespace ROPEWALK_NAMESPACE {

/// How attention uses a cache of latents. absorbed: W_k is multiplied into the queries, which attend to the
/// latents, one row for all heads. expanded: keys and values are computed from the latents, one head at a
/// time.
enum class latent_form : std::uint8_t { absorbed, expanded };

/// The sizes on which the number of multiply-adds depends.
struct latent_channels {
    index latent = 0;  ///< channels of the latent
    index nope = 0;    ///< channels of a key that come from the latent
    index rope = 0;    ///< channels of a key that do not
    index value = 0;   ///< of a value
    index group = 1;   ///< query heads that share expanded keys and values
};

/// The form with fewer multiply-adds for `tokens` new tokens after `cached` ones. Per head, a pair of query
/// and key costs 2 latent + rope multiply-adds absorbed, and nope + rope + value expanded. The projection
/// costs latent * (nope + value) per head for every new token when absorbed, and per group of heads for every
/// key when expanded. At DeepSeek's sizes, the expanded form is chosen for prompts, and after a long cache
/// from 171 new tokens on.
/// Throws: nothing; sizes below 0 are not checked.
/// Source: deepseek-ai/DeepSeek-V3 inference/model.py has both forms; their operations are counted.
inline latent_form cheaper_form(const latent_channels& c, index cached, index tokens) noexcept {
    const auto number = [](index n) { return static_cast<double>(n); };
    const double pairs = number(tokens) * (number(cached) + (number(tokens) + 1) / 2);
    const double project = number(c.latent) * number(c.nope + c.value);
    const double absorbed = pairs * number(2 * c.latent + c.rope) + number(tokens) * project;
    const double expanded = pairs * number(c.nope + c.rope + c.value) +
                            (number(cached) + number(tokens)) * project / number(c.group);
    return expanded < absorbed ? latent_form::expanded : latent_form::absorbed;
}
/// The same for a config of multi-head latent attention.
inline latent_form cheaper_form(const mla::config& c, index cached, index tokens) noexcept {
    return cheaper_form(latent_channels{c.latent, c.nope_dim, c.rope_dim, c.value_dim}, cached, tokens);
}

namespace detail {

/// A causal mask of absorbed queries, `group` rows per token: row r belongs to token first + r / group.
struct token_rows_mask {
    index group, first;

    attention::seen_keys tile(const attention::score_tile& t) const noexcept {
        const index own = first + t.first_query / group,
                    last = first + (t.first_query + t.queries - 1) / group;
        const index end = std::min(t.first_key + t.keys, last + 1);
        return {t.first_key, std::max<index>(end - t.first_key, 0), end - 1 <= own};
    }
    bool seen(index, index, index n, index j) const noexcept { return j <= first + n / group; }
};

}  // namespace detail

}  // namespace ROPEWALK_NAMESPACE
