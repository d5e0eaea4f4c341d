// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/huggingface_merge.hpp>

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
namespace rd = ropewalk::ROPEWALK_ISA::detail;

namespace {

struct merging {
    json dict;
    std::vector<std::string> ignored;
};
merging merge(const char* now, const char* old, bool strict, rd::layer_rule rule = rd::layer_rule::all) {
    const json node = json::object();
    rd::json_object top("f", node, "");
    rd::model_rules rules;
    rules.rule = rule;
    merging m;
    m.dict = rd::huggingface_merge{top, rules, strict, m.ignored}.merged(json::parse(now), json::parse(old));
    return m;
}

}  // namespace

TEST_CASE("huggingface_merge: which dictionaries are keyed by layer type", "[models][huggingface]") {
    const auto keyed = [](const char* text) {
        return rd::huggingface_merge::is_keyed_by_layer_type(json::parse(text));
    };
    CHECK(keyed(R"({"full_attention":{},"sliding_attention":{}})"));
    CHECK(keyed(R"({"hybrid":{"rope_theta":1},"rope_type":"default"})"));
    CHECK(keyed(R"({"main":{},"compress":{}})"));
    CHECK(keyed(R"({"sliding_attention":null})"));
    CHECK_FALSE(keyed(R"({"rope_type":"default","factor":null})"));
    CHECK_FALSE(keyed("{}"));
}

TEST_CASE("huggingface_merge: rope_scaling adds what rope_parameters has not", "[models][huggingface]") {
    const auto both =
        merge(R"({"rope_theta":5.0,"rope_type":"yarn"})", R"({"type":"yarn","factor":4.0})", true);
    CHECK(both.dict == json::parse(R"({"rope_theta":5.0,"rope_type":"yarn","factor":4.0})"));
    CHECK(both.ignored.empty());
    const auto typed = merge(R"({"full_attention":{"rope_theta":5.0},"sliding_attention":{}})",
                             R"({"factor":4.0})", true, rd::layer_rule::by_type);
    CHECK(typed.dict["full_attention"]["factor"] == 4.0);
    CHECK(typed.dict["sliding_attention"].empty());
}

TEST_CASE("huggingface_merge: what the two say differently is refused, or leniently listed",
          "[models][huggingface][errors]") {
    CHECK_REFUSES("f: rope_scaling.factor must be what rope_parameters says, got 4.0",
                  merge(R"({"factor":2.0})", R"({"factor":4.0})", true));
    CHECK_REFUSES("f: rope_scaling.type must be what rope_parameters says, got \"linear\"",
                  merge(R"({"rope_type":"yarn"})", R"({"type":"linear"})", true));
    const auto lenient = merge(R"({"factor":2.0})", R"({"factor":4.0})", false);
    CHECK(lenient.dict["factor"] == 2.0);
    CHECK(lenient.ignored == std::vector<std::string>{"rope_scaling.factor"});
    CHECK(merge(R"({"rope_type":"yarn"})", R"({"type":"linear"})", false).ignored ==
          std::vector<std::string>{"rope_scaling"});
}
