// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// ONNX's RotaryEmbedding operator (opset 23) under the standard's names, on the runtime's dense tensors.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace onnx {

/// A dense row-major tensor: the runtime's data and dimensions.
/// Source: ONNX intermediate representation.
template <class T>
struct tensor {
    T* data = nullptr;
    std::span<const std::int64_t> dims;  ///< extents, outermost first
};

/// The attributes of RotaryEmbedding under the standard's names; the defaults are the standard's.
/// Source: ONNX operator RotaryEmbedding, since version 23.
struct rotary_embedding_attributes {
    std::int64_t interleaved = 0;           ///< 0: half_split, 1: interleaved pairs
    std::int64_t num_heads = 0;             ///< heads of a rank-3 input; rank 4 names them in its shape
    std::int64_t rotary_embedding_dim = 0;  ///< leading channels of a head that rotate; 0 = all
};

/// The inputs of RotaryEmbedding. T: float, f16, bf16 (and double). C is the caches' type, T by the standard.
/// Source: ONNX operator RotaryEmbedding, since version 23.
template <class T, class C = T>
struct rotary_embedding_inputs {
    tensor<const T> x;  ///< [batch, heads, seq, head_size] or [batch, seq, heads * head_size]
    /// [max_position, rotary / 2] with position_ids, else [batch, seq, rotary / 2].
    tensor<const C> cos_cache;
    tensor<const C> sin_cache;                     ///< shaped like cos_cache
    tensor<const std::int64_t> position_ids = {};  ///< [batch, seq]; empty dims: absent
};

}  // namespace onnx

namespace detail {

/// require() for dimensions. The text is formed only when it is thrown, so a check that holds does not
/// allocate.
inline void require_dims(bool holds, const char* parameter_must, std::span<const std::int64_t> got) {
    if (holds) return;
    std::string text = "[";
    for (std::size_t i = 0; i < got.size(); ++i) text += (i ? "," : "") + std::to_string(got[i]);
    require(false, "onnx::rotary_embedding", parameter_must, text + "]");
}

/// The checked shapes of one call of the operator.
struct onnx_rotary_plan {
    heads_shape shape;
    heads_strides strides;
    index rotary_dim = 0;
    index cache_rows = 0;
};

inline onnx_rotary_plan make_onnx_rotary_plan(std::span<const std::int64_t> dims,
                                              const onnx::rotary_embedding_attributes& attributes) {
    constexpr const char* who = "onnx::rotary_embedding";
    require_dims(dims.size() == 3 || dims.size() == 4, "x must have rank 3 or 4", dims);
    for (std::int64_t extent : dims) require_dims(extent >= 0, "x must have dimensions >= 0", dims);
    const std::array<index, 4> x = {saturated(dims[0]), saturated(dims[1]), saturated(dims[2]),
                                    dims.size() == 4 ? saturated(dims[3]) : 1};
    checked_product(who, "x must have dimensions >= 0", {x[0], x[1], x[2], x[3]});
    require(attributes.interleaved == 0 || attributes.interleaved == 1, who, "interleaved must be 0 or 1",
            attributes.interleaved);
    require(attributes.num_heads >= 0, who, "num_heads must be >= 0", attributes.num_heads);
    const index num_heads = saturated(attributes.num_heads);
    onnx_rotary_plan plan;
    if (dims.size() == 4) {
        require(attributes.num_heads == 0 || attributes.num_heads == x[1], who,
                "num_heads must be 0 or the heads of x", attributes.num_heads);
        plan.shape = {x[0], x[2], x[1], x[3]};
        plan.strides = {x[1] * x[2] * x[3], x[3], x[2] * x[3]};
    } else {
        require(attributes.num_heads > 0, who, "num_heads must be > 0 for a rank-3 x", attributes.num_heads);
        require(x[2] % num_heads == 0, who, "num_heads must divide the last dimension of x",
                attributes.num_heads);
        const index channels = x[2] / num_heads;
        plan.shape = {x[0], x[1], num_heads, channels};
        plan.strides = {x[1] * x[2], x[2], channels};
    }
    const index channels = plan.shape.channels;
    require(attributes.rotary_embedding_dim >= 0 && attributes.rotary_embedding_dim <= channels, who,
            "rotary_embedding_dim must be 0 .. head_size", attributes.rotary_embedding_dim);
    plan.rotary_dim =
        attributes.rotary_embedding_dim == 0 ? channels : saturated(attributes.rotary_embedding_dim);
    require(plan.rotary_dim % 2 == 0, who, "the channels that rotate must be even", plan.rotary_dim);
    return plan;
}

/// Checks the caches against the plan and stores their number of rows in it.
inline void check_onnx_caches(onnx_rotary_plan& plan, std::span<const std::int64_t> cos,
                              std::span<const std::int64_t> sin,
                              const onnx::tensor<const std::int64_t>& position_ids) {
    constexpr const char* who = "onnx::rotary_embedding";
    const index tokens = plan.shape.batches * plan.shape.tokens;
    require_dims(std::ranges::equal(cos, sin), "sin_cache must be shaped like cos_cache", sin);
    if (!position_ids.dims.empty()) {
        require_dims(std::ranges::equal(position_ids.dims, std::array{plan.shape.batches, plan.shape.tokens}),
                     "position_ids must be [batch, seq]", position_ids.dims);
        require_dims(cos.size() == 2, "cos_cache must have rank 2 beside position_ids", cos);
        require_dims(cos[0] >= 0, "cos_cache must have dimensions >= 0", cos);
        plan.cache_rows = saturated(cos[0]);
        for (index n = 0; n < tokens; ++n)
            require(position_ids.data[n] >= 0 && position_ids.data[n] < plan.cache_rows, who,
                    "position_ids must be rows of cos_cache", position_ids.data[n]);
    } else {
        require_dims(cos.size() == 3, "cos_cache must have rank 3 without position_ids", cos);
        require_dims(cos[0] == plan.shape.batches && cos[1] == plan.shape.tokens,
                     "cos_cache must be [batch, seq, rotary / 2]", cos);
        plan.cache_rows = tokens;
    }
    require_dims(cos.back() == plan.rotary_dim / 2, "cos_cache must end in half the channels that rotate",
                 cos);
}

}  // namespace detail

namespace onnx {

/// The standard's RotaryEmbedding: y is x with the first rotary_embedding_dim channels of each head rotated
/// by the cos and sin of its token. The caches may hold any numbers; for example, a magnitude may be
/// multiplied in.
///
///     onnx::rotary_embedding<float>({.x = {x, x_dims}, .cos_cache = {cos, cache_dims},
///                                    .sin_cache = {sin, cache_dims}, .position_ids = {ids, id_dims}}, y);
///
/// Shapes:   y like x. y may be x itself (in place) but must not overlap it otherwise.
/// Throws:   invalid_config on a rank, a dimension or an attribute that does not fit, and on a position
///           outside the cache (negative ones included).
/// Cost:     a copy of x unless y is x, then one pass. Caches of f32 (f64 for f64 data) are read in place and
///           nothing is allocated. 16-bit caches are converted, for the tokens of this call only: an engine
///           that calls repeatedly with the same 16-bit caches should keep a rotation_table::from_arrays and
///           call rotate.
/// Accuracy: arithmetic in f32 (f64 for f64 data), one rounding to T at the end.
/// Source:   ONNX operator RotaryEmbedding, since version 23 (onnx.ai).
template <class T, class C = T>
void rotary_embedding(const rotary_embedding_inputs<T, C>& in, T* y,
                      const rotary_embedding_attributes& attributes = {}) {
    auto plan = detail::make_onnx_rotary_plan(in.x.dims, attributes);
    detail::check_onnx_caches(plan, in.cos_cache.dims, in.sin_cache.dims, in.position_ids);
    if (heads_view<T>(y, plan.shape).empty()) return;

    const index tokens = plan.shape.batches * plan.shape.tokens;
    const index pairs = plan.rotary_dim / 2;
    const bool by_position = !in.position_ids.dims.empty();
    const pair_layout layout =
        attributes.interleaved ? pair_layout(interleaved{}) : pair_layout(half_split{});
    // x is dense, so one copy also moves the channels that do not rotate.
    if (y != in.x.data) std::copy_n(in.x.data, tokens * plan.shape.heads * plan.shape.channels, y);
    const heads_view<T> slice = heads_view<T>(y, plan.shape, plan.strides).channel_slice(0, plan.rotary_dim);
    if constexpr (std::is_same_v<C, compute_t<T>>) {
        rows_view<C> rows;
        rows.cos = in.cos_cache.data;
        rows.sin = in.sin_cache.data;
        rows.table_rows = plan.cache_rows;
        rows.pairs = pairs;
        rows.row_stride = pairs;
        rows.tokens = tokens;
        rows.indices.wide = by_position ? in.position_ids.data : nullptr;
        rotate(layout, slice, rows);
    } else {
        std::vector<C> gathered(static_cast<std::size_t>(2 * tokens * pairs));
        for (index n = 0; n < tokens; ++n) {
            const index row = (by_position ? in.position_ids.data[n] : n) * pairs;
            std::copy_n(in.cos_cache.data + row, pairs, gathered.begin() + n * pairs);
            std::copy_n(in.sin_cache.data + row, pairs, gathered.begin() + (tokens + n) * pairs);
        }
        rotate(layout, slice,
               rotation_table<compute_t<T>>::from_arrays(gathered.data(), gathered.data() + tokens * pairs,
                                                         {.rows = tokens, .pairs = pairs}));
    }
}

}  // namespace onnx
}  // namespace ROPEWALK_NAMESPACE
