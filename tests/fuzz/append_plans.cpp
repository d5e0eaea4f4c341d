// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Plans of append on any shapes, strides and slots, and what they let be written. A plan is refused with a text or
// holds the slots as given; the calls it serves write the rows of its tokens and no byte beside them, with the bits
// that every token has by itself in packed memory. What does not fit its plan is refused with nothing written. The
// slots are as given, or those of a ragged batch in pages, against a plain count of them.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/kv/append.hpp>

#include <array>
#include <cstring>
#include <limits>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>

#include "input.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;
__extension__ typedef __int128 wide;

constexpr index most = std::numeric_limits<index>::max();
index any_number(fuzz::input& in) {
    constexpr index extremes[] = {-1,        0,    index{1} << 31, index{1} << 32, index{1} << 55,
                                  most / 16, most, -most - 1};
    return in.below(4) != 0 ? in.below(80) - 16 : in.one_of(extremes);
}

/// What a product of any two numbers is where it has no room: anything.
index times(index a, index b) {
    return static_cast<index>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}

/// Where sources and caches lie: six pieces, each with canaries on both sides.
template <class S, class D>
struct memory {
    static constexpr std::size_t piece = 4096, pieces = 6;
    std::vector<std::uint64_t> words = std::vector<std::uint64_t>(piece * pieces / 8);
    explicit memory(unsigned seed) {
        std::mt19937 engine(seed);
        for (auto& word : words) word = 0x5a5a5a5a5a5a5a5au;
        for (const std::size_t of :
             {std::size_t{0}, std::size_t{1}}) {  // numbers from -1 to 1 where sources are
            S* const numbers = reinterpret_cast<S*>(bytes() + of * piece);
            for (std::size_t i = 0; i < piece / sizeof(S); ++i)
                numbers[i] =
                    S(static_cast<rw::compute_t<S>>(static_cast<int>(engine() % 2049) - 1024) / 1024);
        }
    }
    unsigned char* bytes() { return reinterpret_cast<unsigned char*>(words.data()); }
    /// Somewhere in the middle of a piece.
    template <class T>
    T* at(std::size_t of, index shift) {
        return reinterpret_cast<T*>(bytes() + of * piece + piece / 2) + shift;
    }
    /// Whether elements [offset, offset + count) from p are all inside.
    template <class T>
    bool holds(const T* p, wide offset, wide count) {
        const wide first = reinterpret_cast<const unsigned char*>(p) - bytes() + offset * wide(sizeof(T));
        return first >= 0 && first + count * wide(sizeof(T)) <= wide(piece * pieces);
    }
};

template <class S, class D>
struct plan_test {
    using C = rw::compute_t<S>;
    fuzz::input& in;
    memory<S, D> m;
    rw::append_call<S, D> call = {};
    std::vector<std::int64_t> slots = {};
    rw::layout_slice layout = {};
    index pairs = 0;

    explicit plan_test(fuzz::input& from) : in(from), m(from.byte()) {}

    void strides(index& outer, index& middle, index& inner, index a, index b, index row) {
        inner = static_cast<index>(wide(row) + (in.below(4) == 0 ? in.below(3) : 0));
        middle = times(b, inner), outer = times(a, middle);
        if (in.below(3) == 0) middle = row, inner = times(a, row);  // [outer, inner, middle]
        for (index* s : {&outer, &middle, &inner}) {
            const index change = in.below(24);
            if (change == 1) *s = times(*s, -1);
            if (change == 2) *s = any_number(in);
            if (change == 3) *s = times(*s, 2);
        }
    }
    void half(rw::heads_view<const S>& x, rw::cache_view<D>& cache, rw::cache_view<float>& scales,
              std::size_t of_source, std::size_t of_cache, rw::heads_shape shape, rw::cache_shape pages) {
        if (in.below(5) == 0) return;
        x.shape = shape;
        x.data = m.template at<const S>(of_source, in.below(3));
        strides(x.strides.batch, x.strides.token, x.strides.head, shape.tokens, shape.heads, shape.channels);
        cache.shape = pages;
        cache.data = m.template at<D>(in.below(12) == 0 ? of_source : of_cache, in.below(3));
        strides(cache.strides.page, cache.strides.token, cache.strides.head, pages.page_tokens, pages.heads,
                pages.channels / rw::numbers_in<D>);
        if constexpr (std::is_same_v<D, S>)
            if (in.below(8) == 0)  // keys projected straight into their slots
                cache.data = const_cast<S*>(x.data),
                cache.strides = {x.strides.batch, x.strides.token, x.strides.head};
        if constexpr (std::is_same_v<D, std::int8_t>) {
            scales.shape = pages, scales.shape.channels = 1;
            scales.data = m.template at<float>(of_cache + 2, in.below(3));
            strides(scales.strides.page, scales.strides.token, scales.strides.head, pages.page_tokens,
                    pages.heads, 1);
        }
    }
    void make_call() {
        const index sizes[] = {1, 2, 3, 8, 17, 32, 33, 64};
        rw::heads_shape shape{
            1 + in.below(2), in.below(4), 1 + in.below(3),
            rw::is_block<D> && in.below(8) != 0 ? 32 * (1 + in.below(2)) : in.one_of(sizes)};
        rw::cache_shape pages{1 + in.below(4), 1 + in.below(4), shape.heads, shape.channels};
        switch (in.below(16)) {
            case 1: pages.pages = any_number(in); break;
            case 2: pages.page_tokens = any_number(in); break;
            case 3: pages.heads = any_number(in); break;
            case 4: pages.channels = any_number(in); break;
            case 5: shape.batches = any_number(in); break;
            case 6: shape.tokens = any_number(in); break;
            case 7: shape.heads = pages.heads = any_number(in); break;
            case 8: shape.channels = pages.channels = any_number(in); break;
            default: break;
        }
        half(call.key, call.key_cache, call.key_scales, 0, 2, shape, pages);
        if (in.below(4) == 0) shape.channels = pages.channels = rw::numbers_in<D> * (1 + in.below(3));
        half(call.value, call.value_cache, call.value_scales, 1, 3, shape, pages);
        const float scales[] = {1, 0.01f, 3, 0, -1, std::numeric_limits<float>::infinity(), 1e-42f};
        if (in.below(3) == 0) call.key_scale = in.one_of(scales), call.value_scale = in.one_of(scales);
        const index count = in.below(8) != 0 && shape.batches >= 0 && shape.batches <= 2 &&
                                    shape.tokens >= 0 && shape.tokens <= 4
                                ? shape.batches * shape.tokens
                                : in.below(9);
        for (index n = 0; n < count; ++n)
            slots.push_back(in.below(40) == 0 ? any_number(in) : in.below(5) == 0 ? -1 : in.below(16));
        pairs = shape.channels > 0 && shape.channels <= 64
                    ? in.below(static_cast<int>(shape.channels) / 2 + 1)
                    : 1;
        const rw::pair_layout layouts[] = {rw::half_split{}, rw::interleaved{},
                                           rw::pair_layout::blocked_by(2), rw::pair_layout::blocked_by(8)};
        layout.read = in.one_of(layouts);
        layout.write = in.below(3) == 0 ? in.one_of(layouts) : layout.read;
        layout.first_channel = in.below(4) == 0 ? in.below(9) : 0;
    }

    bool source_is_there(const rw::heads_view<const S>& x) {
        wide low = 0, high = x.channels();
        const std::array<std::pair<index, index>, 3> steps = {
            {{x.strides.batch, x.batches()}, {x.strides.token, x.tokens()}, {x.strides.head, x.heads()}}};
        for (const auto& [stride, count] : steps) (stride < 0 ? low : high) += (wide(count) - 1) * stride;
        return x.empty() || m.holds(x.data, low, high - low);
    }
    template <class T>
    bool cache_is_there(const rw::cache_view<T>& x, const rw::cache_plan& plan) {
        for (index n = 0; n < plan.tokens(); ++n)
            for (index h = 0; h < x.shape.heads && plan.place(n).page >= 0; ++h)
                if (!m.holds(x.data,
                             wide(plan.place(n).page) * x.strides.page +
                                 wide(plan.place(n).token) * x.strides.token + wide(h) * x.strides.head,
                             x.shape.channels / rw::numbers_in<T>))
                    return false;
        return true;
    }

    /// The half of a call that one token is, in packed memory of its own.
    struct packed {
        std::vector<S> from;
        std::vector<D> to;
        std::vector<float> scales;
        packed(const rw::heads_view<const S>& x, index token) {
            if (x.empty()) return;
            to.resize(static_cast<std::size_t>(x.heads() * x.channels() / rw::numbers_in<D>));
            scales.resize(static_cast<std::size_t>(x.heads()));
            for (index h = 0; h < x.heads(); ++h) {
                const S* row = x.at(token / x.tokens(), token % x.tokens(), h);
                from.insert(from.end(), row, row + x.channels());
            }
        }
        void use(rw::heads_view<const S>& x, rw::cache_view<D>& cache, rw::cache_view<float>& scales_view) {
            x = rw::heads_view<const S>(from.data(), 1, x.heads(), x.channels());
            cache = rw::cache_view<D>::nhd(to.data(), {1, 1, x.heads(), x.channels()});
            if constexpr (std::is_same_v<D, std::int8_t>)
                scales_view = rw::cache_view<float>::nhd(scales.data(), {1, 1, x.heads(), 1});
        }
        /// Copies the rows to where the cache has them.
        void put(std::vector<std::uint64_t>& expected, const std::vector<std::uint64_t>& now,
                 const rw::cache_view<D>& cache, const rw::cache_view<float>& scales_view,
                 rw::cache_place place) {
            const auto offset = [&](const void* p) {
                return static_cast<const unsigned char*>(p) -
                       reinterpret_cast<const unsigned char*>(now.data());
            };
            auto* const bytes = reinterpret_cast<unsigned char*>(expected.data());
            const index row = cache.shape.channels / rw::numbers_in<D>;
            for (index h = 0; h < cache.shape.heads; ++h) {
                std::memcpy(bytes + offset(cache.at(place.page, place.token, h)), to.data() + h * row,
                            static_cast<std::size_t>(row) * sizeof(D));
                if constexpr (std::is_same_v<D, std::int8_t>)
                    std::memcpy(bytes + offset(scales_view.at(place.page, place.token, h)), scales.data() + h,
                                sizeof(float));
            }
        }
    };

    void run() {
        make_call();
        rw::cache_plan plan;
        try {
            plan = rw::make_append_plan(call, slots);
        } catch (const rw::invalid_config& error) {
            return fuzz::require(*error.what() != '\0', "a refusal without a text");
        }
        fuzz::require(plan.tokens() == static_cast<index>(slots.size()), "a plan of other tokens than slots");
        for (index n = 0; n < plan.tokens(); ++n) {
            const auto slot = slots[static_cast<std::size_t>(n)];
            const auto place = plan.place(n);
            fuzz::require(
                slot < 0 ? place.page < 0
                         : place.page * plan.page_tokens() + place.token == slot && place.page < plan.pages(),
                "a plan with another place than the slot");
        }
        if (plan.tokens() == 0 || !source_is_there(call.key) || !source_is_there(call.value)) return;
        if (!call.key.empty() &&
            (!cache_is_there(call.key_cache, plan) || !cache_is_there(call.key_scales, plan)))
            return;
        if (!call.value.empty() &&
            (!cache_is_there(call.value_cache, plan) || !cache_is_there(call.value_scales, plan)))
            return;

        const index table_heads = in.below(4) == 0 && !call.key.empty() ? call.key.heads() : 1;
        rw::rotation_table<C> table(4, table_heads, pairs, 1.1);
        for (index r = 0; r < 4; ++r)
            for (index h = 0; h < table_heads; ++h)
                for (index i = 0; i < pairs; ++i) {
                    const C angle = static_cast<C>(r * 7 + h * 3 + i);
                    table.cos_data(r, h)[i] = std::cos(angle), table.sin_data(r, h)[i] = std::sin(angle);
                }
        std::vector<std::int32_t> row_of(static_cast<std::size_t>(plan.tokens()));
        for (auto& row : row_of) row = in.below(6) == 0 ? -1 : static_cast<std::int32_t>(in.below(4));
        const auto before = m.words;
        auto expected = before;
        const bool fits = rw::append(layout, call, plan, table.rows(row_of), {8, 7});
        m.words = before;
        for (index n = 0; n < plan.tokens() && fits; ++n) {
            const std::int32_t row[] = {row_of[static_cast<std::size_t>(n)]};
            if (plan.place(n).page < 0 || row[0] < 0) continue;
            auto alone = call;
            packed key(call.key, n), value(call.value, n);
            if (!call.key.empty()) key.use(alone.key, alone.key_cache, alone.key_scales);
            if (!call.value.empty()) value.use(alone.value, alone.value_cache, alone.value_scales);
            const auto first = rw::make_append_plan(alone, std::array{0});
            fuzz::require(rw::append(layout, alone, first, table.rows(std::span(row))),
                          "a token does not fit that fits among others");
            if (!call.key.empty()) key.put(expected, m.words, call.key_cache, call.key_scales, plan.place(n));
            if (!call.value.empty())
                value.put(expected, m.words, call.value_cache, call.value_scales, plan.place(n));
        }
        const index parts = 1 + in.below(5);
        for (index part = 0; part < parts; ++part)
            fuzz::require(rw::append(layout, call, plan, table.rows(row_of), {parts, part}) == fits,
                          "parts of one call do not agree on whether it fits");
        fuzz::require(m.words == expected, "append did not write the rows of its tokens, or more than those");
        refuse(plan, table.rows(row_of));
    }
    /// Calls that cannot be the plan's.
    void refuse(const rw::cache_plan& plan, const rw::rows_view<C>& rows) {
        const auto before = m.words;
        auto wrong = call;
        const bool keys = !call.key.empty() && (call.value.empty() || in.below(2) == 0);
        if (keys ? call.key.empty() : call.value.empty()) return;
        auto& x = keys ? wrong.key : wrong.value;
        auto& cache = keys ? wrong.key_cache : wrong.value_cache;
        rw::part_of part;
        switch (in.below(8)) {
            case 0: ++x.shape.tokens; break;
            case 1: ++x.shape.heads; break;
            case 2: ++x.shape.channels; break;
            case 3: ++cache.shape.heads; break;
            case 4: ++cache.shape.page_tokens; break;
            case 5: --cache.shape.pages; break;
            case 6: cache.data = nullptr; break;
            default: part = {2, 2}; break;
        }
        fuzz::require(!rw::append(layout, wrong, plan, rows, part),
                      "a call that is not its plan's was carried out");
        fuzz::require(m.words == before, "a call that was refused wrote");
    }
};

template <class S, class D>
void test_plan(fuzz::input& in) {
    plan_test<S, D>(in).run();
}

/// The slots of a ragged batch, of types I and P, against a plain count of them.
template <class I, class P>
void test_slots(fuzz::input& in) {
    const auto number = [&](auto zero) {
        using N = decltype(zero);
        return in.below(8) == 0 ? static_cast<N>(any_number(in)) : static_cast<N>(in.below(9));
    };
    const index requests = in.below(4), columns = in.below(12) == 0 ? any_number(in) : in.below(5);
    const index page_tokens = in.below(12) == 0 ? any_number(in) : 1 + in.below(4);
    std::vector<I> offsets = {0}, starts;
    for (index r = 0; r < requests; ++r) {
        offsets.push_back(in.below(20) == 0 ? number(I{})
                                            : static_cast<I>(wide(offsets.back()) + in.below(4)));
        starts.push_back(number(I{}));
    }
    // What a batch claims is made: a million tokens are enough to see that.
    if (offsets.back() > I{1000}) return;
    std::vector<P> pages;
    for (index i = 0; i < requests * 4; ++i) pages.push_back(number(P{}));
    if (columns >= 0 && columns <= 4) pages.resize(static_cast<std::size_t>(requests * columns));
    std::vector<std::int64_t> slots, positions;
    const rw::ragged_batch batch{offsets, starts};
    try {
        positions = rw::make_positions(batch);
        slots = rw::make_slots(batch, rw::block_table{pages, columns, page_tokens});
    } catch (const rw::invalid_config& error) {
        return fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    std::size_t at = 0;
    for (std::size_t r = 0; r < starts.size(); ++r)
        for (I n = offsets[r]; n < offsets[r + 1]; ++n, ++at) {
            const wide position = wide(starts[r]) + (n - offsets[r]);
            const wide page = pages[r * static_cast<std::size_t>(columns) +
                                    static_cast<std::size_t>(position / page_tokens)];
            fuzz::require(
                positions[at] == position && wide(slots[at]) == page * page_tokens + position % page_tokens,
                "a slot is not where its page says");
        }
    fuzz::require(at == slots.size() && at == positions.size(),
                  "a ragged batch has other tokens than its slots");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using rw::f16, rw::bf16;
    constexpr void (*tests[])(fuzz::input&) = {&test_plan<double, double>,
                                               &test_plan<float, float>,
                                               &test_plan<float, f16>,
                                               &test_plan<bf16, bf16>,
                                               &test_plan<float, std::int8_t>,
                                               &test_plan<bf16, rw::f8_e4m3>,
                                               &test_plan<f16, rw::f8_e5m2>,
                                               &test_plan<float, rw::q8_0>,
                                               &test_plan<f16, rw::q4_0>,
                                               &test_slots<std::int32_t, std::int32_t>,
                                               &test_slots<std::int64_t, std::uint32_t>,
                                               &test_slots<std::uint64_t, std::int64_t>};
    fuzz::input in(data, size);
    in.one_of(tests)(in);
    return 0;
}
