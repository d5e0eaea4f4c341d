// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// DRoPE: directional RoPE for agents, which encodes headings (angles) beside 2-D positions.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/positions/heading.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// DRoPE, directional RoPE for agents. All pairs of a heading block rotate by the heading angle itself, so
/// scores depend on the difference of two headings modulo a full turn.
/// Source:   DRoPE, Zhao et al. 2025 (no official code; how position and heading are combined is a
///           parameter).
namespace ROPEWALK_NAMESPACE::drope {

/// What rotates a head: the position, the heading, both (each its own block of channels, position first), or
/// nothing.
enum class head_mode : std::uint8_t { position, heading, blocks, none };

/// Modes of `heads` heads: even heads rotate by the position, odd heads by the heading.
/// Throws:   invalid_config on heads < 0.
/// Source:   an unofficial implementation; the paper fixes no choice.
inline std::vector<head_mode> alternating_heads(index heads) {
    detail::require(heads >= 0, "alternating_heads", "heads must be >= 0", heads);
    std::vector<head_mode> modes;
    for (index h = 0; h < heads; ++h) modes.push_back(h % 2 == 0 ? head_mode::position : head_mode::heading);
    return modes;
}

/// Frequencies that multiply a heading by whole numbers (harmonics), so that the period stays a full turn.
/// For agents_config::harmonics, or for make_rotation_table alone. All ones is DRoPE itself and needs no
/// table.
/// Throws: invalid_config on a harmonic of 0.
/// Source: a rotation by w phi has the period 2 pi only for whole w.
inline spectrum harmonics(std::span<const int> of_pair) {
    std::vector<double> omega;
    for (const int w : of_pair) {
        detail::require(w != 0, "drope::harmonics", "harmonics must not be 0", w);
        omega.push_back(w);
    }
    return spectrum::from_omega(omega);
}

struct agents_config {
    index head_dim = 0;
    std::vector<head_mode> modes = {};  ///< one per head
    /// Channels of the position's block in `blocks` heads; the heading's block is the remaining channels. Not
    /// given: half of the head.
    std::optional<index> position_channels = {};
    /// The factor on the heading in each pair; empty: 1, which is DRoPE itself. One per pair of the widest
    /// block that a heading rotates (head_dim / 2 in `heading` heads); a narrower block uses the first ones.
    std::vector<int> harmonics = {};
    double base = 1e4;                  ///< of the position's frequencies
    double unit = 1;                    ///< position units that count as 1: positions are divided by it
    pair_layout layout = half_split{};  ///< inside each block
};

/// Runs of heads of one mode with a constant step, so that a kernel call covers many heads.
struct head_run {
    head_mode mode = head_mode::none;  ///< what rotates these heads
    index first = 0;                   ///< the first of these heads
    index count = 0;                   ///< how many heads
    index step = 1;                    ///< from one of these heads to the next
};

/// A checked combination of positions (x, y) and headings.
/// Throws:   invalid_config when head_dim is odd, position channels are not a multiple of 4 or exceed
///           head_dim (where none are given: when half of the head is not a multiple of 4), the layout does
///           not fit a block, harmonics are 0 or of another number, a mode is none of head_mode, or base or
///           unit is not > 0.
/// Source:   DRoPE, Zhao et al. 2025: head-by-head and intra-head.
class agents {
  public:
    explicit agents(agents_config config) : config_(std::move(config)) {
        constexpr const char* who = "drope::agents";
        const auto has = [&](head_mode m) {
            return std::find(config_.modes.begin(), config_.modes.end(), m) != config_.modes.end();
        };
        const index dim = config_.head_dim;
        detail::require(dim > 0 && dim % 2 == 0, who, "head_dim must be even and > 0", dim);
        for (const head_mode m : config_.modes)
            detail::require(m <= head_mode::none, who, "modes must be modes of a head", static_cast<int>(m));
        detail::require(config_.base > 0 && std::isfinite(config_.base), who, "base must be finite and > 0",
                        config_.base);
        detail::require(config_.unit > 0 && std::isfinite(config_.unit), who, "unit must be finite and > 0",
                        config_.unit);
        index headed = has(head_mode::heading) ? dim / 2 : 0;
        if (has(head_mode::blocks)) {
            detail::require(
                config_.position_channels || dim / 2 % 4 == 0, who,
                "position_channels must be given where half of head_dim is no multiple of 4, half", dim / 2);
            const index block = config_.position_channels.value_or(dim / 2);
            detail::require(block % 4 == 0 && block >= 0 && block <= dim, who,
                            "position_channels must be a multiple of 4 and at most head_dim", block);
            position_channels_ = block;
            headed = std::max(headed, (dim - block) / 2);
            block_ = ladder(block);
            detail::require(config_.layout.fits((dim - block) / 2), who, "layout must divide the blocks",
                            config_.layout.group);
        }
        if (has(head_mode::position)) {
            detail::require(dim % 4 == 0, who, "head_dim must be a multiple of 4 in heads of positions", dim);
            whole_ = ladder(dim);
        }
        detail::require(config_.layout.fits(dim / 2), who, "layout must divide the channels",
                        config_.layout.group);
        if (!config_.harmonics.empty()) {
            const auto given = static_cast<index>(config_.harmonics.size());
            detail::require_equal(who, "harmonics must hold a number a pair of the heading's block", headed,
                                  given);
            for (const int w : config_.harmonics) detail::require(w != 0, who, "harmonics must not be 0", w);
            if (has(head_mode::heading)) heading_whole_ = drope::harmonics(config_.harmonics);
            if (has(head_mode::blocks))
                heading_block_ =
                    drope::harmonics(std::span<const int>(config_.harmonics)
                                         .first(static_cast<std::size_t>((dim - position_channels_) / 2)));
        }
        find_runs();
    }

    /// What it was made from.
    const agents_config& config() const noexcept { return config_; }
    index heads() const noexcept { return static_cast<index>(config_.modes.size()); }
    /// Channels of the position's block in `blocks` heads; 0 where there are none.
    index position_channels() const noexcept { return position_channels_; }
    /// The heads, run by run.
    std::span<const head_run> runs() const noexcept { return runs_; }
    /// Frequencies over (x, y) of position heads, and of the position block of `blocks` heads; no pairs where
    /// the scheme has none.
    const spectrum& position_frequencies() const noexcept { return whole_; }
    /// Frequencies over (x, y) of the position block of `blocks` heads.
    const spectrum& block_frequencies() const noexcept { return block_; }
    /// Harmonics of `heading` heads; no pairs where all are 1.
    const spectrum& heading_frequencies() const noexcept { return heading_whole_; }
    /// Harmonics of the heading's block in `blocks` heads; no pairs where all are 1.
    const spectrum& heading_block_frequencies() const noexcept { return heading_block_; }

  private:
    spectrum ladder(index channels) const {
        const spectrum metres =
            frequencies::axial({.channels = {channels / 2, channels / 2}, .base = config_.base, .axes = 2});
        return map_omega(metres, [this](double omega, index) { return omega / config_.unit; });
    }
    void find_runs() {
        std::vector<bool> done(config_.modes.size());
        const auto mode = [this](index h) { return config_.modes[static_cast<std::size_t>(h)]; };
        for (index h = 0; h < heads(); ++h) {
            if (done[static_cast<std::size_t>(h)]) continue;
            head_run run{mode(h), h, 1, 1};
            for (index next = h + 1; next < heads(); ++next)
                if (mode(next) == run.mode && !done[static_cast<std::size_t>(next)]) {
                    run.step = next - h;
                    break;
                }
            for (index next = h + run.step; next < heads(); next += run.step) {
                if (mode(next) != run.mode || done[static_cast<std::size_t>(next)]) break;
                done[static_cast<std::size_t>(next)] = true;
                ++run.count;
            }
            runs_.push_back(run);
        }
    }

    agents_config config_;
    index position_channels_ = 0;
    spectrum whole_, block_, heading_whole_, heading_block_;
    std::vector<head_run> runs_;
};

/// Cos and sin of a scene: one row per agent for positions; one cos and one sin per agent for headings, or
/// one row where they have harmonics.
/// Shapes:   xy [agents, 2] in metres (or any unit; agents_config::unit scales it), headings [agents] in
///           radians.
/// Throws:   invalid_config on sizes that disagree or numbers that are not finite.
/// Cost:     8 bytes per agent for the heading (float) and a row for positions; nothing grows with agents^2.
/// Source:   DRoPE, Zhao et al. 2025.
template <class T = float>
class scene {
  public:
    scene(const agents& scheme, const position_ids& xy, const position_ids& headings)
        : scene(scheme, xy, headings.tokens(), uniform_table<T>(headings)) {
        add_harmonics(scheme, headings);
    }
    /// A scene whose headings are the directions of the velocities [agents, 2], which may have any length.
    /// Without harmonics, cos and sin are v / |v| and no angle is formed.
    /// Throws:   as the constructor, and on a velocity of zero (the caller must remember the heading of an
    ///           agent that has stopped).
    template <class N>
    static scene from_velocities(const agents& scheme, const position_ids& xy,
                                 std::span<const N> velocities) {
        auto directions = uniform_table<T>::from_vectors(velocities);
        const index count = directions.row_count();
        scene where(scheme, xy, count, std::move(directions));
        if (!scheme.config().harmonics.empty()) {
            std::vector<double> angles;
            for (std::size_t i = 0; i < velocities.size(); i += 2)
                angles.push_back(
                    std::atan2(static_cast<double>(velocities[i + 1]), static_cast<double>(velocities[i])));
            where.add_harmonics(scheme, position_ids::from(angles));
        }
        return where;
    }

    /// Cos and sin of each agent's heading.
    const uniform_table<T>& heading() const noexcept { return heading_; }
    /// Rows of position heads.
    const rotation_table<T>& position() const noexcept { return whole_; }
    /// Rows of the position block.
    const rotation_table<T>& block() const noexcept { return block_; }
    /// Rows of heading heads that have harmonics.
    const rotation_table<T>& heading_rows() const noexcept { return heading_whole_; }
    /// Rows of heading blocks that have harmonics.
    const rotation_table<T>& heading_block() const noexcept { return heading_block_; }

  private:
    scene(const agents& scheme, const position_ids& xy, index headings, uniform_table<T> heading)
        : heading_(std::move(heading)) {
        detail::require(xy.axes() == 2, "drope::scene", "xy must have two axes", xy.axes());
        detail::require_equal("drope::scene", "xy and headings must have one entry an agent", headings,
                              xy.tokens());
        fill(whole_, scheme.position_frequencies(), xy);
        fill(block_, scheme.block_frequencies(), xy);
    }
    void add_harmonics(const agents& scheme, const position_ids& headings) {
        fill(heading_whole_, scheme.heading_frequencies(), headings);
        fill(heading_block_, scheme.heading_block_frequencies(), headings);
    }
    static void fill(rotation_table<T>& rows, const spectrum& frequencies, const position_ids& where) {
        if (frequencies.pairs() > 0) rows = make_rotation_table<T>(frequencies, where);
    }

    uniform_table<T> heading_;
    rotation_table<T> whole_, block_, heading_whole_, heading_block_;
};

/// Rotates queries or keys of a scene in place.
/// Shapes:   x [agents, heads, head_dim], or several batches whose agents are numbered consecutively.
/// Requires: as many heads as the scheme has modes, head_dim channels, one token per agent.
/// Returns:  as ropewalk::rotate.
/// Cost:     one pass.
/// Accuracy: as rotate.
/// Source:   DRoPE, Zhao et al. 2025.
template <class T, class C>
bool rotate_scene(const agents& scheme, heads_view<T> x, const scene<C>& where) noexcept {
    constexpr const char* who = "drope::rotate_scene";
    if (x.empty()) return true;
    if (x.heads() != scheme.heads())
        return detail::tell(who,
                            {"heads must be as many as the modes of the scheme", scheme.heads(), x.heads()});
    if (x.channels() != scheme.config().head_dim)
        return detail::tell(who, {"channels must be head_dim", scheme.config().head_dim, x.channels()});
    const pair_layout layout = scheme.config().layout;
    const index block = scheme.position_channels();
    const auto by_heading = [&](heads_view<T> heads, const rotation_table<C>& harmonics) {
        if (scheme.config().harmonics.empty()) return ropewalk::rotate(layout, heads, where.heading());
        return heads.channels() == 0 || ropewalk::rotate(layout, heads, harmonics);
    };
    bool fits = true;
    for (const head_run& run : scheme.runs()) {
        const auto heads = x.head_slice(run.first, run.count, run.step);
        switch (run.mode) {
            case head_mode::position: fits &= ropewalk::rotate(layout, heads, where.position()); break;
            case head_mode::heading: fits &= by_heading(heads, where.heading_rows()); break;
            case head_mode::blocks:
                if (block > 0) fits &= ropewalk::rotate(layout, heads.channel_slice(0, block), where.block());
                fits &= by_heading(heads.channel_slice(block, x.channels() - block), where.heading_block());
                break;
            case head_mode::none: break;
        }
    }
    return fits;
}

}  // namespace ROPEWALK_NAMESPACE::drope
