// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Keys in fewer bytes on the tiny checkpoint: the bytes per token and head, the error of scores, the nats per
// byte of the text, and the time to write and read a key, beside int8. TransMLA keeps one rotated virtual
// head and a latent of the others; all other methods quantise keys, before or after the rotation.
#include <cstdio>

#include "tinylm/far_attention.hpp"
#include "tinylm/key_codecs.hpp"
#include "tinylm/score.hpp"
#include "tinylm/transmla.hpp"

namespace tinylm {
namespace {

int run() {
    const auto m = load_model("data/tinylm");
    const auto text = read_file("data/tinylm/heldout.txt");
    const tokens_view bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    constexpr index context = 256;
    const auto calibration = trace_layers(m, std::string_view(text).substr(32768, 16 * context), context);
    const auto seen = trace_layers(m, std::string_view(text).substr(0, 4 * context), context);
    const index d = m.head_dim;
    const auto schemes = rw::make_model_schemes(rw::from_huggingface(m.config));
    const auto plain =
        score(m, bytes.first(8192), context, [&] { return make_hook(schemes, context); }).nats_per_byte;
    std::printf("%-24s %14s %12s %12s %10s %10s\n%-24s %14.1f %12.4f %12.4f\n", "", "bytes a key",
                "score error", "nats / byte", "write ns", "read ns", "f32", 4.0 * static_cast<double>(d), 0.0,
                plain);

    const std::vector<key_codec> codecs{int8_codec(d),
                                        block_codec<rw::q8_0>("q8_0", d),
                                        block_codec<rw::q4_0>("q4_0", d),
                                        channel_codec("KVQuant 4 bits", 4, false, d, context),
                                        channel_codec("the same after rotation", 4, true, d, context),
                                        channel_codec("KVQuant 3 bits", 3, false, d, context),
                                        polar_codec(d),
                                        commuting_codec(calibration, 8),
                                        commuting_codec(calibration, 16)};
    for (const auto& codec : codecs) {
        double write = 0, read = 0, keys = 0;
        std::mutex adding;
        // Queries as usual; keys are encoded and decoded, before or after the rotation.
        const auto hook = [&] {
            return [&, rotate = make_hook(schemes, context)](index layer, auto q, auto k, auto positions) {
                auto spare = std::vector<float>(k.data, k.data + k.tokens() * k.heads() * d);
                const keys_view other(spare.data(), k.tokens(), k.heads(), d);
                if (codec.rotated_first) rotate(layer, q, k, positions);
                const auto start = std::chrono::steady_clock::now();
                const auto decode = codec.encode(layer, k);
                const auto between = std::chrono::steady_clock::now();
                decode(k);
                const std::chrono::duration<double, std::nano> wrote = between - start,
                                                               was_read =
                                                                   std::chrono::steady_clock::now() - between;
                if (!codec.rotated_first) rotate(layer, q, k, positions);
                const std::lock_guard lock(adding);
                write += wrote.count(), read += was_read.count(),
                    keys += static_cast<double>(k.tokens() * k.heads());
            };
        };
        const double nats = score(m, bytes.first(8192), context, hook).nats_per_byte;
        const double error = score_error(m, seen, schemes, [&](index layer, keys_view k, auto rotate) {
            if (codec.rotated_first) rotate(k);
            codec.encode(layer, k)(k);
            if (!codec.rotated_first) rotate(k);
        });
        std::printf("%-24s %14.1f %12.4f %12.4f %10.0f %10.0f\n", codec.name.c_str(), codec.bytes, error,
                    nats, write / keys, read / keys);
    }
    for (const auto& [fold, rank] :
         {std::pair<index, index>{1, 0}, {1, 32}, {1, 96}, {4, 32}, {8, 32}, {8, 96}}) {
        const auto folded = make_transmla(m, calibration, fold, rank);
        const double nats =
            score(m, bytes.first(8192), context, no_rotation, {}, folded.attention()).nats_per_byte;
        std::printf("TransMLA fold %td, rank %-5td %14.1f %12.4f %12.4f   one head %.3f of the energy\n",
                    fold, rank, folded.bytes_a_head(), folded.score_error(seen), nats, folded.share());
    }
    return 0;
}

}  // namespace
}  // namespace tinylm

int main() { return tinylm::run(); }
