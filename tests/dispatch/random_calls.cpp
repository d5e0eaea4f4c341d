// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Random calls through the C interface: a good call with some fields replaced. What a second reading of
// ropewalk.h, in 128-bit arithmetic, finds wrong has to be refused with nothing touched; what it finds right
// has to be done. Calls that are right but for the memory they claim cannot be told by the library, so they
// are not made.
//
//     random_calls [calls] [seed]
#include <ropewalk/ropewalk.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace {

__extension__ typedef __int128 wide;

constexpr std::ptrdiff_t most = std::ptrdiff_t(1) << 56;
constexpr std::size_t tensor_bytes = 16384, table_numbers = 2048, index_entries = 64;

struct memory {
    std::vector<double> q = std::vector<double>(tensor_bytes / 8, 0.5), k = q;
    std::vector<double> cos = std::vector<double>(table_numbers, 0.75), sin = cos;
    std::vector<std::int32_t> narrow = std::vector<std::int32_t>(index_entries);
    std::vector<std::int64_t> broad = std::vector<std::int64_t>(index_entries);
};

bool count(std::ptrdiff_t x) { return x >= 0 && x <= most; }
bool stride(std::ptrdiff_t x) { return x >= -most && x <= most; }
wide magnitude(wide x) { return x < 0 ? -x : x; }

wide channels_of(const ropewalk_rotate_call& c) {
    return c.channels == 0 ? 2 * wide(c.rows.pairs) : c.channels;
}
bool empty(const ropewalk_rotate_call& c, const ropewalk_tensor& x) {
    return c.batches == 0 || c.tokens == 0 || x.heads == 0 || channels_of(c) == 0;
}
bool group_fits(std::int32_t layout, std::ptrdiff_t group, wide pairs) {
    return layout != ROPEWALK_BLOCKED || (group > 0 && group % 2 == 0 && 2 * pairs % group == 0);
}

bool tensor_fits(const ropewalk_rotate_call& c, const ropewalk_tensor& x) {
    if (!count(x.heads) || !stride(x.batch_stride) || !stride(x.token_stride) || !stride(x.head_stride))
        return false;
    if (empty(c, x)) return true;
    if (x.data == nullptr) return false;
    struct level {
        wide step, extent;
    } levels[] = {{magnitude(x.head_stride), x.heads},
                  {magnitude(x.token_stride), c.tokens},
                  {magnitude(x.batch_stride), c.batches}};
    std::stable_sort(std::begin(levels), std::end(levels),
                     [](const level& a, const level& b) { return a.step < b.step; });
    wide span = channels_of(c);
    for (const level& l : levels) {
        if (l.extent > 1 && l.step < span) return false;
        if (l.extent > 1) span += (l.extent - 1) * l.step;
    }
    if (span > PTRDIFF_MAX / 16) return false;
    if (c.rows.table_heads != 1 && c.rows.table_heads != x.heads) return false;
    if (wide(c.first_channel) + 2 * wide(c.rows.pairs) > channels_of(c)) return false;
    const std::int32_t write = c.write_layout == 0 ? c.layout : c.write_layout;
    const std::ptrdiff_t write_group = c.write_layout == 0 ? c.group : c.write_group;
    if (!group_fits(c.layout, c.group, c.rows.pairs) || !group_fits(write, write_group, c.rows.pairs))
        return false;
    const bool changes = write != c.layout || (write == ROPEWALK_BLOCKED && write_group != c.group);
    return !changes || c.rows.pairs <= 512;
}

wide entries_of(const ropewalk_rotate_call& c) {
    const wide between = c.rows.batch_stride == 0                    ? c.tokens
                         : c.rows.batch_stride == ROPEWALK_SAME_ROWS ? 0
                                                                     : c.rows.batch_stride;
    return wide(c.rows.first_token) + (wide(c.batches) - 1) * between + c.tokens;
}
wide table_end(const ropewalk_rotate_call& c) {
    return wide(c.rows.table_rows) * c.rows.row_stride +
           (c.rows.table_heads > 1 ? wide(c.rows.table_heads) * c.rows.head_stride : 0);
}

bool call_fits(const ropewalk_rotate_call& c) {
    const auto among = [](std::int32_t x, int last) { return x >= 1 && x <= last; };
    const ropewalk_rows& r = c.rows;
    if (c.size != sizeof c || c.version != ROPEWALK_C_VERSION || !among(c.dtype, 4) || !among(c.layout, 3))
        return false;
    if (c.k_dtype != 0 && (!among(c.k_dtype, 4) || (c.k_dtype == 1) != (c.dtype == 1))) return false;
    if ((c.write_layout != 0 && !among(c.write_layout, 3)) || c.direction < 0 || c.direction > 2)
        return false;
    for (std::ptrdiff_t x : {c.batches, c.tokens, c.channels, c.first_channel, r.pairs, r.table_rows,
                             r.table_heads, r.first_token, r.row_count})
        if (!count(x)) return false;
    if (wide(c.batches) * c.tokens > most || (r.batch_stride != ROPEWALK_SAME_ROWS && !count(r.batch_stride)))
        return false;
    if ((r.row_of_token != nullptr && r.row_of_token_64 != nullptr) || c.parts < 1 || c.part < 0 ||
        c.part >= c.parts)
        return false;
    if (r.dtype < ROPEWALK_NO_ROTATION || r.dtype > ROPEWALK_F32) return false;
    if (r.dtype == ROPEWALK_NO_ROTATION && r.pairs != 0) return false;
    if (!tensor_fits(c, c.q) || (c.k.data != nullptr && !tensor_fits(c, c.k))) return false;
    if (c.batches == 0 || c.tokens == 0) return true;
    if (r.pairs == 0) return r.dtype == ROPEWALK_NO_ROTATION && c.channels != 0;
    if (r.dtype != 0 && (r.dtype == ROPEWALK_F64) != (c.dtype == ROPEWALK_F64)) return false;
    if (r.cos == nullptr || r.sin == nullptr || r.row_stride < r.pairs || r.row_stride > most) return false;
    if (r.table_heads > 1 && (r.head_stride < r.pairs || r.head_stride > most)) return false;
    const bool ordinal = r.row_of_token == nullptr && r.row_of_token_64 == nullptr;
    return table_end(c) <= most && entries_of(c) <= (ordinal ? r.table_rows : r.row_count);
}

/// Whether the memory is as the call says. `data` lies in the middle of tensor_bytes.
bool is_there(const ropewalk_rotate_call& c, const ropewalk_tensor& x, std::int32_t dtype) {
    if (empty(c, x)) return true;
    const wide size = dtype == ROPEWALK_F64 ? 8 : dtype == ROPEWALK_F32 ? 4 : 2;
    wide low = 0, high = channels_of(c);
    const std::ptrdiff_t steps[] = {x.head_stride, x.token_stride, x.batch_stride};
    const std::ptrdiff_t extents[] = {x.heads, c.tokens, c.batches};
    for (int i = 0; i < 3; ++i) (steps[i] < 0 ? low : high) += (wide(extents[i]) - 1) * wide(steps[i]);
    return -low * size <= wide(tensor_bytes) / 2 && high * size <= wide(tensor_bytes) / 2;
}
bool is_there(const ropewalk_rotate_call& c) {
    const ropewalk_rows& r = c.rows;
    if (!is_there(c, c.q, c.dtype)) return false;
    if (c.k.data != nullptr && !is_there(c, c.k, c.k_dtype == 0 ? c.dtype : c.k_dtype)) return false;
    if (c.batches == 0 || c.tokens == 0 || r.pairs == 0) return true;
    const bool ordinal = r.row_of_token == nullptr && r.row_of_token_64 == nullptr;
    return table_end(c) <= wide(table_numbers) && (ordinal || entries_of(c) <= wide(index_entries));
}
bool rows_are_there(const ropewalk_rotate_call& c) {
    const ropewalk_rows& r = c.rows;
    if (r.pairs == 0 || c.batches == 0 || c.tokens == 0) return true;
    for (std::ptrdiff_t e = r.first_token; e < entries_of(c); ++e)
        if ((r.row_of_token != nullptr && r.row_of_token[e] >= r.table_rows) ||
            (r.row_of_token_64 != nullptr && r.row_of_token_64[e] >= r.table_rows))
            return false;
    return true;
}

void print(const ropewalk_rotate_call& c) {
    const auto number = [](const char* name, long long x) { std::printf(" %s %lld", name, x); };
    number("size", static_cast<long long>(c.size)), number("version", c.version), number("dtype", c.dtype);
    number("k_dtype", c.k_dtype), number("layout", c.layout), number("write_layout", c.write_layout);
    number("direction", c.direction), number("group", c.group), number("write_group", c.write_group);
    number("batches", c.batches), number("tokens", c.tokens), number("channels", c.channels);
    number("first_channel", c.first_channel), number("parts", c.parts), number("part", c.part);
    for (const ropewalk_tensor* x : {&c.q, &c.k}) {
        std::printf("\n  %s", x == &c.q ? "q" : "k");
        number("data", x->data != nullptr), number("heads", x->heads),
            number("batch_stride", x->batch_stride);
        number("token_stride", x->token_stride), number("head_stride", x->head_stride);
    }
    const ropewalk_rows& r = c.rows;
    std::printf("\n  rows"), number("cos", r.cos != nullptr), number("sin", r.sin != nullptr);
    number("table_rows", r.table_rows), number("table_heads", r.table_heads), number("pairs", r.pairs);
    number("row_stride", r.row_stride), number("head_stride", r.head_stride),
        number("row_count", r.row_count);
    number("narrow", r.row_of_token != nullptr), number("broad", r.row_of_token_64 != nullptr);
    number("first_token", r.first_token), number("batch_stride", r.batch_stride);
    number("dtype", r.dtype), std::printf("\n");
}

class maker {
  public:
    explicit maker(unsigned seed) : engine_(seed) {}

    /// Forty tokens' worth of a call that is right, then up to three fields replaced.
    ropewalk_rotate_call call(memory& m) {
        ropewalk_rotate_call c = ropewalk_new_rotate_call();
        c.dtype = below(4) + 1;
        c.k_dtype = c.dtype == ROPEWALK_F64 ? below(2) : below(4);
        if (c.k_dtype == ROPEWALK_F64 && c.dtype != ROPEWALK_F64) c.k_dtype = ROPEWALK_BF16;
        c.layout = below(3) + 1;
        c.write_layout = below(4) != 0 ? 0 : below(3) + 1;
        c.direction = below(3);
        c.batches = below(4), c.tokens = below(4);
        c.rows.pairs = one_of({0, 1, 2, 3, 4, 8, 17});
        c.group = c.write_group = 2;
        if (below(3) == 0 || c.rows.pairs == 0)
            c.first_channel = below(3), c.channels = 2 * c.rows.pairs + c.first_channel + below(3);
        const std::ptrdiff_t channels = static_cast<std::ptrdiff_t>(channels_of(c));
        const auto tensor = [&](std::vector<double>& data) {
            ropewalk_tensor x{data.data() + data.size() / 2, below(3) + (below(5) != 0 ? 1 : 0), 0, 0, 0};
            x.head_stride = channels + below(2);
            x.token_stride = x.head_stride * x.heads + below(2);
            x.batch_stride = x.token_stride * c.tokens + below(2);
            if (below(4) == 0) std::swap(x.head_stride, x.token_stride), x.head_stride *= 4;
            for (auto* s : {&x.head_stride, &x.token_stride, &x.batch_stride})
                if (below(5) == 0) *s = -*s;
            return x;
        };
        c.q = tensor(m.q);
        c.k = tensor(m.k);
        if (below(2) == 0) c.k.data = nullptr;
        ropewalk_rows& r = c.rows;
        r.cos = m.cos.data(), r.sin = m.sin.data();
        if (below(2) == 0) r.dtype = c.dtype == ROPEWALK_F64 ? ROPEWALK_F64 : ROPEWALK_F32;
        if (r.pairs == 0) r.dtype = ROPEWALK_NO_ROTATION;
        r.table_rows = 12;
        r.row_stride = r.pairs + below(3);
        if (below(4) == 0) {
            c.k.data = nullptr;
            r.table_heads = c.q.heads, r.head_stride = r.row_stride,
            r.row_stride *= std::max<std::ptrdiff_t>(1, c.q.heads);
        }
        const int kind = below(3);
        if (kind == 1) r.row_of_token = m.narrow.data(), r.row_count = index_entries;
        if (kind == 2) r.row_of_token_64 = m.broad.data(), r.row_count = index_entries;
        r.first_token = below(3);
        r.batch_stride = one_of({0, 0, ROPEWALK_SAME_ROWS, 3});
        c.parts = below(4) + 1, c.part = below(static_cast<int>(c.parts));
        for (int change = below(4); change > 0; --change) replace_one(c, m);
        return c;
    }

  private:
    int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
    std::ptrdiff_t one_of(std::initializer_list<std::ptrdiff_t> list) {
        return list.begin()[below(static_cast<int>(list.size()))];
    }
    std::ptrdiff_t number() {
        const std::ptrdiff_t one = 1;
        if (below(2) == 0) return below(60) - 20;
        return one_of({-1, 0, 1, 16, 513, one << 31, one << 32, -(one << 32), one << 33, (one << 55) + 1,
                       one << 56, (one << 56) + 1, -(one << 56), one << 60, one << 62, PTRDIFF_MAX,
                       PTRDIFF_MAX - 1, PTRDIFF_MIN, PTRDIFF_MIN + 1});
    }
    void replace_one(ropewalk_rotate_call& c, memory& m) {
        ropewalk_rows& r = c.rows;
        std::int32_t* const words[] = {&c.version,      &c.dtype,     &c.k_dtype, &c.layout,
                                       &c.write_layout, &c.direction, &r.dtype};
        std::ptrdiff_t* const numbers[] = {
            &c.group,          &c.write_group,   &c.batches,     &c.tokens,
            &c.channels,       &c.first_channel, &c.q.heads,     &c.q.batch_stride,
            &c.q.token_stride, &c.q.head_stride, &c.k.heads,     &c.k.batch_stride,
            &c.k.token_stride, &c.k.head_stride, &r.table_rows,  &r.table_heads,
            &r.pairs,          &r.row_stride,    &r.head_stride, &r.row_count,
            &r.first_token,    &r.batch_stride,  &c.parts,       &c.part};
        const int which = below(37);
        if (which < 7)
            *words[which] = static_cast<std::int32_t>(number());
        else if (which < 31)
            *numbers[which - 7] = number();
        else if (which == 31)
            c.size = static_cast<std::size_t>(number());
        else if (which == 32)
            c.q.data = nullptr;
        else if (which == 33)
            r.cos = nullptr;
        else if (which == 34)
            r.sin = nullptr;
        else if (which == 35)
            r.row_of_token = m.narrow.data();
        else
            r.row_of_token_64 = m.broad.data();
    }

    std::mt19937 engine_;
};

}  // namespace

int main(int argc, char** argv) {
    const long calls = argc > 1 ? std::atol(argv[1]) : 1000000;
    const unsigned seed = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1;
    memory m;
    for (std::size_t i = 0; i < index_entries; ++i) {
        m.narrow[i] = static_cast<std::int32_t>(i * 7 % 13) - 1;  // -1 .. 11
        m.broad[i] = m.narrow[i];
    }
    const memory fresh = m;
    maker make(seed);
    long done = 0, refused = 0, left = 0, failures = 0;
    for (long i = 0; i < calls && failures < 10; ++i) {
        if (i % 64 == 0 && ropewalk_available_unit(i / 64 % 8) != nullptr)
            static_cast<void>(ropewalk_use_unit(ropewalk_available_unit(i / 64 % 8)));
        const ropewalk_rotate_call c = make.call(m);
        const bool fits = call_fits(c);
        // The indices are read before tensors are looked at: as many as row_count says that there are.
        const bool index_lies = (c.rows.row_of_token != nullptr || c.rows.row_of_token_64 != nullptr) &&
                                entries_of(c) > index_entries && entries_of(c) <= c.rows.row_count;
        if ((fits && !is_there(c)) || index_lies) {
            ++left;
            continue;
        }
        const bool all_rows = !fits || rows_are_there(c);
        char text[160] = "";
        const int said = ropewalk_explain_rotate(&c, text, sizeof text);
        const bool silent = m.q == fresh.q && m.k == fresh.k;
        const int status = ropewalk_rotate(&c);
        const bool untouched = m.q == fresh.q && m.k == fresh.k;
        const bool right = fits && all_rows ? status == ROPEWALK_OK && said == ROPEWALK_OK
                                            : status == said && (status == ROPEWALK_OK || untouched);
        const bool refused_rightly = fits || status == ROPEWALK_BAD_CALL;
        if (!right || !refused_rightly || !silent) {
            std::printf("call %ld of seed %u: %s, but %d, explained %d (%s), %s\n", i, seed,
                        fits ? "fits" : "does not fit", status, said, text,
                        untouched ? "untouched" : "touched");
            print(c);
            ++failures;
        }
        ++(fits ? done : refused);
        if (!untouched) m.q = fresh.q, m.k = fresh.k;
    }
    std::printf("%ld calls: %ld done, %ld refused, %ld not made; %ld failures\n", calls, done, refused, left,
                failures);
    const bool both = done > calls / 20 && refused > calls / 20;
    return failures == 0 && both ? 0 : 1;
}
