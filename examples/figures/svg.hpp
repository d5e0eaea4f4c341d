// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

/// Pictures for the examples: line charts (linear or logarithmic axes), bars and heat maps. The same input
/// gives the same bytes. Values that cannot be drawn (NaN, or <= 0 on a logarithmic axis) leave a gap.
namespace svg {

struct series {
    std::string name;
    std::vector<double> x, y;
};
enum class axis_scale { linear, log2, log10 };

struct chart {
    std::string title, x_label, y_label;
    std::vector<series> lines = {};
    axis_scale x_scale = axis_scale::linear, y_scale = axis_scale::linear;
    double width = 760, height = 440;
};
/// Lying bars on a logarithmic axis, each with its number and what else is to be said of it.
struct bar_chart {
    std::string title, x_label;
    std::vector<std::string> names = {};
    std::vector<double> values = {};      ///< > 0
    std::vector<std::string> notes = {};  ///< behind the numbers; empty: none
    double width = 760;
};
struct heat_map {
    std::string title, x_label, y_label;
    std::size_t rows = 0, columns = 0;
    std::vector<double> values = {};  ///< [rows, columns], first row on top
    double width = 760, height = 440;
};

namespace detail {

inline std::string number(double value, const char* format = "%.2f") {
    char text[48];
    std::snprintf(text, sizeof text, format, value);
    return text;
}
inline std::string escaped(const std::string& text) {
    std::string out;
    for (char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
    return out;
}
inline std::string words(double x, double y, const std::string& text, const char* anchor,
                         const std::string& more = {}) {
    return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\"" + more +
           ">" + escaped(text) + "</text>\n";
}
inline std::string line(double x0, double y0, double x1, double y1, const char* colour) {
    return "<line x1=\"" + number(x0) + "\" y1=\"" + number(y0) + "\" x2=\"" + number(x1) + "\" y2=\"" +
           number(y1) + "\" stroke=\"" + colour + "\"/>\n";
}
inline std::string box(double x, double y, double w, double h, const std::string& colour) {
    return "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(w) + "\" height=\"" +
           number(h) + "\" fill=\"" + colour + "\"/>\n";
}

inline double scaled(double value, axis_scale scale) {
    return scale == axis_scale::log2    ? std::log2(value)
           : scale == axis_scale::log10 ? std::log10(value)
                                        : value;
}

/// One axis: the range of the data on its scale, and round numbers to mark.
struct axis {
    axis_scale scale = axis_scale::linear;
    double low = 0, high = 1;
    std::vector<double> ticks = {};  ///< on the scale
    double at(double value) const { return (scaled(value, scale) - low) / (high - low); }
    double value(double tick) const {
        return scale == axis_scale::log10  ? std::pow(10, tick)
               : scale == axis_scale::log2 ? std::exp2(tick)
                                           : tick;
    }
    std::string label(double tick) const { return number(value(tick), "%g"); }
};
inline axis make_axis(const std::vector<double>& values, axis_scale scale) {
    axis a{.scale = scale, .low = HUGE_VAL, .high = -HUGE_VAL};
    for (double value : values) {
        const double s = scaled(value, scale);
        if (std::isfinite(s)) a.low = std::min(a.low, s), a.high = std::max(a.high, s);
    }
    if (!(a.low <= a.high)) a.low = a.high = 0.5;
    // Where neighbouring doubles are all there is between the ends, or a difference that overflows, ticks
    // cannot be told apart: the range is then widened or cut to one that a picture can show.
    constexpr double most = 1e300;
    a.low = std::clamp(a.low, -most, most), a.high = std::clamp(a.high, -most, most);
    const double size = std::max(std::abs(a.low), std::abs(a.high));
    if (a.high - a.low < std::max(1e-9 * size, 1e-300)) {
        const double middle = a.low / 2 + a.high / 2, half = std::max(0.5, 0.05 * size);
        a.low = middle - half, a.high = middle + half;
    }
    double step = std::pow(10, std::floor(std::log10((a.high - a.low) / 4)));
    for (double more : {2.0, 2.5, 2.0})
        if ((a.high - a.low) / step > 8) step *= more;
    if (scale != axis_scale::linear) step = std::max(1.0, std::ceil(step));
    const double first = std::ceil(a.low / step - 1e-9), last = std::floor(a.high / step + 1e-9);
    for (int k = 0; first + k <= last && k < 1000; ++k)
        if (const double tick = (first + k) * step + 0.0; std::isfinite(a.value(tick)))
            a.ticks.push_back(tick);
    return a;
}

/// Title, frame and labels around a plotting area, which is what every picture has.
struct canvas {
    double left = 76, top = 40, right, bottom;
    std::string body;
    double width, height;
    canvas(double w, double h, double legend, const std::string& title, const std::string& x_label,
           const std::string& y_label)
        : right(w - legend), bottom(h - 52), width(w), height(h) {
        body = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(w, "%g") + " " +
               number(h, "%g") + "\" font-family=\"sans-serif\" font-size=\"12\">\n" +
               box(0, 0, w, h, "white") + words(w / 2, 22, title, "middle", " font-size=\"15\"") +
               words((left + right) / 2, h - 12, x_label, "middle") +
               words(16, (top + bottom) / 2, y_label, "middle",
                     " transform=\"rotate(-90 16 " + number((top + bottom) / 2) + ")\"");
    }
    double x(double part) const { return left + part * (right - left); }
    double y(double part) const { return bottom - part * (bottom - top); }
    void mark_y(const axis& a) {
        for (double t : a.ticks) {
            const double at = y((t - a.low) / (a.high - a.low));
            body += line(left, at, right, at, "#dddddd") + words(left - 6, at + 4, a.label(t), "end");
        }
    }
    std::string done() {
        return body + line(left, bottom, right, bottom, "#444444") +
               line(left, top, left, bottom, "#444444") + "</svg>\n";
    }
};

}  // namespace detail

inline std::string make(const chart& c) {
    static constexpr std::array colours{"#1b6ca8", "#d1495b", "#2e8b57", "#e6a117", "#6a4c93", "#17a2b8",
                                        "#8c564b", "#e377c2", "#444444", "#7fb800", "#ff7f0e", "#9e9e9e"};
    std::vector<double> xs, ys;
    for (const auto& s : c.lines) {
        if (s.x.size() != s.y.size())
            throw std::invalid_argument("svg: " + s.name + " must have as many y as x");
        xs.insert(xs.end(), s.x.begin(), s.x.end());
        ys.insert(ys.end(), s.y.begin(), s.y.end());
    }
    const auto x = detail::make_axis(xs, c.x_scale);
    auto y = detail::make_axis(ys, c.y_scale);
    const double room = 0.03 * (y.high - y.low);  // a line along its least value would lie under the frame
    y.low -= room, y.high += room;
    detail::canvas page(c.width, c.height, 190, c.title, c.x_label, c.y_label);
    page.mark_y(y);
    for (double t : x.ticks)
        page.body +=
            detail::words(page.x((t - x.low) / (x.high - x.low)), page.bottom + 16, x.label(t), "middle");
    for (std::size_t s = 0; s < c.lines.size(); ++s) {
        const std::string colour = colours[s % colours.size()];
        std::string path;
        bool drawing = false;
        for (std::size_t i = 0; i < c.lines[s].x.size(); ++i) {
            const double px = page.x(x.at(c.lines[s].x[i])), py = page.y(y.at(c.lines[s].y[i]));
            const bool drawable = std::isfinite(px) && std::isfinite(py);
            if (drawable) {
                path += drawing ? 'L' : 'M';
                path += detail::number(px) + " " + detail::number(py);
            }
            drawing = drawable;
        }
        page.body +=
            "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"2\"/>\n";
        const double at = page.top + 8 + 17 * static_cast<double>(s);
        page.body += detail::box(page.right + 14, at - 5, 16, 4, colour) +
                     detail::words(page.right + 36, at, c.lines[s].name, "start");
    }
    return page.done();
}

inline std::string make(const bar_chart& c) {
    if (c.names.size() != c.values.size()) throw std::invalid_argument("svg: bars must have a name each");
    if (!c.notes.empty() && c.notes.size() != c.names.size())
        throw std::invalid_argument("svg: bars must have a note each, or none");
    auto values = c.values;
    values.push_back(1);
    auto x = detail::make_axis(values, axis_scale::log10);
    x.low -= 0.1 * (x.high - x.low);  // the least bar is seen too
    constexpr double step = 30;
    detail::canvas page(c.width, 92 + step * static_cast<double>(c.names.size()), 190, c.title, c.x_label,
                        "");
    page.left = 160;
    for (double t : x.ticks) {
        const double at = page.x((t - x.low) / (x.high - x.low));
        page.body += detail::line(at, page.top, at, page.bottom, "#dddddd") +
                     detail::words(at, page.bottom + 16, x.label(t), "middle");
    }
    for (std::size_t i = 0; i < c.names.size(); ++i) {
        const double y = page.top + step * static_cast<double>(i), end = page.x(x.at(c.values[i]));
        page.body += detail::words(page.left - 8, y + 0.5 * step + 4, c.names[i], "end");
        if (!std::isfinite(end)) continue;
        page.body += detail::box(page.left, y + 0.2 * step, end - page.left, 0.6 * step, "#1b6ca8");
        std::string text = detail::number(c.values[i]);
        if (!c.notes.empty() && !c.notes[i].empty()) text += ", " + c.notes[i];
        page.body += detail::words(end + 6, y + 0.5 * step + 4, text, "start");
    }
    return page.done();
}

inline std::string make(const heat_map& c) {
    if (c.values.size() != c.rows * c.columns)
        throw std::invalid_argument("svg: a heat map must hold rows x columns values");
    const auto range = detail::make_axis(c.values, axis_scale::linear);
    detail::canvas page(c.width, c.height, 90, c.title, c.x_label, c.y_label);
    const double w = (page.right - page.left) / static_cast<double>(std::max<std::size_t>(c.columns, 1));
    const double h = (page.bottom - page.top) / static_cast<double>(std::max<std::size_t>(c.rows, 1));
    const auto colour = [](double part) {  // white to deep blue
        char text[8];
        std::snprintf(text, sizeof text, "#%02x%02x%02x", static_cast<unsigned>(255 - 235 * part),
                      static_cast<unsigned>(255 - 190 * part), static_cast<unsigned>(255 - 120 * part));
        return std::string(text);
    };
    for (std::size_t i = 0; i < c.values.size(); ++i)
        if (std::isfinite(c.values[i]))
            page.body += detail::box(page.left + w * static_cast<double>(i % c.columns),
                                     page.top + h * static_cast<double>(i / c.columns), w + 0.5, h + 0.5,
                                     colour(range.at(c.values[i])));
    for (double t : range.ticks) {
        const double part = (t - range.low) / (range.high - range.low);
        page.body += detail::box(page.right + 14, page.y(part) - 6, 12, 12, colour(part)) +
                     detail::words(page.right + 32, page.y(part) + 4, range.label(t), "start");
    }
    return page.done();
}

/// Charts one below the other.
inline std::string make(const std::vector<chart>& column) {
    double width = 0, height = 0;
    std::string body;
    for (const chart& c : column) {
        body += "<svg y=\"" + detail::number(height, "%g") + "\" width=\"" + detail::number(c.width, "%g") +
                "\" height=\"" + detail::number(c.height, "%g") + "\" " + make(c).substr(5);
        width = std::max(width, c.width);
        height += c.height;
    }
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + detail::number(width, "%g") + " " +
           detail::number(height, "%g") + "\">\n" + body + "</svg>\n";
}

template <class Picture>
void write(const std::string& path, const Picture& picture) {
    std::ofstream file(path, std::ios::binary);
    if (!(file << make(picture)) || !file.flush()) throw std::runtime_error(path + ": cannot be written");
}

/// The main of a program that prints, and with `--svg FILE` draws: run(FILE), FILE empty without.
template <class Run>
int run_main(int count, const char* const* text, Run run) {
    try {
        const bool drawn = count == 3 && text[1] == std::string("--svg");
        if (count != 1 && !drawn) throw std::invalid_argument("only --svg FILE is understood");
        run(std::string(drawn ? text[2] : ""));
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", text[0], error.what());
        return 1;
    }
}

}  // namespace svg
