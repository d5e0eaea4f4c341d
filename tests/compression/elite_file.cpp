// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_file.hpp>

#include <limits>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"
#include "tests/support/refusal.hpp"
#include "tests/support/safetensors_bytes.hpp"

namespace rw = ropewalk;
using support::gaussian;
using support::refusal;
using support::written_tensors;

namespace {

using matrix = rw::elite_weights<float>::matrix;
const std::vector<rw::index> elite{3, 0, 1, 2};  // two of four pairs, two heads
const std::string config =
    R"({"model_type":"llama","num_hidden_layers":2,"hidden_size":16,"num_attention_heads":2,)"
    R"("num_key_value_heads":2,"attention_bias":false,"half_of_rope_dim":2,"kv_dim":6})";

std::string name_of(const std::string& of, int layer = 1) {
    return "model.layers." + std::to_string(layer) + ".self_attn." + of + ".weight";
}
support::written_tensor tensor_of(const matrix& m) {
    return support::tensor_of("F32", {m.rows(), m.cols()}, std::vector<float>(m.data(), m.data() + m.size()));
}
rw::elite_weights<float> converted() {
    return rw::make_elite_weights<float>(gaussian(16, 16, 1), gaussian(16, 16, 2), gaussian(16, 16, 3),
                                         rw::elite_layout(elite, 2, 8), 6);
}
/// The tensors that convert.py leaves of a layer: nope and rope rows apart, head by head.
written_tensors published(const rw::elite_weights<float>& w) {
    const rw::index d = 8, rope = 4, nope = 4;
    matrix q_nope(2 * nope, 16), q_rope(2 * rope, 16), up(2 * (nope + d), 6);
    for (rw::index h = 0; h < 2; ++h) {
        q_nope.middleRows(h * nope, nope) = w.queries.middleRows(h * d, nope);
        q_rope.middleRows(h * rope, rope) = w.queries.middleRows(h * d + nope, rope);
        up.middleRows(h * (nope + d), nope) = w.up_keys.middleRows(h * nope, nope);
        up.middleRows(h * (nope + d) + nope, d) = w.up_values.middleRows(h * d, d);
    }
    return {{name_of("q_nope_proj"), tensor_of(q_nope)},
            {name_of("q_rope_proj"), tensor_of(q_rope)},
            {name_of("k_rope_proj"), tensor_of(w.rope_keys)},
            {name_of("kv_a_proj"), tensor_of(w.down)},
            {name_of("kv_b_proj"), tensor_of(up)},
            {name_of("o_proj"), support::random_f32({16, 16}, 9)}};
}
rw::elite_weights<float> read(const written_tensors& tensors) {
    return rw::read_elite_weights<float>(rw::read_safetensors(support::safetensors_bytes(tensors), "file"), 1,
                                         rw::read_elite_model(config), elite);
}

}  // namespace

TEST_CASE("elite_file: a converted layer is read as it was made", "[compression][elite][files]") {
    const auto model = rw::read_elite_model(config);
    CHECK(model.layers == 2);
    CHECK(model.head_dim() == 8);
    CHECK(model.half_of_rope_dim == 2);
    CHECK(model.kv_dim == 6);
    const auto made = converted(), got = read(published(made));
    CHECK(got.queries == made.queries);
    CHECK(got.rope_keys == made.rope_keys);
    CHECK(got.down == made.down);
    CHECK(got.up_keys == made.up_keys);
    CHECK(got.up_values == made.up_values);
    CHECK(got.latent() == 6);
    CHECK(std::vector<rw::index>(got.layout.pairs().begin(), got.layout.pairs().end()) ==
          std::vector<rw::index>{0, 3, 1, 2});
}

TEST_CASE("elite_file: every spoiled tensor and key is refused by its name",
          "[compression][elite][files][errors]") {
    const auto good = published(converted());
    for (const auto& [name, tensor] : good) {
        INFO(name);
        auto spoiled = good;
        spoiled.erase(name);
        if (name == name_of("o_proj")) {  // not of the cache
            CHECK(refusal([&] { read(spoiled); }).empty());
            continue;
        }
        CHECK(refusal([&] { read(spoiled); }) ==
              "safetensors: file: " + name + " must be in the file, got nothing of that name");
        spoiled[name] = support::random_f32({tensor.shape[0] + 1, tensor.shape[1]}, 1);
        CHECK(
            refusal([&] { read(spoiled); }).starts_with("safetensors: file: " + name + " must have shape ["));
        spoiled[name] = tensor;
        spoiled[name].dtype = "U32";
        CHECK(refusal([&] { read(spoiled); }) ==
              "safetensors: file: " + name + " must hold real numbers, got U32");
        spoiled[name] = support::tensor_of(
            "F32", tensor.shape,
            std::vector<float>(tensor.bytes.size() / 4, std::numeric_limits<float>::infinity()));
        CHECK(refusal([&] { read(spoiled); }) ==
              "read_elite_weights: file: " + name + " must hold finite numbers, got inf");
    }
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string text = config;
        text.replace(text.find(from), from.size(), to);
        return refusal([&] { rw::read_elite_model(text); });
    };
    const std::string who = "read_elite_model: ";
    for (const char* key :
         {"num_hidden_layers", "hidden_size", "num_attention_heads", "half_of_rope_dim", "kv_dim"})
        CHECK(with("\"" + std::string(key) + "\"", "\"x\"") == who + key + " must be given, got nothing");
    CHECK(with("rope_dim\":2", "rope_dim\":5") == who + "half_of_rope_dim must be at most 4, got 5");
    CHECK(with("kv_dim\":6", "kv_dim\":17") == who + "kv_dim must be at most 16, got 17");
    CHECK(with("kv_dim\":6", "kv_dim\":0") == who + "kv_dim must be a whole number in [1, 2^63), got 0");
    CHECK(with("value_heads\":2", "value_heads\":1") ==
          who + "num_key_value_heads must be num_attention_heads, got 1");
    CHECK(with("attention_heads\":2", "attention_heads\":3") ==
          who + "num_attention_heads must be a divisor of hidden_size into even heads, got 3");
    CHECK(with("false", "true") == who + "attention_bias must be false, got true");
    const auto file = rw::read_safetensors(support::safetensors_bytes(good));
    const auto model = rw::read_elite_model(config);
    CHECK_REFUSES("read_elite_weights: layer must be one of the model's, got 2",
                  rw::read_elite_weights<float>(file, 2, model, elite));
    CHECK_REFUSES("read_elite_weights: elite must hold heads x half_of_rope_dim pairs: wanted 4, got 3",
                  rw::read_elite_weights<float>(file, 1, model, std::span(elite).first(3)));
}
