// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// read_gguf: reads the header of a GGUF file (keys, tensor list, rotary tensors) within bounds of memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <istream>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <streambuf>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/models/gguf_keys.hpp>
#include <ropewalk/models/gguf_types.hpp>

namespace ROPEWALK_NAMESPACE {

/// The header of a GGUF file.
/// Source: ggml-org/ggml docs/gguf.md.
struct gguf_file {
    std::uint32_t version = 0;  ///< of the file's format, 2 or 3
    /// What from_gguf reads: the values of all keys and the numbers of the rotary tensors. Long texts, long
    /// arrays and arrays of strings that do not concern rotation (vocabularies, chat templates) are left out.
    gguf_metadata metadata = {};
    std::vector<gguf_tensor> tensors = {};      ///< in the order of the file
    std::vector<std::string> passed_over = {};  ///< keys whose values metadata leaves out
};

namespace detail {

/// Limits on what a file may claim. Published files have about fifty keys and a few thousand tensors.
inline constexpr std::uint64_t most_gguf_keys = 65536;
inline constexpr std::uint64_t most_gguf_tensors = 1u << 20;
inline constexpr std::uint64_t longest_gguf_name = 65535;
inline constexpr std::uint64_t longest_gguf_text = 65536;    ///< bytes; a longer string is skipped
inline constexpr std::uint64_t longest_gguf_array = 65536;   ///< one number per layer at most
inline constexpr std::uint64_t most_gguf_bytes = 64u << 20;  ///< 64 MiB kept of one file

/// A stream buffer over bytes in memory.
class span_buffer : public std::streambuf {
  public:
    explicit span_buffer(std::span<const std::byte> bytes) {
        // A stream buffer never writes to its get area.
        char* const first = const_cast<char*>(reinterpret_cast<const char*>(bytes.data()));
        setg(first, first, first + bytes.size());
    }

  protected:
    pos_type seekoff(off_type by, std::ios_base::seekdir from, std::ios_base::openmode) override {
        const off_type size = egptr() - eback();
        const off_type at = from == std::ios_base::beg   ? by
                            : from == std::ios_base::end ? size + by
                                                         : gptr() - eback() + by;
        if (at < 0 || at > size) return pos_type(off_type(-1));
        setg(eback(), eback() + at, egptr());
        return pos_type(at);
    }
    pos_type seekpos(pos_type at, std::ios_base::openmode which) override {
        return seekoff(off_type(at), std::ios_base::beg, which);
    }
};

class gguf_file_reader {
  public:
    explicit gguf_file_reader(std::istream& in) : in_(in) {
        in.seekg(0, std::ios_base::end);
        const auto end = in.tellg();
        in.seekg(0, std::ios_base::beg);
        require(in.good() && end != std::istream::pos_type(-1), who, "the stream must be seekable",
                "one that is not");
        left_ = static_cast<std::uint64_t>(std::streamoff(end));
        size_ = left_;
    }

    gguf_file read() {
        const std::uint64_t magic = number(4, "the magic");
        require(magic == 0x46554747, who, "the file must begin with GGUF", hex(magic));
        file_.version = static_cast<std::uint32_t>(number(4, "the version"));
        require((file_.version & 0xffff) != 0 || file_.version == 0, who, "the file must be little-endian",
                file_.version);
        require(file_.version == 2 || file_.version == 3, who, "the version must be 2 or 3", file_.version);
        const std::uint64_t tensors = number(8, "the tensor count");
        const std::uint64_t keys = number(8, "the key count");
        // A tensor takes at least 32 bytes (name, extents, type, offset), a key 14, so the file's size limits
        // both counts.
        require(tensors <= most_gguf_tensors && tensors <= left_ / 32, who,
                "the tensor count must be that of tensors in the file", tensors);
        require(keys <= most_gguf_keys && keys <= left_ / 14, who,
                "the key count must be that of keys in the file", keys);
        for (std::uint64_t i = 0; i < keys; ++i) read_key();
        read_alignment();
        for (std::uint64_t i = 0; i < tensors; ++i) read_tensor();
        const std::uint64_t at = size_ - left_;
        data_ = (at + alignment_ - 1) / alignment_ * alignment_;
        read_rotary(file_.metadata.rope_freqs, "rope_freqs.weight");
        read_rotary(file_.metadata.rope_factors_long, "rope_factors_long.weight");
        read_rotary(file_.metadata.rope_factors_short, "rope_factors_short.weight");
        return std::move(file_);
    }

  private:
    static constexpr const char* who = "read_gguf";
    enum kind : std::uint64_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
    static constexpr std::uint64_t width_of[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

    static std::string hex(std::uint64_t v) {
        char buffer[24];
        std::snprintf(buffer, sizeof buffer, "0x%llx", static_cast<unsigned long long>(v));
        return buffer;
    }
    [[noreturn]] void wrong(const std::string& what, const std::string& must, const std::string& got) const {
        fail(std::string(who) + ": " + what + " must " + must + ", got " + got);
    }
    void require_left(std::uint64_t count, const std::string& what) const {
        if (count > left_) wrong(what, "lie within the file", text(left_) + " of " + text(count) + " bytes");
    }
    /// Refills the buffer when it is used up. Requires: left_ > 0.
    void refill(const std::string& what) {
        const auto wanted = static_cast<std::streamsize>(std::min<std::uint64_t>(left_, buffer_.size()));
        in_.read(buffer_.data(), wanted);
        if (in_.gcount() != wanted)
            wrong(what, "be readable", text(in_.gcount()) + " of " + text(wanted) + " bytes");
        at_ = 0;
        end_ = static_cast<std::size_t>(wanted);
    }
    void take(char* to, std::uint64_t count, const std::string& what) {
        require_left(count, what);
        while (count > 0) {
            if (at_ == end_) refill(what);
            const std::uint64_t now = std::min<std::uint64_t>(count, end_ - at_);
            std::memcpy(to, buffer_.data() + at_, static_cast<std::size_t>(now));
            to += now;
            advance(now, count);
        }
    }
    void skip(std::uint64_t count, const std::string& what) {
        require_left(count, what);
        advance(std::min<std::uint64_t>(count, end_ - at_), count);
        if (count >= buffer_.size()) {  // the buffer is used up: seek instead of reading
            in_.seekg(static_cast<std::streamoff>(count), std::ios_base::cur);
            if (!in_.good()) wrong(what, "be readable", text(count) + " bytes that are not");
            left_ -= count;
        } else if (count > 0) {
            refill(what);
            advance(count, count);
        }
    }
    void advance(std::uint64_t now, std::uint64_t& count) noexcept {
        at_ += static_cast<std::size_t>(now);
        left_ -= now;
        count -= now;
    }
    /// A little-endian number, on any machine.
    std::uint64_t number(std::uint64_t width, const std::string& what) {
        unsigned char bytes[8] = {};
        take(reinterpret_cast<char*>(bytes), width, what);
        std::uint64_t v = 0;
        for (std::uint64_t i = width; i > 0; --i) v = v << 8 | bytes[i - 1];
        return v;
    }
    /// Counts bytes that stay in memory, up to the limit.
    void keep(std::uint64_t bytes, const std::string& what) {
        kept_ += bytes;
        if (kept_ > most_gguf_bytes)
            wrong(what, "leave the header below " + text(most_gguf_bytes) + " bytes", text(kept_));
    }
    std::string characters(std::uint64_t length, const std::string& what) {
        keep(length, what);
        require_left(length, what);
        std::string all(static_cast<std::size_t>(length), '\0');
        take(all.data(), length, what);
        return all;
    }
    std::string name(const std::string& what, std::uint64_t longest) {
        const std::uint64_t length = number(8, what);
        if (length == 0 || length > longest)
            wrong(what, "have 1 to " + text(longest) + " bytes", text(length));
        keep(64, what);
        std::string all = characters(length, what);
        for (const char c : all)
            if (c <= ' ' || c > '~') wrong(what, "be printable", hex(static_cast<unsigned char>(c)));
        return all;
    }

    /// Whether a key concerns rotation, so that it must not be skipped.
    static bool matters(const std::string& key) {
        return key.find(".rope.") != std::string::npos || key.find(".attention.") != std::string::npos ||
               key == "general.architecture" || key == "general.alignment" || key.ends_with("block_count");
    }
    void pass_over(const std::string& key, const std::string& must, const std::string& got) {
        if (matters(key)) wrong(key, must, got);
        keep(key.size() + 64, key);
        file_.passed_over.push_back(key);
    }
    void store(const std::string& key, gguf_value value) {
        file_.metadata.values.emplace(key, std::move(value));
    }

    static bool is_real(std::uint64_t type) { return type == f32 || type == f64; }
    double real(std::uint64_t type, const std::string& what) {
        const std::uint64_t bits = number(width_of[type], what);
        return type == f64 ? std::bit_cast<double>(bits)
                           : static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
    }
    /// A whole number or a bool; nothing where it does not fit in 64 bits with a sign.
    std::optional<std::int64_t> whole(std::uint64_t type, const std::string& what) {
        const std::uint64_t bits = number(width_of[type], what);
        switch (type) {
            case i8: return static_cast<std::int8_t>(bits);
            case i16: return static_cast<std::int16_t>(bits);
            case i32: return static_cast<std::int32_t>(bits);
            case i64: return static_cast<std::int64_t>(bits);
            case boolean:
                if (bits > 1) wrong(what, "be 0 or 1 as a bool", text(bits));
                return static_cast<std::int64_t>(bits);
            default:
                if (bits > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return {};
                return static_cast<std::int64_t>(bits);
        }
    }

    void read_key() {
        const std::string key = name("key " + text(keys_.size()), longest_gguf_name);
        if (!keys_.insert(key).second) wrong("key " + key, "be there once", "it twice");
        const std::uint64_t type = number(4, key);
        if (type > f64) wrong(key, "have a type of 0 to 12", text(type));
        if (type == string) {
            read_string(key);
        } else if (type == array) {
            read_array(key);
        } else if (is_real(type)) {
            store(key, real(type, key));
        } else {
            const auto v = whole(type, key);
            if (!v)
                pass_over(key, "be below 2^63", "more");
            else if (type == boolean)
                store(key, *v != 0);
            else
                store(key, *v);
        }
    }
    void read_string(const std::string& key) {
        const std::uint64_t length = number(8, key);
        if (length > longest_gguf_text) {
            skip(length, key);
            return pass_over(key, "have at most " + text(longest_gguf_text) + " bytes", text(length));
        }
        store(key, characters(length, key));
    }
    void read_array(const std::string& key) {
        const std::uint64_t type = number(4, key);
        if (type > f64 || type == array)
            wrong(key, "be an array of one type of 0 to 8 or 10 to 12", text(type));
        const std::uint64_t count = number(8, key);
        const std::uint64_t width = type == string ? 8 : width_of[type];
        if (count > left_ / width)
            wrong(key, "lie within the file", text(left_) + " bytes for " + text(count) + " entries");
        if (type == string) {
            for (std::uint64_t i = 0; i < count; ++i) skip(number(8, key), key);
            return pass_over(key, "be an array of numbers", "one of strings");
        }
        if (count > longest_gguf_array) {
            skip(count * width, key);
            return pass_over(key, "have at most " + text(longest_gguf_array) + " entries", text(count));
        }
        keep(count * 8, key);
        if (is_real(type)) {
            std::vector<double> all;
            for (std::uint64_t i = 0; i < count; ++i) all.push_back(real(type, key));
            return store(key, std::move(all));
        }
        std::vector<std::int64_t> all;
        bool fits = true;
        for (std::uint64_t i = 0; i < count; ++i) {
            const auto v = whole(type, key);
            fits = fits && v.has_value();
            all.push_back(v.value_or(0));
        }
        if (!fits) return pass_over(key, "be below 2^63", "more");
        store(key, std::move(all));
    }

    void read_alignment() {
        const auto at = file_.metadata.values.find("general.alignment");
        if (at == file_.metadata.values.end()) return;
        const auto* v = std::get_if<std::int64_t>(&at->second);
        if (v == nullptr || *v < 1 || *v > 65536 || !std::has_single_bit(static_cast<std::uint64_t>(*v)))
            wrong("general.alignment", "be a power of two up to 65536", gguf_text(at->second));
        alignment_ = static_cast<std::uint64_t>(*v);
    }

    void read_tensor() {
        const std::string which = "tensor " + text(file_.tensors.size());
        gguf_tensor t;
        t.name = name(which, 255);
        if (!tensors_.insert(t.name).second) wrong(which, "have a name of its own", t.name);
        const std::uint64_t axes = number(4, t.name);
        if (axes < 1 || axes > 4) wrong(t.name, "have 1 to 4 extents", text(axes));
        std::uint64_t elements = 1;
        for (std::uint64_t a = 0; a < axes; ++a) {
            const std::uint64_t n = number(8, t.name);
            if (n < 1 || n > (std::uint64_t{1} << 62) / elements)
                wrong(t.name, "have extents >= 1 and below 2^62 elements", text(n));
            elements *= n;
            t.extents.push_back(n);
        }
        t.type = static_cast<std::uint32_t>(number(4, t.name));
        if (t.type > 255) wrong(t.name, "have a type of 0 to 255", text(t.type));
        t.offset = number(8, t.name);
        if (t.offset % alignment_ != 0)
            wrong(t.name, "have an offset that is a multiple of " + text(alignment_), text(t.offset));
        const auto* type = find_gguf_tensor_type(t.type);
        if (type == nullptr) known_so_far_ = false;  // its length is unknown, and so is where the next begins
        if (type != nullptr && t.extents.front() % type->elements != 0)
            wrong(t.name, "have rows of whole blocks of " + text(type->elements), text(t.extents.front()));
        if (known_so_far_) {
            if (t.offset != next_) wrong(t.name, "begin at " + text(next_), text(t.offset));
            const std::uint64_t blocks = elements / type->elements;
            if (blocks > (std::uint64_t{1} << 62) / type->bytes)
                wrong(t.name, "have below 2^62 bytes", text(blocks) + " blocks");
            const std::uint64_t bytes = blocks * type->bytes;
            if (bytes > (std::uint64_t{1} << 62) - next_)
                wrong(t.name, "end below 2^62", text(bytes) + " bytes");
            next_ = (next_ + bytes + alignment_ - 1) / alignment_ * alignment_;
        }
        keep(sizeof t + 32, t.name);
        file_.tensors.push_back(std::move(t));
    }

    /// Reads the numbers of a rotary tensor: without them the frequencies would be wrong.
    void read_rotary(std::vector<float>& to, const std::string& called) {
        for (const auto& t : file_.tensors) {
            if (t.name != called) continue;
            if (t.type != 0) wrong(called, "be of type 0 (f32)", text(t.type));
            std::uint64_t count = 1;
            for (const std::uint64_t n : t.extents) count *= n;
            if (count > 32768) wrong(called, "have at most 32768 numbers", text(count));
            const std::uint64_t end = t.offset + 4 * count;  // both below 2^62, else it is refused
            if (t.offset > size_ || data_ > size_ || end > size_ - data_)
                wrong(called, "lie within the file", text(size_) + " bytes");
            in_.seekg(static_cast<std::streamoff>(data_ + t.offset), std::ios_base::beg);
            left_ = size_ - data_ - t.offset;
            at_ = end_ = 0;
            for (std::uint64_t i = 0; i < count; ++i) to.push_back(static_cast<float>(real(f32, called)));
        }
    }

    std::istream& in_;
    std::vector<char> buffer_ = std::vector<char>(16384);
    std::size_t at_ = 0, end_ = 0;  // the bytes of the buffer that are not read yet
    gguf_file file_;
    std::set<std::string> keys_, tensors_;
    std::uint64_t size_ = 0, left_ = 0, kept_ = 0;
    std::uint64_t alignment_ = 32, next_ = 0, data_ = 0;
    bool known_so_far_ = true;
};

}  // namespace detail

/// Reads the header of a GGUF file, version 2 or 3, little-endian: its keys, and the names, types and extents
/// of its tensors. Of the tensors' data, only rope_freqs, rope_factors_long and rope_factors_short are read;
/// from_gguf needs them.
/// Requires: a seekable stream.
/// Throws:   invalid_config naming the key or tensor and the value: a wrong magic, version, type, length or
///           count, a name twice, tensors that do not follow one another, a file that ends too early.
/// Cost:     O(header); at most 64 MiB are kept, whatever the file claims.
/// Source:   ggml-org/ggml docs/gguf.md.
///
///     const auto config = from_gguf(read_gguf_file("model.gguf").metadata);
inline gguf_file read_gguf(std::istream& in) { return detail::gguf_file_reader(in).read(); }
/// The same for bytes in memory.
inline gguf_file read_gguf(std::span<const std::byte> bytes) {
    detail::span_buffer buffer(bytes);
    std::istream in(&buffer);
    return read_gguf(in);
}
/// The same for a file.
/// Throws: also when it cannot be opened.
inline gguf_file read_gguf_file(const std::string& path) {
    std::ifstream in(path, std::ios_base::binary);
    detail::require(in.is_open(), "read_gguf_file", "path must be a file that can be read", path);
    return read_gguf(in);
}

}  // namespace ROPEWALK_NAMESPACE
