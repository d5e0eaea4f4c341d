// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A view of the caller's queries, keys or values: [batches, tokens, heads, channels] with strides.
#pragma once

#include <type_traits>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// The extents of a heads_view. An extent of zero is legal: there is then nothing to do.
struct heads_shape {
    index batches = 1;
    index tokens = 0;
    index heads = 0;
    index channels = 0;
    /// Whether all four agree.
    friend constexpr bool operator==(const heads_shape&, const heads_shape&) = default;
};

/// Distances between neighbours, in elements. Channels are always adjacent.
struct heads_strides {
    index batch = 0;  ///< from one batch to the next
    index token = 0;  ///< from one token to the next
    index head = 0;   ///< from one head to the next
};

/// The caller's queries or keys: [batches, tokens, heads, channels] in memory that the view does not own.
/// Shapes:   any strides for batch, token and head; channel stride 1; any alignment.
/// Requires: where a call writes, no two (batch, token, head) share a channel.
/// Slices:   a slice outside its view has extents of -1, which fit no call (see fit()).
/// Cost:     a pointer and seven integers; pass it by value.
/// Source:   the q and k tensors of transformer engines; packed QKV, [B,S,H,D] and [B,H,S,D] differ in
///           strides only.
///
///     heads_view q(q_data, tokens, 32, 128);                          // [tokens, 32, 128]
///     heads_view packed(qkv, {.tokens = n, .heads = 32, .channels = 128}, {.token = 6144, .head = 128});
///     auto decoupled = q.channel_slice(64, 64);                       // only the last 64 channels
template <class T>
struct heads_view {
    static_assert(!std::is_same_v<std::remove_const_t<T>, std::uint16_t> &&
                      !std::is_same_v<std::remove_const_t<T>, std::int16_t>,
                  "ropewalk: a std::uint16_t* does not say whether it holds f16 or bf16: wrap the pointer in "
                  "ropewalk::as_f16(p) or ropewalk::as_bf16(p)");

    T* data = nullptr;
    heads_shape shape;
    heads_strides strides;

    constexpr heads_view() = default;
    /// [tokens, heads, channels], contiguous.
    constexpr heads_view(T* p, index tokens, index heads, index channels) noexcept
        : heads_view(p, heads_shape{1, tokens, heads, channels}) {}
    /// [batches, tokens, heads, channels], contiguous.
    constexpr heads_view(T* p, heads_shape s) noexcept
        : data(p), shape(s), strides{s.tokens * s.heads * s.channels, s.heads * s.channels, s.channels} {}
    /// Any strides.
    constexpr heads_view(T* p, heads_shape s, heads_strides d) noexcept : data(p), shape(s), strides(d) {}
    /// A view of const elements from a mutable one.
    template <class U>
    requires(std::is_same_v<const U, T> &&
             !std::is_same_v<U, T>) constexpr heads_view(heads_view<U> other) noexcept
        : data(other.data), shape(other.shape), strides(other.strides) {}

    /// [batches, heads, tokens, channels], contiguous: what PyTorch calls BHSD.
    static constexpr heads_view heads_first(T* p, heads_shape s) noexcept {
        return {p, s, {s.heads * s.tokens * s.channels, s.channels, s.tokens * s.channels}};
    }

    constexpr index batches() const noexcept { return shape.batches; }
    constexpr index tokens() const noexcept { return shape.tokens; }
    constexpr index heads() const noexcept { return shape.heads; }
    constexpr index channels() const noexcept { return shape.channels; }
    constexpr bool empty() const noexcept {
        return shape.batches == 0 || shape.tokens == 0 || shape.heads == 0 || shape.channels == 0;
    }

    /// First channel of head h of token n of batch b.
    constexpr T* at(index b, index n, index h) const noexcept {
        return data + b * strides.batch + n * strides.token + h * strides.head;
    }

    /// Channels [first, first + count): partial rotary, MLA's decoupled RoPE channels, the block of one axis.
    constexpr heads_view channel_slice(index first, index count) const noexcept {
        if (outside(first, count, shape.channels)) return outside_slice();
        heads_view v = *this;
        v.data = moved(first);
        v.shape.channels = count;
        return v;
    }
    /// `count` heads: first, first + step, ... (K inside packed QKV, one group of a GQA layout).
    constexpr heads_view head_slice(index first, index count, index step = 1) const noexcept {
        if (first < 0 || count < 0 || step < 1 || first > shape.heads ||
            (count > 0 && (first == shape.heads || count - 1 > (shape.heads - 1 - first) / step)))
            return outside_slice();
        heads_view v = *this;
        v.data = moved(first * strides.head);
        v.shape.heads = count;
        v.strides.head = strides.head * step;
        return v;
    }
    /// Tokens [first, first + count) of every batch: one prefill chunk.
    constexpr heads_view token_slice(index first, index count) const noexcept {
        if (outside(first, count, shape.tokens)) return outside_slice();
        heads_view v = *this;
        v.data = moved(first * strides.token);
        v.shape.tokens = count;
        return v;
    }
    /// Batches [first, first + count).
    constexpr heads_view batch_slice(index first, index count) const noexcept {
        if (outside(first, count, shape.batches)) return outside_slice();
        heads_view v = *this;
        v.data = moved(first * strides.batch);
        v.shape.batches = count;
        return v;
    }

  private:
    static constexpr bool outside(index first, index count, index extent) noexcept {
        return first < 0 || count < 0 || first > extent || count > extent - first;
    }
    static constexpr heads_view outside_slice() noexcept {
        heads_view v;
        v.shape = {-1, -1, -1, -1};
        return v;
    }
    /// An empty view may have no memory: no offset is added to a null pointer.
    constexpr T* moved(index elements) const noexcept { return data ? data + elements : data; }
};

template <class T>
heads_view(T*, index, index, index) -> heads_view<T>;
template <class T>
heads_view(T*, heads_shape) -> heads_view<T>;
template <class T>
heads_view(T*, heads_shape, heads_strides) -> heads_view<T>;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// As require_equal, of all extents of a view.
inline void require_extents(const char* function, const char* parameter_must, const heads_shape& wanted,
                            const heads_shape& got) {
    const auto text = [](const heads_shape& s) {
        return extents_text({s.batches, s.tokens, s.heads, s.channels});
    };
    if (wanted != got) refuse(function, parameter_must, text(wanted).c_str(), text(got).c_str());
}

}  // namespace ROPEWALK_NAMESPACE::detail
