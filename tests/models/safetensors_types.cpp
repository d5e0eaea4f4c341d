// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/safetensors_types.hpp>

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/safetensors_bytes.hpp"

using namespace ropewalk;

TEST_CASE("safetensors_types: a type is found by its name and is as wide as its name says",
          "[models][safetensors]") {
    for (const auto& row : detail::safetensors_types) {
        const std::string name = row.name;
        INFO(name);
        REQUIRE(find_safetensors_type(name) == &row);
        CHECK(&row_of(row.type) == &row);
        int digits = 0;
        for (const char c : name)
            if (c >= '0' && c <= '9')
                digits = 10 * digits + (c - '0');
            else if (digits != 0)
                break;
        CHECK(row.bits == (name == "BOOL" ? 8 : digits));
    }
    for (const char* name : {"", "f32", "F31", "F32 ", "I128"}) CHECK(find_safetensors_type(name) == nullptr);
}

TEST_CASE("safetensors_types: numbers come from little-endian bytes at any address",
          "[models][safetensors]") {
    const auto reals = [](safetensors_type type, const support::written_tensor& t) {
        std::vector<std::byte> moved(1);  // an odd address
        moved.insert(moved.end(), t.bytes.begin(), t.bytes.end());
        std::vector<double> all;
        detail::each_real(type, std::span(moved).subspan(1),
                          [&](auto v) { all.push_back(static_cast<double>(v)); });
        return all;
    };
    const std::vector<double> wanted{1.5, -0.0, 448, 0.015625};
    CHECK(reals(safetensors_type::f64, support::tensor_of("F64", {4}, wanted)) == wanted);
    const auto as = [&](auto kind) {
        std::vector<decltype(kind)> all;
        for (const double v : wanted) all.push_back(decltype(kind)(static_cast<float>(v)));
        return support::tensor_of("", {4}, all);
    };
    CHECK(reals(safetensors_type::f32, as(float())) == wanted);
    CHECK(reals(safetensors_type::f16, as(f16())) == wanted);
    CHECK(reals(safetensors_type::bf16, as(bf16())) == wanted);
    CHECK(reals(safetensors_type::f8_e4m3, as(f8_e4m3())) == wanted);
    CHECK(reals(safetensors_type::f8_e5m2, as(f8_e5m2())) == std::vector<double>{1.5, -0.0, 448, 0.015625});
    const std::vector<std::uint8_t> exponents{127, 0, 254, 255};
    const auto powers = reals(safetensors_type::f8_e8m0, support::tensor_of("", {4}, exponents));
    CHECK(powers[0] == 1);
    CHECK(powers[1] == 0x1p-127);
    CHECK(powers[2] == 0x1p127);
    CHECK(powers[3] != powers[3]);
}

TEST_CASE("safetensors_types: whole numbers keep their sign and all their bits", "[models][safetensors]") {
    const auto whole = [](safetensors_type type, const support::written_tensor& t) {
        std::vector<std::int64_t> all;
        detail::each_whole(type, t.bytes, [&](std::int64_t v) { all.push_back(v); });
        return all;
    };
    const auto extremes = [&](safetensors_type type, auto kind) {
        using I = decltype(kind);
        const std::vector<I> two{std::numeric_limits<I>::min(), std::numeric_limits<I>::max()};
        CHECK(
            whole(type, support::tensor_of("", {2}, two)) ==
            std::vector<std::int64_t>{static_cast<std::int64_t>(two[0]), static_cast<std::int64_t>(two[1])});
    };
    extremes(safetensors_type::u8, std::uint8_t());
    extremes(safetensors_type::i8, std::int8_t());
    extremes(safetensors_type::u16, std::uint16_t());
    extremes(safetensors_type::i16, std::int16_t());
    extremes(safetensors_type::u32, std::uint32_t());
    extremes(safetensors_type::i32, std::int32_t());
    extremes(safetensors_type::i64, std::int64_t());
    extremes(safetensors_type::u64, std::uint64_t());
    CHECK(whole(safetensors_type::boolean, support::tensor_of("", {2}, std::vector<std::uint8_t>{0, 1})) ==
          std::vector<std::int64_t>{0, 1});
}
