// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/kernels/rotate_factored.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

namespace ROPEWALK_NAMESPACE {

/// What one layer of a model does to its queries and keys: which channels of a head turn, how they pair
/// up, how fast, and what else the logits need. Read from a config, taken from a preset or filled in.
/// Units:    channels of one head; frequencies in radians per position.
/// Requires: rotary_dim even, first_channel + rotary_dim <= head_dim.
/// Source:   design of this library.
struct rotary_scheme {
    std::string name = {};
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

    /// The spectrum at a context length: a pure function. No pairs where nothing rotates.
    /// Throws: invalid_config on context_length < 1 or what the scaling refuses at that length.
    spectrum spectrum_for(std::int64_t context_length) const {
        detail::require(context_length >= 1, "spectrum_for", "context_length must be >= 1", context_length);
        return rotates && frequencies ? frequencies(context_length) : spectrum{};
    }

    /// The turning slice of a view. One of exactly rotary_dim channels is the slice already (MLA's shared
    /// k_pe, which carries no other channels). One too narrow for the scheme comes back whole, which the
    /// kernels then refuse.
    template <class T>
    heads_view<T> slice(heads_view<T> x) const noexcept {
        const bool narrow = x.channels() < first_channel + rotary_dim;
        return x.channels() == rotary_dim || narrow ? x : x.channel_slice(first_channel, rotary_dim);
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
    } else if (part.part == 0) {  // a gather and a scatter; not split
        turn_into<Turn>(read, write, slice, slice, rows);
    }
}

}  // namespace detail

/// The everyday call: the model's scheme picks the channels and the pair layout, so that nobody types a
/// layout twice. q and k are whole heads (head_dim channels) or already the turning slice.
/// Shapes, Requires, Cost, Accuracy, Threads: as rotate<Layout>(q, k, rows). A NoPE layer is a no-op.
/// Source: design of this library.
template <class T>
void rotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
            part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::forward>(rope, x, rows, part);
}
template <class TQ, class TK>
void rotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<rows_for<TQ>> rows, part_of part = {}) noexcept {
    if (rope.rotates && rope.read_layout == rope.write_layout) {
        detail::rotate_pair<detail::turn::forward>(rope.read_layout, rows, part, rope.slice(q),
                                                   rope.slice(k));
    } else {
        rotate(rope, q, rows, part);
        rotate(rope, k, rows, part);
    }
}
/// The inverse of rotate(rope, x, rows), from the layout it wrote back to the one it read.
/// Source: R(-p) R(p) = 1.
template <class T>
void unrotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
              part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::inverse>(rope, x, rows, part);
}
/// The gradient of rotate(rope, x, rows), from the layout it wrote back to the one it read.
/// Source: the transpose of a rotation turns the other way.
template <class T>
void rotate_gradient(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
                     part_of part = {}) noexcept {
    detail::turn_slice<detail::turn::transpose>(rope, x, rows, part);
}

/// The same over factored rows.
/// Requires: a scheme that reads and writes one layout (all but DeepSeek's); any other is an assertion in
///           debug and left untouched in release.
/// Source: design of this library.
template <class T>
void rotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
            part_of part = {}) noexcept {
    ROPEWALK_EXPECT(!rope.rotates || rope.read_layout == rope.write_layout);
    if (rope.rotates && rope.read_layout == rope.write_layout)
        rotate(rope.read_layout, rope.slice(x), rows, part);
}
template <class TQ, class TK>
void rotate(const rotary_scheme& rope, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    ROPEWALK_EXPECT(!rope.rotates || rope.read_layout == rope.write_layout);
    if (rope.rotates && rope.read_layout == rope.write_layout)
        rotate(rope.read_layout, rope.slice(q), rope.slice(k), rows, part);
}
/// The same with rows that are products of a grid's levels.
template <class T>
void unrotate(const rotary_scheme& rope, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
              part_of part = {}) noexcept {
    ROPEWALK_EXPECT(!rope.rotates || rope.read_layout == rope.write_layout);
    if (rope.rotates && rope.read_layout == rope.write_layout)
        unrotate(rope.read_layout, rope.slice(x), rows, part);
}
/// The same with rows that are products of a grid's levels.
template <class T>
void rotate_gradient(const rotary_scheme& rope, heads_view<T> x,
                     std::type_identity_t<factored_rows_for<T>> rows, part_of part = {}) noexcept {
    ROPEWALK_EXPECT(!rope.rotates || rope.read_layout == rope.write_layout);
    if (rope.rotates && rope.read_layout == rope.write_layout)
        rotate_gradient(rope.read_layout, rope.slice(x), rows, part);
}

}  // namespace ROPEWALK_NAMESPACE
