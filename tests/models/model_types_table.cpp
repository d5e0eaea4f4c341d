// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/model_types_table.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>

#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"

using namespace ropewalk;
using rules = ropewalk::ROPEWALK_ISA::detail::model_rules;
using ropewalk::ROPEWALK_ISA::detail::layer_map;
using ropewalk::ROPEWALK_ISA::detail::layer_rule;
using ropewalk::ROPEWALK_ISA::detail::pair_order;
using ropewalk::ROPEWALK_ISA::detail::slice_place;

namespace {

const auto& table = ropewalk::ROPEWALK_ISA::detail::model_types;
const auto& wrapped = ropewalk::ROPEWALK_ISA::detail::composite_types;
const rules* find(std::string_view model_type) {
    return ropewalk::ROPEWALK_ISA::detail::find_model_rules(model_type);
}

/// A config that leaves to the class whatever it can: heads of 96 channels where the class has no size.
nlohmann::json bare_config(std::string_view model_type) {
    return {{"model_type", model_type},       {"hidden_size", 768}, {"num_attention_heads", 8},
            {"num_hidden_layers", 12},        {"n_embd", 768},      {"n_head", 8},
            {"max_position_embeddings", 4096}};
}
std::string map_of(const model_schemes& m) {
    std::string kinds;
    for (ropewalk::index l = 0; l < m.layers(); ++l)
        kinds += m[l].rotates ? static_cast<char>('a' + m.scheme_of(l)) : '-';
    return kinds;
}

}  // namespace

TEST_CASE("model_types_table: every class is found by its name, and nothing else is",
          "[models][huggingface]") {
    for (const auto& m : table) {
        INFO(m.model_type);
        CHECK(find(m.model_type) == &m);  // a second entry of a name would never be read
    }
    for (const char* name : {"", "llam", "llama2", "Llama", "qwen3_", " llama"}) {
        INFO(name);
        CHECK(find(name) == nullptr);
    }
}

TEST_CASE("model_types_table: what wraps a text model names one that is known, and once",
          "[models][huggingface]") {
    std::set<std::string_view> names;
    for (const auto& m : table) names.insert(m.model_type);
    for (const auto& w : wrapped) {
        INFO(w.model_type);
        CHECK(names.insert(w.model_type).second);
        REQUIRE(find(w.model_type) != nullptr);
        CHECK(find(w.model_type)->model_type == w.text_type);
    }
}

TEST_CASE("model_types_table: what a class says fits together", "[models][huggingface]") {
    for (const auto& m : table) {
        INFO(m.model_type);
        CHECK(m.theta > 1);
        CHECK((m.partial > 0 && m.partial <= 1));
        CHECK((m.partial == 1 || m.honours_partial));
        CHECK(m.head_dim % 2 == 0);
        CHECK((m.every == 0 || m.rule != layer_rule::all));
        CHECK((m.listed != nullptr) == (m.map == layer_map::listed));
        CHECK((m.local_theta == 0 || m.rule == layer_rule::by_type));
        CHECK((m.pairs != pair_order::adjacent_to_half || m.place == slice_place::behind_nope));
        CHECK((m.place != slice_place::behind_nope) == (m.nope_dim == 0));
        CHECK((m.global_head_dim == 0 || m.rule == layer_rule::by_type));
    }
}

TEST_CASE("model_types_table: the pairs of these classes are interleaved", "[models][huggingface]") {
    std::set<std::string> interleaved_classes;
    for (const auto& m : table)
        if (m.pairs != pair_order::half) interleaved_classes.emplace(m.model_type);
    CHECK(interleaved_classes == std::set<std::string>{"axk1",
                                                       "axk2",
                                                       "blt_global_transformer",
                                                       "blt_local_decoder",
                                                       "blt_local_encoder",
                                                       "blt_patcher",
                                                       "chatglm",
                                                       "codegen",
                                                       "cohere",
                                                       "cohere2",
                                                       "cohere2_moe",
                                                       "deepseek_v2",
                                                       "deepseek_v3",
                                                       "deepseek_v32",
                                                       "deepseek_v4",
                                                       "ernie4_5",
                                                       "ernie4_5_moe",
                                                       "ernie4_5_vl_moe_text",
                                                       "glm",
                                                       "glm4",
                                                       "glm4_moe_lite",
                                                       "glm4v_text",
                                                       "glm_moe_dsa",
                                                       "glm_ocr_text",
                                                       "gptj",
                                                       "helium",
                                                       "kimi_k2",
                                                       "llama4_text",
                                                       "longcat_flash",
                                                       "mistral4",
                                                       "moonshine",
                                                       "openai_privacy_filter",
                                                       "roformer",
                                                       "youtu"});
}

TEST_CASE("model_types_table: a missing rope_theta is the class's", "[models][huggingface]") {
    const std::pair<const char*, double> classes[] = {
        {"llama", 1e4},       {"qwen", 1e4},          {"mixtral", 1e6},    {"qwen2", 1e4},
        {"qwen2_vl", 1e6},    {"qwen2_vl_text", 1e6}, {"qwen2_5_vl", 1e6}, {"qwen2_5_vl_text", 1e6},
        {"gpt_oss", 150000},  {"smollm3", 2e6},       {"cohere", 5e5},     {"cohere2", 1e4},
        {"llama4_text", 5e5}, {"olmo3", 5e5},         {"helium", 1e5},     {"ernie4_5", 5e5},
        {"apertus", 1.2e7}};
    for (const auto& [name, base] : classes) {
        INFO(name);
        auto bare = bare_config(name);
        bare["head_dim"] = 128;  // the sections of Qwen2-VL's class are 64 pairs
        const auto config = from_huggingface(bare);
        CHECK(config.ropes.front().base == base);
    }
    // Gemma 3 has two, and the config may give either.
    for (const char* name : {"gemma3_text", "gemma4_text"}) {
        INFO(name);
        auto config = bare_config(name);
        const auto bases = [&] {
            const auto read = from_huggingface(config);
            REQUIRE(read.ropes.size() == 2);
            return std::pair(read.ropes[0].base, read.ropes[1].base);
        };
        CHECK(bases() == std::pair(1e6, 1e4));
        config["rope_theta"] = 5e4;
        CHECK(bases() == std::pair(5e4, 1e4));
        config["rope_local_base_freq"] = 200;
        CHECK(bases() == std::pair(5e4, 200.0));
    }
}

TEST_CASE("model_types_table: missing sizes are the class's, also against the width",
          "[models][huggingface]") {
    struct sizes {
        const char* name;
        ropewalk::index head_dim, rotary_dim;
    };
    for (const auto& s : {sizes{"llama", 96, 96},    {"qwen", 96, 96},
                          {"gemma", 256, 256},       {"gemma2", 256, 256},
                          {"gemma3_text", 256, 256}, {"gpt_oss", 64, 64},
                          {"llama4_text", 128, 128}, {"ministral3", 128, 128},
                          {"qwen3", 128, 128},       {"qwen3_moe", 96, 96},
                          {"qwen3_next", 256, 64},   {"qwen3_vl_text", 128, 128},
                          {"helium", 128, 128},      {"ernie4_5", 128, 128},
                          {"glm", 128, 64},          {"glm4", 128, 64},
                          {"chatglm", 96, 48},       {"gptj", 96, 64},  // its rotary_dim is 64 unless given
                          {"phi", 96, 48},           {"gpt_neox", 96, 24},
                          {"stablelm", 96, 24},      {"nemotron", 96, 48},
                          {"deepseek_v3", 192, 64}}) {
        INFO(s.name);
        const auto schemes = make_model_schemes(from_huggingface(bare_config(s.name)));
        const auto turning = std::find_if(schemes.distinct().begin(), schemes.distinct().end(),
                                          [](const rotary_scheme& r) { return r.rotates; });
        REQUIRE(turning != schemes.distinct().end());
        CHECK(turning->head_dim == s.head_dim);
        CHECK(turning->rotary_dim == s.rotary_dim);
        // A head_dim of the config comes first (not of latent heads, nor where it fits no sections).
        auto given = bare_config(s.name);
        given["head_dim"] = 80;
        if (find(s.name)->place == slice_place::front && find(s.name)->sections[0] == 0)
            CHECK(from_huggingface(given).head_dim == 80);
    }
}

TEST_CASE("model_types_table: missing kinds of layers are the class's", "[models][huggingface]") {
    const std::pair<const char*, const char*> classes[] = {
        {"llama", "aaaaaaaaaaaa"},     {"gemma3_text", "aaaaabaaaaab"}, {"olmo3", "aaabaaabaaab"},
        {"cohere2", "aaa-aaa-aaa-"},   {"smollm3", "aaa-aaa-aaa-"},     {"llama4_text", "aaa-aaa-aaa-"},
        {"qwen3_next", "---b---b---b"}};
    for (const auto& [name, map] : classes) {
        INFO(name);
        CHECK(map_of(make_model_schemes(from_huggingface(bare_config(name)))) == map);
    }
    // Gemma 4 ends on a layer that sees everything, wherever its period stands; nothing else does.
    const std::set<std::string_view> ends_full{"gemma4_text", "gemma4_unified_text", "diffusion_gemma_text"};
    for (const auto& m : table) {
        if (m.rule != layer_rule::by_type || m.every != 6 || m.scaling == nullptr) continue;
        INFO(m.model_type);
        auto config = bare_config(m.model_type);
        config["num_hidden_layers"] = 10;
        CHECK(map_of(make_model_schemes(from_huggingface(config))) ==
              (ends_full.contains(m.model_type) ? "aaaaabaaab" : "aaaaabaaaa"));
    }
    for (const auto& m : table) {
        INFO(m.model_type);
        CHECK(m.last_is_full == ends_full.contains(m.model_type));
    }
}

namespace {

/// "3a 1-" is aaa-.
std::string spelled_out(const std::string& runs) {
    std::string map;
    for (std::size_t at = 0; at < runs.size(); ++at) {
        std::size_t length = 0;
        for (; runs[at] >= '0' && runs[at] <= '9'; ++at)
            length = 10 * length + static_cast<std::size_t>(runs[at] - '0');
        map.append(length, runs[at++]);
    }
    return map;
}

/// One kind of layer against what the official code was measured to do.
void check_kind(const rotary_scheme& rope, const nlohmann::json& kind) {
    REQUIRE(rope.rotates);
    const auto s = rope.spectrum_for(1);
    const auto count = [&](const char* key) { return kind.at(key).get<ropewalk::index>(); };
    // Some classes hand over the slice alone, others the head.
    const bool whole = count("width") == rope.head_dim;
    CHECK((whole || count("width") == rope.rotary_dim));
    CHECK((rope.first_channel == count("first") || (whole && rope.first_channel == 0)));
    ropewalk::index moving = 0;
    for (ropewalk::index i = 0; i < s.pairs(); ++i) moving += s.omega(i) != 0;
    CHECK(moving == count("pairs"));
    CHECK(s.magnitude() == Approx(kind.at("magnitude").get<double>()).epsilon(1e-5));
    if (kind.contains("logits"))
        CHECK(rope.logit_scale == Approx(kind.at("logits").get<double>()).epsilon(1e-6));
    const auto offset = whole ? rope.first_channel : 0;
    for (const auto& row : kind.at("at")) {
        ropewalk::index pair = -1;
        for (ropewalk::index i = 0; i < s.pairs() && pair < 0; ++i)
            if (rope.read_layout.first(i, s.pairs()) + offset == row[0]) pair = i;
        INFO("channel " << row[0]);
        REQUIRE(pair >= 0);
        CHECK(rope.read_layout.second(pair, s.pairs()) + offset == row[1]);
        CHECK(rope.write_layout.first(pair, s.pairs()) + offset == row[2]);
        CHECK(rope.write_layout.second(pair, s.pairs()) + offset == row[3]);
        CHECK(s.omega(pair) == Approx(row[4].get<double>()).epsilon(5e-6));
    }
    const auto axes = kind.at("axes").get<std::string>();
    CHECK((s.axes() > 1) == !axes.empty());
    for (std::size_t i = 0; i < axes.size(); ++i)
        CHECK(s.axis_of(0, static_cast<ropewalk::index>(i)) == axes[i] - '0');
}

}  // namespace

TEST_CASE("model_types_table: each class's default text comes to what its code was measured to do",
          "[models][huggingface][classes]") {
    std::ifstream file(ROPEWALK_TEST_DATA "/../../models/data/text_classes.json");
    REQUIRE(file);
    const auto cases = nlohmann::json::parse(file);
    CHECK(cases.size() == 153);
    std::set<std::string> seen;
    for (const auto& c : cases) {
        // Two have no model_type of their own: Evolla's protein encoder, and the other stack of HRM.
        const auto name = c.value("class", c.at("config").at("model_type").get<std::string>());
        INFO(name);
        CHECK(seen.insert(name).second);
        const auto schemes = make_model_schemes(from_huggingface(c.at("config")));
        const auto map = spelled_out(c.at("layers").get<std::string>());
        REQUIRE(static_cast<std::size_t>(schemes.layers()) == map.size());
        std::set<std::pair<char, int>> done;
        for (std::size_t l = 0; l < map.size(); ++l) {
            const auto layer = static_cast<ropewalk::index>(l);
            INFO("layer " << l);
            CHECK(schemes[layer].rotates == (map[l] != '-'));
            if (map[l] != '-' && done.insert({map[l], schemes.scheme_of(layer)}).second)
                check_kind(schemes[layer], c.at("kinds").at(static_cast<std::size_t>(map[l] - 'a')));
        }
    }
}

TEST_CASE("model_types_table: a sparse indexer rotates heads of its own", "[models][huggingface]") {
    const auto first = [](nlohmann::json config) { return make_model_schemes(from_huggingface(config))[0]; };
    nlohmann::json config = {{"model_type", "deepseek_v32"},
                             {"num_hidden_layers", 2},
                             {"index_head_dim", 128},
                             {"qk_nope_head_dim", 128},
                             {"qk_rope_head_dim", 64}};
    const auto v32 = first(config);
    REQUIRE(v32.indexer != nullptr);
    CHECK(v32.indexer->head_dim == 128);
    CHECK(v32.indexer->first_channel == 0);
    CHECK(v32.indexer->rotary_dim == 64);
    CHECK(v32.indexer->read_layout == half_split{});
    CHECK(v32.indexer->write_layout == half_split{});
    CHECK(v32.indexer->spectrum_for(1).omega(31) == v32.spectrum_for(1).omega(31));
    CHECK_FALSE(v32.rotates_output_back);
    config["model_type"] = "glm_moe_dsa";
    CHECK(first(config).indexer->read_layout == interleaved{});
    config["indexer_rope_interleave"] = false;
    CHECK(first(config).indexer->read_layout == half_split{});
    const auto v4 = first({{"model_type", "deepseek_v4"}, {"num_hidden_layers", 2}});
    REQUIRE(v4.indexer != nullptr);
    CHECK(v4.first_channel == 448);
    CHECK(v4.rotates_output_back);
    CHECK(v4.indexer->first_channel == 64);
    CHECK(v4.indexer->read_layout == interleaved{});
    CHECK(first({{"model_type", "llama"}, {"head_dim", 64}, {"num_hidden_layers", 2}}).indexer == nullptr);
}
