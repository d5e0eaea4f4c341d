// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/musecontrollite_file.hpp>

#include <limits>

#include "adapters/musecontrollite_layers.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"
#include "support/safetensors_bytes.hpp"

namespace rw = ropewalk;
namespace muse = ropewalk::musecontrollite;
using support::refusal;
using support::written_tensors;

namespace {

const std::string layer = "transformer_blocks.3.attn2.processor";

written_tensors published() {
    written_tensors all;
    unsigned seed = 1;
    for (const char* kind : {".weight", "_audio.weight"}) {
        all[layer + ".to_k_ip" + kind] = support::random_f32({12, 5}, seed++);
        all[layer + ".to_v_ip" + kind] = support::random_f32({12, 5}, seed++);
        all[layer + ".conv_out" + kind] = support::random_f32({24, 24, 1}, seed++);
    }
    return all;
}
muse::control_weights<float> read(const written_tensors& tensors, muse::condition_kind kind) {
    return muse::read_control_weights<float>(
        rw::read_safetensors(support::safetensors_bytes(tensors), "file"), layer, muse_layers::config, kind);
}

}  // namespace

TEST_CASE("musecontrollite_file: both conditions of a layer are read as they were written",
          "[adapters][musecontrollite][files]") {
    const auto tensors = published();
    for (const auto kind : {muse::condition_kind::first, muse::condition_kind::audio}) {
        const std::string ending = kind == muse::condition_kind::first ? ".weight" : "_audio.weight";
        const auto got = read(tensors, kind);
        const auto same = [&](const auto& m, const std::string& of) {
            return std::vector<float>(m.data(), m.data() + m.size()) ==
                   support::floats_of(tensors.at(layer + of + ending));
        };
        CHECK(same(got.to_k, ".to_k_ip"));
        CHECK(same(got.to_v, ".to_v_ip"));
        CHECK(same(got.conv_out, ".conv_out"));
        CHECK(muse::control_layer<float>(muse_layers::config, got).config().heads == 4);
    }
}

TEST_CASE("musecontrollite_file: every spoiled tensor is refused by its name",
          "[adapters][musecontrollite][files][errors]") {
    const auto good = published();
    for (const auto& [name, tensor] : good) {
        INFO(name);
        const auto kind =
            name.find("_audio") == name.npos ? muse::condition_kind::first : muse::condition_kind::audio;
        auto spoiled = good;
        spoiled.erase(name);
        CHECK(refusal([&] { read(spoiled, kind); }) ==
              "safetensors: file: " + name + " must be in the file, got nothing of that name");
        spoiled[name] = tensor;
        spoiled[name].shape.push_back(1);
        CHECK(refusal([&] {
                  read(spoiled, kind);
              }).starts_with("safetensors: file: " + name + " must have shape ["));
        spoiled[name] = tensor;
        spoiled[name].dtype = "I32";
        CHECK(refusal([&] { read(spoiled, kind); }) ==
              "safetensors: file: " + name + " must hold real numbers, got I32");
        spoiled[name] = support::tensor_of(
            "F32", tensor.shape,
            std::vector<float>(tensor.bytes.size() / 4, -std::numeric_limits<float>::infinity()));
        CHECK(refusal([&] { read(spoiled, kind); }) ==
              "musecontrollite::read_control_weights: file: " + name + " must hold finite numbers, got -inf");
    }
}
