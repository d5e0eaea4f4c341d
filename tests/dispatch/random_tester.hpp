// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Part of random_structs.cpp: structs as lists of fields, the memory they may claim, and what is asked of
// each.
#include <ropewalk/ropewalk.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace {

__extension__ typedef __int128 wide;
constexpr std::ptrdiff_t one = 1;

/// Memory that a struct may claim: each piece begins in the middle of what it has.
struct arena {
    static constexpr std::size_t bytes = 1 << 13, pieces = 11;
    std::vector<double> all = std::vector<double>(pieces * bytes / sizeof(double), 0.5);
    void* at(int piece) {
        return all.data() + (static_cast<std::size_t>(piece) * bytes + bytes / 2) / sizeof(double);
    }
    bool is(const std::vector<double>& other) const {
        return std::memcmp(all.data(), other.data(), all.size() * sizeof(double)) == 0;
    }
};
enum piece {
    of_q,
    of_k,
    of_v,
    of_out,
    of_keys,
    of_values,
    of_key_scales,
    of_value_scales,
    of_weight,
    of_cos,
    of_sin
};

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
    FIELD(ropewalk_rows, word, position_type), FIELD(ropewalk_rows, word, axes_first)};
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

constexpr wide far = wide(1) << 80;
wide magnitude(wide x) { return x < 0 ? -x : x; }
int bytes_of(std::int32_t dtype) {
    constexpr int sizes[] = {8, 8, 4, 2, 2, 1, 1, 1, 34, 18};
    return dtype >= 1 && dtype <= 9 ? sizes[dtype] : 8;
}
/// Whether extents and strides stay inside half a piece, to either side.
bool is_there(std::initializer_list<std::pair<wide, wide>> steps, wide inner, int size) {
    wide reach = inner;
    for (const auto& [extent, stride] : steps)
        if (extent <= 0) return true;
    for (const auto& [extent, stride] : steps)
        if (reach <= far) reach += (extent - 1) * magnitude(stride);
    if (reach > far) return false;
    return inner <= 0 || reach * size <= wide(arena::bytes) / 2;
}
template <class Call>
bool is_there(const Call& c, const ropewalk_tensor& x, wide channels, std::int32_t dtype) {
    return x.data == nullptr ||
           is_there({{c.batches, x.batch_stride}, {c.tokens, x.token_stride}, {x.heads, x.head_stride}},
                    channels, bytes_of(dtype));
}
/// Whether the arrays of indices or positions, of 4096 entries, hold what the tokens read.
bool entries_are_there(const ropewalk_rows& r, wide batches, wide tokens) {
    if (r.pairs <= 0 || batches <= 0 || tokens <= 0) return true;
    const wide between = r.batch_stride == 0                    ? tokens
                         : r.batch_stride == ROPEWALK_SAME_ROWS ? 0
                                                                : wide(r.batch_stride);
    return wide(r.first_token) + (batches - 1) * between + tokens <= 4096;
}
bool is_there(const ropewalk_rows& r, wide batches, wide tokens) {
    if (!entries_are_there(r, batches, tokens)) return false;
    if (r.spectrum != nullptr || r.pairs <= 0 || batches <= 0 || tokens <= 0) return true;
    const wide table = wide(r.table_rows) * r.row_stride;
    const wide of_heads = r.table_heads > 1 ? wide(r.table_heads) * r.head_stride : 0;
    return table <= far && of_heads <= far && table + of_heads <= wide(arena::bytes) / 16;
}
bool is_there(const ropewalk_norm& n, wide channels) {
    return n.weight == nullptr ||
           (n.weight_heads > 0 ? wide(n.weight_heads) : 1) * (channels < far ? channels : far) <=
               wide(arena::bytes) / 16;
}

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
