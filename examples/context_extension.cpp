// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// How far past its training length can a model read? Scores the held-out text of the tiny checkpoint (trained
// at 256 bytes) in windows of 128 to 4096 bytes under every context-extension method. The weights of the
// model do not change: frequencies or the positions of far keys do, and for PSC the queries and keys before
// the rotation. Then it moves all positions away from 0 under three ways of computing angles.
//     context_extension [--model FOLDER] [--bytes N] [--svg FILE]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <map>
#include <mutex>
#include <random>
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <ropewalk/analysis/longrope2_search.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/cope.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "figures/svg.hpp"
#include "tinylm/far_attention.hpp"
#include "tinylm/needle.hpp"
#include "tinylm/phase_shift_fit.hpp"
#include "tinylm/score.hpp"

namespace tinylm {
namespace {

constexpr double trained = 256;

/// The spectrum of a method at a window length; factor = window / trained, never below 1.
struct method {
    std::string name;
    std::function<rw::spectrum(index context, double factor)> make;
    std::string reference = {};                      ///< its name in reference.json
    const phase_modules<>* fitted = nullptr;         ///< applied to queries and keys before the rotation
    std::function<double(index context)> read = {};  ///< its score, where not only frequencies differ
};

class progress {
  public:
    explicit progress(index steps) : steps_(steps) {}
    void step(const std::string& what) {
        if (!shown_) return;
        const std::lock_guard lock(telling_);
        const auto full = static_cast<int>(30 * ++done_ / steps_);
        std::fprintf(stderr, "\r[%.*s%*s] %3td%% %-36s", full, "##############################", 30 - full,
                     "", 100 * done_ / steps_, what.c_str());
        if (done_ == steps_) std::fprintf(stderr, "\r%80s\r", "");
    }

  private:
    index steps_, done_ = 0;
    std::mutex telling_;
#if __has_include(<unistd.h>)
    const bool shown_ = isatty(STDERR_FILENO) != 0;  // not into log files
#else
    const bool shown_ = true;
#endif
};

double nats(const model& m, tokens_view text, index context, const rw::spectrum& frequencies,
            const phase_modules<>* fitted = nullptr) {
    const auto schemes = schemes_with(m, frequencies);
    return score(m, text, context,
                 [&] {
                     const auto rotate = make_hook(schemes, context);
                     return fitted == nullptr
                                ? rotate
                                : rotate_hook([rotate, fitted](index layer, auto q, auto k, auto positions) {
                                      const auto l = static_cast<std::size_t>(layer);
                                      rw::phase_shift::calibrate((*fitted)[l].queries, q);
                                      rw::phase_shift::calibrate((*fitted)[l].keys, k);
                                      rotate(layer, q, k, positions);
                                  });
                 })
        .nats_per_byte;
}

/// A small version of LongRoPE's search: divisors that never decrease with the pair index, starting from
/// YaRN's, changed in one range at a time and kept when a separate part of the text is predicted better.
std::vector<double> search_factors(const model& m, tokens_view held_back, index context, double factor,
                                   const rw::frequencies::longrope_config& base, int rounds, progress& bar) {
    const auto plain = rw::frequencies::geometric({.rotary_dim = base.rotary_dim, .base = base.base});
    const auto yarn = rw::frequencies::yarn(
        {.rotary_dim = base.rotary_dim, .base = base.base, .factor = factor, .original_context = trained});
    std::vector<double> best;
    for (index i = 0; i < plain.pairs(); ++i) best.push_back(plain.omega(i) / yarn.omega(i));
    const auto loss = [&](const std::vector<double>& factors) {
        auto config = base;
        config.factor = factor;
        config.long_factors = factors;
        return nats(m, held_back, context, rw::frequencies::longrope(config, context));
    };
    std::mt19937 engine(7);
    double lowest = loss(best);
    for (int round = 0; round < rounds; ++round) {
        auto candidate = best;
        const std::size_t first = engine() % candidate.size(),
                          last = first + engine() % (candidate.size() - first);
        const double change = std::exp2((static_cast<double>(engine() % 1001) / 500 - 1) * 0.7);
        for (std::size_t i = first; i <= last; ++i)
            candidate[i] = std::clamp(candidate[i] * change, 1.0, 2 * factor);
        for (std::size_t i = 1; i < candidate.size(); ++i)
            candidate[i] = std::max(candidate[i], candidate[i - 1]);
        if (const double now = loss(candidate); now < lowest) lowest = now, best = candidate;
        bar.step("LongRoPE search at " + std::to_string(context));
    }
    return best;
}

/// A small version of LongRoPE2's search: it evolves divisors by the perplexity of lines that occur twice.
std::vector<double> evolve_factors(const model& m, std::string_view held_back, index context, double factor,
                                   rw::frequencies::longrope_config base, index population, index rounds,
                                   progress& bar) {
    const auto samples = make_needles(held_back, context, std::max<index>(1, 4096 / context), 3);
    base.factor = factor;
    return rw::analysis::find_longrope2_factors(
               {.bounds = {.rotary_dim = base.rotary_dim,
                           .base = base.base,
                           .original_context = trained,
                           .target_context = static_cast<double>(context),
                           .largest_factor = 1.25 * factor},
                .population = population,
                .rounds = rounds,
                .parents = 6,
                .mutations = 4,
                .crossovers = 2,
                .step = 0.05,
                .seed = 7},
               [&](std::span<const double> factors) {
                   base.long_factors.assign(factors.begin(), factors.end());
                   const auto schemes = schemes_with(m, rw::frequencies::longrope(base, context));
                   bar.step("LongRoPE2 search at " + std::to_string(context));
                   return needle_loss(m, samples, [&] { return make_hook(schemes, context); });
               })
        .factors;
}

/// Cos and sin of 256 positions from `offset` on, computed in one of three ways.
rw::rotation_table<float> offset_table(const rw::spectrum& s, double offset, const std::string& quality) {
    const auto where = rw::position_ids::text(static_cast<index>(trained), offset);
    const auto table = rw::make_rotation_table<float>(
        s, where,
        quality == "float32 angles" ? rw::angle_arithmetic::float32_product : rw::angle_arithmetic::exact);
    if (quality != "bf16 tables") return table;
    std::vector<rw::bf16> cos, sin;
    for (index row = 0; row < table.row_count(); ++row) {
        for (float c : table.cos_row(row)) cos.push_back(rw::bf16(c));
        for (float x : table.sin_row(row)) sin.push_back(rw::bf16(x));
    }
    return rw::rotation_table<float>::from_arrays(
        cos.data(), sin.data(), {.rows = table.row_count(), .pairs = table.pairs()}, table.magnitude());
}

int run(const std::map<std::string, std::string>& options) {
    const auto start = std::chrono::steady_clock::now();
    const std::filesystem::path folder = options.at("--model");
    const auto m = load_model(folder);
    const auto reference = parse_json("reference.json", read_file(folder / "reference.json"));
    const auto heldout = read_file(folder / "heldout.txt");
    const auto bytes = static_cast<std::size_t>(std::stoul(options.at("--bytes")));
    if (bytes < 4096 || bytes > 32768 || heldout.size() < 65536)
        throw std::invalid_argument("--bytes must be 4096 to 32768, heldout.txt 65536 long");
    const tokens_view all(reinterpret_cast<const std::uint8_t*>(heldout.data()), heldout.size());
    const auto text = all.first(bytes), held_back = all.subspan(32768, 4096);
    const auto rope = rw::make_model_schemes(rw::from_huggingface(m.config))[0];
    const index dim = rope.rotary_dim;
    const double base = m.config.value("rope_theta", 1e4);

    namespace freq = rw::frequencies;
    freq::longrope_config longrope{.rotary_dim = dim, .base = base, .original_context = trained};
    longrope.short_factors.assign(static_cast<std::size_t>(dim / 2), 1.0);
    std::map<index, std::vector<double>> found, evolved;
    const auto plain_ladder = freq::geometric({.rotary_dim = dim, .base = base});
    constexpr index fitted_at = 2048;
    phase_modules<> phase_shift;
    const auto yarn = [=](index, double s) {
        return freq::yarn({.rotary_dim = dim, .base = base, .factor = s, .original_context = trained});
    };
    const std::vector<method> methods{
        {"none", [=](index, double) { return freq::geometric({.rotary_dim = dim, .base = base}); }, "none"},
        {"PI", [=](index, double s) { return freq::linear({.rotary_dim = dim, .base = base, .factor = s}); },
         "linear"},
        {"NTK", [=](index, double s) { return freq::ntk({.rotary_dim = dim, .base = base, .alpha = s}); },
         "ntk"},
        {"dynamic NTK, factor 2",
         [=](index n, double) {
             return freq::dynamic_ntk({.rotary_dim = dim, .base = base, .factor = 2, .max_context = trained},
                                      n);
         }},
        {"NTK-by-parts",
         [=](index, double s) {
             return freq::ntk_by_parts(
                 {.rotary_dim = dim, .base = base, .factor = s, .original_context = trained});
         }},
        {"YaRN", yarn, "yarn"},
        {"YaRN, no temperature",
         [=](index, double s) {
             return freq::yarn({.rotary_dim = dim,
                                .base = base,
                                .factor = s,
                                .original_context = trained,
                                .attention_factor = 1.0});
         }},
        {"Llama-3",
         [=](index, double s) {
             return freq::llama3({.rotary_dim = dim,
                                  .base = base,
                                  .factor = s,
                                  .low_freq_factor = 1,
                                  .high_freq_factor = 4,
                                  .original_context = trained});
         }},
        {"LongRoPE, searched",
         [&](index n, double s) {
             auto config = longrope;
             config.factor = s;
             config.long_factors = s > 1 ? found.at(n) : longrope.short_factors;
             return freq::longrope(config, n);
         }},
        {"PSC, fitted, on YaRN", yarn, {}, &phase_shift},
        {"p-RoPE 0.75",
         [=](index, double) { return freq::p_rope({.head_dim = dim, .base = base, .p = 0.75}); }},
        {"CoPE, 10 pairs",
         [=](index, double) {
             return freq::clip_low(plain_ladder, {.clipped_pairs = 10});  // periods above 256, and one more
         }},
        {"LongRoPE2, searched",
         [&](index n, double s) {
             auto config = longrope;
             config.factor = s;
             config.long_factors = s > 1 ? evolved.at(n) : longrope.short_factors;
             return freq::longrope(config, n);
         }},
        {"DroPE, not recalibrated",
         [=](index, double) {
             return freq::keep_pairs(plain_ladder,
                                     std::vector<std::uint8_t>(static_cast<std::size_t>(dim / 2)));
         }},
        {.name = "dual chunk 192 / 32",
         .make = [=](index, double) { return plain_ladder; },
         .read =
             [&](index n) {
                 const rw::dual_chunk chunks({.chunk_size = 192, .local_size = 32});
                 return score(
                            m, text, n, [&] { return chunk_keys(chunks, plain_ladder); }, {},
                            dual_chunk_attention(chunks, plain_ladder))
                     .nats_per_byte;
             }},
        {.name = "Self-Extend, window 64",
         .make = [=](index, double) { return plain_ladder; },
         .read =
             [&](index n) {
                 index group = 1;  // the least power of two that allows this length
                 while (group * (static_cast<index>(trained) - 64) + 64 < n) group *= 2;
                 return score(m, text, n, no_rotation, {},
                              self_extend_attention(rw::self_extend({.group = group, .window = 64}),
                                                    plain_ladder))
                     .nats_per_byte;
             }},
    };
    const std::vector<index> contexts{128, 256, 512, 1024, 2048, 4096};
    const int rounds = bytes == 32768 ? 10 : 2;
    phase_fit_options fit_options{.context = fitted_at};
    if (bytes < 32768) fit_options.steps = 2;
    const index population = bytes == 32768 ? 24 : 8, generations = 2 * rounds,
                losses = population + 6 * generations;
    progress bar(static_cast<index>(methods.size() * contexts.size()) + 4 * rounds + fit_options.steps +
                 4 * losses);
    // In parallel, since a search is sequential and the longest context has only one window.
    std::map<index, std::future<std::vector<double>>> searches, evolutions;
    for (index n : contexts)
        if (const auto factor = static_cast<double>(n) / trained; factor > 1) {
            searches[n] = std::async(std::launch::async, [&, n, factor] {
                return search_factors(m, held_back, n, factor, longrope, rounds, bar);
            });
            evolutions[n] = std::async(std::launch::async, [&, n, factor] {
                return evolve_factors(m, std::string_view(heldout).substr(32768), n, factor, longrope,
                                      population, generations, bar);
            });
        }
    // PSC is trained on all text that is neither scored nor used to choose a step.
    const auto fit = fit_phase_modules(m, rope, yarn(fitted_at, static_cast<double>(fitted_at) / trained),
                                       all.subspan(32768, 28672), all.subspan(61440, 4096), fit_options,
                                       [&] { bar.step("PSC fit at " + std::to_string(fitted_at)); });
    phase_shift = fit.modules;
    for (auto& [n, search] : searches) found[n] = search.get();
    for (auto& [n, search] : evolutions) evolved[n] = search.get();

    svg::chart picture{.title = "A model trained at 256 bytes, read further",
                       .x_label = "context, bytes",
                       .y_label = "nats per byte",
                       .x_scale = svg::axis_scale::log2};
    std::map<std::string, std::map<index, double>> result;
    double worst = 0;
    for (const auto& way : methods) {
        picture.lines.push_back({.name = way.name, .x = {}, .y = {}});
        for (index n : contexts) {
            bar.step(way.name + " at " + std::to_string(n));
            const double factor = std::max(1.0, static_cast<double>(n) / trained);
            const auto plain = methods[0].make(n, factor), own = way.make(n, factor);
            const bool unchanged = &way != &methods[0] && way.fitted == nullptr && !way.read &&
                                   own.omegas() == plain.omegas() && own.magnitude() == plain.magnitude();
            const double value = way.read    ? way.read(n)
                                 : unchanged ? result["none"][n]
                                             : nats(m, text, n, own, way.fitted);
            result[way.name][n] = value;
            picture.lines.back().x.push_back(static_cast<double>(n));
            picture.lines.back().y.push_back(value);
            for (const auto& row : reference.at("rows"))
                if (bytes == 32768 && row.at("context") == n && row.at("scaling") == way.reference)
                    worst = std::max(worst, std::abs(value - row.at("nats_per_byte").get<double>()));
        }
    }
    std::printf(
        "nats per byte, first %zu held-out bytes, mean over windows of the context; weights untouched\n"
        "PSC: all %td parameters of its modules fitted by %d steps of Adam on 28672 other bytes at context "
        "%td\n"
        "with YaRN; step %d reads 4096 bytes more best (%.4f, %.4f before); the same modules at every "
        "length\n\n"
        "%-24s",
        bytes, 2 * m.layers * (m.heads + m.kv_heads) * m.head_dim * m.head_dim, fit_options.steps, fitted_at,
        fit.best_step, fit.after, fit.before, "context");
    for (index n : contexts) std::printf("%8td", n);
    for (const auto& way : methods) {
        std::printf("\n%-24s", way.name.c_str());
        for (index n : contexts) std::printf("%8.4f", result[way.name][n]);
    }
    if (bytes == 32768) std::printf("\n\nrows that reference.json has: off by at most %.1e", worst);
    const auto claim = [&](const char* what, double left, double right) {
        std::printf("\n%-14s %s (%.3f against %.3f)", left < right ? "reproduces" : "does not", what, left,
                    right);
    };
    std::printf("\n");
    claim("without scaling, longer contexts are read worse: 256 better than 2048", result["none"][256],
          result["none"][2048]);
    claim("YaRN reads 2048 better than no scaling", result["YaRN"][2048], result["none"][2048]);
    claim("YaRN reads 2048 better than NTK", result["YaRN"][2048], result["NTK"][2048]);
    claim("YaRN's temperature helps at 2048", result["YaRN"][2048], result["YaRN, no temperature"][2048]);
    claim("searched LongRoPE factors beat YaRN's at 2048", result["LongRoPE, searched"][2048],
          result["YaRN"][2048]);
    for (index n : {256, 1024, 2048, 4096}) {
        const std::string what = "PSC on YaRN reads " + std::to_string(n) + " better than YaRN alone" +
                                 (n == fitted_at ? ", where it was fitted" : "");
        claim(what.c_str(), result["PSC, fitted, on YaRN"][n], result["YaRN"][n]);
    }
    claim("dual chunk attention reads 2048 better than no scaling", result["dual chunk 192 / 32"][2048],
          result["none"][2048]);
    claim("Self-Extend reads 2048 better than no scaling", result["Self-Extend, window 64"][2048],
          result["none"][2048]);
    claim("CoPE without training reads 2048 better than no scaling", result["CoPE, 10 pairs"][2048],
          result["none"][2048]);
    claim("LongRoPE2's factors beat YaRN's at 2048", result["LongRoPE2, searched"][2048],
          result["YaRN"][2048]);
    claim("PI without fine-tuning reads 2048 better than no scaling", result["PI"][2048],
          result["none"][2048]);
    claim("a longer context is read better: YaRN at 2048 better than none at 256", result["YaRN"][2048],
          result["none"][256]);
    if (options.contains("--svg")) svg::write(options.at("--svg"), picture);

    // The same text with all positions moved: a relative encoding must give the same result.
    std::printf(
        "\n\nall positions moved, context 256, 2048 bytes: nats per byte, and largest change of a "
        "logit\n\n%-10s",
        "offset");
    const std::vector<std::string> qualities{"exact angles", "float32 angles", "bf16 tables"};
    for (const auto& quality : qualities) std::printf("%24s", quality.c_str());
    const auto plain = methods[0].make(256, 1);
    std::vector<matrix> still;  // logits of each window with exact angles at offset 0
    for (double offset : {0.0, 1e2, 1e3, 1e4, 1e5, 1e6}) {
        std::printf("\n%-10g", offset);
        for (const auto& quality : qualities) {
            const auto table = offset_table(plain, offset, quality);
            const rotate_hook rotate = [&](index, auto q, auto k, auto positions) {
                rw::rotate(rope, q, k, table.rows(positions));
            };
            const double value = score(m, text.first(2048), 256, [&] { return rotate; }).nats_per_byte;
            double drift = 0;
            for (std::size_t w = 0; w < 8; ++w) {
                kv_cache<> cache(m, 256);
                const matrix logits = forward(m, text.subspan(256 * w, 256), cache, rotate);
                if (still.size() == w) still.push_back(logits);
                drift = std::max<double>(drift, (logits - still[w]).cwiseAbs().maxCoeff());
            }
            std::printf("%14.6f %9.1e", value, drift);
        }
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    std::printf("\n\n%.0f s on %u threads\n", taken.count(), std::thread::hardware_concurrency());
    return worst <= 1e-4 ? 0 : 1;
}

}  // namespace
}  // namespace tinylm

int main(int count, char** text) {
    try {
        std::map<std::string, std::string> options{{"--model", "data/tinylm"}, {"--bytes", "32768"}};
        for (int i = 1; i < count; i += 2) {
            const std::string name = text[i];
            if (i + 1 == count || !(options.contains(name) || name == "--svg"))
                throw std::invalid_argument(name + " is unknown or lacks its value");
            options[name] = text[i + 1];
        }
        return tinylm::run(options);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "context_extension: %s\n", error.what());
        return 1;
    }
}
