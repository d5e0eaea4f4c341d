// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A2ATS on real keys of the tiny checkpoint: a decode step at the end of 256 bytes reads sinks, a window and
// the K tokens that quantised keys rank best. How many of the K truly best it finds, and how far its output
// is from full attention, against the share of K and V read; beside random and most recent tokens.
#include <cstdio>
#include <numeric>
#include <random>

#include <ropewalk/cache/codebook.hpp>
#include <ropewalk/cache/retrieval.hpp>

#include "tinylm/model.hpp"

namespace tinylm {
namespace {

constexpr index length = 256, sinks = 4, window = 16, relative = 64;

struct head_data {  // one head of one layer, [tokens, channels]
    Eigen::MatrixXd q, k, v;
};

std::vector<head_data> heads_of(const model& m, tokens_view text) {
    std::vector<head_data> all;
    const auto rope = make_hook(rw::make_model_schemes(rw::from_huggingface(m.config)), length);
    kv_cache<> cache(m, length);
    forward(m, text, cache, [&](index layer, auto q, auto k, auto positions) {
        for (index h = 0; h < q.heads(); ++h) {
            const auto of = [&](auto x) -> Eigen::MatrixXd {
                return Eigen::MatrixXd::NullaryExpr(
                    x.tokens(), x.channels(), [&](index n, index c) { return double(x.at(0, n, h)[c]); });
            };
            all.push_back({of(q), of(k), {}});
        }
        rope(layer, q, k, positions);
    });
    for (std::size_t i = 0; i < all.size(); ++i) {
        const auto v = cache.view(cache.layer[i / static_cast<std::size_t>(m.heads)].v, length);
        all[i].v = Eigen::MatrixXd::NullaryExpr(length, m.head_dim, [&](index n, index c) {
            return double(v.at(0, n, static_cast<index>(i) % m.heads)[c]);
        });
    }
    return all;
}

int run() {
    const model m = load_model("data/tinylm");
    const std::string bytes = read_file("data/tinylm/heldout.txt");
    const std::vector<std::uint8_t> text(bytes.begin(), bytes.end());
    const auto learn = heads_of(m, tokens_view(text).subspan(32768, length)),
               use = heads_of(m, tokens_view(text).first(length));
    const auto rope = rw::make_model_schemes(rw::from_huggingface(m.config))[0];
    const auto omega = rope.spectrum_for(length);
    using rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const auto turned = [&](const Eigen::MatrixXd& x, const rw::position_ids& where) {
        rows y = x;
        rw::rotate(rope, rw::heads_view(y.data(), y.rows(), 1, y.cols()),
                   rw::make_rotation_table<double>(omega, where));
        return y;
    };
    std::printf("%6s%10s  %-10s%10s%10s\n", "K", "rows read", "by", "recall", "error");
    for (index top : {8, 16, 32, 64}) {
        double read = 0, recall[3] = {}, error[3] = {};
        for (std::size_t i = 0; i < use.size(); ++i) {
            const std::vector<double> fixed(length, relative);
            const auto metric = rw::make_query_metric(turned(learn[i].q, rw::position_ids::from(fixed)));
            const auto fit = rw::make_codebook<double>(learn[i].k, metric, {.codewords = 128});
            rw::retrieval_cache<double> cache(
                {fit.quantizer(metric)}, rope,
                {.window = window, .relative_position = relative, .sinks = sinks, .top_count = top});
            rows q = use[i].q.bottomRows(1), k = use[i].k, v = use[i].v;
            const rw::heads_view query(q.data(), 1, 1, m.head_dim), raw(k.data(), length, 1, m.head_dim);
            cache.append(raw);
            rows keys = turned(use[i].k, rw::position_ids::text(length));
            const rw::heads_view kv(keys.data(), length, 1, m.head_dim), vv(v.data(), length, 1, m.head_dim);
            const rows near = turned(use[i].q.bottomRows(1), rw::position_ids::text(1, length - 1));
            const Eigen::VectorXd exact = keys * near.row(0).transpose();
            std::vector<std::int32_t> order(static_cast<std::size_t>(length - sinks - window));
            std::iota(order.begin(), order.end(), static_cast<std::int32_t>(sinks));
            auto best = order, chance = order;
            std::sort(best.begin(), best.end(), [&](auto a, auto b) { return exact[a] > exact[b]; });
            std::mt19937 engine(static_cast<unsigned>(i));
            std::shuffle(chance.begin(), chance.end(), engine);
            std::vector<std::uint8_t> true_top(length), picked(length);
            for (index j = 0; j < top; ++j)
                true_top[static_cast<std::size_t>(best[static_cast<std::size_t>(j)])] = 1;
            rows full(1, m.head_dim), out(1, m.head_dim);
            rw::row_attention<double> attention(
                {.heads = 1, .key_channels = m.head_dim, .value_channels = m.head_dim});
            const double scale = 1 / std::sqrt(static_cast<double>(m.head_dim));
            const auto attend = [&](rows& to, const std::vector<std::int32_t>& chosen) {
                attention.attend(
                    rw::heads_view(near.data(), 1, 1, m.head_dim), kv, vv,
                    rw::heads_view(to.data(), 1, 1, m.head_dim),
                    {.scale = scale, .listed = chosen.data(), .count = static_cast<index>(chosen.size())});
            };
            std::vector<std::int32_t> everything(length);
            std::iota(everything.begin(), everything.end(), 0);
            attend(full, everything);
            for (int way = 0; way < 3; ++way) {  // A2ATS, random, most recent
                if (way == 0) {
                    cache.attend(query, kv, vv, rw::heads_view(out.data(), 1, 1, m.head_dim),
                                 {.top = picked});
                    read += static_cast<double>(cache.rows_read()) / length / static_cast<double>(use.size());
                } else {
                    std::fill(picked.begin(), picked.end(), std::uint8_t{0});
                    for (index j = 0; j < top; ++j)
                        picked[static_cast<std::size_t>(way == 1 ? chance[static_cast<std::size_t>(j)]
                                                                 : length - window - 1 - j)] = 1;
                    std::vector<std::int32_t> chosen;
                    for (index n = 0; n < length; ++n)
                        if (picked[static_cast<std::size_t>(n)] || n < sinks || n >= length - window)
                            chosen.push_back(static_cast<std::int32_t>(n));
                    attend(out, chosen);
                }
                double hits = 0;
                for (std::size_t n = 0; n < picked.size(); ++n) hits += picked[n] && true_top[n];
                recall[way] += hits / static_cast<double>(top) / static_cast<double>(use.size());
                error[way] += (out - full).norm() / full.norm() / static_cast<double>(use.size());
            }
        }
        const char* names[] = {"A2ATS", "random", "recent"};
        for (int way = 0; way < 3; ++way)
            std::printf("%6td%9.1f%%  %-10s%10.3f%10.3f\n", top, 100 * read, names[way], recall[way],
                        error[way]);
    }
    return 0;
}

}  // namespace
}  // namespace tinylm

int main() {
    try {
        return tinylm::run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "kv_retrieval: %s\n", error.what());
        return 1;
    }
}
