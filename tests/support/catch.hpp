// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// One include for Catch2 2 and 3. Include it after the headers under test: the warning wall holds for
// them, while the test bodies below may mix int literals and counts freely.

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_message.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#include <catch2/matchers/catch_matchers_all.hpp>
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
#else
#include <catch2/catch.hpp>
inline auto ContainsSubstring(const std::string& text) { return Catch::Matchers::Contains(text); }
#endif

// Without exceptions a refused call aborts: the statements that expect a throw are then not run, and what
// was written for them alone is not used.
#if !defined(__cpp_exceptions)
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wunused-local-typedefs"
#endif
#undef REQUIRE_THROWS
#undef REQUIRE_THROWS_AS
#undef REQUIRE_THROWS_WITH
#undef REQUIRE_THROWS_MATCHES
#undef CHECK_THROWS
#undef CHECK_THROWS_AS
#undef CHECK_THROWS_WITH
#undef CHECK_THROWS_MATCHES
#define REQUIRE_THROWS(...) static_cast<void>(0)
#define REQUIRE_THROWS_AS(...) static_cast<void>(0)
#define REQUIRE_THROWS_WITH(...) static_cast<void>(0)
#define REQUIRE_THROWS_MATCHES(...) static_cast<void>(0)
#define CHECK_THROWS(...) static_cast<void>(0)
#define CHECK_THROWS_AS(...) static_cast<void>(0)
#define CHECK_THROWS_WITH(...) static_cast<void>(0)
#define CHECK_THROWS_MATCHES(...) static_cast<void>(0)
#endif

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
