// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Places: where the numbers of the heads of a token are read from (source) and written to (target).
// The loops of pair_arithmetic.hpp combine any source with any target; in place both are the same address.
#pragma once

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/core/simd_storage.hpp>
#include <ropewalk/core/simd_streaming.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// lanes<C> adjacent numbers of another type as numbers of type C.
template <class C, class S>
ROPEWALK_ALWAYS_INLINE simd::pack<C> load_as(const S* p) noexcept {
    if constexpr (std::is_same_v<compute_t<S>, C>) {
        return simd::load(p);
    } else {
        C lane[simd::lanes<C>];
        for (index i = 0; i < simd::lanes<C>; ++i) lane[i] = static_cast<C>(static_cast<compute_t<S>>(p[i]));
        return simd::load(static_cast<const C*>(lane));
    }
}
template <class C, class S>
ROPEWALK_ALWAYS_INLINE simd::pack<C> load_some_as(const S* p, index count) noexcept {
    if constexpr (std::is_same_v<compute_t<S>, C>) {
        return simd::load_some(p, count);
    } else {
        C lane[simd::lanes<C>] = {};
        for (index i = 0; i < count; ++i) lane[i] = static_cast<C>(static_cast<compute_t<S>>(p[i]));
        return simd::load(static_cast<const C*>(lane));
    }
}

/// Heads in memory, read as numbers of type C.
template <class S, class C = compute_t<S>>
struct plain_heads {
    using element = S;
    static constexpr bool plain = true;
    const S* p;
    index stride;

    struct head {
        const S* p;
        ROPEWALK_ALWAYS_INLINE head from(index c) const noexcept { return {p + c}; }
        ROPEWALK_ALWAYS_INLINE simd::pack<C> load(index c) const noexcept { return load_as<C>(p + c); }
        ROPEWALK_ALWAYS_INLINE simd::pack<C> load_some(index c, index count) const noexcept {
            return load_some_as<C>(p + c, count);
        }
        ROPEWALK_ALWAYS_INLINE simd::two_packs<C> load_words(index c) const noexcept {
            return simd::load_words(p + c);
        }
    };
    ROPEWALK_ALWAYS_INLINE head at(index h) const noexcept { return {p + h * stride}; }
    plain_heads at_channel(index c) const noexcept { return {p + c, stride}; }
    plain_heads from_head(index h) const noexcept { return {p + h * stride, stride}; }
};

/// Heads that are written where they are read: one address for each head instead of two. (With two, address
/// registers ran out: one token of 40 heads of 128, f32, AVX-512, took 203 ns instead of 177 ns.)
template <class T>
struct heads_in_place {
    using element = T;
    static constexpr bool plain = true;
    heads_in_place at_channel(index) const noexcept { return {}; }
    heads_in_place from_head(index) const noexcept { return {}; }
};

/// How a norm changes one head: y = (x - mean) * factor * weight. RMSNorm has mean 0.
template <class C>
struct head_moments {
    C mean = 0;
    C factor = 1;
};

/// Heads that are normalised as they are read.
template <class S>
struct normed_heads {
    using element = S;
    using C = compute_t<S>;
    static constexpr bool plain = false;
    const S* p;
    index stride;
    const C* weight;
    index weight_stride;  // 0: all heads share their weights
    const head_moments<C>* moments;

    struct head {
        const S* p;
        const C* weight;
        simd::pack<C> mean, factor;
        ROPEWALK_ALWAYS_INLINE head from(index c) const noexcept { return {p + c, weight + c, mean, factor}; }
        ROPEWALK_ALWAYS_INLINE simd::pack<C> load(index c) const noexcept {
            return (simd::load(p + c) - mean) * factor * simd::load(weight + c);
        }
        ROPEWALK_ALWAYS_INLINE simd::pack<C> load_some(index c, index count) const noexcept {
            return (simd::load_some(p + c, count) - mean) * factor * simd::load_some(weight + c, count);
        }
    };
    ROPEWALK_ALWAYS_INLINE head at(index h) const noexcept {
        return {p + h * stride, weight + h * weight_stride, simd::broadcast(moments[h].mean),
                simd::broadcast(moments[h].factor)};
    }
    normed_heads at_channel(index c) const noexcept {
        return {p + c, stride, weight + c, weight_stride, moments};
    }
    normed_heads from_head(index h) const noexcept {
        return {p + h * stride, stride, weight + h * weight_stride, weight_stride, moments + h};
    }
};

/// The heads of one token of one tensor: a source, and a target of type D.
template <class Source, class D>
struct head_places {
    using source_element = typename Source::element;
    using element = D;
    using C = compute_t<D>;
    Source from;
    D* to;
    index to_stride;
    index heads;
    bool past_caches = false;  ///< f64, f32 and f16 that are written elsewhere, bypassing the caches

    static constexpr bool in_place = std::is_same_v<Source, heads_in_place<D>>;
    /// Two 16-bit numbers stay in one word on the way from bf16 to bf16; see read_as_words.
    static constexpr bool words =
        Source::plain && std::is_same_v<source_element, D> && simd::read_as_words<D>;
    /// Two registers are stored by one store if they come from the type of the target; see store_two.
    static constexpr bool stored_in_twos =
        Source::plain && std::is_same_v<source_element, D> && sizeof(D) == 2;

    /// Stores K registers in the target.
    template <std::size_t K, class P>
    ROPEWALK_ALWAYS_INLINE void store(D* p, const P (&x)[K]) const noexcept {
        if constexpr (!in_place && Source::plain && !std::is_same_v<D, bf16>) {
            if (past_caches) {
                simd::store_past_caches(p, x);
                return;
            }
        }
        simd::store<stored_in_twos>(p, x);
    }
    /// The source of head h.
    ROPEWALK_ALWAYS_INLINE auto source(index h) const noexcept {
        if constexpr (in_place) {
            return typename plain_heads<D, C>::head{to + h * to_stride};
        } else {
            return from.at(h);
        }
    }
    /// The same heads from channel c on; a tensor without heads has no memory, so no offset is added.
    head_places at_channel(index c) const noexcept {
        if (heads == 0) return *this;
        return {from.at_channel(c), to + c, to_stride, heads, past_caches};
    }
    /// One head; the tensor must have heads.
    head_places only(index h) const noexcept {
        if (heads == 0) return *this;
        return {from.from_head(h), to + h * to_stride, to_stride, 1, past_caches};
    }
};

/// The heads of one tensor, or of q and k: a row is loaded once for all of them.
template <class First, class... Second>
struct tensors {
    static constexpr bool words = First::words;  ///< see head_places
    First first;

    template <class F>
    ROPEWALK_ALWAYS_INLINE void each(F f) const noexcept {
        f(first);
    }
    tensors at_channel(index c) const noexcept { return {first.at_channel(c)}; }
};
template <class First, class Second>
struct tensors<First, Second> {
    static constexpr bool words = First::words && Second::words;
    First first;
    Second second;

    /// Two tensors of one type share one loop, which halves the code of a call at no cost beside their heads.
    /// (As an array of two, one head took 37 ns instead of 30 ns: its fields were loaded in other widths than
    /// they were stored in.)
    template <class F>
    ROPEWALK_ALWAYS_INLINE void each(F f) const noexcept {
        if constexpr (std::is_same_v<First, Second>) {
            First x = first;
            for (bool last = false;; last = true, x = second) {
                f(x);
                if (last) return;
            }
        } else {
            f(first);
            f(second);
        }
    }
    tensors at_channel(index c) const noexcept { return {first.at_channel(c), second.at_channel(c)}; }
};
template <class... Place>
tensors(Place...) -> tensors<Place...>;

template <class S, class D>
using plain_places = head_places<plain_heads<S, compute_t<D>>, D>;

/// Heads that are rotated in place.
template <class T>
using places_in_place = head_places<heads_in_place<T>, T>;
template <class T>
places_in_place<T> in_place(T* p, index stride, index heads) noexcept {
    return {{}, p, stride, heads};
}

/// Channels [first, last) of every head as the source gives them, in the target's type. Does nothing in
/// place.
template <class Source, class D>
void pass_channels(head_places<Source, D> x, index first, index last) noexcept {
    constexpr index n = simd::lanes<compute_t<D>>;
    if constexpr (x.in_place) {
        return;
    } else if constexpr (Source::plain && std::is_same_v<typename Source::element, D>) {
        if (x.from.p == x.to && x.from.stride == x.to_stride) return;
    }
    for (index h = 0; h < x.heads; ++h) {
        const auto from = x.source(h);
        D* const to = x.to + h * x.to_stride;
        index c = first;
        for (; c + n <= last; c += n) simd::store(to + c, from.load(c));
        if (c < last) simd::store_some(to + c, from.load_some(c, last - c), last - c);
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
