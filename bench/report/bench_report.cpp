// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// bench_report BENCH.json README.md FOLDER
// Writes the tables of a bench run between the two bench_report marks of the README, and a picture with bars
// for each group of cases into FOLDER.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "figures/svg.hpp"

namespace {

using nlohmann::json;

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// A case's name without tokens and what Google Benchmark appends, and its tokens.
struct case_name {
    std::string what;
    std::string tokens;
};
case_name parts_of(const std::string& name) {
    case_name out;
    for (std::size_t at = 0; at < name.size();) {
        const std::size_t end = std::min(name.find('/', at), name.size());
        const std::string part = name.substr(at, end - at);
        if (part.rfind("tokens:", 0) == 0) {
            out.tokens = part.substr(7);
        } else if (part.rfind("iterations:", 0) != 0 && part != "manual_time") {
            out.what += (out.what.empty() ? "" : "/") + part;
        }
        at = end + 1;
    }
    return out;
}

std::string time_text(double ns) {
    char text[32];
    if (ns < 1e4) {
        std::snprintf(text, sizeof text, "%.0f ns", ns);
    } else {
        std::snprintf(text, sizeof text, ns < 1e6 ? "%.1f us" : "%.2f ms", ns < 1e6 ? ns / 1e3 : ns / 1e6);
    }
    return text;
}
std::string ratio_text(double ratio) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", ratio);
    return text;
}

/// All runs of one case: by tokens, the counters.
struct row {
    std::string what;
    std::string number = {};  // among the cases of its group that have a roof, as in the group's pictures
    std::map<std::string, json> by_tokens;
};
std::vector<row> rows_of(const json& run) {
    std::vector<row> rows;
    for (const json& one : run.at("benchmarks")) {
        if (!one.contains("kernel_ns") || one.value("error_occurred", false)) continue;
        const case_name name = parts_of(one.at("name"));
        std::size_t at = 0;
        while (at < rows.size() && rows[at].what != name.what) ++at;
        if (at == rows.size()) rows.push_back({.what = name.what, .by_tokens = {}});
        rows[at].by_tokens[name.tokens] = one;
    }
    std::map<std::string, int> numbers;
    for (row& r : rows)
        for (const auto& [tokens, one] : r.by_tokens)
            if (r.number.empty() && one.contains("x_roof"))
                r.number = std::to_string(++numbers[r.what.substr(0, r.what.find('/'))]);
    return rows;
}

const char* const token_counts[] = {"1", "512", "4096"};

/// One table: a line a case, a column a token count; `cell` gives the text of a run, empty where it has none.
template <class Cell>
std::string table_of(const std::string& head, const std::vector<row>& rows, Cell cell) {
    std::string body;
    for (const row& r : rows) {
        std::string line = "| " + (r.number.empty() ? "" : r.number + ". ") + r.what;
        bool any = false;
        for (const char* tokens : token_counts) {
            const auto found = r.by_tokens.find(tokens);
            const std::string text = found == r.by_tokens.end() ? "" : cell(found->second);
            any = any || !text.empty();
            line += " | " + text;
        }
        if (any) body += line + " |\n";
    }
    if (body.empty()) return "";
    return head + "\n\n| case | 1 token | 512 | 4096 |\n|---|---|---|---|\n" + body + "\n";
}

std::string caption_of(const json& run) {
    const json& c = run.at("context");
    std::string text = "Measured " + c.value("date", std::string("?")).substr(0, 10);
    for (const char* key : {"cpu_model", "compiler", "flags", "kernels_compiled_for", "roof_registers"})
        if (c.contains(key)) text += std::string("; ") + key + ": " + c.at(key).get<std::string>();
    return text + ". One thread, medians of samples that alternate with the roof or the other contender.";
}

std::string tables_of(const json& run, const std::vector<row>& rows) {
    std::string text = caption_of(run) + "\n\n";
    text += table_of(
        "Time over the roof, a pass that reads and writes each byte once (1.00 is the limit), and the time:",
        rows, [](const json& one) {
            if (!one.contains("x_roof")) return std::string();
            return ratio_text(one["x_roof"]) + " (" + time_text(one["kernel_ns"]) + ")";
        });
    text += table_of("The others' time over ours, in the same run:", rows, [](const json& one) {
        std::string cell;
        for (const auto& [key, value] : one.items()) {
            const std::string tail = "_over_kernel";
            if (key.size() > tail.size() && key.compare(key.size() - tail.size(), tail.size(), tail) == 0)
                cell += (cell.empty() ? "" : ", ") + key.substr(0, key.size() - tail.size()) + " " +
                        ratio_text(value.get<double>());
        }
        return cell;
    });
    return text;
}

void write_between_marks(const std::string& path, const std::string& text) {
    std::string readme = read_file(path);
    const std::string begin = "<!-- bench_report: begin -->\n", end = "<!-- bench_report: end -->";
    const std::size_t first = readme.find(begin), last = readme.find(end);
    if (first == std::string::npos || last == std::string::npos || last < first)
        throw std::runtime_error(path + " has no bench_report marks");
    readme.replace(first + begin.size(), last - first - begin.size(), text);
    std::ofstream(path, std::ios::binary) << readme;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "bench_report BENCH.json README.md FOLDER\n");
        return 2;
    }
    try {
        const std::string readme = argv[2], folder = argv[3];
        const std::string beside = readme.substr(0, readme.find_last_of('/') + 1) + folder;
        std::filesystem::create_directories(beside);
        const json run = json::parse(read_file(argv[1]));
        const std::vector<row> rows = rows_of(run);
        std::printf("%zu cases read from %s\n", rows.size(), argv[1]);
        if (rows.empty()) throw std::runtime_error("no case with a kernel_ns counter");

        // One picture a first word and token count: x_roof of its cases.
        std::map<std::string, svg::bar_chart> pictures;
        for (const row& r : rows)
            for (const auto& [tokens, one] : r.by_tokens) {
                if (!one.contains("x_roof") || tokens.empty()) continue;
                const std::string group = r.what.substr(0, r.what.find('/'));
                auto& chart = pictures[group + "_" + tokens];
                chart.title = group + ", " + tokens + (tokens == "1" ? " token" : " tokens");
                chart.y_label = "time over the roof";
                chart.names.push_back(r.number);
                chart.values.push_back(one["x_roof"]);
                chart.width = 1000;
            }
        std::string text = tables_of(run, rows);
        std::size_t done = 0;
        for (const auto& [name, chart] : pictures) {
            svg::write(beside + "/bench_" + name + ".svg", chart);
            text += "![" + chart.title + "](" + folder + "/bench_" + name + ".svg)\n";
            std::printf("[%zu of %zu] %s/bench_%s.svg\n", ++done, pictures.size(), folder.c_str(),
                        name.c_str());
        }
        write_between_marks(argv[2], text);
        std::printf("tables written to %s\n", argv[2]);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "bench_report: %s\n", e.what());
        return 1;
    }
}
