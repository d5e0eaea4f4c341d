// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/model_types.hpp>

#include "support/catch.hpp"

using namespace ropewalk;
namespace rd = ropewalk::ROPEWALK_ISA::detail;

TEST_CASE("model_types: a class that says nothing is Llama's", "[models][huggingface]") {
    const rd::model_rules& r = rd::no_rules;
    CHECK(r.pairs == rd::pair_order::half);
    CHECK(r.theta == 1e4);
    CHECK(r.partial == 1);
    CHECK(r.rule == rd::layer_rule::all);
    CHECK(r.place == rd::slice_place::front);
    CHECK(r.indexer == rd::indexer_kind::none);
    CHECK(r.scaling == nullptr);
    CHECK(r.sections[0] == 0);
    CHECK_FALSE(r.backward);
}
