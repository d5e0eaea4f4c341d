// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/presets_published.hpp>

#include <string>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("presets_published: each comes to the numbers of its model", "[models][presets]") {
    constexpr auto hf = weights::hugging_face;
    struct row {
        const char* name;
        model_schemes schemes;
        const char* first_layers;  // of the map
        ropewalk::index layers, head_dim, first_channel, rotary_dim;
        double slowest;  // of the first layer that rotates
        double logits;
    };
    const row rows[] = {
        {"afmoe", presets::afmoe(hf), "aaa-aaa-", 32, 128, 0, 128, 0.000115478, 1},
        {"deepseek_v32", presets::deepseek_v32(hf), "aaaa", 61, 192, 128, 64, 3.3338e-06, 1.87385421},
        {"deepseek_v4_pro", presets::deepseek_v4_pro(hf), "aaaa", 61, 512, 448, 64, 5.68053e-07, 1},
        {"ernie45_21b", presets::ernie45_21b(hf), "aaaa", 28, 128, 0, 128, 2.45514e-06, 1},
        {"ernie45_vl_28b", presets::ernie45_vl_28b(hf), "aaaa", 28, 128, 0, 128, 2.45514e-06, 1},
        {"exaone4_32b", presets::exaone4_32b(hf), "aaa-aaa-", 64, 128, 0, 128, 7.75586e-08, 1},
        {"falcon_h1_7b", presets::falcon_h1_7b(hf), "aaaa", 44, 128, 0, 128, 1.48551e-11, 1},
        {"gemma3n_e4b", presets::gemma3n_e4b(hf), "aaaabaaaab", 35, 256, 0, 256, 0.000107461, 1},
        {"glm45", presets::glm45(hf), "aaaa", 92, 128, 0, 64, 1.53993e-06, 1},
        {"glm47_flash", presets::glm47_flash(hf), "aaaa", 47, 256, 192, 64, 1.53993e-06, 1},
        {"glm5", presets::glm5(hf), "aaaa", 78, 256, 192, 64, 1.53993e-06, 1},
        {"granite4_micro", presets::granite4_micro(hf), "aaaa", 40, 64, 0, 64, 1.65482e-07, 0.125},
        {"kimi_k2", presets::kimi_k2(hf), "aaaa", 61, 192, 128, 64, 8.76441e-07, 1.81326043},
        {"longcat_flash", presets::longcat_flash(hf), "aaaa", 28, 192, 128, 64, 1.65482e-07, 1},
        {"mimo_v2_flash", presets::mimo_v2_flash(hf), "abbbbabbbbba", 48, 192, 0, 64, 3.23872e-07, 1},
        {"minimax_m2", presets::minimax_m2(hf), "aaaa", 62, 128, 0, 64, 3.23872e-07, 1},
        {"modernbert_base", presets::modernbert_base(hf), "abbabba", 22, 64, 0, 64, 9.08885e-06, 1},
        {"nomic_embed_v15", presets::nomic_embed_v15(hf), "aaaa", 12, 64, 0, 64, 0.00124094, 1},
        {"qwen3_omni_30b", presets::qwen3_omni_30b(hf), "aaaa", 48, 128, 0, 128, 1.24094e-06, 1}};
    for (const auto& r : rows) {
        INFO(r.name);
        REQUIRE(r.schemes.layers() == r.layers);
        std::string map;
        for (ropewalk::index l = 0; l < r.schemes.layers(); ++l)
            map += r.schemes[l].rotates ? static_cast<char>('a' + r.schemes.scheme_of(l)) : '-';
        CHECK(map.starts_with(r.first_layers));
        const auto& rope = r.schemes[0];
        CHECK(rope.head_dim == r.head_dim);
        CHECK(rope.first_channel == r.first_channel);
        CHECK(rope.rotary_dim == r.rotary_dim);
        CHECK(rope.logit_scale == Approx(r.logits).epsilon(1e-6));
        const auto s = rope.spectrum_for(1);
        CHECK(s.omega(s.pairs() - 1) == Approx(r.slowest).epsilon(1e-5));
    }
    CHECK(presets::glm45(hf)[0].read_layout == half_split{});
    CHECK(presets::deepseek_v4_pro(hf)[0].rotates_output_back);
    CHECK(presets::glm5(hf)[0].indexer->read_layout == interleaved{});
    CHECK(presets::qwen3_omni_30b(hf)[0].spectrum_for(1).axes() == 3);
    CHECK_REFUSES("afmoe: weights must be hugging_face (the layout of others is not the class's), got gguf",
                  presets::afmoe(weights::gguf));
}
