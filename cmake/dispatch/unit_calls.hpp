// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// The calls of one unit that have a file of their own.

#include "unit_checks.hpp"

namespace ROPEWALK_NAMESPACE::dispatch_unit {

int rotate_into(const ropewalk_into_call* call, ropewalk_detail_mode mode) noexcept;
int normalize(const ropewalk_normalize_call* call, ropewalk_detail_mode mode) noexcept;
int prepare(const ropewalk_attention_call* call, ropewalk_detail_half half,
            ropewalk_detail_mode mode) noexcept;
int shift(const ropewalk_shift_call* call, ropewalk_detail_mode mode) noexcept;

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
