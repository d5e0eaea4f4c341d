// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// ropewalk_golden PATH...: compares the library with every *.json below each PATH. One line a file, then
// the tally; exit code 0 only when every file passed.

#include <cstdio>
#include <filesystem>

#include "runner.hpp"

namespace {

namespace fs = std::filesystem;

std::vector<std::string> json_files(const std::vector<std::string>& paths) {
    std::set<std::string> files;  // sorted, and once when two paths overlap
    for (const std::string& path : paths) {
        if (fs::is_directory(path)) {
            for (const auto& entry : fs::recursive_directory_iterator(path))
                if (entry.is_regular_file() && entry.path().extension() == ".json")
                    files.insert(entry.path().string());
        } else if (fs::is_regular_file(path)) {
            files.insert(path);
        } else {
            throw golden::error(path + ": no such file or directory");
        }
    }
    return {files.begin(), files.end()};
}

/// A message on one line, so that a line stays a file.
std::string on_one_line(std::string text) {
    for (char& c : text)
        if (c == '\n' || c == '\r' || c == '\t') c = ' ';
    return text;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: ropewalk_golden PATH...\n");
        return 2;
    }
    try {
        const auto files = json_files({argv + 1, argv + argc});
        if (files.empty()) {
            std::fprintf(stderr, "ropewalk_golden: no *.json below the given paths\n");
            return 2;
        }
        using kind = golden::verdict::kind_type;
        int passed = 0, failed = 0, skipped = 0;
        for (const std::string& file : files) {
            const auto v = golden::run_file(file);
            ++(v.kind == kind::pass ? passed : v.kind == kind::fail ? failed : skipped);
            const char* word = v.kind == kind::pass ? "PASS" : v.kind == kind::fail ? "FAIL" : "UNSUPPORTED";
            const std::string system = v.system.empty() ? "(no system)" : v.system;
            std::printf("%s  %s  %s: %s\n", word, file.c_str(), on_one_line(system).c_str(),
                        on_one_line(v.text).c_str());
            std::fflush(stdout);  // a crash must not hide the files before it
        }
        std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
        return failed == 0 && skipped == 0 ? 0 : 1;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "ropewalk_golden: %s\n", e.what());
        return 2;
    }
}
