// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rotate_into: rotation into other memory, another element type or another pair layout.
#pragma once

#include <cstdint>
#include <limits>

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// What rotate_into does with numbers that do not rotate: channels outside a slice, tokens without a row.
enum class unrotated_numbers : std::uint8_t { left_alone, copied };

/// Options of rotate_into.
struct rotate_into_options {
    unrotated_numbers unrotated =
        unrotated_numbers::left_alone;  ///< whether numbers that do not rotate are copied
    part_of part = {};                  ///< the share of the work that this call takes
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Whether two heads of two views with the same strides, `distance` bytes apart, can share a byte. Strides
/// nest, so the index at each level is a quotient rounded down, or one more.
constexpr bool heads_meet(const heads_shape& shape, const heads_strides& strides, index element,
                          index distance) noexcept {
    struct level {
        index extent, stride;
    };
    // The stride of a dimension of one is not used, and may be any number.
    const auto at = [&](index extent, index stride) {
        return level{extent, extent > 1 ? stride * element : 0};
    };
    level levels[3] = {at(shape.batches, strides.batch), at(shape.tokens, strides.token),
                       at(shape.heads, strides.head)};
    for (int a = 0; a < 2; ++a)
        for (int b = a + 1; b < 3; ++b)
            if (magnitude(levels[b].stride) > magnitude(levels[a].stride)) {
                const level l = levels[a];
                levels[a] = levels[b];
                levels[b] = l;
            }
    for (int choice = 0; choice < 8; ++choice) {
        index left = distance;
        bool possible = true;
        for (int l = 0; l < 3; ++l) {
            if (levels[l].extent <= 1 || levels[l].stride == 0) continue;
            index steps = left / levels[l].stride;
            if (choice >> l & 1) steps += (left < 0) == (levels[l].stride < 0) ? 1 : -1;
            if (magnitude(steps) >= levels[l].extent) possible = false;
            left -= steps * levels[l].stride;
        }
        if (possible && magnitude(left) < shape.channels * element) return true;
    }
    return false;
}

/// The misfit of a source that overlaps the target and is not the target itself.
template <class S, class D>
misfit fit_apart(const heads_view<const S>& from, const heads_view<D>& to) noexcept {
    if (from.empty() || to.empty()) return {};
    struct range {
        std::int64_t first, last;
        index too_far;  // the extent whose stride leads out of the address space
    };
    const auto reach = [](const auto& x, index element) {
        constexpr index most = std::numeric_limits<index>::max() / 16;
        const auto begin = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(x.data));
        range r{begin, begin, 0};
        const auto span = [&](index count, index stride) {
            if (count <= 0 || stride == 0) return;
            constexpr index longest = usual_stride / 16;  // in bytes it is at most half a usual stride
            const bool usual = count <= usual_extent && stride <= longest && stride >= -longest;
            if (!usual && (stride > most / element / count || stride < -(most / element / count)))
                r.too_far = count + 1;
            else
                (stride < 0 ? r.first : r.last) += std::int64_t{count * stride * element};
        };
        span(x.batches() - 1, x.strides.batch);
        span(x.tokens() - 1, x.strides.token);
        span(x.heads() - 1, x.strides.head);
        span(x.channels(), 1);
        return r;
    };
    const range a = reach(from, sizeof(S)), b = reach(to, sizeof(D));
    if (a.too_far != 0 || b.too_far != 0)
        return {"extents times strides must fit the address space, extent", 1,
                a.too_far != 0 ? a.too_far : b.too_far};
    if (a.last <= b.first || b.last <= a.first) return {};
    const bool same_steps = sizeof(S) == sizeof(D) &&
                            (from.batches() <= 1 || from.strides.batch == to.strides.batch) &&
                            (from.tokens() <= 1 || from.strides.token == to.strides.token) &&
                            (from.heads() <= 1 || from.strides.head == to.strides.head);
    const auto distance = static_cast<index>(reinterpret_cast<std::uintptr_t>(to.data) -
                                             reinterpret_cast<std::uintptr_t>(from.data));
    if (same_steps && (distance == 0 || !heads_meet(to.shape, to.strides, sizeof(D), distance))) return {};
    return {"the source must be the target itself or apart from it, bytes between them", 0, distance};
}

template <class S, class D>
misfit fit_same_shape(const heads_view<const S>& from, const heads_view<D>& to) noexcept {
    if (from.batches() != to.batches())
        return {"batches of the source must be the target's", to.batches(), from.batches()};
    if (from.tokens() != to.tokens())
        return {"tokens of the source must be the target's", to.tokens(), from.tokens()};
    if (from.heads() != to.heads())
        return {"heads of the source must be the target's", to.heads(), from.heads()};
    if (from.channels() != to.channels())
        return {"channels of the source must be the target's", to.channels(), from.channels()};
    return fit_readable(from);
}

/// From this many bytes on, f64, f32 and f16 targets are written with non-temporal stores: the caches would
/// hold only the end of the target for its next reader. (Zen 4, 84 MB of f32: 0.78 of the time of memcpy;
/// with plain stores 1.26. Sapphire Rapids, 32 MB of f16: 1.13, with plain stores 1.25.)
inline constexpr index past_caches_bytes = index{1} << 25;

template <class L, class S, class D, class R>
bool rotate_elsewhere(const char* who, const L& layout, const heads_view<const S>& from,
                      const heads_view<D>& to, const R& given, direction way,
                      rotate_into_options options) noexcept {
    layout_plan plan = plan_of(layout);
    if (way != direction::forward) std::swap(plan.read, plan.write);
    const auto& rows = rows_of(given);
    const rows_extents extents = extents_of(rows);
    if (!fits(who, first_of(fit_written(plan, to, extents), fit_same_shape(from, to), fit_part(options.part),
                            fit_apart(from, to))))
        return false;
    if (to.empty()) return true;
    const index channels = to.channels();
    const index pairs = plan.rotates ? pairs_of(plan, channels, extents.pairs) : 0;
    const bool in_place = static_cast<const void*>(from.data) == static_cast<const void*>(to.data);
    if (in_place && plan.read != plan.write && pairs > changed_pairs)
        return tell(who,
                    {"pairs must be at most 512 where the layout changes in place", changed_pairs, pairs});
    const index first = plan.whole_heads ? first_channel_of(plan, channels, pairs) : 0;
    // A layer that does not rotate still writes its output.
    const bool copied = options.unrotated == unrotated_numbers::copied || !plan.rotates;
    const work_part work = partition_tokens(to.batches() * to.tokens(), options.part);
    const bool past_caches =
        !in_place && to.batches() * to.tokens() * bytes_of_token(to) >= past_caches_bytes;
    const tensor_part<const S, D> tensor{from, to, partition(to.heads(), work.heads), 0, past_caches};
    if (pairs == 0) {
        if (copied)
            for (index token = work.first_token; token < work.first_token + work.tokens; ++token)
                pass_channels(tensor.at(token).place, 0, channels);
        return true;
    }
    const bool rows_found = each_token(
        who, layout, plan, rows, compute_t<D>{}, 2 * bytes_of_token(to), work,
        [&](auto kind, outer_loop outer, auto& cursor, index token, auto x) ROPEWALK_DETAIL_INLINE_LAMBDA {
            const token_rotation rotation(cursor, token, way);
            if (copied) {
                rotate_slice(kind, outer, rotation, {pairs, first, channels}, x);
            } else {
                x.place = x.place.at_channel(first);
                rotation.rotate_token(kind, outer, pairs, x);
            }
        },
        tensor);
    if (past_caches) simd::store_fence();
    return rows_found;
}

}  // namespace detail

/// Rotates from one view into another: into other memory, another element type, another pair layout (a scheme
/// or layout_slice that reads one and writes another), or all of them. The source may be the target itself.
/// Shapes:   from and to [batches, tokens, heads, channels]; otherwise as rotate.
/// Requires: a call that fits: as rotate; source and target are the same memory or do not overlap; at most
///           512 pairs if the layout changes in place. Arithmetic runs in the compute type of the target, f64
///           or f32, which must be that of the rows.
/// Returns:  as rotate. Channels outside the slice and tokens without a row are left alone, or copied if the
///           options ask for it; a layer that does not rotate (NoPE) is copied.
/// Cost:     one read and one write of the data; no allocation.
/// Accuracy: as rotate, with one rounding to the format of the target; from a type to itself the bits of
///           rotate.
/// Source:   ggml_rope_ext, whose forward calls are out of place; Hugging Face models/deepseek_v3,
///           apply_rotary_pos_emb_interleave.
template <class L, class S, class D, class R>
bool rotate_into(const L& layout, heads_view<S> from, heads_view<D> to, const R& rows,
                 rotate_into_options options = {}) noexcept {
    if constexpr (detail::types_fit<L, R, D>()) {
        return detail::rotate_elsewhere("rotate_into", layout, heads_view<const S>(from), to, rows,
                                        detail::direction::forward, options);
    } else {
        return false;
    }
}

}  // namespace ROPEWALK_NAMESPACE
