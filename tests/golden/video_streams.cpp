// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Multimodal position streams: the M-RoPE family, its baselines, VideoRoPE, HoPE, VRoPE and TMRoPE.

#include <numeric>

#include <ropewalk/frequencies/p_rope.hpp>
#include <ropewalk/positions/media_tokens.hpp>
#include <ropewalk/schemes/hope.hpp>
#include <ropewalk/schemes/mrope.hpp>
#include <ropewalk/schemes/video_rope.hpp>
#include <ropewalk/schemes/vrope.hpp>

#include "video_support.hpp"

namespace golden {
namespace {

using positions::position_stream;

/// An input, or nothing where the file has none.
template <class T>
tensor<T> optional_input(const golden_case& c, const char* name) {
    return c.has_input(name) ? c.input<T>(name) : tensor<T>{};
}

/// The streams of the file's token ids under a rule. Pads stand at 1, as the references leave them.
template <class Rule>
std::vector<position_stream> streams_of(const golden_case& c, const Rule& rule, double pads = 1,
                                        positions::video_blocks blocks = positions::video_blocks::whole) {
    const positions::media_tokens usual;
    const auto ids = c.input<std::int64_t>("input_ids");
    const auto mask = optional_input<std::int64_t>(c, "attention_mask");
    const auto images = optional_input<index>(c, "image_grid_thw");
    const auto videos = optional_input<index>(c, "video_grid_thw");
    const auto seconds = optional_input<double>(c, "second_per_grid_ts");
    const auto found =
        positions::find_media({.batches = ids.extent(0),
                               .input_ids = ids.values,
                               .attention_mask = mask.values,
                               .image_grids = images.values,
                               .video_grids = videos.values,
                               .seconds_per_grid = seconds.values},
                              {.image = c.integer("image_token_id", usual.image),
                               .video = c.integer("video_token_id", usual.video),
                               .spatial_merge = c.integer("spatial_merge_size", usual.spatial_merge),
                               .blocks = blocks});
    return positions::make_streams(rule, found, pads);
}

void check_deltas(results& out, const std::vector<position_stream>& streams, const std::string& name,
                  positions::delta_length length = positions::delta_length::padded) {
    std::vector<double> delta;
    for (const auto& s : streams) delta.push_back(s.delta(length));
    out.check(name, {static_cast<index>(streams.size()), 1}, delta);
}

void check_positions(results& out, const std::vector<position_stream>& streams,
                     const std::string& ids = "position_ids", const std::string& deltas = "rope_deltas") {
    const auto batch = static_cast<index>(streams.size());
    const position_ids all = positions::join_batch(streams);
    out.check(ids, {all.axes(), batch, all.tokens() / batch}, axis_first(all));
    check_deltas(out, streams, deltas);
}

/// The sections of a file; none where it has none, for the library's own.
std::vector<index> sections_of(const golden_case& c) {
    return c.has("mrope_section") ? c.integers("mrope_section") : std::vector<index>{};
}

/// The text model of a file over the system's usual one. Where no size is said, q and k have it, else the
/// sections do.
rotary_scheme text_model(const golden_case& c, mrope::text_config text = {}) {
    const auto sections = sections_of(c);
    const index named = 2 * std::accumulate(sections.begin(), sections.end(), index{0});
    if (const auto x = rotated_input(c)) {
        text.head_dim = c.extents_of(*x).back();
    } else if (named != 0) {
        text.head_dim = named;
    }
    text.head_dim = c.integer("head_dim", text.head_dim);
    text.rotary_dim = c.has("partial_rotary_factor")
                          ? frequencies::partial_rotary_dim(text.head_dim, c.number("partial_rotary_factor"))
                          : named;
    text.rotary_dim = c.integer("rotary_dim", text.rotary_dim);
    text.base = c.number("rope_theta", text.base);
    text.layout = c.layout("pair_layout");
    return mrope::text_model(text);
}

/// Positions under the scheme's rule, and whatever of its rotation the file names.
template <class Scheme>
void check_scheme(const golden_case& c, results& out, const std::vector<position_stream>& streams,
                  Scheme make_scheme) {
    check_positions(out, streams);
    if (!names_rotation(c)) return;
    const rotary_scheme rope = make_scheme().rope;
    const auto batch = static_cast<index>(streams.size());
    const position_ids where = positions::join_batch(streams);
    check_tables(out, rope.spectrum_for(1), where, {batch, where.tokens() / batch});
    rotate_given(c, out, rope, where, c.order());
}

positions::block_transition transition_of(const golden_case& c, const char* otherwise) {
    const std::string word = c.word("transition", otherwise);
    if (word == "max_plus_one") return positions::block_transition::max_plus_one;
    require(word == "spatial_max", "unknown transition " + word);
    return positions::block_transition::spatial_max;
}

positions::time_quantization quantization_of(const golden_case& c) {
    const std::string word = c.word("quantize", "trunc_after_product");
    if (word == "trunc_after_product") return positions::time_quantization::trunc_after_product;
    if (word == "trunc_interval_first") return positions::time_quantization::trunc_interval_first;
    require(word == "none" || word == "float", "unknown quantize " + word);
    return positions::time_quantization::none;
}

positions::time_arithmetic arithmetic_of(const golden_case& c, const char* otherwise) {
    const std::string word = c.word("time_arithmetic", otherwise);
    if (word == "float32") return positions::time_arithmetic::float32;
    require(word == "float64" || word == "double", "unknown time_arithmetic " + word);
    return positions::time_arithmetic::float64;
}

void mrope_with(const golden_case& c, results& out, const positions::mrope_rule& rule,
                mrope::section_map map = mrope::section_map::contiguous,
                positions::video_blocks blocks = positions::video_blocks::whole,
                const mrope::text_config& text = {}) {
    check_scheme(c, out, streams_of(c, rule, 1, blocks), [&] {
        return mrope::over(text_model(c, text), {.sections = sections_of(c), .map = map, .rule = rule});
    });
}

void qwen2_vl(const golden_case& c, results& out) {
    mrope_with(c, out, {.transition = transition_of(c, "max_plus_one")});
}

void qwen25_vl_as(const golden_case& c, results& out, const char* transition, const char* arithmetic) {
    mrope_with(
        c, out,
        {.clock = {.tokens_per_second = c.number("tokens_per_second", positions::qwen25_vl_tokens_per_second),
                   .quantization = quantization_of(c),
                   .arithmetic = arithmetic_of(c, arithmetic)},
         .transition = transition_of(c, transition)});
}
void qwen25_vl(const golden_case& c, results& out) { qwen25_vl_as(c, out, "max_plus_one", "float64"); }
void qwen25_vl_float32(const golden_case& c, results& out) {
    qwen25_vl_as(c, out, "max_plus_one", "float32");
}
void transformers_53(const golden_case& c, results& out) { qwen25_vl_as(c, out, "spatial_max", "float64"); }

void qwen3_vl(const golden_case& c, results& out) {
    mrope_with(
        c, out, {.transition = transition_of(c, "max_plus_one")},
        c.flag("mrope_interleaved", true) ? mrope::section_map::interleaved : mrope::section_map::contiguous,
        positions::video_blocks::frame_by_frame, mrope::qwen3_vl_text);
}

void baselines(const golden_case& c, results& out) {
    const auto of = [&](positions::baseline kind, double pads) {
        return streams_of(c, positions::baseline_rule{.kind = kind, .axis_count = 3}, pads);
    };
    check_positions(out, of(positions::baseline::vanilla, 1), "vanilla_position_ids", "vanilla_deltas");
    check_positions(out, of(positions::baseline::time, 1), "time_position_ids", "time_deltas");
    // The sum of two streams whose pads stand at 1; the delta that is published with it is that of time.
    check_positions(out, of(positions::baseline::tad, 2), "tad_position_ids", "");
    check_deltas(out, of(positions::baseline::time, 1), "tad_deltas");
}

positions::video_rope_rule video_rule(const golden_case& c, positions::video_rope_rule rule) {
    rule.spacing = c.number("scale_factor", rule.spacing);
    if (c.has("centre_offset")) {
        const std::string word = c.word("centre_offset");
        require(word == "(n-1)//2" || word == "n/2", "unknown centre_offset " + word);
        rule.centre = word == "n/2" ? positions::frame_centre::point : positions::frame_centre::patch;
    }
    if (c.has("transition")) {
        const std::string word = c.word("transition");
        require(word == "last_temporal_plus_one" || word == "start_plus_scale_times_frames",
                "unknown transition " + word);
        rule.transition = word == "last_temporal_plus_one" ? positions::frame_transition::last_frame
                                                           : positions::frame_transition::all_frames;
    }
    return rule;
}

void video_rope_with(const golden_case& c, results& out, const positions::video_rope_rule& rule) {
    check_scheme(c, out, streams_of(c, rule), [&] {
        ropewalk::video_rope::over_config config{.rule = rule};
        if (c.has("mrope_section")) config.sections = sections_of(c);
        return ropewalk::video_rope::over(text_model(c), config);
    });
}
void video_rope(const golden_case& c, results& out) { video_rope_with(c, out, video_rule(c, {})); }
void video_rope_printed(const golden_case& c, results& out) {
    video_rope_with(c, out, video_rule(c, positions::video_rope_rule::as_printed()));
}
void hope(const golden_case& c, results& out) {
    // The scale has no default; images, whose vectors may leave it out, do not read it.
    const auto rule = video_rule(c, positions::hope_video_rule(c.number("scale_factor", 1)));
    check_scheme(c, out, streams_of(c, rule), [&] {
        hope_video::over_config config{.scale = rule.spacing};
        if (c.has("mrope_section")) config.sections = sections_of(c);
        return hope_video::over(text_model(c), config);
    });
}

/// Rows of a file's segment list as segments: kind (0 text, 1 image, 2 video, 3 audio, 4 video with audio).
positions::media media_of(index kind) {
    constexpr positions::media kinds[] = {positions::media::text, positions::media::image,
                                          positions::media::video, positions::media::audio,
                                          positions::media::video_with_audio};
    require(kind >= 0 && kind <= 4, "unknown kind of segment " + std::to_string(kind));
    return kinds[kind];
}

void vrope(const golden_case& c, results& out) {
    const auto rows = c.input<index>("segments_kind_t_h_w");
    std::vector<positions::media_segment> segments;
    for (index r = 0; r < rows.extent(0); ++r) {
        const index* const row = rows.values.data() + 4 * r;
        if (row[0] == 0) {
            segments.push_back({.tokens = row[3]});
        } else {
            segments.push_back(
                {.kind = media_of(row[0]), .frames = row[1], .height = row[2], .width = row[3]});
        }
    }
    const auto stream =
        positions::make_stream(positions::vrope_rule{}, std::span<const positions::media_segment>(segments));
    const index tokens = stream.positions.tokens();
    out.check("stream_positions", {tokens, stream.positions.axes()}, stream.positions.values());
    out.check_scalar("next_index", stream.next_position);
    if (!names_rotation(c)) return;
    const auto rope = ropewalk::vrope::over(text_model(c, ropewalk::vrope::vicuna_text)).rope;
    check_tables(out, rope.spectrum_for(1), stream.positions, {tokens});
    rotate_given(c, out, rope, stream.positions, c.order());
}

void tmrope(const golden_case& c, results& out) {
    const auto rows = c.input<double>("segments");
    const index columns = rows.extent(1);
    const index merge = c.integer("spatial_merge_size", positions::media_tokens{}.spatial_merge);
    std::vector<positions::media_segment> segments;
    for (index r = 0; r < rows.extent(0); ++r) {
        const double* const row = rows.values.data() + columns * r;
        const auto whole = [&](index i) { return static_cast<index>(row[i]); };
        positions::media_segment s{.kind = media_of(whole(0))};
        if (s.visual()) {
            require(whole(2) % merge == 0 && whole(3) % merge == 0, "grids must divide by the merge");
            s.frames = whole(1);
            s.height = whole(2) / merge;
            s.width = whole(3) / merge;
            if (s.kind != positions::media::image && columns > 4) s.seconds_per_frame = row[4];
            if (s.kind == positions::media::video_with_audio) {
                require(columns > 5, "segments of video with audio must have six columns");
                s.tokens = whole(5);
            }
        } else {
            s.tokens = whole(1);
        }
        segments.push_back(s);
    }
    positions::tmrope_rule rule;
    rule.clock.tokens_per_second = c.number("position_id_per_seconds", rule.clock.tokens_per_second);
    if (c.has("time_arithmetic")) rule.clock.arithmetic = arithmetic_of(c, "float32");
    rule.seconds_per_chunk = c.number("seconds_per_chunk", rule.seconds_per_chunk);
    const auto stream = positions::make_stream(rule, std::span<const positions::media_segment>(segments));
    out.check("position_ids", {3, stream.positions.tokens()}, axis_first(stream.positions));
    check_deltas(out, {stream}, "rope_deltas", positions::delta_length::unpadded);
    if (!names_rotation(c)) return;
    const auto rope =
        mrope::time_aligned_over(text_model(c), {.sections = sections_of(c), .rule = rule}).rope;
    check_tables(out, rope.spectrum_for(1), stream.positions, {stream.positions.tokens()});
    rotate_given(c, out, rope, stream.positions, c.order());
}

const registration registered[] = {
    {"M-RoPE (Qwen2-VL)", qwen2_vl},
    {"M-RoPE (Qwen2.5-VL)", qwen25_vl},
    {"M-RoPE (Qwen2.5-VL), float32 time arithmetic", qwen25_vl_float32},
    {"M-RoPE (Qwen2/2.5-VL), transition rule of transformers >= 5.3", transformers_53},
    {"Interleaved M-RoPE (Qwen3-VL)", qwen3_vl},
    {"Vanilla RoPE / time RoPE / TAD-RoPE index baselines", baselines},
    {"VideoRoPE", video_rope},
    {"VideoRoPE (index formula as printed in the paper)", video_rope_printed},
    {"HoPE (hybrid, video)", hope},
    {"VRoPE", vrope},
    {"TMRoPE (Qwen2.5-Omni)", tmrope},
};

}  // namespace
}  // namespace golden
