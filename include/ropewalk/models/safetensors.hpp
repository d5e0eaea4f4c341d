// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// read_safetensors: finds the tensors of a safetensors file and reads their numbers within bounds of memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/core/stored_tensor.hpp>
#include <ropewalk/models/mapped_file.hpp>
#include <ropewalk/models/safetensors_types.hpp>

namespace ROPEWALK_NAMESPACE {

/// One tensor of a safetensors file: its description in the header, and a view of its bytes in the file
/// (little-endian, last axis fastest, not aligned).
struct safetensors_tensor {
    safetensors_type type = safetensors_type::f32;  ///< of its numbers
    std::vector<index> extents = {};                ///< empty for a single number
    std::span<const std::byte> bytes = {};          ///< of all its numbers

    /// The number of elements.
    index count() const noexcept {
        index n = 1;
        for (const index e : extents) n *= e;
        return n;
    }
};

namespace detail {

// Limits on what a file may claim.
inline constexpr std::uint64_t longest_safetensors_header = 100'000'000;  ///< the format's own limit
inline constexpr std::size_t most_safetensors_entries = 1u << 17;  ///< tensors and texts of __metadata__
inline constexpr std::size_t longest_safetensors_name = 65535;
inline constexpr std::size_t most_safetensors_extents = 32;

/// Anything that a file calls itself, as a message shows it.
inline std::string shown_name(std::string_view name) {
    std::string shown(name.substr(0, 80));
    for (char& c : shown)
        if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
    return name.size() > 80 ? shown.substr(0, 77) + "..." : shown;
}

/// Reads the header token by token with nlohmann's parser and keeps only the descriptions of tensors.
class safetensors_header {
  public:
    struct entry {
        std::string dtype;
        std::vector<std::uint64_t> shape, offsets;
        unsigned given = 0;  // 1 dtype, 2 shape, 4 data_offsets
    };
    std::map<std::string, entry, std::less<>> entries;
    std::map<std::string, std::string, std::less<>> metadata;

    explicit safetensors_header(const std::string& called) : called_(called) {}

    [[noreturn]] void wrong(std::string_view what, const std::string& must, const std::string& got) const {
        fail("read_safetensors: " + called_ + ": " + shown_name(what) + " must " + must + ", got " + got);
    }

    bool null() { return token("null"); }
    bool boolean(bool) { return token("true or false"); }
    bool number_integer(std::int64_t v) { return token(text(v)); }
    bool number_float(double v, const std::string&) { return token(text(v)); }
    bool binary(nlohmann::json::binary_t&) { return token("bytes"); }
    bool number_unsigned(std::uint64_t v) {
        if (place_ != place::list) return token(text(v));
        if (list_->size() == most_safetensors_extents)
            wrong(name_, "have at most " + text(most_safetensors_extents) + " extents", "more");
        list_->push_back(v);
        return true;
    }
    bool string(std::string& v) {
        if (place_ == place::metadata) {
            if (!metadata.emplace(key_, std::move(v)).second)
                wrong(key_, "be in __metadata__ once", "it twice");
        } else if (place_ == place::tensor && key_ == "dtype") {
            entry_->dtype = std::move(v);
        } else {
            return token("\"" + shown_name(v) + "\"");
        }
        return true;
    }
    bool start_object(std::size_t) {
        if (place_ == place::file) {
            place_ = place::header;
        } else if (place_ == place::header && name_ == "__metadata__") {
            place_ = place::metadata;
        } else if (place_ == place::header) {
            entry_ = &entries[name_];
            place_ = place::tensor;
        } else {
            return token("an object");
        }
        return true;
    }
    bool key(std::string& v) {
        const std::size_t more = place_ == place::tensor ? 0 : 1;
        if (v.size() > longest_safetensors_name ||
            entries.size() + metadata.size() + more > most_safetensors_entries)
            wrong(v, "be one of at most 2^17 names of at most 65535 bytes", text(v.size()) + " bytes");
        if (place_ == place::header) {
            if (entries.contains(v) || (v == "__metadata__" && seen_metadata_))
                wrong(v, "be in the file once", "it twice");
            seen_metadata_ = seen_metadata_ || v == "__metadata__";
            name_ = std::move(v);
        } else {
            key_ = std::move(v);
            if (place_ == place::tensor) {
                const unsigned bit = key_ == "dtype"          ? 1
                                     : key_ == "shape"        ? 2
                                     : key_ == "data_offsets" ? 4
                                                              : 0;
                if (bit == 0) wrong(name_, "have dtype, shape and data_offsets alone", shown_name(key_));
                if ((entry_->given & bit) != 0) wrong(name_, "have " + key_ + " once", "it twice");
                entry_->given |= bit;
            }
        }
        return true;
    }
    bool end_object() {
        if (place_ == place::tensor && entry_->given != 7)
            wrong(name_, "have dtype, shape and data_offsets", "fewer");
        place_ = place_ == place::header ? place::file : place::header;
        return true;
    }
    bool start_array(std::size_t) {
        if (place_ != place::tensor || key_ == "dtype") return token("a list");
        list_ = key_ == "shape" ? &entry_->shape : &entry_->offsets;
        place_ = place::list;
        return true;
    }
    bool end_array() {
        place_ = place::tensor;
        return true;
    }
    template <class Error>
    bool parse_error(std::size_t position, const std::string&, const Error&) {
        wrong("the header", "be JSON", "something else at its byte " + text(position));
    }

  private:
    enum class place { file, header, metadata, tensor, list };

    /// Refuses a value that is not expected at this point.
    bool token(const std::string& got) const {
        switch (place_) {
            case place::file: wrong("the header", "be a JSON object", got);
            case place::header: wrong(name_, "be a JSON object", got);
            case place::metadata: wrong("__metadata__." + key_, "be a text", got);
            case place::tensor: wrong(name_, "have " + key_ + (key_ == "dtype" ? " a text" : " a list"), got);
            default: wrong(name_, "have whole numbers >= 0 and below 2^64 in " + key_, got);
        }
    }

    const std::string& called_;
    place place_ = place::file;
    std::string name_, key_;
    entry* entry_ = nullptr;
    std::vector<std::uint64_t>* list_ = nullptr;
    bool seen_metadata_ = false;
};

}  // namespace detail

/// The tensors of a safetensors file by name, made by read_safetensors. It owns the file's bytes or mapping;
/// the views it returns are valid as long as it lives. Movable. Several threads may read it.
/// Source: huggingface/safetensors, README, "Format".
class safetensors {
  public:
    /// Tensors by name.
    using tensors = std::map<std::string, safetensors_tensor, std::less<>>;

    /// All tensors, in the order of their names.
    const tensors& all() const noexcept { return tensors_; }
    /// The texts of the file's __metadata__.
    const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }
    /// The name of the file in messages.
    const std::string& called() const noexcept { return called_; }

    /// Whether there is a tensor of that name.
    bool contains(std::string_view name) const { return tensors_.contains(name); }
    /// Throws: invalid_config naming the tensor when there is none of that name.
    const safetensors_tensor& at(std::string_view name) const {
        const auto found = tensors_.find(name);
        if (found == tensors_.end()) wrong(name, "be in the file", "nothing of that name");
        return found->second;
    }

    /// A tensor's numbers. T is double, float, f16 or bf16 for a tensor of real numbers, std::int64_t for one
    /// of integers or truth values.
    /// Throws:   invalid_config naming the tensor when it is missing, has other extents than `extents`, has
    ///           numbers of another kind, or one that T cannot hold (integers from 2^63 on).
    /// Accuracy: exact where T can hold the type; else rounded to nearest (f64 to 16 bits through f32).
    template <class T>
    std::vector<T> numbers(std::string_view name, std::span<const index> extents) const {
        const auto& tensor = at(name);
        if (!std::ranges::equal(tensor.extents, extents))
            wrong(name, "have shape " + detail::extents_text(extents), detail::extents_text(tensor.extents));
        return numbers<T>(name);
    }
    /// The same for any extents.
    template <class T>
    std::vector<T> numbers(std::string_view name) const {
        constexpr bool whole = std::is_same_v<T, std::int64_t>;
        const auto& tensor = at(name);
        const auto& row = row_of(tensor.type);
        if (row.numbers != (whole ? detail::kind_of_number::whole : detail::kind_of_number::real))
            wrong(name, whole ? "hold whole numbers" : "hold real numbers", row.name);
        std::vector<T> all;
        all.reserve(static_cast<std::size_t>(tensor.count()));
        if constexpr (whole) {
            detail::each_whole(tensor.type, tensor.bytes, [&](std::int64_t v) {
                if (v < 0 && tensor.type == safetensors_type::u64)
                    wrong(name, "hold numbers below 2^63", detail::text(static_cast<std::uint64_t>(v)));
                all.push_back(v);
            });
        } else {
            static_assert(sizeof(typename dtype<T>::compute) >= 4,
                          "numbers: double, float, f16, bf16 or int64");
            detail::each_real(tensor.type, tensor.bytes, [&](auto v) {
                if constexpr (std::is_same_v<T, double>)
                    all.push_back(static_cast<double>(v));
                else
                    all.push_back(T(static_cast<float>(v)));
            });
        }
        return all;
    }

  private:
    friend safetensors read_safetensors(mapped_file, std::string);

    safetensors(mapped_file file, std::string called) : file_(std::move(file)), called_(std::move(called)) {}

    [[noreturn]] void wrong(std::string_view name, const std::string& must, const std::string& got) const {
        detail::fail("safetensors: " + called_ + ": " + detail::shown_name(name) + " must " + must +
                     ", got " + got);
    }

    mapped_file file_;
    std::string called_;
    tensors tensors_;
    std::map<std::string, std::string, std::less<>> metadata_;
};

/// Reads the header of a safetensors file and finds its tensors; their numbers are read on request. `called`
/// is the name of the file in messages.
/// Throws:   invalid_config naming the file and the tensor: a header that is past the end, too long, or not
///           JSON of the format; a name or a key twice, missing or unknown; an unknown type; a shape whose
///           size overflows or is not that of its offsets; tensors that overlap, leave a gap, or do not end
///           with the file.
/// Cost:     O(header log tensors) time; memory in proportion to the header, which holds at most 100 MB and
///           2^17 names, whatever the file claims. Nothing is nested deeper than the format nests.
/// Source:   huggingface/safetensors, README, "Format".
inline safetensors read_safetensors(mapped_file file, std::string called) {
    safetensors made(std::move(file), std::move(called));
    const auto bytes = made.file_.bytes();
    detail::safetensors_header header(made.called_);
    if (bytes.size() < 8)
        header.wrong("the file", "begin with the 8 bytes of a length", detail::text(bytes.size()));
    const std::uint64_t length = detail::little_endian<8>(bytes.data());
    if (length > detail::longest_safetensors_header || length > bytes.size() - 8)
        header.wrong("the header's length", "be at most 100000000 and that of the file",
                     detail::text(length));
    const auto* const text = reinterpret_cast<const char*>(bytes.data()) + 8;
    // The parser takes a zero byte for the end: what stands behind it would be passed over.
    if (const auto* const zero = std::find(text, text + length, '\0'); zero != text + length)
        header.wrong("the header", "be JSON", "a zero byte at its byte " + detail::text(zero - text + 1));
    nlohmann::json::sax_parse(text, text + length, &header);
    const auto data = bytes.subspan(8 + static_cast<std::size_t>(length));

    std::vector<std::pair<std::uint64_t, const std::string*>> begins;
    for (const auto& [name, entry] : header.entries) {
        const auto* row = find_safetensors_type(entry.dtype);
        if (row == nullptr) header.wrong(name, "have a known dtype", detail::shown_name(entry.dtype));
        // No file holds 2^48 numbers, and the bits of so many can be counted in 64 bits.
        constexpr std::uint64_t most = std::uint64_t{1} << 48;
        std::uint64_t count = 1;
        safetensors_tensor tensor{.type = row->type};
        for (const std::uint64_t e : entry.shape) {
            if (e > most || (e != 0 && count > most / e))
                header.wrong(name, "have at most 2^48 numbers", "extent " + detail::text(e));
            count *= e;
            tensor.extents.push_back(static_cast<index>(e));
        }
        const std::uint64_t bits = count * static_cast<std::uint64_t>(row->bits);
        if (entry.offsets.size() != 2 || entry.offsets[0] > entry.offsets[1] ||
            entry.offsets[1] > data.size())
            header.wrong(name, "have two data_offsets in order within the file",
                         entry.offsets.size() != 2
                             ? detail::text(entry.offsets.size()) + " of them"
                             : detail::text(entry.offsets[0]) + " and " + detail::text(entry.offsets[1]));
        const std::uint64_t size = entry.offsets[1] - entry.offsets[0];
        if (bits % 8 != 0 || bits / 8 != size)
            header.wrong(name, "have data_offsets as far apart as its " + detail::text(bits) + " bits",
                         detail::text(size) + " bytes");
        tensor.bytes =
            data.subspan(static_cast<std::size_t>(entry.offsets[0]), static_cast<std::size_t>(size));
        const auto at = made.tensors_.emplace(name, std::move(tensor)).first;
        begins.emplace_back(entry.offsets[0], &at->first);
    }
    // Tensors must cover all bytes without gaps. Where several begin at one offset, all but the last are
    // empty.
    std::ranges::sort(begins, [&](const auto& a, const auto& b) {
        return std::pair(a.first, made.tensors_.find(*a.second)->second.bytes.size()) <
               std::pair(b.first, made.tensors_.find(*b.second)->second.bytes.size());
    });
    std::uint64_t end = 0;
    for (const auto& [begin, name] : begins) {
        if (begin != end)
            header.wrong(*name, "begin where the tensor before it ends, at " + detail::text(end),
                         detail::text(begin));
        end += made.tensors_.find(*name)->second.bytes.size();
    }
    if (end != data.size())
        header.wrong("the last tensor", "end with the file, at " + detail::text(data.size()),
                     detail::text(end));
    made.metadata_ = std::move(header.metadata);
    return made;
}
/// The same for bytes in memory.
inline safetensors read_safetensors(std::span<const std::byte> bytes, std::string called = "bytes") {
    return read_safetensors(mapped_file(std::vector<std::byte>(bytes.begin(), bytes.end())),
                            std::move(called));
}
/// The same for a file, mapped into memory where the system can.
/// Throws: also when it cannot be read.
///
///     const auto file = read_safetensors_file("adapter_model.safetensors");
///     const auto theta = file.numbers<double>("layers.0.road_theta", shape);
inline safetensors read_safetensors_file(const std::string& path) {
    return read_safetensors(mapped_file(path), path);
}

}  // namespace ROPEWALK_NAMESPACE
