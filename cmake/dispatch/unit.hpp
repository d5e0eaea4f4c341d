// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What a unit offers to pick.cpp. Its name has the version in it and it is never exported: two versions in
// one process do not meet.

#include <ropewalk/ropewalk.h>

#include <ropewalk/core/version.hpp>

extern "C" {

/// Why a call was refused; nothing where it was not.
struct ropewalk_detail_reason {
    const char* must;
    ptrdiff_t wanted, got;
};

struct ropewalk_detail_unit {
    const char* name;
    int (*rotate)(const ropewalk_rotate_call* call);
    ropewalk_detail_reason (*explain_rotate)(const ropewalk_rotate_call* call);
};
}

/// A function of ropewalk.h: as visible as the target that holds it wants.
#define ROPEWALK_DETAIL_API extern "C" [[gnu::visibility(ROPEWALK_DETAIL_TEXT(ROPEWALK_DISPATCH_VISIBILITY))]]

#define ROPEWALK_DETAIL_UNIT2(version, name) ropewalk_unit_##version##_##name
#define ROPEWALK_DETAIL_UNIT1(version, name) ROPEWALK_DETAIL_UNIT2(version, name)
#define ROPEWALK_DETAIL_UNIT(name) ROPEWALK_DETAIL_UNIT1(ROPEWALK_DETAIL_VERSION_NAMESPACE, name)
#define ROPEWALK_DETAIL_DECLARE_UNIT(name) \
    extern "C" [[gnu::visibility("hidden")]] const ropewalk_detail_unit ROPEWALK_DETAIL_UNIT(name);
