// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Of one unit of the run-time dispatch: what is done to caches. An append is a prologue without queries and
// norms: one kernel for each pair of types.
#include "unit_calls.hpp"
#include "unit_norms.hpp"

#include "plan_handle.hpp"

#include <ropewalk/kv/prepare_attention.hpp>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

/// The call as the kernel has it: an append has no queries and no norms.
ropewalk_attention_call half_of(const ropewalk_attention_call& call, ropewalk_detail_half half) noexcept {
    ropewalk_attention_call c = call;
    if (half == ropewalk_detail_append) {
        c.q.data = nullptr;
        c.q_norm.kind = c.k_norm.kind = ROPEWALK_NO_NORM;
    }
    if (c.q.data == nullptr) c.q = c.q_out = {};
    return c;
}
misfit check_fields(const ropewalk_attention_call& c) noexcept {
    if (!may_hold(c.dtype, c.cache_dtype))
        return {"cache_dtype must be one that caches of such data may hold", c.dtype, c.cache_dtype};
    if (c.reserved != 0) return {"reserved must be 0", 0, c.reserved};
    if (!is_count(c.value_channels)) return {"value_channels must be a count", 0, c.value_channels};
    const auto if_there = [&](const char* name, const ropewalk_tensor& x) {
        return x.data != nullptr ? detail::in_argument(name, check_reach(x, c.batches, c.tokens)) : misfit{};
    };
    return first_misfit(
        [&] { return check_layouts(c.layout, c.write_layout); },
        [&] { return check_extents(c.batches, c.tokens, c.channels, c.first_channel); },
        [&] { return check_pages(c.pages, c.page_tokens); }, [&] { return if_there("q", c.q); },
        [&] { return c.q.data != nullptr ? detail::in_argument("q_out", check_tensor(c.q_out)) : misfit{}; },
        [&] { return if_there("key", c.key); }, [&] { return if_there("value", c.value); },
        [&] { return detail::in_argument("q_norm", check_norm(c.q_norm, false)); },
        [&] { return detail::in_argument("k_norm", check_norm(c.k_norm, false)); },
        [&] { return check_rows(c.rows, c.batches, c.tokens, c.dtype); },
        [&] { return check_part(c.parts, c.part); },
        [&] {
            return c.plan == nullptr ? misfit{"plan must not be null", 1, 0}
                                     : check_shapes(plan_of(c.plan).shapes, shapes_of(c));
        });
}
/// What make_prepare_plan asks beside the plan: keys that become codes pass through a buffer.
misfit check_codes(const ropewalk_attention_call& c) noexcept {
    if (c.key.data == nullptr || c.cache_dtype < ROPEWALK_INT8 || !is_whole(c.k_norm)) return {};
    if (product(c.key.heads, c.channels) <= detail::scratch_numbers) return {};
    return {"k_norm over all heads of a token must be of at most 4096 numbers, heads", 0, c.key.heads};
}

template <class D>
void fill_cache(const ropewalk_cache& x, const cache_shape& shape, cache_view<D>& cache,
                cache_view<float>& scales, float& scale) noexcept {
    if (x.data == nullptr) return;
    cache = cache_of<D>(x, shape);
    scales = scales_of(x, shape);
    if (is_f8<D>) scale = static_cast<float>(x.scale);
}

template <class S, class D>
bool run(const ropewalk_attention_call& c, ropewalk_detail_mode mode) noexcept {
    using C = compute_t<S>;
    const index channels = c.channels, value_channels = value_channels_of(c);
    prepare_call<S, S, D> call;
    call.q = view_if<const S>(c, c.q, channels);
    if (c.q.data != nullptr) call.q_out = view_of<S>(c, c.q_out, channels);
    call.q_norm = norm_of<C>(c.q_norm, channels);
    call.k_norm = norm_of<C>(c.k_norm, channels);
    auto& rows = call.new_rows;
    rows.key = view_if<const S>(c, c.key, channels);
    rows.value = view_if<const S>(c, c.value, value_channels);
    fill_cache<D>(c.key_cache, {c.pages, c.page_tokens, c.key.heads, channels}, rows.key_cache,
                  rows.key_scales, rows.key_scale);
    fill_cache<D>(c.value_cache, {c.pages, c.page_tokens, c.value.heads, value_channels}, rows.value_cache,
                  rows.value_scales, rows.value_scale);
    const cache_plan& plan = plan_of(c.plan).places;
    const bool whole = detail::keeps_heads_together(call.q, call.q_norm) ||
                       detail::keeps_heads_together(rows.key, call.k_norm);
    return with_rows<C>(c.rows, {c.batches, c.tokens, {c.parts, c.part}, whole, mode},
                        [&](const auto& of_call, part_of part) {
                            return prepare_attention(slice_of(c), call, plan, of_call, part);
                        });
}

/// f(source, element of the cache) for the types that may meet.
template <class F>
bool with_types(std::int32_t dtype, std::int32_t cache_dtype, F f) noexcept {
    if (dtype == ROPEWALK_F64) return f(double{}, double{});
    return with_short_dtype(dtype, [&]<class S>(S s) {
        switch (cache_dtype) {
            case ROPEWALK_INT8: return f(s, std::int8_t{});
            case ROPEWALK_F8_E4M3: return f(s, f8_e4m3{});
            case ROPEWALK_F8_E5M2: return f(s, f8_e5m2{});
            case ROPEWALK_Q8_0: return f(s, q8_0{});
            case ROPEWALK_Q4_0: return f(s, q4_0{});
            default: break;
        }
        if constexpr (std::is_same_v<S, float>) {
            if (cache_dtype == ROPEWALK_F16) return f(s, f16{});
            if (cache_dtype == ROPEWALK_BF16) return f(s, bf16{});
        }
        return f(s, s);
    });
}

}  // namespace

int prepare(const ropewalk_attention_call* pointer, ropewalk_detail_half half,
            ropewalk_detail_mode mode) noexcept {
    const misfit head = check_head(pointer, "size must be sizeof(ropewalk_attention_call)",
                                   pointer != nullptr ? pointer->dtype : 0, ROPEWALK_BF16);
    if (!head.ok()) return status_of(head);
    const ropewalk_attention_call c = half_of(*pointer, half);
    const auto cache = [&](const char* name, const ropewalk_tensor& x, const ropewalk_cache& to) {
        return x.data != nullptr ? detail::in_argument(
                                       name, check_cache(to, c.cache_dtype, c.pages, c.page_tokens, x.heads))
                                 : misfit{};
    };
    const misfit field = first_misfit(
        [&] { return check_fields(c); }, [&] { return cache("key_cache", c.key, c.key_cache); },
        [&] { return cache("value_cache", c.value, c.value_cache); }, [&] { return check_codes(c); },
        [&] {
            const bool alone = c.q.data == nullptr && c.key.data == nullptr;
            return alone || c.q.data == c.q_out.data ? check_changed(slice_of(c), c.rows.pairs) : misfit{};
        });
    if (!field.ok()) return status_of(field);
    if (!has_rows(c.rows, c.batches, c.tokens)) mode = ropewalk_detail_look;
    const bool done =
        with_types(c.dtype, c.cache_dtype, [&]<class S, class D>(S, D) { return run<S, D>(c, mode); });
    if (!done || mode == ropewalk_detail_run) return status_of(done);
    return status_of(check_indices(c.rows, c.batches, c.tokens));
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
