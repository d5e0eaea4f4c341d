// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Part of random_structs.cpp: structs as lists of fields, and what is asked of each.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>

#include "claimed_memory.hpp"

namespace {

/// A field: what it may become, and whether -1 in it can never be right.
struct field {
    enum kind_type { size, word, count, number, pointer } kind;
    std::size_t offset;
    const char* name;
    bool needed = false;
};
#define FIELD(type, kind, name) \
    field { field::kind, offsetof(type, name), #name, false }
#define NEEDED(type, kind, name) \
    field { field::kind, offsetof(type, name), #name, true }

using fields = std::vector<field>;
void add(fields& all, std::size_t offset, const fields& more, bool needed = true) {
    for (field f : more) {
        f.offset += offset;
        f.needed = f.needed && needed;
        all.push_back(f);
    }
}
const fields tensor_fields = {FIELD(ropewalk_tensor, pointer, data), NEEDED(ropewalk_tensor, count, heads),
                              FIELD(ropewalk_tensor, count, batch_stride),
                              FIELD(ropewalk_tensor, count, token_stride),
                              FIELD(ropewalk_tensor, count, head_stride)};
const fields rows_fields = {
    FIELD(ropewalk_rows, pointer, cos),        FIELD(ropewalk_rows, pointer, sin),
    NEEDED(ropewalk_rows, count, table_rows),  NEEDED(ropewalk_rows, count, table_heads),
    NEEDED(ropewalk_rows, count, pairs),       NEEDED(ropewalk_rows, count, row_stride),
    FIELD(ropewalk_rows, count, head_stride),  FIELD(ropewalk_rows, count, row_count),
    NEEDED(ropewalk_rows, count, first_token), FIELD(ropewalk_rows, count, batch_stride),
    FIELD(ropewalk_rows, word, position_type), FIELD(ropewalk_rows, word, axes_first),
    NEEDED(ropewalk_rows, word, dtype)};
const fields norm_fields = {NEEDED(ropewalk_norm, word, kind),     FIELD(ropewalk_norm, word, extent),
                            FIELD(ropewalk_norm, pointer, weight), FIELD(ropewalk_norm, count, weight_heads),
                            FIELD(ropewalk_norm, number, eps),     FIELD(ropewalk_norm, number, scale)};
const fields cache_fields = {FIELD(ropewalk_cache, pointer, data),
                             NEEDED(ropewalk_cache, count, page_stride),
                             NEEDED(ropewalk_cache, count, token_stride),
                             NEEDED(ropewalk_cache, count, head_stride),
                             FIELD(ropewalk_cache, pointer, scales),
                             FIELD(ropewalk_cache, count, scale_page_stride),
                             FIELD(ropewalk_cache, count, scale_token_stride),
                             FIELD(ropewalk_cache, count, scale_head_stride),
                             FIELD(ropewalk_cache, number, scale)};

template <class Struct>
bool everywhere(const Struct&) {
    return true;
}

class tester {
  public:
    tester(long structs, unsigned seed) : structs_(structs), engine_(seed) {}
    long failures = 0, refused = 0, done = 0, explained = 0;

    /// Tests one kind of struct. call(s) carries it out; explain(s, text, size) may be missing.
    template <class Struct>
    void run(const char* name, const fields& all, arena& memory, const Struct& good,
             std::function<int(const Struct&)> call,
             std::function<int(const Struct&, char*, std::size_t)> explain,
             std::function<bool(const Struct&)> there,
             std::function<bool(const Struct&)> entries = everywhere<Struct>) {
        fresh_ = memory.all;
        const auto test = [&](const Struct& s, const std::string& what, int expected) {
            char text[300] = "";
            const int said = explain && entries(s) ? explain(s, text, sizeof text) : -1;
            bool right =
                memory.is(fresh_) && (said < 0 || (said == ROPEWALK_OK) == (std::strcmp(text, "fits") == 0));
            right = right && (expected < 0 || said < 0 || said == expected);
            if (there(s)) {
                const int status = call(s);
                right = right && (said < 0 || status == said) && (expected < 0 || status == expected);
                if (status != ROPEWALK_OK) right = right && memory.is(fresh_);
                ++(status == ROPEWALK_OK ? done : refused);
                if (!right) std::printf("%s, %s: status %d, ", name, what.c_str(), status);
                if (!memory.is(fresh_)) memory.all = fresh_;
            } else {
                ++explained;
                if (!right) std::printf("%s, %s: ", name, what.c_str());
            }
            if (!right) std::printf("explained %d (%s), wanted %d\n", said, text, expected), ++failures;
        };
        test(good, "as it should be", ROPEWALK_OK);
        for (const field& f : all) {
            Struct s = good;
            if (f.kind == field::size || f.kind == field::word) {
                for (const std::int32_t wrong : {-1, 77}) {
                    s = good;
                    set(s, f, wrong);
                    test(s, std::string(f.name) + " wrong",
                         f.needed || f.kind == field::size ? int(ROPEWALK_BAD_CALL) : -1);
                }
            } else if (f.kind == field::count) {
                set(s, f, f.needed ? PTRDIFF_MIN : -1);
                test(s, std::string(f.name) + " no count", f.needed ? int(ROPEWALK_BAD_CALL) : -1);
            }
            for (int i = 0; i < values; ++i) {
                s = good;
                change(s, f, i);
                test(s, f.name, -1);
            }
        }
        for (const field& f : all)
            for (const field& g : all)
                for (int i = 0; i < 1 && &f != &g; ++i) {
                    Struct s = good;
                    change(s, f, below(values));
                    change(s, g, below(values));
                    test(s, std::string(f.name) + " and " + g.name, -1);
                }
        for (long i = 0; i < structs_ && failures < 20; ++i) {
            Struct s = good;
            std::string what;
            for (int n = 1 + below(4); n > 0; --n) {
                const field& f = all[static_cast<std::size_t>(below(static_cast<int>(all.size())))];
                change(s, f, below(values));
                what += std::string(" ") + f.name;
            }
            test(s, what, -1);
        }
    }

  private:
    static constexpr int values = 14;
    int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
    template <class Struct, class V>
    static void put(Struct& s, const field& f, V value) {
        std::memcpy(reinterpret_cast<char*>(&s) + f.offset, &value, sizeof value);
    }
    template <class Struct>
    static void set(Struct& s, const field& f, std::ptrdiff_t value) {
        if (f.kind == field::word) return put(s, f, static_cast<std::int32_t>(value));
        put(s, f, value);
    }
    template <class Struct>
    void change(Struct& s, const field& f, int which) {
        const std::ptrdiff_t numbers[values] = {-1,
                                                0,
                                                1,
                                                2,
                                                3,
                                                below(40),
                                                below(200) - 100,
                                                one << 31,
                                                one << 33,
                                                one << 55,
                                                (one << 56) + 1,
                                                one << 62,
                                                PTRDIFF_MAX,
                                                PTRDIFF_MIN};
        const double reals[values] = {0,           -1,        1e-6,       1,   1e300, -1e300, 1e-300,
                                      0.0 / zero_, 1 / zero_, -1 / zero_, 0.5, 2,     77,     1e38};
        if (f.kind == field::pointer) return put(s, f, static_cast<void*>(nullptr));
        if (f.kind == field::number) return put(s, f, reals[which]);
        if (f.kind == field::word)
            return put(s, f, static_cast<std::int32_t>(below(2) == 0 ? which : numbers[which]));
        put(s, f, numbers[which]);
    }

    long structs_;
    std::mt19937 engine_;
    std::vector<double> fresh_;
    volatile double zero_ = 0;
};

}  // namespace
