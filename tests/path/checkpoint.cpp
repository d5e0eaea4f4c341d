// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/checkpoint.hpp>

#include <map>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;

constexpr rw::index hidden = 10, kv_heads = 2, width = 8, rank = 3, taps = 3, heads = 4;

struct file {
    std::map<std::string, std::pair<std::vector<rw::index>, std::vector<double>>, std::less<>> tensors;

    void put(const std::string& name, std::vector<rw::index> extents, unsigned seed) {
        rw::index count = 1;
        for (rw::index n : extents) count *= n;
        tensors[name] = {extents, noise(count, seed)};
    }
    rw::stored_tensor<double> operator()(std::string_view name) const {
        const auto at = tensors.find(name);
        if (at == tensors.end()) return {};
        return {at->second.second, at->second.first};
    }
};
file layer(const std::string& prefix, bool low_rank = true) {
    file f;
    if (low_rank) {
        f.put(prefix + "w_proj.0.weight", {rank, hidden}, 1);
        f.put(prefix + "w_proj.1.weight", {width, rank}, 2);
    } else {
        f.put(prefix + "w_proj.weight", {width, hidden}, 2);
    }
    f.put(prefix + "w_conv1d.weight", {width, 1, taps}, 3);
    f.put(prefix + "bt_proj.weight", {kv_heads, hidden}, 4);
    f.put(prefix + "bt_proj.bias", {kv_heads}, 5);
    f.put(prefix + "g_proj.weight", {heads, hidden}, 6);
    f.put(prefix + "g_proj.bias", {heads}, 7);
    return f;
}

}  // namespace

TEST_CASE("path checkpoint: a layer is read by the names of flash-linear-attention", "[path][checkpoint]") {
    const std::string prefix = "model.layers.3.attn.";
    for (bool low_rank : {true, false}) {
        file f = layer(prefix, low_rank);
        const auto got = path::read_generator<double>(f, prefix);
        CHECK(got.config.hidden == hidden);
        CHECK(got.config.kv_heads == kv_heads);
        CHECK(got.config.channels == width / kv_heads);
        CHECK(got.config.heads == heads);
        CHECK(got.config.rank == (low_rank ? rank : 0));
        CHECK(got.config.conv == taps);
        const auto at = [&](const char* name) { return f.tensors.at(prefix + name).second.data(); };
        CHECK(got.weights.up.data() == at(low_rank ? "w_proj.1.weight" : "w_proj.weight"));
        if (low_rank) CHECK(got.weights.down.data() == at("w_proj.0.weight"));
        CHECK(got.weights.conv.data() == at("w_conv1d.weight"));
        CHECK(got.weights.beta_weight.data() == at("bt_proj.weight"));
        CHECK(got.weights.beta_bias.data() == at("bt_proj.bias"));
        CHECK(got.weights.gate_weight.data() == at("g_proj.weight"));
        CHECK(got.weights.gate_bias.data() == at("g_proj.bias"));
        const path::transform_generator<double> generator(got.config, got.weights);
        CHECK(generator.config().hidden == hidden);
        f.tensors.erase(prefix + "w_conv1d.weight");
        f.tensors.erase(prefix + "g_proj.weight");
        const auto bare = path::read_generator<double>(f, prefix);
        CHECK(bare.config.conv == 0);
        CHECK(bare.config.heads == 0);
    }
}

TEST_CASE("path checkpoint: every spoiled tensor is refused by its name", "[path][checkpoint][errors]") {
    const auto with = [](const char* name, std::vector<rw::index> extents, bool low_rank = true) {
        file f = layer("", low_rank);
        if (extents.empty())
            f.tensors.erase(name);
        else
            f.put(name, extents, 9);
        return refusal([&] { path::read_generator<double>(f); });
    };
    CHECK(with("w_proj.0.weight", {3, 11}) ==
          "path::read_generator: w_proj.0.weight must be [3, 10], got [3, 11]");
    CHECK(with("w_proj.0.weight", {}) ==
          "path::read_generator: w_proj.weight must be [kv heads * channels, hidden], got []");
    CHECK(with("w_proj.1.weight", {8}) ==
          "path::read_generator: w_proj.1.weight must be [kv heads * channels, rank], got [8]");
    CHECK(with("w_proj.1.weight", {7, 3}) ==
          "path::read_generator: bt_proj.weight must have rows that divide those of w_proj, got 2");
    CHECK(with("w_proj.weight", {8, 9}, false) ==
          "path::read_generator: w_proj.weight must be [8, 10], got [8, 9]");
    CHECK(with("w_conv1d.weight", {8, 3}) ==
          "path::read_generator: w_conv1d.weight must be [kv heads * channels, 1, taps], got [8, 3]");
    CHECK(with("w_conv1d.weight", {8, 2, 3}) ==
          "path::read_generator: w_conv1d.weight must be [8, 1, 3], got [8, 2, 3]");
    CHECK(with("bt_proj.weight", {}) ==
          "path::read_generator: bt_proj.weight must be [kv heads, hidden], got []");
    CHECK(with("bt_proj.bias", {}) == "path::read_generator: bt_proj.bias must be [2], got none");
    CHECK(with("bt_proj.bias", {3}) == "path::read_generator: bt_proj.bias must be [2], got [3]");
    CHECK(with("g_proj.weight", {4, 9}) == "path::read_generator: g_proj.weight must be [4, 10], got [4, 9]");
    CHECK(with("g_proj.bias", {}) == "path::read_generator: g_proj.bias must be [4], got none");
    CHECK(with("g_proj.bias", {4}).empty());
}
