// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What the units offer to api.cpp. These names have the version in them and are never exported: two versions
// in one process do not meet.

#include <ropewalk/ropewalk.h>

#include <ropewalk/core/version.hpp>

extern "C" {

/// Whether a call is carried out or only looked at.
enum ropewalk_detail_mode { ropewalk_detail_run, ropewalk_detail_look };
/// Which half of an attention call is meant.
enum ropewalk_detail_half { ropewalk_detail_append, ropewalk_detail_prepare };

/// One instruction set. Statuses; the reason of a refusal goes to ropewalk_note.
struct ropewalk_detail_unit {
    const char* name;
    int (*rotate)(const ropewalk_rotate_call* call);
    int (*look_at_rotate)(const ropewalk_rotate_call* call);
    int (*rotate_into)(const ropewalk_into_call* call, ropewalk_detail_mode mode);
    int (*normalize)(const ropewalk_normalize_call* call, ropewalk_detail_mode mode);
    int (*prepare)(const ropewalk_attention_call* call, ropewalk_detail_half half, ropewalk_detail_mode mode);
    int (*shift)(const ropewalk_shift_call* call, ropewalk_detail_mode mode);
};

/// What is made once for all instruction sets, in handles.cpp and models.cpp.
struct ropewalk_detail_handles {
    int (*make_spectrum)(const ropewalk_spectrum_options*, ropewalk_spectrum**, char*, size_t);
    void (*free_spectrum)(ropewalk_spectrum*);
    int (*spectrum_info)(const ropewalk_spectrum*, ropewalk_spectrum_info*);
    ptrdiff_t (*frequencies)(const ropewalk_spectrum*, double*, ptrdiff_t);
    int (*make_table)(const ropewalk_table_options*, ropewalk_table**, char*, size_t);
    void (*free_table)(ropewalk_table*);
    ropewalk_rows (*table_rows)(const ropewalk_table*);
};
struct ropewalk_detail_plans {
    int (*fill_slots)(const ropewalk_ragged*, int64_t*, int64_t*, ptrdiff_t, char*, size_t);
    int (*make_plan)(const ropewalk_attention_call*, const int64_t*, ptrdiff_t, ropewalk_plan**, char*,
                     size_t);
    int (*make_shift_plan)(const ropewalk_shift_call*, const int64_t*, ptrdiff_t, ropewalk_plan**, char*,
                           size_t);
    void (*free_plan)(ropewalk_plan*);
};
struct ropewalk_detail_models {
    int (*read_config)(const char*, size_t, int, ropewalk_model**, char*, size_t);
    int (*read_gguf)(const void*, size_t, int, ropewalk_model**, char*, size_t);
    void (*free_model)(ropewalk_model*);
    ptrdiff_t (*layers)(const ropewalk_model*);
    int (*get_layer)(const ropewalk_model*, ptrdiff_t, ropewalk_layer*);
    int (*describe_layer)(const ropewalk_model*, ptrdiff_t, char*, size_t, size_t*);
    int (*make_layer_spectrum)(const ropewalk_model*, ptrdiff_t, int64_t, ropewalk_spectrum**, char*, size_t);
};
}

/// A function of ropewalk.h: as visible as the target that holds it wants.
#define ROPEWALK_DETAIL_API extern "C" [[gnu::visibility(ROPEWALK_DETAIL_TEXT(ROPEWALK_DISPATCH_VISIBILITY))]]

#define ROPEWALK_DETAIL_VERSIONED2(stem, version) ropewalk_##stem##_##version
#define ROPEWALK_DETAIL_VERSIONED1(stem, version) ROPEWALK_DETAIL_VERSIONED2(stem, version)
#define ROPEWALK_DETAIL_VERSIONED(stem) ROPEWALK_DETAIL_VERSIONED1(stem, ROPEWALK_DETAIL_VERSION_NAMESPACE)
#define ROPEWALK_DETAIL_UNIT2(version, name) ropewalk_unit_##version##_##name
#define ROPEWALK_DETAIL_UNIT1(version, name) ROPEWALK_DETAIL_UNIT2(version, name)
#define ROPEWALK_DETAIL_UNIT(name) ROPEWALK_DETAIL_UNIT1(ROPEWALK_DETAIL_VERSION_NAMESPACE, name)
#define ROPEWALK_DETAIL_DECLARE_UNIT(name) \
    extern "C" [[gnu::visibility("hidden")]] const ropewalk_detail_unit ROPEWALK_DETAIL_UNIT(name);

/// Keeps the reason of a refusal for this thread; defined in api.cpp.
#define ROPEWALK_DETAIL_NOTE ROPEWALK_DETAIL_VERSIONED(note)
extern "C" [[gnu::visibility("hidden")]] void ROPEWALK_DETAIL_NOTE(const char* must, ptrdiff_t wanted,
                                                                   ptrdiff_t got,
                                                                   const char* argument) noexcept;

#define ROPEWALK_DETAIL_HANDLES ROPEWALK_DETAIL_VERSIONED(handles)
#define ROPEWALK_DETAIL_PLANS ROPEWALK_DETAIL_VERSIONED(plans)
#define ROPEWALK_DETAIL_MODELS ROPEWALK_DETAIL_VERSIONED(models)
extern "C" [[gnu::visibility("hidden")]] const ropewalk_detail_handles ROPEWALK_DETAIL_HANDLES;
extern "C" [[gnu::visibility("hidden")]] const ropewalk_detail_plans ROPEWALK_DETAIL_PLANS;
extern "C" [[gnu::visibility("hidden")]] const ropewalk_detail_models ROPEWALK_DETAIL_MODELS;
