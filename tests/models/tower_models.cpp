// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/tower_models.hpp>

#include "support/catch.hpp"

namespace checks = ropewalk::ROPEWALK_ISA::detail;

TEST_CASE("tower_models: every tower is found by its name", "[models][towers]") {
    for (const auto& family : checks::tower_families) {
        INFO(family.model_type);
        CHECK(checks::find_tower_family(family.model_type) == &family);  // a second entry would never be read
        CHECK(family.base > 0);
        CHECK((family.heads == 0 || family.width % family.heads == 0));
    }
    // By the name of the model it stands in front of, and by the one that newer releases give it.
    CHECK(checks::find_tower_family("kimi_k25")->kind == checks::tower_kind::kimi);
    CHECK(checks::find_tower_family("glm4v")->kind == checks::tower_kind::merged);
    CHECK(checks::find_tower_family("qwen2_5_vl_vision")->kind == checks::tower_kind::merged);
    for (const char* name : {"", "kimi", "qwen", "clip_vision", "pixtral_vision"}) {
        INFO(name);
        CHECK(checks::find_tower_family(name) == nullptr);
    }
}
