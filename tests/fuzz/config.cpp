// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The readers of configs on any JSON text: each either refuses with invalid_config or gives schemes whose
// frequencies are finite. The first byte says which reader and how strict it is; the keys of a GGUF file,
// and its tensors beside them, are the members of an object.
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/models/gguf.hpp>
#include <ropewalk/models/huggingface_json.hpp>

#include "input.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
std::vector<T> all_of(const nlohmann::json& array) {
    std::vector<T> all;
    for (const auto& v : array)
        all.push_back(v.is_number() ? v.get<T>() : static_cast<T>(v.is_boolean() && v.get<bool>()));
    return all;
}

bool is_whole(const nlohmann::json& v) { return v.is_number_integer() || v.is_boolean(); }

/// The file that holds these keys. What no GGUF value can be (null, objects) is left out.
rw::gguf_metadata gguf_file(const nlohmann::json& object) {
    rw::gguf_metadata file;
    if (!object.is_object()) return file;
    for (const auto& [key, v] : object.items()) {
        if (v.is_array() && key == "rope_freqs.weight") {
            file.rope_freqs = all_of<float>(v);
        } else if (v.is_array() && key == "rope_factors_long.weight") {
            file.rope_factors_long = all_of<float>(v);
        } else if (v.is_array() && key == "rope_factors_short.weight") {
            file.rope_factors_short = all_of<float>(v);
        } else if (v.is_array()) {
            bool whole = true;
            for (const auto& entry : v) whole = whole && is_whole(entry);
            if (whole)
                file.values[key] = all_of<std::int64_t>(v);
            else
                file.values[key] = all_of<double>(v);
        } else if (v.is_boolean()) {
            file.values[key] = v.get<bool>();
        } else if (v.is_number_integer()) {
            file.values[key] = v.get<std::int64_t>();
        } else if (v.is_number()) {
            file.values[key] = v.get<double>();
        } else if (v.is_string()) {
            file.values[key] = v.get<std::string>();
        }
    }
    return file;
}

void check(const rw::model_schemes& layers) {
    fuzz::require(layers.layers() > 0, "a model without layers was read");
    for (const auto& rope : layers.distinct())
        for (std::int64_t length : {std::int64_t{1}, std::int64_t{100}, std::int64_t{1} << 20}) {
            const auto s = rope.spectrum_for(length);
            fuzz::require(2 * s.pairs() == (rope.rotates ? rope.rotary_dim : 0) || rope.rotary_dim % 2 != 0,
                          "a spectrum does not fit its scheme");
            fuzz::require(std::isfinite(s.magnitude()), "a magnitude is not finite");
            for (rw::index i = 0; i < s.pairs(); ++i)
                fuzz::require(std::isfinite(s.omega(i)), "a frequency is not finite");
            // What kernels read: rows of f32 at the first and the last positions, rotations all of them.
            rw::position_ids where(s.axes());
            where.append(rw::text_run{2, 0, 1}).append(rw::text_run{2, static_cast<double>(length), 1});
            const auto table = rw::make_rotation_table<float>(s, where);
            const double m = std::abs(s.magnitude());
            for (rw::index n = 0; n < table.row_count(); ++n)
                for (std::size_t i = 0; i < static_cast<std::size_t>(s.pairs()); ++i) {
                    const auto c = static_cast<double>(table.cos_row(n)[i]),
                               t = static_cast<double>(table.sin_row(n)[i]);
                    fuzz::require(std::abs(std::hypot(c, t) - m) <= 1e-6 * m, "a row is no rotation");
                }
        }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto keys = data[0] % 2 == 0 ? rw::strictness::strict : rw::strictness::lenient;
    const bool is_gguf = data[0] / 2 % 2 != 0;
    const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) return 0;
    try {
        const auto config =
            is_gguf ? rw::from_gguf(gguf_file(json), keys) : rw::from_huggingface(json, {.keys = keys});
        check(rw::make_model_schemes(config));
    } catch (const rw::invalid_config& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    return 0;
}
