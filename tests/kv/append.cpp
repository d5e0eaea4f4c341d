// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/append.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

#include "support/cache_buffer.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::cache_buffer;
using support::cache_order;
using support::heads_buffer;

namespace {

using longs = std::vector<std::int64_t>;

template <class C>
rw::rotation_table<C> table_of(rw::index pairs, rw::index tokens) {
    std::vector<double> positions;
    for (rw::index n = 0; n < tokens; ++n) positions.push_back(static_cast<double>(n * 1301 + 5));
    return rw::make_rotation_table<C>(
        rw::frequencies::geometric({.rotary_dim = 2 * pairs}).with_magnitude(1.1),
        rw::position_ids::from(positions));
}

/// Slots in no order, one of them skipped.
longs scattered(rw::index tokens, rw::index slots) {
    longs out;
    for (rw::index n = 0; n < tokens; ++n) out.push_back((n * 7 + 3) % slots);
    if (tokens > 2) out[1] = -1;
    return out;
}

/// rotate and then copy, the composition that append replaces: the rows of every token, in order.
template <class D, class S>
std::vector<D> rotated_then_converted(heads_buffer<S> k, rw::pair_layout layout, rw::index first,
                                      rw::rows_view<rw::compute_t<S>> rows) {
    const auto view = k.view();
    std::vector<D> out;
    if constexpr (std::is_same_v<S, D>) {
        rw::rotate(layout, view.channel_slice(first, 2 * rows.pairs), rows);
        out = k.dense();
    } else {
        heads_buffer<D> to(view.shape);
        to.each(
            [at = std::size_t(0), from = k.dense()](D& x) mutable { x = D(static_cast<float>(from[at++])); });
        rw::rotate_into(layout, view.channel_slice(first, 2 * rows.pairs),
                        to.view().channel_slice(first, 2 * rows.pairs), rows);
        out = to.dense();
    }
    return out;
}

template <class S, class D>
void check_pair() {
    using C = rw::compute_t<S>;
    constexpr rw::index n = rw::simd::lanes<C>;
    const cache_order orders[] = {cache_order::nhd, cache_order::hnd, cache_order::packed};
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                                   rw::pair_layout::blocked_by(2)})
        for (rw::index pairs : {rw::index(1), n / 2 + 1, n - 1, n, n + 1, 3 * n + 1, rw::index(64)})
            for (rw::index tokens : {1, 2, 7})
                for (const auto& [extra, first] : {std::pair(0, 0), std::pair(5, 2)})
                    for (const cache_order order : orders) {
                        const rw::index heads = tokens == 7 ? 3 : 8, channels = 2 * pairs + extra;
                        heads_buffer<S> k({1, tokens, heads, channels}, 1, 1),
                            v({1, tokens, heads, channels}, 3);
                        k.fill(1), v.fill(2);
                        cache_buffer<D> cache({5, 4, heads, channels}, order);
                        const auto table = table_of<C>(pairs, tokens);
                        const auto slots = scattered(tokens, 20);
                        const rw::append_call<S, D> call{.key = k.view(),
                                                         .value = v.view(),
                                                         .key_cache = cache.keys(),
                                                         .value_cache = cache.values()};
                        const auto plan = rw::make_append_plan(call, slots);
                        rw::append(rw::layout_slice{.read = layout, .first_channel = first}, call, plan,
                                   table);
                        INFO("pairs " << pairs << " tokens " << tokens << " extra " << extra);
                        const auto want_k = rotated_then_converted<D>(k, layout, first, table.rows());
                        std::vector<D> want_v;
                        for (const S& x : v.dense()) want_v.push_back(D(static_cast<rw::compute_t<S>>(x)));
                        CHECK(cache.holds(cache.keys(), plan, want_k));
                        CHECK(cache.holds(cache.values(), plan, want_v));
                        CHECK(cache.nothing_else_written(plan));
                    }
}

}  // namespace

TEST_CASE("append: same dtype is rotate and copy, bit for bit, in every cache order", "[kv][append][fused]") {
    check_pair<double, double>();
    check_pair<float, float>();
    check_pair<rw::f16, rw::f16>();
    check_pair<rw::bf16, rw::bf16>();
}
TEST_CASE("append: f32 to 16 bits has the bits of rotate_into", "[kv][append][fused]") {
    check_pair<float, rw::f16>();
    check_pair<float, rw::bf16>();
}

TEMPLATE_TEST_CASE("append: f8 is the rotated number times 1 / scale, rounded exactly", "[kv][append][f8]",
                   rw::f8_e4m3, rw::f8_e5m2) {
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
        for (rw::index pairs : {1, 7, 20, 64})
            for (const float scale : {0.05f, 0.001f}) {  // the second saturates
                heads_buffer<float> k({1, 5, 3, 2 * pairs + 3}), v({1, 5, 3, 2 * pairs + 3}, 1, 1);
                k.fill(1), v.fill(2);
                cache_buffer<TestType> cache({5, 4, 3, 2 * pairs + 3}, cache_order::hnd);
                const auto table = table_of<float>(pairs, 5);
                const rw::append_call<float, TestType> call{.key = k.view(),
                                                            .value = v.view(),
                                                            .key_cache = cache.keys(),
                                                            .value_cache = cache.values(),
                                                            .key_scale = scale,
                                                            .value_scale = 2 * scale};
                const auto plan = rw::make_append_plan(call, scattered(5, 20));
                rw::append(layout, call, plan, table);
                std::vector<TestType> want_k, want_v;
                for (float x : rotated_then_converted<float>(k, layout, 0, table.rows()))
                    want_k.push_back(TestType(x * (1 / scale)));
                for (float x : v.dense()) want_v.push_back(TestType(x * (1 / (2 * scale))));
                CHECK(cache.holds(cache.keys(), plan, want_k));
                CHECK(cache.holds(cache.values(), plan, want_v));
                CHECK(cache.nothing_else_written(plan));
            }
}

TEMPLATE_TEST_CASE("append: int8 has a scale a token and head", "[kv][append][int8]", float, rw::bf16) {
    for (rw::index pairs : {1, 7, 20, 64, 512}) {
        heads_buffer<TestType> k({1, 5, 3, 2 * pairs}), v({1, 5, 3, 2 * pairs}, 1, 1);
        k.fill(1), v.fill(2);
        for (int c = 0; c < 2; ++c)
            v.view().at(0, 3, 1)[c] = TestType(std::numeric_limits<float>::infinity());
        for (rw::index c = 0; c < 2 * pairs; ++c) v.view().at(0, 4, 2)[c] = TestType(0.0f);
        cache_buffer<std::int8_t> cache({5, 4, 3, 2 * pairs}, cache_order::nhd);
        cache_buffer<float> scales({5, 4, 3, 1}, cache_order::nhd);
        const auto table = table_of<float>(pairs, 5);
        const rw::append_call<TestType, std::int8_t> call{.key = k.view(),
                                                          .value = v.view(),
                                                          .key_cache = cache.keys(),
                                                          .value_cache = cache.values(),
                                                          .key_scales = scales.keys(),
                                                          .value_scales = scales.values()};
        const auto plan = rw::make_append_plan(call, scattered(5, 20));
        rw::append(rw::half_split{}, call, plan, table);
        // The rotated numbers in f32, and what the codes give back.
        heads_buffer<float> wide({1, 5, 3, 2 * pairs});
        wide.each([at = std::size_t(0), from = k.dense()](float& x) mutable {
            x = static_cast<float>(from[at++]);
        });
        const auto rotated = rotated_then_converted<float>(wide, rw::half_split{}, 0, table.rows());
        const auto value = v.numbers();
        for (rw::index token = 0; token < 5; ++token)
            for (rw::index h = 0; h < 3; ++h) {
                const auto place = plan.place(token);
                if (place.page < 0) continue;
                const auto first = static_cast<std::size_t>((token * 3 + h) * 2 * pairs);
                float largest = 0;
                for (rw::index c = 0; c < 2 * pairs; ++c)
                    largest = std::max(largest, std::abs(rotated[first + std::size_t(c)]));
                const float scale = *scales.keys().at(place.page, place.token, h);
                CHECK(scale == largest / 127);
                double worst = 0;
                for (rw::index c = 0; c < 2 * pairs; ++c) {
                    const int code = cache.keys().at(place.page, place.token, h)[c];
                    worst = std::max(
                        worst, std::abs(code * double(scale) - double(rotated[first + std::size_t(c)])));
                    CHECK(code == int(std::nearbyint(rotated[first + std::size_t(c)] * (127 / largest))));
                }
                CHECK(worst <= 0.50002 * double(scale));
                const float vs = *scales.values().at(place.page, place.token, h);
                if (token == 3 && h == 1) {
                    CHECK(std::bit_cast<std::uint32_t>(vs) == 0x7fc00000u);
                } else if (token == 4 && h == 2) {
                    CHECK(vs == 0);
                } else {
                    for (rw::index c = 0; c < 2 * pairs; ++c)
                        CHECK(std::abs(cache.values().at(place.page, place.token, h)[c] * double(vs) -
                                       value[first + std::size_t(c)]) <= 0.50002 * double(vs));
                }
            }
        CHECK(cache.nothing_else_written(plan));
        CHECK(scales.nothing_else_written(plan));
    }
}

TEST_CASE("append: keys projected straight into their slots are turned where they are", "[kv][append]") {
    cache_buffer<float> cache({1, 8, 2, 32}, cache_order::packed), other({1, 8, 2, 32}, cache_order::nhd);
    auto keys = cache.keys();
    std::vector<double> numbers;
    for (int n = 0; n < 3; ++n)
        for (int h = 0; h < 2; ++h)
            for (int c = 0; c < 32; ++c) keys.at(0, n + 4, h)[c] = static_cast<float>(n + h - 0.1 * c);
    const rw::heads_view<float> here(keys.at(0, 4, 0), {1, 3, 2, 32},
                                     {0, keys.strides.token, keys.strides.head});
    heads_buffer<float> copy({1, 3, 2, 32});
    for (int n = 0; n < 3; ++n)
        for (int h = 0; h < 2; ++h) std::copy_n(here.at(0, n, h), 32, copy.view().at(0, n, h));
    const auto table = table_of<float>(16, 3);
    const rw::append_call<float> in_place{.key = here, .key_cache = keys};
    const auto plan = rw::make_append_plan(in_place, longs{4, 5, 6});
    rw::append(rw::half_split{}, in_place, plan, table);
    const rw::append_call<float> apart{.key = copy.view(), .key_cache = other.keys()};
    rw::append(rw::half_split{}, apart, plan, table);
    for (int n = 4; n < 7; ++n)
        for (int h = 0; h < 2; ++h)
            CHECK(std::equal(keys.at(0, n, h), keys.at(0, n, h) + 32, other.keys().at(0, n, h)));
}

TEST_CASE("append: a ragged batch in one call equals its requests one by one", "[kv][append][ragged]") {
    const std::vector<int> offsets{0, 3, 4, 9}, starts{2, 0, 6}, pages{3, 0, 1, -1, 2, 4};
    const rw::ragged_batch batch{offsets, starts};
    const auto slots = rw::make_slots(batch, rw::block_table<int>{pages, 2, 8});
    const auto positions = rw::make_positions(batch);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 32}), rw::position_ids::text(16));
    heads_buffer<rw::bf16> k({1, 9, 2, 32});
    k.fill(3);
    cache_buffer<rw::bf16> together({5, 8, 2, 32}, cache_order::hnd), apart({5, 8, 2, 32}, cache_order::hnd);
    const rw::append_call<rw::bf16> call{.key = k.view(), .key_cache = together.keys()};
    rw::append(rw::half_split{}, call, rw::make_append_plan(call, slots), table.rows(positions));
    for (std::size_t r = 0; r < 3; ++r) {
        const auto first = std::size_t(offsets[r]), count = std::size_t(offsets[r + 1]) - first;
        const longs own(slots.begin() + offsets[r], slots.begin() + offsets[r + 1]);
        const longs at(positions.begin() + offsets[r], positions.begin() + offsets[r + 1]);
        const rw::append_call<rw::bf16> one{.key = k.view().token_slice(rw::index(first), rw::index(count)),
                                            .key_cache = apart.keys()};
        rw::append(rw::half_split{}, one, rw::make_append_plan(one, own), table.rows(at));
    }
    CHECK(together.same_memory(apart));
}

TEST_CASE("append: any split over threads, and one tensor at a time, give the same cache", "[kv][append]") {
    const auto table = table_of<float>(20, 3);
    heads_buffer<float> k({1, 3, 5, 40}), v({1, 3, 5, 40});
    k.fill(1), v.fill(2);
    cache_buffer<rw::f16> whole({2, 4, 5, 40}, cache_order::packed),
        split({2, 4, 5, 40}, cache_order::packed), one({2, 4, 5, 40}, cache_order::packed);
    const auto call = [&](cache_buffer<rw::f16>& to) {
        return rw::append_call<float, rw::f16>{
            .key = k.view(), .value = v.view(), .key_cache = to.keys(), .value_cache = to.values()};
    };
    const auto plan = rw::make_append_plan(call(whole), longs{1, 7, 0});
    rw::append(rw::half_split{}, call(whole), plan, table);
    for (rw::index part = 0; part < 8; ++part)
        rw::append(rw::half_split{}, call(split), plan, table, {8, part});
    rw::append(rw::half_split{}, rw::append_call<float, rw::f16>{.key = k.view(), .key_cache = one.keys()},
               plan, table);
    rw::append(rw::half_split{},
               rw::append_call<float, rw::f16>{.value = v.view(), .value_cache = one.values()}, plan, table);
    CHECK(whole.same_memory(split));
    CHECK(whole.same_memory(one));
}

TEST_CASE("append: rows without pairs copy the keys, untouched rows write nothing", "[kv][append]") {
    heads_buffer<float> k({1, 3, 2, 16});
    k.fill(1);
    cache_buffer<float> cache({1, 4, 2, 16}, cache_order::nhd);
    const rw::append_call<float> call{.key = k.view(), .key_cache = cache.keys()};
    const auto plan = rw::make_append_plan(call, longs{0, 1, 2});
    const rw::rotation_table<float> no_pairs(3, 1, 0);
    const std::vector<int> rows{0, -1, 2};
    rw::append(rw::half_split{}, call, plan, no_pairs.rows(rows));
    const rw::cache_plan written(longs{0, -1, 2}, 1, 4);
    CHECK(cache.holds(cache.keys(), written, k.dense()));
    CHECK(cache.nothing_else_written(written));
}

TEST_CASE("make_append_plan: bad input is refused when the plan is made", "[kv][append][errors]") {
    heads_buffer<float> k({1, 3, 2, 16}), v({1, 3, 2, 16});
    cache_buffer<float> cache({2, 4, 2, 16}, cache_order::nhd);
    rw::append_call<float> good{
        .key = k.view(), .value = v.view(), .key_cache = cache.keys(), .value_cache = cache.values()};
    const auto refusal = [](const auto& call, longs slots = {0, 1, 2}) {
        return support::refusal([&] { static_cast<void>(rw::make_append_plan(call, slots)); });
    };
    CHECK(refusal(good) == "");
    CHECK(refusal(good, {0, 1, 8}) == "cache_plan: slots must be below pages * page_tokens, got 8");
    CHECK(refusal(good, {0, 1, 1}) == "cache_plan: slots must differ, got 1");
    CHECK(refusal(good, {0, 1}) == "make_append_plan: key: slots must be batches * tokens: wanted 3, got 2");
    CHECK(refusal(good, {0, 1, 2, 3}) ==
          "make_append_plan: key: slots must be batches * tokens: wanted 3, got 4");
    auto bad = good;
    bad.key.strides.head = 15;
    CHECK(refusal(bad) ==
          "make_append_plan: key: source: the head stride must step over what a head holds: wanted 16, got "
          "15");
    bad = good, bad.key_cache.strides.token = 31;
    CHECK(refusal(bad) ==
          "make_append_plan: key: cache: the token stride must step over what a token holds: wanted 32, got "
          "31");
    bad = good, bad.key_cache.shape.channels = 15;
    CHECK(refusal(bad) ==
          "make_append_plan: key: cache must have the channels written to it: wanted 16, got 15");
    bad = good, bad.value_cache.shape.heads = 3;
    CHECK(refusal(bad) ==
          "make_append_plan: value: cache must have the heads of the source: wanted 2, got 3");
    bad = good, bad.value_cache.shape.page_tokens = 3;
    CHECK(refusal(bad) == "make_append_plan: value: every cache must have the pages of the plan, got 2");
    // Heads that no memory holds, in their slots: they are not listed.
    auto endless = good;
    endless.value = {}, endless.value_cache = {};
    endless.key =
        rw::heads_view<const float>(cache.keys().at(0, 0, 0), endless.key.shape, endless.key.strides);
    endless.key.shape.heads = endless.key_cache.shape.heads = rw::index{1} << 24;
    endless.key.strides = {.token = endless.key.shape.heads * 16, .head = 16};
    endless.key_cache.strides = {.token = endless.key.strides.token, .head = 16};
    endless.key_cache.strides.page = 1000 * endless.key.strides.token;
    CHECK(refusal(endless) ==
          "make_append_plan: tokens * heads must be at most 2^24 where views overlap, heads, got 16777216");
    // Half a head beyond its own slot, and values where another token's keys go.
    bad = good,
    bad.key = rw::heads_view<const float>(cache.keys().at(0, 0, 0) + 8, {1, 3, 2, 16}, {0, 32, 16});
    CHECK(refusal(bad) ==
          "make_append_plan: source must be the destination itself or not overlap it, token * heads + head, "
          "got 0");
    bad = good, bad.value = rw::heads_view<const float>(cache.keys().at(0, 0, 0), {1, 3, 2, 16}, {0, 32, 16});
    CHECK(refusal(bad) ==
          "make_append_plan: source must be the destination itself or not overlap it, token * heads + head, "
          "got 6");
    bad = good, bad.value_cache = bad.key_cache;
    const std::string shared =
        "make_append_plan: what is written must be apart: keys, values and scales, token * heads + head, "
        "got ";
    CHECK(refusal(bad) == shared + "0");
    // A few channels or a slot further the same bytes are met.
    bad.value_cache.data += 8;
    CHECK(refusal(bad) == shared + "0");
    bad.value_cache.data = bad.key_cache.data + bad.key_cache.strides.token;
    CHECK(refusal(bad) == shared + "2");

    std::vector<rw::f8_e4m3> bytes(256);
    rw::append_call<float, rw::f8_e4m3> f8{
        .key = k.view(), .key_cache = rw::cache_view<rw::f8_e4m3>::nhd(bytes.data(), {2, 4, 2, 16})};
    CHECK(refusal(f8) == "");
    for (const auto& [scale, text] :
         {std::pair(0.0f, "0"), std::pair(-1.0f, "-1"), std::pair(std::nanf(""), "nan")}) {
        f8.key_scale = scale;
        CHECK(refusal(f8) == std::string("make_append_plan: key: scale must be finite and > 0, got ") + text);
    }
    std::vector<std::int8_t> codes(256);
    rw::append_call<float, std::int8_t> int8{
        .key = k.view(), .key_cache = rw::cache_view<std::int8_t>::nhd(codes.data(), {2, 4, 2, 16})};
    CHECK(refusal(int8) == "make_append_plan: key: scales must be given for an int8 cache, got none");
    std::vector<float> scales(64);
    int8.key_scales = rw::cache_view<float>::nhd(scales.data(), {2, 4, 2, 16});
    CHECK(refusal(int8) == "make_append_plan: key: scales must have 1 channel, got 16");
    int8.key_scales = rw::cache_view<float>::nhd(scales.data(), {1, 4, 2, 1});
    CHECK(refusal(int8) == "make_append_plan: key: scales must have the pages of the plan, got 1");
    int8.key_scales = rw::cache_view<float>::nhd(scales.data(), {2, 4, 3, 1});
    CHECK(refusal(int8) ==
          "make_append_plan: key: scales must have the heads of the source: wanted 2, got 3");
    rw::append_call<float, std::int8_t> int8_values{
        .value = v.view(), .value_cache = rw::cache_view<std::int8_t>::nhd(codes.data(), {2, 4, 2, 16})};
    CHECK(refusal(int8_values) ==
          "make_append_plan: value: scales must be given for an int8 cache, got none");
    int8.key_scales = rw::cache_view<float>::nhd(scales.data(), {2, 4, 2, 1});
    CHECK(refusal(int8) == "");
    int8.key_scales.data = reinterpret_cast<float*>(codes.data() + 16);
    CHECK(refusal(int8) == shared + "1");
    // A rank that has no tokens makes an empty plan, whose call does nothing.
    CHECK(refusal(rw::append_call<float>{}, {}) == "");
    CHECK(rw::make_append_plan(rw::append_call<float>{}, longs{}).tokens() == 0);
    // Strides and extents whose products no memory has.
    bad = good, bad.key_cache.strides.page = std::numeric_limits<rw::index>::max();
    CHECK(refusal(bad) ==
          "make_append_plan: key: cache: extents times strides must fit the address space, extent: wanted 1, "
          "got " +
              std::to_string(bad.key_cache.shape.pages));
}

TEST_CASE("append: where the first head alone stands in its slot, the others are copied", "[kv][append]") {
    constexpr rw::index heads = 3, channels = 4;
    for (const bool keys : {true, false}) {
        std::vector<float> memory(64);
        for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<float>(i);
        const auto before = memory;
        // The heads of the source run backwards from where the slot begins.
        const rw::heads_view<const float> x(memory.data() + 24, {1, 1, heads, channels}, {0, 0, -channels});
        const auto slot = rw::cache_view<float>::nhd(memory.data() + 24, {1, 1, heads, channels});
        rw::append_call<float> call;
        (keys ? call.key : call.value) = x;
        (keys ? call.key_cache : call.value_cache) = slot;
        const auto plan = rw::make_append_plan(call, std::vector<int>{0});
        CHECK(rw::append(rw::half_split{}, call, plan, rw::copy_rows<float>(1)));
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < channels; ++c)
                CHECK(slot.at(0, 0, h)[c] == before[static_cast<std::size_t>(24 - h * channels + c)]);
    }
}
