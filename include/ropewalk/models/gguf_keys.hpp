// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary keys of a GGUF file as typed values, and a reader that checks their types.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// One GGUF value: any integer type as int64, any float as double, or an array of either. An array of bools
/// becomes an array of 0 and 1.
using gguf_value =
    std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>>;

/// The part of a GGUF file that describes rotation: its key-value pairs (other keys may be present or not)
/// and its rotary tensors, if any.
/// Source: ggml-org/ggml docs/gguf.md.
struct gguf_metadata {
    std::map<std::string, gguf_value> values = {};  ///< key of the file to its value
    std::vector<float> rope_freqs = {};             ///< rope_freqs.weight: divisors
    std::vector<float> rope_factors_long = {};      ///< rope_factors_long.weight
    std::vector<float> rope_factors_short = {};     ///< rope_factors_short.weight
};

namespace detail {

/// A value as text for error messages.
inline std::string gguf_text(const gguf_value& value) {
    std::string shown = std::visit(
        [](const auto& v) {
            if constexpr (
                requires { v.substr(); } || !requires { v.size(); }) {
                return text(v);
            } else {
                std::string all = "[";
                for (std::size_t i = 0; i < v.size() && all.size() < 80; ++i)
                    all += (i == 0 ? "" : ", ") + text(v[i]);
                return all + "]";
            }
        },
        value);
    if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
    return shown;
}

/// Reads the keys of one architecture and remembers which were read.
class gguf_keys {
  public:
    static constexpr const char* who = "from_gguf";

    gguf_keys(const gguf_metadata& file, std::string architecture)
        : file_(file), prefix_(std::move(architecture) + ".") {}

    bool has(const std::string& key) { return find(key) != nullptr; }
    std::optional<double> number(const std::string& key) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        if (const auto* whole = std::get_if<std::int64_t>(v)) return static_cast<double>(*whole);
        const auto* real = std::get_if<double>(v);
        if (real == nullptr || !std::isfinite(*real)) wrong(key, "a finite number");
        return *real;
    }
    std::optional<double> not_negative(const std::string& key) {
        const auto v = number(key);
        if (v && *v < 0) wrong(key, "a number >= 0");
        return v;
    }
    std::optional<double> positive(const std::string& key) {
        const auto v = number(key);
        if (v && *v <= 0) wrong(key, "a number > 0");
        return v;
    }
    std::optional<index> count(const std::string& key, index least = 0,
                               index most = std::numeric_limits<index>::max()) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        const auto* whole = std::get_if<std::int64_t>(v);
        if (whole == nullptr || *whole < least || *whole > most) wrong(key, range_text(least, most));
        return static_cast<index>(*whole);
    }
    /// A whole number, or the first nonzero entry of an array with one per layer (0: a layer without
    /// attention).
    std::optional<index> count_or_first(const std::string& key) {
        const gguf_value* v = find(key);
        const auto* all = v == nullptr ? nullptr : std::get_if<std::vector<std::int64_t>>(v);
        if (all == nullptr) return count(key);
        index first = 0;
        for (const std::int64_t n : *all) {
            if (n < 0) wrong(key, "a whole number >= 0 or an array with one a layer");
            if (first == 0) first = saturated(n);
        }
        if (all->empty()) wrong(key, "a whole number >= 0 or an array with one a layer");
        return first;
    }
    /// The array with one number per layer, or null where the key holds a single number. The last `extra`
    /// layers (those that predict further tokens) may be missing from it.
    const std::vector<std::int64_t>* of_layers(const std::string& key, index layers, index extra = 0) {
        const gguf_value* v = find(key);
        const auto* all = v == nullptr ? nullptr : std::get_if<std::vector<std::int64_t>>(v);
        if (all == nullptr) return nullptr;
        const auto size = static_cast<index>(all->size());
        if (size != layers && size != layers - extra) wrong(key, "an array with one number a layer");
        return all;
    }
    std::optional<bool> flag(const std::string& key) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        const auto* b = std::get_if<bool>(v);
        if (b == nullptr) wrong(key, "a bool");
        return *b;
    }
    std::optional<std::string> word(const std::string& key) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        const auto* s = std::get_if<std::string>(v);
        if (s == nullptr) wrong(key, "a string");
        return *s;
    }
    std::vector<std::int64_t> counts(const std::string& key, index most) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        const auto* all = std::get_if<std::vector<std::int64_t>>(v);
        if (all == nullptr) wrong(key, "an array of whole numbers");
        for (const std::int64_t n : *all)
            if (n < 0 || n > most) wrong(key, "an array of whole numbers in [0, " + text(most) + "]");
        return *all;
    }
    index required_count(const std::string& key, index least = 0,
                         index most = std::numeric_limits<index>::max()) {
        const auto v = count(key, least, most);
        if (!v) fail(std::string(who) + ": " + prefix_ + key + " must be given, got nothing");
        return *v;
    }
    [[noreturn]] void wrong(const std::string& key, const std::string& what) const {
        fail(std::string(who) + ": " + prefix_ + key + " must be " + what + ", got " +
             gguf_text(file_.values.at(prefix_ + key)));
    }
    /// Rotary keys of the architecture that have not been read.
    std::vector<std::string> unread() const {
        std::vector<std::string> left;
        for (const auto& [key, value] : file_.values)
            if (key.starts_with(prefix_ + "rope.") && !seen_.contains(key)) left.push_back(key);
        return left;
    }

    /// Whether the file has any rotary key of the architecture.
    bool has_rope() const {
        const auto first = file_.values.lower_bound(prefix_ + "rope.");
        return first != file_.values.end() && first->first.starts_with(prefix_ + "rope.");
    }

  private:
    static std::string range_text(index least, index most) {
        if (most == std::numeric_limits<index>::max()) return "a whole number >= " + text(least);
        return "a whole number in [" + text(least) + ", " + text(most) + "]";
    }
    const gguf_value* find(const std::string& key) {
        seen_.insert(prefix_ + key);
        const auto at = file_.values.find(prefix_ + key);
        return at == file_.values.end() ? nullptr : &at->second;
    }

    const gguf_metadata& file_;
    std::string prefix_;
    std::set<std::string> seen_;
};

}  // namespace detail
}  // namespace ROPEWALK_NAMESPACE
