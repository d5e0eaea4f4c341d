// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Any bytes as a safetensors file: it either is refused with a text, or every tensor has as many numbers as its
// extents say, and together they take all bytes behind the header.
#include <ropewalk/models/safetensors.hpp>

#include "input.hpp"

namespace {

template <class T>
void read(const ropewalk::safetensors& file, const std::string& name, ropewalk::index count) {
    try {
        fuzz::require(file.numbers<T>(name).size() == static_cast<std::size_t>(count),
                      "a tensor has another size than its extents say");
    } catch (const ropewalk::invalid_config& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto file = ropewalk::read_safetensors(std::as_bytes(std::span(data, size)));
        std::size_t bytes = 0;
        for (const auto& [name, tensor] : file.all()) {
            bytes += tensor.bytes.size();
            read<float>(file, name, tensor.count());
            read<double>(file, name, tensor.count());
            read<std::int64_t>(file, name, tensor.count());
        }
        fuzz::require(bytes <= size - 8, "the tensors are larger than the file");
    } catch (const ropewalk::invalid_config& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    return 0;
}
