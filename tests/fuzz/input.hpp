// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// A fuzz target's input, read number by number; past its end all numbers are 0.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace fuzz {

class input {
  public:
    input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
    std::uint8_t byte() {
        if (left_ == 0) return 0;
        --left_;
        return *data_++;
    }
    /// 0 .. end - 1.
    std::ptrdiff_t below(int end) { return byte() % end; }
    template <class T, std::size_t N>
    T one_of(const T (&choices)[N]) {
        return choices[byte() % N];
    }

    bool ended() const { return left_ == 0; }

  private:
    const std::uint8_t* data_;
    std::size_t left_;
};

/// Ends the program where the library did not keep its word.
inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::abort();
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
