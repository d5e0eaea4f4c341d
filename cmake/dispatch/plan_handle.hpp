// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What a ropewalk_plan is: the places of the tokens, and the shapes that were checked. handles.cpp makes it,
// units read it: cache_plan is the same class compiled for another instruction set, so the same bytes.

#include "unit.hpp"

#include <ropewalk/kv/cache_plan.hpp>
#include <ropewalk/kv/cache_view.hpp>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

/// Shapes of a call: what its plan was checked for.
struct plan_shapes {
    static constexpr int numbers = 34;
    ptrdiff_t of[numbers];
};

struct plan_handle {
    cache_plan places;
    plan_shapes shapes;
};

inline const plan_handle& plan_of(const ropewalk_plan* plan) noexcept {
    return *reinterpret_cast<const plan_handle*>(plan);
}

template <class D>
cache_view<D> cache_of(const ropewalk_cache& x, const cache_shape& shape) noexcept {
    return {static_cast<D*>(x.data), shape, {x.page_stride, x.token_stride, x.head_stride}};
}
/// The scales beside it; none where there are none.
inline cache_view<float> scales_of(const ropewalk_cache& x, cache_shape shape) noexcept {
    if (x.scales == nullptr) return {};
    shape.channels = 1;
    return {x.scales, shape, {x.scale_page_stride, x.scale_token_stride, x.scale_head_stride}};
}

/// Shapes of a tensor that is there; all of one that is not are 0.
class shape_list {
  public:
    void number(ptrdiff_t x) noexcept { shapes_.of[count_++] = x; }
    void tensor(const ropewalk_tensor& x) noexcept {
        const bool is = x.data != nullptr;
        number(is ? x.heads : -1);
        number(is ? x.batch_stride : 0);
        number(is ? x.token_stride : 0);
        number(is ? x.head_stride : 0);
    }
    void cache(const ropewalk_cache& x) noexcept {
        const bool is = x.data != nullptr, scales = is && x.scales != nullptr;
        number(is);
        number(is ? x.page_stride : 0);
        number(is ? x.token_stride : 0);
        number(is ? x.head_stride : 0);
        number(scales);
        number(scales ? x.scale_page_stride : 0);
        number(scales ? x.scale_token_stride : 0);
        number(scales ? x.scale_head_stride : 0);
    }
    const plan_shapes& all() noexcept {
        while (count_ < plan_shapes::numbers) number(0);
        return shapes_;
    }

  private:
    plan_shapes shapes_;
    int count_ = 0;
};

inline ptrdiff_t value_channels_of(const ropewalk_attention_call& c) noexcept {
    return c.value_channels == 0 ? c.channels : c.value_channels;
}
inline plan_shapes shapes_of(const ropewalk_attention_call& c) noexcept {
    shape_list list;
    for (const ptrdiff_t x : {ptrdiff_t{1}, ptrdiff_t{c.dtype}, ptrdiff_t{c.cache_dtype}, c.batches, c.tokens,
                              c.channels, value_channels_of(c), c.pages, c.page_tokens})
        list.number(x);
    list.tensor(c.key), list.tensor(c.value);
    list.cache(c.key_cache), list.cache(c.value_cache);
    return list.all();
}
inline plan_shapes shapes_of(const ropewalk_shift_call& c) noexcept {
    shape_list list;
    for (const ptrdiff_t x : {ptrdiff_t{2}, ptrdiff_t{c.dtype}, c.heads, c.channels, c.pages, c.page_tokens})
        list.number(x);
    list.cache(c.keys);
    return list.all();
}

/// The first shape that is not as it was.
inline misfit check_shapes(const plan_shapes& made, const plan_shapes& now) noexcept {
    for (int i = 0; i < plan_shapes::numbers; ++i)
        if (made.of[i] != now.of[i])
            return {"shapes must be those that the plan was made for, first that differs", made.of[i],
                    now.of[i]};
    return {};
}

/// Fields that neither a view nor a plan can express.
inline misfit check_cache(const ropewalk_cache& x, std::int32_t dtype, ptrdiff_t pages, ptrdiff_t page_tokens,
                          ptrdiff_t heads) noexcept {
    if (x.data == nullptr) return {"data of the cache must not be null", 1, 0};
    constexpr ptrdiff_t farthest = ptrdiff_t{1} << (sizeof(ptrdiff_t) > 4 ? 54 : 26);
    const auto far = [](ptrdiff_t count, ptrdiff_t stride) {
        ptrdiff_t result = 0;
        return stride < -farthest || stride > farthest || __builtin_mul_overflow(count, stride, &result) ||
               result > farthest || result < -farthest;
    };
    if (far(pages, x.page_stride))
        return {"pages * page_stride must fit the address space", 0, x.page_stride};
    if (far(page_tokens, x.token_stride))
        return {"page_tokens * token_stride of the cache must fit the address space", 0, x.token_stride};
    if (far(heads, x.head_stride))
        return {"heads * head_stride of the cache must fit the address space", 0, x.head_stride};
    if ((dtype == ROPEWALK_INT8) != (x.scales != nullptr))
        return {"scales must be given with ROPEWALK_INT8 and NULL otherwise", dtype == ROPEWALK_INT8,
                x.scales != nullptr};
    if (x.scales != nullptr && (far(pages, x.scale_page_stride) || far(page_tokens, x.scale_token_stride) ||
                                far(heads, x.scale_head_stride)))
        return {"extents times strides of the scales must fit the address space", 0, x.scale_page_stride};
    const bool f8 = dtype == ROPEWALK_F8_E4M3 || dtype == ROPEWALK_F8_E5M2;
    if (f8 && !(x.scale >= 0x1p-100 && x.scale <= 0x1p100))
        return {"scale of the cache must be from 2^-100 to 2^100", 1, 0};
    return {};
}
inline misfit check_pages(ptrdiff_t pages, ptrdiff_t page_tokens) noexcept {
    if (pages < 0 || pages > 0x7fffffff) return {"pages must be >= 0 and below 2^31", 0, pages};
    if (page_tokens < 1 || page_tokens > 0x7fffffff)
        return {"page_tokens must be >= 1 and below 2^31", 1, page_tokens};
    return {};
}
/// What a cache of data may hold.
constexpr bool may_hold(std::int32_t dtype, std::int32_t cache_dtype) noexcept {
    if (cache_dtype == dtype) return true;
    if (cache_dtype < ROPEWALK_F16 || cache_dtype > ROPEWALK_Q4_0 || dtype == ROPEWALK_F64) return false;
    return cache_dtype >= ROPEWALK_INT8 || dtype == ROPEWALK_F32;
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
