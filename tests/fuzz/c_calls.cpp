// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Sequences of calls of ropewalk.h: handles made, used and freed in any order, structs whose fields are anything,
// texts of any room. Every call returns a status and a text that ends in its room; what is refused is refused with
// nothing written, and what is done is written where the struct says and nowhere else. A struct that is right but for
// the memory it claims cannot be told by the library, so it is only explained.
#include <algorithm>
#include <memory>
#include <string>

#include "../dispatch/claimed_memory.hpp"
#include "../support/gguf_bytes.hpp"
#include "input.hpp"

namespace {

constexpr std::size_t entries = 4096, most_axes = 16;

/// What indices and positions are read from: rows of which some are negative or missing, positions of any kind.
struct sources {
    std::vector<std::int32_t> narrow = std::vector<std::int32_t>(entries);
    std::vector<std::int64_t> broad = std::vector<std::int64_t>(entries);
    std::vector<double> positions = std::vector<double>(entries * most_axes);
    std::vector<std::int32_t> axes = std::vector<std::int32_t>(64);
    sources() {
        for (std::size_t i = 0; i < entries; ++i) {
            narrow[i] = static_cast<std::int32_t>(i * 7 % 8) - 2;
            broad[i] = i % 61 == 60 ? std::int64_t{1} << 40 : narrow[i];
        }
        for (std::size_t i = 0; i < positions.size(); ++i)
            positions[i] = i % 97 == 96 ? 1e300 : static_cast<double>(i % 1000) / 4 - 50;
        for (std::size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<std::int32_t>(i % 3);
    }
};
const sources from;

/// Room for a text, of a size that the input chooses; nothing may be written behind it.
class room {
  public:
    explicit room(fuzz::input& in) {
        constexpr std::size_t sizes[] = {300, 300, 40, 7, 1, 0};
        size_ = in.one_of(sizes);
        if (size_ > 0) text_ = std::make_unique<char[]>(size_), std::memset(text_.get(), 'x', size_);
    }
    char* data() { return text_.get(); }
    std::size_t size() const { return size_; }
    int said(int status) const {
        fuzz::require(status >= ROPEWALK_OK && status <= ROPEWALK_NOT_BUILT, "a call without a status");
        fuzz::require(size_ == 0 || std::memchr(text_.get(), 0, size_) != nullptr, "a text without an end");
        return status;
    }

  private:
    std::size_t size_;
    std::unique_ptr<char[]> text_;
};

using offsets = std::vector<std::size_t>;
/// Where a struct has pointers, of the parts that it is made of.
offsets pointers(std::initializer_list<std::pair<std::size_t, offsets>> parts) {
    offsets all;
    for (const auto& [at, inside] : parts)
        for (const std::size_t offset : inside) all.push_back(at + offset);
    return all;
}
#define AT(type, field, part) \
    { offsetof(type, field), part }
const offsets itself = {0};
const offsets in_tensor = {offsetof(ropewalk_tensor, data)};
const offsets in_norm = {offsetof(ropewalk_norm, weight)};
const offsets in_cache = {offsetof(ropewalk_cache, data), offsetof(ropewalk_cache, scales)};
const offsets in_rows = {offsetof(ropewalk_rows, cos),          offsetof(ropewalk_rows, sin),
                         offsetof(ropewalk_rows, row_of_token), offsetof(ropewalk_rows, row_of_token_64),
                         offsetof(ropewalk_rows, spectrum),     offsetof(ropewalk_rows, positions)};
const offsets in_rotate =
    pointers({AT(ropewalk_rotate_call, q, in_tensor), AT(ropewalk_rotate_call, k, in_tensor),
              AT(ropewalk_rotate_call, rows, in_rows)});
const offsets in_into =
    pointers({AT(ropewalk_into_call, from, in_tensor), AT(ropewalk_into_call, to, in_tensor),
              AT(ropewalk_into_call, rows, in_rows)});
const offsets in_normalize =
    pointers({AT(ropewalk_normalize_call, q, in_tensor), AT(ropewalk_normalize_call, k, in_tensor),
              AT(ropewalk_normalize_call, q_norm, in_norm), AT(ropewalk_normalize_call, k_norm, in_norm),
              AT(ropewalk_normalize_call, rows, in_rows)});
const offsets in_attention = pointers(
    {AT(ropewalk_attention_call, q, in_tensor), AT(ropewalk_attention_call, q_out, in_tensor),
     AT(ropewalk_attention_call, key, in_tensor), AT(ropewalk_attention_call, value, in_tensor),
     AT(ropewalk_attention_call, q_norm, in_norm), AT(ropewalk_attention_call, k_norm, in_norm),
     AT(ropewalk_attention_call, key_cache, in_cache), AT(ropewalk_attention_call, value_cache, in_cache),
     AT(ropewalk_attention_call, rows, in_rows), AT(ropewalk_attention_call, plan, itself)});
const offsets in_shift =
    pointers({AT(ropewalk_shift_call, keys, in_cache), AT(ropewalk_shift_call, rows, in_rows),
              AT(ropewalk_shift_call, plan, itself)});
const offsets in_spectrum = {offsetof(ropewalk_spectrum_options, frequencies),
                             offsetof(ropewalk_spectrum_options, pair_factors),
                             offsetof(ropewalk_spectrum_options, axis_of_pair)};
const offsets in_table = {offsetof(ropewalk_table_options, spectrum),
                          offsetof(ropewalk_table_options, positions), offsetof(ropewalk_table_options, from),
                          offsetof(ropewalk_table_options, from_positions)};
const offsets in_ragged = {offsetof(ropewalk_ragged, offsets), offsetof(ropewalk_ragged, starts),
                           offsetof(ropewalk_ragged, pages)};

std::uint64_t any_bits(fuzz::input& in) {
    constexpr std::uint64_t one_bit = 1;
    constexpr std::uint64_t bits[] = {one_bit << 31,
                                      one_bit << 33,
                                      one_bit << 55,
                                      (one_bit << 56) + 1,
                                      one_bit << 62,
                                      ~std::uint64_t{0} >> 1,
                                      one_bit << 63,
                                      ~std::uint64_t{0},
                                      0,
                                      0x7e37e43c8800759cu /* 1e300 */,
                                      0x7ff0000000000000u /* infinity */,
                                      0xbff0000000000000u /* -1 */,
                                      0x3eb0c6f7a0b5ed8du /* 1e-6 */};
    if (in.below(3) == 0) return in.one_of(bits);
    return static_cast<std::uint64_t>(in.below(44) - 4);
}
/// Overwrites up to three fields. A pointer can become null, and nothing else that is not there.
template <class S>
S edited(fuzz::input& in, const S& good, const offsets& of_pointers) {
    S s = good;
    auto* const bytes = reinterpret_cast<unsigned char*>(&s);
    for (std::ptrdiff_t n = in.below(8) - 4; n > 0; --n) {
        const std::uint64_t value = any_bits(in);
        const std::size_t width = in.below(4) == 0 ? 4 : 8;
        std::memcpy(bytes + in.byte() % (sizeof(S) / width) * width, &value, width);
    }
    for (const std::size_t at : of_pointers)
        if (std::memcmp(bytes + at, reinterpret_cast<const unsigned char*>(&good) + at, sizeof(void*)) != 0)
            std::memset(bytes + at, 0, sizeof(void*));
    return s;
}

/// A plan of memory that is there, and its slots.
struct kept_plan {
    ropewalk_plan* plan = nullptr;
    std::vector<std::int64_t> slots = {};
};

arena memory;
const std::vector<double> fresh = memory.all;

class session {
  public:
    explicit session(fuzz::input& in) : in_(in) {
        auto o = ropewalk_new_spectrum_options();
        o.rotary_dim = 16;
        ropewalk_make_spectrum(&o, &spectra_[0], nullptr, 0);
        auto t = ropewalk_new_table_options();
        t.spectrum = spectra_[0], t.rows = 9;
        ropewalk_make_table(&t, &tables_[0], nullptr, 0);
    }
    ~session() {
        for (auto* s : spectra_) ropewalk_free_spectrum(s);
        for (auto* t : tables_) ropewalk_free_table(t);
        for (auto* m : models_) ropewalk_free_model(m);
        for (auto& p : plans_) ropewalk_free_plan(p.plan);
    }
    session(const session&) = delete;
    session& operator=(const session&) = delete;

    void step() {
        switch (in_.below(16)) {
            case 0: return make_spectrum();
            case 1: return make_table();
            case 2: return rotate();
            case 3: return rotate_into();
            case 4: return normalize();
            case 5:
            case 6: return plan();
            case 7: return attend(true);
            case 8: return attend(false);
            case 9: return plan_shift();
            case 10: return shift();
            case 11: return fill_slots();
            case 12: return read();
            case 13: return ask_model();
            case 14: return free_one();
            default: return look();
        }
    }

  private:
    // ---- handles
    void make_spectrum() {
        auto good = ropewalk_new_spectrum_options();
        good.scaling = static_cast<std::int32_t>(in_.below(6));
        good.rotary_dim = 2 * in_.below(33);
        good.factor = 1 + static_cast<double>(in_.below(8)), good.original_context = 4096;
        good.frequencies = from.positions.data() + 201;
        if (in_.below(4) == 0) good.pair_factors = from.positions.data() + 205;
        if (in_.below(3) == 0) good.axes = 3, good.axis_of_pair = from.axes.data();
        const auto o = edited(in_, good, in_spectrum);
        if (o.rotary_dim > 128) return;  // its arrays end there
        auto*& to = spectra_[in_.byte() % 3];
        ropewalk_free_spectrum(to);
        made(to, [&](char* text, std::size_t size) { return ropewalk_make_spectrum(&o, &to, text, size); });
    }
    void make_table() {
        auto good = ropewalk_new_table_options();
        good.dtype = in_.below(3) == 0 ? ROPEWALK_F64 : ROPEWALK_F32;
        good.spectrum = spectrum(), good.rows = in_.below(9);
        if (in_.below(2) == 0) good.positions = from.positions.data();
        if (in_.below(3) == 0)
            good.for_shift = 1;
        else if (in_.below(2) == 0)
            good.from = spectrum(), good.from_positions = from.positions.data() + 7;
        const auto o = edited(in_, good, in_table);
        if (o.rows > 64) return;  // positions end there, and so may memory
        auto*& to = tables_[in_.byte() % 2];
        ropewalk_free_table(to);
        made(to, [&](char* text, std::size_t size) { return ropewalk_make_table(&o, &to, text, size); });
    }
    template <class T, class Make>
    void made(T*& handle, Make make) {
        room text(in_);
        const int status = text.said(make(text.data(), text.size()));
        fuzz::require((status == ROPEWALK_OK) == (handle != nullptr), "a handle beside a refusal, or none");
    }
    ropewalk_spectrum* spectrum() { return spectra_[in_.below(2) == 0 ? 0 : in_.byte() % 3]; }
    const kept_plan& some_plan() { return plans_[in_.below(4) == 0 ? in_.byte() % 3 : last_plan_]; }
    void free_one() {
        const auto which = in_.byte();
        const auto drop = [](auto*& handle, auto free) { free(handle), handle = nullptr; };
        switch (which % 4) {
            case 0: return drop(spectra_[which % 3], &ropewalk_free_spectrum);
            case 1: return drop(tables_[which % 2], &ropewalk_free_table);
            case 2: return drop(models_[which % 2], &ropewalk_free_model);
            default: return drop(plans_[which % 3].plan, &ropewalk_free_plan);
        }
    }

    // ---- what calls are made of
    std::int32_t dtype(int last) { return 1 + static_cast<std::int32_t>(in_.below(last)); }
    ropewalk_tensor tensor(int piece, std::ptrdiff_t tokens, std::ptrdiff_t channels) {
        ropewalk_tensor x{memory.at(piece), in_.below(9) == 0 ? 0 : 1 + in_.below(3), 0, 0, 0};
        x.head_stride = channels + in_.below(2), x.token_stride = x.heads * x.head_stride + in_.below(2);
        x.batch_stride = tokens * x.token_stride;
        if (in_.below(4) == 0)
            std::swap(x.head_stride, x.token_stride), x.head_stride *= std::max<std::ptrdiff_t>(1, tokens);
        if (in_.below(6) == 0) x.token_stride = -x.token_stride;
        return x;
    }
    ropewalk_rows rows(std::ptrdiff_t tokens) {
        ropewalk_rows r{};
        room_of_rows_ = wide(arena::bytes) / 16;
        stated_ = 0;
        switch (in_.below(4)) {
            case 0:
                r = ropewalk_rows_on_the_fly(spectrum(), from.narrow.data(), tokens);
                r.positions = from.positions.data(), r.row_count = static_cast<std::ptrdiff_t>(entries);
                r.position_type = 1 + static_cast<std::int32_t>(in_.below(4));
                r.axes_first = static_cast<std::int32_t>(in_.below(2));
                break;
            case 1:
                r = ropewalk_table_rows(tables_[in_.byte() % 2]);
                room_of_rows_ = wide(r.table_rows) * r.row_stride;
                stated_ = r.dtype;
                break;
            default:
                r.cos = memory.at(of_cos), r.sin = memory.at(of_sin);
                r.table_rows = 6, r.table_heads = 1, r.pairs = in_.below(20),
                r.row_stride = r.pairs + in_.below(3);
                if (in_.below(8) == 0) r.table_heads = 2, r.head_stride = r.pairs, r.row_stride = 2 * r.pairs;
                if (in_.below(2) == 0) r.dtype = dtype(2);
                if (r.pairs == 0 && in_.below(4) != 0) r = ropewalk_no_rotation();
        }
        if (in_.below(3) == 0)
            r.row_of_token = from.narrow.data(), r.row_count = static_cast<std::ptrdiff_t>(entries);
        else if (in_.below(2) == 0)
            r.row_of_token_64 = from.broad.data(), r.row_count = static_cast<std::ptrdiff_t>(entries);
        if (in_.below(6) == 0) r.first_token = in_.below(5), r.batch_stride = in_.below(4) - 1;
        return r;
    }
    bool rows_there(const ropewalk_rows& r, wide batches, wide tokens) const {
        if (r.spectrum != nullptr)
            return entries_are_there(r, batches, tokens) &&
                   (r.axes_first == 0 || r.row_count <= static_cast<std::ptrdiff_t>(entries));
        if (r.pairs <= 0 || batches <= 0 || tokens <= 0) return true;
        const wide table = wide(r.table_rows) * r.row_stride;
        const wide of_heads = r.table_heads > 1 ? wide(r.table_heads) * r.head_stride : 0;
        return table <= far && of_heads <= far &&
               table + of_heads <= room_of_rows_ / (stated_ != 0 && r.dtype != stated_ ? 2 : 1);
    }
    ropewalk_norm norm(std::ptrdiff_t heads) {
        ropewalk_norm n{};
        n.kind = static_cast<std::int32_t>(in_.below(3)), n.extent = static_cast<std::int32_t>(in_.below(2));
        n.eps = 1e-6, n.scale = 1, n.weight = memory.at(of_weight),
        n.weight_heads = in_.below(3) == 0 ? heads : 0;
        return n;
    }
    ropewalk_cache cache(int piece, std::int32_t dtype, std::ptrdiff_t page_tokens, std::ptrdiff_t heads,
                         std::ptrdiff_t channels) {
        const std::ptrdiff_t row = dtype >= ROPEWALK_Q8_0 ? channels / 32 : channels;
        ropewalk_cache c{};
        c.data = memory.at(piece), c.scale = 0.5;
        c.head_stride = row, c.token_stride = heads * row, c.page_stride = page_tokens * heads * row;
        if (in_.below(3) == 0) c.token_stride = row, c.head_stride = page_tokens * row;
        if (dtype == ROPEWALK_INT8) {
            c.scales = static_cast<float*>(memory.at(piece + of_key_scales - of_keys));
            c.scale_page_stride = page_tokens * heads, c.scale_token_stride = heads, c.scale_head_stride = 1;
        }
        return c;
    }
    template <class Call>
    void shape(Call& c) {
        c.layout = 1 + static_cast<std::int32_t>(in_.below(3)), c.group = 2 + 2 * in_.below(2);
        if (in_.below(4) == 0)
            c.write_layout = 1 + static_cast<std::int32_t>(in_.below(3)), c.write_group = 2;
        c.batches = in_.below(9) == 0 ? 0 : 1 + in_.below(2),
        c.tokens = in_.below(9) == 0 ? 0 : 1 + in_.below(3);
        if (in_.below(5) == 0) c.parts = 3, c.part = in_.below(3);
    }
    template <class Call>
    std::ptrdiff_t channels(Call& c) {
        const std::ptrdiff_t needed = 2 * std::max<std::ptrdiff_t>(0, c.rows.pairs);
        if (in_.below(2) == 0) return needed;
        c.first_channel = in_.below(3);
        return c.channels = needed + c.first_channel + in_.below(3);
    }

    // ---- calls
    /// What a call may write, as bytes of memory.
    void may_write(const void* data, wide offset, wide bytes) {
        const wide first = static_cast<const unsigned char*>(data) - start() + offset;
        fuzz::require(first >= 0 && first + bytes <= wide(writable_.size()),
                      "a call was made of memory not there");
        std::fill_n(writable_.begin() + static_cast<std::ptrdiff_t>(first),
                    static_cast<std::ptrdiff_t>(bytes), static_cast<unsigned char>(1));
    }
    template <class Call>
    void may_write(const Call& c, const ropewalk_tensor& x, wide channels, std::int32_t dtype) {
        if (x.data == nullptr || channels <= 0 || x.heads <= 0 || c.tokens <= 0) return;
        for (wide b = 0; b < c.batches; ++b)
            for (wide n = 0; n < c.tokens; ++n)
                for (wide h = 0; h < x.heads; ++h)
                    may_write(x.data,
                              (b * x.batch_stride + n * x.token_stride + h * x.head_stride) * bytes_of(dtype),
                              channels * bytes_of(dtype));
    }
    void may_write(const ropewalk_cache& x, const kept_plan& plan, wide page_tokens, wide heads,
                   wide channels, std::int32_t dtype) {
        const wide row = dtype >= ROPEWALK_Q8_0 ? channels / 32 : channels;
        for (const wide slot : plan.slots)
            for (wide h = 0; h < heads && slot >= 0; ++h) {
                const wide page = slot / page_tokens, token = slot % page_tokens;
                may_write(
                    x.data,
                    (page * x.page_stride + token * x.token_stride + h * x.head_stride) * bytes_of(dtype),
                    row * bytes_of(dtype));
                if (x.scales != nullptr)
                    may_write(x.scales,
                              4 * (page * x.scale_page_stride + token * x.scale_token_stride +
                                   h * x.scale_head_stride),
                              4);
            }
    }
    static const unsigned char* start() { return reinterpret_cast<const unsigned char*>(memory.all.data()); }

    /// Explains a call and carries it out where its memory is there; `mark` says what it then may write.
    template <class Call, class Explain, class Mark>
    void carry_out(const Call& c, wide batches, wide tokens, bool there, int (*call)(const Call*),
                   Explain explain, Mark mark) {
        if (!entries_are_there(c.rows, batches, tokens) || !rows_there(c.rows, batches, tokens)) return;
        char words[300];
        const int said = explain(&c, words, sizeof words);
        room text(in_);
        fuzz::require(text.said(explain(&c, text.data(), text.size())) == said,
                      "two explanations of one call");
        fuzz::require((said == ROPEWALK_OK) == (std::strcmp(words, "fits") == 0),
                      "an explanation of another status");
        fuzz::require(memory.is(fresh), "an explanation wrote");
        if (!there) return;
        const int status = call(&c);
        fuzz::require(status == said, "a call that is not as explained");
        if (status != ROPEWALK_OK) return fuzz::require(memory.is(fresh), "a call that was refused wrote");
        if (memory.is(fresh)) return;
        writable_.assign(arena::bytes * arena::pieces, 0);
        mark();
        for (std::size_t i = 0; i < fresh.size(); ++i) {
            if (std::memcmp(&memory.all[i], &fresh[i], sizeof(double)) == 0) continue;
            unsigned char was[8], is[8];
            std::memcpy(was, &fresh[i], 8), std::memcpy(is, &memory.all[i], 8);
            for (std::size_t k = 0; k < 8; ++k)
                fuzz::require(is[k] == was[k] || writable_[8 * i + k] != 0,
                              "a call wrote where it was not sent");
        }
        memory.all = fresh;
    }
    template <class Call>
    static wide head_of(const Call& c) {
        return c.channels == 0 ? 2 * wide(c.rows.pairs) : c.channels;
    }

    void rotate() {
        auto good = ropewalk_new_rotate_call();
        shape(good);
        good.dtype = dtype(4), good.direction = static_cast<std::int32_t>(in_.below(3));
        if (good.dtype != ROPEWALK_F64 && in_.below(3) == 0) good.k_dtype = 1 + dtype(3);
        good.rows = rows(good.batches * good.tokens);
        const auto head = channels(good);
        good.q = tensor(of_q, good.tokens, head);
        if (in_.below(2) == 0) good.k = tensor(of_k, good.tokens, head);
        const auto c = edited(in_, good, in_rotate);
        const auto k_dtype = c.k_dtype == 0 ? c.dtype : c.k_dtype;
        carry_out(c, c.batches, c.tokens,
                  is_there(c, c.q, head_of(c), c.dtype) && is_there(c, c.k, head_of(c), k_dtype),
                  &ropewalk_rotate, &ropewalk_explain_rotate,
                  [&] { may_write(c, c.q, head_of(c), c.dtype), may_write(c, c.k, head_of(c), k_dtype); });
    }
    void rotate_into() {
        auto good = ropewalk_new_into_call();
        shape(good);
        good.from_dtype = dtype(4), good.direction = static_cast<std::int32_t>(in_.below(3));
        if (good.from_dtype != ROPEWALK_F64 && in_.below(2) == 0) good.to_dtype = 1 + dtype(3);
        good.unrotated = static_cast<std::int32_t>(in_.below(2));
        good.rows = rows(good.batches * good.tokens);
        good.from = tensor(of_q, good.tokens, channels(good)), good.to = good.from;
        if (in_.below(4) != 0) good.to.data = memory.at(of_out);
        const auto c = edited(in_, good, in_into);
        const auto to_dtype = c.to_dtype == 0 ? c.from_dtype : c.to_dtype;
        carry_out(c, c.batches, c.tokens,
                  is_there(c, c.from, head_of(c), c.from_dtype) && is_there(c, c.to, head_of(c), to_dtype),
                  &ropewalk_rotate_into, &ropewalk_explain_rotate_into,
                  [&] { may_write(c, c.to, head_of(c), to_dtype); });
    }
    void normalize() {
        auto good = ropewalk_new_normalize_call();
        shape(good);
        good.dtype = dtype(4), good.normalize_all = static_cast<std::int32_t>(in_.below(2));
        good.rows = rows(good.batches * good.tokens);
        const auto head = channels(good);
        good.q = tensor(of_q, good.tokens, head), good.q_norm = norm(good.q.heads);
        if (in_.below(2) == 0) good.k = tensor(of_k, good.tokens, head), good.k_norm = norm(good.k.heads);
        const auto c = edited(in_, good, in_normalize);
        carry_out(c, c.batches, c.tokens,
                  is_there(c, c.q, head_of(c), c.dtype) && is_there(c, c.k, head_of(c), c.dtype) &&
                      is_there(c.q_norm, head_of(c)) && is_there(c.k_norm, head_of(c)),
                  &ropewalk_normalize_and_rotate, &ropewalk_explain_normalize_and_rotate,
                  [&] { may_write(c, c.q, head_of(c), c.dtype), may_write(c, c.k, head_of(c), c.dtype); });
    }

    // ---- caches. A call is that of its plan, made again: nothing else fits.
    std::vector<std::int64_t> slots(std::ptrdiff_t count) {
        std::vector<std::int64_t> all;
        if (in_.below(12) == 0) count = in_.below(9);
        for (std::ptrdiff_t n = 0; n < count; ++n)
            all.push_back(in_.below(24) == 0  ? static_cast<std::int64_t>(any_bits(in_))
                          : in_.below(4) == 0 ? -1
                                              : static_cast<std::int64_t>(all.size()) + in_.below(4));
        return all;
    }
    static bool cache_there(const ropewalk_cache& x, wide pages, wide page_tokens, wide heads, wide channels,
                            std::int32_t dtype) {
        const wide row = dtype >= ROPEWALK_Q8_0 ? (channels + 31) / 32 : channels;
        return (x.data == nullptr ||
                is_there({{pages, x.page_stride}, {page_tokens, x.token_stride}, {heads, x.head_stride}}, row,
                         bytes_of(dtype))) &&
               (x.scales == nullptr || is_there({{pages, x.scale_page_stride},
                                                 {page_tokens, x.scale_token_stride},
                                                 {heads, x.scale_head_stride}},
                                                1, 4));
    }
    template <class Call, class Make>
    void keep(const Call& c, bool there, Make make) {
        kept_plan plan{nullptr, slots(kept_tokens_)};
        made(plan.plan, [&](char* text, std::size_t size) {
            return make(&c, plan.slots.data(), static_cast<std::ptrdiff_t>(plan.slots.size()), &plan.plan,
                        text, size);
        });
        if (!there) {
            ropewalk_free_plan(plan.plan);
            return;
        }
        last_plan_ = in_.byte() % 3;
        auto& to = plans_[last_plan_];
        ropewalk_free_plan(to.plan);
        to = std::move(plan);
    }
    void plan() {
        auto good = ropewalk_new_attention_call();
        shape(good);
        good.dtype = dtype(4);
        constexpr std::int32_t formats[] = {ROPEWALK_F16,     ROPEWALK_BF16, ROPEWALK_INT8, ROPEWALK_F8_E4M3,
                                            ROPEWALK_F8_E5M2, ROPEWALK_Q8_0, ROPEWALK_Q4_0};
        good.cache_dtype = in_.below(3) == 0 ? good.dtype : in_.one_of(formats);
        good.channels = good.cache_dtype >= ROPEWALK_Q8_0 ? 32 : in_.below(40);
        good.pages = 3 - in_.below(4), good.page_tokens = 1 + in_.below(4);
        const auto half = [&](ropewalk_tensor& x, ropewalk_cache& to, int of_source, int of_cache) {
            if (in_.below(5) == 0) return;
            x = tensor(of_source, good.tokens, good.channels);
            to = cache(of_cache, good.cache_dtype, good.page_tokens, x.heads, good.channels);
        };
        half(good.key, good.key_cache, of_k, of_keys), half(good.value, good.value_cache, of_v, of_values);
        if (in_.below(16) == 0) good.value_cache.data = good.key_cache.data;
        const auto c = edited(in_, good, in_attention);
        const wide value_channels = c.value_channels == 0 ? c.channels : c.value_channels;
        const bool there =
            cache_there(c.key_cache, c.pages, c.page_tokens, c.key.heads, c.channels, c.cache_dtype) &&
            cache_there(c.value_cache, c.pages, c.page_tokens, c.value.heads, value_channels, c.cache_dtype);
        const bool few = c.batches >= 0 && c.tokens >= 0 && wide(c.batches) * c.tokens <= 6;
        kept_tokens_ = few ? c.batches * c.tokens : 3;
        keep(c, there, &ropewalk_make_plan);
        if (there && plans_[last_plan_].plan != nullptr) attention_ = c;
    }
    void attend(bool prepare) {
        auto good = attention_;
        const auto& plan = some_plan();
        good.plan = plan.plan;
        good.rows = rows(good.tokens);
        if (in_.below(3) != 0) good.q = tensor(of_q, good.tokens, good.channels), good.q_out = good.q;
        if (in_.below(2) == 0) good.q_out.data = good.q.data == nullptr ? nullptr : memory.at(of_out);
        good.q_norm = norm(good.q.heads), good.k_norm = norm(good.key.heads);
        const auto c = edited(in_, good, in_attention);
        const auto value_channels = c.value_channels == 0 ? c.channels : c.value_channels;
        const bool there =
            is_there(c, c.q, c.channels, c.dtype) && is_there(c, c.q_out, c.channels, c.dtype) &&
            is_there(c, c.key, c.channels, c.dtype) && is_there(c, c.value, value_channels, c.dtype) &&
            is_there(c.q_norm, c.channels) && is_there(c.k_norm, c.channels);
        const auto mark = [&] {
            // Without queries q_out is not read, whatever its extents.
            if (prepare && c.q.data != nullptr) may_write(c, c.q_out, c.channels, c.dtype);
            if (c.key.data != nullptr)
                may_write(c.key_cache, plan, c.page_tokens, c.key.heads, c.channels, c.cache_dtype);
            if (c.value.data != nullptr)
                may_write(c.value_cache, plan, c.page_tokens, c.value.heads, value_channels, c.cache_dtype);
        };
        if (prepare)
            carry_out(c, c.batches, c.tokens, there, &ropewalk_prepare_attention,
                      &ropewalk_explain_prepare_attention, mark);
        else
            carry_out(c, c.batches, c.tokens, there, &ropewalk_append, &ropewalk_explain_append, mark);
    }
    void plan_shift() {
        auto good = ropewalk_new_shift_call();
        good.dtype = dtype(9), good.layout = 1 + static_cast<std::int32_t>(in_.below(3)), good.group = 2;
        good.heads = in_.below(4), good.channels = good.dtype >= ROPEWALK_Q8_0 ? 32 : in_.below(40);
        good.pages = in_.below(3), good.page_tokens = 1 + in_.below(4);
        good.keys = cache(of_keys, good.dtype, good.page_tokens, good.heads, good.channels);
        const auto c = edited(in_, good, in_shift);
        kept_tokens_ = in_.below(5);
        const bool there = cache_there(c.keys, c.pages, c.page_tokens, c.heads, c.channels, c.dtype);
        keep(c, there, &ropewalk_make_shift_plan);
        if (there && plans_[last_plan_].plan != nullptr) shift_ = c;
    }
    void shift() {
        auto good = shift_;
        const auto& plan = some_plan();
        good.plan = plan.plan, good.rows = rows(static_cast<std::ptrdiff_t>(plan.slots.size()));
        if (in_.below(5) == 0) good.parts = 3, good.part = in_.below(3);
        const auto c = edited(in_, good, in_shift);
        carry_out(c, 1, static_cast<wide>(plan.slots.size()), true, &ropewalk_shift_keys,
                  &ropewalk_explain_shift_keys,
                  [&] { may_write(c.keys, plan, c.page_tokens, c.heads, c.channels, c.dtype); });
    }
    void fill_slots() {
        auto good = ropewalk_new_ragged();
        good.requests = in_.below(4), good.page_tokens = 1 + in_.below(4);
        good.pages_per_request = in_.below(4);
        std::vector<std::int64_t> offset = {0}, begin;
        std::vector<std::int32_t> page;
        for (std::ptrdiff_t r = 0; r < 4; ++r) {
            offset.push_back(in_.below(12) == 0
                                 ? static_cast<std::int64_t>(any_bits(in_))
                                 : static_cast<std::int64_t>(wide(offset.back()) + in_.below(4)));
            begin.push_back(in_.below(12) == 0 ? static_cast<std::int64_t>(any_bits(in_)) : in_.below(4));
        }
        for (int i = 0; i < 16; ++i)
            page.push_back(static_cast<std::int32_t>(in_.below(9)) - (i == 7 ? 1 : 0));
        good.offsets = offset.data(), good.starts = begin.data();
        if (in_.below(3) != 0) good.pages = page.data();
        const auto c = edited(in_, good, in_ragged);
        if (c.requests > 4 || (c.pages != nullptr && c.requests > 0 && c.pages_per_request > 4)) return;
        const auto tokens = c.requests >= 0 && in_.below(8) != 0
                                ? offset[static_cast<std::size_t>(c.requests)]
                                : std::int64_t{in_.below(9)};
        if (tokens > 64) return;
        const auto count = static_cast<std::size_t>(std::max<std::int64_t>(0, tokens));
        const auto slot = std::make_unique<std::int64_t[]>(count),
                   position = std::make_unique<std::int64_t[]>(count);
        room text(in_);
        const int status = text.said(ropewalk_fill_slots(&c, in_.below(4) != 0 ? slot.get() : nullptr,
                                                         in_.below(4) != 0 ? position.get() : nullptr, tokens,
                                                         text.data(), text.size()));
        for (std::size_t i = 0; i < count && status != ROPEWALK_OK; ++i)
            fuzz::require(slot[i] == 0 && position[i] == 0, "slots beside a refusal");
    }

    // ---- models
    void read() {
        static const std::string configs[] = {
            R"({"model_type":"llama","hidden_size":64,"num_attention_heads":4,"num_hidden_layers":2,"rope_theta":1e4,)"
            R"("max_position_embeddings":4096,"rope_scaling":{"rope_type":"yarn","factor":4.0,)"
            R"("original_max_position_embeddings":1024}})",
            R"({"model_type":"gemma3_text","head_dim":16,"hidden_size":64,"num_attention_heads":4,)"
            R"("num_hidden_layers":6,"rope_theta":1e6,"rope_local_base_freq":1e4,"sliding_window_pattern":3,)"
            R"("max_position_embeddings":4096})"};
        static const std::string gguf = [] {
            support::gguf_bytes b;
            b.header(1, 6).word("general.architecture", "llama").u32("llama.block_count", 2);
            b.u32("llama.embedding_length", 32).u32("llama.attention.head_count", 4);
            b.u32("llama.context_length", 8192).u32("llama.rope.dimension_count", 8);
            b.tensor("rope_freqs.weight", {4}, 0, 0).pad();
            for (int i = 0; i < 4; ++i) b.number(std::bit_cast<std::uint32_t>(1.5f), 4);
            return std::string(reinterpret_cast<const char*>(b.bytes().data()), b.size());
        }();
        const auto which = in_.below(3);
        std::string bytes = which == 2 ? gguf : configs[which];
        for (std::ptrdiff_t n = in_.below(4); n > 0; --n)
            bytes[static_cast<std::size_t>(in_.below(256)) % bytes.size()] = static_cast<char>(in_.byte());
        if (in_.below(8) == 0) bytes.resize(static_cast<std::size_t>(in_.below(256)));
        const std::vector<char> exact(bytes.begin(), bytes.end());  // a string has a byte behind its end
        auto*& to = models_[in_.byte() % 2];
        ropewalk_free_model(to);
        const int how = static_cast<int>(in_.below(5)) / 2;
        made(to, [&](char* text, std::size_t size) {
            return which == 2 ? ropewalk_read_gguf(exact.data(), exact.size(), how, &to, text, size)
                              : ropewalk_read_config(exact.data(), exact.size(), how, &to, text, size);
        });
    }
    void ask_model() {
        const auto* model = models_[in_.byte() % 2];
        const auto number = in_.below(6) == 0 ? static_cast<std::ptrdiff_t>(any_bits(in_)) : in_.below(3);
        const bool is = number >= 0 && number < ropewalk_layers(model);
        const auto layer = edited(in_, ropewalk_new_layer(), {});
        auto filled = layer;
        room text(in_);
        fuzz::require(ropewalk_get_layer(model, number, &filled) != ROPEWALK_OK || is, "a layer of no model");
        std::size_t needed = 0;
        const int status =
            text.said(ropewalk_describe_layer(model, number, text.data(), text.size(), &needed));
        fuzz::require((status == ROPEWALK_OK) == is && needed > 1, "words of another layer");
        const auto whole = std::make_unique<char[]>(needed);
        ropewalk_describe_layer(model, number, whole.get(), needed, nullptr);
        fuzz::require(std::strlen(whole.get()) + 1 == needed, "the room that is needed is another");
        auto*& to = spectra_[in_.byte() % 3];
        ropewalk_free_spectrum(to);
        const auto length = static_cast<std::int64_t>(any_bits(in_));
        made(to, [&](char* words, std::size_t size) {
            return ropewalk_make_layer_spectrum(model, number, length, &to, words, size);
        });
    }
    /// What asks and changes nothing, and every call without its struct.
    void look() {
        auto info = ropewalk_new_spectrum_info();
        const auto* described = spectrum();
        const auto* of = spectrum();
        fuzz::require((ropewalk_get_spectrum_info(described, &info) == ROPEWALK_OK) == (described != nullptr),
                      "a spectrum without a description");
        const auto count = in_.below(70) - 2;
        const auto frequencies =
            std::make_unique<double[]>(static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, count)));
        fuzz::require(ropewalk_get_frequencies(of, frequencies.get(), count) >= 0 && info.pairs >= 0,
                      "fewer than none");
        room text(in_);
        const auto length = ropewalk_last_misfit(text.data(), text.size());
        fuzz::require(text.size() == 0 || std::strlen(text.data()) == std::min(length, text.size() - 1),
                      "a reason of another length");
        fuzz::require(ropewalk_status_text(static_cast<int>(any_bits(in_))) != nullptr,
                      "a status without words");
        const char* unit = ropewalk_available_unit(in_.below(7) - 1);
        fuzz::require((ropewalk_use_unit(unit) == ROPEWALK_OK) == (unit != nullptr),
                      "a unit that is there is not used");
        for (const int status :
             {ropewalk_rotate(nullptr), ropewalk_rotate_into(nullptr), ropewalk_normalize_and_rotate(nullptr),
              ropewalk_append(nullptr), ropewalk_prepare_attention(nullptr), ropewalk_shift_keys(nullptr),
              ropewalk_explain_rotate(nullptr, text.data(), text.size()),
              ropewalk_make_spectrum(nullptr, nullptr, text.data(), text.size()),
              ropewalk_make_table(nullptr, nullptr, text.data(), text.size()),
              ropewalk_make_plan(nullptr, nullptr, 1, nullptr, text.data(), text.size()),
              ropewalk_fill_slots(nullptr, nullptr, nullptr, 0, text.data(), text.size()),
              ropewalk_read_gguf(nullptr, 1, 0, nullptr, text.data(), text.size()),
              ropewalk_get_layer(nullptr, 0, nullptr)})
            fuzz::require(status == ROPEWALK_BAD_CALL, "a call without its struct was not refused");
    }

    fuzz::input& in_;
    ropewalk_spectrum* spectra_[3] = {};
    ropewalk_table* tables_[2] = {};
    ropewalk_model* models_[2] = {};
    kept_plan plans_[3];
    std::size_t last_plan_ = 0;
    ropewalk_attention_call attention_ = ropewalk_new_attention_call();  // of the last plan
    ropewalk_shift_call shift_ = ropewalk_new_shift_call();
    std::ptrdiff_t kept_tokens_ = 0;
    wide room_of_rows_ = 0;
    std::int32_t stated_ = 0;  // of a table, which is read as twice the bytes where a call says otherwise
    std::vector<unsigned char> writable_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::input in(data, size);
    session calls(in);
    for (int n = 0; n < 12 && !in.ended(); ++n) calls.step();
    return 0;
}
