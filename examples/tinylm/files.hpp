// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tinylm {

/// Every way a file can be wrong ends here, with the file's name in the text.
struct bad_file : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!std::filesystem::is_regular_file(path) || !file) throw bad_file(path.string() + ": cannot be read");
    std::string bytes(std::istreambuf_iterator<char>(file), {});
    if (file.bad()) throw bad_file(path.string() + ": reading stopped half-way");
    return bytes;
}

inline nlohmann::json parse_json(const std::string& name, std::string_view text) {
    try {
        return nlohmann::json::parse(text);
    } catch (const nlohmann::json::exception& error) {
        throw bad_file(name + ": not JSON: " + error.what());
    }
}

}  // namespace tinylm
