// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The readers of towers and of media on any JSON text: each refuses with invalid_config or gives a scheme and
// positions whose rows are finite. The first byte says which reader.
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/models/multimodal_config.hpp>
#include <ropewalk/models/vision_towers.hpp>

#include "input.hpp"

namespace rw = ropewalk;

namespace {

void check_rows(const rw::spectrum& s, const rw::position_ids& where) {
    const auto table = rw::make_rotation_table(s, where);
    for (rw::index row = 0; row < table.row_count(); ++row)
        for (std::size_t i = 0; i < static_cast<std::size_t>(s.pairs()); ++i)
            fuzz::require(std::isfinite(table.cos_row(row)[i]) && std::isfinite(table.sin_row(row)[i]),
                          "a row is not finite");
}

void check(const rw::tower& tower) {
    fuzz::require(tower.layers >= 0 && tower.layers <= 65536, "a tower of too many layers was read");
    if (!tower.rope.rotates) return;
    const auto s = tower.rope.spectrum_for(1);
    fuzz::require(2 * s.pairs() == tower.rope.rotary_dim && tower.rope.rotary_dim <= tower.rope.head_dim,
                  "a spectrum does not fit its scheme");
    if (s.pairs() > 4096) return;
    const std::vector<rw::qwen_vl_vision::grid_thw> grids{{1, 4, 4}};
    if (tower.patches) check_rows(s, tower.patches(grids));
    if (tower.frames && s.pairs() <= 256) check_rows(s, tower.frames(750));  // a window of Music Flamingo
}

void check(const rw::multimodal_config& media) {
    const std::vector<std::int64_t> ids{1, media.tokens.image, media.tokens.image, 2};
    const rw::index side = media.tokens.spatial_merge;
    const std::vector<rw::index> grids{1, side, 2 * side};
    if (ids[1] == 1 || ids[1] == 2 || media.tokens.video == 1 || media.tokens.video == 2) return;
    const auto streams = make_streams(media, {.input_ids = ids, .image_grids = grids});
    fuzz::require(std::isfinite(streams[0].next_position), "a position is not finite");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) return 0;
    try {
        if (data[0] % 3 == 0) return check(rw::from_multimodal(json)), 0;
        const rw::tower_reading reading{.part = data[0] % 3 == 1 ? "vision_config" : "audio_config",
                                        .learned = std::vector<double>(data[0] / 3, 0.25)};
        check(rw::from_tower(json, reading));
    } catch (const rw::invalid_config& error) {
        fuzz::require(*error.what() != '\0', "a refusal without a text");
    }
    return 0;
}
