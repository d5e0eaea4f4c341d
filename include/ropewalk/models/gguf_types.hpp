// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The tensor types of GGUF files: their ids, names and block sizes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/core/version.hpp>

namespace ROPEWALK_NAMESPACE {

/// How a tensor's elements are stored: blocks of `elements` that take `bytes`.
/// Source: ggml-org/ggml ggml.h, ggml-common.h.
struct gguf_tensor_type {
    std::uint32_t id;        ///< as stored in files
    std::string_view name;   ///< as ggml prints it
    std::uint32_t elements;  ///< numbers per block
    std::uint32_t bytes;     ///< bytes per block
};

/// The tensor types of ggml. Missing ids are types that were removed.
inline constexpr auto gguf_tensor_types = std::to_array<gguf_tensor_type>({
    {0, "f32", 1, 4},         {1, "f16", 1, 2},         {2, "q4_0", 32, 18},      {3, "q4_1", 32, 20},
    {6, "q5_0", 32, 22},      {7, "q5_1", 32, 24},      {8, "q8_0", 32, 34},      {9, "q8_1", 32, 36},
    {10, "q2_K", 256, 84},    {11, "q3_K", 256, 110},   {12, "q4_K", 256, 144},   {13, "q5_K", 256, 176},
    {14, "q6_K", 256, 210},   {15, "q8_K", 256, 292},   {16, "iq2_xxs", 256, 66}, {17, "iq2_xs", 256, 74},
    {18, "iq3_xxs", 256, 98}, {19, "iq1_s", 256, 50},   {20, "iq4_nl", 32, 18},   {21, "iq3_s", 256, 110},
    {22, "iq2_s", 256, 82},   {23, "iq4_xs", 256, 136}, {24, "i8", 1, 1},         {25, "i16", 1, 2},
    {26, "i32", 1, 4},        {27, "i64", 1, 8},        {28, "f64", 1, 8},        {29, "iq1_m", 256, 56},
    {30, "bf16", 1, 2},       {34, "tq1_0", 256, 54},   {35, "tq2_0", 256, 66},   {39, "mxfp4", 32, 17},
});

/// The type with this id, or nullptr where there is none.
/// Cost: a search of about thirty entries.
inline const gguf_tensor_type* find_gguf_tensor_type(std::uint32_t id) noexcept {
    for (const auto& type : gguf_tensor_types)
        if (type.id == id) return &type;
    return nullptr;
}

/// The description of one tensor in the header of a GGUF file.
struct gguf_tensor {
    std::string name = {};                    ///< as stored in the file
    std::uint32_t type = 0;                   ///< gguf_tensor_type::id
    std::vector<std::uint64_t> extents = {};  ///< the fastest-varying axis first
    std::uint64_t offset = 0;                 ///< bytes from the start of the tensors' data
};

}  // namespace ROPEWALK_NAMESPACE
