// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Catch2's main, compiled once for all test programs where no ready-made library of it fits.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
#else
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
