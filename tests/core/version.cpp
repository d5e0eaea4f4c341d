// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/version.hpp>

#include <string>
#include <type_traits>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd.hpp>

#include "support/catch.hpp"

namespace {

struct tag {};

}  // namespace

namespace ROPEWALK_VIEW_NAMESPACE {
using version_test_view = tag;
}
namespace ROPEWALK_NAMESPACE {
using version_test_kernel = tag;
}

TEST_CASE("version: the text is made of its numbers", "[core][version]") {
    CHECK(std::string(ROPEWALK_VERSION_STRING) == std::to_string(ROPEWALK_VERSION_MAJOR) + "." +
                                                      std::to_string(ROPEWALK_VERSION_MINOR) + "." +
                                                      std::to_string(ROPEWALK_VERSION_PATCH));
}

TEST_CASE("version: the namespaces say the version, and the one with loops what else its code depends on",
          "[core][version]") {
    const std::string version = "v" + std::to_string(ROPEWALK_VERSION_MAJOR) + "_" +
                                std::to_string(ROPEWALK_VERSION_MINOR) + "_" +
                                std::to_string(ROPEWALK_VERSION_PATCH);
    std::string mode;
#if defined(ROPEWALK_NO_XSIMD) || defined(ROPEWALK_NO_VECTORS)
    mode = ROPEWALK_DETAIL_TEXT(ROPEWALK_DETAIL_REGISTERS);
    CHECK(mode.rfind("no_", 0) == 0);
#endif
#if defined(__cpp_exceptions)
    mode += "on_misfit_stop_throws";
#else
    mode += "on_misfit_stop_aborts";
#endif
#if !defined(NDEBUG)
    mode += "_asserts";
#endif
    CHECK(std::string(ROPEWALK_DETAIL_TEXT(ROPEWALK_DETAIL_MODE)) == mode);
    CHECK(std::string(ROPEWALK_DETAIL_TEXT(ROPEWALK_VIEW_NAMESPACE)) == "ropewalk::inline " + version);
    CHECK(std::string(ROPEWALK_DETAIL_TEXT(ROPEWALK_NAMESPACE)) ==
          "ropewalk::inline " + version + "::inline " + ROPEWALK_DETAIL_TEXT(ROPEWALK_ISA) + "::inline " +
              mode);
    // Users write neither.
    CHECK(std::is_same_v<ropewalk::version_test_view, tag>);
    CHECK(std::is_same_v<ropewalk::version_test_kernel, ropewalk::ROPEWALK_ISA::version_test_kernel>);
}

#if defined(ROPEWALK_DETAIL_XSIMD)  // without it there is one width everywhere
// Units that share a name share symbols, so a name must mean one width of register.
TEST_CASE("version: an instruction set's name means one width of register", "[core][version]") {
    const std::string isa = ROPEWALK_DETAIL_TEXT(ROPEWALK_ISA);
    const auto bits = 32 * ropewalk::simd::lanes<float>;
    INFO(isa);
    const auto begins = [&](const char* name) { return isa.rfind(name, 0) == 0; };
    if (begins("avx512")) {
        CHECK(bits == 512);
    } else if (begins("avx")) {
        CHECK(bits == 256);
    } else if (begins("sse") || isa == "neon") {
        CHECK(bits == 128);
    }
}

// An older CPU must not be handed what only a newer one knows: the name says what is used beyond the width.
TEST_CASE("version: an instruction set's name says whether it fuses and converts", "[core][version]") {
    const std::string isa = ROPEWALK_DETAIL_TEXT(ROPEWALK_ISA);
    const auto says = [&](const char* what) { return isa.find(what) != std::string::npos; };
    INFO(isa);
#if defined(ROPEWALK_DETAIL_X86_256) && defined(__FMA__)
    CHECK(says("_fma"));
#else
    CHECK_FALSE(says("_fma"));
#endif
#if defined(ROPEWALK_DETAIL_X86_256) && defined(__F16C__)
    CHECK(says("_f16c"));
#else
    CHECK_FALSE(says("_f16c"));
#endif
}
#endif
