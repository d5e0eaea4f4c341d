// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A2ATS on real keys of the tiny checkpoint: decode steps at the end of 256 bytes read sinks, a window and
// the K tokens that quantised keys rank best. How many of the K truly best are among them, and how far the
// output is from full attention, against the bytes read: kv_retrieval [--svg FILE]
#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/compression/retrieval_calibration.hpp>
#include <ropewalk/compression/retrieval_reference.hpp>

#include "figures/svg.hpp"
#include "tinylm/trace.hpp"

namespace tinylm {

void run(const std::string& file) {
    const model m = load_model("data/tinylm");
    const std::string text = read_file("data/tinylm/heldout.txt");
    const index length = 256, windows = 2048 / length, row = 2 * m.head_dim * index{sizeof(float)};
    const auto learn = trace_layers(m, text.substr(text.size() - 2048), length);
    const auto use = trace_layers(m, text.substr(0, 2048), length);
    const auto rope = rw::make_model_schemes(rw::from_huggingface(m.config))[0];
    rw::retrieval_options options{.heads = m.heads, .window = 16, .relative_position = 64, .sinks = 4};
    const rw::retrieval_calibration coarse{.relative_position = 64, .codebook = {.codewords = 32}};
    const rw::retrieval_calibration exact{.relative_position = 64, .codebook = {.codewords = length}};
    const std::vector<index> tops{4, 8, 16, 32, 64};
    const std::vector<double> none(tops.size());
    std::vector<svg::chart> charts{
        {"How many of the K best tokens were read", "bytes read / bytes of K and V", "recall"},
        {"How far the output is from full attention", "bytes read / bytes of K and V", "relative error"}};
    for (auto& c : charts)  // all but the first are charged the rows they read, not the look for them
        for (const char* way : {"A2ATS", "exact keys, one distance", "latest", "random", "the best"})
            c.lines.push_back({way, none, none});
    const double share = 1.0 / static_cast<double>(windows * m.layers);
    const double byte = share / static_cast<double>(length * m.kv_heads * row);
    for (index step = 0; step < windows * m.layers; ++step) {
        const auto l = static_cast<std::size_t>(step / windows);
        const auto x = use[l].window(step % windows);
        const auto learned = rw::make_retrieval_quantizers(learn[l].q(), learn[l].k(), rope, coarse),
                   one_each = rw::make_retrieval_quantizers(x.q, x.k, rope, exact);  // a codeword a key
        for (std::size_t t = 0; t < tops.size(); ++t) {
            options.top_count = tops[t];
            index bytes_read = 0;
            const auto ranked_by = [&](const auto& quantizers) {
                rw::retrieval_cache<> cache(quantizers, rope, options);
                cache.append(x.k);
                std::vector<std::uint8_t> top(static_cast<std::size_t>(m.heads * length));
                matrix out(m.heads, m.head_dim);
                cache.attend(x.last_q(), x.rotated_k, x.v, rw::heads_view(out.data(), 1, m.heads, m.head_dim),
                             {.top = top});
                bytes_read = cache.bytes_read();
                return top;
            };
            const auto one_distance = ranked_by(one_each), a2ats = ranked_by(learned);
            const rw::retrieval_reference all(x.last_q(), x.rotated_k, x.v, rope, options);
            const std::vector chosen{a2ats, one_distance, all.make_recent(),
                                     all.make_random(static_cast<std::uint64_t>(step)), all.best()};
            for (std::size_t way = 0; way < chosen.size(); ++way) {
                const auto quality = all.judge(chosen[way]);
                const auto read = static_cast<double>(way == 0 ? bytes_read : quality.rows_read * row);
                for (auto& c : charts) c.lines[way].x[t] += byte * read;
                charts[0].lines[way].y[t] += share * quality.recall;
                charts[1].lines[way].y[t] += share * quality.output_error;
            }
        }
    }
    std::printf("%-26s%4s%8s%8s%8s\n", "tokens", "K", "bytes", "recall", "error");
    for (std::size_t way = 0; way < charts[0].lines.size(); ++way)
        for (std::size_t t = 0; t < tops.size(); ++t) {
            const auto& [name, read, recall] = charts[0].lines[way];
            std::printf("%-26s%4td%8.3f%8.3f%8.3f\n", name.c_str(), tops[t], read[t], recall[t],
                        charts[1].lines[way].y[t]);
        }
    if (!file.empty()) svg::write(file, charts);
}

}  // namespace tinylm

int main(int count, char** text) { return svg::run_main(count, text, tinylm::run); }
