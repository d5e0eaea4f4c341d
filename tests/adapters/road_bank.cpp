// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/road_bank.hpp>

#include "adapters/road_inputs.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace road = ropewalk::road;
using road::variant;
using road_inputs::mix;
using road_inputs::random_adapter;
using support::as;
using support::noise;

namespace {

template <class T>
rw::heads_view<T> batch(std::vector<T>& h, rw::index requests, rw::index tokens_each) {
    return {h.data(),
            {.batches = requests,
             .tokens = tokens_each,
             .heads = 1,
             .channels = static_cast<rw::index>(h.size()) / requests / tokens_each}};
}

}  // namespace

TEST_CASE("road_bank: adapters of every variant and group serve one batch", "[adapters][road_bank]") {
    const rw::index channels = 24, each = 3;
    const std::vector<std::string> names{"a", "b", "c", "d"};
    road::adapter_bank<float> bank(channels, names);
    const auto a = road::make_blocks(random_adapter({.channels = channels, .group = 8}, 1));
    const auto b =
        road::make_blocks(random_adapter({.channels = channels, .group = 24, .variant = variant::road_4}, 2));
    const auto c =
        road::make_blocks(random_adapter({.channels = channels, .group = 8, .variant = variant::road_2}, 3));
    bank.set("a", c);  // replaced below
    bank.set("a", b);
    bank.set("b", b);
    bank.set("c", c);
    bank.set("a", a);
    const std::vector<std::string> wanted{"b", "__base__", "a", "d", "c", "a"};  // this layer lacks d
    const road::pair_blocks* blocks[] = {&b, nullptr, &a, nullptr, &c, &a};
    auto h = as<float>(noise(6 * each * channels, 17));
    const auto before = h;
    const auto rows = bank.rows(bank.ids_of(wanted), each);
    road::mix_pairs(
        rw::heads_view<float>(h.data(), {.batches = 6, .tokens = each, .heads = 1, .channels = channels}),
        rows);
    for (std::size_t request = 0; request < 6; ++request) {
        const auto from = static_cast<std::ptrdiff_t>(request * each * channels), to = from + each * channels;
        std::vector<float> alone(before.begin() + from, before.begin() + to);
        if (blocks[request]) mix(*blocks[request], alone);
        CHECK(alone == std::vector<float>(h.begin() + from, h.begin() + to));
    }
}

TEMPLATE_TEST_CASE("road_bank: in every type of data a request gets what its adapter gives alone",
                   "[adapters][road_bank]", double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    const auto poet = road::make_blocks(random_adapter({.channels = 16, .group = 8}, 4));
    road::adapter_bank<C> bank(16, {"poet"});
    bank.set("poet", poet);
    support::heads_buffer<TestType> x({3, 2, 1, 16}, 1), before({3, 2, 1, 16}, 1);
    x.fill(5);
    before.fill(5);
    const std::vector<std::int32_t> ids{0, -1, 0};
    road::mix_pairs(x.view(), bank.rows(ids, 2));
    CHECK(x.canaries_alive());
    auto want = before.dense();
    std::vector<TestType> first(want.begin(), want.begin() + 32), last(want.begin() + 64, want.end());
    mix(poet, first);
    mix(poet, last);
    std::copy(first.begin(), first.end(), want.begin());
    std::copy(last.begin(), last.end(), want.begin() + 64);
    CHECK(support::same_bits(x.dense(), want));
    CHECK_FALSE(support::same_bits(x.dense(), before.dense()));
}

TEST_CASE("road_bank: a layer without adapters, a batch without requests, requests without tokens",
          "[adapters][road_bank]") {
    const std::vector<std::string> names{"a", "b"};
    road::adapter_bank<double> bank(8, names);
    CHECK(bank.channels() == 8);
    CHECK(bank.rows(bank.ids_of(names)).groups().empty());
    auto h = noise(16, 3);
    const auto before = h;
    road::mix_pairs(batch(h, 2, 1), bank.rows(bank.ids_of(names)));
    CHECK(h == before);

    bank.set("b", road::make_blocks(random_adapter({.channels = 8, .group = 4}, 6)));
    CHECK(bank.rows({}).groups()[0].row_of_token.empty());
    road::mix_pairs(rw::heads_view<double>(h.data(), {.batches = 0, .tokens = 1, .heads = 1, .channels = 8}),
                    bank.rows({}));
    road::mix_pairs(rw::heads_view<double>(h.data(), {.batches = 2, .tokens = 0, .heads = 1, .channels = 8}),
                    bank.rows(bank.ids_of(names), 0));
    CHECK(h == before);

    // Base and the layer's missing adapter are neither read nor written, whatever they hold.
    const std::vector<std::string> asked{bank.base, "a"};
    for (double& x : h) x = std::nan("");
    const auto marked = h;
    road::mix_pairs(batch(h, 2, 1), bank.rows(bank.ids_of(asked)));
    CHECK(support::same_bits(h, marked));
    road::adapter_bank<float> none(0, {});
    CHECK(none.rows(std::vector<std::int32_t>{-1}).groups().empty());
}

TEST_CASE("road_bank: replacing an adapter by one of another group leaves the others as they were",
          "[adapters][road_bank]") {
    const auto blocks = [](rw::index group, unsigned seed) {
        return road::make_blocks(random_adapter({.channels = 12, .group = group}, seed));
    };
    const std::vector<std::string> names{"a", "b"};
    road::adapter_bank<double> bank(12, names), fresh(12, names);
    bank.set("a", blocks(4, 1));
    bank.set("b", blocks(4, 2));
    bank.set("a", blocks(6, 3));
    bank.set("a", blocks(4, 4));
    fresh.set("b", blocks(4, 2));
    fresh.set("a", blocks(4, 4));
    auto h = noise(24, 9), want = h;
    road::mix_pairs(batch(h, 2, 1), bank.rows(bank.ids_of(names)));
    road::mix_pairs(batch(want, 2, 1), fresh.rows(fresh.ids_of(names)));
    CHECK(h == want);
}

TEST_CASE("road_bank: setting a name again uses its row again", "[adapters][road_bank]") {
    const auto blocks = [](rw::index group, unsigned seed) {
        return road::make_blocks(random_adapter({.channels = 12, .group = group}, seed));
    };
    const std::vector<std::string> names{"a", "b"};
    road::adapter_bank<double> bank(12, names);
    bank.set("b", blocks(4, 9));
    for (unsigned turn = 0; turn < 50; ++turn) {
        bank.set("a", blocks(4, turn));
        bank.set("a", blocks(turn % 2 ? 6 : 12, turn));
    }
    bank.set("a", blocks(4, 77));
    auto h = noise(24, 9), want = h;
    const auto rows = bank.rows(bank.ids_of(names));
    for (const auto& group : rows.groups()) CHECK(group.rows.table_rows <= 2);
    road::mix_pairs(batch(h, 2, 1), rows);
    road::adapter_bank<double> fresh(12, names);
    fresh.set("a", blocks(4, 77));
    fresh.set("b", blocks(4, 9));
    road::mix_pairs(batch(want, 2, 1), fresh.rows(fresh.ids_of(names)));
    CHECK(h == want);
}

TEST_CASE("road_bank: rows may be handed on, their views stay with them", "[adapters][road_bank]") {
    road::adapter_bank<double> bank(8, {"a"});
    bank.set("a", road::make_blocks(random_adapter({.channels = 8, .group = 8}, 7)));
    const std::vector<std::int32_t> ids{0, 0, -1};
    auto made = bank.rows(ids, 40);
    const road::bank_rows<double> held = std::move(made);
    auto h = noise(3 * 40 * 8, 2), want = h;
    road::mix_pairs(batch(h, 3, 40), held);
    road::mix_pairs(batch(want, 3, 40), bank.rows(ids, 40));
    CHECK(h == want);
}

TEST_CASE("road_bank: what does not fit is refused with its value", "[adapters][road_bank][errors]") {
    road::adapter_bank<float> bank(24, {"a", "b", "c", "d"});
    const std::vector<std::int32_t> unknown{0, 4}, below{-2}, one{0};
    const auto blocks = road::make_identity_blocks(16, 8);
    CHECK_REFUSES("road::adapter_bank::id_of: name must be __base__ or an adapter the model knows, got e",
                  bank.id_of("e"));
    CHECK_REFUSES("road::adapter_bank::rows: id must be -1 (base) or an adapter's, got 4",
                  bank.rows(unknown));
    CHECK_REFUSES("road::adapter_bank::rows: id must be -1 (base) or an adapter's, got -2", bank.rows(below));
    CHECK_REFUSES("road::adapter_bank::rows: tokens_each must be >= 0, got -1", bank.rows(one, -1));
    CHECK_REFUSES("road::adapter_bank::set: blocks must have the layer's channels: wanted 24, got 16",
                  (bank.set("d", blocks), 0));
    road::adapter_bank<float> narrow(4, {"a"});
    road::pair_blocks odd{3, {2, 2}, {0, 0}, {0, 0}, {2, 2}};
    CHECK_REFUSES("road::adapter_bank::set: blocks.group must be even and > 0, got 3",
                  (narrow.set("a", odd), 0));
    CHECK(narrow.rows(one).groups().empty());
    CHECK_REFUSES("road::adapter_bank::set: name must be an adapter's, got __base__",
                  (bank.set("__base__", blocks), 0));
    CHECK_REFUSES("road::adapter_bank: names must be given once, got x",
                  road::adapter_bank<float>(8, {"x", "x"}));
    CHECK_REFUSES("road::adapter_bank: names must not hold the base's, got __base__",
                  road::adapter_bank<float>(8, {"__base__"}));
    CHECK_REFUSES("road::adapter_bank: channels must be even and >= 0, got 7",
                  road::adapter_bank<float>(7, {}));
    CHECK_REFUSES("road::adapter_bank: channels must be even and >= 0, got -2",
                  road::adapter_bank<float>(-2, {}));
}
