// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Presets beside the config texts of their models.

#include <variant>
#include <vector>

#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"

namespace preset_rows {

using namespace ropewalk;

/// A preset beside the keys of its model's config that decide the rotary embedding.
struct row {
    const char* name;
    std::variant<rotary_scheme, model_schemes> preset;
    const char* text;
};

inline void check_equal(const rotary_scheme& preset, const rotary_scheme& read) {
    CHECK(preset.head_dim == read.head_dim);
    CHECK(preset.first_channel == read.first_channel);
    CHECK(preset.rotary_dim == read.rotary_dim);
    CHECK(preset.read_layout == read.read_layout);
    CHECK(preset.write_layout == read.write_layout);
    CHECK(preset.logit_scale == read.logit_scale);
    CHECK(preset.notes == read.notes);
    CHECK(preset.rotates == read.rotates);
    CHECK(preset.length_dependent == read.length_dependent);
    CHECK(preset.original_context == read.original_context);
    CHECK(preset.max_context == read.max_context);
    for (const std::int64_t length : {1, 4096, 4097, 131072}) {
        CHECK(preset.spectrum_for(length).omegas() == read.spectrum_for(length).omegas());
        CHECK(preset.spectrum_for(length).magnitude() == read.spectrum_for(length).magnitude());
        CHECK(preset.spectrum_for(length).axes() == read.spectrum_for(length).axes());
    }
}

/// Each preset must equal what the reader makes of the text.
inline void check(const std::vector<row>& rows) {
    for (const row& r : rows) {
        INFO(r.name);
        const auto read = make_model_schemes(from_huggingface(nlohmann::json::parse(r.text)));
        if (const auto* one = std::get_if<rotary_scheme>(&r.preset)) {
            REQUIRE(read.distinct().size() == 1);
            check_equal(*one, read[0]);
        } else {
            const auto& layers = std::get<model_schemes>(r.preset);
            REQUIRE(layers.layers() == read.layers());
            for (ropewalk::index l = 0; l < layers.layers(); ++l) check_equal(layers[l], read[l]);
        }
    }
}

}  // namespace preset_rows
