// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Chooses the unit. Compiled with the project's own flags; it holds no kernel. The units that were built are
// named by ROPEWALK_DISPATCH_UNITS: UNIT(name) from the widest to the narrowest.
#include "unit.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace {

using rotate_function = int (*)(const ropewalk_rotate_call*);

using unit = ropewalk_detail_unit;

#if defined(__x86_64__) || defined(__i386__)
// Which of them are asked depends on the units that were built.
// The builtins also ask the operating system whether it saves the registers.
[[maybe_unused]] bool has_sse2() { return __builtin_cpu_supports("sse2"); }
[[maybe_unused]] bool has_avx2_fma_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
}
[[maybe_unused]] bool has_avx512() {
    return has_avx2_fma_f16c() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512_bf16() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 5)) != 0;
}
#else
[[maybe_unused]] bool has_neon() { return true; }  // every AArch64 CPU
#endif

}  // namespace

#define UNIT(name) ROPEWALK_DETAIL_DECLARE_UNIT(name)
ROPEWALK_DISPATCH_UNITS
#undef UNIT

namespace {

constexpr std::ptrdiff_t most_units = 8;

struct unit_list {
    const unit* units[most_units] = {};
    std::ptrdiff_t count = 0;
    unit_list() {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_cpu_init();
#endif
#define UNIT(name)                                  \
    if (has_##name()) {                             \
        units[count] = &ROPEWALK_DETAIL_UNIT(name); \
        ++count;                                    \
    }
        ROPEWALK_DISPATCH_UNITS
#undef UNIT
    }
    const unit* named(const char* name) const {
        for (std::ptrdiff_t i = 0; i < count; ++i)
            if (std::strcmp(units[i]->name, name) == 0) return units[i];
        return nullptr;
    }
    const unit* of(rotate_function rotate) const {
        for (std::ptrdiff_t i = 0; i < count; ++i)
            if (units[i]->rotate == rotate) return units[i];
        return nullptr;
    }
};
const unit_list& available() {
    static const unit_list list;
    return list;
}

// What every rotation goes through: one load and one jump.
int rotate_first(const ropewalk_rotate_call* call);
std::atomic<rotate_function> chosen{&rotate_first};

const unit* choose() {
    const unit_list& list = available();
    const rotate_function now = chosen.load(std::memory_order_relaxed);
    if (now != &rotate_first) return list.of(now);
    const char* wanted = std::getenv("ROPEWALK_UNIT");
    const unit* best = wanted != nullptr ? list.named(wanted) : nullptr;
    if (best == nullptr && list.count > 0) best = list.units[0];
    if (best == nullptr) return nullptr;
    rotate_function expected = &rotate_first;  // ropewalk_use_unit in another thread is stronger
    chosen.compare_exchange_strong(expected, best->rotate);
    return list.of(chosen.load());
}

int rotate_first(const ropewalk_rotate_call* call) {
    const unit* u = choose();
    return u == nullptr ? ROPEWALK_NO_UNIT : u->rotate(call);
}

int explain(const char* words, char* text, std::size_t size, int status) {
    if (text != nullptr && size > 0) std::snprintf(text, size, "%s", words);
    return status;
}

}  // namespace

ROPEWALK_DETAIL_API int ropewalk_rotate(const ropewalk_rotate_call* call) {
    return chosen.load(std::memory_order_relaxed)(call);
}

ROPEWALK_DETAIL_API int ropewalk_explain_rotate(const ropewalk_rotate_call* call, char* text,
                                                std::size_t size) {
    const unit* u = choose();
    if (u == nullptr) return explain(ropewalk_status_text(ROPEWALK_NO_UNIT), text, size, ROPEWALK_NO_UNIT);
    const ropewalk_detail_reason why = u->explain_rotate(call);
    if (why.must == nullptr) return explain("fits", text, size, ROPEWALK_OK);
    if (text != nullptr && size > 0)
        std::snprintf(text, size, "%s: wanted %lld, got %lld", why.must, static_cast<long long>(why.wanted),
                      static_cast<long long>(why.got));
    return ROPEWALK_BAD_CALL;
}

ROPEWALK_DETAIL_API const char* ropewalk_status_text(int status) {
    switch (status) {
        case ROPEWALK_OK: return "done";
        case ROPEWALK_BAD_CALL: return "a field that cannot be, or tensors that do not fit the rows";
        case ROPEWALK_NO_UNIT: return "no unit of that name was built for this CPU";
        case ROPEWALK_NO_MEMORY: return "not enough memory";
        default: return "not a status of this library";
    }
}

ROPEWALK_DETAIL_API const char* ropewalk_unit(void) {
    const unit* u = choose();
    return u != nullptr ? u->name : "none";
}

ROPEWALK_DETAIL_API const char* ropewalk_available_unit(std::ptrdiff_t i) {
    const unit_list& list = available();
    return i >= 0 && i < list.count ? list.units[i]->name : nullptr;
}

ROPEWALK_DETAIL_API int ropewalk_use_unit(const char* name) {
    const unit* u = name != nullptr ? available().named(name) : nullptr;
    if (u == nullptr) return ROPEWALK_NO_UNIT;
    chosen.store(u->rotate);
    return ROPEWALK_OK;
}
