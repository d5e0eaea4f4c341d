// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/gguf_models.hpp>

#include "support/catch.hpp"

namespace checks = ropewalk::ROPEWALK_ISA::detail;

TEST_CASE("gguf_models: every architecture is found by its name, and nothing else is", "[models][gguf]") {
    for (const auto& a : checks::gguf_architectures) {
        INFO(a.name);
        CHECK(checks::find_gguf_architecture(a.name) == &a);  // a second entry would never be read
        // A layer is NoPE by its own period or for being global, and has a base of its own only if it slides.
        CHECK((a.nope_every == 0 || a.global_every == 0));
        CHECK((!a.nope_global || a.global_every > 0));
        CHECK((a.local_base == 0 || a.global_every > 0));
    }
    for (const char* name : {"", "Llama", "llam", "qwen2_moe", "gpt_oss"}) {
        INFO(name);
        CHECK(checks::find_gguf_architecture(name) == nullptr);
    }
}
