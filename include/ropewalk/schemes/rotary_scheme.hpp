// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rotary_scheme: everything that one layer of a model does to its queries and keys to encode position.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE {

/// What one layer of a model does to its queries and keys: which channels of a head rotate, how they form
/// pairs, at which frequencies, and which factor the logits need. A scheme is read from a config, taken from
/// a preset or filled in by hand.
/// Units:    channels of one head; frequencies in radians per position.
/// Requires: rotary_dim even, first_channel + rotary_dim <= head_dim.
struct rotary_scheme {
    std::string name = {};  ///< name in messages and in explain
    index head_dim = 0;
    index first_channel = 0;  ///< where the rotated slice begins in a head of head_dim channels
    index rotary_dim = 0;     ///< channels of the slice; other channels are untouched
    pair_layout read_layout = {};
    pair_layout write_layout = {};        ///< differs from read_layout in DeepSeek only
    double logit_scale = 1;               ///< factor on q.k besides 1/sqrt(head_dim), in no table
    bool rotates = true;                  ///< false: a NoPE layer, nothing is touched
    bool length_dependent = false;        ///< whether the frequencies depend on the context length
    std::int64_t original_context = 0;    ///< the length the frequencies were trained at; 0: unknown
    std::int64_t max_context = 0;         ///< the longest context of the model, scaled; 0: unknown
    std::vector<std::string> notes = {};  ///< what else the model does to q.k that a table cannot
    /// What spectrum_for returns; empty: no pairs.
    std::function<spectrum(std::int64_t context_length)> frequencies = {};
    /// How the layer's sparse indexer rotates its own queries and keys (DeepSeek V3.2 and V4, GLM-5). Its
    /// heads, slice and layout differ from the layer's; the frequencies are the same. Null: no indexer.
    std::shared_ptr<const rotary_scheme> indexer = {};
    /// Whether the output of attention is rotated back at the query's position, because the values are the
    /// rotated keys (DeepSeek V4).
    bool rotates_output_back = false;

    /// The spectrum at a context length; depends on nothing else. It has no pairs where nothing rotates.
    /// Throws: invalid_config on context_length < 1 or what the scaling refuses at that length.
    [[nodiscard]] spectrum spectrum_for(std::int64_t context_length) const {
        detail::require(context_length >= 1, "spectrum_for", "context_length must be >= 1", context_length);
        return rotates && frequencies ? frequencies(context_length) : spectrum{};
    }

    /// The rotated slice of a view of whole heads (head_dim channels). A view of rotary_dim channels already
    /// is the slice (MLA's shared k_pe, which has no other channels). A view of any other width is returned
    /// unchanged, and the kernels then refuse it.
    template <class T>
    heads_view<T> slice(heads_view<T> x) const noexcept {
        const bool whole = x.channels() == head_dim && first_channel + rotary_dim <= head_dim;
        return x.channels() == rotary_dim || !whole ? x : x.channel_slice(first_channel, rotary_dim);
    }
};

static_assert(scheme_like<rotary_scheme>);

/// The table of a layer with the spectrum of `context_length` and rows for that many positions. Where the
/// scheme has a max_context, the table does not grow beyond it.
/// Throws:   invalid_config on context_length < 1, above max_context, or that the scaling refuses.
template <class T = float>
[[nodiscard]] position_table<T> make_position_table(const rotary_scheme& rope, std::int64_t context_length) {
    if (rope.max_context > 0 && context_length > rope.max_context)
        detail::refuse(
            "make_position_table",
            ("context_length must be at most the scheme's max_context " + detail::text(rope.max_context) +
             " (for more: position_table(rope.spectrum_for(n), n))")
                .c_str(),
            detail::printable(context_length));
    const auto rows = static_cast<index>(context_length);
    return position_table<T>(
        rope.spectrum_for(context_length), rows,
        {.max_rows = rope.max_context > 0 ? static_cast<index>(rope.max_context) : index{0}});
}

}  // namespace ROPEWALK_NAMESPACE
