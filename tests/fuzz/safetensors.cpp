// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The examples' safetensors reader on any bytes: it either refuses with bad_file or gives as many numbers
// as the shape asked for.
#include "../../examples/tinylm/safetensors.hpp"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const tinylm::safetensors file("input", std::string(reinterpret_cast<const char*>(data), size));
        const std::ptrdiff_t shapes[][2] = {{2, 3}, {0, 4}, {1, 1}};
        for (const auto& shape : shapes) try {
                const auto values = file.load("w", shape);
                fuzz::require(values.size() == static_cast<std::size_t>(shape[0] * shape[1]),
                              "a tensor has another size than asked for");
            } catch (const tinylm::bad_file&) {
            }
    } catch (const tinylm::bad_file& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    return 0;
}
