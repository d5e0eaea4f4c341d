// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Keys in caches: moved to other positions, blended, and quantised before or after their rotation.

#include <ropewalk/attention/sparse_index.hpp>
#include <ropewalk/compression/commuting_codebook.hpp>
#include <ropewalk/compression/key_codes.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kv/rebase.hpp>

#include "methods_support.hpp"

namespace golden {
namespace {

template <class T>
heads_view<const T> constant(heads_view<T> x) {
    return x;
}

void rebase(const golden_case& c, results& out) {
    const auto k = c.input("k_cached");
    const index rotary_dim = c.integer("rotary_dim", k.shape.back());
    const auto ladder = [&](const char* base, const char* magnitude) {
        return frequencies::geometric({.rotary_dim = rotary_dim, .base = c.number(base, 1e4)})
            .with_magnitude(c.number(magnitude, 1));
    };
    const auto from = ladder("rope_theta_from", "magnitude_from"),
               to = ladder("rope_theta_to", "magnitude_to");
    const auto old = position_ids::from(c.input("old_positions").values);
    const auto now = position_ids::from(c.input("new_positions").values);
    in_both([&]<class T>(T) {
        const auto run = [&](const char* name, auto&& turn) {
            auto x = c.input<T>("k_cached");
            turn(view_of(x).channel_slice(0, rotary_dim));
            check_in<T>(out, name, x.shape, x.values, max_abs(k.values));
        };
        const auto move = make_move_table<T>(from, to, old, now);
        const auto at_old = make_rotation_table<T>(from, old), at_new = make_rotation_table<T>(to, now);
        run("k_rebased", [&](heads_view<T> x) { rotate(c.layout(), x, move); });
        run("k_unturned", [&](heads_view<T> x) { unrotate(c.layout(), x, at_old); });
        run("wrong_two_table_passes", [&](heads_view<T> x) {
            rotate_gradient(c.layout(), x, at_old);
            rotate(c.layout(), x, at_new);
        });
    });
}

void rebase_int8(const golden_case& c, results& out) {
    const auto codes = c.input<std::int8_t>("codes");
    const auto scales = c.input("scales");
    const auto s =
        frequencies::geometric({.rotary_dim = codes.shape.back(), .base = c.number("rope_theta", 1e4)});
    tensor<double> x{codes.shape, std::vector<double>(codes.values.size())};
    dequantize_int8({codes.values, scales.values}, view_of(x));
    const auto move = make_move_table<double>(s, s, position_ids::from(c.input("old_positions").values),
                                              position_ids::from(c.input("new_positions").values));
    rotate(c.layout(), view_of(x), move);
    out.check("k_rebased", x);
    const auto again = quantize_int8(constant(view_of(x)));
    out.check("codes_rebased", codes.shape, again.codes);
    out.check("scales_rebased", scales.shape, again.scales);
}

void rebase_drift(const golden_case& c, results& out) {
    const auto k = c.input<float>("k");
    const index tokens = k.extent(0), channels = k.extent(1);
    const auto s = frequencies::geometric({.rotary_dim = channels, .base = c.number("rope_theta", 1e4)});
    const auto rows = make_rotation_table<float>(
        s, position_ids::from(std::vector<double>(static_cast<std::size_t>(tokens), c.number("step", 1))));
    std::vector<bf16> x;
    for (const float v : k.values) x.push_back(bf16(v));
    std::vector<double> after;
    index done = 0;
    const auto counts = c.integers("counts");
    for (const index count : counts) {
        for (; done < count; ++done)
            rotate(c.layout(), heads_view<bf16>(x.data(), tokens, 1, channels), rows);
        for (const bf16 v : x) after.push_back(static_cast<double>(static_cast<float>(v)));
    }
    out.check("k_after", {static_cast<index>(counts.size()), tokens, channels}, after);
}

void block_join(const golden_case& c, results& out) {
    const auto k = c.input("k_cached");
    const auto s =
        frequencies::geometric({.rotary_dim = k.shape.back(), .base = c.number("rope_theta", 1e4)});
    const auto lengths = c.input<index>("block_lengths").values;
    const auto local = block_positions(lengths);
    const auto global = position_ids::text(local.tokens());
    out.check("global_positions", global.values());
    in_both([&]<class T>(T) {
        auto unturned = c.input<T>("k_cached"), merged = unturned;
        const auto at_local = make_rotation_table<T>(s, local);
        const auto move = make_move_table<T>(s, s, local, global);
        unrotate(c.layout(), view_of(unturned), at_local);
        rotate(c.layout(), view_of(merged), move);
        check_in<T>(out, "k_unturned", k.shape, unturned.values, max_abs(k.values));
        check_in<T>(out, "k_merged", k.shape, merged.values, max_abs(k.values));
    });
}

void cache_blend(const golden_case& c, results& out) {
    auto computed = c.input("v_new"), cached = c.input("v_cached");
    const auto choice =
        choose_recomputed({.ratio = c.number("recomp_ratio", 0.16), .suffix = c.integer("suffix_len", 0)},
                          constant(view_of(computed)), constant(view_of(cached)));
    out.check("difference", choice.difference);
    out.check("recomputed", choice.recomputed);
}

double squared_error(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

void kv_quant(const golden_case& c, results& out) {
    auto k = c.input("k");
    const auto s = frequencies::geometric({.rotary_dim = k.shape.back(), .base = c.number("base", 1e4)});
    const auto rows = make_rotation_table<double>(s, position_ids::from(c.input("positions").values));
    const key_codes::channel_config config{.bits = c.integer("bits", 4),
                                           .exact_tokens = c.integer("first_few_fp16", 0)};
    const auto coded = [&](tensor<double> x) {
        const auto codes = key_codes::encode_channels(config, constant(view_of(x)));
        key_codes::decode_channels(config, codes, view_of(x));
        return x;
    };
    auto decoded = coded(k);
    out.check("k_decoded", decoded);
    out.check_scalar("squared_error_pre_rope", squared_error(decoded.values, k.values));
    rotate(c.layout(), view_of(decoded), rows);
    out.check("k_decoded_rot", decoded);
    rotate(c.layout(), view_of(k), rows);
    out.check_scalar("squared_error_post_rope", squared_error(coded(k).values, k.values));
}

void rotate_kv(const golden_case& c, results& out) {
    const auto k = c.input("k");
    const index tokens = k.extent(0), heads = k.extent(1), channels = k.extent(2);
    const index joined = c.integer("head_group_num", 1);
    require(joined >= 1 && heads % joined == 0, "head_group_num must divide the heads");
    auto spread = k.values;
    const heads_view<double> groups(spread.data(), tokens, heads / joined, joined * channels);
    sparse_index::hadamard(groups);
    const index width = heads * channels;
    const auto order = key_codes::channel_order(spread, width);
    out.check("k_hadamard", {tokens, width}, spread);
    out.check("order", order);
    const key_codes::group_config config{.bits = c.integer("bits", 4),
                                         .group = c.integer("quant_group", width),
                                         .clip_ratio = c.number("clip_ratio", 1)};
    const auto codes = key_codes::encode_groups(config, spread, order);
    const index per_head = width / heads;
    out.check("codes",
              c.has_output("codes") ? c.extents_of_output("codes") : shape_type{tokens, heads, per_head},
              codes.codes);
    auto decoded = key_codes::decode_groups(config, codes, order);
    sparse_index::hadamard(heads_view<double>(decoded.data(), tokens, heads / joined, joined * channels));
    out.check("k_decoded", k.shape, decoded);
    const auto s = frequencies::geometric({.rotary_dim = channels, .base = c.number("base", 1e4)});
    const auto rows = make_rotation_table<double>(s, position_ids::from(c.input("positions").values));
    rotate(c.layout(), heads_view<double>(decoded.data(), tokens, heads, channels), rows);
    out.check("k_decoded_rot", k.shape, decoded);
}

void polar_quant(const golden_case& c, results& out) {
    auto k = c.input("k_rot"), q = c.input("q_rot");
    const index tokens = k.extent(0), heads = k.extent(1), channels = k.extent(2), pairs = channels / 2;
    const key_codes::polar_config config{.group = c.integer("group_size", 128),
                                         .radius_bits = c.integer("rbits", 4),
                                         .angle_bits = c.integer("tbits", 4),
                                         .layout = c.layout()};
    const auto codes = key_codes::encode_polar(config, constant(view_of(k)));
    const index groups = tokens / config.group;
    out.check("codes", {groups * config.group, heads, pairs}, codes.codes);
    out.check("radius_min", {groups, heads, pairs}, codes.radius_low);
    out.check("radius_step", {groups, heads, pairs}, codes.radius_step);
    out.check("angle_min", {groups, heads, pairs}, codes.angle_low);
    out.check("angle_step", {groups, heads, pairs}, codes.angle_step);
    key_codes::decode_polar(config, codes, view_of(k));
    out.check("k_decoded", k);
    out.check("scores", {q.extent(0), tokens},
              scores_of(heads_view<double>(q.values.data(), 1, q.extent(0), channels), view_of(k)));
}

void comm_vq(const golden_case& c, results& out) {
    const auto theta = c.input("theta"), k = c.input("k"), q = c.input("q_rot");
    const commvq::codebook book{theta.extent(0), theta.extent(1), theta.extent(2), theta.values};
    const index tokens = k.extent(0), count = book.centres * book.centres;
    const auto positions = c.input("positions").values;
    const auto s = frequencies::geometric({.rotary_dim = 2 * book.pairs, .base = c.number("base", 1e4)});
    out.check("codebook_xy", {book.rounds, count, book.pairs, 2}, commvq::expand(book));
    const auto coded = commvq::encode(book, k.values);
    out.check("prescale", coded.scale);
    out.check("codes", {book.rounds, tokens}, coded.codes);
    auto decoded = commvq::decode(book, coded);
    out.check("k_decoded", k.shape, decoded);
    const auto rows = make_rotation_table<double>(s, position_ids::from(positions));
    rotate(c.layout(), heads_view<double>(decoded.data(), tokens, 1, 2 * book.pairs), rows);
    out.check("k_decoded_rot", k.shape, decoded);
    out.check("scores", commvq::make_scores(book, coded, q.values, s, positions));
    auto z = k.values;
    for (std::size_t i = 0; i < z.size(); ++i)
        z[i] /= coded.scale[i / static_cast<std::size_t>(2 * book.pairs)];
    out.check("m_step_theta", {2 * book.centres, book.pairs},
              commvq::fit_centres(book.centres, book.pairs, c.input("soft_assignments").values, z));
}

const registration registered[] = {
    {"Cache re-basing", rebase},
    {"Cache re-basing int8", rebase_int8},
    {"Cache re-basing drift bf16", rebase_drift},
    {"Block attention cache", block_join},
    {"CacheBlend token choice", cache_blend},
    {"KVQuant pre-RoPE keys", kv_quant},
    {"RotateKV keys", rotate_kv},
    {"PolarQuant keys", polar_quant},
    {"CommVQ keys", comm_vq},
};

}  // namespace
}  // namespace golden
