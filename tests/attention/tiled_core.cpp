// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tiled_core.hpp>

#include <vector>

#include "support/attention_masks.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
rw::detail::tiled_scratch<T> scratch_of(rw::detail::workspace_cutter memory, rw::index channels,
                                        rw::index values, const rw::attention::tiled_options<T>& options,
                                        rw::index copies = 1) {
    return {"test", memory, channels, values, options, copies};
}

/// The core itself, on parts of a call that run with tiles of their own.
template <class T, class Mask>
std::vector<T> run(const support::attention_case<T>& c, const Mask& mask,
                   const rw::attention::tiled_options<T>& options) {
    const auto& s = c.sizes;
    std::vector<std::byte> workspace(
        std::size_t(scratch_of<T>({}, s.channels, s.value_channels, options).bytes));
    const auto at =
        scratch_of<T>(rw::detail::workspace_cutter(workspace), s.channels, s.value_channels, options);
    std::vector<T> out(std::size_t(s.count(s.out())), T(7));
    const auto rules = mask.over(rw::attention::score_extent{s.batches, s.heads, s.queries, s.keys});
    rw::detail::tiled_attention(
        rules,
        rw::detail::score_source(c.q_view(), c.k_view(), 1 / std::sqrt(double(s.channels)), at.queries,
                                 at.keys, at.row),
        c.v_view(), rw::heads_view<T>(out.data(), s.out()), at, options)
        .run();
    return out;
}

}  // namespace

TEST_CASE("tiled_core: scratch grows with the tiles and not with the tokens", "[attention][tiled_core]") {
    const auto bytes = [](rw::index channels, rw::index values, rw::attention::tiled_options<float> options,
                          rw::index copies = 1) {
        return scratch_of<float>({}, channels, values, options, copies).bytes;
    };
    CHECK(bytes(64, 64, {}) < 256 * 1024);
    CHECK(bytes(128, 64, {}) > bytes(64, 64, {}));
    CHECK(bytes(64, 128, {}) > bytes(64, 64, {}));
    CHECK(bytes(64, 64, {.query_tile = 192}) > bytes(64, 64, {}));
    CHECK(bytes(64, 64, {.key_tile = 128}) > bytes(64, 64, {}));
    CHECK(bytes(64, 64, {}, 2) > bytes(64, 64, {}));
    CHECK_REFUSES("test: query_tile must be > 0, got 0", bytes(64, 64, {.query_tile = 0}));
    CHECK_REFUSES("test: key_tile must be > 0, got -1", bytes(64, 64, {.key_tile = -1}));
}

TEST_CASE("tiled_core: extents, scale and parts are checked by name", "[attention][tiled_core]") {
    const rw::heads_shape x{2, 5, 4, 8};
    const auto check = [](rw::heads_shape q, rw::heads_shape k, rw::heads_shape v, rw::heads_shape out) {
        rw::detail::check_attention("test", q, k, v, out);
        return 0;
    };
    CHECK(check(x, x, x, x) == 0);
    CHECK(check(x, {2, 9, 2, 8}, {2, 9, 2, 3}, {2, 5, 4, 3}) == 0);
    CHECK_REFUSES("test: k.batches must equal q.batches: wanted 2, got 1", check(x, {1, 5, 4, 8}, x, x));
    CHECK_REFUSES("test: v.tokens must equal k.tokens: wanted 5, got 6", check(x, x, {2, 6, 4, 8}, x));
    CHECK_REFUSES("test: k.heads must be > 0 and divide q.heads, got 3", check(x, {2, 5, 3, 8}, x, x));
    CHECK_REFUSES("test: out.channels must equal v.channels: wanted 7, got 8", check(x, x, {2, 5, 4, 7}, x));
    CHECK(rw::detail::checked_scale("test", {}, 16) == 0.25);
    CHECK(rw::detail::checked_scale("test", {}, 0) == 1);
    CHECK(rw::detail::checked_scale("test", -3.0, 16) == -3);
    CHECK_REFUSES("test: scale must be finite, got nan", rw::detail::checked_scale("test", std::nan(""), 1));
    CHECK(rw::detail::check_options<double>("test", x, 7, {}) == 40);
    CHECK_REFUSES("test: part must be one of parts, got 2",
                  rw::detail::check_options<double>("test", x, 7, {.part = {2, 2}}));
    std::vector<double> some(39);
    CHECK_REFUSES("test: log_weight must hold batches * queries * heads numbers, got 39",
                  rw::detail::check_options<double>("test", x, 7, {.log_weight = some}));
    CHECK_REFUSES(
        "test: probabilities must hold batches * heads * queries * keys numbers: wanted 280, got 39",
        rw::detail::check_options<double>("test", x, 7, {.probabilities = some}));
}

TEST_CASE("tiled_core: any tiles give the definition under every mask", "[attention][tiled_core]") {
    for (const auto& s : support::all_sizes) {
        support::attention_case<double> c(s);
        support::for_each_mask(s, [&](const char* name, const auto& mask, const auto& seen,
                                      const auto& bias) {
            CAPTURE(name, s.queries, s.keys);
            c.define(seen, bias);
            for (const rw::index query_tile : {1, 5, 24, 96})
                for (const rw::index key_tile : {1, 13, 64}) {
                    CAPTURE(query_tile, key_tile);
                    const auto got = run<double>(c, mask, {.query_tile = query_tile, .key_tile = key_tile});
                    double worst = 0;
                    for (std::size_t i = 0; i < got.size(); ++i)
                        worst = std::max(worst, std::abs(got[i] - c.out[i]));
                    CHECK(worst <= 1e-13);
                }
        });
    }
}

TEST_CASE("tiled_core: the parts of a call write its tiles once, bit for bit", "[attention][tiled_core]") {
    const support::attention_sizes s{.batches = 2, .queries = 110, .keys = 110, .heads = 4, .kv_heads = 2};
    const support::attention_case<float> c(s);
    const rw::attention::causal_mask mask;
    const auto whole = run<float>(c, mask, {});
    for (const rw::index parts : {2, 3, 50}) {
        std::vector<float> joined(whole.size(), 7.0f);
        for (rw::index part = 0; part < parts; ++part) {
            const auto own = run<float>(c, mask, {.part = {parts, part}});
            for (std::size_t i = 0; i < own.size(); ++i) {
                if (own[i] == 7.0f) continue;
                REQUIRE(joined[i] == 7.0f);
                joined[i] = own[i];
            }
        }
        CHECK(joined == whole);
    }
}
