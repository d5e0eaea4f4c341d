// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <memory>
#include <random>
#include <string>

#include <ropewalk/compression/commuting_codebook.hpp>
#include <ropewalk/compression/key_codes.hpp>
#include <ropewalk/compression/low_rank.hpp>
#include <ropewalk/compression/rope_folding.hpp>
#include <ropewalk/core/block_types.hpp>
#include <ropewalk/kv/rebase.hpp>

#include "trace.hpp"

/// Ways to keep the keys of a window in fewer bytes, each as encode and decode.
namespace tinylm {

using keys_view = rw::heads_view<float>;

/// One way: keys of a layer in, codes kept inside, the keys that they stand for out.
struct key_codec {
    std::string name;
    double bytes = 0;           ///< a token and head
    bool rotated_first = true;  ///< codes of rotated keys; else keys are decoded and then rotated
    std::function<std::function<void(keys_view)>(index layer, keys_view k)> encode;  ///< returns the decoder
};

inline rw::heads_view<const float> read_only(keys_view k) { return {k.data, k.shape, k.strides}; }

inline key_codec int8_codec(index channels) {
    return {"int8, a scale a head", static_cast<double>(channels) + 4, true, [](index, keys_view k) {
                return [codes = rw::quantize_int8(read_only(k))](keys_view to) {
                    rw::dequantize_int8(codes, to);
                };
            }};
}
template <class Block>
key_codec block_codec(std::string name, index channels) {
    return {
        std::move(name), static_cast<double>(channels / 32) * static_cast<double>(sizeof(Block)), true,
        [](index, keys_view k) {
            std::vector<Block> codes(static_cast<std::size_t>(k.tokens() * k.heads() * k.channels() / 32));
            const auto each = [](keys_view x, auto f) {
                std::size_t at = 0;
                for (index n = 0; n < x.tokens(); ++n)
                    for (index h = 0; h < x.heads(); ++h)
                        for (index c = 0; c < x.channels(); c += 32) f(x.at(0, n, h) + c, at++);
            };
            each(k, [&](const float* x, std::size_t at) { rw::encode_block(codes[at], x); });
            return [codes, each](keys_view to) {
                each(to, [&](float* x, std::size_t at) { rw::decode_block(codes[at], x); });
            };
        }};
}
/// KVQuant's uniform codes a channel; its order is before the rotation. Two f32 a channel and window of
/// `tokens`.
inline key_codec channel_codec(std::string name, index bits, bool rotated_first, index channels,
                               index tokens) {
    const double each =
        static_cast<double>(channels) * (static_cast<double>(bits) / 8 + 8.0 / static_cast<double>(tokens));
    return {std::move(name), each, rotated_first, [bits](index, keys_view k) {
                const rw::key_codes::channel_config config{.bits = bits};
                return [config, codes = rw::key_codes::encode_channels(config, read_only(k))](keys_view to) {
                    rw::key_codes::decode_channels(config, codes, to);
                };
            }};
}
/// PolarQuant: four bits of radius and of angle a pair, four f32 a pair and 128 tokens.
inline key_codec polar_codec(index channels) {
    return {"PolarQuant 4 + 4 bits", static_cast<double>(channels / 2) * (1 + 16.0 / 128), true,
            [](index, keys_view k) {
                const rw::key_codes::polar_config config{};
                return [config, codes = rw::key_codes::encode_polar(config, read_only(k))](keys_view to) {
                    rw::key_codes::decode_polar(config, codes, to);
                };
            }};
}

/// CommVQ's centres of one round, by alternating nearest centres and least squares.
inline std::vector<double> fit_round(index centres, index pairs, const std::vector<double>& z,
                                     unsigned seed) {
    std::mt19937 engine(seed);
    const index width = 2 * pairs, samples = static_cast<index>(z.size()) / width, count = centres * centres;
    std::vector<double> theta;
    for (index c = 0; c < centres; ++c) {
        const double* const from = z.data() + static_cast<index>(engine()) % samples * width;
        for (index j = 0; j < pairs; ++j) theta.push_back(from[j] / 2), theta.push_back(from[j + pairs] / 2);
    }
    for (int pass = 0; pass < 4; ++pass) {
        const auto large = rw::commvq::expand({1, centres, pairs, theta});
        std::vector<double> assigned(static_cast<std::size_t>(samples * count));
        for (index n = 0; n < samples; ++n) {
            index best = 0;
            double least = HUGE_VAL;
            for (index code = 0; code < count; ++code) {
                double off = 0;
                for (index j = 0; j < pairs; ++j)
                    off += std::pow(z[static_cast<std::size_t>(n * width + j)] -
                                        large[static_cast<std::size_t>(code * width + 2 * j)],
                                    2) +
                           std::pow(z[static_cast<std::size_t>(n * width + pairs + j)] -
                                        large[static_cast<std::size_t>(code * width + 2 * j + 1)],
                                    2);
                if (off < least) least = off, best = code;
            }
            assigned[static_cast<std::size_t>(n * count + best)] = 1;
        }
        const auto rows = rw::commvq::fit_centres(centres, pairs, assigned, z);  // x_0, y_0, x_1, y_1 ...
        for (index c = 0; c < centres; ++c)
            for (index j = 0; j < pairs; ++j)
                for (index part = 0; part < 2; ++part)
                    theta[static_cast<std::size_t>((c * pairs + j) * 2 + part)] =
                        rows[static_cast<std::size_t>((2 * c + part) * pairs + j)];
    }
    return theta;
}
/// CommVQ: residual rounds of 16 x 16 centres, one book a layer fitted to the heads of other text.
inline key_codec commuting_codec(const std::vector<layer_trace>& calibration, index rounds) {
    constexpr index centres = 16;
    auto books = std::make_shared<std::vector<std::vector<double>>>();
    const index channels = calibration.front().kv_shape.channels, pairs = channels / 2;
    for (const auto& layer : calibration) {
        std::vector<double> z, book;
        for (std::size_t at = 0; at < layer.k_data.size(); at += 4 * static_cast<std::size_t>(channels)) {
            double length = 0;
            for (index c = 0; c < channels; ++c)
                length += std::pow(static_cast<double>(layer.k_data[at + static_cast<std::size_t>(c)]), 2);
            for (index c = 0; c < channels; ++c)
                z.push_back(static_cast<double>(layer.k_data[at + static_cast<std::size_t>(c)]) /
                            std::sqrt(length));
        }
        for (index r = 0; r < rounds; ++r) {
            const auto theta = fit_round(centres, pairs, z, static_cast<unsigned>(r + 1));
            // What the round leaves for the next one, by the library's own codes of keys of length 1.
            const auto large = rw::commvq::expand({1, centres, pairs, theta});
            for (std::size_t n = 0; n < z.size(); n += static_cast<std::size_t>(channels)) {
                std::size_t best = 0;
                double least = HUGE_VAL;
                for (std::size_t code = 0; code < large.size(); code += static_cast<std::size_t>(channels)) {
                    double off = 0;
                    for (std::size_t j = 0; j < static_cast<std::size_t>(pairs); ++j)
                        off +=
                            std::pow(z[n + j] - large[code + 2 * j], 2) +
                            std::pow(z[n + static_cast<std::size_t>(pairs) + j] - large[code + 2 * j + 1], 2);
                    if (off < least) least = off, best = code;
                }
                for (std::size_t j = 0; j < static_cast<std::size_t>(pairs); ++j)
                    z[n + j] -= large[best + 2 * j],
                        z[n + static_cast<std::size_t>(pairs) + j] -= large[best + 2 * j + 1];
            }
            book.insert(book.end(), theta.begin(), theta.end());
        }
        books->push_back(std::move(book));
    }
    return {"CommVQ " + std::to_string(rounds) + " rounds", static_cast<double>(rounds) + 4, false,
            [books, rounds, pairs](index layer, keys_view k) {
                const rw::commvq::codebook book{rounds, centres, pairs,
                                                (*books)[static_cast<std::size_t>(layer)]};
                const std::vector<double> heads(k.data, k.data + k.tokens() * k.heads() * k.channels());
                return [books, book, codes = rw::commvq::encode(book, heads)](keys_view to) {
                    const auto x = rw::commvq::decode(book, codes);
                    std::transform(x.begin(), x.end(), to.data,
                                   [](double v) { return static_cast<float>(v); });
                };
            }};
}

}  // namespace tinylm
