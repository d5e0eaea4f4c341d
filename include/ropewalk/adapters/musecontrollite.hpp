// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// MuseControlLite's adapter layers: decoupled cross-attention to a rotated condition, and guidance.
#pragma once

#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/masks.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/schemes/musecontrollite.hpp>

namespace ROPEWALK_NAMESPACE::musecontrollite {

/// The map of queries, keys and values that a layer was trained with: the paper's rotation, or that of the
/// released code (see rotate_as_released), which its checkpoints need.
enum class position_map : std::uint8_t { rotation, as_released };

struct control_config {
    index heads = 24;     ///< of the queries
    index kv_heads = 12;  ///< of keys and values; each serves heads / kv_heads consecutive query heads
    index head_dim = 64;
    index condition_channels = 768;  ///< channels of a frame of the condition
    double base = 1e4;
    position_map map = position_map::as_released;  ///< which map the layer was trained with
    pair_layout layout = half_split{};             ///< of position_map::rotation
};

/// The trained weights of one layer for one condition.
/// Shapes:   to_k, to_v [kv_heads * head_dim, condition_channels]; conv_out [heads * head_dim, heads *
///           head_dim], a convolution of one frame, zero where training starts.
/// Source:   fundwotsai2001/MuseControlLite MuseControlLite_setup.py: to_k_ip, to_v_ip, conv_out.
template <class T = float>
struct control_weights {
    /// A row-major matrix of T.
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    matrix to_k = {};      ///< condition to keys
    matrix to_v = {};      ///< condition to values
    matrix conv_out = {};  ///< attention output to the hidden state
};

/// A condition prepared for all denoising steps: projected and rotated keys and values, [batches, tokens, kv
/// heads, head_dim].
template <class T = float>
struct rotated_condition {
    index batches = 0;
    index tokens = 0;
    std::vector<T> keys = {};    ///< rotated
    std::vector<T> values = {};  ///< rotated
};

/// The decoupled cross-attention of one layer and one condition: hidden += scale * Z(attend(R q, R k, R v)),
/// in addition to the text attention of the frozen model. It uses that attention's queries, before any
/// rotation. A second condition is a second object on the same hidden states.
/// Throws:   invalid_config on heads that do not fit, or weights of other shapes.
/// Source:   MuseControlLite, Tsai et al. 2025; fundwotsai2001/MuseControlLite MuseControlLite_setup.py.
///
///     const musecontrollite::control_layer<float> control({}, weights);
///     const auto melody = control.make_condition(features);        // once a clip
///     control.add(queries, melody, hidden);                        // every step
template <class T = float>
class control_layer {
  public:
    control_layer(control_config config, control_weights<T> weights)
        : config_(config), weights_(std::move(weights)) {
        constexpr const char* who = "musecontrollite::control_layer";
        const auto& c = config_;
        detail::require(c.kv_heads >= 1 && c.heads >= c.kv_heads && c.heads % c.kv_heads == 0, who,
                        "kv_heads must divide heads", c.kv_heads);
        detail::require(c.condition_channels >= 1, who, "condition_channels must be >= 1",
                        c.condition_channels);
        detail::require(c.head_dim <= max_channels, who, "head_dim must be at most 1024", c.head_dim);
        rope_ = cross_attention({.head_dim = c.head_dim, .base = c.base, .layout = c.layout});
        detail::require_shape(who, "to_k must be [kv_heads * head_dim, condition_channels]",
                              c.kv_heads * c.head_dim, c.condition_channels, weights_.to_k);
        detail::require_shape(who, "to_v must be [kv_heads * head_dim, condition_channels]",
                              c.kv_heads * c.head_dim, c.condition_channels, weights_.to_v);
        detail::require_shape(who, "conv_out must be [heads * head_dim, heads * head_dim]",
                              c.heads * c.head_dim, c.heads * c.head_dim, weights_.conv_out);
    }

    /// The config it was made from.
    const control_config& config() const noexcept { return config_; }

    /// Keys and values of a condition, rotated at positions 0, 1, .... They stay the same while the clip is
    /// denoised.
    /// Shapes:   features [batches, tokens, 1, condition_channels].
    /// Throws:   invalid_config on other channels or heads.
    /// Cost:     two products and a rotation.
    rotated_condition<T> make_condition(heads_view<const T> features) const {
        constexpr const char* who = "musecontrollite::control_layer::make_condition";
        detail::require_readable(who, "features", features);
        detail::require_equal(who, "features must have condition_channels channels",
                              config_.condition_channels, features.channels());
        detail::require(features.heads() == 1, who, "features must have one head", features.heads());
        rotated_condition<T> made{.batches = features.batches(), .tokens = features.tokens()};
        const index width = config_.kv_heads * config_.head_dim, rows = made.batches * made.tokens;
        made.keys.resize(static_cast<std::size_t>(rows * width));
        made.values.resize(made.keys.size());
        matrix in(rows, features.channels());
        for (index r = 0; r < rows; ++r)
            in.row(r) = Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>(
                features.at(r / made.tokens, r % made.tokens, 0), features.channels());
        Eigen::Map<matrix>(made.keys.data(), rows, width).noalias() = in * weights_.to_k.transpose();
        Eigen::Map<matrix>(made.values.data(), rows, width).noalias() = in * weights_.to_v.transpose();
        const auto table = make_rotation_table<T>(rope_.spectrum_for(1), key_positions(made.tokens));
        for (auto* part : {&made.keys, &made.values})
            for (index b = 0; b < made.batches; ++b)
                rotate_by(heads_view<T>(part->data() + b * made.tokens * width, made.tokens, config_.kv_heads,
                                        config_.head_dim),
                          table);
        return made;
    }

    /// hidden += scale * conv_out(attention of the rotated queries to the condition). The positions of
    /// queries are scaled to cover the condition: query i is at i * (condition tokens / queries).
    /// Shapes:   queries [batches, tokens, heads, head_dim]; hidden [batches, tokens, 1, heads * head_dim].
    /// Throws:   invalid_config on other extents. Allocates for one batch of queries.
    /// Cost:     a rotation of the queries, attention, and the product of conv_out.
    void add(heads_view<const T> queries, const rotated_condition<T>& condition, heads_view<T> hidden,
             T scale = T(1)) const {
        constexpr const char* who = "musecontrollite::control_layer::add";
        detail::require_readable(who, "queries", queries);
        detail::require_writable(who, "hidden", hidden);
        const index width = config_.heads * config_.head_dim, tokens = queries.tokens();
        const index kv_width = config_.kv_heads * config_.head_dim;
        detail::require(queries.heads() == config_.heads && queries.channels() == config_.head_dim, who,
                        "queries must have the layer's heads and head_dim, their heads being",
                        queries.heads());
        detail::require(hidden.heads() == 1 && hidden.channels() == width, who,
                        "hidden must have one head of heads * head_dim channels", hidden.channels());
        detail::require(hidden.tokens() == tokens && hidden.batches() == queries.batches(), who,
                        "hidden must have the queries' tokens and batches", hidden.tokens());
        const auto numbers = static_cast<std::size_t>(condition.batches * condition.tokens * kv_width);
        detail::require_equal(who, "condition must have the queries' batches", queries.batches(),
                              condition.batches);
        detail::require(condition.keys.size() == numbers && condition.values.size() == numbers, who,
                        "condition must be one of this layer", condition.keys.size());
        if (tokens == 0 || condition.tokens == 0) return;
        const auto table =
            make_rotation_table<T>(rope_.spectrum_for(1), query_positions(tokens, condition.tokens));
        matrix q(tokens, width), seen(tokens, width);
        const heads_view<T> q_heads(q.data(), tokens, config_.heads, config_.head_dim),
            out(seen.data(), tokens, config_.heads, config_.head_dim);
        for (index b = 0; b < queries.batches(); ++b) {
            for (index n = 0; n < tokens; ++n)
                for (index h = 0; h < config_.heads; ++h)
                    std::copy_n(queries.at(b, n, h), config_.head_dim, q_heads.at(0, n, h));
            rotate_by(q_heads, table);
            const auto of_batch = [&](const std::vector<T>& x) {
                return heads_view<const T>(x.data() + b * condition.tokens * kv_width, condition.tokens,
                                           config_.kv_heads, config_.head_dim);
            };
            const auto k = of_batch(condition.keys), v = of_batch(condition.values);
            std::vector<std::byte> workspace(
                static_cast<std::size_t>(attention::attend_workspace(q_heads, k, v)));
            attention::attend(attention::full_mask{}, q_heads, k, v, out, workspace);
            q.noalias() = seen * weights_.conv_out.transpose();
            for (index n = 0; n < tokens; ++n)
                for (index c = 0; c < width; ++c) hidden.at(b, n, 0)[c] += scale * q(n, c);
        }
    }

  private:
    using matrix = typename control_weights<T>::matrix;

    void rotate_by(heads_view<T> x, const rotation_table<T>& table) const {
        if (config_.map == position_map::rotation)
            rotate(rope_, x, table);
        else
            rotate_as_released(x, table);
    }

    control_config config_;
    control_weights<T> weights_;
    rotary_scheme rope_;
};

/// Guidance scales: how far a prediction is extrapolated from one with fewer inputs to one with more.
struct guidance {
    double text = 7;         ///< from the unconditional to the text prediction
    double condition = 1.5;  ///< from the text to the text-and-condition prediction
    double second = 1;       ///< from that to the prediction with a second condition
};

/// The guided prediction: u + text (t - u) + condition (c - t), where u is unconditional, t is predicted from
/// the text, and c from text and condition. With a second condition, `both` is predicted from all three, and
/// second (both - c) is added.
/// Shapes:   all of one size; `both` empty for one condition.
/// Throws:   invalid_config when sizes differ.
/// Accuracy: arithmetic in T.
/// Source:   fundwotsai2001/MuseControlLite MuseControlLite_setup.py.
template <class T>
void fill_guided(std::span<const T> nothing, std::span<const T> text, std::span<const T> condition,
                 std::span<const T> both, std::span<T> to, const guidance& by = {}) {
    constexpr const char* who = "musecontrollite::fill_guided";
    detail::require_equal(who, "text must be of the size of nothing", nothing.size(), text.size());
    detail::require_equal(who, "condition must be of the size of nothing", nothing.size(), condition.size());
    detail::require(both.empty() || both.size() == nothing.size(), who,
                    "both must be empty or of the size of nothing", both.size());
    detail::require_equal(who, "to must be of the size of nothing", nothing.size(), to.size());
    const T by_text = static_cast<T>(by.text), by_condition = static_cast<T>(by.condition),
            by_second = static_cast<T>(by.second);
    for (std::size_t i = 0; i < to.size(); ++i) {
        T value = nothing[i] + by_text * (text[i] - nothing[i]) + by_condition * (condition[i] - text[i]);
        if (!both.empty()) value += by_second * (both[i] - condition[i]);
        to[i] = value;
    }
}

}  // namespace ROPEWALK_NAMESPACE::musecontrollite
