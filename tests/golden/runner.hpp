// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

// How to add a system to the golden runner: write tests/golden/<topic>_<what>.cpp (it is globbed) with a
// handler for every spelling of "system" in the vectors, and register it at namespace scope:
//
//     #include "runner.hpp"
//     namespace golden { namespace {       // golden sees all of ropewalk
//     void plain(const golden_case& c, results& out) {
//         const auto rope = frequencies::geometric({.rotary_dim = c.integer("head_dim")});
//         out.check("inv_freq", rope.omegas());                    // rank 1, else check(name, shape, values)
//         out.check_scalar("attention_factor", rope.magnitude());  // shape [1]
//         const auto where = positions_of(c, c.shape_of("q"));     // input "positions"
//         rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
//             rotate(c.layout(), q, k, make_rotation_table<T>(rope, where));
//         });                                                      // checks q_rot, k_rot in f64 and f32
//     }
//     const registration r{"My system", plain};
//     }}
//
// - Public API only, no formula of a scheme here: where one is needed, the library lacks a function.
// - Config accessors take an optional default (spec/*.md names it); without one a missing key is an error
//   with the key's name. null counts as missing.
// - Every output the file names must be checked, or the file fails; outputs it does not name are ignored,
//   so a handler may offer all it can.
// - f64 results pass when |got - want| <= abs + rel * |want|. f32 results pass when
//   |got - want| <= own + abs + rel * |want| with own = config.suggested_f32_abs, default 3e-5 * max|x| of
//   the rotated input. The file's own tolerance is added because it is the doubt of the reference: angles
//   are reduced in f64, so our own f32 error does not grow with the position.
// - Throw (golden::error or anything derived from std::exception) to fail the file with a message.

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace golden {

using namespace ropewalk;
using ropewalk::index;  // <strings.h> has an index() too
using json = nlohmann::json;
using shape_type = std::vector<index>;

/// What a handler throws when the file does not hold what its system needs.
struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void require(bool holds, const std::string& message) {
    if (!holds) throw error(message);
}

/// An array of the file in the type asked for, row-major.
template <class T>
struct tensor {
    shape_type shape;
    std::vector<T> values;

    index rank() const { return static_cast<index>(shape.size()); }
    index extent(index axis) const { return shape.at(static_cast<std::size_t>(axis)); }
    index count() const { return static_cast<index>(values.size()); }
};

/// Which dimension of a tensor is batch, tokens, heads, channels: "batch,heads,seq,head_dim",
/// "[tokens,heads,head_dim]". Dimensions that are not named have extent 1. An empty order means, by rank:
/// seq,head_dim; seq,heads,head_dim; batch,heads,seq,head_dim.
struct axis_order {
    int batch = -1, token = -1, head = -1, channel = -1;
    static axis_order parse(std::string_view order, index rank);
    heads_shape shape(const shape_type& extents) const;
    heads_strides strides(const shape_type& extents) const;
};

template <class T>
heads_view<T> view_of(tensor<T>& t, std::string_view order = {}) {
    const auto axes = axis_order::parse(order, t.rank());
    return {t.values.data(), axes.shape(t.shape), axes.strides(t.shape)};
}

/// half, half-split, half_split_neox, neox, interleaved, interleaved_gptj, ...: the layouts' names in the
/// vectors. Throws on any other word.
pair_layout layout_named(std::string_view word);

/// One vector: its config with defaults and its inputs.
class golden_case {
  public:
    explicit golden_case(json file);

    const std::string& system() const { return system_; }
    const json& config() const { return config_; }
    bool has(const std::string& key) const { return config_.contains(key) && !config_.at(key).is_null(); }

    double number(const std::string& key) const;
    double number(const std::string& key, double otherwise) const;
    index integer(const std::string& key) const;
    index integer(const std::string& key, index otherwise) const;
    bool flag(const std::string& key, bool otherwise) const;  ///< true, false, 0 or 1
    std::string word(const std::string& key) const;
    std::string word(const std::string& key, const std::string& otherwise) const;
    std::vector<double> numbers(const std::string& key) const;
    std::vector<index> integers(const std::string& key) const;

    /// The layout under `key`, else under "pair_layout", else under "layout" where that is not a description
    /// of the tensors, else half_split.
    pair_layout layout(const std::string& key = "layout") const;
    /// "tensor_order" or "qk_shape" of the config, or nothing (then view_of goes by the rank).
    std::string order() const;

    bool has_input(const std::string& name) const { return inputs_.contains(name); }
    bool has_output(const std::string& name) const { return outputs_.contains(name); }
    /// The first of several spellings that the file has as an input.
    std::string input_named(std::initializer_list<const char*> spellings) const;
    std::string output_named(std::initializer_list<const char*> spellings) const;
    shape_type extents_of(const std::string& input) const;
    shape_type extents_of_output(const std::string& output) const;
    /// An input's extents as batches, tokens, heads, channels.
    heads_shape shape_of(const std::string& input, std::string_view order = {}) const;

    /// T: double, float, or an integer type (then every number must be whole and fit).
    template <class T = double>
    tensor<T> input(const std::string& name) const {
        require(has_input(name), "inputs." + name + " is missing");
        const tensor<double> wide = read(inputs_.at(name), "inputs." + name);
        tensor<T> t{wide.shape, std::vector<T>(wide.values.size())};
        for (std::size_t i = 0; i < t.values.size(); ++i) {
            const double v = wide.values[i];
            if constexpr (std::integral<T>) {
                // 2^53 and beyond would have lost digits on the way through double.
                require(v == std::floor(v) && std::abs(v) < 0x1p53 &&
                            std::in_range<T>(static_cast<std::int64_t>(v)),
                        "inputs." + name + " must hold whole numbers in range, got " + std::to_string(v));
            }
            t.values[i] = static_cast<T>(v);
        }
        return t;
    }

    static tensor<double> read(const json& array, const std::string& name);

  private:
    friend class results;
    const json& value(const std::string& key) const;

    std::string system_;
    json config_ = json::object(), inputs_ = json::object(), outputs_ = json::object(), tolerance_;
};

/// Largest magnitude of an array, 0 for an empty one.
template <class T>
double max_abs(const std::vector<T>& values) {
    double most = 0;
    for (T v : values) most = std::max(most, std::abs(static_cast<double>(v)));
    return most;
}

/// Collects a handler's outputs and compares each with the file's.
class results {
  public:
    explicit results(const golden_case& c);

    /// Compares with the file's tolerance; any container of arithmetic values.
    template <std::ranges::sized_range R>
    void check(const std::string& output, const shape_type& shape, const R& values) {
        compare(output, output, shape, widened(values), 0.0);
    }
    template <std::ranges::sized_range R>
    void check(const std::string& output, const R& values) {
        check(output, {static_cast<index>(std::ranges::size(values))}, values);
    }
    template <class T>
    void check(const std::string& output, const tensor<T>& t) {
        check(output, t.shape, t.values);
    }
    /// Shape [1].
    void check_scalar(const std::string& output, double value) { check(output, {1}, std::array{value}); }
    /// The same output computed in f32; `input_scale` is max|x| of what was rotated.
    template <std::ranges::sized_range R>
    void check_f32(const std::string& output, const shape_type& shape, const R& values, double input_scale) {
        compare(output, output + " (f32)", shape, widened(values),
                suggested_f32_.value_or(3e-5 * input_scale));
    }

    bool passed() const { return failed_.empty() && !worst_.empty(); }
    /// "worst output, error, bound" of a pass; what went wrong first otherwise.
    const std::string& summary() const { return failed_.empty() ? worst_ : failed_; }
    /// Fails the case for every output of the file that no check named.
    void finish();

  private:
    struct expected {
        tensor<double> want;
        double abs = 0, rel = 0;
        bool produced = false;
    };
    template <class R>
    static std::vector<double> widened(const R& values) {
        std::vector<double> wide;
        for (const auto& v : values) wide.push_back(static_cast<double>(v));
        return wide;
    }
    void compare(const std::string& output, const std::string& label, const shape_type& shape,
                 const std::vector<double>& got, double extra);
    void fail(const std::string& message) {
        if (failed_.empty()) failed_ = message;
    }

    std::map<std::string, expected> outputs_;
    std::optional<double> suggested_f32_;
    std::string failed_, worst_;
    double worst_ratio_ = -1;
};

using handler = void (*)(const golden_case&, results&);

/// Static registration of a handler under the exact spelling of "system".
struct registration {
    registration(const char* system, handler run);
};

/// The positions of every (batch, token) of a view in table order: an input [tokens] (the same for every
/// batch) or [batches, tokens].
position_ids positions_of(const golden_case& c, const heads_shape& of,
                          const std::string& input = "positions");

/// Rotates the named inputs in f64 and in f32 and checks <input>_rot in both. `rotate` is called with one
/// heads_view<double> an input, then with heads_view<float>; it rotates them in place.
template <std::size_t N, class F>
void rotate_both(const golden_case& c, results& out, const char* const (&inputs)[N], F&& rotate,
                 const std::string& order = {}) {
    const auto run = [&]<class T>(T, auto&& check) {
        std::array<tensor<T>, N> data;
        for (std::size_t i = 0; i < N; ++i) data[i] = c.input<T>(inputs[i]);
        const std::string axes = order.empty() ? c.order() : order;
        [&]<std::size_t... I>(std::index_sequence<I...>) { rotate(view_of(data[I], axes)...); }
        (std::make_index_sequence<N>{});
        for (std::size_t i = 0; i < N; ++i) check(std::string(inputs[i]), data[i]);
    };
    run(double{}, [&](const std::string& name, const auto& t) { out.check(name + "_rot", t); });
    run(float{}, [&](const std::string& name, const auto& t) {
        out.check_f32(name + "_rot", t.shape, t.values, max_abs(c.input(name).values));
    });
}

/// Runs one file. `kind` is PASS, FAIL or UNSUPPORTED; never throws.
struct verdict {
    enum class kind_type { pass, fail, unsupported } kind = kind_type::fail;
    std::string system, text;
};
verdict run_file(const std::string& path) noexcept;

}  // namespace golden
