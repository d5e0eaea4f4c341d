// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The reader of GGUF files on any bytes: it refuses with invalid_config or gives a header, and what from_gguf
// makes of that has frequencies and rows that are finite.
#include <cmath>
#include <span>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/models/gguf.hpp>
#include <ropewalk/models/gguf_file.hpp>

#include "input.hpp"

namespace rw = ropewalk;

namespace {

void check(const rw::model_schemes& layers) {
    fuzz::require(layers.layers() > 0, "a model without layers was read");
    for (const auto& rope : layers.distinct())
        for (std::int64_t length : {std::int64_t{1}, std::int64_t{1} << 20}) {
            const auto s = rope.spectrum_for(length);
            if (s.pairs() == 0 || s.pairs() > 4096) continue;
            const auto where = rw::position_ids::from_tokens_axes(
                std::vector<double>(static_cast<std::size_t>(s.axes()), static_cast<double>(length - 1)),
                s.axes());
            const auto table = rw::make_rotation_table(s, where);
            for (rw::index i = 0; i < s.pairs(); ++i) {
                const auto at = static_cast<std::size_t>(i);
                fuzz::require(std::isfinite(s.omega(i)), "a frequency is not finite");
                fuzz::require(std::isfinite(table.cos_row(0)[at]) && std::isfinite(table.sin_row(0)[at]),
                              "a row is not finite");
            }
        }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto file = rw::read_gguf(std::as_bytes(std::span(data, size)));
        fuzz::require(file.version == 2 || file.version == 3, "a version that is not known was read");
        fuzz::require(33 * file.tensors.size() <= size, "more tensors than bytes were read");
        for (const auto keys : {rw::strictness::strict, rw::strictness::lenient}) {
            try {
                check(rw::make_model_schemes(rw::from_gguf(file.metadata, keys)));
            } catch (const rw::invalid_config& error) {
                fuzz::require(*error.what() != '\0', "a refusal without a text");
            }
        }
    } catch (const rw::invalid_config& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    return 0;
}
