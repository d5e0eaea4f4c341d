// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/gguf_file.hpp>

#include <cstdio>
#include <functional>
#include <sstream>

#include <ropewalk/models/gguf.hpp>

#include "support/catch.hpp"
#include "support/gguf_bytes.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using support::gguf_bytes;
using i64 = std::int64_t;
namespace checks = ropewalk::ROPEWALK_ISA::detail;

namespace {

gguf_file read(const gguf_bytes& bytes) { return read_gguf(std::span<const std::byte>(bytes)); }

/// A file of one key.
gguf_file one(const std::function<void(gguf_bytes&)>& add) {
    gguf_bytes b;
    b.header(0, 1);
    add(b);
    return read(b);
}
/// A file of one tensor and the bytes behind it.
gguf_file tensor(const std::function<void(gguf_bytes&)>& add) {
    gguf_bytes b;
    b.header(1, 0);
    add(b);
    return read(b);
}

}  // namespace

TEST_CASE("gguf_file: a model from its file to its frequencies", "[models][gguf]") {
    const auto file = read(support::small_llama());
    CHECK(file.version == 3);
    CHECK(file.metadata.rope_freqs == std::vector<float>{1, 2, 4, 8});
    REQUIRE(file.tensors.size() == 2);
    CHECK(file.tensors[1].name == "token_embd.weight");
    CHECK(file.tensors[1].type == 8);
    CHECK(file.tensors[1].extents == std::vector<std::uint64_t>{32, 3});
    CHECK(file.tensors[1].offset == 32);
    CHECK(file.passed_over == std::vector<std::string>{"tokenizer.ggml.tokens", "tokenizer.chat_template"});
    CHECK(std::get<std::vector<double>>(file.metadata.values.at("tokenizer.ggml.scores")) ==
          std::vector<double>{0, -1.5});
    const auto model = make_model_schemes(from_gguf(file.metadata));
    CHECK(model.layers() == 2);
    for (ropewalk::index i = 0; i < 4; ++i)
        CHECK(model[1].spectrum_for(1).omega(i) == Approx(std::pow(5e5, -i / 4.0) / (1 << i)).epsilon(1e-14));
}

TEST_CASE("gguf_file: a value of every type, in versions 2 and 3", "[models][gguf]") {
    for (const unsigned version : {2u, 3u}) {
        gguf_bytes b;
        b.header(0, 16, version)
            .key("a.u8", 0)
            .number(200, 1)
            .key("a.i8", 1)
            .number(0x80, 1)
            .key("a.u16", 2)
            .number(60000, 2)
            .key("a.i16", 3)
            .number(0x8000, 2)
            .u32("a.u32", 4000000000)
            .key("a.i32", 5)
            .number(0x80000000, 4)
            .f32("a.f32", 0.1f)
            .boolean("a.yes", true)
            .boolean("a.no", false)
            .word("a.word", "yarn")
            .key("a.u64", 10)
            .number(0x7fffffffffffffff, 8)
            .key("a.i64", 11)
            .number(0x8000000000000000, 8)
            .f64("a.f64", 0.1)
            .array("a.flags", 7, 3)
            .number(1, 1)
            .number(0, 1)
            .number(1, 1)
            .array("a.none", 5, 0)
            .array("a.reals", 12, 1)
            .number(std::bit_cast<std::uint64_t>(2.5), 8);
        const auto values = read(b).metadata.values;
        CHECK(values.size() == 16);
        const auto whole = [&](const char* key) { return std::get<i64>(values.at(key)); };
        CHECK(whole("a.u8") == 200);
        CHECK(whole("a.i8") == -128);
        CHECK(whole("a.u16") == 60000);
        CHECK(whole("a.i16") == -32768);
        CHECK(whole("a.u32") == 4000000000);
        CHECK(whole("a.i32") == -2147483648LL);
        CHECK(whole("a.u64") == std::numeric_limits<i64>::max());
        CHECK(whole("a.i64") == std::numeric_limits<i64>::min());
        CHECK(std::get<double>(values.at("a.f32")) == static_cast<double>(0.1f));
        CHECK(std::get<double>(values.at("a.f64")) == 0.1);
        CHECK(std::get<bool>(values.at("a.yes")));
        CHECK_FALSE(std::get<bool>(values.at("a.no")));
        CHECK(std::get<std::string>(values.at("a.word")) == "yarn");
        CHECK(std::get<std::vector<i64>>(values.at("a.flags")) == std::vector<i64>{1, 0, 1});
        CHECK(std::get<std::vector<i64>>(values.at("a.none")).empty());
        CHECK(std::get<std::vector<double>>(values.at("a.reals")) == std::vector<double>{2.5});
    }
}

TEST_CASE("gguf_file: every field of the header wrong", "[models][gguf][errors]") {
    const auto header = [](std::string_view magic, std::uint64_t version, std::uint64_t tensors,
                           std::uint64_t keys) {
        gguf_bytes b;
        b.raw(magic).number(version, 4).number(tensors, 8).number(keys, 8);
        return read(b);
    };
    CHECK(header("GGUF", 3, 0, 0).tensors.empty());
    CHECK_REFUSES("read_gguf: the file must begin with GGUF, got 0x6e676767", header("gggn", 3, 0, 0));
    CHECK_REFUSES("read_gguf: the file must be little-endian, got 50331648", header("GGUF", 3 << 24, 0, 0));
    for (const unsigned version : {0u, 1u, 4u})
        CHECK_REFUSES("read_gguf: the version must be 2 or 3, got " + std::to_string(version),
                      header("GGUF", version, 0, 0));
    for (const std::uint64_t count : {std::uint64_t{1}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
        CHECK_REFUSES(
            "read_gguf: the tensor count must be that of tensors in the file, got " + std::to_string(count),
            header("GGUF", 3, count, 0));
        CHECK_REFUSES(
            "read_gguf: the key count must be that of keys in the file, got " + std::to_string(count),
            header("GGUF", 3, 0, count));
    }
    CHECK_REFUSES("read_gguf: the magic must lie within the file, got 0 of 4 bytes",
                  read_gguf(std::span<const std::byte>{}));
}

TEST_CASE("gguf_file: every field of a key wrong", "[models][gguf][errors]") {
    const std::string of = "read_gguf: ";
    CHECK_REFUSES(of + "key 0 must have 1 to 65535 bytes, got 0", one([](auto& b) { b.u32("", 1); }));
    CHECK_REFUSES(of + "key 0 must have 1 to 65535 bytes, got 18446744073709551615",
                  one([](auto& b) { b.number(~std::uint64_t{0}, 8).raw("0123456789"); }));
    CHECK_REFUSES(of + "key 0 must lie within the file, got 18 of 300 bytes",
                  one([](auto& b) { b.number(300, 8).raw("0123456789").number(0, 8); }));
    CHECK_REFUSES(of + "key 0 must be printable, got 0x0",
                  one([](auto& b) { b.u32(std::string_view("a\0b", 3), 1); }));
    CHECK_REFUSES(of + "key 0 must be printable, got 0xc3", one([](auto& b) { b.u32("\xc3\xa4", 1); }));
    CHECK_REFUSES(of + "a.b must have a type of 0 to 12, got 13",
                  one([](auto& b) { b.key("a.b", 13).number(0, 8); }));
    CHECK_REFUSES(of + "a.b must be 0 or 1 as a bool, got 2",
                  one([](auto& b) { b.key("a.b", 7).number(2, 1); }));
    CHECK_REFUSES(of + "a.b must lie within the file, got 4 of 8 bytes",
                  one([](auto& b) { b.key("a.b", 10).number(1, 4); }));
    CHECK_REFUSES(of + "a.b must lie within the file, got 3 of 4294967296 bytes",
                  one([](auto& b) { b.key("a.b", 8).number(1ull << 32, 8).raw("abc"); }));
    CHECK_REFUSES(of + "a.b must lie within the file, got 3 of 9 bytes",
                  one([](auto& b) { b.key("a.b", 8).number(9, 8).raw("abc"); }));
    CHECK_REFUSES(of + "a.b must be an array of one type of 0 to 8 or 10 to 12, got 9",
                  one([](auto& b) { b.array("a.b", 9, 1).number(4, 4).number(1, 8).number(7, 4); }));
    CHECK_REFUSES(of + "a.b must be an array of one type of 0 to 8 or 10 to 12, got 4294967295",
                  one([](auto& b) { b.array("a.b", 0xffffffff, 0); }));
    for (const unsigned type : {0u, 4u, 8u, 12u})
        CHECK_REFUSES(of + "a.b must lie within the file, got 8 bytes for 2305843009213693953 entries",
                      one([&](auto& b) { b.array("a.b", type, (1ull << 61) + 1).number(0, 8); }));
    CHECK_REFUSES(of + "a.b must lie within the file, got 0 of 5 bytes",
                  one([](auto& b) { b.array("a.b", 8, 1).number(5, 8); }));
    CHECK_REFUSES(of + "a.b must be 0 or 1 as a bool, got 255",
                  one([](auto& b) { b.array("a.b", 7, 2).number(1, 1).number(255, 1); }));
    gguf_bytes twice;
    twice.header(0, 2).u32("a.b", 1).u32("a.b", 1);
    CHECK_REFUSES(of + "key a.b must be there once, got it twice", read(twice));
    for (const unsigned alignment : {0u, 3u, 131072u})
        CHECK_REFUSES(
            of + "general.alignment must be a power of two up to 65536, got " + std::to_string(alignment),
            one([&](auto& b) { b.u32("general.alignment", alignment); }));
    CHECK_REFUSES(of + "general.alignment must be a power of two up to 65536, got 32",
                  one([](auto& b) { b.f32("general.alignment", 32); }));
}

TEST_CASE("gguf_file: what says something of rotation is never passed over", "[models][gguf][errors]") {
    const std::string of = "read_gguf: a.rope.x must ";
    CHECK_REFUSES(of + "be an array of numbers, got one of strings",
                  one([](auto& b) { b.array("a.rope.x", 8, 1).text("b"); }));
    CHECK_REFUSES(of + "have at most 65536 bytes, got 65537",
                  one([](auto& b) { b.word("a.rope.x", std::string(65537, 'y')); }));
    CHECK_REFUSES(of + "have at most 65536 entries, got 65537", one([](auto& b) {
                      b.array("a.rope.x", 0, 65537);
                      for (int i = 0; i < 65537; ++i) b.number(1, 1);
                  }));
    CHECK_REFUSES(of + "be below 2^63, got more",
                  one([](auto& b) { b.key("a.rope.x", 10).number(1ull << 63, 8); }));
    CHECK_REFUSES(of + "be below 2^63, got more",
                  one([](auto& b) { b.array("a.rope.x", 10, 1).number(1ull << 63, 8); }));
    // Of other subjects it is, by name.
    CHECK(one([](auto& b) { b.key("a.hash", 10).number(1ull << 63, 8); }).passed_over ==
          std::vector<std::string>{"a.hash"});
    const auto merges = one([](auto& b) { b.array("tokenizer.ggml.merges", 8, 2).text("a b").text("c d"); });
    CHECK(merges.passed_over == std::vector<std::string>{"tokenizer.ggml.merges"});
    CHECK(merges.metadata.values.empty());
}

TEST_CASE("gguf_file: every field of a tensor wrong", "[models][gguf][errors]") {
    const std::string of = "read_gguf: ";
    CHECK(tensor([](auto& b) { b.tensor("t", {4}, 0, 0); }).tensors.size() == 1);
    CHECK_REFUSES(of + "tensor 0 must have 1 to 255 bytes, got 256",
                  tensor([](auto& b) { b.tensor(std::string(256, 't'), {4}, 0, 0); }));
    CHECK_REFUSES(of + "t must have 1 to 4 extents, got 0",
                  tensor([](auto& b) { b.tensor("t", {}, 0, 0).number(0, 8); }));
    CHECK_REFUSES(of + "t must have 1 to 4 extents, got 5", tensor([](auto& b) {
                      b.tensor("t", {1, 1, 1, 1, 1}, 0, 0);
                  }));
    CHECK_REFUSES(of + "t must have extents >= 1 and below 2^62 elements, got 0", tensor([](auto& b) {
                      b.tensor("t", {4, 0}, 0, 0);
                  }));
    CHECK_REFUSES(of + "t must have extents >= 1 and below 2^62 elements, got 4294967296",
                  tensor([](auto& b) {
                      b.tensor("t", {1ull << 31, 1ull << 32}, 0, 0);
                  }));
    CHECK_REFUSES(of + "t must have below 2^62 bytes, got 2305843009213693952 blocks",
                  tensor([](auto& b) { b.tensor("t", {1ull << 61}, 0, 0); }));
    CHECK_REFUSES(of + "t must have a type of 0 to 255, got 256",
                  tensor([](auto& b) { b.tensor("t", {4}, 256, 0); }));
    CHECK_REFUSES(of + "t must have rows of whole blocks of 32, got 33",
                  tensor([](auto& b) { b.tensor("t", {33}, 8, 0); }));
    CHECK_REFUSES(of + "t must have an offset that is a multiple of 32, got 8",
                  tensor([](auto& b) { b.tensor("t", {4}, 0, 8); }));
    CHECK_REFUSES(of + "t must begin at 0, got 32", tensor([](auto& b) { b.tensor("t", {4}, 0, 32); }));
    const auto two = [](const char* second, std::uint64_t type, std::uint64_t offset) {
        gguf_bytes b;
        b.header(2, 0).tensor("t", {9}, type, 0).tensor(second, {4}, 0, offset);
        return read(b);
    };
    CHECK(two("u", 0, 64).tensors.size() == 2);
    CHECK_REFUSES(of + "u must begin at 64, got 32", two("u", 0, 32));
    CHECK_REFUSES(of + "tensor 1 must have a name of its own, got t", two("t", 0, 64));
    CHECK(two("u", 200, 1 << 20).tensors.size() == 2);  // behind a type whose size is not known
}

TEST_CASE("gguf_file: the rotary tensors are read or the file is refused", "[models][gguf][errors]") {
    const auto rotary = [](std::uint64_t type, std::vector<std::uint64_t> extents, int numbers) {
        gguf_bytes b;
        b.header(1, 0).tensor("rope_factors_long.weight", extents, type, 0).pad();
        for (int i = 0; i < numbers; ++i) b.number(std::bit_cast<std::uint32_t>(1.5f), 4);
        return read(b).metadata.rope_factors_long;
    };
    CHECK(rotary(0, {4}, 4) == std::vector<float>(4, 1.5f));
    CHECK(rotary(0, {2, 2, 1, 1}, 4) == std::vector<float>(4, 1.5f));
    const std::string of = "read_gguf: rope_factors_long.weight must ";
    CHECK_REFUSES(of + "be of type 0 (f32), got 1", rotary(1, {4}, 4));
    CHECK_REFUSES(of + "have at most 32768 numbers, got 32769", rotary(0, {32769}, 4));
    CHECK_REFUSES(of + "lie within the file, got 108 bytes", rotary(0, {4}, 3));
    CHECK_REFUSES(of + "lie within the file, got 96 bytes", rotary(0, {4}, 0));
}

TEST_CASE("gguf_file: cut off at every byte", "[models][gguf][errors]") {
    const auto whole = support::small_llama();
    const std::span<const std::byte> bytes = whole;
    // Every byte of the header but inside the chat template, where all are alike.
    for (std::size_t n = 0; n<bytes.size(); n += n> 600 && n + 600 < bytes.size() ? 997 : 1) {
        INFO(n);
        const auto why = support::refusal([&] { read_gguf(bytes.first(n)); });
        CHECK(why.starts_with("read_gguf: "));
    }
    CHECK(read_gguf(bytes).tensors.size() == 2);
}

TEST_CASE("gguf_file: any byte changed is refused with a text or read", "[models][gguf][errors]") {
    const auto whole = support::small_llama();
    auto bytes = whole;
    int refused = 0, taken = 0;
    for (std::size_t n = 0; n<bytes.size(); n += n> 600 && n + 600 < bytes.size() ? 997 : 1)
        for (const unsigned by : {0x01u, 0x80u, 0xffu}) {
            bytes.bytes()[n] ^= static_cast<std::byte>(by);
            const auto why = support::refusal([&] { from_gguf(read(bytes).metadata); });
            why.empty() ? ++taken : ++refused;
            CHECK((why.empty() || why.starts_with("read_gguf: ") || why.starts_with("from_gguf: ") ||
                   why.find(" must ") != std::string::npos));
            bytes.bytes()[n] ^= static_cast<std::byte>(by);
        }
    CHECK(refused > taken);
    CHECK(taken > 0);
}

TEST_CASE("gguf_file: a header that asks for much keeps little", "[models][gguf][errors]") {
    // 65536-entry arrays of single bytes become 512 KB each: refused once 64 MB are reached.
    gguf_bytes b;
    b.header(0, 200);
    for (int k = 0; k < 200; ++k) {
        b.array("a.k" + std::to_string(k), 0, 65536);
        b.bytes().resize(b.size() + 65536);
    }
    CHECK_REFUSES("read_gguf: a.k127 must leave the header below 67108864 bytes, got 67117714", read(b));
}

TEST_CASE("gguf_file: from a path and from a stream", "[models][gguf]") {
    CHECK_REFUSES("read_gguf_file: path must be a file that can be read, got /nonexistent/model.gguf",
                  read_gguf_file("/nonexistent/model.gguf"));
    const auto whole = support::small_llama();
    const std::span<const std::byte> bytes = whole;
    std::stringstream in(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    CHECK(read_gguf(in).metadata.rope_freqs.size() == 4);
    // Bytes as a stream: every way to seek, and not past either end.
    checks::span_buffer buffer(bytes.first(8));
    std::istream seeking(&buffer);
    const auto at = [&](std::streamoff by, std::ios_base::seekdir from) {
        return std::streamoff(seeking.rdbuf()->pubseekoff(by, from));
    };
    CHECK(at(3, std::ios_base::beg) == 3);
    CHECK(at(2, std::ios_base::cur) == 5);
    CHECK(at(-2, std::ios_base::cur) == 3);
    CHECK(at(-2, std::ios_base::end) == 6);
    CHECK(seeking.get() == std::to_integer<int>(bytes[6]));
    CHECK(at(0, std::ios_base::beg) == 0);
    CHECK(at(8, std::ios_base::beg) == 8);
    CHECK(at(-8, std::ios_base::end) == 0);
    CHECK(at(-1, std::ios_base::beg) == -1);
    CHECK(at(1, std::ios_base::end) == -1);
    CHECK(at(0, std::ios_base::cur) == 0);  // and stays where it was
    std::stringstream broken;
    broken.setstate(std::ios_base::badbit);
    CHECK_REFUSES("read_gguf: the stream must be seekable, got one that is not", read_gguf(broken));
}
