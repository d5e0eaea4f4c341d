// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Multimodal orders: rules of positions, maps of pairs and heads, and the two diffusion models among them.

#include <ropewalk/frequencies/grape.hpp>
#include <ropewalk/schemes/grape_planes.hpp>
#include <ropewalk/schemes/multimodal_orders.hpp>
#include <ropewalk/schemes/video_diffusion.hpp>

#include "video_support.hpp"

namespace golden {
namespace {

std::vector<positions::media_segment> segments_of(const golden_case& c) {
    const auto rows = c.input<index>("segments_kind_t_h_w");
    std::vector<positions::media_segment> segments;
    for (index r = 0; r < rows.extent(0); ++r) {
        const index* const row = rows.values.data() + 4 * r;
        require(row[0] == 0 || row[0] == 1, "kind of segment must be 0 or 1");
        if (row[0] == 0) {
            segments.push_back({.tokens = row[1]});
        } else {
            segments.push_back({.kind = row[1] == 1 ? positions::media::image : positions::media::video,
                                .frames = row[1],
                                .height = row[2],
                                .width = row[3]});
        }
    }
    return segments;
}

void check_stream(results& out, const positions::position_stream& stream) {
    out.check("positions", {stream.positions.tokens(), stream.positions.axes()}, stream.positions.values());
    out.check_scalar("next_position", stream.next_position);
}

rotary_scheme text_of(const golden_case& c, pair_layout usual = half_split{}) {
    const auto x = rotated_input(c);
    const index channels = c.integer("head_dim", x ? c.extents_of(*x).back() : 0);
    const auto plain = frequencies::geometric({.rotary_dim = channels, .base = c.number("rope_theta", 1e4)});
    return make_fixed_scheme({.head_dim = channels, .layout = c.has("pair_layout") ? c.layout() : usual},
                             frequencies::flatten(plain, c.number("log_freq_scale", 1)));
}

multimodal::order_config order_of(const golden_case& c, const char* usual) {
    using multimodal::pair_order;
    static const std::map<std::string, pair_order> orders = {{"chunked", pair_order::sections},
                                                             {"interleaved", pair_order::interleaved},
                                                             {"cyclic", pair_order::cyclic},
                                                             {"mmrope", pair_order::mm_rope},
                                                             {"ernie", pair_order::ernie}};
    const std::string word = c.word("frequency_map", usual);
    require(orders.count(word) == 1, "unknown frequency_map " + word);
    multimodal::order_config order{.order = orders.at(word)};
    if (c.has("mrope_section")) order.sections = c.integers("mrope_section");
    return order;
}

template <class Rule>
void stream_with(const golden_case& c, results& out, const char* usual_map, const Rule& rule,
                 pair_layout usual_layout = half_split{}) {
    const auto scheme = multimodal::over(text_of(c, usual_layout), order_of(c, usual_map), rule);
    const auto stream = positions::make_stream(scheme.rule, segments_of(c));
    check_stream(out, stream);
    check_tables(out, scheme.rope.spectrum_for(1), stream.positions, {stream.positions.tokens()});
    rotate_given(c, out, scheme.rope, stream.positions, c.order());
}

positions::mrope_rule plain_rule(const golden_case& c) {
    return {.clock = {.tokens_per_second = c.number("temporal_stride", 1),
                      .quantization = positions::time_quantization::none}};
}

void spatial_reset(const golden_case& c, results& out) {
    stream_with(c, out, "interleaved",
                positions::spatial_reset_rule{.temporal_step = c.number("temporal_stride", 1)});
}
void omni(const golden_case& c, results& out) {
    stream_with(c, out, "chunked",
                positions::spatial_reset_rule{.temporal_step = c.number("temporal_stride", 1)});
}
void mm_rope(const golden_case& c, results& out) {
    positions::mm_rope_rule rule{.temporal_step = c.number("temporal_stride", 1)};
    if (c.has("position_scale")) {
        const auto scale = c.numbers("position_scale");
        require(scale.size() == 3, "config.position_scale must be three numbers");
        std::copy(scale.begin(), scale.end(), rule.scale.begin());
    }
    stream_with(c, out, "mmrope", rule);
}
void v2pe(const golden_case& c, results& out) {
    stream_with(c, out, "cyclic",
                positions::v2pe_rule{.span = c.number("visual_stride", 16), .axis_count = 3});
}
void grape_canonical(const golden_case& c, results& out) { stream_with(c, out, "cyclic", plain_rule(c)); }
void ernie(const golden_case& c, results& out) {
    stream_with(c, out, "ernie", positions::ernie_rule{}, interleaved{});
}
void circle(const golden_case& c, results& out) {
    positions::circle_rule rule{.alpha = c.number("alpha", 0.5)};
    const json radius = c.has("radius") ? c.config().at("radius") : json(10);
    if (radius.is_string()) {
        const auto word = radius.get<std::string>();
        require(word == "auto" || word.rfind("auto-", 0) == 0, "unknown radius " + word);
        rule.radius_times = word == "auto" ? 1.0 : std::stod(word.substr(5));
    } else {
        rule.radius = c.number("radius", 10);
    }
    rule.centred = c.flag("move_to_origin", true);
    rule.flat_share = c.number("dff_rate", 0);
    if (c.has("move_to_positive")) {
        const json& up = c.config().at("move_to_positive");
        if (!up.is_boolean()) rule.above = up.get<double>();
        if (up.is_boolean() && up.get<bool>()) rule.above = 0.0;
    }
    stream_with(c, out, "chunked", rule);
}

void mh_rope(const golden_case& c, results& out) {
    const auto segments = segments_of(c);
    const auto stream =
        c.flag("spatial_reset", true)
            ? positions::make_stream(
                  positions::spatial_reset_rule{.temporal_step = c.number("temporal_stride", 1)}, segments)
            : positions::make_stream(plain_rule(c), segments);
    check_stream(out, stream);
    const auto sections = c.integers("head_section");
    const index kv_heads = c.integer("num_key_value_heads", c.shape_of("k").heads);
    const auto axis_of = frequencies::axes_of_heads(sections, kv_heads);
    out.check("head_axis", axis_of);
    const auto plain = text_of(c).spectrum_for(1);
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto of_q = frequencies::assign_axes_to_heads(plain, axis_of, {.group = q.heads() / kv_heads});
        const auto of_k = frequencies::assign_axes_to_heads(plain, axis_of, {.group = k.heads() / kv_heads});
        const auto rows_q = make_rotation_table<T>(of_q, stream.positions);
        const auto rows_k = make_rotation_table<T>(of_k, stream.positions);
        rotate(c.layout(), q, rows_q);
        rotate(c.layout(), k, rows_k);
    });
}

void grape_mixed(const golden_case& c, results& out) {
    const auto a = c.input("plane_a"), b = c.input("plane_b"), directions = c.input("axis_weight");
    const auto where = c.input("positions");
    const index planes = c.integer("num_planes", a.extent(0));
    const grape::learned_planes map(
        {.channels = a.extent(1), .planes = planes, .base = c.number("rope_theta", 1e4)}, a.values, b.values,
        directions.values);
    const auto at = position_ids::from_tokens_axes(where.values, where.extent(1));
    out.check("angles", {at.tokens(), planes}, map.angles(at));
    const double scale = max_abs(c.input("x").values);
    const auto run = [&]<class T>(T, auto check) {
        auto x = c.input<T>("x");
        map.rotate_tokens(view_of(x), at);
        check(x);
    };
    run(double{}, [&](const auto& x) { out.check("y", x); });
    run(float{}, [&](const auto& x) { out.check_f32("y", x.shape, x.values, scale); });
}

void xd_rope(const golden_case& c, results& out) {
    using positions::xd_axis;
    static const std::map<std::string, xd_axis> axes = {
        {"p", xd_axis::token}, {"w", xd_axis::column}, {"h", xd_axis::row}, {"t", xd_axis::image}};
    multimodal::xd_rope_config config{.head_dim = c.integer("head_dim"),
                                      .base = c.number("rope_theta", 1e4),
                                      .alpha = c.number("alpha", 1000),
                                      .sections = c.integers("xdrope_section"),
                                      .layout = c.layout()};
    if (c.has("axes")) {
        config.rule.order.clear();
        for (const json& name : c.config().at("axes"))
            config.rule.order.push_back(axes.at(name.get<std::string>()));
    } else if (config.sections.size() == 3) {
        config.rule.order = {xd_axis::column, xd_axis::row, xd_axis::image};
    }
    const auto scheme = multimodal::make_xd_rope(config);
    const auto stream = positions::make_stream(scheme.rule, segments_of(c));
    check_stream(out, stream);
    check_tables(out, scheme.rope.spectrum_for(1), stream.positions, {stream.positions.tokens()});
    rotate_given(c, out, scheme.rope, stream.positions, c.order());
}

std::array<double, 3> three(const golden_case& c, const char* key, std::array<double, 3> usual) {
    if (!c.has(key)) return usual;
    const auto numbers = c.numbers(key);
    require(numbers.size() == 3, std::string("config.") + key + " must be three numbers");
    return {numbers[0], numbers[1], numbers[2]};
}

void ltx(const golden_case& c, results& out) {
    const auto grid = c.integers("grid_t_h_w");
    require(grid.size() == 3, "config.grid_t_h_w must be three numbers");
    const ltx2::clip_config usual;
    const auto middles =
        ltx2::middle_positions({.frames = grid[0],
                                .height = grid[1],
                                .width = grid[2],
                                .fps = c.number("fps", usual.fps),
                                .pixels_per_latent = three(c, "scale_factors", usual.pixels_per_latent),
                                .causal_fix = c.flag("causal_fix", true)});
    const auto where = ltx2::fractions(middles, three(c, "max_pos", {20, 2048, 2048}));
    const auto rope = ltx2::make_scheme({.heads = c.integer("num_heads"),
                                         .head_dim = c.integer("head_dim"),
                                         .base = c.number("theta", 1e4),
                                         .layout = c.layout()});
    out.check("middle_positions", {middles.tokens(), 3}, middles.values());
    const auto s = rope.spectrum_for(1);
    const auto by_token = make_angles(s, where);
    std::vector<double> by_head;
    for (index h = 0; h < s.heads(); ++h)
        for (index n = 0; n < where.tokens(); ++n)
            for (index i = 0; i < s.pairs(); ++i)
                by_head.push_back(by_token[static_cast<std::size_t>((n * s.heads() + h) * s.pairs() + i)]);
    out.check("angles", {s.heads(), where.tokens(), s.pairs()}, by_head);
    rotate_both(c, out, {"q"}, [&]<class T>(heads_view<T> q) {
        position_ids batch(where.axes());
        for (index b = 0; b < q.batches(); ++b) batch.append(where);
        const auto rows = make_rotation_table<T>(s, batch);
        rotate(rope, q, rows);
    });
}

void cosmos_rope(const golden_case& c, results& out) {
    const auto grid = c.integers("grid_t_h_w");
    require(grid.size() == 3, "config.grid_t_h_w must be three numbers");
    cosmos::clip_config clip{
        .frames = grid[0], .height = grid[1], .width = grid[2], .base_fps = c.number("base_fps", 24)};
    if (c.has("fps")) clip.fps = c.number("fps");
    const auto where = cosmos::grid(clip);
    const auto rope =
        cosmos::make_scheme({.head_dim = c.integer("head_dim"), .scale = three(c, "rope_scale", {2, 1, 1})});
    check_tables(out, rope.spectrum_for(1), where, {where.tokens()});
    rotate_given(c, out, rope, where, c.order());
}

const registration registered[] = {
    {"MRoPE-I spatial reset", spatial_reset},
    {"OmniRoPE / IL-RoPE", omni},
    {"MM-RoPE", mm_rope},
    {"V2PE", v2pe},
    {"GRAPE-3D canonical", grape_canonical},
    {"GRAPE-3D mixed planes", grape_mixed},
    {"Ernie-4.5-VL 3D RoPE", ernie},
    {"Circle-RoPE", circle},
    {"MHRoPE", mh_rope},
    {"XD-RoPE (HunyuanVL)", xd_rope},
    {"LTX-2 RoPE", ltx},
    {"Cosmos 3D RoPE", cosmos_rope},
};

}  // namespace
}  // namespace golden
