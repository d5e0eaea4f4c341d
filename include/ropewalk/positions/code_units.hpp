// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Finds where functions and classes begin in source code, for HiRoPE's hierarchical positions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// A function, class or other unit of source code: where it begins.
struct code_unit {
    std::size_t offset = 0;  ///< byte in the text; a comment before the unit belongs to it
    index level = 1;         ///< 1: the innermost kind of unit that is searched for
    bool operator==(const code_unit&) const = default;
};

/// What delimits a block. braces: C, C++, Java, Rust, JavaScript; indentation: Python.
enum class block_style : std::uint8_t { braces, indentation };

struct code_units_config {
    block_style blocks = block_style::braces;  ///< how the language delimits blocks
    index levels =
        2;  ///< levels of the hierarchy, tokens included: 2 finds outer units, 3 also units inside classes
};

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

inline bool is_word(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}
inline bool is_space(char c) noexcept { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'; }

/// Whether `text` contains one of the words.
inline bool has_word(std::string_view text, std::initializer_list<std::string_view> words) noexcept {
    for (std::size_t i = 0; i < text.size();) {
        std::size_t end = i;
        while (end < text.size() && is_word(text[end])) ++end;
        for (const std::string_view word : words)
            if (text.substr(i, end - i) == word) return true;
        i = std::max(end, i + 1);
    }
    return false;
}

/// Reads the characters of code one by one, skipping comments, literals and preprocessor lines.
class code_reader {
  public:
    explicit code_reader(std::string_view text) noexcept : text_(text) {}

    /// Moves to the next character. Returns false at the end.
    bool next() noexcept {
        for (++at_; at_ < text_.size(); ++at_) {
            const std::string_view rest = text_.substr(at_);
            const bool line_start = fresh_;
            if (!is_space(rest[0])) fresh_ = false;
            if (rest[0] == '\n') fresh_ = true;
            if (rest.starts_with("//")) {
                skip_to("\n", 0);
                --at_;
            } else if (rest.starts_with("/*")) {
                skip_to("*/", 2);
            } else if (rest[0] == '#' && line_start) {
                do skip_to("\n", 0);
                while (at_ < text_.size() && text_[at_ - 1] == '\\' && ++at_ < text_.size());
                ended_line_ = true;
                --at_;
            } else if (rest[0] == '"' && at_ > 0 && text_[at_ - 1] == 'R') {
                const std::size_t open = text_.find('(', at_);
                if (open == text_.npos) return false;
                const std::size_t size = open - at_ - 1;
                std::size_t end = open;
                do end = text_.find(')', end + 1);
                while (end != text_.npos && (text_.substr(end + 1, size) != text_.substr(at_ + 1, size) ||
                                             text_.substr(end + 1 + size, 1) != "\""));
                at_ = std::min(end, text_.size());
                if (end != text_.npos) at_ += size + 1;
                return true;
            } else if (rest[0] == '"' || (rest[0] == '\'' && (at_ == 0 || !is_word(text_[at_ - 1])))) {
                const char quote = rest[0];
                for (++at_; at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n'; ++at_)
                    if (text_[at_] == '\\') ++at_;
                return at_ < text_.size();
            } else {
                return true;
            }
        }
        return false;
    }
    std::size_t offset() const noexcept { return at_; }
    char now() const noexcept { return text_[at_]; }
    /// Whether a preprocessor line was skipped since the last call.
    bool passed_directive() noexcept {
        const bool passed = ended_line_;
        ended_line_ = false;
        return passed;
    }

  private:
    void skip_to(std::string_view mark, std::size_t past) noexcept {
        const std::size_t found = text_.find(mark, at_ + (past > 0 ? past : 0));
        at_ = found == text_.npos ? text_.size() : found + (past > 0 ? past - 1 : 0);
    }
    std::string_view text_;
    std::size_t at_ = static_cast<std::size_t>(-1);
    bool fresh_ = true, ended_line_ = false;
};

/// The first byte of the statement after `from`: skips blanks, and a comment on the line of `from`.
inline std::size_t statement_start(std::string_view text, std::size_t from) noexcept {
    const std::size_t line_end = std::min(text.find('\n', from), text.size());
    const std::size_t first = text.find_first_not_of(" \t", from);
    if (first < line_end && text.substr(first, 2) == "//") from = line_end;
    while (from < text.size() && is_space(text[from])) ++from;
    return from;
}

inline std::vector<positions::code_unit> find_braced_units(std::string_view text, index levels) {
    enum class block : std::uint8_t { transparent, units_inside, opaque };
    std::vector<positions::code_unit> units;
    std::vector<block> open;
    code_reader reader(text);
    std::size_t statement = statement_start(text, 0);
    index round = 0, depth = 0;  // nesting of parentheses and brackets; nesting of blocks that are units
    char last = ';';
    while (reader.next()) {
        const char c = reader.now();
        if (reader.passed_directive() && (last == ';' || last == '}' || last == '{'))
            statement = statement_start(text, reader.offset());
        if (c == '(' || c == '[') ++round;
        if (c == ')' || c == ']') round = std::max<index>(round - 1, 0);
        if (c == '{') {
            const std::string_view header = text.substr(statement, reader.offset() - statement);
            const bool inside = std::find(open.begin(), open.end(), block::opaque) != open.end();
            block kind = block::opaque;
            if (!inside && round == 0 &&
                (last == ')' || is_word(last) || last == '>' || last == '"' || last == ':')) {
                const bool around = has_word(header.substr(0, 32), {"namespace", "extern"});
                const bool unit = !around && header[0] != ',' && !has_word(header, {"enum"});
                if (around) kind = block::transparent;
                if (unit && depth < levels - 1) {
                    units.push_back({statement, levels - 1 - depth});
                    if (has_word(header, {"class", "struct", "union", "interface", "trait", "impl"}) &&
                        last != ')')
                        kind = block::units_inside;
                }
            }
            depth += kind == block::units_inside;
            open.push_back(kind);
        }
        if (c == '}' && !open.empty()) {
            depth -= open.back() == block::units_inside;
            open.pop_back();
        }
        const std::string_view label =
            text.substr(statement, std::max(statement, reader.offset()) - statement);
        const bool ends_label = c == ':' && (label == "public" || label == "protected" || label == "private");
        if (round == 0 && (c == ';' || c == '{' || c == '}' || ends_label))
            statement = statement_start(text, reader.offset() + 1);
        if (!is_space(c)) last = c;
    }
    return units;
}

inline std::vector<positions::code_unit> find_indented_units(std::string_view text, index levels) {
    struct scope {
        index indent;
        bool is_class;
    };
    std::vector<positions::code_unit> units;
    std::vector<scope> open;
    std::string_view quote;             // the delimiter of the multi-line string that the line is in
    std::size_t decorated = text.npos;  // where the decorators of the next unit begin
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        const std::string_view line = text.substr(at, end - at);
        const std::size_t first = std::min(line.find_first_not_of(" \t\r"), line.size());
        const std::string_view code = line.substr(first);
        if (quote.empty() && !code.empty() && code[0] != '#') {
            const auto indent = static_cast<index>(first);
            while (!open.empty() && open.back().indent >= indent) open.pop_back();
            const std::string_view word = code.substr(0, std::min(code.find_first_of(" \t(:"), code.size()));
            if (code[0] == '@') {
                decorated = std::min(decorated, at + first);
            } else {
                if (word == "def" || word == "class" || word == "async") {
                    const auto depth = static_cast<index>(open.size());
                    if (depth < levels - 1 && (open.empty() || open.back().is_class))
                        units.push_back({std::min(decorated, at + first), levels - 1 - depth});
                    open.push_back({indent, word == "class"});
                }
                decorated = text.npos;
            }
        }
        for (std::size_t i = 0; i + 3 <= line.size();) {
            const std::string_view three = line.substr(i, 3);
            if (quote.empty() && line[i] == '#') break;
            if (quote.empty() ? three == "\"\"\"" || three == "'''" : three == quote) {
                quote = quote.empty() ? three : std::string_view();
                i += 3;
            } else {
                ++i;
            }
        }
        at = end + 1;
    }
    return units;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// The units of a source file, for positions::hierarchy. Outer functions and classes have the highest level,
/// functions of a class one level less, and so on; a function inside a function is part of it. Units inside
/// namespaces are found; enumerations and initialisers are no units; comments and literals are skipped. This
/// is a scanner, not a parser: code whose braces are hidden by macros, or that does not compile, gives fewer
/// or more units, never an error.
/// Throws:   invalid_config on levels < 2.
/// Cost:     one pass over the text.
/// Source:   HiRoPE, Zhang et al. 2024 (functions of a repository; no official code).
inline std::vector<code_unit> find_code_units(std::string_view text, const code_units_config& config = {}) {
    detail::require(config.levels >= 2, "find_code_units", "levels must be >= 2", config.levels);
    return config.blocks == block_style::braces ? detail::find_braced_units(text, config.levels)
                                                : detail::find_indented_units(text, config.levels);
}

/// The same units as the first tokens of every level, the form that hierarchy_config::starts takes.
/// Shapes:   token_offsets [tokens]: the byte where each token of the text begins, non-decreasing; result
///           [levels - 1][units of the level].
/// Throws:   invalid_config on levels < 2 or a unit whose level does not exist.
/// Source:   as find_code_units.
inline std::vector<std::vector<index>> make_unit_starts(std::span<const code_unit> units,
                                                        std::span<const std::size_t> token_offsets,
                                                        index levels = 2) {
    constexpr const char* who = "make_unit_starts";
    detail::require(levels >= 2, who, "levels must be >= 2", levels);
    std::vector<std::vector<index>> starts(static_cast<std::size_t>(levels - 1));
    for (const code_unit& unit : units) {
        detail::require(unit.level >= 1 && unit.level < levels, who, "units must have a level below levels",
                        unit.level);
        const auto token = std::lower_bound(token_offsets.begin(), token_offsets.end(), unit.offset);
        starts[static_cast<std::size_t>(unit.level - 1)].push_back(token - token_offsets.begin());
    }
    return starts;
}

}  // namespace ROPEWALK_NAMESPACE::positions
