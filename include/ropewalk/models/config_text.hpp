// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ropewalk/models/json_reader.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Builds the JSON of a config while it is parsed and refuses at once what no config has: nesting deeper than
/// 64, a key twice in one object, an array of more than 65536 entries. Arrays and objects inside arrays are
/// skipped (null stands for them): no rotary key has them.
/// Source: RFC 8259.
class config_builder : public nlohmann::json_sax<nlohmann::json> {
  public:
    using json = nlohmann::json;

    /// What is wrong with the text, if anything.
    std::optional<std::string> problem = {};
    json root = {};

    bool null() override { return put(json()); }
    bool boolean(bool value) override { return put(json(value)); }
    bool number_integer(number_integer_t value) override { return put(json(value)); }
    bool number_unsigned(number_unsigned_t value) override { return put(json(value)); }
    bool number_float(number_float_t value, const string_t&) override { return put(json(value)); }
    bool string(string_t& value) override { return put(json(std::move(value))); }
    bool binary(json::binary_t&) override { return refuse("must hold JSON"); }
    bool start_object(std::size_t) override { return open(json::object()); }
    bool start_array(std::size_t) override { return open(json::array()); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

    bool key(string_t& name) override {
        if (skipped_ > 0) return true;
        const auto [at, is_new] = open_.back()->emplace(std::move(name), nullptr);
        key_ = &at.key();
        slot_ = &*at;
        return is_new || refuse("must be given once, got it twice", true);
    }
    bool parse_error(std::size_t position, const std::string& last, const json::exception&) override {
        std::string near = last.substr(0, 40);
        for (char& c : near)
            if (c < ' ' || c > '~') c = '?';
        problem = "the text must be JSON, got " + (near.empty() ? "its end" : "\"" + near + "\"") +
                  " at byte " + text(static_cast<std::int64_t>(position));
        return false;
    }

  private:
    static constexpr std::size_t deepest = 64;

    bool refuse(const char* must, bool with_key = false) {
        std::string path;
        for (std::size_t l = 1; l < path_.size() && l < 8; ++l)
            if (!path_[l].empty()) path += (path.empty() ? "" : ".") + path_[l].substr(0, 80);
        if (with_key) path += (path.empty() ? "" : ".") + key_->substr(0, 80);
        problem = (path.empty() ? "the text" : path) + " " + must;
        return false;
    }
    json* place(json value) {
        if (open_.empty()) return &(root = std::move(value));
        json& in = *open_.back();
        if (in.is_object()) return &(*slot_ = std::move(value));
        in.push_back(std::move(value));
        return &in.back();
    }
    bool put(json value) {
        if (skipped_ > 0) return true;
        if (!open_.empty() && open_.back()->size() == json_object::longest_list && open_.back()->is_array())
            return refuse("must be an array of at most 65536 entries, got more");
        place(std::move(value));
        return true;
    }
    bool open(json value) {
        if (open_.size() + skipped_ == deepest) return refuse("must be nested at most 64 deep, got more");
        if (skipped_ > 0 || (!open_.empty() && open_.back()->is_array())) {
            if (skipped_ == 0 && !put(json())) return false;
            ++skipped_;
            return true;
        }
        path_.push_back(open_.empty() ? std::string() : *key_);
        open_.push_back(place(std::move(value)));
        return true;
    }
    bool close() {
        if (skipped_ > 0) return --skipped_, true;
        open_.pop_back();
        path_.pop_back();
        return true;
    }

    std::vector<json*> open_;
    std::vector<std::string> path_;
    const std::string* key_ = nullptr;  // of the value that comes, and where it goes
    json* slot_ = nullptr;
    std::size_t skipped_ = 0;  // open arrays and objects that are not built
};

/// Python writes Infinity, -Infinity and NaN, which JSON has not: they become the strings of their names, so
/// that a key that is read refuses them by name and any other key may have them.
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

/// The JSON of a config's text, as from_huggingface takes it. Python's Infinity and NaN are read as strings,
/// so that only a key whose number matters refuses them.
/// Throws:   invalid_config naming the key path: text that is no JSON, more than 16 MiB of it, nesting deeper
///           than 64, a key twice, an array of more than 65536 entries.
/// Cost:     about 10 ms a MiB; memory at most 20 times the text.
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
