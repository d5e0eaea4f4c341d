// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/models/model_config.hpp>

#include <cmath>
#include <limits>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {
model_config plain(ropewalk::index layers, ropewalk::index head_dim) {
    model_config c;
    c.layers = layers;
    c.head_dim = head_dim;
    c.ropes.push_back({});
    return c;
}
}  // namespace

TEST_CASE("model_config: layers of one kind share one scheme", "[models][model_config]") {
    auto c = plain(5, 16);
    c.ropes.push_back({.scaling = rope_scaling::linear, .factor = 4});
    c.rope_of_layer = {1, -1, 0, 1, -1};
    const auto m = make_model_schemes(c);
    REQUIRE(m.layers() == 5);
    CHECK(m.distinct().size() == 3);
    CHECK(&m[0] == &m[3]);
    CHECK(&m[1] == &m[4]);
    CHECK_FALSE(m[1].rotates);
    CHECK(m[1].spectrum_for(7).pairs() == 0);
    CHECK(m[0].spectrum_for(1).omega(0) == 0.25);
    CHECK(m[2].spectrum_for(1).omega(0) == 1.0);
}

TEST_CASE("model_config: the indexer is the rope in heads of its own, and gives nothing back",
          "[models][model_config]") {
    auto c = plain(1, 16);
    c.rotates_output_back = true;
    c.indexer_dim = 24;
    c.indexer_first_channel = 8;
    c.indexer_layout = interleaved{};
    c.ropes[0].logit_scale = 1.5;
    const auto m = make_model_schemes(c);
    CHECK(m[0].rotates_output_back);
    CHECK(m[0].logit_scale == 1.5);
    REQUIRE(m[0].indexer != nullptr);
    const rotary_scheme& indexer = *m[0].indexer;
    CHECK_FALSE(indexer.rotates_output_back);
    CHECK(indexer.logit_scale == 1);
    CHECK(indexer.head_dim == 24);
    CHECK(indexer.first_channel == 8);
    CHECK(indexer.rotary_dim == 16);
    CHECK(indexer.read_layout == pair_layout(interleaved{}));
    CHECK(indexer.write_layout == pair_layout(interleaved{}));
    CHECK(indexer.spectrum_for(1).omegas() == m[0].spectrum_for(1).omegas());
    CHECK(indexer.indexer == nullptr);
    for (const ropewalk::index first : {-1, 9}) {
        c.indexer_first_channel = first;
        CHECK_THROWS_AS(make_model_schemes(c), invalid_config);
    }
}

TEST_CASE("model_config: divisors and sections compose with every scaling", "[models][model_config]") {
    for (const auto scaling : {rope_scaling::none, rope_scaling::linear, rope_scaling::ntk,
                               rope_scaling::dynamic_ntk, rope_scaling::dynamic_linear,
                               rope_scaling::ntk_by_parts, rope_scaling::yarn, rope_scaling::dynamic_yarn,
                               rope_scaling::llama3, rope_scaling::longrope, rope_scaling::proportional}) {
        INFO(to_text(scaling));
        rope_parameters p{.scaling = scaling, .factor = 4, .original_context = 512, .max_context = 2048};
        p.short_factors.assign(8, 1.5);
        p.long_factors.assign(8, 3);
        const auto bare = make_spectrum(p, 16, 4096);
        p.sections = {2, 3, 3};
        p.pair_factors = {1, 2, 3, 4, 5, 6, 7, 8};
        for (const auto order : {section_order::contiguous, section_order::interleaved}) {
            p.order = order;
            if (order == section_order::interleaved) p.sections = {4, 2, 2};
            const auto s = make_spectrum(p, 16, 4096);
            CHECK(s.axes() == 3);
            CHECK(s.magnitude() == bare.magnitude());
            p.attn_factor = 1.25;
            CHECK(make_spectrum(p, 16, 4096).magnitude() == Approx(1.25 * bare.magnitude()).epsilon(1e-15));
            p.attn_factor = 1;
            for (ropewalk::index i = 0; i < 8; ++i)
                CHECK(s.omega(i) == Approx(bare.omega(i) / (i + 1)).epsilon(1e-15));
        }
    }
}

TEST_CASE("model_config: length-dependent scalings say so and are pure", "[models][model_config]") {
    auto c = plain(1, 16);
    c.ropes[0] = {.scaling = rope_scaling::dynamic_ntk, .factor = 2, .max_context = 512};
    const auto rope = make_model_schemes(c)[0];
    CHECK(rope.length_dependent);
    const auto early = rope.spectrum_for(512).omegas();
    CHECK(rope.spectrum_for(2048).omegas() != early);
    CHECK(rope.spectrum_for(512).omegas() == early);
    CHECK_REFUSES("spectrum_for: context_length must be >= 1, got 0", rope.spectrum_for(0));
}

TEST_CASE("model_config: refuses data that does not fit", "[models][model_config][errors]") {
    CHECK_REFUSES("make_model_schemes: layers must be in [1, 65536], got 0",
                  make_model_schemes(plain(0, 16)));
    CHECK_REFUSES("make_model_schemes: head_dim must be >= 1, got 0", make_model_schemes(plain(1, 0)));
    auto c = plain(2, 16);
    c.rope_of_layer = {0};
    CHECK_REFUSES("make_model_schemes: rope_of_layer must have one entry a layer: wanted 2, got 1",
                  make_model_schemes(c));
    c.rope_of_layer = {0, 1};
    CHECK_REFUSES("make_model_schemes: rope_of_layer must be -1 or name an entry of ropes, got 1",
                  make_model_schemes(c));
    c = plain(1, 16);
    c.first_channel = 10;
    c.rotary_channels = 8;
    CHECK_REFUSES("make_model_schemes: first_channel + rotary_channels must be <= head_dim, got 18",
                  make_model_schemes(c));
    c = plain(1, 16);
    c.read_layout = pair_layout::blocked_by(6);
    CHECK_REFUSES("make_model_schemes: rotary_dim must be a multiple of the layout's group, got 16",
                  make_model_schemes(c));
    c = plain(1, 16);
    c.ropes[0].scaling = rope_scaling::linear;
    CHECK_REFUSES("make_model_schemes: factor must be given, got linear", make_model_schemes(c));
    c.ropes[0] = {.scaling = rope_scaling::yarn};
    CHECK_REFUSES("make_model_schemes: original_context must be given where factor is not, got 0",
                  make_model_schemes(c));
    c.ropes[0].original_context = 4096;
    CHECK_REFUSES("make_model_schemes: factor must be given where max_context is not, got 0",
                  make_model_schemes(c));
    c.ropes[0] = {.scaling = rope_scaling::yarn, .factor = 4, .original_context = 0.5};
    c.ropes[0].bounds = frequencies::bounds_check::strict;
    CHECK_REFUSES("yarn: original_context must let the ramp run upwards: low must be <= high, got 0",
                  make_model_schemes(c));
    c.ropes[0].scaling = rope_scaling::dynamic_yarn;
    c.ropes[0].max_context = 8;
    CHECK_REFUSES("yarn: original_context must let the ramp run upwards: low must be <= high, got 0",
                  make_model_schemes(c));
    c.ropes[0] = {.sections = {3, 3}};
    CHECK_REFUSES("assign_axes: axis_of_pair must have one entry per pair, 8, got 6", make_model_schemes(c));
    const auto huge = support::huge(61);
    for (const auto& sections : {std::vector<ropewalk::index>{4, 5}, {huge, huge, huge, huge}, {-5, 13}}) {
        c.ropes[0] = {.sections = sections};
        CHECK_REFUSES("make_spectrum: sections must be >= 0 and sum to no more than the pairs, got " +
                          std::to_string(sections[0] == 4 ? 5 : sections[0]),
                      make_model_schemes(c));
    }
    CHECK_REFUSES("make_model_schemes: head_dim must be <= 65536, got " + std::to_string(huge),
                  make_model_schemes(plain(1, huge)));
    c = plain(1, 16);
    c.rotary_channels = huge;
    CHECK_REFUSES("make_model_schemes: rotary_channels must be <= head_dim, got " + std::to_string(huge),
                  make_model_schemes(c));
    c = plain(1, 16);
    for (const auto first : {ropewalk::index{-1}, ropewalk::index{17}, 4 * (huge - 1) + 3}) {
        c.first_channel = first;
        CHECK_REFUSES(
            "make_model_schemes: first_channel must be in [0, head_dim], got " + std::to_string(first),
            make_model_schemes(c));
    }
    c = plain(1, 15);
    CHECK_REFUSES("partial_rotary_dim: head_dim * partial_rotary_factor must be even, got 15",
                  make_model_schemes(c));
}

TEST_CASE("model_config: cached keys move from one length or scaling to another",
          "[models][model_config][rebase]") {
    const auto where = position_ids::from(std::vector<double>{0, 1, 700, 4095});
    std::vector<spectrum> spectra;
    for (const auto scaling :
         {rope_scaling::none, rope_scaling::linear, rope_scaling::dynamic_ntk, rope_scaling::yarn,
          rope_scaling::dynamic_yarn, rope_scaling::longrope, rope_scaling::llama3})
        for (const std::int64_t length : {512, 4096}) {
            rope_parameters p{.scaling = scaling, .factor = 4, .original_context = 512, .max_context = 2048};
            p.short_factors.assign(8, 1.5);
            p.long_factors.assign(8, 3);
            spectra.push_back(make_spectrum(p, 16, length));
        }
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    std::vector<double> keys(4 * 2 * 16);
    for (double& k : keys) k = normal(random);
    const auto turned = [&](const rotation_table<double>& table, std::vector<double> x) {
        rotate(half_split{}, heads_view(x.data(), 4, 2, 16), table);
        return x;
    };
    for (const auto& from : spectra)
        for (const auto& to : spectra) {
            const auto cached = turned(make_rotation_table<double>(from, where), keys);
            const auto moved = turned(make_rebase_table<double>(from, to, where), cached);
            const auto fresh = turned(make_rotation_table<double>(to, where), keys);
            for (std::size_t i = 0; i < keys.size(); ++i) CHECK(std::abs(moved[i] - fresh[i]) < 1e-11);
        }
}

TEST_CASE("model_config: the longest context is the config's or the one that the scaling reaches",
          "[models][model_config]") {
    const auto longest = [](rope_parameters rope) {
        model_config c;
        c.head_dim = 16;
        rope.factor = 4;
        c.ropes.push_back(std::move(rope));
        return make_model_schemes(c)[0].max_context;
    };
    for (const auto scaling : {rope_scaling::yarn, rope_scaling::linear, rope_scaling::ntk_by_parts}) {
        INFO(to_text(scaling));
        // Trained at 512 and scaled by 4; max_context is the trained length, the scaled one, or unknown.
        for (const double said : {512., 2048., 0.})
            CHECK(longest({.scaling = scaling, .original_context = 512, .max_context = said}) == 2048);
        CHECK(longest({.scaling = scaling, .original_context = 512, .max_context = 4096}) == 4096);
        // Without an original context the number may be either length (Gemma 3: the scaled one).
        CHECK(longest({.scaling = scaling, .max_context = 2048}) == 2048);
    }
    // Their factor is not a ratio of lengths, or the length itself decides.
    CHECK(longest({.scaling = rope_scaling::llama3, .original_context = 512, .max_context = 1024}) == 1024);
    CHECK(longest({.scaling = rope_scaling::none, .original_context = 512, .max_context = 512}) == 512);
    CHECK(longest({.scaling = rope_scaling::dynamic_ntk, .max_context = 512}) == 512);
}

TEST_CASE("model_config: a softmax scale reaches every layer relative to its own head",
          "[models][model_config]") {
    model_config c;
    c.layers = 3;
    c.head_dim = 64;
    c.softmax_scale = 0.0625;
    c.ropes.push_back({.logit_scale = 3});
    c.ropes.push_back({.head_dim = 256});
    c.rope_of_layer = {0, 1, -1};
    c.indexer_dim = 256;
    const auto m = make_model_schemes(c);
    CHECK(m[0].logit_scale == 1.5);  // 0.0625 * sqrt(64), times that of the rope
    CHECK(m[0].indexer->logit_scale == 1);
    CHECK(m[2].logit_scale == 0.5);  // a layer without rotation has logits too
    CHECK(m[1].logit_scale == 1);    // 0.0625 * sqrt(256)
    for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
        c.softmax_scale = bad;
        CHECK_FALSE(support::refusal([&] { static_cast<void>(make_model_schemes(c)); }).empty());
    }
    c.softmax_scale = -1;
    CHECK_REFUSES("make_model_schemes: softmax_scale must be finite and > 0, got -1", make_model_schemes(c));
}
