// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A main for a fuzz target without a fuzzer, and without anything that a sanitizer would have to know:
//     ropewalk_fuzz_TARGET COUNT BYTES FILE...
// gives the target every file, then COUNT inputs of up to BYTES random bytes, the same in every run.
#include <vector>

#include "input.hpp"

namespace {

std::vector<std::uint8_t> read(const char* path) {
    std::vector<std::uint8_t> bytes;
    std::FILE* file = std::fopen(path, "rb");
    fuzz::require(file != nullptr, "a file of the corpus cannot be read");
    for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file))
        bytes.push_back(static_cast<std::uint8_t>(c));
    std::fclose(file);
    return bytes;
}

}  // namespace

int main(int count, char** text) {
    fuzz::require(count > 3, "COUNT, BYTES and the files of the corpus must be given");
    const long inputs = std::atol(text[1]);
    const auto longest = static_cast<std::size_t>(std::atol(text[2]));
    for (int i = 3; i < count; ++i) {
        const auto bytes = read(text[i]);
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::uint64_t state = 20;
    const auto next = [&state] {  // splitmix64
        std::uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    };
    for (long i = 0; i < inputs; ++i) {
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(next() % (longest + 1)));
        for (auto& byte : bytes) byte = static_cast<std::uint8_t>(next());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%d files, %ld random inputs\n", count - 3, inputs);
}
