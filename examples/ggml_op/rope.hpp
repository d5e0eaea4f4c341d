// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// In the place of ggml_rope_ext, ggml_rope_multi, their _inplace and _back: all modes, f32 and f16, exact angles.

#include <ggml.h>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/schemes/ggml.hpp>

namespace rw = ropewalk;

/// A kind of rotation, by the parameters of ggml_rope_ext. It outlives the graphs that it is in.
class rope_op {
  public:
    enum pass { forward, backward };
    explicit rope_op(const rw::ggml::rope_ext& p, pass way = forward)
        : omega_(rw::ggml::make_spectrum(p)),
          slice_{.read = rw::ggml::layout_of(p.mode), .first_channel = p.n_offs} {
        std::vector<double> omega;  // a gradient rotates the other way, under the same magnitude
        std::vector<int> axis_of;
        for (rw::index i = 0; i < omega_.pairs(); ++i) {
            omega.push_back(way == forward ? omega_.omega(i) : -omega_.omega(i));
            axis_of.push_back(static_cast<int>(omega_.axis_of(0, i)));
        }
        omega_ = rw::spectrum::selected(omega, axis_of, omega_.axes(), 1, omega_.magnitude());
    }
    /// x [channels, heads, tokens, batches], rotated into a new tensor or in place; positions as ggml's own.
    ggml_tensor* operator()(ggml_context* context, ggml_tensor* x, ggml_tensor* at) {
        ggml_tensor* from[] = {x, at};
        const auto& [c, h, t, b] = x->ne;
        return ggml_custom_4d(context, x->type, c, h, t, b, from, 2, run_of(x, at), GGML_N_TASKS_MAX, this);
    }
    ggml_tensor* in_place(ggml_context* context, ggml_tensor* x, ggml_tensor* at) {
        return ggml_custom_inplace(context, x, &at, 1, run_of(x, at), GGML_N_TASKS_MAX, this);
    }

  private:
    static ggml_custom_op_t run_of(const ggml_tensor* x, const ggml_tensor* at) {
        const auto type = x->type;
        GGML_ASSERT((type == GGML_TYPE_F32 || type == GGML_TYPE_F16) && x->nb[0] == ggml_type_size(type));
        GGML_ASSERT(at->type == GGML_TYPE_I32 && ggml_is_contiguous(at));
        return type == GGML_TYPE_F32 ? run<float> : run<rw::f16>;
    }
    template <class T>
    static void run(ggml_tensor* to, int part, int parts, void* op) {
        const auto& [omega, slice] = *static_cast<const rope_op*>(op);
        const auto view = [](const ggml_tensor* x) {
            const auto stride = [x](int i) { return static_cast<rw::index>(x->nb[i] / sizeof(T)); };
            return rw::heads_view<T>(static_cast<T*>(x->data), {x->ne[3], x->ne[2], x->ne[1], x->ne[0]},
                                     {stride(3), stride(2), stride(1)});
        };
        const ggml_tensor* at = to->src[1];
        const std::span where(static_cast<std::int32_t*>(at->data), static_cast<std::size_t>(at->ne[0]));
        const auto rows = rw::rows_on_the_fly(omega, where, rw::position_order::axes_tokens);
        rw::rotate_into(slice, view(to->src[0]), view(to), rows.repeated(to->ne[3]),
                        {rw::unrotated_numbers::copied, {parts, part}});
    }
    rw::spectrum omega_;
    rw::layout_slice slice_;
};
