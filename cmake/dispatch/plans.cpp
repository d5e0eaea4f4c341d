// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Plans of the C interface: the cold half of every call on a cache.
#include "cold.hpp"

#include "plan_handle.hpp"
#include "unit_views.hpp"

#include <ropewalk/kv/append.hpp>

#include <span>
#include <vector>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

using detail::require;

std::span<const std::int64_t> given(const char* who, const std::int64_t* numbers, index count) {
    require(is_count(count), who, "count must be a count", count);
    require(count == 0 || numbers != nullptr, who, "slots must not be null where count is", count);
    return {numbers, static_cast<std::size_t>(count)};
}

/// Strides and extents are what is checked here, so types of one size are one type.
template <class F>
cache_plan with_sizes(std::int32_t dtype, std::int32_t cache_dtype, F f) {
    const auto of_cache = [&](auto s) {
        switch (cache_dtype) {
            case ROPEWALK_F32: return f(s, float{});
            case ROPEWALK_INT8: return f(s, std::int8_t{});
            case ROPEWALK_F8_E4M3:
            case ROPEWALK_F8_E5M2: return f(s, f8_e4m3{});
            case ROPEWALK_Q8_0: return f(s, q8_0{});
            case ROPEWALK_Q4_0: return f(s, q4_0{});
            default: return f(s, f16{});
        }
    };
    if (dtype == ROPEWALK_F64) return f(double{}, double{});
    return dtype == ROPEWALK_F32 ? of_cache(float{}) : of_cache(f16{});
}

cache_plan places_of(const ropewalk_attention_call& c, std::span<const std::int64_t> slots) {
    return with_sizes(c.dtype, c.cache_dtype, [&]<class S, class D>(S, D) {
        append_call<S, D> call;
        const cache_shape key_shape{c.pages, c.page_tokens, c.key.heads, c.channels};
        const cache_shape value_shape{c.pages, c.page_tokens, c.value.heads, value_channels_of(c)};
        if (c.key.data != nullptr) {
            call.key = view_of<const S>(c, c.key, c.channels);
            call.key_cache = cache_of<D>(c.key_cache, key_shape);
            call.key_scales = scales_of(c.key_cache, key_shape);
        }
        if (c.value.data != nullptr) {
            call.value = view_of<const S>(c, c.value, value_channels_of(c));
            call.value_cache = cache_of<D>(c.value_cache, value_shape);
            call.value_scales = scales_of(c.value_cache, value_shape);
        }
        return make_append_plan(call, slots);
    });
}

ropewalk_plan* new_plan(cache_plan places, const plan_shapes& shapes) {
    return reinterpret_cast<ropewalk_plan*>(new plan_handle{std::move(places), shapes});
}

ropewalk_plan* new_attention_plan(const ropewalk_attention_call* call, const std::int64_t* slots,
                                  index count) {
    constexpr const char* who = "ropewalk_make_plan";
    require_none(who, check_head(call, "size must be sizeof(ropewalk_attention_call)",
                                 call != nullptr ? call->dtype : 0, ROPEWALK_BF16));
    const ropewalk_attention_call& c = *call;
    require(may_hold(c.dtype, c.cache_dtype), who,
            "cache_dtype must be one that caches of such data may hold", c.cache_dtype);
    require(c.reserved == 0, who, "reserved must be 0", c.reserved);
    require_none(who, check_extents(c.batches, c.tokens, c.channels, 0));
    require(is_count(c.value_channels), who, "value_channels must be a count", c.value_channels);
    require_none(who, check_pages(c.pages, c.page_tokens));
    const auto half = [&](const char* name, const ropewalk_tensor& x, const char* cache_name,
                          const ropewalk_cache& cache) {
        if (x.data == nullptr) return;
        // What is compared row by row has to fit in memory itself.
        require(product(product(c.batches, c.tokens), x.heads) <= index{1} << 28, who,
                "batches * tokens * heads must be at most 2^28, heads", x.heads);
        require_none(who, detail::in_argument(name, check_reach(x, c.batches, c.tokens)));
        require_none(who, detail::in_argument(cache_name, check_cache(cache, c.cache_dtype, c.pages,
                                                                      c.page_tokens, x.heads)));
    };
    half("key", c.key, "key_cache", c.key_cache);
    half("value", c.value, "value_cache", c.value_cache);
    const auto all = given(who, slots, count);
    require(count == c.batches * c.tokens, who, "count must be batches * tokens", count);
    return new_plan(places_of(c, all), shapes_of(c));
}

ropewalk_plan* new_shift_plan(const ropewalk_shift_call* call, const std::int64_t* slots, index count) {
    constexpr const char* who = "ropewalk_make_shift_plan";
    require_none(who, check_head(call, "size must be sizeof(ropewalk_shift_call)",
                                 call != nullptr ? call->dtype : 0, ROPEWALK_Q4_0));
    const ropewalk_shift_call& c = *call;
    require(c.reserved == 0, who, "reserved must be 0", c.reserved);
    require(is_count(c.heads), who, "heads must be a count", c.heads);
    require(is_count(c.channels), who, "channels must be a count", c.channels);
    require_none(who, check_pages(c.pages, c.page_tokens));
    require_none(who, check_cache(c.keys, c.dtype, c.pages, c.page_tokens, c.heads));
    cache_plan places(given(who, slots, count), c.pages, c.page_tokens);
    const cache_shape shape{c.pages, c.page_tokens, c.heads, c.channels};
    const auto check = [&]<class D>(D) {
        detail::require_cache(who, cache_of<D>(c.keys, shape), places, c.heads, c.channels);
        return cache_plan{};
    };
    if (c.dtype == ROPEWALK_F64) {
        check(double{});
    } else {
        with_sizes(ROPEWALK_F32, c.dtype, [&](auto, auto d) { return check(d); });
    }
    if (c.keys.scales != nullptr) detail::require_cache(who, scales_of(c.keys, shape), places, c.heads, 1);
    return new_plan(std::move(places), shapes_of(c));
}

int make_plan(const ropewalk_attention_call* call, const std::int64_t* slots, ptrdiff_t count,
              ropewalk_plan** plan, char* text, std::size_t size) {
    return made(plan, text, size, [&] { return new_attention_plan(call, slots, count); });
}
int make_shift_plan(const ropewalk_shift_call* call, const std::int64_t* slots, ptrdiff_t count,
                    ropewalk_plan** plan, char* text, std::size_t size) {
    return made(plan, text, size, [&] { return new_shift_plan(call, slots, count); });
}
void free_plan(ropewalk_plan* plan) { delete reinterpret_cast<plan_handle*>(plan); }

void write_slots(const ropewalk_ragged* given_batch, std::int64_t* slots, std::int64_t* positions,
                 index tokens) {
    constexpr const char* who = "ropewalk_fill_slots";
    require(given_batch != nullptr, who, "batch must not be null", 0);
    const ropewalk_ragged& b = *given_batch;
    require(b.size == sizeof b, who, "size must be sizeof(ropewalk_ragged)", b.size);
    require(b.version == ROPEWALK_C_VERSION, who, "version must be ROPEWALK_C_VERSION", b.version);
    require(b.reserved == 0, who, "reserved must be 0", b.reserved);
    require(is_count(b.requests), who, "requests must be a count", b.requests);
    require(b.offsets != nullptr && (b.starts != nullptr || b.requests == 0), who,
            "offsets and starts must not be null", 0);
    const auto requests = static_cast<std::size_t>(b.requests);
    const ragged_batch<std::int64_t> batch{{b.offsets, requests + 1}, {b.starts, requests}};
    detail::requests_of(who, batch);
    require(b.offsets[b.requests] == tokens, who, "tokens must be offsets[requests]", tokens);
    if (slots != nullptr) {
        std::vector<std::int64_t> all;
        if (b.pages == nullptr) {
            all = make_slots(batch, b.page_tokens);
        } else {
            require(is_count(b.pages_per_request) && product(b.requests, b.pages_per_request) <= most, who,
                    "pages_per_request must be a count", b.pages_per_request);
            const auto entries = static_cast<std::size_t>(b.requests * b.pages_per_request);
            all = make_slots(
                batch, block_table<std::int32_t>{{b.pages, entries}, b.pages_per_request, b.page_tokens});
        }
        std::copy(all.begin(), all.end(), slots);
    }
    if (positions == nullptr) return;
    for (index r = 0; r < b.requests; ++r)
        for (std::int64_t n = b.offsets[r]; n < b.offsets[r + 1]; ++n)
            positions[n] = b.starts[r] + n - b.offsets[r];
}
int fill_slots(const ropewalk_ragged* batch, std::int64_t* slots, std::int64_t* positions, ptrdiff_t tokens,
               char* text, std::size_t size) {
    return answered(text, size, [&] { write_slots(batch, slots, positions, tokens); });
}

}  // namespace

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit

namespace own = ropewalk::dispatch_unit;
extern "C" const ropewalk_detail_plans ROPEWALK_DETAIL_PLANS = {&own::fill_slots, &own::make_plan,
                                                                &own::make_shift_plan, &own::free_plan};
