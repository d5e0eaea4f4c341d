// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// parse_config: the JSON of a model's config text, parsed within bounds of depth, size and time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ropewalk/models/json_reader.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Builds the JSON of a config while it is parsed, and refuses at once what no valid config has: nesting
/// deeper than 64, a key twice in one object, an array of more than 65536 entries. Arrays and objects inside
/// arrays are replaced by null, since no rotary key has them. So are the tables of a classifier's labels,
/// which can be most of a text.
/// Source: RFC 8259.
class config_builder : public nlohmann::json_sax<nlohmann::json> {
  public:
    using json = nlohmann::json;

    /// What is wrong with the text, if anything.
    std::optional<std::string> problem = {};
    json root = {};

    bool null() override { return put(nullptr); }
    bool boolean(bool value) override { return put(value); }
    bool number_integer(number_integer_t value) override { return put(value); }
    bool number_unsigned(number_unsigned_t value) override { return put(value); }
    bool number_float(number_float_t value, const string_t&) override { return put(value); }
    bool string(string_t& value) override { return put(std::move(value)); }
    bool binary(json::binary_t&) override { return refuse("must hold JSON"); }
    bool start_object(std::size_t) override { return open(json::value_t::object); }
    bool start_array(std::size_t) override { return open(json::value_t::array); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

    bool key(string_t& name) override {
        if (skipped_ > 0) return true;
        const auto [at, is_new] = open_.back().object->try_emplace(std::move(name));
        key_ = &at->first;
        slot_ = &at->second;
        return is_new || refuse("must be given once, got it twice", true);
    }
    bool parse_error(std::size_t position, const std::string& last, const json::exception&) override {
        std::string nearby = last.substr(0, 40);
        for (char& c : nearby)
            if (c < ' ' || c > '~') c = '?';
        problem = "the text must be JSON, got " + (nearby.empty() ? "its end" : "\"" + nearby + "\"") +
                  " at byte " + text(static_cast<std::int64_t>(position));
        return false;
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
    /// Stores the next value and returns a pointer to it; null where an array is full.
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
        if (skipped_ > 0 || (!open_.empty() && (open_.back().array != nullptr || in_labels()))) {
            if (skipped_ == 0 && !put(nullptr)) return false;
            ++skipped_;
            return true;
        }
        path_.push_back(key_);
        json* const made = place(kind);
        open_.push_back({made->get_ptr<json::object_t*>(), made->get_ptr<json::array_t*>()});
        return true;
    }
    bool in_labels() const { return *key_ == "id2label" || *key_ == "label2id"; }
    bool close() {
        if (skipped_ > 0) return --skipped_, true;
        open_.pop_back();
        path_.pop_back();
        return true;
    }

    struct container {  // exactly one is not null
        json::object_t* object;
        json::array_t* array;
    };
    std::vector<container> open_;
    std::vector<const std::string*> path_;  // keys of the open containers; the first is null
    const std::string* key_ = nullptr;      // key of the next value
    json* slot_ = nullptr;
    std::size_t skipped_ = 0;  // open arrays and objects that are not built
};

/// Python writes Infinity, -Infinity and NaN, which JSON lacks. They become strings of the same name, so that
/// a key that is read refuses them and any other key may have them.
inline std::string with_named_numbers(std::string_view text) {
    std::string out;
    out.reserve(text.size() + 64);
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (quoted && c == '\\' && i + 1 < text.size()) {
            out.append({c, text[++i]});
            continue;
        }
        if (c == '"') quoted = !quoted;
        std::string_view word;
        if (!quoted)
            for (const std::string_view name : {"Infinity", "-Infinity", "NaN"})
                if (text.substr(i, name.size()) == name) word = name;
        if (word.empty()) {
            out += c;
        } else {
            out.append("\"").append(word).append("\"");
            i += word.size() - 1;
        }
    }
    return out;
}

}  // namespace detail

/// The JSON of a config text, for from_huggingface. Python's Infinity and NaN are read as strings, so that
/// only keys that are read refuse them.
/// Throws:   invalid_config naming the key path: text that is not JSON, text longer than 16 MiB, nesting
///           deeper than 64, a key twice, an array of more than 65536 entries.
/// Cost:     at most 30 ms per MiB (for numbers of one digit; 7 ms per MiB for a table of labels); memory at
///           most 20 times the text.
/// Source:   RFC 8259; Python's json module for the three words.
inline nlohmann::json parse_config(std::string_view text) {
    constexpr std::size_t longest = std::size_t{16} << 20;
    detail::require(text.size() <= longest, "parse_config", "text must be at most 16 MiB", text.size());
    const bool python = text.find("Infinity") != text.npos || text.find("NaN") != text.npos;
    const std::string mended = python ? detail::with_named_numbers(text) : std::string();
    if (python) text = mended;
    detail::config_builder builder;
    nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
    if (builder.problem) detail::fail("parse_config: " + *builder.problem);
    return std::move(builder.root);
}

}  // namespace ROPEWALK_NAMESPACE
