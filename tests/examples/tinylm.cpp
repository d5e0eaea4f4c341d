// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "examples/tinylm/model.hpp"

#include <fstream>
#include <random>

#include "support/catch.hpp"

namespace {

namespace fs = std::filesystem;
using tinylm::bad_file;

const fs::path checkpoint = fs::path(ROPEWALK_TEST_DATA) / "../../../examples/data/tinylm";

/// A copy of the checkpoint's folder in which one file can be replaced.
struct broken_folder {
    fs::path path = fs::temp_directory_path() / ("ropewalk_tinylm_" + std::to_string(std::random_device{}()));
    broken_folder() {
        fs::create_directories(path);
        for (const char* name : {"config.json", "model.safetensors"})
            write(name, tinylm::read_file(checkpoint / name));
    }
    ~broken_folder() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    void write(const std::string& name, std::string_view bytes) const {
        std::ofstream(path / name, std::ios::binary) << bytes;
    }
};

}  // namespace

TEST_CASE("tiny llama: cut and bit-flipped checkpoints are refused or harmless", "[examples][tinylm]") {
    const broken_folder folder;
    REQUIRE(tinylm::load_model(folder.path).layers == 4);
    const auto weights = tinylm::read_file(checkpoint / "model.safetensors");
    const auto config = tinylm::read_file(checkpoint / "config.json");
    for (std::size_t length :
         {0ul, 1ul, 7ul, 8ul, 9ul, 1000ul, 4335ul, 4336ul, 4337ul, 100000ul, weights.size() - 1}) {
        CAPTURE(length);
        folder.write("model.safetensors", std::string_view(weights).substr(0, length));
        CHECK_THROWS_AS(tinylm::load_model(folder.path), ropewalk::invalid_config);
    }
    folder.write("model.safetensors", weights);
    for (std::size_t length = 0; length + 2 < config.size(); length += 13) {
        CAPTURE(length);
        folder.write("config.json", std::string_view(config).substr(0, length));
        CHECK_THROWS_AS(tinylm::load_model(folder.path), bad_file);
    }
    // A flipped config either names what is wrong or is another valid one; the schemes are built from it too.
    std::mt19937 engine(3);
    std::size_t refused = 0;
    for (int round = 0; round < 300; ++round) {
        auto flipped = config;
        const std::size_t at = engine() % flipped.size();
        flipped[at] = static_cast<char>(flipped[at] ^ (1 << engine() % 8));
        folder.write("config.json", flipped);
        try {
            const auto m = tinylm::load_model(folder.path);
            const auto schemes = ropewalk::make_model_schemes(ropewalk::from_huggingface(m.config));
            const auto layers = schemes.layers();
            CHECK(layers == m.layers);
        } catch (const bad_file&) {
            ++refused;
        } catch (const ropewalk::invalid_config&) {
            ++refused;
        }
    }
    CHECK(refused > 100);
    folder.write("config.json", config);
    for (int round = 0; round < 100; ++round) {
        auto flipped = weights;
        const std::size_t at = engine() % 4336;
        flipped[at] = static_cast<char>(flipped[at] ^ (1 << engine() % 8));
        folder.write("model.safetensors", flipped);
        try {
            const auto m = tinylm::load_model(folder.path);
            CHECK(m.layer.size() == 4);
        } catch (const ropewalk::invalid_config&) {
        }
    }
    fs::remove(folder.path / "config.json");
    CHECK_THROWS_AS(tinylm::load_model(folder.path), bad_file);
    fs::create_directory(folder.path / "config.json");  // a folder of that name opens, but cannot be read
    CHECK_THROWS_AS(tinylm::load_model(folder.path), bad_file);
}
