// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <ropewalk/core/half_types.hpp>

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

/// A safetensors file: 8-byte little-endian header length, a JSON header, the raw numbers. Nothing in the
/// file is believed: lengths, offsets and shapes are checked against each other before they are used.
/// Source: the format's description, huggingface/safetensors README.
class safetensors {
  public:
    safetensors(std::string name, std::string bytes) : name_(std::move(name)), bytes_(std::move(bytes)) {
        check(bytes_.size() >= 8, "too short for a header length");
        std::uint64_t length = 0;
        for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes_[i]);
        check(length <= bytes_.size() - 8,
              "header length " + std::to_string(length) + " is past the end of the file");
        data_ = 8 + static_cast<std::size_t>(length);
        header_ = parse_json(name_, std::string_view(bytes_).substr(8, static_cast<std::size_t>(length)));
        check(header_.is_object(), "the header is not a JSON object");
    }

    /// The numbers of a tensor as float, which must have exactly this shape.
    std::vector<float> load(const std::string& tensor, std::span<const std::ptrdiff_t> shape) const {
        const auto found = header_.find(tensor);
        check(found != header_.end(), "no tensor " + tensor);
        check(found->is_object() && found->contains("dtype") && found->contains("shape") &&
                  found->contains("data_offsets") && (*found)["dtype"].is_string(),
              tensor + " lacks dtype, shape or data_offsets");
        check(numbers((*found)["shape"], tensor) == std::vector<std::uint64_t>(shape.begin(), shape.end()),
              tensor + " has shape " + (*found)["shape"].dump() + ", the config asks for " +
                  nlohmann::json(shape).dump());
        const auto dtype = (*found)["dtype"].get<std::string>();
        const std::uint64_t width = dtype == "F32" ? 4 : dtype == "F16" || dtype == "BF16" ? 2 : 0;
        check(width != 0, tensor + " has dtype " + dtype + ", not F32, F16 or BF16");
        std::uint64_t count = 1;
        for (const auto extent : shape) {
            const auto e = static_cast<std::uint64_t>(extent);
            check(e == 0 || count <= std::numeric_limits<std::uint64_t>::max() / 8 / e,
                  tensor + " is too large");
            count *= e;
        }
        const auto offsets = numbers((*found)["data_offsets"], tensor);
        check(offsets.size() == 2 && offsets[0] <= offsets[1] && offsets[1] <= bytes_.size() - data_,
              tensor + " lies outside the file");
        check(offsets[1] - offsets[0] == count * width, tensor + " has offsets that do not fit its shape");

        const char* from = bytes_.data() + data_ + offsets[0];
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) {
            std::uint32_t bits = 0;
            for (std::size_t i = width; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(from[i]);
            from += width;
            if (width == 4)
                std::memcpy(&value, &bits, 4);
            else if (dtype == "F16")
                value = static_cast<float>(ropewalk::f16::from_bits(static_cast<std::uint16_t>(bits)));
            else
                value = static_cast<float>(ropewalk::bf16::from_bits(static_cast<std::uint16_t>(bits)));
        }
        return values;
    }

  private:
    void check(bool holds, const std::string& wrong) const {
        if (!holds) throw bad_file(name_ + ": " + wrong);
    }
    std::vector<std::uint64_t> numbers(const nlohmann::json& list, const std::string& tensor) const {
        check(list.is_array(), tensor + " has a shape or offsets that are no list");
        std::vector<std::uint64_t> all;
        for (const auto& n : list) {
            check(n.is_number_unsigned(), tensor + " has a shape or offset that is no count");
            all.push_back(n.get<std::uint64_t>());
        }
        return all;
    }

    std::string name_, bytes_;
    std::size_t data_ = 0;
    nlohmann::json header_;
};

}  // namespace tinylm
