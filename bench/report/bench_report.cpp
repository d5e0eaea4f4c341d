// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// bench_report BENCH.json README.md RESULTS.md PICTURE.svg
// Writes every case of a bench run into RESULTS.md, and the six calls that a reader asks for first between the
// two bench_report marks of the README. Paths as the README links them: run it beside the README.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
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

/// Google Benchmark writes the spread of repetitions of a counter that is 0 as NaN, which is no JSON.
json parsed(std::string text) {
    for (const char* word : {": NaN", ": -NaN"})
        for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos;)
            text.replace(at, std::string(word).size(), ": null");
    return json::parse(text);
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
    std::map<std::string, json> by_tokens;

    /// A counter, or 0.
    double counter(const std::string& tokens, const char* key) const {
        const auto found = by_tokens.find(tokens);
        return found == by_tokens.end() ? 0.0 : found->second.value(key, 0.0);
    }
};

/// Repetitions of one case: each number is their median.
json median_of(const std::vector<json>& runs) {
    json out = runs.front();
    for (auto& [key, value] : out.items()) {
        if (!value.is_number()) continue;
        std::vector<double> numbers;
        for (const json& one : runs) numbers.push_back(one.value(key, 0.0));
        std::sort(numbers.begin(), numbers.end());
        value = numbers[numbers.size() / 2];
    }
    return out;
}

std::vector<row> rows_of(const json& run) {
    std::vector<row> rows;
    std::map<std::string, std::map<std::string, std::vector<json>>> repeated;
    for (const json& one : run.at("benchmarks")) {
        if (!one.contains("kernel_ns") || one.value("error_occurred", false)) continue;
        if (one.value("run_type", std::string("iteration")) != "iteration") continue;
        const case_name name = parts_of(one.at("name"));
        if (repeated.find(name.what) == repeated.end()) rows.push_back({.what = name.what, .by_tokens = {}});
        repeated[name.what][name.tokens].push_back(one);
    }
    for (row& r : rows)
        for (const auto& [tokens, runs] : repeated[r.what]) r.by_tokens[tokens] = median_of(runs);
    return rows;
}

const char* const token_counts[] = {"1", "512", "4096"};

/// One table: a line a case, a column a token count; `cell` gives the text of a run, empty where it has none.
template <class Cell>
std::string table_of(const std::string& head, const std::vector<row>& rows, Cell cell) {
    std::string body;
    for (const row& r : rows) {
        std::string line = "| " + r.what;
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
    const auto repetitions = run.at("benchmarks").at(0).value("repetitions", 1);
    return text +
           ". One thread, medians of samples that alternate with the roof or the other contender; of " +
           std::to_string(repetitions) + " repetitions their median.";
}

/// Every "<name>_over_kernel" of a run, by name.
std::map<std::string, double> over_kernel(const json& one) {
    std::map<std::string, double> out;
    const std::string tail = "_over_kernel";
    for (const auto& [key, value] : one.items())
        if (key.size() > tail.size() && key.compare(key.size() - tail.size(), tail.size(), tail) == 0)
            out[key.substr(0, key.size() - tail.size())] = value.get<double>();
    return out;
}
std::string others_of(const json& one) {
    std::string cell;
    for (const auto& [name, ratio] : over_kernel(one))
        cell += (cell.empty() ? "" : ", ") + name + " " + ratio_text(ratio);
    return cell;
}

/// Cases of other libraries, named peer_<library>/...: their only other is that library.
const std::string peer_mark = "peer_";
bool is_peer(const std::string& name) { return name.rfind(peer_mark, 0) == 0; }
double peer_over_kernel(const json& one) {
    const auto others = over_kernel(one);
    return others.size() == 1 ? others.begin()->second : 0.0;
}
/// Which peers stood in the run, with their versions (the label of their cases), in the order of the run.
std::string peer_versions(const std::vector<row>& rows) {
    std::vector<std::string> names;
    for (const row& r : rows)
        for (const auto& [tokens, one] : r.by_tokens) {
            const std::string label = one.value("label", std::string());
            if (is_peer(r.what) && std::find(names.begin(), names.end(), label) == names.end())
                names.push_back(label);
        }
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

std::string over_roof(const json& one) {
    // A peer's case has our own time over the roof, once more.
    if (!one.contains("x_roof") || is_peer(one.at("name"))) return std::string();
    return ratio_text(one["x_roof"]) + " (" + time_text(one["kernel_ns"]) + ")";
}

/// Cases of other token counts, or of none: a line each.
std::string table_of_the_rest(const std::vector<row>& rows) {
    std::string body;
    for (const row& r : rows)
        for (const auto& [tokens, one] : r.by_tokens) {
            if (std::find(std::begin(token_counts), std::end(token_counts), tokens) != std::end(token_counts))
                continue;
            const std::string roofs = over_roof(one);
            body += "| " + r.what + " | " + tokens + " | " +
                    (roofs.empty() ? "(" + time_text(one["kernel_ns"]) + ")" : roofs) + " | " +
                    others_of(one) + " |\n";
        }
    if (body.empty()) return "";
    return "Every other case: its time over the pass it is held against (and the time), the others' time "
           "over "
           "ours:\n\n| case | tokens | over the roof | others |\n|---|---|---|---|\n" +
           body;
}

/// The rows whose name is `first` ... `last`, under the name between them.
std::vector<row> between(const std::vector<row>& rows, const std::string& first, const std::string& last) {
    std::vector<row> out;
    for (const row& r : rows) {
        const std::size_t ends = first.size() + last.size();
        if (r.what.size() <= ends || r.what.compare(0, first.size(), first) != 0) continue;
        if (r.what.compare(r.what.size() - last.size(), last.size(), last) != 0) continue;
        out.push_back(r);
        out.back().what = r.what.substr(first.size(), r.what.size() - ends);
        std::replace(out.back().what.begin(), out.back().what.end(), '/', ' ');
    }
    return out;
}

const std::string standard_heads = "/q_heads:32/k_heads:8/dim:128";

std::string tables_by_call(const std::vector<row>& rows) {
    std::string text;
    text += table_of("`rotate`, 32 + 8 heads of 128: its time over the roof, and behind it the plain loop's:",
                     between(rows, "rotate/", standard_heads), [](const json& one) {
                         const double ours = one.value("x_roof", 0.0);
                         if (ours == 0) return std::string();
                         const double plain = ours * one.value("plain_loop_over_kernel", 0.0);
                         return ratio_text(ours) + (plain > 0 ? " / " + ratio_text(plain) : "");
                     });
    std::vector<row> fused = between(rows, "normalize_and_rotate/", standard_heads);
    for (row& r : fused) r.what = "normalize_and_rotate " + r.what;
    for (row& r : between(rows, "append/", "")) {
        fused.push_back(r);
        fused.back().what = "append " + r.what;
    }
    text += table_of("Fused calls: the time of the separate passes over theirs:", fused, [](const json& one) {
        const double passes = one.value("unfused_over_kernel", 0.0);
        return passes > 0 ? ratio_text(passes) : std::string();
    });
    text += table_of("Other libraries on the same work, " + peer_versions(rows) + ": their time over ours:",
                     between(rows, peer_mark, standard_heads), [](const json& one) {
                         const double theirs = peer_over_kernel(one);
                         return theirs > 0 ? ratio_text(theirs) : std::string();
                     });
    for (const row& r : rows)  // what the choice of a unit at run time adds to a call
        for (const auto& [tokens, one] : r.by_tokens)
            if (one.contains("dispatch_ns"))
                text += "`" + r.what + "`: " + ratio_text(one["dispatch_ns"]) +
                        " ns a call for run-time dispatch.\n\n";
    return text;
}

std::string all_tables(const json& run, const std::vector<row>& rows) {
    const std::string versions = peer_versions(rows);
    return "# One run of the benchmarks\n\n" + caption_of(run) +
           (versions.empty() ? "" : " Peers: " + versions + ".") + "\n\n" + tables_by_call(rows) +
           table_of("Time over the roof, a pass that reads and writes each byte once, and the time:", rows,
                    over_roof) +
           table_of("The others' time over ours, in the same run:", rows, others_of) +
           table_of_the_rest(rows);
}

/// The fastest peer at 512 tokens of `what` (layout/dtype): its time over the roof and its name, or nothing.
std::string best_peer(const std::vector<row>& rows, const std::string& what) {
    std::string name;
    double best = 0;
    for (const row& r : between(rows, peer_mark, "/" + what + standard_heads)) {
        const auto at_512 = r.by_tokens.find("512");
        if (at_512 == r.by_tokens.end()) continue;
        const double theirs = at_512->second.value("x_roof", 0.0) * peer_over_kernel(at_512->second);
        if (theirs > 0 && (best == 0 || theirs < best)) best = theirs, name = r.what;
    }
    return best > 0 ? ratio_text(best) + " " + name : std::string();
}

/// A call of the README's table: its name there, its case, the counter that is its time over another's or the
/// other's over its own, and what peers call the same work.
struct first_call {
    const char* text;
    std::string what;
    const char* over;
    const char* under;
    const char* peers;
};

/// The calls that an engine makes, against what bounds each.
std::string first_table(const std::vector<row>& rows) {
    const first_call calls[] = {
        {"`rotate` f32 / the roof", "rotate/half_split/f32/table" + standard_heads, "x_roof", nullptr,
         "half_split/f32"},
        {"`rotate` bf16 / the roof", "rotate/half_split/bf16/table" + standard_heads, "x_roof", nullptr,
         "half_split/bf16"},
        {"`rotate` f32, rows on the fly / the roof", "rotate/half_split/f32/fly" + standard_heads, "x_roof",
         nullptr, "half_split/f32"},
        {"`rotate_into` f32 / memcpy", "rotate_into/half_split/f32", nullptr, "memcpy_over_kernel", nullptr},
        {"`prepare_attention` bf16 to an int8 cache / its steps apart", "prepare_attention/bf16_to_int8",
         nullptr, "apart_over_kernel", nullptr},
        {"`shift_keys` of a q8_0 cache of 8192 tokens / a pass over it",
         "block_rotation/q8_0/half_split/dim:128", "x_roof", nullptr, nullptr}};
    std::string text =
        "| call / what bounds it | 1 token | 512 | 4096 | plain loop | best peer | worst error "
        "|\n|---|---|---|---|---|---|---|\n";
    for (const first_call& call : calls) {
        const auto found =
            std::find_if(rows.begin(), rows.end(), [&](const row& r) { return r.what == call.what; });
        if (found == rows.end()) continue;
        const auto cell = [&](const std::string& tokens) {
            const double under = call.under != nullptr ? found->counter(tokens, call.under) : 1;
            const double ratio = call.over != nullptr ? found->counter(tokens, call.over)
                                 : under > 0          ? 1 / under
                                                      : 0;
            return ratio > 0 ? ratio_text(ratio) : std::string();
        };
        text += std::string("| ") + call.text;
        for (const char* tokens : token_counts) text += " | " + cell(tokens);
        if (const std::string whole = cell(""); !whole.empty())  // a case without a token count
            text.replace(text.size() - 2, 2, " | " + whole);
        const double plain = found->counter("512", "plain_loop_over_kernel");
        char error[32] = "";
        const double worst =
            std::max(found->counter("512", "worst_error"), found->counter("", "worst_error"));
        if (worst > 0) std::snprintf(error, sizeof error, "%.1e", worst);
        text += " | " + (plain > 0 ? ratio_text(plain * found->counter("512", "x_roof")) : std::string()) +
                " | " + (call.peers != nullptr ? best_peer(rows, call.peers) : std::string()) + " | " +
                error + " |\n";
    }
    return text + "\n";
}

/// f32 half-split at 512 tokens: ours, the plain loop, the way of the reference implementations, and the
/// peers.
svg::bar_chart picture_of(const std::vector<row>& rows) {
    svg::bar_chart chart;
    chart.title = "f32, half-split, 512 tokens of 32 + 8 heads of 128";
    chart.x_label = "time over the roof, a pass that reads and writes each byte once";
    const auto bar = [&](const std::string& name, double value, double error = 0,
                         const char* words = "off by %.1e at most") {
        if (value == 0) return;
        chart.names.push_back(name);
        chart.values.push_back(value);
        char note[48] = "";
        if (error > 0) std::snprintf(note, sizeof note, words, error);
        chart.notes.push_back(note);
    };
    for (const row& r : rows) {
        const double roofs = r.counter("512", "x_roof");
        if (r.what == "rotate/half_split/f32/table" + standard_heads) {
            bar("table", roofs, r.counter("512", "worst_error"));
            bar("plain loop", roofs * r.counter("512", "plain_loop_over_kernel"));
        } else if (r.what == "rotate/half_split/f32/fly" + standard_heads) {
            bar("on the fly", roofs, r.counter("512", "worst_error"));
        } else if (r.what == "baseline/rotate_half_temporaries/f32" + standard_heads) {
            bar("rotate_half", roofs);
        }
    }
    for (const row& r : between(rows, peer_mark, "/half_split/f32" + standard_heads)) {
        const auto at_512 = r.by_tokens.find("512");
        if (at_512 != r.by_tokens.end())
            bar(r.what, at_512->second.value("x_roof", 0.0) * peer_over_kernel(at_512->second),
                at_512->second.value(r.what + "_apart", 0.0), "%.1e from the table's at most");
    }
    return chart;
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
    if (argc != 5) {
        std::fprintf(stderr, "bench_report BENCH.json README.md RESULTS.md PICTURE.svg\n");
        return 2;
    }
    try {
        const std::string results = argv[3], picture = argv[4];
        const json run = parsed(read_file(argv[1]));
        const std::vector<row> rows = rows_of(run);
        if (rows.empty()) throw std::runtime_error("no case with a kernel_ns counter");
        std::printf("%zu cases read from %s\n", rows.size(), argv[1]);
        const std::string beside = picture.substr(picture.rfind('/') + 1);  // both in one folder
        write_between_marks(
            results, all_tables(run, rows) + "\n![Time over the roof: ours and others](" + beside + ")\n");
        std::printf("every case: %s\n", results.c_str());
        svg::write(picture, picture_of(rows));
        std::printf("picture: %s\n", picture.c_str());
        write_between_marks(argv[2], first_table(rows) + caption_of(run) + " Every case: [" + results + "](" +
                                         results +
                                         "), from `cmake --workflow --preset bench` and then "
                                         "`cmake --build build-bench --target bench_report`.\n");
        std::printf("first table: %s\n", argv[2]);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "bench_report: %s\n", e.what());
        return 1;
    }
}
