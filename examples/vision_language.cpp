// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A request to a vision-language model, from config and token ids to attention: text, an image, a video, a
// question. Prefill in chunks and decode token by token rotate to the same bits as one prefill of everything.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/models/multimodal_config.hpp>

namespace rw = ropewalk;

constexpr const char* config_text = R"({
    "model_type": "qwen2_5_vl", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
    "num_hidden_layers": 28, "max_position_embeddings": 128000, "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "image_token_id": 151655, "video_token_id": 151656,
    "vision_config": {"spatial_merge_size": 2, "tokens_per_second": 2}})";
constexpr rw::index heads = 28, kv_heads = 4, per_token = 2 * (heads + kv_heads), dim = 128, generated = 6;

/// Runs tokens from `first` on through a layer; rows are [queries | outputs | keys | values].
void run(const rw::rotary_scheme& rope, std::vector<float>& layer, rw::index first,
         rw::rows_view<float> rows) {
    const rw::heads_view seen(layer.data(), first + rows.tokens, per_token, dim);
    const auto now = seen.token_slice(first, rows.tokens), q = now.head_slice(0, heads);
    rw::rotate(rope, q, now.head_slice(2 * heads, kv_heads), rows);
    rw::attend(q, seen.head_slice(2 * heads, kv_heads), seen.head_slice(per_token - kv_heads, kv_heads),
               now.head_slice(heads, heads), {.causal = true});
}

int main() {
    const auto config = rw::parse_config(config_text);
    const rw::rotary_scheme rope = rw::make_model_schemes(rw::from_huggingface(config))[0];
    const rw::spectrum omega = rope.spectrum_for(128000);

    // Text, an image of 12 x 16 patches, text, 4 frames of 8 x 8 patches (two seconds each), a question.
    std::vector<std::int64_t> ids;
    for (const auto& [count, id] : {std::pair(8, 9), {48, 151655}, {4, 9}, {64, 151656}, {11, 9}})
        ids.insert(ids.end(), std::size_t(count), id);
    const std::vector<rw::index> picture{1, 12, 16}, film{4, 8, 8};
    const std::vector<double> seconds{2};
    const auto stream = rw::make_streams(
        rw::from_multimodal(config),
        {.input_ids = ids, .image_grids = picture, .video_grids = film, .seconds_per_grid = seconds})[0];
    const rw::index tokens = stream.tokens, total = tokens + generated;

    std::mt19937 engine(1);
    std::vector<float> steps(static_cast<std::size_t>(total * per_token * dim));
    for (float& x : steps) x = std::normal_distribution<float>()(engine);
    auto whole = steps, counted = steps;

    // In chunks of 50 tokens, at any boundary; then token by token.
    const auto prompt = rw::make_rotation_table(omega, stream.positions);
    for (rw::index n = 0; n < tokens; n += 50)
        run(rope, steps, n, prompt.rows().token_slice(n, std::min<rw::index>(50, tokens - n)));
    const auto ahead = rw::make_rotation_table(omega, stream.decode_positions(generated));
    for (rw::index n = 0; n < generated; ++n) run(rope, steps, tokens + n, ahead.rows().token_slice(n, 1));

    // Everything at once; and as by a runtime that just counts tokens.
    auto positions = stream.positions;
    positions.append(stream.decode_positions(generated));
    run(rope, whole, 0, rw::make_rotation_table(omega, positions));
    run(rope, counted, 0, rw::make_rotation_table(omega, rw::position_ids::text(total, 0, 3)));
    float off = 0, apart = 0, moved = 0;  // differences: attention, attention, rotated heads
    for (std::size_t i = 0; i < whole.size(); ++i) {
        const bool output = i / dim % per_token / heads == 1;
        if (output) off = std::max(off, std::abs(whole[i] - counted[i]));
        (output ? apart : moved) = std::max(output ? apart : moved, std::abs(steps[i] - whole[i]));
    }
    std::printf("token %td, the first generated, stands at %g; chunks and steps %s, attention off by %.0e\n",
                tokens, stream.next_position, moved == 0 ? "rotate as one prefill" : "DIFFER", apart);
    std::printf("positions that count tokens would change outputs of attention by up to %.2f\n", off);
    return moved == 0 && apart < 1e-5F && stream.next_position == 44 ? 0 : 1;
}
