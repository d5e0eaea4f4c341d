// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A program of its own whose allocations can be made to fail, each in turn: a cold call then throws
// std::bad_alloc, what it was called on is as it was, and the same call works afterwards.
#if defined(__cpp_exceptions)  // without them an allocation that fails ends the program
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include <ropewalk/adapters.hpp>
#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/angles/table_set.hpp>
#include <ropewalk/angles/uniform_table.hpp>
#include <ropewalk/attention/partial_attention.hpp>
#include <ropewalk/compression.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/llama3.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kv/cache_plan.hpp>
#include <ropewalk/path.hpp>
#include <ropewalk/positions/documents.hpp>
#include <ropewalk/positions/hierarchy.hpp>
#include <ropewalk/positions/media_tokens.hpp>
#include <ropewalk/positions/tmrope.hpp>
#include <ropewalk/positions/vrope.hpp>
#include <ropewalk/schemes/flux.hpp>
#include <ropewalk/schemes/ggml.hpp>

#include "support/aligned_memory.hpp"
#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace {

std::atomic<long> left{-1};  // allocations that still work; negative: all of them
std::atomic<long> failed{0};

/// Whether this allocation is the one that fails; later ones work again, as the exception needs one.
bool fails() {
    if (left < 0 || left-- != 0) return false;
    ++failed;
    return true;
}

void* allocated(std::size_t bytes, std::size_t alignment) noexcept {
    if (fails()) return nullptr;
    return support::aligned_memory(bytes, alignment);
}
void* thrown(void* p) {
    if (p == nullptr) throw std::bad_alloc();
    return p;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
    return thrown(allocated(bytes, alignof(std::max_align_t)));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t a) {
    return thrown(allocated(bytes, static_cast<std::size_t>(a)));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return allocated(bytes, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t a, const std::nothrow_t&) noexcept {
    return allocated(bytes, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { support::free_aligned(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { support::free_aligned(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { support::free_aligned(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
    support::free_aligned(p);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Eigen's matrices come from malloc. (A sanitizer has its own.)
extern "C" void* __libc_malloc(std::size_t);
extern "C" [[gnu::noinline]] void* malloc(std::size_t bytes) {
    return fails() ? nullptr : __libc_malloc(bytes);
}
#endif

namespace {

namespace rw = ropewalk;
using numbers = std::vector<double>;

/// change(object) under each failing allocation in turn; state(object) is what must not have moved. Says how
/// many allocations failed.
template <class Object, class Change, class State>
long fail_each(Object object, Change change, State state) {
    Object expected = object;
    change(expected);
    const auto before = state(object), after = state(expected);
    failed = 0;
    for (long k = 0; k < 100000; ++k) {
        left = k;
        bool done = true;
        try {
            change(object);
        } catch (const std::bad_alloc&) {
            done = false;
        }
        left = -1;
        if (done) {
            REQUIRE(state(object) == after);
            return failed;
        }
        REQUIRE(state(object) == before);
    }
    FAIL("the call never came to its end");
    return 0;
}

/// The same for an object that cannot be copied: made anew.
template <class Make, class Change, class State>
long fail_each_of(Make make, Change change, State state) {
    auto expected = make(), object = make();
    change(expected);
    const auto before = state(object), after = state(expected);
    failed = 0;
    for (long k = 0; k < 100000; ++k) {
        left = k;
        bool done = true;
        try {
            change(object);
        } catch (const std::bad_alloc&) {
            done = false;
        }
        left = -1;
        if (done) {
            REQUIRE(state(object) == after);
            return failed;
        }
        REQUIRE(state(object) == before);
    }
    FAIL("the call never came to its end");
    return 0;
}

/// A call that makes something: the same thing after every failure as without one.
template <class Call>
void make_each(const char* name, Call call) {
    CAPTURE(name);
    int nothing = 0;
    using made_type = decltype(call());
    std::optional<made_type> made;
    const long count = fail_each(
        nothing, [&](int&) { made.emplace(call()); }, [](int) { return 0; });
    REQUIRE(made.has_value());
    CHECK(count > 0);
}

numbers all_of(const rw::position_ids& ids) {
    numbers v = ids.values();
    v.push_back(static_cast<double>(ids.segments().size()));
    for (rw::index n = 0; n < ids.tokens(); ++n) v.push_back(ids.touched(n));
    return v;
}

}  // namespace

TEST_CASE("failing allocations: position_ids keep what they hold", "[allocation][positions]") {
    rw::position_ids ids(3);
    ids.append(rw::text_run{2, 0, 1});
    const auto grid = rw::positions::grid({.height = 2, .width = 3});
    CHECK(fail_each(
              ids,
              [](rw::position_ids& x) {
                  x.append(rw::listed_run{{1, 2, 3, 4, 5, 6}});
              },
              all_of) >= 2);
    rw::position_ids other(3);
    for (int k = 0; k < 5; ++k) other.append(rw::listed_run{{1, 2, 3}}).append(rw::untouched_run{2});
    CHECK(fail_each(
              ids, [&](rw::position_ids& x) { x.append(other); }, all_of) >= 6);
    CHECK(fail_each(
              other, [](rw::position_ids& x) { x.append(x); }, all_of) >= 6);
}

TEST_CASE("failing allocations: a stream keeps what it holds", "[allocation][positions]") {
    using namespace rw::positions;
    const std::vector<media_segment> more{
        {.tokens = 3},
        {.kind = media::image, .height = 2, .width = 2},
        {.kind = media::video_with_audio, .tokens = 60, .frames = 4, .height = 2, .width = 1},
        {.tokens = 2}};
    const auto state = [](const auto& builder) {
        const auto s = builder.stream();
        numbers v = all_of(s.positions);
        v.push_back(s.next_position);
        v.push_back(static_cast<double>(builder.tokens()));
        return v;
    };
    const auto run = [&](auto builder) {
        builder.append(more[0]);  // ends with text, which goes on
        CHECK(fail_each(
                  builder, [&](auto& b) { b.append(std::span<const media_segment>(more)); }, state) >= 5);
    };
    run(stream_builder(tmrope_rule{}));
    run(stream_builder(tmrope_rule::qwen3_omni()));
}

TEST_CASE("failing allocations: refused segments leave a stream as it was", "[allocation][positions]") {
    using namespace rw::positions;
    stream_builder builder(mrope_rule{});
    builder.append({.tokens = 3});
    const std::vector<media_segment> bad{{.tokens = 4}, {.kind = media::image, .height = 2, .width = 0}};
    CHECK_THROWS_AS(builder.append(std::span<const media_segment>(bad)), rw::invalid_config);
    CHECK(builder.tokens() == 3);
    CHECK(builder.stream().next_position == 3);
    CHECK_THROWS_WITH(builder.append(bad[1]),
                      "position_stream: segment 1 (image 1 x 2 x 0): width must be >= 1, got 0");
}

TEST_CASE("failing allocations: tables that grow keep their rows", "[allocation][angles]") {
    const auto plain = rw::frequencies::geometric({.rotary_dim = 8});
    const std::vector<std::int32_t> tables{0, 1, 1}, near{3, 0, 2}, far{3, 40, 2};
    const auto state = [](auto& x) {
        auto& [set, row_of_token] = x;
        const std::vector<std::int32_t> t{0, 1, 1}, p{3, 0, 2};
        const auto rows = set->rows(t, p, row_of_token);
        numbers v{static_cast<double>(set->row_count(0)), static_cast<double>(set->row_count(1))};
        for (rw::index n = 0; n < 3; ++n)
            for (rw::index i = 0; i < 4; ++i)
                v.push_back(static_cast<double>(rows.cos_at(rows.row(n), 0)[i]));
        return v;
    };
    const auto make = [&] {
        return std::pair(std::make_unique<rw::table_set<float>>(std::vector{plain, plain}, 4),
                         std::vector<std::int32_t>(3));
    };
    // The first block's rows are those of both tables: first_row and blocks must change together.
    CHECK(fail_each_of(
              make, [&](auto& x) { x.first->rows(tables, far, x.second); }, state) >= 3);
    const auto table_state = [](auto& table) {
        numbers v{static_cast<double>(table->row_count())};
        for (const float c : table->table().cos_row(3)) v.push_back(static_cast<double>(c));
        return v;
    };
    CHECK(fail_each_of([&] { return std::make_unique<rw::position_table<float>>(plain, 4); },
                       [&](auto& table) { return table->rows(far).tokens; }, table_state) >= 2);
}

TEST_CASE("failing allocations: PaTH's cache takes a token without memory", "[allocation][path]") {
    // Its steps need no memory at all.
    rw::path::deferred_keys<float> deferred({.kv_heads = 1, .channels = 4, .block = 2});
    std::vector<float> cache(5 * 4), one(4, 0.5f), b{1};
    CHECK(fail_each(
              0,
              [&](int&) {
                  deferred.append({cache.data(), 5, 1, 4}, {one.data(), 1, 1, 4}, {{one.data(), 1, 1, 4}, b});
              },
              [](int) { return 0; }) == 0);
}

TEST_CASE("failing allocations: a bank keeps its adapters", "[allocation][adapters]") {
    using namespace rw::road;
    const auto blocks = [](rw::index group, double seed) {
        const std::vector<double> theta(4, seed), alpha(4, 1.5);
        return make_blocks(adapter({.channels = 8, .group = group}, theta, alpha));
    };
    adapter_bank<float> bank(8, {"a", "b", "c"});
    bank.set("a", blocks(4, 0.1));
    bank.set("b", blocks(4, 0.2));
    const auto state = [](const adapter_bank<float>& x) {
        std::vector<float> y(3 * 8, 1.0f);
        mix_pairs(rw::heads_view<float>(y.data(), 3, 1, 8), x.rows(std::vector<std::int32_t>{0, 1, 2}));
        return y;
    };
    CHECK(fail_each(
              bank, [&](auto& x) { x.set("a", blocks(8, 0.3)); }, state) >= 4);  // to a new group
    CHECK(fail_each(
              bank, [&](auto& x) { x.set("c", blocks(4, 0.4)); }, state) >= 3);
}

TEST_CASE("failing allocations: cold calls that make something fail cleanly", "[allocation]") {
    const auto plain = rw::frequencies::geometric({.rotary_dim = 16});
    const auto grid = rw::positions::grid({.height = 3, .width = 4});
    const auto axial = rw::frequencies::axial({.channels = {8, 8}, .axes = 2});
    make_each("geometric", [] { return rw::frequencies::geometric({.rotary_dim = 16}); });
    make_each("yarn",
              [] { return rw::frequencies::yarn({.rotary_dim = 16, .factor = 4, .original_context = 64}); });
    make_each("llama3", [] { return rw::frequencies::llama3({.rotary_dim = 16}); });
    make_each("axial", [] { return rw::frequencies::axial({.channels = {8, 8}, .axes = 2}); });
    make_each("assign_axes", [&] {
        return rw::frequencies::assign_axes(plain, rw::axis_map::sections({4, 2, 2}));
    });
    make_each("grid", [] { return rw::positions::grid({.height = 3, .width = 4}); });
    make_each("rotation table", [&] { return rw::make_rotation_table(axial, grid); });
    make_each("factored table", [&] { return rw::make_factored_table(axial, grid); });
    make_each("position table", [&] { return rw::position_table<float>(plain, 8); });
    make_each("table set", [&] { return rw::table_set<float>({plain, plain}, 8); });
    make_each("flux positions", [] {
        return rw::flux::flux1_positions({.text_tokens = 3, .generated = {2, 2}, .references = {{1, 2}}});
    });
    make_each("flux scheme", [] { return rw::flux::joint({}); });
    make_each("ggml", [] {
        return rw::ggml::make_table(
            {.n_dims = 8, .mode = rw::ggml::rope_mode::mrope, .sections = {2, 1, 1, 0}},
            std::vector<std::int32_t>{1, 2, 3, 4});
    });
    make_each("vrope", [] {
        return rw::positions::make_stream(
            rw::positions::vrope_rule{},
            {{.tokens = 2}, {.kind = rw::positions::media::video, .frames = 2, .height = 2, .width = 3}});
    });
    make_each("find_media", [] {
        const std::vector<std::int64_t> ids{7, 151655, 151655, 8};
        const std::vector<rw::index> grids{1, 2, 4};
        return rw::positions::find_media({.input_ids = ids, .image_grids = grids});
    });
    const std::vector<std::int32_t> offsets{0, 3, 5}, starts{4, 0}, pages{1, 0};
    make_each("slots", [&] {
        return rw::make_slots(rw::ragged_batch<std::int32_t>{offsets, starts},
                              rw::block_table<std::int32_t>{pages, 1, 8});
    });
    make_each("cache plan", [] { return rw::cache_plan(std::vector<std::int64_t>{3, -1, 9}, 2, 8); });
    const numbers q = support::noise(6 * 2 * 4, 1), k = support::noise(6 * 4, 2);
    make_each("attend", [&] {
        numbers out(6 * 2 * 4);
        rw::attend(rw::heads_view<const double>(q.data(), 6, 2, 4),
                   rw::heads_view<const double>(k.data(), 6, 1, 4),
                   rw::heads_view<const double>(k.data(), 6, 1, 4),
                   rw::heads_view<double>(out.data(), 6, 2, 4), {.causal = true});
        return out;
    });
    make_each("partial attention", [&] {
        return rw::make_partial_attention(rw::heads_view<const double>(q.data(), 6, 2, 4),
                                          rw::heads_view<const double>(k.data(), 6, 1, 4),
                                          rw::heads_view<const double>(k.data(), 6, 1, 4));
    });
    make_each("row attention",
              [] { return rw::row_attention<float>({.heads = 2, .key_channels = 4, .value_channels = 4}); });
}
#endif
