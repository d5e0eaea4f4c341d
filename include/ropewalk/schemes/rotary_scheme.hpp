// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/kernels/rotate_factored.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rotate_on_the_fly.hpp>

namespace ROPEWALK_NAMESPACE {

/// What one layer of a model does to its queries and keys: which channels of a head turn, how they pair
/// up, how fast, and what else the logits need. Read from a config, taken from a preset or filled in.
/// Units:    channels of one head; frequencies in radians per position.
/// Requires: rotary_dim even, first_channel + rotary_dim <= head_dim.
/// Source:   design of this library.
struct rotary_scheme {
    std::string name = {};  ///< what explain and messages call the scheme
    index head_dim = 0;
    index first_channel = 0;  ///< where the turning slice begins in a head of head_dim channels
    index rotary_dim = 0;     ///< channels of the slice; the rest passes through
    pair_layout read_layout = {};
    pair_layout write_layout = {};        ///< another one than read_layout in DeepSeek only
    double logit_scale = 1;               ///< factor on q.k beside 1/sqrt(head_dim): MLA's m^2
    bool rotates = true;                  ///< false: a NoPE layer, nothing is touched
    bool length_dependent = false;        ///< whether the frequencies depend on the context length
    std::int64_t original_context = 0;    ///< the length the frequencies were trained at; 0: not said
    std::int64_t max_context = 0;         ///< the length the model is offered for; 0: not said
    std::vector<std::string> notes = {};  ///< what else the model does to q.k that no table can do
    /// What spectrum_for returns; empty: no pairs.
    std::function<spectrum(std::int64_t context_length)> frequencies = {};
    /// How the layer's sparse indexer rotates its own queries and keys (DeepSeek V3.2 and V4, GLM-5): other
    /// heads, slice and layout, the same frequencies. Null: no indexer.
    std::shared_ptr<const rotary_scheme> indexer = {};
    /// Whether attention's output is unrotated at the query's position, its values being rotated keys
    /// (DeepSeek V4).
    bool rotates_output_back = false;

    /// The spectrum at a context length: a pure function. No pairs where nothing rotates.
    /// Throws: invalid_config on context_length < 1 or what the scaling refuses at that length.
    [[nodiscard]] spectrum spectrum_for(std::int64_t context_length) const {
        detail::require(context_length >= 1, "spectrum_for", "context_length must be >= 1", context_length);
        return rotates && frequencies ? frequencies(context_length) : spectrum{};
    }

    /// The turning slice of a view of whole heads (head_dim channels). One of rotary_dim channels is the
    /// slice already (MLA's shared k_pe, which carries no other channels). Any other comes back whole, which
    /// the kernels then refuse.
    template <class T>
    heads_view<T> slice(heads_view<T> x) const noexcept {
        const bool whole = x.channels() == head_dim && first_channel + rotary_dim <= head_dim;
        return x.channels() == rotary_dim || !whole ? x : x.channel_slice(first_channel, rotary_dim);
    }
};

namespace detail {

template <turn Turn, class T>
void turn_slice(const rotary_scheme& rope, heads_view<T> x, rows_for<T> rows, part_of part) noexcept {
    if (!rope.rotates) return;
    constexpr bool back = Turn != turn::forward;
    const pair_layout read = back ? rope.write_layout : rope.read_layout;
    const pair_layout write = back ? rope.read_layout : rope.write_layout;
    const heads_view<T> slice = rope.slice(x);
    if (read == write) {
        rotate_tensors<Turn>(read, rows, part, slice);
    } else {
        turn_into<Turn>(read, write, slice, slice, rows, part);
    }
}

/// q and k share the rows of each token where one layout is read and written.
template <turn Turn, class TQ, class TK>
void turn_slices(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k, rows_for<TQ> rows,
                 part_of part) noexcept {
    if (rope.rotates && rope.read_layout == rope.write_layout) {
        rotate_pair<Turn>(rope.read_layout, rows, part, rope.slice(q), rope.slice(k));
    } else {
        turn_slice<Turn>(rope, q, rows, part);
        turn_slice<Turn>(rope, k, rows, part);
    }
}

}  // namespace detail

/// The everyday call: the model's scheme picks the channels and the pair layout, so that nobody types a
/// layout twice. q and k are whole heads (head_dim channels) or already the turning slice.
/// Shapes, Requires, Cost, Accuracy, Threads: as rotate(Layout{}, q, k, rows). A NoPE layer is a no-op.
/// Source: design of this library.
template <class T>
void rotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
            part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::forward>(rope, x, rows, part);
}
template <class TQ, class TK>
void rotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::turn_slices<detail::turn::forward>(rope, q, k, rows, part);
}
template <class TQ, class TK>
void rotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<rows_for<TQ>> rows_q, std::type_identity_t<rows_for<TK>> rows_k,
            part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::forward>(rope, q, rows_q, part);
    detail::turn_slice<detail::turn::forward>(rope, k, rows_k, part);
}
/// The inverse of rotate(rope, x, rows), from the layout it wrote back to the one it read.
/// Source: R(-p) R(p) = 1.
template <class T>
void unrotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
              part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::inverse>(rope, x, rows, part);
}
template <class TQ, class TK>
void unrotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
              std::type_identity_t<rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::turn_slices<detail::turn::inverse>(rope, q, k, rows, part);
}
/// The gradient of rotate(rope, x, rows), from the layout it wrote back to the one it read.
/// Source: the transpose of a rotation turns the other way.
template <class T>
void rotate_gradient(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
                     part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::transpose>(rope, x, rows, part);
}
template <class TQ, class TK>
void rotate_gradient(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
                     std::type_identity_t<rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::turn_slices<detail::turn::transpose>(rope, q, k, rows, part);
}

/// Throws where rotate(rope, x, rows) would leave x alone because it does not fit: hot calls say nothing in a
/// release build, so ask this once where shapes are decided.
/// Throws: invalid_config naming the extent of x that the scheme or the rows do not have.
/// Source: design of this library.
template <class T>
void require_fits(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows) {
    if (!rope.rotates) return;
    require_fits(rope.read_layout, rope.slice(x), rows);
    require_fits(rope.write_layout, rope.slice(x), rows);
}

namespace detail {

/// Calls f with the scheme's layout and the turning slices; factored rows know one layout only.
template <class F, class... T>
void with_slices(const rotary_scheme& rope, F f, heads_view<T>... x) noexcept {
    const bool one_layout = rope.read_layout == rope.write_layout;
    ROPEWALK_EXPECT(!rope.rotates || one_layout);
    if (rope.rotates && one_layout) f(rope.read_layout, rope.slice(x)...);
}

}  // namespace detail

/// The same over factored rows.
/// Requires: a scheme that reads and writes one layout (all but DeepSeek's); any other is an assertion in
///           debug and left untouched in release.
/// Source: design of this library.
template <class T>
void rotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
            part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto s) { rotate(layout, s, rows, part); }, x);
}
template <class TQ, class TK>
void rotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto... s) { rotate(layout, s..., rows, part); }, q, k);
}
/// The inverse, over factored rows.
template <class T>
void unrotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
              part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto s) { unrotate(layout, s, rows, part); }, x);
}
template <class TQ, class TK>
void unrotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
              std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto... s) { unrotate(layout, s..., rows, part); }, q, k);
}
/// The gradient, over factored rows.
template <class T>
void rotate_gradient(const rotary_scheme& rope, heads_view<T> x,
                     std::type_identity_t<factored_rows_for<T>> rows, part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto s) { rotate_gradient(layout, s, rows, part); }, x);
}
template <class TQ, class TK>
void rotate_gradient(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
                     std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto... s) { rotate_gradient(layout, s..., rows, part); }, q, k);
}

/// Without a table: the rows are made from the positions while the kernel runs, of the scheme's spectrum.
/// Requires: as over factored rows; at most 512 pairs.
/// Source: design of this library.
template <class TQ, class TK>
void rotate_on_the_fly(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
                       const spectrum& frequencies, position_span positions, part_of part = {}) noexcept {
    detail::with_slices(
        rope, [&](auto layout, auto... s) { rotate_on_the_fly(layout, s..., frequencies, positions, part); },
        q, k);
}

}  // namespace ROPEWALK_NAMESPACE
