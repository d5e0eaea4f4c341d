// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/gguf_types.hpp>

#include "support/catch.hpp"

using namespace ropewalk;

TEST_CASE("gguf_types: every type is found by its id and takes the bits that its name says",
          "[models][gguf]") {
    for (const auto& type : gguf_tensor_types) {
        INFO(type.name);
        CHECK(find_gguf_tensor_type(type.id) == &type);
        CHECK((type.elements == 1 || type.elements == 32 || type.elements == 256));
        // q4_0 takes 4 bits and a bit of scale: fewer than 2 more.
        const double bits = 8.0 * type.bytes / type.elements;
        for (const char c : type.name)
            if (c >= '1' && c <= '8' && type.elements > 1) {
                CHECK(bits >= c - '0');
                CHECK(bits < c - '0' + 2.2);
                break;
            }
    }
    for (const unsigned id : {4u, 5u, 31u, 38u, 41u, 255u}) CHECK(find_gguf_tensor_type(id) == nullptr);
    CHECK(find_gguf_tensor_type(0)->bytes == 4);
}
