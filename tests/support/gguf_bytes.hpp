// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Writes the bytes of a GGUF file, field by field, so that a test can make any of them wrong.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace support {

class gguf_bytes {
  public:
    gguf_bytes& number(std::uint64_t v, int width) {
        for (int i = 0; i < width; ++i) bytes_.push_back(static_cast<std::byte>(v >> (8 * i) & 0xff));
        return *this;
    }
    gguf_bytes& raw(std::string_view text) {
        for (const char c : text) bytes_.push_back(static_cast<std::byte>(c));
        return *this;
    }
    gguf_bytes& text(std::string_view all) { return number(all.size(), 8).raw(all); }
    gguf_bytes& header(std::uint64_t tensors, std::uint64_t keys, std::uint64_t version = 3) {
        return raw("GGUF").number(version, 4).number(tensors, 8).number(keys, 8);
    }
    gguf_bytes& key(std::string_view name, std::uint64_t type) { return text(name).number(type, 4); }
    gguf_bytes& u32(std::string_view name, std::uint64_t v) { return key(name, 4).number(v, 4); }
    gguf_bytes& f32(std::string_view name, float v) {
        return key(name, 6).number(std::bit_cast<std::uint32_t>(v), 4);
    }
    gguf_bytes& f64(std::string_view name, double v) {
        return key(name, 12).number(std::bit_cast<std::uint64_t>(v), 8);
    }
    gguf_bytes& boolean(std::string_view name, bool v) { return key(name, 7).number(v ? 1 : 0, 1); }
    gguf_bytes& word(std::string_view name, std::string_view v) { return key(name, 8).text(v); }
    gguf_bytes& array(std::string_view name, std::uint64_t type, std::uint64_t count) {
        return key(name, 9).number(type, 4).number(count, 8);
    }
    gguf_bytes& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint64_t type,
                       std::uint64_t offset) {
        text(name).number(extents.size(), 4);
        for (const auto n : extents) number(n, 8);
        return number(type, 4).number(offset, 8);
    }
    gguf_bytes& pad(std::size_t to = 32) {
        while (bytes_.size() % to != 0) bytes_.push_back(std::byte{0});
        return *this;
    }
    std::vector<std::byte>& bytes() { return bytes_; }
    operator std::span<const std::byte>() const { return bytes_; }  // NOLINT: reads as the file it is
    std::size_t size() const { return bytes_.size(); }

  private:
    std::vector<std::byte> bytes_;
};

/// A small Llama of two layers with the divisors of its rotation, a vocabulary and a chat template.
inline gguf_bytes small_llama() {
    gguf_bytes b;
    b.header(2, 10)
        .word("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .u32("llama.embedding_length", 32)
        .u32("llama.attention.head_count", 4)
        .u32("llama.context_length", 8192)
        .f32("llama.rope.freq_base", 5e5f)
        .u32("llama.rope.dimension_count", 8)
        .array("tokenizer.ggml.tokens", 8, 3)
        .text("a")
        .text("")
        .text("ccc")
        .word("tokenizer.chat_template", std::string(70000, 'x'))
        .array("tokenizer.ggml.scores", 6, 2)
        .number(0, 4)
        .number(std::bit_cast<std::uint32_t>(-1.5f), 4)
        .tensor("rope_freqs.weight", {4}, 0, 0)
        .tensor("token_embd.weight", {32, 3}, 8, 32)
        .pad();
    for (const float v : {1.0f, 2.0f, 4.0f, 8.0f}) b.number(std::bit_cast<std::uint32_t>(v), 4);
    return b;
}

}  // namespace support
