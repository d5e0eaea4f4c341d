// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A JSON object read key by key: types are checked, errors name the key path, unread keys are known.
#pragma once

#include <cmath>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/models/strictness.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Appends the beginning of a value as text, at most 80 characters, in bounded time whatever the value holds.
inline void append_json_text(std::string& out, const nlohmann::json& value, int depth) {
    constexpr std::size_t longest = 80;
    if (out.size() > longest) return;
    if (value.is_string()) {  // a long one is cut before it is quoted
        const auto& word = value.get_ref<const std::string&>();
        const nlohmann::json part = word.size() > longest ? word.substr(0, longest) : word;
        out += part.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
        return;
    }
    if (!value.is_structured()) {
        out += value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
        return;
    }
    out += value.is_array() ? '[' : '{';
    bool first = true;
    for (auto at = value.begin(); at != value.end() && out.size() <= longest; ++at, first = false) {
        if (!first) out += ',';
        if (value.is_object()) append_json_text(out, nlohmann::json(at.key()), depth), out += ':';
        if (depth == 0) return out.append("..."), void();
        append_json_text(out, *at, depth - 1);
    }
    out += value.is_array() ? ']' : '}';
}
inline std::string json_text(const nlohmann::json& value) {
    std::string shown;
    append_json_text(shown, value, 8);
    if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
    return shown;
}

/// Refuses values nested too deep for code that recurses (copying, comparing, printing), without recursing
/// itself.
/// Throws: invalid_config naming the key path of the first value that is nested too deep.
inline void require_shallow(const char* function, const nlohmann::json& root, std::size_t deepest = 64) {
    struct level {
        nlohmann::json::const_iterator at, end;
        bool object;
    };
    if (!root.is_structured()) return;
    std::vector<level> open = {{root.begin(), root.end(), root.is_object()}};
    while (!open.empty()) {
        auto& [at, end, object] = open.back();
        if (at == end) {
            open.pop_back();
            if (!open.empty()) ++open.back().at;
            continue;
        }
        if (!at->is_structured() || at->empty()) {
            ++at;
            continue;
        }
        if (open.size() == deepest) {
            std::string path;
            for (std::size_t l = 0; l < 4 && open[l].object; ++l)
                path += (l == 0 ? "" : ".") + open[l].at.key().substr(0, 80);
            fail(std::string(function) + ": " + (path.empty() ? "the config" : path) +
                 " must be nested at most " + text(static_cast<std::int64_t>(deepest)) + " deep, got more");
        }
        const nlohmann::json& inside = *at;
        open.push_back({inside.begin(), inside.end(), inside.is_object()});
    }
}

/// One JSON object read key by key: the type of every value is checked, every error names the key path, and
/// unread keys can be listed at the end.
/// Source: RFC 8259.
class json_object {
  public:
    static constexpr std::size_t longest_list = 65536;  ///< entries of a list that is read

    json_object(const char* function, const nlohmann::json& node, std::string path)
        : function_(function), node_(&node), path_(std::move(path)) {
        if (!node.is_object()) reject("", "an object", node);
    }

    /// The path to a key, for messages: a key of more than 80 characters is cut.
    std::string path_of(const std::string& key) const {
        const auto shown = key.size() > 80 ? key.substr(0, 77) + "..." : key;
        return path_.empty() ? shown : key.empty() ? path_ : path_ + "." + shown;
    }
    const nlohmann::json& node() const noexcept { return *node_; }

    /// The value, or nullptr where the key is missing or null. Reading a key marks it as known.
    const nlohmann::json* find(const std::string& key) {
        const auto at = node_->find(key);
        if (at == node_->end()) return nullptr;
        seen_.insert(key);
        return at->is_null() ? nullptr : &*at;
    }
    bool has(const std::string& key) { return find(key) != nullptr; }
    /// A reader of an object inside this one, whose path extends this one's.
    json_object inner(const std::string& key, const nlohmann::json& node) const {
        return {function_, node, path_of(key)};
    }

    std::optional<double> number(const std::string& key) {
        const auto* v = find(key);
        if (v == nullptr) return {};
        if (!v->is_number() || !std::isfinite(v->get<double>())) reject(key, "a finite number", *v);
        return v->get<double>();
    }
    std::optional<std::int64_t> count(const std::string& key, std::int64_t least = 1) {
        const auto* v = find(key);
        if (v == nullptr) return {};
        const bool whole = v->is_number_integer() ||
                           (v->is_number_float() && std::trunc(v->get<double>()) == v->get<double>());
        if (!whole || v->get<double>() < static_cast<double>(least) || v->get<double>() >= 0x1p63)
            reject(key, ("a whole number in [" + text(least) + ", 2^63)").c_str(), *v);
        return v->is_number_float() ? static_cast<std::int64_t>(v->get<double>()) : v->get<std::int64_t>();
    }
    std::optional<bool> flag(const std::string& key) {
        const auto* v = find(key);
        if (v == nullptr) return {};
        if (!v->is_boolean()) reject(key, "true or false", *v);
        return v->get<bool>();
    }
    std::optional<std::string> word(const std::string& key) {
        const auto* v = find(key);
        if (v == nullptr) return {};
        if (!v->is_string()) reject(key, "a string", *v);
        return v->get<std::string>();
    }
    std::vector<double> numbers(const std::string& key) {
        std::vector<double> all;
        for (const auto& v : array(key)) {
            if (!v.is_number() || !std::isfinite(v.get<double>()))
                reject(key, "an array of finite numbers", v);
            all.push_back(v.get<double>());
        }
        return all;
    }
    std::vector<index> counts(const std::string& key) {
        std::vector<index> all;
        for (const auto& v : array(key)) {
            if (!v.is_number_integer() || v.get<double>() < 0 || v.get<double>() > 1e9)
                reject(key, "an array of whole numbers >= 0", v);
            all.push_back(v.get<index>());
        }
        return all;
    }
    std::vector<std::string> words(const std::string& key) {
        std::vector<std::string> all;
        for (const auto& v : array(key)) {
            if (!v.is_string()) reject(key, "an array of strings", v);
            all.push_back(v.get<std::string>());
        }
        return all;
    }
    /// The first of several spellings that has a value.
    std::optional<std::int64_t> count_of(std::initializer_list<const char*> keys) {
        std::optional<std::int64_t> first;
        for (const char* key : keys) {
            const auto v = count(key);
            if (!first) first = v;
        }
        return first;
    }

    [[noreturn]] void missing(const std::string& key) const {
        fail(std::string(function_) + ": " + path_of(key) + " must be given, got nothing");
    }
    [[noreturn]] void reject(const std::string& key, const char* what, const nlohmann::json& got) const {
        const std::string shown = json_text(got);
        const std::string name = path_of(key);
        fail(std::string(function_) + ": " + (name.empty() ? "the config" : name) + " must be " + what +
             ", got " + shown);
    }

    /// The keys that have not been read.
    std::vector<std::string> unread() const {
        return unread_where([](const std::string&) { return true; });
    }
    /// The unread keys that concern rotation.
    std::vector<std::string> unread_rotary() const {
        return unread_where([](const std::string& key) {
            return key.find("rope") != std::string::npos || key.find("rotary") != std::string::npos;
        });
    }

  private:
    template <class Wanted>
    std::vector<std::string> unread_where(Wanted wanted) const {
        std::vector<std::string> left;
        for (auto at = node_->begin(); at != node_->end(); ++at)
            if (wanted(at.key()) && !seen_.contains(at.key())) left.push_back(at.key());
        return left;
    }
    const nlohmann::json& array(const std::string& key) {
        static const nlohmann::json none = nlohmann::json::array();
        const auto* v = find(key);
        if (v == nullptr) return none;
        if (!v->is_array()) reject(key, "an array", *v);
        if (v->size() > longest_list) reject(key, "an array of at most 65536 entries", v->size());
        return *v;
    }

    const char* function_;
    const nlohmann::json* node_;
    std::string path_;
    std::set<std::string> seen_;
};

}  // namespace detail
}  // namespace ROPEWALK_NAMESPACE
