// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Packed documents with an anchor; chunks with a recurrent memory.

#include <ropewalk/attention/anchor_mask.hpp>
#include <ropewalk/attention/chunk_memory.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "runner.hpp"

namespace golden {
namespace {

void anchor(const golden_case& c, results& out) {
    using attention::anchor_packing;
    const std::string engine = c.word("engine", "flex");
    require(engine == "flex" || engine == "flash", "config.engine: unknown word " + engine);
    const index tokens = c.integer("seq_length");
    const auto pack = attention::make_anchor_pack(
        c.input<std::int64_t>("tokens").values, c.input<index>("doc_ends").values,
        {.packing = engine == "flex" ? anchor_packing::shared : anchor_packing::copied,
         .tokens = tokens,
         .anchor = c.integer("anchor_token", 1)});
    out.check("input_ids", pack.input_ids);
    out.check("boundaries", pack.boundaries);
    out.check("segment_ids", pack.segments);
    out.check("segment_position_ids", pack.segment_positions);
    out.check("rotary_position_ids", pack.positions);
    out.check("attention_mask", {tokens, tokens}, pack.mask.dense());
    out.check("intra_document_mask", {tokens, tokens}, pack.mask.dense_within_documents());
}

bool has_memory(const golden_case& c) { return c.has_input("mem_k") && c.input("mem_k").count() > 0; }

template <class T>
void chunk_in(const golden_case& c, auto&& check) {
    auto q = c.input<T>("q"), k = c.input<T>("k"), v = c.input<T>("v");
    tensor<T> mk, mv;
    if (has_memory(c)) {
        mk = c.input<T>("mem_k");
        mv = c.input<T>("mem_v");
    }
    const auto view = [](tensor<T>& t) {
        return t.values.empty() ? heads_view<T>() : view_of(t, "heads,tokens,channels");
    };
    std::vector<T> parts[4];
    heads_view<T> to[4];
    for (int i = 0; i < 4; ++i) {
        parts[i].resize(q.values.size());
        to[i] = heads_view<T>::heads_first(parts[i].data(), view(q).shape);
    }
    const std::string mode = c.word("position_mode", "chunk");
    require(mode == "chunk" || mode == "global", "config.position_mode: unknown word " + mode);
    const attention::chunk_config config{.chunk = c.integer("chunk_size", view(q).tokens()),
                                         .local_window = c.integer("local_window"),
                                         .positions = mode == "global" ? attention::chunk_positions::global
                                                                       : attention::chunk_positions::chunk,
                                         .layout = c.layout("pair_layout")};
    const auto logits = c.input("fusion_logits").values;
    attention::attend_chunk<T>(
        config,
        frequencies::geometric({.rotary_dim = view(q).channels(), .base = c.number("rope_base", 1e4)}),
        {.q = view(q),
         .k = view(k),
         .v = view(v),
         .memory_k = view(mk),
         .memory_v = view(mv),
         .out = to[0],
         .full = to[1],
         .local = to[2],
         .memory = to[3]},
        c.integer("chunk_index", 0), logits);
    const char* names[] = {"o", "o_full", "o_local", "o_memory"};
    // Weighted means of values, those of the memory among them.
    const double scale = std::max(max_abs(v.values), max_abs(mv.values));
    for (int i = 0; i < 4; ++i) check(names[i], q.shape, parts[i], scale);
}

void chunk(const golden_case& c, results& out) {
    out.check("fusion_weights", attention::branch_weights(c.input("fusion_logits").values,
                                                          has_memory(c) ? c.extents_of("mem_k").at(1) : 0));
    chunk_in<double>(c, [&](const char* name, const shape_type& shape, const auto& values, double) {
        out.check(name, shape, values);
    });
    chunk_in<float>(c, [&](const char* name, const shape_type& shape, const auto& values, double scale) {
        out.check_f32(name, shape, values, scale);
    });
}

template <class T>
void memory_in(const golden_case& c, auto&& check) {
    const auto given = [&](const char* name) {
        return c.has_input(name) ? c.input<T>(name).values : std::vector<T>{};
    };
    const auto gate = given("gate_weight"), bias = given("gate_bias"), candidate = given("cand_weight");
    const auto memory = c.input<T>("memory"), summaries = c.input<T>("summaries");
    const index slots = memory.extent(0), dim = memory.extent(1), steps = summaries.extent(0);
    attention::memory_bank<T> bank(slots, dim, {.gate = gate, .gate_bias = bias, .candidate = candidate});
    bank.assign(memory.values);
    std::vector<T> gates, after;
    for (index s = 0; s < steps; ++s) {
        const auto z =
            bank.write(std::span(summaries.values)
                           .subspan(static_cast<std::size_t>(s * dim), static_cast<std::size_t>(dim)));
        gates.insert(gates.end(), z.begin(), z.end());
        for (index age = 0; age < slots; ++age)
            after.insert(after.end(), bank.row(age).begin(), bank.row(age).end());
    }
    check("gates", shape_type{steps, dim}, gates);
    check("memory_after", shape_type{steps, slots, dim}, after);
}

void memory(const golden_case& c, results& out) {
    memory_in<double>(c, [&](const char* name, const shape_type& shape, const auto& values) {
        out.check(name, shape, values);
    });
    // A gate is at most 1 and a candidate at most 1, whatever the inputs: rows are weighted means of them, of
    // memory and, without weights, of summaries. In f32 a logit is off by some units in the last place of the
    // inputs, a gate by a quarter of that, and both are rounded once more at their own size, which is 1.
    const double scale =
        std::max({1.0, max_abs(c.input("memory").values), max_abs(c.input("summaries").values)});
    memory_in<float>(c, [&](const char* name, const shape_type& shape, const auto& values) {
        out.check_f32(name, shape, values, scale);
    });
}

const registration systems[] = {
    {"AnchorAttention", anchor},
    {"Chunked + memory attention block", chunk},
    {"Gated FIFO memory", memory},
};

}  // namespace
}  // namespace golden
