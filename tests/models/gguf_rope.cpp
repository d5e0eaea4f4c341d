// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/gguf_rope.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using i64 = std::int64_t;
namespace checks = ropewalk::ROPEWALK_ISA::detail;

TEST_CASE("gguf_rope: the scale of a file", "[models][gguf]") {
    const auto scale = [](std::map<std::string, gguf_value> values) {
        const gguf_metadata file{.values = std::move(values)};
        checks::gguf_keys keys(file, "a");
        return checks::gguf_scale_of(keys);
    };
    CHECK(scale({}).factor == 1);
    CHECK(scale({}).type == "linear");
    CHECK(scale({{"a.rope.scale_linear", 8.0}}).factor == 8);
    CHECK(scale({{"a.rope.scale_linear", 8.0}, {"a.rope.scaling.factor", 2.0}}).factor == 2);
    CHECK(scale({{"a.rope.scaling.factor", 0.0}}).factor == 1);
    CHECK(scale({{"a.rope.scaling.factor", 4.0}, {"a.rope.scaling.type", std::string("none")}}).factor == 1);
    CHECK_REFUSES("from_gguf: a.rope.scaling.factor must be a number >= 0, got -2",
                  scale({{"a.rope.scaling.factor", -2.0}}));
}

TEST_CASE("gguf_rope: a tensor of more pairs than a layer rotates is cut, any other is left",
          "[models][gguf]") {
    std::vector<float> tensor(64, 1.0f);
    checks::cut_tensor(tensor, 128, 64);
    CHECK(tensor.size() == 32);
    checks::cut_tensor(tensor, 128, 64);
    CHECK(tensor.size() == 32);
    tensor.assign(63, 1.0f);
    checks::cut_tensor(tensor, 128, 64);
    CHECK(tensor.size() == 63);
}

TEST_CASE("gguf_rope: the multiplier of latent attention is a tenth", "[models][gguf]") {
    const gguf_metadata file{.values = {{"a.rope.scaling.yarn_log_multiplier", 0.0707},
                                        {"a.rope.scaling.original_context_length", i64{4096}}}};
    checks::gguf_keys keys(file, "a");
    const auto p = checks::gguf_rope(keys, {.name = "a", .latent = true}, {"yarn", 40}, 64);
    CHECK(p.scaling == rope_scaling::yarn);
    CHECK(p.mscale_all_dim == Approx(0.707).epsilon(1e-14));
    CHECK(p.logit_scale == Approx(std::pow(1 + 0.1 * 0.707 * std::log(40.0), 2)).epsilon(1e-14));
    checks::gguf_keys again(file, "a");
    CHECK(checks::gguf_rope(again, {}, {"yarn", 40}, 64).logit_scale == 1);
}

TEST_CASE("gguf_rope: sections count only where their order is known", "[models][gguf]") {
    const gguf_metadata file{.values = {{"a.rope.dimension_sections", std::vector<i64>{8, 12, 12, 0}}}};
    const auto read = [&](checks::gguf_sections known, model_config& config, rope_parameters& p) {
        checks::gguf_keys keys(file, "a");
        config.model_type = "a";
        return checks::read_gguf_sections(keys, {.name = "a", .sections = known}, strictness::lenient, 32,
                                          config, p);
    };
    model_config without, with;
    rope_parameters plain, of_three;
    CHECK_FALSE(read(checks::gguf_sections::none, without, plain));
    CHECK(without.ignored == std::vector<std::string>{"a.rope.dimension_sections"});
    CHECK(plain.sections.empty());
    CHECK(read(checks::gguf_sections::interleaved, with, of_three));
    CHECK(with.ignored.empty());
    CHECK(of_three.sections == decltype(of_three.sections){8, 12, 12});
    CHECK(of_three.order == section_order::interleaved);
    // No section, or one of all pairs, says nothing of an order: even a strict reading takes it.
    for (const i64 first : {0, 32}) {
        const gguf_metadata plain_file{
            .values = {{"a.rope.dimension_sections", std::vector<i64>{first, 0, 0, 0}}}};
        checks::gguf_keys keys(plain_file, "a");
        model_config read_config{.model_type = "a"};
        rope_parameters read_rope;
        CHECK_FALSE(
            checks::read_gguf_sections(keys, {.name = "a"}, strictness::strict, 32, read_config, read_rope));
        CHECK(read_config.ignored.empty());
        CHECK(read_rope.sections.empty());
    }
}
