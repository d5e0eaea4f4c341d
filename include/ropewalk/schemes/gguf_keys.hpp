// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// One GGUF value: any integer type as int64, any float as double, arrays of either.
using gguf_value =
    std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>>;

/// The part of a GGUF file that says how to rotate: its key-value pairs (those of other subjects may be
/// left in or out) and the rotary tensors, where it has them.
/// Source: ggml-org/ggml docs/gguf.md.
struct gguf_metadata {
    std::map<std::string, gguf_value> values = {};
    std::vector<float> rope_freqs = {};          ///< rope_freqs.weight: divisors
    std::vector<float> rope_factors_long = {};   ///< rope_factors_long.weight
    std::vector<float> rope_factors_short = {};  ///< rope_factors_short.weight
};

namespace detail {

/// Reads the keys of one architecture, remembering which were asked for.
class gguf_keys {
  public:
    static constexpr const char* who = "from_gguf";

    gguf_keys(const gguf_metadata& file, std::string architecture)
        : file_(file), prefix_(std::move(architecture) + ".") {}

    std::optional<double> number(const std::string& key) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        if (const auto* whole = std::get_if<std::int64_t>(v)) return static_cast<double>(*whole);
        const auto* real = std::get_if<double>(v);
        if (real == nullptr || !std::isfinite(*real)) wrong(key, "a finite number");
        return *real;
    }
    std::optional<index> count(const std::string& key) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        const auto* whole = std::get_if<std::int64_t>(v);
        if (whole == nullptr || *whole < 0) wrong(key, "a whole number >= 0");
        return static_cast<index>(*whole);
    }
    /// A whole number, or the first entry of an array with one number a layer.
    std::optional<index> count_or_first(const std::string& key) {
        const gguf_value* v = find(key);
        const auto* all = v == nullptr ? nullptr : std::get_if<std::vector<std::int64_t>>(v);
        if (all == nullptr) return count(key);
        if (all->empty()) wrong(key, "a whole number or an array with one a layer");
        return static_cast<index>(all->front());
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
    std::vector<std::int64_t> counts(const std::string& key) {
        const gguf_value* v = find(key);
        if (v == nullptr) return {};
        const auto* all = std::get_if<std::vector<std::int64_t>>(v);
        if (all == nullptr) wrong(key, "an array of whole numbers");
        return *all;
    }
    index required_count(const std::string& key) {
        const auto v = count(key);
        if (!v) fail(std::string(who) + ": " + prefix_ + key + " must be given, got nothing");
        return *v;
    }
    [[noreturn]] void wrong(const std::string& key, const char* what) const {
        fail(std::string(who) + ": " + prefix_ + key + " must be " + what + ", got another type or value");
    }
    /// Rotary keys of the architecture that nobody read.
    std::vector<std::string> unread() const {
        std::vector<std::string> left;
        for (const auto& [key, value] : file_.values)
            if (key.starts_with(prefix_ + "rope.") && !seen_.contains(key)) left.push_back(key);
        return left;
    }

  private:
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
