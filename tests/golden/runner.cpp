// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "runner.hpp"

#include <bit>
#include <cstdio>
#include <fstream>
#include <limits>

namespace golden {

namespace {

std::map<std::string, handler>& handlers() {
    static std::map<std::string, handler> all;
    return all;
}

std::string text_of(const shape_type& shape) {
    std::string text = "[";
    for (index extent : shape) text += (text.size() > 1 ? "," : "") + std::to_string(extent);
    return text + "]";
}

std::string text_of(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

/// By the bits: under -ffast-math a comparison may not see a NaN.
bool is_finite(double value) {
    return (std::bit_cast<std::uint64_t>(value) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

double as_number(const json& value, const std::string& name) {
    if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
    require(value.is_number(), name + " must be a number, got " + value.dump());
    return value.get<double>();
}

index as_integer(const json& value, const std::string& name) {
    const double v = as_number(value, name);
    require(v == std::floor(v) && std::abs(v) < 0x1p53,
            name + " must be a whole number, got " + value.dump());
    return static_cast<index>(v);
}

void flatten(const json& data, const std::string& name, std::vector<double>& values) {
    require(data.is_array(), name + ".data must be an array");
    for (const json& v : data) {
        if (v.is_array()) {
            flatten(v, name, values);
        } else {
            values.push_back(as_number(v, name + ".data"));
        }
    }
}

const json& member(const json& object, const char* key) {
    require(object.is_object(), "the file must hold a JSON object");
    require(object.contains(key), std::string(key) + " is missing");
    return object.at(key);
}

std::string first_of(std::initializer_list<const char*> spellings, const json& among, const char* where) {
    std::string all;
    for (const char* name : spellings) {
        if (among.contains(name)) return name;
        all += (all.empty() ? "" : " or ") + std::string(name);
    }
    throw error(std::string(where) + ": " + all + " is missing");
}

}  // namespace

registration::registration(const char* system, handler run) {
    if (!handlers().emplace(system, run).second) {
        std::fprintf(stderr, "ropewalk_golden: two handlers for \"%s\"\n", system);
        std::exit(2);
    }
}

// ---- axis_order, layouts ----

axis_order axis_order::parse(std::string_view order, index rank) {
    if (order.empty()) {
        require(rank >= 2 && rank <= 4,
                "a tensor of heads must have rank 2 to 4, got " + std::to_string(rank));
        order = rank == 2 ? "seq,head_dim" : rank == 3 ? "seq,heads,head_dim" : "batch,heads,seq,head_dim";
    }
    if (order.front() == '[') order.remove_prefix(1);
    order = order.substr(0, order.find_first_of("];"));
    axis_order axes;
    int position = 0;
    for (std::size_t start = 0; start <= order.size(); ++position) {
        const std::size_t end = std::min(order.find(',', start), order.size());
        std::string_view word = order.substr(start, end - start);
        while (!word.empty() && word.front() == ' ') word.remove_prefix(1);
        while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
        static const std::map<std::string_view, int axis_order::*> known = {
            {"batch", &axis_order::batch},     {"batches", &axis_order::batch},
            {"seq", &axis_order::token},       {"tokens", &axis_order::token},
            {"token", &axis_order::token},     {"seq_len", &axis_order::token},
            {"heads", &axis_order::head},      {"head", &axis_order::head},
            {"num_heads", &axis_order::head},  {"head_dim", &axis_order::channel},
            {"dim", &axis_order::channel},     {"head_size", &axis_order::channel},
            {"channels", &axis_order::channel}};
        const auto axis = known.find(word);
        require(axis != known.end() && axes.*(axis->second) < 0,
                "tensor order: cannot read \"" + std::string(word) + "\" in \"" + std::string(order) + "\"");
        axes.*(axis->second) = position;
        start = end + 1;
    }
    require(position == rank, "tensor order \"" + std::string(order) + "\" does not fit a tensor of rank " +
                                  std::to_string(rank));
    require(axes.channel == position - 1, "tensor order: channels must come last");
    return axes;
}

heads_shape axis_order::shape(const shape_type& extents) const {
    const auto extent = [&](int axis) {
        return axis < 0 ? index{1} : extents.at(static_cast<std::size_t>(axis));
    };
    return {extent(batch), extent(token), extent(head), extent(channel)};
}

heads_strides axis_order::strides(const shape_type& extents) const {
    const auto stride = [&](int axis) {
        index product = 1;
        for (auto i = static_cast<std::size_t>(axis + 1); i < extents.size(); ++i) product *= extents[i];
        return axis < 0 ? index{0} : product;
    };
    return {stride(batch), stride(token), stride(head)};
}

pair_layout layout_named(std::string_view word) {
    for (const char* name : {"half", "half-split", "half_split", "half_split_neox", "neox",
                             "half-split inside the first rotary_dim channels"})
        if (word == name) return half_split{};
    for (const char* name : {"interleaved", "interleaved_gptj", "gptj", "gpt-j", "normal"})
        if (word == name) return interleaved{};
    throw error("layout must be a known name, got \"" + std::string(word) + "\"");
}

// ---- golden_case ----

golden_case::golden_case(json file) {
    const json& name = member(file, "system");
    require(name.is_string(), "system must be a string");
    system_ = name.get<std::string>();
    outputs_ = member(file, "outputs");
    if (file.contains("config")) config_ = file.at("config");
    if (file.contains("inputs")) inputs_ = file.at("inputs");
    if (file.contains("tolerance")) tolerance_ = file.at("tolerance");
    require(config_.is_object() && inputs_.is_object() && outputs_.is_object(),
            "config, inputs and outputs must be objects");
}

const json& golden_case::value(const std::string& key) const {
    require(has(key), "config." + key + " is missing");
    return config_.at(key);
}
double golden_case::number(const std::string& key) const { return as_number(value(key), "config." + key); }
double golden_case::number(const std::string& key, double otherwise) const {
    return has(key) ? number(key) : otherwise;
}
index golden_case::integer(const std::string& key) const { return as_integer(value(key), "config." + key); }
index golden_case::integer(const std::string& key, index otherwise) const {
    return has(key) ? integer(key) : otherwise;
}
bool golden_case::flag(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const double v = number(key);
    require(v == 0 || v == 1, "config." + key + " must be true or false, got " + value(key).dump());
    return v == 1;
}
std::string golden_case::word(const std::string& key) const {
    require(value(key).is_string(), "config." + key + " must be a string, got " + value(key).dump());
    return value(key).get<std::string>();
}
std::string golden_case::word(const std::string& key, const std::string& otherwise) const {
    return has(key) ? word(key) : otherwise;
}
std::vector<double> golden_case::numbers(const std::string& key) const {
    require(value(key).is_array(), "config." + key + " must be an array, got " + value(key).dump());
    std::vector<double> all;
    for (const json& v : value(key)) all.push_back(as_number(v, "config." + key));
    return all;
}
std::vector<index> golden_case::integers(const std::string& key) const {
    require(value(key).is_array(), "config." + key + " must be an array, got " + value(key).dump());
    std::vector<index> all;
    for (const json& v : value(key)) all.push_back(as_integer(v, "config." + key));
    return all;
}

pair_layout golden_case::layout(const std::string& key) const {
    if (key != "layout" && has(key)) return layout_named(word(key));
    if (has("pair_layout")) return layout_named(word("pair_layout"));
    // In some files "layout" describes the tensors: "q, k: [T, heads, head_dim]".
    if (!has("layout") || word("layout").find_first_of("[,:;") != std::string::npos) return half_split{};
    return layout_named(word("layout"));
}

std::string golden_case::order() const { return word("tensor_order", word("qk_shape", "")); }

std::string golden_case::input_named(std::initializer_list<const char*> spellings) const {
    return first_of(spellings, inputs_, "inputs");
}
std::string golden_case::output_named(std::initializer_list<const char*> spellings) const {
    return first_of(spellings, outputs_, "outputs");
}

shape_type golden_case::extents_of(const std::string& name) const {
    require(has_input(name), "inputs." + name + " is missing");
    return read(inputs_.at(name), "inputs." + name).shape;
}
shape_type golden_case::extents_of_output(const std::string& name) const {
    require(has_output(name), "outputs." + name + " is missing");
    return read(outputs_.at(name), "outputs." + name).shape;
}
heads_shape golden_case::shape_of(const std::string& name, std::string_view axes) const {
    const shape_type extents = extents_of(name);
    const std::string from_config = order();
    return axis_order::parse(axes.empty() ? std::string_view(from_config) : axes,
                             static_cast<index>(extents.size()))
        .shape(extents);
}

tensor<double> golden_case::read(const json& array, const std::string& name) {
    require(array.is_object() && array.contains("shape") && array.contains("data"),
            name + " must have shape and data");
    require(array.at("shape").is_array(), name + ".shape must be an array");
    tensor<double> t;
    flatten(array.at("data"), name, t.values);
    index count = 1;
    for (const json& extent : array.at("shape")) {
        const index n = as_integer(extent, name + ".shape");
        require(n >= 0 && n <= std::numeric_limits<std::int32_t>::max(),
                name + ".shape must hold sane counts, got " + extent.dump());
        t.shape.push_back(n);
        // Saturate: a product that large can only disagree with the data anyway.
        count = n != 0 && count > std::numeric_limits<index>::max() / n ? std::numeric_limits<index>::max()
                                                                        : count * n;
    }
    require(count == t.count(), name + ": shape " + text_of(t.shape) + " does not hold " +
                                    std::to_string(t.count()) + " numbers");
    return t;
}

// ---- results ----

results::results(const golden_case& c) {
    for (const auto& [name, array] : c.outputs_.items()) {
        expected e;
        e.want = golden_case::read(array, "outputs." + name);
        // No tolerance means: exactly.
        if (c.tolerance_.is_object() && c.tolerance_.contains(name)) {
            const json& t = c.tolerance_.at(name);
            require(t.is_object(), "tolerance." + name + " must be an object");
            e.abs = t.contains("abs") ? as_number(t.at("abs"), "tolerance." + name + ".abs") : 0;
            e.rel = t.contains("rel") ? as_number(t.at("rel"), "tolerance." + name + ".rel") : 0;
            require(e.abs >= 0 && e.rel >= 0, "tolerance." + name + " must be >= 0");
        }
        outputs_.emplace(name, std::move(e));
    }
    require(!outputs_.empty(), "outputs names nothing to compare");
    if (c.has("suggested_f32_abs")) suggested_f32_ = c.number("suggested_f32_abs");
}

void results::compare(const std::string& output, const std::string& label, const shape_type& shape,
                      const std::vector<double>& got, double extra) {
    const auto found = outputs_.find(output);
    if (found == outputs_.end()) return;
    expected& e = found->second;
    // An f32 check alone does not produce the output: it must be there in f64 too.
    if (label == output) e.produced = true;
    if (shape != e.want.shape || static_cast<index>(got.size()) != e.want.count()) {
        fail(label + ": shape " + text_of(shape) + " with " + std::to_string(got.size()) +
             " numbers, expected " + text_of(e.want.shape));
        return;
    }
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double want = e.want.values[i];
        const double distance = std::abs(got[i] - want);
        const double bound = e.abs + e.rel * std::abs(want) + extra;
        const bool within = is_finite(got[i]) && distance <= bound;
        const double ratio = distance == 0 ? 0 : bound == 0 ? 1e300 : distance / bound;
        const std::string found_text =
            label + "[" + std::to_string(i) + "] error " + text_of(distance) + ", bound " + text_of(bound);
        if (!within) {
            fail(found_text);
            return;
        }
        if (ratio > worst_ratio_) {
            worst_ratio_ = ratio;
            worst_ = found_text;
        }
    }
    if (got.empty() && worst_.empty()) worst_ = label + " empty";
}

void results::finish() {
    for (const auto& [name, e] : outputs_)
        if (!e.produced) fail(name + ": not produced");
}

position_ids positions_of(const golden_case& c, const heads_shape& of, const std::string& name) {
    const auto listed = c.input(name);
    const bool shared = listed.rank() == 1 || (listed.rank() == 2 && listed.extent(0) == 1);
    require(shared || (listed.rank() == 2 && listed.extent(0) == of.batches),
            "inputs." + name + " must be [tokens] or [batches, tokens], got " + text_of(listed.shape));
    require(listed.shape.back() == of.tokens,
            "inputs." + name + " must name one position a token, got " + text_of(listed.shape));
    if (!shared) return position_ids::from(listed.values);
    position_ids all;
    for (index b = 0; b < of.batches; ++b) all.append(listed_run{listed.values});
    return all;
}

verdict run_file(const std::string& path) noexcept {
    verdict v;
    try {
        std::ifstream stream(path);
        require(stream.good(), "cannot be opened");
        const golden_case c(json::parse(stream));
        v.system = c.system();
        const auto run = handlers().find(c.system());
        if (run == handlers().end()) {
            v.kind = verdict::kind_type::unsupported;
            v.text = "no handler";
            return v;
        }
        results out(c);
        run->second(c, out);
        out.finish();
        v.kind = out.passed() ? verdict::kind_type::pass : verdict::kind_type::fail;
        v.text = out.summary();
    } catch (const std::exception& e) {
        v.text = e.what();
    } catch (...) {
        v.text = "threw something that is no std::exception";
    }
    return v;
}

}  // namespace golden
