// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <ropewalk/core/contract.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Reads JSON text in one pass and tells a handler what it meets: null, boolean, number_integer,
/// number_unsigned, number_float, string, key, start_object, end_object, start_array, end_array, each of
/// which answers whether to go on. Python's Infinity, -Infinity and NaN are told as the strings of their
/// names. Nothing recurses: the handler bounds the depth. Cost:     some ns a byte. nlohmann's own parser
/// takes several times that, most of it a call a character. Source:   RFC 8259; Python's json module for the
/// three words.
template <class Handler>
class json_scanner {
  public:
    json_scanner(std::string_view text, Handler& handler)
        : begin_(text.data()), at_(text.data()), end_(text.data() + text.size()), handler_(handler) {}

    /// Whether the text was read to its end. Where not, the handler stopped it or problem() says why.
    bool read() {
        if (std::string_view(at_, size_left()).starts_with("\xEF\xBB\xBF")) at_ += 3;  // a byte order mark
        skip_space();
        if (!value()) return false;
        while (!open_.empty())
            if (!step()) return false;
        return at_ == end_ || wrong(at_);
    }

    /// Empty where nothing is wrong with the text itself.
    const std::string& problem() const noexcept { return problem_; }

  private:
    std::size_t size_left() const noexcept { return static_cast<std::size_t>(end_ - at_); }
    bool is(char c) const noexcept { return at_ != end_ && *at_ == c; }
    void skip_space() noexcept {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    }
    /// Names what stands at `from`.
    bool wrong(const char* from) {
        std::string near(from, static_cast<std::size_t>(std::min<std::ptrdiff_t>(end_ - from, 40)));
        for (char& c : near)
            if (c < ' ' || c > '~') c = '?';
        problem_ = "the text must be JSON, got " + (near.empty() ? "its end" : "\"" + near + "\"") +
                   " at byte " + text(static_cast<std::int64_t>(from - begin_ + 1));
        return false;
    }

    /// What follows a value inside the innermost array or object.
    bool step() {
        const char closing = open_.back() == '[' ? ']' : '}';
        if (is(closing)) {
            ++at_;
            open_.pop_back();
            fresh_ = false;
            skip_space();
            return closing == ']' ? handler_.end_array() : handler_.end_object();
        }
        if (!fresh_) {
            if (!is(',')) return wrong(at_);
            ++at_;
            skip_space();
        }
        fresh_ = false;
        if (closing == '}') {
            if (!is('"')) return wrong(at_);
            if (!read_string()) return false;
            skip_space();
            if (!is(':')) return wrong(at_);
            ++at_;
            skip_space();
            if (!handler_.key(word_)) return false;
        }
        return value();
    }

    bool value() {
        if (at_ == end_) return wrong(at_);
        bool going = false;
        switch (*at_) {
            case '{':
            case '[':
                fresh_ = true;
                open_.push_back(*at_++);
                going = open_.back() == '[' ? handler_.start_array() : handler_.start_object();
                break;
            case '"': going = read_string() && handler_.string(word_); break;
            case 't': going = literal("true") && handler_.boolean(true); break;
            case 'f': going = literal("false") && handler_.boolean(false); break;
            case 'n': going = literal("null") && handler_.null(); break;
            case 'I': going = python("Infinity"); break;
            case 'N': going = python("NaN"); break;
            default: going = number(); break;
        }
        skip_space();
        return going;
    }
    bool literal(std::string_view word) {
        if (!std::string_view(at_, size_left()).starts_with(word)) return wrong(at_);
        at_ += word.size();
        return true;
    }
    bool python(std::string_view word) {
        if (!literal(word)) return false;
        word_ = word;
        return handler_.string(word_);
    }

    static bool is_digit(const char* at, const char* end) noexcept {
        return at != end && *at >= '0' && *at <= '9';
    }
    bool number() {
        const char* const from = at_;
        const bool negative = *at_ == '-';
        if (negative && std::string_view(at_, size_left()).starts_with("-Infinity"))
            return python("-Infinity");
        const char* at = from + (negative ? 1 : 0);
        if (!is_digit(at, end_)) return wrong(from);
        std::uint64_t whole = 0;
        bool fits = true;
        if (*at == '0') {
            ++at;
        } else {
            for (; is_digit(at, end_); ++at) {
                const auto digit = static_cast<std::uint64_t>(*at - '0');
                fits = fits && whole <= (UINT64_MAX - digit) / 10;
                whole = whole * 10 + digit;
            }
        }
        const char* const integer_end = at;
        if (at != end_ && *at == '.') {
            if (!is_digit(++at, end_)) return wrong(from);
            while (is_digit(at, end_)) ++at;
        }
        if (at != end_ && (*at == 'e' || *at == 'E')) {
            ++at;
            if (at != end_ && (*at == '+' || *at == '-')) ++at;
            if (!is_digit(at, end_)) return wrong(from);
            while (is_digit(at, end_)) ++at;
        }
        at_ = at;
        constexpr auto least = std::uint64_t{1} << 63;
        if (at == integer_end && fits && !negative) return handler_.number_unsigned(whole);
        if (at == integer_end && fits && whole <= least)
            return handler_.number_integer(static_cast<std::int64_t>(0 - whole));
        return real(from);
    }
    bool real(const char* from) {
        double value = 0;
#if defined(__cpp_lib_to_chars) && __cpp_lib_to_chars >= 201611L
        const auto read = std::from_chars(from, at_, value);
        if (read.ec != std::errc() || read.ptr != at_)
#endif
        {
            // Too small for a double, too large, or a library that cannot: the slow way knows.
            const auto slow = nlohmann::json::parse(from, at_, nullptr, false);
            if (!slow.is_number()) return wrong(from);
            value = slow.template get<double>();
        }
        return std::isfinite(value) ? handler_.number_float(value) : wrong(from);
    }

    /// The string that begins here, without its escapes, in word_.
    bool read_string() {
        const char* const from = at_++;
        word_.clear();
        for (;;) {
            const char* const plain = at_;
            while (at_ != end_ && *at_ != '"' && *at_ != '\\' && *at_ >= ' ') ++at_;
            word_.append(plain, at_);
            if (at_ == end_) return wrong(from);
            const auto c = static_cast<unsigned char>(*at_);
            if (c == '"') return ++at_, true;
            if (c < ' ') return wrong(at_);
            if (!(c == '\\' ? escape() : beyond_ascii(c))) return wrong(at_);
        }
    }
    /// One character of two to four bytes, checked as UTF-8: no overlong form, no surrogate, none past
    /// U+10FFFF.
    bool beyond_ascii(unsigned char first) {
        const int length = first >= 0xC2 && first <= 0xDF   ? 2
                           : first >= 0xE0 && first <= 0xEF ? 3
                           : first >= 0xF0 && first <= 0xF4 ? 4
                                                            : 0;
        if (length == 0 || end_ - at_ < length) return false;
        const auto byte = [this](int i) { return static_cast<unsigned char>(at_[i]); };
        const unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
        const unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
        if (byte(1) < low || byte(1) > high) return false;
        for (int i = 2; i < length; ++i)
            if (byte(i) < 0x80 || byte(i) > 0xBF) return false;
        word_.append(at_, static_cast<std::size_t>(length));
        at_ += length;
        return true;
    }
    bool escape() {
        if (size_left() < 2) return false;
        static constexpr std::string_view names = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
        const char name = at_[1];
        if (const auto which = names.find(name); which != names.npos) {
            word_ += meant[which];
            at_ += 2;
            return true;
        }
        std::uint32_t point = 0;
        if (name != 'u' || !hex(at_ + 2, point)) return false;
        const char* next = at_ + 6;
        if (point >= 0xDC00 && point <= 0xDFFF) return false;
        if (point >= 0xD800 && point <= 0xDBFF) {  // the first half of a pair
            std::uint32_t low = 0;
            if (end_ - next < 6 || next[0] != '\\' || next[1] != 'u' || !hex(next + 2, low) || low < 0xDC00 ||
                low > 0xDFFF)
                return false;
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
            next += 6;
        }
        at_ = next;
        append_utf8(point);
        return true;
    }
    bool hex(const char* from, std::uint32_t& value) const {
        if (end_ - from < 4) return false;
        const auto read = std::from_chars(from, from + 4, value, 16);
        return read.ec == std::errc() && read.ptr == from + 4;
    }
    void append_utf8(std::uint32_t point) {
        const auto tail = [](std::uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3F)); };
        if (point < 0x80) {
            word_ += static_cast<char>(point);
        } else if (point < 0x800) {
            word_ += {static_cast<char>(0xC0 | point >> 6), tail(point)};
        } else if (point < 0x10000) {
            word_ += {static_cast<char>(0xE0 | point >> 12), tail(point >> 6), tail(point)};
        } else {
            word_ +=
                {static_cast<char>(0xF0 | point >> 18), tail(point >> 12), tail(point >> 6), tail(point)};
        }
    }

    const char* begin_;
    const char* at_;
    const char* end_;
    Handler& handler_;
    std::string open_;    // brackets that are open, innermost last
    bool fresh_ = false;  // whether the innermost one has no value yet
    std::string word_;    // the string read last
    std::string problem_;
};

}  // namespace ROPEWALK_NAMESPACE::detail
