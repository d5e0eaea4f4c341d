// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/mapped_file.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("mapped_file: the bytes of a file, an empty one too, stay where they are when it moves",
          "[models][files]") {
    const auto path = std::filesystem::temp_directory_path() /
                      ("ropewalk_mapped_" + std::to_string(std::random_device{}()));
    const auto write = [&](const std::string& text) { std::ofstream(path, std::ios::binary) << text; };
    const std::string text = "eight bytes and \n\0 more";
    write(text);
    {
        mapped_file file(path.string());
        const auto bytes = file.bytes();
        REQUIRE(bytes.size() == text.size());
        CHECK(std::equal(bytes.begin(), bytes.end(), text.begin(),
                         [](std::byte b, char c) { return b == static_cast<std::byte>(c); }));
        mapped_file moved(std::move(file));
        CHECK(moved.bytes().data() == bytes.data());
        mapped_file other(std::vector<std::byte>(3));
        const auto* const three = other.bytes().data();
        other = std::move(moved);
        CHECK(other.bytes().data() == bytes.data());
        CHECK(other.bytes().size() == text.size());
        CHECK(moved.bytes().data() == three);
    }
    write("");
    CHECK(mapped_file(path.string()).bytes().empty());
    std::filesystem::remove(path);
    CHECK_REFUSES("mapped_file: path must be a regular file that can be read, got " + path.string(),
                  mapped_file(path.string()));
    const auto folder = std::filesystem::temp_directory_path().string();
    CHECK_REFUSES("mapped_file: path must be a regular file that can be read, got " + folder,
                  mapped_file(folder));
}
