// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// q and k of one decode step as Hugging Face, ONNX and ggml rotate them at positions 9 and 131071: distance
// from exact angles and from the line above. Interleaved: rows of W_q and W_k permuted, except in the last.
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/models/gguf.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;
using floats = std::vector<float>;

constexpr rw::index queries = 4, keys = 2, heads = queries + keys, dim = 128, hidden = 64;

floats rotated(floats qk, const auto& how, const rw::rotation_table<float>& table) {
    const rw::heads_view<float> view(qk.data(), 1, heads, dim);
    rw::rotate(how, view.head_slice(0, queries), view.head_slice(queries, keys), table);
    return qk;
}
floats by_onnx(floats qk, std::span<const float> cos, std::span<const float> sin, std::int64_t interleaved) {
    const std::int64_t qk_dims[] = {1, 1, heads * dim}, dims[] = {1, 1, dim / 2};
    rw::onnx::rotary_embedding<float>(
        {.x = {qk.data(), qk_dims}, .cos_cache = {cos.data(), dims}, .sin_cache = {sin.data(), dims}},
        qk.data(), {.interleaved = interleaved, .num_heads = heads});
    return qk;
}
double worst(const floats& a, const floats& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max<double>(most, std::abs(a[i] - b[i]));
    return most;
}

int main() {
    const auto config = rw::from_gguf({.values = {{"general.architecture", "llama"},
                                                  {"llama.block_count", std::int64_t{1}},
                                                  {"llama.attention.key_length", std::int64_t{dim}},
                                                  {"llama.rope.freq_base", 5e5}}});
    const rw::rotary_scheme rope = rw::make_model_schemes(config)[0];  // interleaved, as in llama.cpp
    const rw::ggml::rope_ext ggml{.n_dims = dim, .freq_base = static_cast<float>(config.ropes[0].base)};
    const auto neox = rw::ggml::layout_of(rw::ggml::rope_mode::neox);

    std::mt19937 engine(1);
    std::normal_distribution<float> normal(0, 0.35f);
    floats weight(heads * dim * hidden), state(hidden), hf, gguf;
    for (auto* values : {&weight, &state})
        for (float& value : *values) value = normal(engine);
    const auto moved = rw::make_rows_in_layout<float>(weight, {heads, dim}, neox, rope.read_layout, hidden);
    for (rw::index at = 0; at < heads * dim * hidden; at += hidden) {
        hf.push_back(std::inner_product(state.begin(), state.end(), weight.begin() + at, 0.0f));
        gguf.push_back(std::inner_product(state.begin(), state.end(), moved.begin() + at, 0.0f));
    }
    const auto back = [&](const floats& qk) {  // to Hugging Face's order of channels, for comparison
        return rw::make_rows_in_layout<float>(qk, {heads, dim}, rope.read_layout, neox);
    };
    std::vector<std::pair<const char*, floats>> near, far;
    for (const std::int32_t position : {9, 131071}) {
        const auto omega = rope.spectrum_for(131072);
        const auto where = rw::position_ids::text(1, position);
        const auto exact = rw::make_rotation_table(omega, where);
        const auto product = rw::make_rotation_table(omega, where, rw::angle_arithmetic::float32_product);
        const auto running = rw::ggml::make_table(ggml, {&position, 1});
        const auto cos = product.cos_row(0), sin = product.sin_row(0);  // Hugging Face repeats them
        const auto arrays = rw::rotation_table<float>::from_arrays(cos.data(), sin.data(), {1, 1, dim / 2});
        near = std::exchange(far, {{"exact angles", rotated(hf, neox, exact)},
                                   {"from_gguf's scheme", back(rotated(gguf, rope, exact))},
                                   {"Hugging Face", rotated(hf, rw::half_split{}, arrays)},
                                   {"ONNX, interleaved = 0", by_onnx(hf, cos, sin, 0)},
                                   {"ONNX, interleaved = 1", back(by_onnx(gguf, cos, sin, 1))},
                                   {"ggml, neox", rotated(hf, neox, running)},
                                   {"ggml, normal", back(rotated(gguf, rope, running))},
                                   {"ggml, normal, rows not moved", rotated(hf, rope, running)}});
    }
    std::printf("%-30s %10s %12s %20s\n", "off exact angles by", "at 9", "at 131071", "off the line above");
    for (std::size_t d = 0; d < far.size(); ++d)
        std::printf("%-30s %10.1e %12.1e %20.1e\n", far[d].first, worst(near[d].second, near[0].second),
                    worst(far[d].second, far[0].second), worst(far[d].second, far[d - (d > 0)].second));
    return worst(far[2].second, far[4].second) + worst(far[5].second, far[6].second) < 1e-5 ? 0 : 1;
}
