// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/json_scanner.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Builds the JSON of a config while it is parsed and refuses at once what no config has: nesting deeper than
/// 64, a key twice in one object, an array of more than 65536 entries. Arrays and objects inside arrays are
/// skipped (null stands for them): no rotary key has them.
/// Source: RFC 8259.
class config_builder {
  public:
    using json = nlohmann::json;

    /// What is wrong with the text, if anything.
    std::optional<std::string> problem = {};
    json root = {};

    bool null() { return put(nullptr); }
    bool boolean(bool value) { return put(value); }
    bool number_integer(std::int64_t value) { return put(value); }
    bool number_unsigned(std::uint64_t value) { return put(value); }
    bool number_float(double value) { return put(value); }
    bool string(std::string& value) { return put(std::move(value)); }
    bool start_object() { return open(json::value_t::object); }
    bool start_array() { return open(json::value_t::array); }
    bool end_object() { return close(); }
    bool end_array() { return close(); }

    bool key(std::string& name) {
        if (skipped_ > 0) return true;
        const auto [at, is_new] = open_.back().object->try_emplace(std::move(name));
        key_ = &at->first;
        slot_ = &at->second;
        return is_new || refuse("must be given once, got it twice", true);
    }

  private:
    static constexpr std::size_t deepest = 64;

    bool refuse(const char* must, bool with_key = false) {
        std::string path;
        for (std::size_t l = 1; l < path_.size() && l < 8; ++l)
            path += (path.empty() ? "" : ".") + path_[l]->substr(0, 80);
        if (with_key) path += (path.empty() ? "" : ".") + key_->substr(0, 80);
        problem = (path.empty() ? "the text" : path) + " " + must;
        return false;
    }
    /// Where the next value goes, made of what is given; nothing where an array is full.
    template <class Value>
    json* place(Value&& value) {
        if (open_.empty()) return &(root = std::forward<Value>(value));
        auto* const array = open_.back().array;
        if (array == nullptr) return &(*slot_ = std::forward<Value>(value));
        if (array->size() == json_object::longest_list) return nullptr;
        return &array->emplace_back(std::forward<Value>(value));
    }
    template <class Value>
    bool put(Value&& value) {
        return skipped_ > 0 || place(std::forward<Value>(value)) != nullptr ||
               refuse("must be an array of at most 65536 entries, got more");
    }
    bool open(json::value_t kind) {
        if (open_.size() + skipped_ == deepest) return refuse("must be nested at most 64 deep, got more");
        if (skipped_ > 0 || (!open_.empty() && open_.back().array != nullptr)) {
            if (skipped_ == 0 && !put(nullptr)) return false;
            ++skipped_;
            return true;
        }
        path_.push_back(key_);
        json* const made = place(kind);
        open_.push_back({made->get_ptr<json::object_t*>(), made->get_ptr<json::array_t*>()});
        return true;
    }
    bool close() {
        if (skipped_ > 0) return --skipped_, true;
        open_.pop_back();
        path_.pop_back();
        return true;
    }

    struct container {  // one of the two
        json::object_t* object;
        json::array_t* array;
    };
    std::vector<container> open_;
    std::vector<const std::string*> path_;  // keys of what is open; the first is none
    const std::string* key_ = nullptr;      // of the value that comes, and where it goes
    json* slot_ = nullptr;
    std::size_t skipped_ = 0;  // open arrays and objects that are not built
};

}  // namespace detail

/// The JSON of a config's text, as from_huggingface takes it. Python's Infinity and NaN are read as strings,
/// so that only a key whose number matters refuses them.
/// Throws:   invalid_config naming the key path: text that is no JSON, more than 16 MiB of it, nesting deeper
///           than 64, a key twice, an array of more than 65536 entries.
/// Cost:     about 10 ms a MiB; memory at most 20 times the text.
/// Source:   RFC 8259; Python's json module for the three words.
inline nlohmann::json parse_config(std::string_view text) {
    constexpr std::size_t longest = std::size_t{16} << 20;
    detail::require(text.size() <= longest, "parse_config", "text must be at most 16 MiB", text.size());
    detail::config_builder builder;
    detail::json_scanner scanner(text, builder);
    if (!scanner.read()) detail::fail("parse_config: " + builder.problem.value_or(scanner.problem()));
    return std::move(builder.root);
}

}  // namespace ROPEWALK_NAMESPACE
