// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A2ATS on real keys of the tiny checkpoint: decode steps at the end of 256 bytes read sinks, a window and
// the K tokens that quantised keys rank best. How many of the exact top K are among them, and how far is the
// output from full attention, against the bytes read?
//     kv_retrieval [--svg FILE]
#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/compression/retrieval_calibration.hpp>
#include <ropewalk/compression/retrieval_reference.hpp>

#include "figures/svg.hpp"
#include "tinylm/trace.hpp"

namespace tinylm {

void run(const std::string& file) {
    // Queries, keys and values of every layer: the end of the text to learn from, the beginning to decode.
    const model m = load_model("data/tinylm");
    const std::string text = read_file("data/tinylm/heldout.txt");
    const index length = 256, windows = 2048 / length, row_bytes = 2 * m.head_dim * index{sizeof(float)};
    const auto calibration = trace_layers(m, text.substr(text.size() - 2048), length);
    const auto decoded = trace_layers(m, text.substr(0, 2048), length);
    const auto rope = rw::make_model_schemes(rw::from_huggingface(m.config))[0];

    // Scores at one distance, by 32 learned codewords or, without quantisation, by one codeword per key.
    rw::retrieval_options options{.heads = m.heads, .window = 16, .relative_position = 64, .sinks = 4};
    const rw::retrieval_calibration coarse{.relative_position = 64, .codebook = {.codewords = 32}};
    const rw::retrieval_calibration exact{.relative_position = 64, .codebook = {.codewords = length}};

    // Bytes of A2ATS include its search; those of the other selections are only the rows that they read.
    const std::vector<index> top_counts{4, 8, 16, 32, 64};
    const std::vector<double> zeros(top_counts.size());
    std::vector<svg::chart> charts{
        {"How many of the K best tokens were read", "bytes read / bytes of K and V", "recall"},
        {"How far the output is from full attention", "bytes read / bytes of K and V", "relative error"}};
    for (auto& chart : charts)
        for (const char* selection : {"A2ATS", "exact keys, one distance", "latest", "random", "the best"})
            chart.lines.push_back({selection, zeros, zeros});

    // Means over all decode steps: the last token of every window, in every layer.
    const index steps = windows * m.layers;
    const double share = 1.0 / static_cast<double>(steps);
    const double byte = share / static_cast<double>(length * m.kv_heads * row_bytes);
    for (index step = 0; step < steps; ++step) {
        const auto layer = static_cast<std::size_t>(step / windows);
        const auto window = decoded[layer].window(step % windows);
        const auto learned =
            rw::make_retrieval_quantizers(calibration[layer].q(), calibration[layer].k(), rope, coarse);
        const auto one_per_key = rw::make_retrieval_quantizers(window.q, window.k, rope, exact);
        for (std::size_t t = 0; t < top_counts.size(); ++t) {
            options.top_count = top_counts[t];
            index bytes_read = 0;
            const auto selected_by = [&](const auto& quantizers) {
                rw::retrieval_cache<> cache(quantizers, rope, options);
                cache.append(window.k);
                std::vector<std::uint8_t> top(static_cast<std::size_t>(m.heads * length));
                matrix out(m.heads, m.head_dim);
                cache.attend(window.last_q(), window.rotated_k, window.v,
                             rw::heads_view(out.data(), 1, m.heads, m.head_dim), {.top = top});
                bytes_read = cache.bytes_read();
                return top;
            };
            const auto one_distance = selected_by(one_per_key), a2ats = selected_by(learned);

            const rw::retrieval_reference full(window.last_q(), window.rotated_k, window.v, rope, options);
            const std::vector selections{a2ats, one_distance, full.make_recent(),
                                         full.make_random(static_cast<std::uint64_t>(step)), full.best()};
            for (std::size_t s = 0; s < selections.size(); ++s) {
                const auto quality = full.judge(selections[s]);
                const auto bytes = static_cast<double>(s == 0 ? bytes_read : quality.rows_read * row_bytes);
                for (auto& chart : charts) chart.lines[s].x[t] += byte * bytes;
                charts[0].lines[s].y[t] += share * quality.recall;
                charts[1].lines[s].y[t] += share * quality.output_error;
            }
        }
    }

    std::printf("%-26s%4s%8s%8s%8s\n", "tokens", "K", "bytes", "recall", "error");
    for (std::size_t s = 0; s < charts[0].lines.size(); ++s)
        for (std::size_t t = 0; t < top_counts.size(); ++t) {
            const auto& [name, bytes, recall] = charts[0].lines[s];
            std::printf("%-26s%4td%8.3f%8.3f%8.3f\n", name.c_str(), top_counts[t], bytes[t], recall[t],
                        charts[1].lines[s].y[t]);
        }
    if (!file.empty()) svg::write(file, charts);
}

}  // namespace tinylm

int main(int count, char** text) { return svg::run_main(count, text, tinylm::run); }
