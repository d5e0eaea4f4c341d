// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/phase_shift_file.hpp>

#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"
#include "support/safetensors_bytes.hpp"

namespace rw = ropewalk;
using support::refusal;
using support::written_tensors;

namespace {

std::string name_of(int layer, const std::string& of) {
    return "model.layers." + std::to_string(layer) + ".self_attn." + of;
}
const std::vector<std::string> parts{"q_phase.up_phase", "q_phase.down_phase", "k_phase.up_phase",
                                     "k_phase.down_phase"};
/// Two layers of four query heads and two key heads, as phase.py writes them, LoRA's tensors among them.
written_tensors good() {
    written_tensors all;
    unsigned seed = 1;
    for (int layer = 0; layer < 2; ++layer) {
        for (const auto& part : parts)
            all[name_of(layer, part)] = support::random_f32({part[0] == 'q' ? 4 : 2, 6, 6}, seed++);
        all[name_of(layer, "q_lora.A_lora")] = support::random_f32({8, 24}, seed++);
    }
    return all;
}
auto read(const written_tensors& tensors) {
    return rw::phase_shift::read_modules<float>(
        rw::read_safetensors(support::safetensors_bytes(tensors), "file"));
}

}  // namespace

TEST_CASE("phase_shift_file: the modules of a model are read as they were written",
          "[adapters][phase_shift][files]") {
    const auto tensors = good();
    const auto layers = read(tensors);
    REQUIRE(layers.size() == 2);
    for (int l = 0; l < 2; ++l) {
        const auto& layer = layers[static_cast<std::size_t>(l)];
        CHECK(layer.queries.heads == 4);
        CHECK(layer.keys.heads == 2);
        CHECK(layer.queries.head_dim == 6);
        CHECK(layer.queries.up == support::floats_of(tensors.at(name_of(l, parts[0]))));
        CHECK(layer.queries.down == support::floats_of(tensors.at(name_of(l, parts[1]))));
        CHECK(layer.keys.up == support::floats_of(tensors.at(name_of(l, parts[2]))));
        CHECK(layer.keys.down == support::floats_of(tensors.at(name_of(l, parts[3]))));
    }
    // bf16 in the file stays bf16.
    auto narrow = tensors;
    for (auto& [name, tensor] : narrow) {
        std::vector<rw::bf16> numbers;
        for (float v : support::floats_of(tensor)) numbers.push_back(rw::bf16(v));
        tensor = support::tensor_of("BF16", tensor.shape, numbers);
    }
    const auto file = rw::read_safetensors(support::safetensors_bytes(narrow));
    const auto modules = rw::phase_shift::read_modules(file);
    const auto wide = rw::phase_shift::read_modules<float>(file);
    std::vector<float> x(4 * 6, 0.7f), y = x;
    rw::phase_shift::calibrate(modules[1].queries, rw::heads_view<float>(x.data(), 1, 4, 6));
    rw::phase_shift::calibrate(wide[1].queries, rw::heads_view<float>(y.data(), 1, 4, 6));
    CHECK(x == y);
    CHECK(x[0] != 0.7f);
}

TEST_CASE("phase_shift_file: every spoiled tensor is refused by its name",
          "[adapters][phase_shift][files][errors]") {
    REQUIRE(refusal([] { read(good()); }).empty());
    const auto spoiled = [](auto change) {
        auto tensors = good();
        change(tensors);
        return refusal([&] { read(tensors); });
    };
    const std::string file = "phase_shift::read_modules: file: ";
    for (int layer = 0; layer < 2; ++layer)
        for (const auto& part : parts) {
            const std::string name = name_of(layer, part);
            INFO(name);
            // What is missing is named, or, where it says how many layers there are, what it belongs to.
            const auto missing = spoiled([&](auto& t) { t.erase(name); });
            if (layer == 1 && part == parts[0])
                CHECK(missing == file + name_of(1, parts[3]) +
                                     " must be one of the four of a layer, layers counted from 0, got a "
                                     "phase of another name");
            else
                CHECK(missing ==
                      "safetensors: file: " + name + " must be in the file, got nothing of that name");
            CHECK(spoiled([&](auto& t) { t[name].dtype = "I32"; }) ==
                  "safetensors: file: " + name + " must hold real numbers, got I32");
            const auto flat = spoiled([&](auto& t) { t[name].shape = {t[name].shape[0] * 6, 6}; });
            CHECK(flat.find(name + " must have shape [") != std::string::npos);
            CHECK(spoiled([&](auto& t) {
                      t[name] = support::random_f32({3, 6, 6}, 1);
                  }).find(" must have ") != std::string::npos);
            CHECK(spoiled([&](auto& t) {
                      t[name] =
                          support::tensor_of("F32", t[name].shape,
                                             std::vector<float>(t[name].bytes.size() / 4,
                                                                std::numeric_limits<float>::quiet_NaN()));
                  }).starts_with(file + name + " must hold finite numbers, got "));
        }
    CHECK(spoiled([](auto& t) {
              t[name_of(0, parts[0])].shape = {6, 6, 4};
          }) == file + name_of(0, parts[0]) + " must have shape [heads, head_dim, head_dim], got [6, 6, 4]");
    CHECK(spoiled([](auto& t) {
              for (const auto& part : {parts[2], parts[3]})
                  t[name_of(0, part)] = t[name_of(1, part)] = support::random_f32({3, 6, 6}, 1);
          }) ==
          file + name_of(0, parts[2]) +
              " must have the queries' head_dim and a divisor of their heads, [4, 6, 6], got [3, 6, 6]");
    CHECK(spoiled([](auto& t) {
              for (const auto& part : {parts[0], parts[1]})
                  t[name_of(1, part)] = support::random_f32({8, 6, 6}, 1);
          }) == file + name_of(1, parts[0]) + " must have the shape of layer 0, [4, 6, 6], got [8, 6, 6]");
    CHECK(spoiled([](auto& t) {
              t["model.q_phase.up_phase"] = support::random_f32({6, 6}, 1);
          }) == file +
                    "model.q_phase.up_phase must be one of the four of a layer, layers counted from 0, got a "
                    "phase of another name");
    CHECK(spoiled([](auto& t) { t.clear(); }) ==
          "safetensors: file: " + name_of(0, parts[0]) + " must be in the file, got nothing of that name");
}
