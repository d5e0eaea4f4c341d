// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// The memory that random calls of ropewalk.h may claim, and whether a struct claims no more: what is right but for
// that cannot be told by the library.
#include <ropewalk/ropewalk.h>

#include <cstring>
#include <initializer_list>
#include <utility>
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

constexpr wide far = wide(1) << 80;
inline wide magnitude(wide x) { return x < 0 ? -x : x; }
inline int bytes_of(std::int32_t dtype) {
    constexpr int sizes[] = {8, 8, 4, 2, 2, 1, 1, 1, 34, 18};
    return dtype >= 1 && dtype <= 9 ? sizes[dtype] : 8;
}
/// Whether extents and strides stay inside half a piece, to either side.
inline bool is_there(std::initializer_list<std::pair<wide, wide>> steps, wide inner, int size) {
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
inline bool entries_are_there(const ropewalk_rows& r, wide batches, wide tokens) {
    if (r.pairs <= 0 || batches <= 0 || tokens <= 0) return true;
    const wide between = r.batch_stride == 0                    ? tokens
                         : r.batch_stride == ROPEWALK_SAME_ROWS ? 0
                                                                : wide(r.batch_stride);
    return wide(r.first_token) + (batches - 1) * between + tokens <= 4096;
}
inline bool is_there(const ropewalk_rows& r, wide batches, wide tokens) {
    if (!entries_are_there(r, batches, tokens)) return false;
    if (r.spectrum != nullptr || r.pairs <= 0 || batches <= 0 || tokens <= 0) return true;
    const wide table = wide(r.table_rows) * r.row_stride;
    const wide of_heads = r.table_heads > 1 ? wide(r.table_heads) * r.head_stride : 0;
    return table <= far && of_heads <= far && table + of_heads <= wide(arena::bytes) / 16;
}
inline bool is_there(const ropewalk_norm& n, wide channels) {
    return n.weight == nullptr ||
           (n.weight_heads > 0 ? wide(n.weight_heads) : 1) * (channels < far ? channels : far) <=
               wide(arena::bytes) / 16;
}

}  // namespace
