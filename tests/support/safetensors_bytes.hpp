// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Writes safetensors files in the published format, and files that a test spoils.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace support {

/// A header of any text before any data.
inline std::vector<std::byte> safetensors_file_of(const std::string& header,
                                                  std::span<const std::byte> data) {
    std::vector<std::byte> all;
    for (int i = 0; i < 8; ++i) all.push_back(static_cast<std::byte>(header.size() >> (8 * i) & 0xff));
    for (const char c : header) all.push_back(static_cast<std::byte>(c));
    all.insert(all.end(), data.begin(), data.end());
    return all;
}

/// A tensor as it will stand in the file.
struct written_tensor {
    std::string dtype;
    std::vector<std::ptrdiff_t> shape;
    std::vector<std::byte> bytes;
};
/// Numbers of any type by their bits, little-endian.
template <class T>
written_tensor tensor_of(std::string dtype, std::vector<std::ptrdiff_t> shape,
                         const std::vector<T>& numbers) {
    written_tensor t{std::move(dtype), std::move(shape), {}};
    for (const T& v : numbers) {
        unsigned char bytes[sizeof(T)];
        std::memcpy(bytes, &v, sizeof(T));
        for (std::size_t i = 0; i < sizeof(T); ++i)
            t.bytes.push_back(static_cast<std::byte>(
                bytes[std::endian::native == std::endian::little ? i : sizeof(T) - 1 - i]));
    }
    return t;
}
/// Normal numbers as F32; the same that `seed` gives anyone.
inline written_tensor random_f32(std::vector<std::ptrdiff_t> shape, unsigned seed, double spread = 1) {
    std::size_t count = 1;
    for (const auto e : shape) count *= static_cast<std::size_t>(e);
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0, static_cast<float>(spread));
    std::vector<float> numbers(count);
    for (float& v : numbers) v = normal(engine);
    return tensor_of("F32", std::move(shape), numbers);
}
inline std::vector<float> floats_of(const written_tensor& f32) {
    std::vector<float> all(f32.bytes.size() / 4);
    for (std::size_t i = 0; i < all.size(); ++i) {
        std::uint32_t bits = 0;
        for (std::size_t b = 4; b-- > 0;) bits = bits << 8 | static_cast<std::uint32_t>(f32.bytes[4 * i + b]);
        all[i] = std::bit_cast<float>(bits);
    }
    return all;
}

using written_tensors = std::map<std::string, written_tensor>;

/// The whole file, tensors in the order of their names, the header padded to 8 bytes with blanks.
inline std::vector<std::byte> safetensors_bytes(const written_tensors& tensors,
                                                const std::string& metadata = R"({"format":"pt"})") {
    std::string header = "{\"__metadata__\":" + metadata;
    std::vector<std::byte> data;
    for (const auto& [name, t] : tensors) {
        std::string shape;
        for (const auto e : t.shape) shape += (shape.empty() ? "" : ",") + std::to_string(e);
        header += ",\"" + name + "\":{\"dtype\":\"" + t.dtype + "\",\"shape\":[" + shape +
                  "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                  std::to_string(data.size() + t.bytes.size()) + "]}";
        data.insert(data.end(), t.bytes.begin(), t.bytes.end());
    }
    header += "}";
    while (header.size() % 8 != 0) header += ' ';
    return safetensors_file_of(header, data);
}

}  // namespace support
