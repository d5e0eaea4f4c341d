// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// load headers  plugin...   plugins as plugin.cpp in the order given, then in the opposite order of calls
// load dispatch plugin...   plugins with units of their own
#include "plugin.h"

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

int failures = 0;
void check(bool holds, const char* what, const char* plugin) {
    if (!holds) std::printf("%s: %s\n", plugin, what);
    failures += holds ? 0 : 1;
}

void ask(void* library, const char* path) {
    const auto says = reinterpret_cast<plugin_says (*)()>(dlsym(library, "plugin"));
    check(says != nullptr, "has no function plugin", path);
    if (says == nullptr) return;
    const plugin_says s = says();
    std::printf("%s: version %s, rotated %.4f, misfit %d, refused %d\n", path, s.version,
                static_cast<double>(s.rotated), s.misfit, s.refused);
    // The copy with another version rotates the other way round.
    const bool other = std::strcmp(s.version, OTHER_VERSION) == 0;
    const double want = std::cos(1.0) + (other ? 1 : -1) * std::sin(1.0);
    check(std::fabs(static_cast<double>(s.rotated) - want) < 1e-6, "computed with another version's code",
          path);
    check(s.misfit <= 0, "took a call that does not fit", path);
    check(s.refused != 0, "took a bad parameter", path);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    std::vector<void*> libraries;
    std::vector<const char*> paths(argv + 2, argv + argc);
    for (const char* path : paths) {
        libraries.push_back(dlopen(path, RTLD_NOW | RTLD_GLOBAL));
        if (libraries.back() == nullptr) {
            std::printf("%s\n", dlerror());
            return 2;
        }
    }
    if (std::strcmp(argv[1], "headers") == 0) {
        for (std::size_t i = 0; i < paths.size(); ++i) ask(libraries[i], paths[i]);
        for (std::size_t i = paths.size(); i-- > 0;) ask(libraries[i], paths[i]);
    } else {
        std::vector<const void*> seen;
        for (std::size_t i = 0; i < paths.size(); ++i) {
            const auto own = reinterpret_cast<const void* (*)()>(dlsym(libraries[i], "own_rotate"));
            const auto rotate =
                reinterpret_cast<int (*)(float*, float, float)>(dlsym(libraries[i], "rotate_one_pair"));
            check(own != nullptr && rotate != nullptr, "lacks a function", paths[i]);
            if (own == nullptr || rotate == nullptr) continue;
            for (const void* other : seen)
                check(other != own(), "calls another library's ropewalk_rotate", paths[i]);
            seen.push_back(own());
            float pair[2] = {1, 0};
            check(rotate(pair, 0.6f, 0.8f) == 0 && pair[0] == 0.6f && pair[1] == 0.8f, "did not rotate",
                  paths[i]);
        }
    }
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
