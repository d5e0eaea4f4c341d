// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/safetensors.hpp>

#include <filesystem>
#include <fstream>
#include <random>

#include "support/catch.hpp"
#include "support/refusal.hpp"
#include "support/safetensors_bytes.hpp"

using namespace ropewalk;
using support::safetensors_file_of;

namespace {

using shape = std::vector<ropewalk::index>;

/// What reading a header before so many bytes of data says.
std::string complaint(const std::string& header, std::size_t data = 12) {
    return support::refusal([&] {
        const auto file = read_safetensors(safetensors_file_of(header, std::vector<std::byte>(data)), "file");
        static_cast<void>(file.numbers<float>("a", shape{2, 3}));
    });
}
std::string one(const std::string& entry) { return "{\"a\":" + entry + "}"; }

support::written_tensors sample() {
    return {{"a", support::tensor_of(
                      "F16", {2, 3},
                      std::vector<f16>{f16(1), f16(-2), f16(0x1p-24f), f16(65504), f16(0), f16(-0.0f)})},
            {"b", support::tensor_of("F32", {2}, std::vector<float>{1, -10})},
            {"c", support::tensor_of("BF16", {1}, std::vector<bf16>{bf16(3.140625f)})},
            {"d", support::tensor_of("F64", {}, std::vector<double>{0.1})},
            {"e", support::tensor_of("F32", {0, 7}, std::vector<float>{})},
            {"f", support::tensor_of("I64", {2}, std::vector<std::int64_t>{-1, 1ll << 62})},
            {"g", support::tensor_of("U64", {1}, std::vector<std::uint64_t>{1ull << 63})},
            {"h", support::tensor_of("F4", {3, 2}, std::vector<std::uint8_t>{1, 2, 3})},
            {"i", support::tensor_of("BOOL", {2}, std::vector<std::uint8_t>{0, 1})}};
}
double sum_of(const safetensors& file) {
    double sum = 0;
    for (const auto& [name, tensor] : file.all()) {
        if (row_of(tensor.type).numbers == safetensors_type_row::kind::real)
            for (double v : file.numbers<double>(name)) sum += v;
        for (std::byte b : tensor.bytes) sum += static_cast<double>(b);
    }
    return sum;
}

}  // namespace

TEST_CASE("safetensors: what is written is read back, type by type", "[models][safetensors]") {
    const auto file = read_safetensors(support::safetensors_bytes(sample()));
    CHECK(file.all().size() == 9);
    CHECK(file.metadata().at("format") == "pt");
    CHECK(file.numbers<float>("a", shape{2, 3}) == std::vector<float>{1, -2, 0x1p-24f, 65504, 0, -0.0f});
    CHECK(file.numbers<double>("b", shape{2}) == std::vector<double>{1, -10});
    CHECK(file.numbers<float>("c") == std::vector<float>{3.140625f});
    CHECK(file.numbers<double>("d", shape{}) == std::vector<double>{0.1});
    CHECK(file.numbers<float>("d") == std::vector<float>{0.1f});
    CHECK(file.numbers<bf16>("b")[1].bits == bf16(-10.0f).bits);
    CHECK(file.numbers<float>("e", shape{0, 7}).empty());
    CHECK(file.numbers<std::int64_t>("f") == std::vector<std::int64_t>{-1, 1ll << 62});
    CHECK(file.numbers<std::int64_t>("i") == std::vector<std::int64_t>{0, 1});
    CHECK(file.at("h").bytes.size() == 3);
    CHECK(file.at("h").count() == 6);
    CHECK_FALSE(file.contains("z"));
}

TEST_CASE("safetensors: a tensor is asked for by what it is", "[models][safetensors]") {
    const auto file = read_safetensors(support::safetensors_bytes(sample()), "file");
    CHECK_REFUSES("safetensors: file: z must be in the file, got nothing of that name", file.at("z"));
    CHECK_REFUSES("safetensors: file: a must have shape [3, 2], got [2, 3]",
                  file.numbers<float>("a", shape{3, 2}));
    CHECK_REFUSES("safetensors: file: f must hold real numbers, got I64", file.numbers<float>("f"));
    CHECK_REFUSES("safetensors: file: h must hold real numbers, got F4", file.numbers<float>("h"));
    CHECK_REFUSES("safetensors: file: a must hold whole numbers, got F16", file.numbers<std::int64_t>("a"));
    CHECK_REFUSES("safetensors: file: g must hold numbers below 2^63, got 9223372036854775808",
                  file.numbers<std::int64_t>("g"));
}

TEST_CASE("safetensors: whatever is wrong in the header is refused by name",
          "[models][safetensors][hostile]") {
    const std::string good = R"({"dtype":"F16","shape":[2,3],"data_offsets":[0,12]})";
    REQUIRE(complaint(one(good)).empty());
    struct spoiled {
        std::string header, says;
        std::size_t data = 12;
    };
    const std::string in = "read_safetensors: file: ";
    const spoiled cases[] = {
        {"[1]", "the header must begin with {, got byte 91"},
        {"7", "the header must begin with {, got byte 55"},
        {"", "the header must begin with {, got nothing"},
        {" " + one(good), "the header must begin with {, got byte 32"},
        {"\n" + one(good), "the header must begin with {, got byte 10"},
        {"\xef\xbb\xbf" + one(good), "the header must begin with {, got byte 239"},
        {std::string("\0", 1) + one(good), "the header must begin with {, got byte 0"},
        {R"({"a":)", "the header must be JSON, got something else at its byte 6"},
        {one(good) + "x",
         "the header must be JSON, got something else at its byte " + std::to_string(one(good).size() + 1)},
        {one(good) + std::string("\0x", 2),
         "the header must be JSON, got a zero byte at its byte " + std::to_string(one(good).size() + 1)},
        {"{\"\xff\":1}", "the header must be JSON, got something else at its byte 3"},
        {R"({"a":1})", "a must be a JSON object, got 1"},
        {R"({"a":null})", "a must be a JSON object, got null"},
        {one("{}"), "a must have dtype, shape and data_offsets, got fewer"},
        {one(R"({"dtype":"F16","shape":[2,3]})"), "a must have dtype, shape and data_offsets, got fewer"},
        {one(R"({"dtype":1,"shape":[2,3],"data_offsets":[0,12]})"), "a must have dtype a text, got 1"},
        {one(R"({"dtype":["F16"],"shape":[2,3],"data_offsets":[0,12]})"),
         "a must have dtype a text, got a list"},
        {one(R"({"dtype":"F15","shape":[2,3],"data_offsets":[0,12]})"), "a must have a known dtype, got F15"},
        {one(R"({"dtype":"F16","shape":6,"data_offsets":[0,12]})"), "a must have shape a list, got 6"},
        {one(R"({"dtype":"F16","shape":"x","data_offsets":[0,12]})"), "a must have shape a list, got \"x\""},
        {one(R"({"dtype":"F16","shape":{},"data_offsets":[0,12]})"),
         "a must have shape a list, got an object"},
        {one(R"({"dtype":"F16","shape":[2,-3],"data_offsets":[0,12]})"),
         "a must have whole numbers >= 0 and below 2^64 in shape, got -3"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[0,1.5]})"),
         "a must have whole numbers >= 0 and below 2^64 in data_offsets, got 1.5"},
        {one(R"({"dtype":"F16","shape":[2,[3]],"data_offsets":[0,12]})"),
         "a must have whole numbers >= 0 and below 2^64 in shape, got a list"},
        {one(R"({"dtype":"F16","shape":[2,true],"data_offsets":[0,12]})"),
         "a must have whole numbers >= 0 and below 2^64 in shape, got true or false"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[0,12,24]})"),
         "a must have two data_offsets in order within the file, got 3 of them"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[12,0]})"),
         "a must have two data_offsets in order within the file, got 12 and 0"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[1,13]})"),
         "a must have two data_offsets in order within the file, got 1 and 13"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[18446744073709551604,18446744073709551615]})"),
         "a must have two data_offsets in order within the file, got 18446744073709551604 and "
         "18446744073709551615"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[0,11]})"),
         "a must have data_offsets as far apart as its 96 bits, got 11 bytes"},
        {one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,1]})"),
         "a must have data_offsets as far apart as its 12 bits, got 1 bytes", 1},
        {one(R"({"dtype":"F16","shape":[4611686018427387904,4],"data_offsets":[0,0]})"),
         "a must have at most 2^48 numbers, got extent 4611686018427387904", 0},
        {one(R"({"dtype":"F16","shape":[16777216,16777216,16777216],"data_offsets":[0,0]})"),
         "a must have at most 2^48 numbers, got extent 16777216", 0},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[1,13]})"),
         "a must begin where the tensor before it ends, at 0, got 1", 13},
        {R"({"a":)" + good + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[11,13]}})",
         "b must begin where the tensor before it ends, at 12, got 11", 13},
        {R"({"a":)" + good + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[13,15]}})",
         "b must begin where the tensor before it ends, at 12, got 13", 15},
        {R"({"a":)" + good + R"(,"b":)" + good + "}",
         "b must begin where the tensor before it ends, at 12, got 0"},
        {one(good), "a must end with the file, at 13, got 12", 13},
        {R"({"b":)" + good + R"(,"a":{"dtype":"U8","shape":[1],"data_offsets":[12,13]}})",
         "a must end with the file, at 14, got 13", 14},
        {"{}", "a file without tensors must end with the file, at 1, got 0", 1},
        {R"({"":1})", "\"\" must be a JSON object, got 1"},
        {one(R"({"dtype":"","shape":[2,3],"data_offsets":[0,12]})"), "a must have a known dtype, got \"\""},
        {R"({"a":)" + good + R"(,"a":)" + good + "}", "a must be in the file once, got it twice"},
        {one(R"({"dtype":"F16","dtype":"F16","shape":[2,3],"data_offsets":[0,12]})"),
         "a must have dtype once, got it twice"},
        {one(R"({"dtype":"F16","shape":[2,3],"data_offsets":[0,12],"strides":[3,1]})"),
         "a must have dtype, shape and data_offsets alone, got strides"},
        {R"({"__metadata__":{"x":1}})", "__metadata__.x must be a text, got 1"},
        {R"({"__metadata__":{"x":{}}})", "__metadata__.x must be a text, got an object"},
        {R"({"__metadata__":{"x":"1","x":"2"}})", "__metadata__.x must be in the file once, got it twice"},
        {R"({"__metadata__":{},"__metadata__":{}})", "__metadata__ must be in the file once, got it twice"},
    };
    for (const auto& [header, says, data] : cases) {
        INFO(header);
        CHECK(complaint(header, data) == in + says);
    }
}

TEST_CASE("safetensors: a long name is cut in a message, a deep or long header is refused early",
          "[models][safetensors][hostile]") {
    const std::string name(1000, 'n');
    const auto said = complaint("{\"" + name + "\":1}");
    CHECK(said.find(std::string(77, 'n') + "... must be a JSON object") != std::string::npos);
    CHECK(complaint("{\"" + std::string(70000, 'n') + "\":1}").find("at most 65535 bytes") !=
          std::string::npos);
    CHECK(
        complaint(one("{\"" + std::string(70000, 'n') + "\":1}"))
            .starts_with("read_safetensors: file: a must have dtype, shape and data_offsets alone, got nn"));
    CHECK(complaint(one(std::string(1 << 20, '['))) ==
          "read_safetensors: file: a must be a JSON object, got a list");
    std::string many = one(R"({"dtype":"F16","data_offsets":[0,12],"shape":[)");
    many.pop_back();
    for (int i = 0; i < 1000; ++i) many += "1,";
    CHECK(complaint(many) == "read_safetensors: file: a must have at most 32 numbers in shape, got more");
    for (const std::uint64_t length :
         {std::uint64_t{3}, std::uint64_t{100'000'001}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
        std::vector<std::byte> bytes;
        for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<std::byte>(length >> (8 * i) & 0xff));
        bytes.resize(10, std::byte{'{'});
        CHECK_REFUSES(
            "read_safetensors: bytes: the header's length must be at most 100000000 and that of the file, "
            "got " +
                std::to_string(length),
            read_safetensors(bytes));
        bytes.resize(7);
        CHECK_REFUSES("read_safetensors: bytes: the file must begin with the 8 bytes of a length, got 7",
                      read_safetensors(bytes));
    }
}

TEST_CASE("safetensors: a message is UTF-8 wherever a name is cut", "[models][safetensors][hostile]") {
    const std::string characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\xa7\xad"};
    for (const std::string& character : characters)
        for (std::size_t before = 0; before < 6; ++before) {
            std::string name(before, 'n');
            const std::size_t whole = (77 - before) / character.size();
            for (int i = 0; i < 40; ++i) name += character;
            const auto said = complaint("{\"" + name + "\":1}");
            const std::string shown = name.substr(0, before + whole * character.size());
            CHECK(said == "read_safetensors: file: " + (name.size() > 80 ? shown + "..." : name) +
                              " must be a JSON object, got 1");
        }
    // Bytes that are no UTF-8 are the caller's, and cut all the same.
    const auto file = read_safetensors(support::safetensors_bytes(sample()), "file");
    CHECK_REFUSES("safetensors: file: " + std::string(74, '\x80') +
                      "... must be in the file, got nothing of "
                      "that name",
                  file.at(std::string(100, '\x80')));
}

TEST_CASE("safetensors: every cut is refused, every flipped bit of the header refused or harmless",
          "[models][safetensors][hostile]") {
    const auto bytes = support::safetensors_bytes(sample());
    const auto read = [](std::span<const std::byte> all) { return sum_of(read_safetensors(all)); };
    REQUIRE(read(bytes) != 0);
    for (std::size_t length = 0; length < bytes.size(); ++length)
        CHECK_FALSE(support::refusal([&] { read(std::span(bytes).first(length)); }).empty());
    std::size_t header = 0, refused = 0;
    for (std::size_t i = 8; i-- > 0;) header = header << 8 | static_cast<std::size_t>(bytes[i]);
    for (std::size_t at = 0; at < 8 + header; ++at)
        for (int bit = 0; bit < 8; ++bit) {
            auto flipped = bytes;
            flipped[at] ^= static_cast<std::byte>(1 << bit);
            if (!support::refusal([&] { read(flipped); }).empty()) ++refused;
        }
    CHECK(refused > 4 * header);
}

TEST_CASE("safetensors: a file is mapped, and what it gave lives as long as it does",
          "[models][safetensors]") {
    const auto path = std::filesystem::temp_directory_path() /
                      ("ropewalk_" + std::to_string(std::random_device{}()) + ".safetensors");
    const auto bytes = support::safetensors_bytes(sample());
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    auto first = read_safetensors_file(path.string());
    const auto* const at = first.at("b").bytes.data();
    const auto file = std::move(first);
    std::filesystem::remove(path);
    CHECK(file.at("b").bytes.data() == at);
    CHECK(file.numbers<float>("b") == std::vector<float>{1, -10});
    CHECK(file.called() == path.string());
    CHECK_REFUSES("mapped_file: path must be a regular file that can be read, got " + path.string(),
                  read_safetensors_file(path.string()));
}
