// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <random>

#include <ropewalk/analysis/needle_perplexity.hpp>

#include "far_attention.hpp"
#include "score.hpp"

namespace tinylm {

/// A text that has a verse of its own somewhere and repeats it at its end.
struct needle_sample {
    std::vector<std::uint8_t> bytes;
    index answer;  ///< where the bytes begin that can be known from the verse: the text's last ones
};

/// `count` samples of `context` bytes from a text, the needle at depths spread evenly from begin to end. A model
/// that has seen no digits cannot repeat a number: the needle is a line of the text from elsewhere, of which
/// the end gives the first twelve bytes and asks for the next 24.
inline std::vector<needle_sample> make_needles(std::string_view text, index context, index count,
                                               unsigned seed) {
    constexpr std::size_t given = 12, asked = 24;
    std::mt19937 engine(seed);
    std::vector<needle_sample> samples;
    for (index n = 0; n < count; ++n) {
        const auto line_after = [&](std::size_t at) { return text.find('\n', at) + 1; };
        const auto needle = text.substr(line_after(engine() % (text.size() / 4)), given + asked);
        const auto room = static_cast<std::size_t>(context) - 2 * needle.size() - 2;
        const std::size_t from = text.size() / 2 + engine() % (text.size() / 2 - room);
        std::string hay(text.substr(from, room));
        const auto wanted = static_cast<std::size_t>((static_cast<double>(n) + 0.5) /
                                                     static_cast<double>(count) * static_cast<double>(room));
        const auto line = hay.find('\n', wanted);
        hay.insert(line == std::string::npos ? 0 : line + 1, std::string(needle) + "\n");
        hay += "\n" + std::string(needle);
        const auto answer = static_cast<index>(hay.size() - asked);
        samples.push_back({{hay.begin(), hay.end()}, answer});
    }
    return samples;
}

/// LongRoPE2's loss: the perplexity of the answers' digits under a spectrum, samples side by side.
inline double needle_loss(const model& m, const std::vector<needle_sample>& samples,
                          const std::function<rotate_hook()>& make_hook) {
    std::vector<double> losses(samples.size() * 24);
    std::atomic<std::size_t> next = 0;
    const auto work = [&] {
        const rotate_hook rotate = make_hook();
        for (std::size_t s; (s = next++) < samples.size();) {
            const auto& [bytes, answer] = samples[s];
            kv_cache<> cache(m, static_cast<index>(bytes.size()));
            const matrix logits = forward(m, bytes, cache, rotate, tiled_attention());
            for (index d = 0; d < 24; ++d) {
                const Eigen::ArrayXd row = logits.row(answer + d - 1).transpose().array().cast<double>();
                losses[s * 24 + static_cast<std::size_t>(d)] =
                    row.maxCoeff() + std::log((row - row.maxCoeff()).exp().sum()) -
                    row[bytes[static_cast<std::size_t>(answer + d)]];
            }
        }
    };
    std::vector<std::thread> threads(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
    for (auto& thread : threads) thread = std::thread(work);
    for (auto& thread : threads) thread.join();
    return rw::needle_perplexity(losses, std::vector<std::uint8_t>(losses.size(), 1));
}

}  // namespace tinylm
