// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/stored_tensor.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("stored tensor: numbers of the extents that are wanted, or an error by name",
          "[core][stored_tensor]") {
    const std::vector<float> numbers(12, 2.0f);
    const auto tensors = [&](std::string_view name) -> rw::stored_tensor<float> {
        if (name == "weight") return {numbers, {3, 4}};
        if (name == "short") return {std::span(numbers).first(11), {3, 4}};
        return {};
    };
    const auto read = [&](std::string_view name, std::initializer_list<rw::index> extents) {
        return rw::detail::tensor_of<float>("read", tensors, name, extents);
    };
    CHECK(read("weight", {3, 4}).data() == numbers.data());
    CHECK(read("weight", {3, 4}).size() == 12);
    CHECK_REFUSES("read: weight must be [4, 3], got [3, 4]", read("weight", {4, 3}));
    CHECK_REFUSES("read: weight must be [12], got [3, 4]", read("weight", {12}));
    CHECK_REFUSES("read: short must hold the numbers of its extents, got 11", read("short", {3, 4}));
    CHECK_REFUSES("read: bias must be [3], got none", read("bias", {3}));
}
