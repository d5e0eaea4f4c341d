// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The functions of ropewalk.h that a unit carries out, and the choice of the unit. Compiled for the baseline;
// it holds no kernel. The units that were built are named by ROPEWALK_DISPATCH_UNITS: UNIT(name) from the
// widest to the narrowest.
#include "unit.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace {

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
};
const unit_list& available() {
    static const unit_list list;
    return list;
}

/// A misfit of any unit: each unit has a type of its own. The texts are the program's, which live as long as its
/// library.
struct reason {
    const char* must;
    std::ptrdiff_t wanted, got;
    const char* argument;
};
thread_local reason last_reason{};  // of the last refusal

// The table of the calls before a unit was chosen: the first of them chooses.
const unit* choose();
template <auto Function, class... Argument>
int choose_first(Argument... argument) {
    const unit* u = choose();
    return u != nullptr ? (u->*Function)(argument...) : ROPEWALK_NO_UNIT;
}
const unit undecided = {"none",
                        &choose_first<&unit::rotate>,
                        &choose_first<&unit::look_at_rotate>,
                        &choose_first<&unit::rotate_into>,
                        &choose_first<&unit::normalize>,
                        &choose_first<&unit::prepare>,
                        &choose_first<&unit::shift>};
// What every call goes through: two loads and one jump.
std::atomic<const unit*> chosen{&undecided};

const unit* choose() {
    const unit* now = chosen.load(std::memory_order_relaxed);
    if (now != &undecided) return now;
    const unit_list& list = available();
    const char* wanted = std::getenv("ROPEWALK_UNIT");
    const unit* best = wanted != nullptr ? list.named(wanted) : nullptr;
    if (best == nullptr && list.count > 0) best = list.units[0];
    if (best == nullptr) return nullptr;
    const unit* expected = &undecided;  // ropewalk_use_unit in another thread is stronger
    chosen.compare_exchange_strong(expected, best);
    return chosen.load();
}
const unit& in_use() { return *chosen.load(std::memory_order_relaxed); }

std::size_t write_reason(const reason& why, char* text, std::size_t size) {
    if (text != nullptr && size > 0) text[0] = 0;
    const std::size_t room = text != nullptr ? size : 0;
    if (why.must == nullptr) return 0;
    const bool named = why.argument != nullptr;
    const int length = std::snprintf(text, room, "%s%s%s: wanted %lld, got %lld", named ? why.argument : "",
                                     named ? ": " : "", why.must, static_cast<long long>(why.wanted),
                                     static_cast<long long>(why.got));
    return length > 0 ? static_cast<std::size_t>(length) : 0;
}
int explained(int status, char* text, std::size_t size) {
    if (status == ROPEWALK_BAD_CALL) {
        write_reason(last_reason, text, size);
    } else if (text != nullptr && size > 0) {
        std::snprintf(text, size, "%s", status == ROPEWALK_OK ? "fits" : ropewalk_status_text(status));
    }
    return status;
}

}  // namespace

void ROPEWALK_DETAIL_NOTE(const char* must, std::ptrdiff_t wanted, std::ptrdiff_t got,
                          const char* argument) noexcept {
    last_reason = {must, wanted, got, argument};
}

ROPEWALK_DETAIL_API int ropewalk_rotate(const ropewalk_rotate_call* call) { return in_use().rotate(call); }
ROPEWALK_DETAIL_API int ropewalk_rotate_into(const ropewalk_into_call* call) {
    return in_use().rotate_into(call, ropewalk_detail_run);
}
ROPEWALK_DETAIL_API int ropewalk_normalize_and_rotate(const ropewalk_normalize_call* call) {
    return in_use().normalize(call, ropewalk_detail_run);
}
ROPEWALK_DETAIL_API int ropewalk_append(const ropewalk_attention_call* call) {
    return in_use().prepare(call, ropewalk_detail_append, ropewalk_detail_run);
}
ROPEWALK_DETAIL_API int ropewalk_prepare_attention(const ropewalk_attention_call* call) {
    return in_use().prepare(call, ropewalk_detail_prepare, ropewalk_detail_run);
}
ROPEWALK_DETAIL_API int ropewalk_shift_keys(const ropewalk_shift_call* call) {
    return in_use().shift(call, ropewalk_detail_run);
}

ROPEWALK_DETAIL_API int ropewalk_explain_rotate(const ropewalk_rotate_call* call, char* text,
                                                std::size_t size) {
    return explained(in_use().look_at_rotate(call), text, size);
}
ROPEWALK_DETAIL_API int ropewalk_explain_rotate_into(const ropewalk_into_call* call, char* text,
                                                     std::size_t size) {
    return explained(in_use().rotate_into(call, ropewalk_detail_look), text, size);
}
ROPEWALK_DETAIL_API int ropewalk_explain_normalize_and_rotate(const ropewalk_normalize_call* call, char* text,
                                                              std::size_t size) {
    return explained(in_use().normalize(call, ropewalk_detail_look), text, size);
}
ROPEWALK_DETAIL_API int ropewalk_explain_append(const ropewalk_attention_call* call, char* text,
                                                std::size_t size) {
    return explained(in_use().prepare(call, ropewalk_detail_append, ropewalk_detail_look), text, size);
}
ROPEWALK_DETAIL_API int ropewalk_explain_prepare_attention(const ropewalk_attention_call* call, char* text,
                                                           std::size_t size) {
    return explained(in_use().prepare(call, ropewalk_detail_prepare, ropewalk_detail_look), text, size);
}
ROPEWALK_DETAIL_API int ropewalk_explain_shift_keys(const ropewalk_shift_call* call, char* text,
                                                    std::size_t size) {
    return explained(in_use().shift(call, ropewalk_detail_look), text, size);
}

ROPEWALK_DETAIL_API const char* ropewalk_status_text(int status) {
    switch (status) {
        case ROPEWALK_OK: return "done";
        case ROPEWALK_BAD_CALL: return "a field that cannot be, or tensors that do not fit the rows";
        case ROPEWALK_NO_UNIT: return "no unit of that name was built for this CPU";
        case ROPEWALK_NO_MEMORY: return "not enough memory";
        case ROPEWALK_NOT_BUILT: return "this build was made without nlohmann-json and reads no configs";
        default: return "not a status of this library";
    }
}
ROPEWALK_DETAIL_API std::size_t ropewalk_last_misfit(char* text, std::size_t size) {
    return write_reason(last_reason, text, size);
}

ROPEWALK_DETAIL_API void ropewalk_note_misfit(const char* must, std::ptrdiff_t wanted, std::ptrdiff_t got) {
    if (must == nullptr) return;
    static thread_local char text[200];  // the caller's may be unloaded
    std::snprintf(text, sizeof text, "%s", must);
    last_reason = {text, wanted, got, nullptr};
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
    chosen.store(u);
    return ROPEWALK_OK;
}
ROPEWALK_DETAIL_API const char* ropewalk_version(void) { return ROPEWALK_VERSION_STRING; }
