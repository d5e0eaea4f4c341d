// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// explain: prints what a scheme or a model config does, in words and numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <string>
#include <vector>

#include <ropewalk/models/model_config.hpp>

namespace ROPEWALK_NAMESPACE {

/// What explain prints, and how much of it.
struct explanation {
    std::int64_t context_length = 0;  ///< tokens; 0: the scheme's original context, or 1
    index lines = 8;                  ///< how many pairs are printed, evenly spaced; at least 2
};

namespace detail {

inline std::string rounded(double v) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.6g", v);
    return buffer;
}

inline std::string layout_text(pair_layout layout) {
    switch (layout.kind) {
        case pair_layout::kind_type::interleaved: return "interleaved";
        case pair_layout::kind_type::blocked: return "blocked<" + text(layout.group) + ">";
        default: return "half_split";
    }
}

inline std::string pair_text(pair_layout layout, index first_channel, index pair, index pairs) {
    std::string pair_of = "(";  // appended to, because GCC 12 warns of "(" + std::string
    pair_of += text(first_channel + layout.first(pair, pairs)) + ", ";
    pair_of += text(first_channel + layout.second(pair, pairs)) + ")";
    return pair_of;
}

inline std::string table_line(const rotary_scheme& rope, const spectrum& s, index pair) {
    char buffer[160];
    const double omega = s.omega(pair);
    const std::string channels = pair_text(rope.read_layout, rope.first_channel, pair, s.pairs());
    const std::string wavelength =
        omega == 0 ? "does not rotate" : rounded(2 * std::numbers::pi / std::abs(omega));
    std::snprintf(buffer, sizeof buffer, "  %5td  %-14s %-14s %-14s", pair, channels.c_str(),
                  rounded(omega).c_str(), wavelength.c_str());
    std::string line = buffer;
    if (s.axes() > 1) line += " axis " + text(s.axis_of(0, pair));
    while (line.back() == ' ') line.pop_back();
    return line + "\n";
}

/// The number of pairs of each axis.
inline std::string axes_text(const spectrum& s) {
    std::string line;
    for (index axis = 0; axis < s.axes(); ++axis) {
        index pairs = 0;
        for (index i = 0; i < s.pairs(); ++i) pairs += s.axis_of(0, i) == axis;
        line += (axis == 0 ? "" : ", ") + text(pairs) + " pairs by axis " + text(axis);
    }
    return line + "\n";
}

}  // namespace detail

/// Text about a scheme: which channels rotate and how they form pairs, the frequencies at a context length,
/// the magnitude and where it is applied.
/// Throws:   invalid_config when the scheme refuses the context length.
inline std::string explain(const rotary_scheme& rope, explanation how = {}) {
    using detail::text;
    std::string out = (rope.name.empty() ? "scheme" : rope.name) + "\n";
    if (!rope.rotates) {
        out += "  nothing rotates: NoPE, or a layer without rotary attention\n";
        for (const auto& note : rope.notes) out += "  note: " + note + "\n";
        return out;
    }
    const std::int64_t length =
        how.context_length > 0 ? how.context_length : std::max<std::int64_t>(rope.original_context, 1);
    const spectrum s = rope.spectrum_for(length);
    const index last = rope.first_channel + rope.rotary_dim - 1;
    out += "  channels    " + text(rope.first_channel) + ".." + text(last) + " of " + text(rope.head_dim) +
           " rotate";
    out += rope.rotary_dim < rope.head_dim ? ", the others are left as they are\n" : "\n";
    out += "  layout      " + detail::layout_text(rope.read_layout);
    if (!(rope.write_layout == rope.read_layout))
        out += " in, " + detail::layout_text(rope.write_layout) + " out";
    if (s.pairs() > 0)
        out +=
            ": pair 0 is channels " + detail::pair_text(rope.read_layout, rope.first_channel, 0, s.pairs());
    out += "\n";
    if (s.axes() > 1)
        out += "  axes        " + text(s.axes()) + " positions a token: " + detail::axes_text(s);
    if (rope.original_context > 0 && rope.max_context > rope.original_context)
        out += "  context     " + text(rope.max_context) + " tokens, from the " +
               text(rope.original_context) + " that it was trained at\n";
    else if (const auto most = std::max(rope.max_context, rope.original_context); most > 0)
        out += "  context     " + text(most) + " tokens\n";
    out += "  magnitude   " + text(s.magnitude());
    out += s.magnitude() == 1
               ? " (tables hold plain cos and sin)\n"
               : ", inside the cos and sin tables: q and k both grow by it, their product by " +
                     detail::rounded(s.magnitude() * s.magnitude()) + "\n";
    out += "  logits      " +
           (rope.logit_scale == 1 ? std::string("scaled by 1/sqrt(head_dim); no other factor was read or set")
                                  : "multiplied by " + text(rope.logit_scale) +
                                        " beside 1/sqrt(head_dim); the tables do not hold it") +
           "\n";
    for (const auto& note : rope.notes) out += "  note        " + note + "\n";
    if (rope.indexer != nullptr) {
        const auto& own = *rope.indexer;
        out += "  indexer     channels " + text(own.first_channel) + ".." +
               text(own.first_channel + own.rotary_dim - 1) + " of " + text(own.head_dim) + ", " +
               detail::layout_text(own.read_layout) + ", the same frequencies\n";
    }
    index still = 0, backward = 0;
    for (index i = 0; i < s.pairs(); ++i) still += s.omega(i) == 0, backward += s.omega(i) < 0;
    if (backward > 0) out += "  sense       " + text(backward) + " pairs rotate the other way, by -p omega\n";
    if (still > 0)
        out += "  unrotated   " + text(still) + " of " + text(s.pairs()) + " pairs: their frequency is 0\n";
    out += rope.length_dependent ? "  frequencies depend on the length; at " + text(length) + " tokens:\n"
                                 : "  frequencies at any length:\n";
    out += "   pair  channels       radians/token  wavelength in tokens\n";
    const index lines = std::min(std::max<index>(how.lines, 2), s.pairs());
    for (index l = 0; l < lines; ++l)
        out += detail::table_line(rope, s, lines == 1 ? 0 : l * (s.pairs() - 1) / (lines - 1));
    return out;
}

/// Text about all schemes of a model, each with the layers that use it.
inline std::string explain(const model_schemes& model, explanation how = {}) {
    std::string out;
    for (std::size_t s = 0; s < model.distinct().size(); ++s) {
        std::string layers;
        for (index l = 0; l < model.layers(); ++l) {
            if (model.scheme_of(l) != static_cast<int>(s)) continue;
            index end = l;
            while (end + 1 < model.layers() && model.scheme_of(end + 1) == static_cast<int>(s)) ++end;
            layers +=
                (layers.empty() ? "" : ", ") + detail::text(l) + (end > l ? ".." + detail::text(end) : "");
            l = end;
        }
        out += "layers " + layers + ": " + explain(model.distinct()[s], how);
    }
    return out;
}

namespace detail {

/// Base and scaling of one kind of layer, as the config gives them.
inline std::string ladder_text(const rope_parameters& p) {
    std::string out = (p.name.empty() ? "" : p.name + ": ") + "base " + rounded(p.base) + ", ";
    out += p.scaling == rope_scaling::none ? "no scaling" : std::string(to_text(p.scaling));
    if (p.scaling == rope_scaling::none || p.scaling == rope_scaling::stepped_ntk) return out;
    if (p.factor) out += " by " + rounded(*p.factor);
    if (p.alpha) out += ", alpha " + rounded(*p.alpha);
    return out;
}

}  // namespace detail

/// Text about a config: the rules of its class and the keys that decided something, base and scaling of each
/// kind of layer, keys that were ignored, and every scheme with the layers that use it.
/// Throws:   as make_model_schemes.
/// Cost:     milliseconds; the text is for people.
inline std::string explain(const model_config& config, explanation how = {}) {
    std::string out = (config.model_type.empty() ? "a model" : config.model_type) + ", " +
                      detail::text(config.layers) + " layers\n";
    std::vector<std::string> said;
    for (const auto& rule : config.because) {
        if (std::find(said.begin(), said.end(), rule) != said.end()) continue;
        said.push_back(rule);
        out += "  because     " + rule + "\n";
    }
    for (const auto& rope : config.ropes) out += "  ladder      " + detail::ladder_text(rope) + "\n";
    for (const auto& key : config.ignored) out += "  ignored     " + key + "\n";
    return out + explain(make_model_schemes(config), how);
}

}  // namespace ROPEWALK_NAMESPACE
