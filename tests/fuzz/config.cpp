// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The reader of Hugging Face configs on any text: it either refuses with invalid_config or gives schemes
// whose frequencies are finite.
#include <cmath>
#include <string_view>

#include <ropewalk/schemes/huggingface_json.hpp>

#include "input.hpp"

namespace rw = ropewalk;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto keys = data[0] % 2 == 0 ? rw::strictness::strict : rw::strictness::lenient;
    const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) return 0;
    try {
        const auto layers = rw::make_model_schemes(rw::from_huggingface(json, {.keys = keys}));
        fuzz::require(layers.layers() > 0, "a model without layers was read");
        for (const auto& rope : layers.distinct())
            for (std::int64_t length : {std::int64_t{1}, std::int64_t{100}, std::int64_t{1} << 20}) {
                const auto s = rope.spectrum_for(length);
                fuzz::require(
                    2 * s.pairs() == (rope.rotates ? rope.rotary_dim : 0) || rope.rotary_dim % 2 != 0,
                    "a spectrum does not fit its scheme");
                fuzz::require(std::isfinite(s.magnitude()), "a magnitude is not finite");
                for (rw::index i = 0; i < s.pairs(); ++i)
                    fuzz::require(std::isfinite(s.omega(i)), "a frequency is not finite");
            }
    } catch (const rw::invalid_config& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    return 0;
}
