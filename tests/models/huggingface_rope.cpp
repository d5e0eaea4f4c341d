// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/huggingface_rope.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
using names = std::vector<std::string>;

namespace {

/// What the config around a rope dictionary says.
struct around {
    strictness read = strictness::strict;
    double max_context = 0;
    double original_context = 0;
    bool latent_attention = false;
};
struct reading {
    rope_parameters rope;
    names ignored, unread;
};

reading read(const char* keys_text, around a = {}) {
    const json keys_node = json::parse(keys_text), top_node = json::object();
    ropewalk::ROPEWALK_ISA::detail::json_object keys("f", keys_node, "rope"), top("f", top_node, "");
    reading r;
    r.rope.max_context = a.max_context;  // as the reader of the config leaves it
    ropewalk::ROPEWALK_ISA::detail::huggingface_rope({.keys = keys,
                                                      .top = top,
                                                      .read = a.read,
                                                      .max_context = a.max_context,
                                                      .original_context = a.original_context,
                                                      .latent_attention = a.latent_attention,
                                                      .ignored = r.ignored})
        .read_into(r.rope);
    r.unread = keys.unread();
    return r;
}
constexpr around long_context{.max_context = 65536};

}  // namespace

TEST_CASE("huggingface_rope: every name of a scaling", "[models][huggingface]") {
    // All keys that some scaling cannot do without.
    const std::string keys =
        R"(","factor":4.0,"original_max_position_embeddings":4096,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "short_factor":[1.0],"long_factor":[2.0]})";
    const std::pair<const char*, rope_scaling> scalings[] = {
        {"default", rope_scaling::none},
        {"mrope", rope_scaling::none},
        {"linear", rope_scaling::linear},
        {"dynamic", rope_scaling::dynamic_ntk},
        {"ntk", rope_scaling::fixed_ntk},  // with alpha it is ntk
        {"dynamic-linear", rope_scaling::dynamic_linear},
        {"yarn", rope_scaling::longrope},  // Phi-3's, see below
        {"dynamic-yarn", rope_scaling::dynamic_yarn},
        {"longrope", rope_scaling::longrope},
        {"su", rope_scaling::longrope},
        {"llama3", rope_scaling::llama3},
        {"proportional", rope_scaling::proportional},
        {"ntk-by-parts", rope_scaling::ntk_by_parts}};
    for (const auto& [name, scaling] : scalings)
        for (const char* key : {"rope_type", "type"}) {
            INFO(key << " " << name);
            const auto text = std::string("{\"") + key + "\":\"" + name + keys;
            CHECK(read(text.c_str(), long_context).rope.scaling == scaling);
        }
    // Every scaling is read back from the name it goes by.
    for (int s = 0; s <= static_cast<int>(rope_scaling::proportional); ++s) {
        const auto scaling = static_cast<rope_scaling>(s);
        INFO(to_text(scaling));
        auto node = json::parse("{\"type\":\"" + std::string(to_text(scaling)) + keys);
        if (scaling == rope_scaling::yarn) node.erase("short_factor");
        if (scaling == rope_scaling::ntk) node["alpha"] = 4.0;
        if (scaling == rope_scaling::stepped_ntk || scaling == rope_scaling::fixed_ntk)
            continue;  // no such name
        CHECK(read(node.dump().c_str(), long_context).rope.scaling == scaling);
    }
    CHECK(read("{}").rope.scaling == rope_scaling::none);
    CHECK(read(R"({"rope_type":null,"factor":8.0})").rope.scaling == rope_scaling::none);
}

TEST_CASE("huggingface_rope: two spellings of one scaling agree", "[models][huggingface]") {
    const auto r = read(R"({"rope_type":"longrope","type":"su","factor":2.0,"short_factor":[1.5],
        "long_factor":[3.0, 4.0],"original_max_position_embeddings":4096})");
    CHECK(r.rope.scaling == rope_scaling::longrope);
    CHECK(r.rope.factor == 2.0);
    CHECK(r.rope.original_context == 4096);
    CHECK(r.rope.short_factors == std::vector<double>{1.5});
    CHECK(r.rope.long_factors == std::vector<double>{3, 4});
    CHECK(r.ignored.empty());
}

TEST_CASE("huggingface_rope: a scaling names the key it cannot do without", "[models][huggingface][errors]") {
    const auto refusal = [](const char* text, around a = {}) {
        return support::refusal([&] { static_cast<void>(read(text, a)); });
    };
    const auto missing = [](const char* path) {
        return "f: " + std::string(path) + " must be given, got nothing";
    };
    const char* const original = "rope.original_max_position_embeddings";
    CHECK(refusal(R"({"type":"linear"})") == missing("rope.factor"));
    CHECK(refusal(R"({"type":"ntk"})") == missing("rope.factor"));
    CHECK(refusal(R"({"type":"dynamic"})") == missing("rope.factor"));
    CHECK(refusal(R"({"type":"dynamic","factor":2.0})") == missing("max_position_embeddings"));
    CHECK(refusal(R"({"type":"dynamic-linear"})") == missing("max_position_embeddings"));
    CHECK(refusal(R"({"type":"ntk-by-parts"})") == missing("rope.factor"));
    CHECK(refusal(R"({"type":"ntk-by-parts","factor":2.0})", long_context) == missing(original));
    CHECK(refusal(R"({"type":"llama3","factor":8,"low_freq_factor":1})") == missing("rope.high_freq_factor"));
    CHECK(refusal(R"({"type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4})") ==
          missing(original));
    CHECK(refusal(R"({"type":"yarn","original_max_position_embeddings":4096})", long_context) ==
          missing("rope.factor"));
    CHECK(refusal(R"({"type":"yarn","factor":null,"original_max_position_embeddings":4096})") ==
          missing("max_position_embeddings"));
    CHECK(refusal(R"({"type":"dynamic-yarn","factor":2,"original_max_position_embeddings":4096})") ==
          missing("max_position_embeddings"));
    CHECK(refusal(R"({"type":"longrope","original_max_position_embeddings":4096,"short_factor":[1]})") ==
          missing("max_position_embeddings"));
    CHECK(refusal(R"({"type":"longrope","original_max_position_embeddings":4096,"short_factor":[1]})",
                  long_context) == missing("rope.long_factor"));
    CHECK(refusal(R"({"type":"proportional"})").empty());  // p alone will do
    // A misspelt key is named before the key that it leaves out, unless the reader is lenient.
    const char* const misspelt = R"({"type":"yarn","fctor":4.0,"beta_fast":32})";
    CHECK(refusal(misspelt, {.max_context = 65536}) ==
          "f: rope.fctor must be a key that is read here (it would be ignored), got 4.0");
    CHECK(refusal(misspelt, {.read = strictness::lenient}) == missing(original));
    CHECK(refusal(R"({"type":"dynamic","factor":2.0,"lenght":8})") ==
          "f: rope.lenght must be a key that is read here (it would be ignored), got 8");
    CHECK(refusal(R"({"type":"linear","fctor":null,"mrope_section":[4,2,2]})") == missing("rope.factor"));
}

TEST_CASE(
    "huggingface_rope: the original context is the config's, the dictionary's, or leniently the longest",
    "[models][huggingface]") {
    const char* const given = R"({"type":"yarn","factor":2.0,"original_max_position_embeddings":4096})";
    const char* const bare = R"({"type":"yarn","factor":2.0})";
    CHECK(read(given, {.max_context = 65536, .original_context = 2048}).rope.original_context == 2048);
    CHECK(read(given, long_context).rope.original_context == 4096);
    CHECK(read(bare, {.original_context = 2048}).rope.original_context == 2048);
    CHECK(read(bare, {.read = strictness::lenient, .max_context = 8192}).rope.original_context == 8192);
    CHECK_REFUSES("f: rope.original_max_position_embeddings must be given, got nothing",
                  read(bare, {.read = strictness::lenient}));
}

TEST_CASE("huggingface_rope: alpha makes NTK static up to the trained length and its other keys inert",
          "[models][huggingface]") {
    const auto hunyuan = read(R"({"type":"dynamic","alpha":1000.0,"factor":1.0,"beta_fast":32,"beta_slow":1,
        "mscale":1.0,"mscale_all_dim":0.0,"surprise":1})");
    CHECK(hunyuan.rope.scaling == rope_scaling::ntk);  // no trained length is known
    CHECK(hunyuan.rope.factor == 1000.0);
    const auto trained = read(R"({"type":"dynamic","alpha":1000.0,"factor":2.0})", long_context);
    CHECK(trained.rope.scaling == rope_scaling::dynamic_ntk);
    CHECK(trained.rope.alpha == 1000.0);
    CHECK(trained.rope.factor == 2.0);
    CHECK(hunyuan.unread == names{"surprise"});
    CHECK(read(R"({"type":"ntk","alpha":3.0})").rope.factor == 3.0);
    const auto fixed = read(R"({"type":"ntk","factor":4.0,"mixed_b":0.5})");
    CHECK(fixed.rope.scaling == rope_scaling::fixed_ntk);
    CHECK(fixed.rope.factor == 4.0);
    CHECK(fixed.rope.mixed_b == 0.5);
}

TEST_CASE("huggingface_rope: a key that belongs to another scaling stays unread", "[models][huggingface]") {
    const std::string keys =
        R"(","factor":2.0,"beta_fast":32,"low_freq_factor":1.0,"attention_factor":1.0,"extrapolation_factor":1.0})";
    CHECK(read((R"({"type":"default)" + keys).c_str()).unread ==
          names{"attention_factor", "beta_fast", "extrapolation_factor", "factor", "low_freq_factor"});
    CHECK(read((R"({"type":"linear)" + keys).c_str()).unread ==
          names{"attention_factor", "beta_fast", "extrapolation_factor", "low_freq_factor"});
    CHECK(read((R"({"type":"ntk-by-parts)" + keys).c_str(), {.original_context = 4096}).unread ==
          names{"attention_factor", "beta_fast", "low_freq_factor"});
}

TEST_CASE("huggingface_rope: YaRN's keys, and what they are when missing", "[models][huggingface]") {
    const around context{.max_context = 65536, .original_context = 4096};
    const auto plain = read(R"({"type":"yarn","factor":16.0})", context).rope;
    CHECK(plain.beta_fast == 32);
    CHECK(plain.beta_slow == 1);
    CHECK(plain.truncate);
    CHECK_FALSE(plain.attention_factor);
    CHECK(plain.mscale == 0);
    CHECK(plain.mscale_all_dim == 0);
    CHECK(plain.attn_factor == 1);
    CHECK(plain.extrapolation_factor == 1);
    CHECK(plain.trained == frequencies::yarn_training::plain);
    CHECK(plain.notes.empty());

    const auto full =
        read(R"({"type":"dynamic-yarn","factor":16.0,"beta_fast":24,"beta_slow":2,"truncate":false,
        "attention_factor":1.25,"mscale":0.5,"mscale_all_dim":0.25,"attn_factor":0.75,
        "extrapolation_factor":0.5,"finetuned":true,"llama_4_scaling_beta":0.1})",
             context);
    CHECK(full.unread.empty());
    CHECK(full.rope.beta_fast == 24);
    CHECK(full.rope.beta_slow == 2);
    CHECK_FALSE(full.rope.truncate);
    CHECK(full.rope.attention_factor == 1.25);
    CHECK(full.rope.mscale == 0.5);
    CHECK(full.rope.mscale_all_dim == 0.25);
    CHECK(full.rope.attn_factor == 0.75);
    CHECK(full.rope.extrapolation_factor == 0.5);
    CHECK(full.rope.trained == frequencies::yarn_training::extended);
    CHECK(full.rope.notes == names{"queries are multiplied by 1 + 0.1 ln(1 + floor(position / original "
                                   "context)) (llama_4_scaling_beta)"});

    const char* const crossed = R"({"type":"yarn","factor":16.0,"beta_fast":1,"beta_slow":32})";
    CHECK_REFUSES("f: rope.beta_fast must be at least beta_slow, got 1", read(crossed, context));
    CHECK(read(crossed, {.read = strictness::lenient, .original_context = 4096}).rope.beta_fast == 1);
}

TEST_CASE("huggingface_rope: only latent heads scale their logits, by the square of YaRN's mscale",
          "[models][huggingface]") {
    const char* const given = R"({"type":"yarn","factor":40.0,"mscale_all_dim":0.707})";
    const char* const derived = R"({"type":"yarn","factor":null,"mscale_all_dim":0.707})";
    const char* const none = R"({"type":"yarn","factor":40.0,"mscale_all_dim":0})";
    const around latent{.max_context = 163840, .original_context = 4096, .latent_attention = true};
    const double want = std::pow(0.1 * 0.707 * std::log(40.0) + 1, 2);
    CHECK(read(given, latent).rope.logit_scale == Approx(want).epsilon(1e-14));
    CHECK(read(derived, latent).rope.logit_scale == Approx(want).epsilon(1e-14));
    CHECK(read(none, latent).rope.logit_scale == 1);
    CHECK(read(given, {.max_context = 163840, .original_context = 4096}).rope.logit_scale == 1);
}

TEST_CASE("huggingface_rope: YaRN's factor may be derived from the two contexts", "[models][huggingface]") {
    const auto read = [](const char* scaling) {
        json config = json::parse(R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,
            "num_hidden_layers":2,"max_position_embeddings":65536})");
        config["rope_scaling"] = json::parse(scaling);
        return make_model_schemes(from_huggingface(config))[0].spectrum_for(1);
    };
    const auto given = read(R"({"rope_type":"yarn","factor":16.0,"original_max_position_embeddings":4096})");
    const auto derived =
        read(R"({"rope_type":"yarn","factor":null,"original_max_position_embeddings":4096})");
    CHECK(given.omegas() == derived.omegas());
    CHECK(given.magnitude() == derived.magnitude());
    const auto zeros = read(R"({"rope_type":"yarn","factor":16.0,"original_max_position_embeddings":4096,
                                "beta_fast":0,"mscale":0,"mscale_all_dim":1.0})");  // zero counts as absent
    CHECK(given.omegas() == zeros.omegas());
    CHECK(given.magnitude() == zeros.magnitude());
}
