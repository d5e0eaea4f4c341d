// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/mrope.hpp>

#include <random>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/llama3.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/schemes/hope.hpp>
#include <ropewalk/schemes/video_rope.hpp>
#include <ropewalk/schemes/vrope.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;
using positions::media;

namespace {

constexpr rw::index head_dim = 32;
const std::vector<rw::index> sections{4, 6, 6};

rw::rotary_scheme text_scheme(rw::spectrum s) {
    rw::rotary_scheme text;
    text.name = "text";
    text.head_dim = 2 * s.pairs();
    text.rotary_dim = 2 * s.pairs();
    text.frequencies = [s](std::int64_t) { return s; };
    return text;
}

std::vector<double> heads(rw::index tokens) {
    std::mt19937 random(5);
    std::normal_distribution<double> normal;
    std::vector<double> x(static_cast<std::size_t>(tokens * head_dim));
    for (double& v : x) v = normal(random);
    return x;
}

/// q.k of every pair of tokens after rotation at `where`.
std::vector<double> scores(const rw::spectrum& s, const rw::position_ids& where) {
    const rw::index n = where.tokens();
    auto q = heads(n), k = heads(n);
    std::reverse(k.begin(), k.end());
    const auto table = rw::make_factored_table<double>(s, where);
    rw::rotate(rw::half_split{}, rw::heads_view(q.data(), n, 1, head_dim),
               rw::heads_view(k.data(), n, 1, head_dim), table);
    std::vector<double> all;
    for (rw::index i = 0; i < n; ++i)
        for (rw::index j = 0; j < n; ++j)
            all.push_back(std::inner_product(q.begin() + i * head_dim, q.begin() + (i + 1) * head_dim,
                                             k.begin() + j * head_dim, 0.0));
    return all;
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
    double w = 0;
    for (std::size_t i = 0; i < a.size(); ++i) w = std::max(w, std::abs(a[i] - b[i]));
    return w;
}

const std::vector<positions::media_segment> prompt{
    {.tokens = 3}, {.kind = media::video, .frames = 3, .height = 4, .width = 5}, {.tokens = 2}};

/// Text, then the prompt: the same scheme further along.
std::vector<positions::media_segment> shifted() {
    std::vector<positions::media_segment> all = prompt;
    all.insert(all.begin(), {.tokens = 1000});
    return all;
}

template <class Scheme>
void scores_know_distances_only(const Scheme& scheme) {
    const auto s = scheme.rope.spectrum_for(1);
    const auto near = positions::make_stream(scheme.rule, std::span<const positions::media_segment>(prompt));
    const auto far =
        positions::make_stream(scheme.rule, std::span<const positions::media_segment>(shifted()));
    const auto moved = positions::slice_tokens(far.positions, 1000, near.tokens);
    CHECK(worst(scores(s, near.positions), scores(s, moved)) < 1e-10);
}

template <class Scheme>
void text_equals(const Scheme& scheme, const rw::spectrum& text) {
    const auto s = scheme.rope.spectrum_for(1);
    const auto stream = positions::make_stream(scheme.rule, {{.tokens = 20}});
    const auto got = rw::make_angles(s, stream.positions);
    const auto want = rw::make_angles(text, rw::position_ids::text(20));
    CHECK(worst(got, want) == 0);
    // Decoding reads an ordinary 1-D table of the joined spectrum.
    rw::position_table<double> table(rw::frequencies::join_axes(s), 32);
    const auto multi = rw::make_rotation_table<double>(s, stream.decode_positions(1));
    const std::int64_t next = static_cast<std::int64_t>(stream.next_position);
    const auto rows = table.rows(std::span(&next, 1));
    for (rw::index i = 0; i < s.pairs(); ++i) {
        CHECK(rows.cos_at(rows.row(0), 0)[i] == Approx(multi.cos_row(0)[i]).margin(1e-14));
        CHECK(rows.sin_at(rows.row(0), 0)[i] == Approx(multi.sin_row(0)[i]).margin(1e-14));
    }
}

}  // namespace

TEST_CASE("multimodal schemes: text alone is the text model's, under every scaling",
          "[schemes][mrope][reduces]") {
    const std::vector<rw::spectrum> scalings{
        rw::frequencies::geometric({.rotary_dim = head_dim}),
        rw::frequencies::yarn({.rotary_dim = head_dim, .factor = 3, .original_context = 4096}),
        rw::frequencies::llama3({.rotary_dim = head_dim})};
    for (const auto& s : scalings) {
        const auto text = text_scheme(s);
        text_equals(rw::mrope::over(text, {.sections = sections}), s);
        text_equals(
            rw::mrope::over(text, {.sections = {6, 5, 5}, .map = rw::mrope::section_map::interleaved}), s);
        text_equals(rw::mrope::time_aligned_over(text, {.sections = sections}), s);
        text_equals(rw::video_rope::over(text, {.sections = sections}), s);
        text_equals(rw::vrope::over(text), s);
        text_equals(rw::vrope::over(text, {.time_pairs = 3}), s);
    }
    const auto scaled =
        rw::mrope::over(text_scheme(scalings[1]), {.sections = sections}).rope.spectrum_for(1);
    CHECK(scaled.magnitude() == scalings[1].magnitude());
}

TEST_CASE("multimodal schemes: scores depend on distances only", "[schemes][mrope]") {
    const auto text = text_scheme(rw::frequencies::geometric({.rotary_dim = head_dim}));
    scores_know_distances_only(rw::mrope::over(text, {.sections = sections}));
    scores_know_distances_only(rw::video_rope::over(text, {.sections = sections}));
    scores_know_distances_only(rw::vrope::over(text));
    scores_know_distances_only(rw::hope_video::over(text, {.sections = sections, .scale = 0.75}));
}

TEST_CASE("mrope: contiguous and interleaved sections agree where t, h and w are equal", "[schemes][mrope]") {
    const auto text = text_scheme(rw::frequencies::geometric({.rotary_dim = head_dim}));
    const auto chunked = rw::mrope::over(text, {.sections = {6, 5, 5}}).rope.spectrum_for(1);
    const auto spread =
        rw::mrope::over(text, {.sections = {6, 5, 5}, .map = rw::mrope::section_map::interleaved})
            .rope.spectrum_for(1);
    const auto where = rw::position_ids::text(50, 7, 3);
    CHECK(rw::make_angles(chunked, where) == rw::make_angles(spread, where));
}

TEST_CASE("multimodal schemes: a length-dependent scaling stays one", "[schemes][mrope]") {
    rw::model_config config{.head_dim = head_dim};
    const auto text =
        rw::make_scheme(config, {.scaling = rw::rope_scaling::dynamic_ntk, .factor = 4, .max_context = 128});
    const auto scheme = rw::video_rope::over(text, {.sections = sections});
    CHECK(scheme.rope.length_dependent);
    const auto shorter = scheme.rope.spectrum_for(100), longer = scheme.rope.spectrum_for(1000);
    CHECK(longer.omega(15) < shorter.omega(15));
    CHECK(longer.axes() == 3);
    CHECK(rw::frequencies::axes_of_pairs(longer) == rw::axis_map::video_rope(sections));
}

TEST_CASE("multimodal schemes: partial heads rotate through the scheme", "[schemes][mrope]") {
    auto text = text_scheme(rw::frequencies::geometric({.rotary_dim = 16}));
    text.head_dim = head_dim;
    text.first_channel = 8;
    const auto scheme = rw::mrope::over(text, {.sections = {4, 2, 2}});
    const auto stream =
        positions::make_stream(scheme.rule, std::span<const positions::media_segment>(prompt));
    const auto s = scheme.rope.spectrum_for(1);
    const auto fresh = heads(stream.tokens);
    auto x = fresh, want = fresh, pair = fresh;
    rw::rotate(scheme.rope, rw::heads_view(x.data(), stream.tokens, 1, head_dim),
               rw::make_factored_table<double>(s, stream.positions));
    rw::rotate(scheme.rope, rw::heads_view(want.data(), stream.tokens, 1, head_dim),
               rw::make_rotation_table<double>(s, stream.positions));
    CHECK(worst(x, want) < 1e-14);
    for (rw::index n = 0; n < stream.tokens; ++n)
        for (rw::index c = 0; c < head_dim; ++c)
            if (c < 8 || c >= 24) CHECK(x[n * head_dim + c] == fresh[n * head_dim + c]);
    rw::rotate(scheme.rope, rw::heads_view(pair.data(), stream.tokens, 1, head_dim), rw::heads_view<double>(),
               rw::make_factored_table<double>(s, stream.positions));
    CHECK(pair == x);
    rw::unrotate(scheme.rope, rw::heads_view(x.data(), stream.tokens, 1, head_dim),
                 rw::make_factored_table<double>(s, stream.positions));
    CHECK(worst(x, fresh) < 1e-14);
    rw::rotate_gradient(scheme.rope, rw::heads_view(pair.data(), stream.tokens, 1, head_dim),
                        rw::make_factored_table<double>(s, stream.positions));
    CHECK(worst(pair, fresh) < 1e-14);
}

TEST_CASE("multimodal schemes: a layer without rotation stays one", "[schemes][mrope]") {
    rw::rotary_scheme nope;
    nope.rotates = false;
    CHECK_FALSE(rw::mrope::over(nope, {}).rope.rotates);
    CHECK(rw::mrope::over(nope, {}).rope.spectrum_for(1).pairs() == 0);
}

TEST_CASE("multimodal schemes: sections that do not sum to the pairs", "[schemes][mrope][errors]") {
    const auto text = text_scheme(rw::frequencies::geometric({.rotary_dim = head_dim}));
    const std::string wrong = ": sections must sum to the 16 pairs, got 15";
    CHECK_THROWS_WITH(rw::mrope::over(text, {.sections = {4, 6, 5}}), "mrope::over" + wrong);
    CHECK_THROWS_WITH(rw::video_rope::over(text, {.sections = {4, 6, 5}}), "video_rope::over" + wrong);
    CHECK_THROWS_WITH(rw::hope_video::over(text, {.sections = {4, 6, 5}, .scale = 1}), "hope_video" + wrong);
    CHECK_THROWS_WITH(
        rw::mrope::over(text, {.sections = {2, 7, 7}, .map = rw::mrope::section_map::interleaved}),
        "axis_map::interleaved_sections: sections[1] must be <= (pairs + 1) / 3, got 7");
    CHECK_THROWS_WITH(rw::vrope::over(text, {.time_pairs = 16}),
                      "axis_map::vrope: time_pairs must be >= 0 and < pairs, got 16");
}

TEST_CASE("mrope: the text models and sections of Qwen2-VL and Qwen3-VL", "[schemes][mrope]") {
    const auto qwen2 = rw::mrope::text_model();
    CHECK(qwen2.head_dim == 128);
    CHECK(qwen2.rotary_dim == 128);
    CHECK(qwen2.read_layout == rw::pair_layout(rw::half_split{}));
    CHECK(qwen2.spectrum_for(1).omega(63) == Approx(std::pow(1e6, -126.0 / 128)).epsilon(1e-14));
    CHECK(rw::frequencies::axes_of_pairs(rw::mrope::over(qwen2, {}).rope.spectrum_for(1)) ==
          rw::axis_map::sections({16, 24, 24}));
    const auto qwen3 = rw::mrope::over(rw::mrope::text_model(rw::mrope::qwen3_vl_text),
                                       {.map = rw::mrope::section_map::interleaved})
                           .rope.spectrum_for(1);
    CHECK(rw::frequencies::axes_of_pairs(qwen3) == rw::axis_map::interleaved_sections({24, 20, 20}));
    CHECK(qwen3.omega(63) == Approx(std::pow(5e6, -126.0 / 128)).epsilon(1e-14));
    CHECK(rw::vrope::over(rw::mrope::text_model(rw::vrope::vicuna_text)).rope.spectrum_for(1).omega(63) ==
          Approx(std::pow(1e4, -126.0 / 128)).epsilon(1e-14));
    // A quarter of the head turns, as in the Qwen models that came after.
    const auto partial = rw::mrope::text_model({.head_dim = 256, .rotary_dim = 64, .base = 1e7});
    CHECK(partial.rotary_dim == 64);
    CHECK(partial.spectrum_for(1).pairs() == 32);
    CHECK_THROWS_WITH(rw::mrope::text_model({.head_dim = 64, .rotary_dim = 128}),
                      "make_fixed_scheme: head_dim must hold the channels that rotate, got 64");
}

TEST_CASE("mrope: a video of 64 x 16 x 16 needs 1,792 cosines and sines", "[schemes][mrope]") {
    const auto scheme = rw::mrope::over(rw::mrope::text_model(), {});
    const auto s = scheme.rope.spectrum_for(1);
    // From position 1, so that no angle is 0 but those of pairs that a level does not move.
    const auto stream = positions::make_stream(
        scheme.rule, {{.tokens = 1}, {.kind = media::video, .frames = 64, .height = 16, .width = 16}});
    const auto clip = positions::slice_tokens(stream.positions, 1, 64 * 16 * 16);
    CHECK(clip.tokens() * s.pairs() == 1'048'576);
    const auto table = rw::make_factored_table<double>(s, clip);
    CHECK(table.row_count() == 64 + 16 + 16);
    const auto rows = table.rows();
    rw::index turned = 0;
    for (rw::index b = 0; b < rows.block_count; ++b)
        for (rw::index l = 0; l < rows.blocks[b].level_count; ++l) {
            const auto& level = rows.levels[rows.blocks[b].first_level + l];
            for (rw::index r = 0; r < level.extent; ++r) {
                const double* const cos = rows.row_of(level, r, 0);
                const double* const sin = cos + rows.pair_stride;
                for (rw::index i = 0; i < s.pairs(); ++i) turned += cos[i] != 1 || sin[i] != 0;
            }
        }
    CHECK(turned == 1'792);
}
