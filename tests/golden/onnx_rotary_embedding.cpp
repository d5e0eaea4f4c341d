// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/onnx.hpp>

#include "runner.hpp"

namespace golden {
namespace {

/// The operator on the file's tensors, computed in T throughout.
template <class T>
tensor<T> embed(const golden_case& c) {
    const auto x = c.input<T>(c.input_named({"input", "X"}));
    const auto cos = c.input<T>("cos_cache"), sin = c.input<T>("sin_cache");
    tensor<std::int64_t> ids;
    if (c.has_input("position_ids")) ids = c.input<std::int64_t>("position_ids");
    const auto dims = [](const auto& t) { return std::vector<std::int64_t>(t.shape.begin(), t.shape.end()); };
    const auto x_dims = dims(x), cos_dims = dims(cos), sin_dims = dims(sin), id_dims = dims(ids);
    tensor<T> y{x.shape, std::vector<T>(x.values.size())};
    onnx::rotary_embedding<T>({.x = {x.values.data(), x_dims},
                               .cos_cache = {cos.values.data(), cos_dims},
                               .sin_cache = {sin.values.data(), sin_dims},
                               .position_ids = {ids.values.data(), id_dims}},
                              y.values.data(),
                              {.interleaved = c.integer("interleaved", 0),
                               .num_heads = c.integer("num_heads", 0),
                               .rotary_embedding_dim = c.integer("rotary_embedding_dim", 0)});
    return y;
}

void rotary_embedding(const golden_case& c, results& out) {
    const std::string name = c.output_named({"output", "Y"});
    out.check(name, embed<double>(c));
    const auto narrow = embed<float>(c);
    out.check_f32(name, narrow.shape, narrow.values, max_abs(c.input(c.input_named({"input", "X"})).values));
}

const registration r{"ONNX RotaryEmbedding (opset 23)", rotary_embedding};

}  // namespace
}  // namespace golden
