// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Attention beside Eigen's single-thread matrix products of the same operations: q k^T and the scores times
// v, whole matrices, no softmax. A causal call counts as half of them.
//     product_over_kernel: the product's time over ours, so 1 is the speed of a product.

#include <string>

#include <Eigen/Core>

#include <ropewalk/attention/anchor_mask.hpp>
#include <ropewalk/attention/tiled_gradient.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using rw::index;

template <class T>
struct tensors {
    bench::tensor<T> q, k, v, out;
    rw::heads_view<const T> q_view, k_view, v_view;
    rw::heads_view<T> out_view;
    bench::tensor<std::byte> workspace;

    tensors(index queries, index keys, index heads, index channels)
        : q(bench::normal_numbers<T>(static_cast<std::size_t>(queries * heads * channels), 1)),
          k(bench::normal_numbers<T>(static_cast<std::size_t>(keys * heads * channels), 2)),
          v(bench::normal_numbers<T>(static_cast<std::size_t>(keys * heads * channels), 3)),
          out(q.size()),
          q_view(rw::heads_view<const T>::heads_first(q.data(), {1, queries, heads, channels})),
          k_view(rw::heads_view<const T>::heads_first(k.data(), {1, keys, heads, channels})),
          v_view(rw::heads_view<const T>::heads_first(v.data(), {1, keys, heads, channels})),
          out_view(rw::heads_view<T>::heads_first(out.data(), {1, queries, heads, channels})),
          workspace(static_cast<std::size_t>(attention::attend_workspace(q_view, k_view, v_view))) {}

    template <class Mask>
    void attend(const Mask& mask) {
        attention::attend(mask, q_view, k_view, v_view, out_view, std::span<std::byte>(workspace));
    }
};

/// The two products of one head, `share` of the keys of them.
class product {
  public:
    product(index queries, index keys, index channels)
        : q_(matrix::Random(queries, channels)),
          k_(matrix::Random(keys, channels)),
          scores_(queries, keys),
          out_(queries, channels) {}
    void run(index keys) {
        scores_.leftCols(keys).noalias() = q_ * k_.topRows(keys).transpose();
        out_.noalias() = scores_.leftCols(keys) * k_.topRows(keys);
        benchmark::DoNotOptimize(out_.data());
    }

  private:
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    matrix q_, k_, scores_, out_;
};

template <class T>
void prefill(benchmark::State& state, index tokens, bool causal) {
    tensors<T> x(tokens, tokens, 1, 128);
    product both(tokens, tokens, 128);
    const auto kernel = [&] {
        if (causal)
            x.attend(attention::causal_mask{});
        else
            x.attend(attention::full_mask{});
    };
    bench::compare(state, {.contenders = {{"kernel", kernel},
                                          {"product", [&] { both.run(causal ? tokens / 2 : tokens); }}}});
}

/// The backward pass beside five products of the same sizes (two and a half times the forward's two).
void gradient(benchmark::State& state, index tokens, bool causal) {
    tensors<float> x(tokens, tokens, 1, 128);
    product both(tokens, tokens, 128);
    std::vector<float> log_weight(static_cast<std::size_t>(tokens));
    bench::tensor<float> d_out = bench::normal_numbers<float>(x.q.size(), 5), dq(x.q.size()), dk(dq), dv(dq);
    const auto at = [&](bench::tensor<float>& of) {
        return rw::heads_view<float>(of.data(), tokens, 1, 128);
    };
    bench::tensor<std::byte> workspace(
        static_cast<std::size_t>(attention::attend_gradient_workspace(x.q_view, x.v_view)));
    const auto with = [&](const auto& mask) {
        attention::attend(mask, x.q_view, x.k_view, x.v_view, x.out_view, std::span<std::byte>(x.workspace),
                          {.log_weight = log_weight});
        return [&, mask] {
            attention::attend_gradient(
                mask,
                attention::gradient_tensors{x.q_view, x.k_view, x.v_view, x.out_view, at(d_out),
                                            std::span<const float>(log_weight), at(dq), at(dk), at(dv)},
                std::span<std::byte>(workspace));
        };
    };
    const std::function<void()> kernel = causal ? std::function<void()>(with(attention::causal_mask{}))
                                                : std::function<void()>(with(attention::full_mask{}));
    bench::compare(
        state, {.contenders = {{"kernel", kernel}, {"product", [&] {
                                                        const index keys = causal ? tokens / 2 : tokens;
                                                        both.run(keys), both.run(keys), both.run(keys / 2);
                                                    }}}});
}

/// Documents of equal length behind one anchor, forward and backward, beside full causal attention: time over
/// full causal, and that over the share of scores that is seen (bound 1.15).
void anchored(benchmark::State& state, index tokens, index document) {
    tensors<float> x(tokens, tokens, 1, 128);
    attention::anchor_mask mask{{0}, true};
    for (index n = 1; n < tokens; ++n)
        mask.document_start.push_back(static_cast<std::int32_t>((n - 1) / document * document + 1));
    const double share =
        static_cast<double>(mask.seen_count()) / (0.5 * static_cast<double>(tokens * (tokens + 1)));
    bench::compare(state, {.contenders = {{"kernel", [&] { x.attend(mask); }},
                                          {"causal", [&] { x.attend(attention::causal_mask{}); }}}});
    state.counters["share_seen"] = share;
    state.counters["time_over_share"] = 1 / (share * state.counters["causal_over_kernel"]);
}

/// One query a head over a cache, beside one read of it.
template <class T>
void decode(benchmark::State& state, index keys) {
    constexpr index kv_heads = 8, group = 4, channels = 128;
    tensors<T> x(1, keys, kv_heads, channels);
    const auto q = bench::normal_numbers<T>(static_cast<std::size_t>(kv_heads * group * channels), 4);
    bench::tensor<T> out(q.size());
    const rw::heads_view<const T> queries(q.data(), 1, kv_heads * group, channels);
    const rw::heads_view<T> to(out.data(), 1, kv_heads * group, channels);
    using C = rw::compute_t<T>;
    const auto read = [&] {
        auto sum = rw::simd::broadcast(C(0));
        for (const auto* from : {&x.k, &x.v})
            for (std::size_t i = 0; i + std::size_t(rw::simd::lanes<C>) <= from->size();
                 i += std::size_t(rw::simd::lanes<C>))
                sum = sum + rw::simd::load(from->data() + i);
        C lane[rw::simd::lanes<C>];
        rw::simd::store(lane, sum);
        benchmark::DoNotOptimize(lane[0]);
    };
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(x.k.size() * sizeof(T)),
                           .roof = read,
                           .contenders = {{"kernel", [&] {
                                               attention::attend(attention::full_mask{}, queries, x.k_view,
                                                                 x.v_view, to,
                                                                 std::span<std::byte>(x.workspace));
                                           }}}});
}

const int registered = [] {
    for (index tokens : {1024, 4096})
        for (bool causal : {false, true}) {
            const std::string name =
                "tiled/prefill/" + std::to_string(tokens) + (causal ? "/causal" : "/full");
            benchmark::RegisterBenchmark((name + "/f32").c_str(),
                                         [=](benchmark::State& s) { prefill<float>(s, tokens, causal); })
                ->UseManualTime()
                ->Iterations(bench::turns);
            benchmark::RegisterBenchmark((name + "/bf16").c_str(),
                                         [=](benchmark::State& s) { prefill<rw::bf16>(s, tokens, causal); })
                ->UseManualTime()
                ->Iterations(bench::turns);
        }
    for (index tokens : {1024, 4096})
        for (bool causal : {false, true})
            benchmark::RegisterBenchmark(
                ("tiled/gradient/" + std::to_string(tokens) + (causal ? "/causal" : "/full") + "/f32")
                    .c_str(),
                [=](benchmark::State& s) { gradient(s, tokens, causal); })
                ->UseManualTime()
                ->Iterations(bench::turns);
    for (index document : {512, 1024, 2048})
        benchmark::RegisterBenchmark(("tiled/anchored/8192/documents_of_" + std::to_string(document)).c_str(),
                                     [=](benchmark::State& s) { anchored(s, 8192, document); })
            ->UseManualTime()
            ->Iterations(9);
    benchmark::RegisterBenchmark("tiled/decode/8192/f32", [](benchmark::State& s) { decode<float>(s, 8192); })
        ->UseManualTime()
        ->Iterations(bench::turns);
    benchmark::RegisterBenchmark("tiled/decode/8192/bf16",
                                 [](benchmark::State& s) { decode<rw::bf16>(s, 8192); })
        ->UseManualTime()
        ->Iterations(bench::turns);
    return 0;
}();

}  // namespace
