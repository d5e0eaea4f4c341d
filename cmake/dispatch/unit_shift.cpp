// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Of one unit of the run-time dispatch: cached keys that move.
#include "unit_calls.hpp"
#include "unit_views.hpp"

#include "plan_handle.hpp"

#include <ropewalk/kv/shift_keys.hpp>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

namespace {

misfit check_call(const ropewalk_shift_call* call) noexcept {
    const misfit head = check_head(call, "size must be sizeof(ropewalk_shift_call)",
                                   call != nullptr ? call->dtype : 0, ROPEWALK_Q4_0);
    if (!head.ok()) return head;
    const ropewalk_shift_call& c = *call;
    if (c.reserved != 0) return {"reserved must be 0", 0, c.reserved};
    if (!is_count(c.heads)) return {"heads must be a count", 0, c.heads};
    if (c.plan == nullptr) return {"plan must not be null", 1, 0};
    return first_misfit(
        [&] { return check_layouts(c.layout, 0); },
        [&] { return check_extents(1, plan_of(c.plan).places.tokens(), c.channels, c.first_channel); },
        [&] { return check_pages(c.pages, c.page_tokens); },
        [&] { return check_cache(c.keys, c.dtype, c.pages, c.page_tokens, c.heads); },
        [&] { return check_rows(c.rows, 1, plan_of(c.plan).places.tokens(), c.dtype); },
        [&] { return check_part(c.parts, c.part); },
        [&] { return check_shapes(plan_of(c.plan).shapes, shapes_of(c)); });
}

template <class D>
bool run(const ropewalk_shift_call& c, ropewalk_detail_mode mode) noexcept {
    using data = std::conditional_t<holds_codes<D>, float, D>;
    const cache_shape shape{c.pages, c.page_tokens, c.heads, c.channels};
    const auto keys = cache_of<D>(c.keys, shape);
    shift_options options;
    options.scales = scales_of(c.keys, shape);
    if (is_f8<D>) options.scale = static_cast<float>(c.keys.scale);
    const pair_layout pairs = layout_of(c.layout, c.group);
    const layout_slice layout{pairs, pairs, c.first_channel};
    return with_rows<compute_t<data>>(c.rows,
                                      {1, plan_of(c.plan).places.tokens(), {c.parts, c.part}, false, mode},
                                      [&](const auto& rows, part_of part) {
                                          shift_options now = options;
                                          now.part = part;
                                          return shift_keys(layout, keys, plan_of(c.plan).places, rows, now);
                                      });
}

bool run_any(const ropewalk_shift_call& c, ropewalk_detail_mode mode) noexcept {
    switch (c.dtype) {
        case ROPEWALK_F64: return run<double>(c, mode);
        case ROPEWALK_F32: return run<float>(c, mode);
        case ROPEWALK_F16: return run<f16>(c, mode);
        case ROPEWALK_BF16: return run<bf16>(c, mode);
        case ROPEWALK_INT8: return run<std::int8_t>(c, mode);
        case ROPEWALK_F8_E4M3: return run<f8_e4m3>(c, mode);
        case ROPEWALK_F8_E5M2: return run<f8_e5m2>(c, mode);
        case ROPEWALK_Q8_0: return run<q8_0>(c, mode);
        default: return run<q4_0>(c, mode);
    }
}

}  // namespace

int shift(const ropewalk_shift_call* call, ropewalk_detail_mode mode) noexcept {
    const misfit field = check_call(call);
    if (!field.ok()) return status_of(field);
    const index tokens = plan_of(call->plan).places.tokens();
    if (!has_rows(call->rows, 1, tokens)) mode = ropewalk_detail_look;
    // Without pairs nothing rotates, and codes are not made anew.
    const bool done = run_any(*call, call->rows.pairs == 0 ? ropewalk_detail_look : mode);
    if (!done || mode == ropewalk_detail_run) return status_of(done);
    return status_of(check_indices(call->rows, 1, tokens));
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
