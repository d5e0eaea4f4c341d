// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/kv_injection.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/flux.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace injection = ropewalk::kv_injection;

namespace {

struct batch {
    support::heads_buffer<rw::bf16> k{{2, 6, 3, 4}, 1}, v{{2, 6, 3, 8}, 2};
    batch() {
        k.fill(1);
        v.fill(2);
    }
};
template <class T>
bool equal_tokens(rw::heads_view<T> a, rw::index batch_a, rw::index token_a, rw::heads_view<T> b,
                  rw::index batch_b, rw::index token_b) {
    for (rw::index h = 0; h < a.heads(); ++h)
        for (rw::index c = 0; c < a.channels(); ++c)
            if (static_cast<float>(a.at(batch_a, token_a, h)[c]) !=
                static_cast<float>(b.at(batch_b, token_b, h)[c]))
                return false;
    return true;
}

}  // namespace

TEST_CASE("injection: non-rigid edits take the source's image, text stays", "[attention][freeflux]") {
    batch before, x;
    injection::inject_keys_values(x.k.view(), x.v.view(), {}, {2, 4});
    for (rw::index n = 0; n < 6; ++n) {
        const rw::index from = n < 2 ? 1 : 0;
        CHECK(equal_tokens(x.k.view(), 1, n, before.k.view(), from, n));
        CHECK(equal_tokens(x.v.view(), 1, n, before.v.view(), from, n));
        CHECK(equal_tokens(x.k.view(), 0, n, before.k.view(), 0, n));
    }
    CHECK(x.k.canaries_alive());
    CHECK(x.v.canaries_alive());
}

TEST_CASE("injection: an added object keeps its own tokens", "[attention][freeflux]") {
    batch before, x;
    const std::vector<rw::index> keep{5, 3, 0};
    injection::inject_keys_values(x.k.view(), x.v.view(), {}, {2, 4}, keep);
    for (rw::index n = 0; n < 6; ++n) {
        const bool injected = n == 2 || n == 4;
        CHECK(equal_tokens(x.k.view(), 1, n, before.k.view(), injected ? 0 : 1, n));
        CHECK(equal_tokens(x.v.view(), 1, n, before.v.view(), injected ? 0 : 1, n));
    }
}

TEST_CASE("injection: a moved region hands over values only", "[attention][freeflux]") {
    batch before, x;
    // image tokens 2 .. 5 are a 2 x 2 grid
    const std::vector<rw::index> region{0, 2};
    const auto to = injection::moved_tokens({2, 2}, region, 0, 1);
    CHECK(to == std::vector<rw::index>{1, 3});
    injection::inject_values(x.v.view(), {}, {2, 4}, region, to);
    CHECK(equal_tokens(x.v.view(), 1, 3, before.v.view(), 0, 2));
    CHECK(equal_tokens(x.v.view(), 1, 5, before.v.view(), 0, 4));
    CHECK(equal_tokens(x.v.view(), 1, 2, before.v.view(), 1, 2));
    CHECK(support::same_bits(x.k.dense(), before.k.dense()));
    CHECK_REFUSES("moved_tokens: region must stay on the grid, column, got 2",
                  injection::moved_tokens({2, 2}, to, 0, 1));
    CHECK_REFUSES("moved_tokens: region must stay on the grid, row, got -1",
                  injection::moved_tokens({2, 2}, region, -1, 0));
    CHECK_REFUSES("moved_tokens: rows must be less than the grid's, got " + support::largest_index(),
                  injection::moved_tokens({2, 2}, region, PTRDIFF_MAX, 0));
    CHECK_REFUSES("moved_tokens: columns must be less than the grid's, got -2",
                  injection::moved_tokens({2, 2}, region, 0, -2));
    CHECK_REFUSES("moved_tokens: grid.height x grid.width must be >= 0, got an overflowing size",
                  injection::moved_tokens({PTRDIFF_MAX, PTRDIFF_MAX}, region, 0, 0));
    CHECK_REFUSES("moved_tokens: grid.height x grid.width must be >= 0, got -1",
                  injection::moved_tokens({-1, -1}, region, 0, 0));
    CHECK_REFUSES("moved_tokens: region must lie on the grid, got 0",
                  injection::moved_tokens({0, 5}, region, 0, 0));
}

TEST_CASE("injection: after the rotation or before it is the same", "[attention][freeflux]") {
    const auto rope = rw::flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    const auto table = rw::make_rotation_table(
        rope.spectrum_for(1), rw::flux::flux1_positions({.text_tokens = 2, .generated = {2, 2}}));
    support::heads_buffer<float> first({2, 6, 1, 16}), last({2, 6, 1, 16}), v({2, 6, 1, 16});
    first.fill(1);
    last.fill(1);
    injection::inject_keys_values(first.view(), v.view(), {}, {2, 4});
    for (rw::index b = 0; b < 2; ++b) {
        rw::rotate(rope, first.view().batch_slice(b, 1), table);
        rw::rotate(rope, last.view().batch_slice(b, 1), table);
    }
    injection::inject_keys_values(last.view(), v.view(), {}, {2, 4});
    CHECK(support::same_bits(first.dense(), last.dense()));
}

TEST_CASE("injection: samples and tokens that are not there are refused", "[attention][freeflux]") {
    batch x;
    const std::vector<rw::index> six{6}, zero{0}, none;
    CHECK_REFUSES("inject_keys_values: target must be a sample of the batch, got 2",
                  (injection::inject_keys_values(x.k.view(), x.v.view(), {0, 2}, {2, 4}), 0));
    CHECK_REFUSES("inject_keys_values: target must not be the source, got 1",
                  (injection::inject_keys_values(x.k.view(), x.v.view(), {1, 1}, {2, 4}), 0));
    CHECK_REFUSES("inject_keys_values: image must lie inside the sequence, first token, got 3",
                  (injection::inject_keys_values(x.k.view(), x.v.view(), {}, {3, 4}), 0));
    CHECK_REFUSES("inject_keys_values: keep must name tokens of the sequence, got 6",
                  (injection::inject_keys_values(x.k.view(), x.v.view(), {}, {2, 4}, six), 0));
    CHECK_REFUSES("inject_keys_values: v.tokens must equal k.tokens: wanted 6, got 5",
                  (injection::inject_keys_values(x.k.view(), x.v.view().token_slice(0, 5), {}, {2, 4}), 0));
    CHECK_REFUSES("inject_values: to must be as long as from: wanted 1, got 0",
                  (injection::inject_values(x.v.view(), {}, {2, 4}, zero, none), 0));
    CHECK_REFUSES("inject_values: tokens must be image tokens, got 6",
                  (injection::inject_values(x.v.view(), {}, {2, 4}, zero, six), 0));
}
