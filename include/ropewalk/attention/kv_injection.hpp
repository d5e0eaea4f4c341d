// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Key and value injection for image editing: copies keys and values between samples of a batch.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <ropewalk/core/fit_view.hpp>

/// Edits an image by copying keys and values from one sample of a batch to another, after the rotation.
/// Source: FreeFlux, Wei et al. 2025; wtybest/FreeFlux editing/, masactrl_forward.
namespace ROPEWALK_NAMESPACE::kv_injection {

/// The samples between which keys and values are copied.
struct samples {
    index source = 0;  ///< the sample whose keys and values are copied
    index target = 1;  ///< the sample that receives them
};

/// A range of tokens: FLUX's image tokens are those after the text.
struct token_range {
    index first = 0;  ///< the first token
    index count = 0;  ///< how many tokens
};

}  // namespace ROPEWALK_NAMESPACE::kv_injection

namespace ROPEWALK_NAMESPACE::detail {

template <class T>
void require_samples(const char* who, const char* argument, const heads_view<T>& x, kv_injection::samples s) {
    require_writable(who, argument, x);
    require(s.source >= 0 && s.source < x.batches(), who, "source must be a sample of the batch", s.source);
    require(s.target >= 0 && s.target < x.batches(), who, "target must be a sample of the batch", s.target);
    require(s.source != s.target, who, "target must not be the source", s.target);
}

template <class T>
void copy_token(heads_view<T> x, kv_injection::samples s, index from, index to) {
    for (index h = 0; h < x.heads(); ++h)
        std::copy_n(x.at(s.source, from, h), x.channels(), x.at(s.target, to, h));
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::kv_injection {

/// Copies the keys and values of the source's image tokens to the target, except for the tokens in `keep`;
/// text does not change. Without `keep` this is the rule of non-rigid edits; with the tokens of the new
/// object in `keep` it is the rule of object addition.
/// Shapes:   k and v [batches, tokens, heads, channels]; keep: token numbers in the whole sequence, text
///           included, in any order.
/// Throws:   invalid_config when a sample, the range or a kept token is outside, or k and v differ in tokens
///           or batches.
/// Cost:     one copy of the tokens; no arithmetic, so the copies are bit-identical.
/// Source:   wtybest/FreeFlux editing/non_rigid and editing/add_object, masactrl_forward.
template <class T>
void inject_keys_values(heads_view<T> k, heads_view<T> v, samples s, token_range image,
                        std::span<const index> keep = {}) {
    constexpr const char* who = "inject_keys_values";
    detail::require_samples(who, "k", k, s);
    detail::require_writable(who, "v", v);
    detail::require_equal(who, "v.batches must equal k.batches", k.batches(), v.batches());
    detail::require_equal(who, "v.tokens must equal k.tokens", k.tokens(), v.tokens());
    detail::require(image.first >= 0 && image.count >= 0 && image.first <= k.tokens() - image.count, who,
                    "image must lie inside the sequence, first token", image.first);
    std::vector<bool> kept(static_cast<std::size_t>(k.tokens()));
    for (const index n : keep) {
        detail::require(n >= 0 && n < k.tokens(), who, "keep must name tokens of the sequence", n);
        kept[static_cast<std::size_t>(n)] = true;
    }
    for (index n = image.first; n < image.first + image.count; ++n) {
        if (kept[static_cast<std::size_t>(n)]) continue;
        detail::copy_token(k, s, n, n);
        detail::copy_token(v, s, n, n);
    }
}

/// Copies the values of image tokens `from` of the source to image tokens `to` of the target; keys do not
/// change. This is the rule of background replacement (the same tokens), object moves (moved_tokens) and
/// outpainting.
/// Shapes:   v [batches, tokens, heads, channels]; from and to: numbers among the image tokens, one to one.
/// Throws:   invalid_config when a sample, the range or a token is outside or the lists differ in length.
/// Cost:     one copy of the tokens.
/// Source:   wtybest/FreeFlux editing/bg_replace, masactrl_forward.
template <class T>
void inject_values(heads_view<T> v, samples s, token_range image, std::span<const index> from,
                   std::span<const index> to) {
    constexpr const char* who = "inject_values";
    detail::require_samples(who, "v", v, s);
    detail::require(image.first >= 0 && image.count >= 0 && image.first <= v.tokens() - image.count, who,
                    "image must lie inside the sequence, first token", image.first);
    detail::require_equal(who, "to must be as long as from", from.size(), to.size());
    for (const auto list : {from, to})
        for (const index n : list)
            detail::require(n >= 0 && n < image.count, who, "tokens must be image tokens", n);
    for (std::size_t i = 0; i < from.size(); ++i)
        detail::copy_token(v, s, image.first + from[i], image.first + to[i]);
}

/// The extents of a grid of image tokens, row-major.
struct grid_extents {
    index height = 0;
    index width = 0;
};

/// The tokens of a region moved by (rows, columns): `to` of inject_values when the region is `from`.
/// Throws:   invalid_config when a token of the region is not on the grid or leaves it.
/// Source:   wtybest/FreeFlux editing/utils.py.
inline std::vector<index> moved_tokens(grid_extents grid, std::span<const index> region, index rows,
                                       index columns) {
    constexpr const char* who = "moved_tokens";
    const index tokens =
        detail::checked_product(who, "grid.height x grid.width must be >= 0", {grid.height, grid.width});
    std::vector<index> to;
    for (const index n : region) {
        detail::require(n >= 0 && n < tokens, who, "region must lie on the grid", n);
        detail::require(rows > -grid.height && rows < grid.height, who, "rows must be less than the grid's",
                        rows);
        detail::require(columns > -grid.width && columns < grid.width, who,
                        "columns must be less than the grid's", columns);
        const index row = n / grid.width + rows;
        const index column = n % grid.width + columns;
        detail::require(row >= 0 && row < grid.height, who, "region must stay on the grid, row", row);
        detail::require(column >= 0 && column < grid.width, who, "region must stay on the grid, column",
                        column);
        to.push_back(row * grid.width + column);
    }
    return to;
}

}  // namespace ROPEWALK_NAMESPACE::kv_injection
