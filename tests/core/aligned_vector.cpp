// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/aligned_vector.hpp>

#include <cstdint>

#include "support/catch.hpp"

TEST_CASE("aligned_vector: starts on a cache line whatever its size", "[core][aligned_vector]") {
    for (std::size_t size : {1, 3, 64, 1000}) {
        ropewalk::detail::aligned_vector<float> v(size, 1.0f);
        CHECK(reinterpret_cast<std::uintptr_t>(v.data()) % 64 == 0);
        const auto copy = v;
        CHECK(reinterpret_cast<std::uintptr_t>(copy.data()) % 64 == 0);
        CHECK(copy == v);
    }
}
