// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Pair layouts: which two channels of a head form a pair (half-split, interleaved, blocked).
#pragma once

#include <concepts>
#include <type_traits>

#include <ropewalk/core/simd.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Which two channels of a slice form pair i. P is the number of pairs, 2 P the number of channels.
/// half_split:   (i, i + P)         NeoX, rotate_half, GGML NEOX; Hugging Face's Llama, Qwen, Gemma
/// interleaved:  (2 i, 2 i + 1)     GPT-J, complex, GGML NORMAL; Meta's Llama, GLM, Cohere
/// blocked<g>:   half-split inside each group of g channels (g even, g divides 2 P)
/// Source: RoFormer (interleaved); GPT-NeoX (half_split).
struct half_split {
    static constexpr index first(index pair, index) noexcept { return pair; }
    static constexpr index second(index pair, index pairs) noexcept { return pair + pairs; }
};
/// Channels (2 i, 2 i + 1); see half_split.
struct interleaved {
    static constexpr index first(index pair, index) noexcept { return 2 * pair; }
    static constexpr index second(index pair, index) noexcept { return 2 * pair + 1; }
};
/// Half-split inside each group; see half_split.
template <int Group>
struct blocked {
    static_assert(Group > 0 && Group % 2 == 0, "a group of channels must be even");
    static constexpr index group = Group;  ///< channels of a group
    static constexpr index first(index pair, index) noexcept {
        return pair / (Group / 2) * Group + pair % (Group / 2);
    }
    static constexpr index second(index pair, index pairs) noexcept { return first(pair, pairs) + Group / 2; }
};

/// The layout as a run-time value; kernels switch on it once per call. A layout type converts to it.
struct pair_layout {
    /// The layout types.
    enum class kind_type : std::uint8_t { half_split, interleaved, blocked };
    kind_type kind = kind_type::half_split;  ///< which of the three layouts
    index group = 0;                         ///< channels of a group, blocked only

    /// A layout type as a value.
    constexpr pair_layout(ropewalk::half_split = {}) noexcept {}
    /// A layout type as a value.
    constexpr pair_layout(ropewalk::interleaved) noexcept : kind(kind_type::interleaved) {}
    /// A layout type as a value.
    template <int Group>
    constexpr pair_layout(ropewalk::blocked<Group>) noexcept : kind(kind_type::blocked), group(Group) {}
    /// blocked<channels> for a group known at run time.
    static constexpr pair_layout blocked_by(index channels) noexcept {
        pair_layout l;
        l.kind = kind_type::blocked;
        l.group = channels;
        return l;
    }
    constexpr bool operator==(const pair_layout&) const = default;

    /// The size of a half-split group in a slice of 2 * pairs channels (interleaved: 2).
    constexpr index group_of(index pairs) const noexcept {
        switch (kind) {
            case kind_type::interleaved: return 2;
            case kind_type::blocked: return group;
            default: return 2 * pairs;
        }
    }
    constexpr index first(index pair, index pairs) const noexcept {
        const index half = group_of(pairs) / 2;
        return pair / half * (2 * half) + pair % half;
    }
    constexpr index second(index pair, index pairs) const noexcept {
        return first(pair, pairs) + group_of(pairs) / 2;
    }
    /// Whether 2 * pairs channels can have this layout.
    constexpr bool fits(index pairs) const noexcept {
        return kind != kind_type::blocked || (group > 0 && group % 2 == 0 && (2 * pairs) % group == 0);
    }
};

/// A layout type: half_split, interleaved or blocked<g>.
template <class L>
concept static_layout = requires(index i) {
    { L::first(i, i) } -> std::same_as<index>;
    { L::second(i, i) } -> std::same_as<index>;
};

/// Which channels of a head rotate, and in which layouts they are read and written: a first argument for
/// calls that need more than a layout. A rotary_scheme describes the same for a layer of a model.
///
///     rotate(layout_slice{.read = interleaved{}, .first_channel = 64}, heads_of_192_channels, rows);
///     rotate_into(layout_slice{.read = interleaved{}, .write = half_split{}}, from, to, rows);
struct layout_slice {
    pair_layout read = {};     ///< the layout in which pairs are read
    pair_layout write = read;  ///< the layout in which they are written
    index first_channel = 0;   ///< the first rotated channel; their number is given by the rows
};

/// The layer of a model, as the kernels see it; rotary_scheme is one.
template <class L>
concept scheme_like = requires(const L& layer) {
    { layer.read_layout } -> std::convertible_to<pair_layout>;
    { layer.write_layout } -> std::convertible_to<pair_layout>;
    { layer.head_dim + layer.first_channel + layer.rotary_dim } -> std::convertible_to<index>;
    { layer.rotates } -> std::convertible_to<bool>;
};

/// The first argument of every rotation: half_split{}, interleaved{}, blocked<g>{}, a pair_layout, a
/// layout_slice or a rotary_scheme.
template <class L>
concept layout_like =
    static_layout<L> || std::same_as<L, pair_layout> || std::same_as<L, layout_slice> || scheme_like<L>;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// A layout_like in the form that the kernels use.
struct layout_plan {
    pair_layout read;
    pair_layout write;
    index first_channel = 0;
    index pairs = -1;     // -1: the pairs of the rows
    index head_dim = -1;  // -1: any
    bool rotates = true;
    bool whole_heads = false;  // views are whole heads, of which a slice rotates
};
template <layout_like L>
constexpr layout_plan plan_of(const L& layout) noexcept {
    if constexpr (scheme_like<L>) {
        return {layout.read_layout,
                layout.write_layout,
                layout.first_channel,
                layout.rotary_dim / 2,
                layout.head_dim,
                layout.rotates,
                true};
    } else if constexpr (std::is_same_v<L, layout_slice>) {
        return {layout.read, layout.write, layout.first_channel, -1, -1, true, true};
    } else {
        return {layout, layout};
    }
}

/// Half-split inside groups whose size is known at run time; 0: one group of all pairs.
struct grouped {
    index channels;
};
/// Reads one layout and writes another.
struct two_layouts {
    pair_layout read, write;
};

}  // namespace ROPEWALK_NAMESPACE::detail
