// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// As contract_broken.cpp, for the hot calls above the kernels: one that does not fit returns false and writes
// nothing.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/adapters/road_bank.hpp>
#include <ropewalk/attention/chunk_memory.hpp>
#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/path/householder.hpp>
#include <ropewalk/schemes/drope.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>
#include <ropewalk/schemes/musecontrollite.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

TEST_CASE("row_attention: sizes beyond those it was built for, and parts that disagree", "[release]") {
    rw::row_attention<float> attention(
        {.heads = 4, .key_channels = 8, .value_channels = 6, .own_channels = 2});
    const auto attends = [&](rw::heads_shape q, rw::heads_shape k, rw::heads_shape v, rw::heads_shape out) {
        heads_buffer<float> of_q(q), of_k(k), of_v(v), to(out, 2);
        of_q.fill(1), of_k.fill(2), of_v.fill(3);
        const auto before = to.fill(4).dense();
        const bool fits =
            attention.attend(of_q.view(), of_k.view(), of_v.view(), to.view(), {.count = k.tokens});
        CHECK(fits != support::same_bits(to.dense(), before));
        CHECK(to.canaries_alive());
        return fits;
    };
    CHECK(attends({1, 1, 4, 8}, {1, 5, 2, 8}, {1, 5, 2, 6}, {1, 1, 4, 6}));
    CHECK_FALSE(attends({1, 1, 6, 8}, {1, 5, 2, 8}, {1, 5, 2, 6}, {1, 1, 6, 6}));
    CHECK_FALSE(attends({1, 1, 4, 8}, {1, 5, 2, 6}, {1, 5, 2, 6}, {1, 1, 4, 6}));
    CHECK_FALSE(attends({1, 1, 4, 10}, {1, 5, 2, 10}, {1, 5, 2, 6}, {1, 1, 4, 6}));
    CHECK_FALSE(attends({1, 1, 4, 8}, {1, 5, 2, 8}, {1, 5, 2, 7}, {1, 1, 4, 7}));
    CHECK_FALSE(attends({1, 1, 4, 8}, {1, 5, 2, 8}, {1, 5, 2, 6}, {1, 1, 4, 4}));
    CHECK_FALSE(attends({1, 1, 4, 8}, {1, 5, 2, 8}, {1, 5, 2, 6}, {1, 1, 2, 6}));
    CHECK_FALSE(attends({1, 1, 4, 8}, {1, 5, 2, 8}, {1, 5, 1, 6}, {1, 1, 4, 6}));
    CHECK_FALSE(attends({1, 1, 4, 8}, {1, 5, 3, 8}, {1, 5, 3, 6}, {1, 1, 4, 6}));
}

TEST_CASE("retrieval: views and traces of other sizes, keys a quantizer does not know", "[release]") {
    constexpr rw::index d = 4, tokens = 9;
    const rw::vector_quantizer<> words(Eigen::MatrixXd::Random(6, d), Eigen::MatrixXd::Identity(d, d));
    std::vector<std::uint16_t> labels(tokens, 77);
    heads_buffer<float> keys({1, tokens, 1, d}), wide({1, tokens, 1, d + 1}), two({1, tokens, 2, d}),
        values({1, tokens, 1, d}), q({1, 1, 2, d}), out({1, 1, 2, d}, 3);
    keys.fill(1), wide.fill(2), two.fill(3), values.fill(4), q.fill(5);
    CHECK_FALSE(words.encode(wide.view(), labels));
    CHECK_FALSE(words.encode(two.view(), labels));
    CHECK_FALSE(words.encode(keys.view().token_slice(0, tokens - 1), labels));
    CHECK(labels == std::vector<std::uint16_t>(tokens, 77));
    CHECK(words.encode(keys.view(), labels));

    const auto rope = rw::make_fixed_scheme({}, rw::frequencies::geometric({.rotary_dim = d}));
    rw::retrieval_cache<> cache({words}, rope, {.heads = 2, .window = 2, .sinks = 1, .top_count = 2});
    cache.append(keys.view());
    const auto before = out.fill(6).dense();
    std::vector<std::uint8_t> attended(tokens - 1);
    CHECK_FALSE(cache.attend(q.view().head_slice(0, 1), keys.view(), values.view(), out.view()));
    CHECK_FALSE(cache.attend(q.view(), keys.view().token_slice(0, 5), values.view(), out.view()));
    CHECK_FALSE(cache.attend(q.view(), keys.view(), wide.view(), out.view()));
    CHECK_FALSE(cache.attend(q.view(), keys.view(), values.view(), out.view().head_slice(1, 1)));
    CHECK_FALSE(cache.attend(q.view(), keys.view(), values.view(), out.view(), {.attended = attended}));
    CHECK(support::same_bits(out.dense(), before));
    attended.resize(tokens);
    CHECK(cache.attend(q.view(), keys.view(), values.view(), out.view(), {.attended = attended}));
    CHECK(out.canaries_alive());
    CHECK_FALSE(support::same_bits(out.dense(), before));
}

TEST_CASE("path: keys and a step that do not belong together", "[release]") {
    heads_buffer<float> keys({1, 5, 2, 8}, 1), w({1, 1, 2, 8}), q({1, 1, 4, 8}), other({1, 1, 3, 8});
    const auto before = keys.fill(1).dense();
    w.fill(2), q.fill(3), other.fill(4);
    const std::vector<float> beta{0.5f, 0.25f}, three(3, 0.5f);
    std::vector<float> scores(4 * 5), few(4 * 5 - 1);
    CHECK_FALSE(rw::path::update_keys(keys.view(), {w.view(), three}));
    CHECK_FALSE(rw::path::update_keys(keys.view(), {other.view(), three}));
    CHECK_FALSE(rw::path::update_keys_and_score(keys.view(), {w.view(), beta}, q.view(), few));
    CHECK_FALSE(rw::path::update_keys_and_score(keys.view(), {w.view(), beta}, other.view(), scores));
    CHECK(support::same_bits(keys.dense(), before));
    CHECK(rw::path::update_keys_and_score(keys.view(), {w.view(), beta}, q.view(), scores));
    CHECK_FALSE(support::same_bits(keys.dense(), before));
    CHECK(keys.canaries_alive());
}

TEST_CASE("agents, the released map, adapters and memory rows of other sizes", "[release]") {
    namespace drope = rw::drope;
    const drope::agents agents({.head_dim = 8, .modes = {drope::head_mode::heading, drope::head_mode::none}});
    const drope::scene<float> scene(agents, rw::position_ids::from_tokens_axes(std::vector<double>(6), 2),
                                    rw::position_ids::from(std::vector<double>{0.5, 1, 2}));
    heads_buffer<float> x({1, 3, 2, 8}, 2);
    const auto before = x.fill(1).dense();
    CHECK_FALSE(drope::rotate_scene(agents, x.view().head_slice(0, 1), scene));
    CHECK_FALSE(drope::rotate_scene(agents, x.view().channel_slice(0, 4), scene));
    CHECK_FALSE(drope::rotate_scene(agents, x.view().token_slice(0, 2), scene));

    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(2));
    CHECK_FALSE(rw::musecontrollite::rotate_as_released(x.view(), table));
    const std::vector<int> same{1, 1, 1};
    auto beyond = table.rows(same);
    beyond.table_rows = 1;
    CHECK_FALSE(rw::musecontrollite::rotate_as_released(x.view(), beyond));

    rw::road::adapter_bank<float> bank(8, {"a"});
    bank.set("a", rw::road::make_blocks(rw::road::adapter({.channels = 8, .group = 4})));
    const std::vector<std::int32_t> ids{0, 0};
    CHECK_FALSE(rw::road::mix_pairs(x.view(), bank.rows(ids)));
    CHECK(support::same_bits(x.dense(), before));
    CHECK(drope::rotate_scene(agents, x.view(), scene));
    CHECK_FALSE(support::same_bits(x.dense(), before));

    const rw::attention::memory_bank<float> memory(3, 4);
    CHECK(memory.row(3).empty());
    CHECK(memory.row(-1).empty());
    CHECK(memory.row(2).size() == 4);
}
