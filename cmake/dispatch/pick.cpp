// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Chooses the unit. Compiled with the project's own flags; it holds no kernel. The units that were built are
// named by ROPEWALK_DISPATCH_UNITS: UNIT(name) from the widest to the narrowest.
#include <ropewalk/ropewalk.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace {

using rotate_function = int (*)(const ropewalk_rotate_call*);

struct unit {
    const char* name;
    rotate_function rotate;
};

#if defined(__x86_64__) || defined(__i386__)
// The builtins also ask the operating system whether it saves the registers.
bool has_sse2() { return __builtin_cpu_supports("sse2"); }
bool has_avx2_fma_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
}
bool has_avx512() {
    return has_avx2_fma_f16c() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 5)) != 0;
}
#else
bool has_neon() { return true; }  // every AArch64 CPU
#endif

}  // namespace

#define UNIT(name) extern "C" int ropewalk_unit_##name(const ropewalk_rotate_call* call);
ROPEWALK_DISPATCH_UNITS
#undef UNIT

namespace {

constexpr std::ptrdiff_t most_units = 8;

struct unit_list {
    unit units[most_units] = {};
    std::ptrdiff_t count = 0;
    unit_list() {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_cpu_init();
#endif
#define UNIT(name)                                     \
    if (has_##name()) {                                \
        units[count] = {#name, &ropewalk_unit_##name}; \
        ++count;                                       \
    }
        ROPEWALK_DISPATCH_UNITS
#undef UNIT
    }
    const unit* named(const char* name) const {
        for (std::ptrdiff_t i = 0; i < count; ++i)
            if (std::strcmp(units[i].name, name) == 0) return &units[i];
        return nullptr;
    }
};
const unit_list& available() {
    static const unit_list list;
    return list;
}

int rotate_first(const ropewalk_rotate_call* call);
std::atomic<rotate_function> chosen{&rotate_first};

rotate_function choose() {
    const rotate_function now = chosen.load(std::memory_order_relaxed);
    if (now != &rotate_first) return now;
    const unit_list& list = available();
    const char* wanted = std::getenv("ROPEWALK_UNIT");
    const unit* best = wanted != nullptr ? list.named(wanted) : nullptr;
    if (best == nullptr && list.count > 0) best = &list.units[0];
    rotate_function expected = &rotate_first;  // ropewalk_use_unit in another thread is stronger
    if (best != nullptr) chosen.compare_exchange_strong(expected, best->rotate);
    return chosen.load();
}

int rotate_first(const ropewalk_rotate_call* call) {
    const rotate_function f = choose();
    return f == &rotate_first ? ROPEWALK_NO_UNIT : f(call);
}

}  // namespace

extern "C" int ropewalk_rotate(const ropewalk_rotate_call* call) {
    return chosen.load(std::memory_order_relaxed)(call);
}

extern "C" const char* ropewalk_unit(void) {
    const rotate_function f = choose();
    const unit_list& list = available();
    for (std::ptrdiff_t i = 0; i < list.count; ++i)
        if (list.units[i].rotate == f) return list.units[i].name;
    return "none";
}

extern "C" const char* ropewalk_available_unit(std::ptrdiff_t i) {
    const unit_list& list = available();
    return i >= 0 && i < list.count ? list.units[i].name : nullptr;
}

extern "C" int ropewalk_use_unit(const char* name) {
    const unit* u = name != nullptr ? available().named(name) : nullptr;
    if (u == nullptr) return ROPEWALK_NO_UNIT;
    chosen.store(u->rotate);
    return ROPEWALK_OK;
}
