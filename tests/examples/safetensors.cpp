// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "examples/tinylm/safetensors.hpp"

#include <fstream>
#include <random>

#include "examples/tinylm/model.hpp"
#include "support/catch.hpp"

namespace {

namespace fs = std::filesystem;
using tinylm::bad_file;
using tinylm::safetensors;

const fs::path checkpoint = fs::path(ROPEWALK_TEST_DATA) / "../../../examples/data/tinylm";

std::string file_of(const std::string& header, std::size_t data_bytes) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
    bytes += header;
    for (std::size_t i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<char>(i));
    return bytes;
}
const std::string good_header =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},)"
    R"("b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},"c":{"dtype":"BF16","shape":[1],"data_offsets":[20,22]}})";

std::vector<float> load(const std::string& bytes, const std::string& tensor,
                        std::vector<std::ptrdiff_t> shape) {
    return safetensors("file", bytes).load(tensor, shape);
}
std::string complaint(const std::string& header, std::size_t data_bytes = 22) {
    try {
        load(file_of(header, data_bytes), "a", {2, 3});
    } catch (const bad_file& error) {
        return error.what();
    }
    return "none";
}

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

TEST_CASE("safetensors: F16, BF16 and F32 tensors are read as float", "[examples][safetensors]") {
    auto bytes = file_of(good_header, 22);
    const std::size_t data = bytes.size() - 22;
    const unsigned char numbers[22] = {0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0xff, 0x7b,
                                       0x00, 0x00, 0x00, 0x80,                          // f16
                                       0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x20, 0xc1,  // f32
                                       0x49, 0x40};                                     // bf16
    std::copy_n(reinterpret_cast<const char*>(numbers), 22,
                bytes.begin() + static_cast<std::ptrdiff_t>(data));
    CHECK(load(bytes, "a", {2, 3}) == std::vector<float>{1.0f, -2.0f, 0x1p-24f, 65504.0f, 0.0f, -0.0f});
    CHECK(load(bytes, "b", {2}) == std::vector<float>{1.0f, -10.0f});
    CHECK(load(bytes, "c", {1}) == std::vector<float>{3.140625f});
}

TEST_CASE("safetensors: whatever disagrees is named", "[examples][safetensors]") {
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}})") == "none");
    CHECK(complaint(R"([1])") == "file: the header is not a JSON object");
    CHECK(complaint(R"({"b":1})") == "file: no tensor a");
    CHECK(complaint(R"({"a":1})") == "file: a lacks dtype, shape or data_offsets");
    CHECK(complaint(R"({"a":{"dtype":1,"shape":[2,3],"data_offsets":[0,12]}})") ==
          "file: a lacks dtype, shape or data_offsets");
    CHECK(complaint(R"({"a":{"dtype":"I64","shape":[2,3],"data_offsets":[0,12]}})") ==
          "file: a has dtype I64, not F32, F16 or BF16");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[3,2],"data_offsets":[0,12]}})") ==
          "file: a has shape [3,2], the config asks for [2,3]");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,-3],"data_offsets":[0,12]}})") ==
          "file: a has a shape or offset that is no count");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,1.5]}})") ==
          "file: a has a shape or offset that is no count");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":12}})") ==
          "file: a has a shape or offsets that are no list");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12,24]}})") ==
          "file: a lies outside the file");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[12,0]}})") ==
          "file: a lies outside the file");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[11,23]}})") ==
          "file: a lies outside the file");
    CHECK(
        complaint(
            R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[18446744073709551604,18446744073709551615]}})") ==
        "file: a lies outside the file");
    CHECK(complaint(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,14]}})") ==
          "file: a has offsets that do not fit its shape");
    CHECK(complaint(R"({"a":)").starts_with("file: not JSON"));
    CHECK(complaint(std::string(100000, '[')).starts_with("file: not JSON"));
    // A shape whose product would wrap around to the size that is there.
    const std::string huge = R"({"a":{"dtype":"F16","shape":[4611686018427387904,4],"data_offsets":[0,0]}})";
    CHECK_THROWS_WITH(load(file_of(huge, 22), "a", {std::ptrdiff_t{1} << 62, 4}), "file: a is too large");
    // Header lengths past the end, up to the largest number there is.
    for (const char* length :
         {"\x10\0\0\0\0\0\0\0", "\xff\xff\xff\xff\xff\xff\xff\xff", "\0\0\0\0\0\0\0\x80"})
        CHECK_THROWS_AS(safetensors("file", std::string(length, 8) + "{}"), bad_file);
}

TEST_CASE("safetensors: every cut and every flipped header bit is refused or harmless",
          "[examples][safetensors]") {
    const auto bytes = file_of(good_header, 22);
    const auto load_all = [](const std::string& file) {
        return load(file, "a", {2, 3}).size() + load(file, "b", {2}).size() + load(file, "c", {1}).size();
    };
    CHECK(load_all(bytes) == 9);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
        CAPTURE(length);
        CHECK_THROWS_AS(load_all(bytes.substr(0, length)), bad_file);
    }
    std::size_t refused = 0, flips = 0;
    for (std::size_t at = 0; at < bytes.size() - 22; ++at)
        for (int bit = 0; bit < 8; ++bit, ++flips) {
            auto flipped = bytes;
            flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
            try {
                const std::size_t count = load_all(flipped);
                CHECK(count == 9);
            } catch (const bad_file&) {
                ++refused;
            }
        }
    CHECK(refused > flips / 2);
}

TEST_CASE("tiny llama: cut and bit-flipped checkpoints are refused or harmless", "[examples][safetensors]") {
    const broken_folder folder;
    REQUIRE(tinylm::load_model(folder.path).layers == 4);
    const auto weights = tinylm::read_file(checkpoint / "model.safetensors");
    const auto config = tinylm::read_file(checkpoint / "config.json");
    for (std::size_t length :
         {0ul, 1ul, 7ul, 8ul, 9ul, 1000ul, 4335ul, 4336ul, 4337ul, 100000ul, weights.size() - 1}) {
        CAPTURE(length);
        folder.write("model.safetensors", std::string_view(weights).substr(0, length));
        CHECK_THROWS_AS(tinylm::load_model(folder.path), bad_file);
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
        } catch (const bad_file&) {
        }
    }
    fs::remove(folder.path / "config.json");
    CHECK_THROWS_AS(tinylm::load_model(folder.path), bad_file);
    fs::create_directory(folder.path / "config.json");  // a folder of that name opens, but cannot be read
    CHECK_THROWS_AS(tinylm::load_model(folder.path), bad_file);
}
