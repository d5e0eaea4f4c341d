// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

#include "model.hpp"

namespace tinylm {

/// The model's scheme with other frequencies, in every layer.
inline rw::model_schemes schemes_with(const model& m, const rw::spectrum& frequencies) {
    auto rope = rw::make_model_schemes(rw::from_huggingface(m.config))[0];
    rope.frequencies = [frequencies](std::int64_t) { return frequencies; };
    return {{rope}, std::vector<int>(static_cast<std::size_t>(m.layers), 0)};
}

struct text_score {
    double nats_per_byte = 0;
    double last_quarter = 0;  ///< over the last context / 4 predictions of each window
};

/// Nats per byte of a text cut into back-to-back windows, each predicted from itself alone. `make_hook`
/// gives every thread a hook of its own; `done` hears after every window how many are finished.
template <class C = float>
text_score score(const model& m, tokens_view text, index context,
                 const std::function<rotate_hook()>& make_hook, const std::function<void(index)>& done = {},
                 const attention_hook& attention = {}) {
    if (context < 4)
        throw std::invalid_argument("score: context must be >= 4, got " + std::to_string(context));
    const index windows = static_cast<index>(text.size()) / context, last = context - 1 - context / 4;
    std::vector<text_score> of_window(static_cast<std::size_t>(windows));
    const auto score_window = [&](index w, const rotate_hook& rotate) {
        const auto bytes =
            text.subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context));
        kv_cache<C> cache(m, context);
        const matrix logits = forward(m, bytes, cache, rotate, attention);
        for (index n = 0; n + 1 < context; ++n) {
            const Eigen::ArrayXd row = logits.row(n).transpose().array().template cast<double>();
            const double nats = row.maxCoeff() + std::log((row - row.maxCoeff()).exp().sum()) -
                                row[bytes[static_cast<std::size_t>(n + 1)]];
            auto& sum = of_window[static_cast<std::size_t>(w)];
            sum.nats_per_byte += nats / static_cast<double>(context - 1);
            if (n >= last) sum.last_quarter += nats / static_cast<double>(context / 4);
        }
    };
    std::atomic<index> next = 0, finished = 0;
    std::mutex telling;
    std::exception_ptr failed;
    const auto work = [&] {
        try {
            const rotate_hook rotate = make_hook();
            for (index w; (w = next++) < windows;) {
                score_window(w, rotate);
                const std::lock_guard lock(telling);
                if (++finished; done) done(finished);
            }
        } catch (...) {
            const std::lock_guard lock(telling);
            failed = std::current_exception();
        }
    };
    std::vector<std::thread> threads(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
    for (auto& thread : threads) thread = std::thread(work);
    for (auto& thread : threads) thread.join();
    if (failed) std::rethrow_exception(failed);
    text_score mean;
    for (const auto& w : of_window) {
        mean.nats_per_byte += w.nats_per_byte / static_cast<double>(windows);
        mean.last_quarter += w.last_quarter / static_cast<double>(windows);
    }
    return mean;
}

}  // namespace tinylm
