// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A small Llama from its checkpoint to text, with this library between the projections and the cache:
//     tiny_llama [--model FOLDER] [--prompt TEXT] [--tokens N] [--temperature T] [--seed N] [--all]
// At the end it scores held-out text, compares with the numbers of another implementation, and fails when
// they differ; --all compares every row, and also scores every row with a bf16 cache.
#include <algorithm>
#include <cstdio>
#include <random>

#include "tinylm/model.hpp"
#include "tinylm/score.hpp"

#include <ropewalk/kernels/rotate.hpp>

namespace tinylm {
namespace {

struct arguments {
    std::string model = "data/tinylm", prompt = "And it came to pass";
    index tokens = 240;
    double temperature = 0.6;
    std::uint64_t seed = 1;
    bool all = false;
};

arguments parse(int count, char** text) {
    arguments a;
    for (int i = 1; i < count; ++i) {
        const std::string name = text[i];
        if (name == "--all") {
            a.all = true;
            continue;
        }
        if (i + 1 == count) throw std::invalid_argument(name + " is unknown or lacks its value");
        const std::string value = text[++i];
        if (name == "--model")
            a.model = value;
        else if (name == "--prompt")
            a.prompt = value;
        else if (name == "--tokens")
            a.tokens = std::stol(value);
        else if (name == "--temperature")
            a.temperature = std::stod(value);
        else if (name == "--seed")
            a.seed = std::stoull(value);
        else
            throw std::invalid_argument(name + " is unknown");
    }
    if (a.prompt.empty() || a.tokens < 0)
        throw std::invalid_argument("--prompt must not be empty, --tokens not negative");
    return a;
}

tokens_view as_tokens(const std::string& text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// The most likely byte at temperature 0, else a draw (std::mt19937_64 is the same everywhere).
std::uint8_t choose(const Eigen::RowVectorXf& logits, double temperature, std::mt19937_64& engine) {
    index best = 0;
    const float top = logits.maxCoeff(&best);
    if (temperature <= 0) return static_cast<std::uint8_t>(best);
    const Eigen::RowVectorXd weight = ((logits.array() - top).cast<double>() / temperature).exp();
    double left = static_cast<double>(engine() >> 11) * 0x1p-53 * weight.sum();
    for (best = 0; best + 1 < weight.size() && (left -= weight[best]) >= 0;) ++best;
    return static_cast<std::uint8_t>(best);
}

/// The model's schemes with another rope_scaling in its config, as when a user extends the context.
rw::model_schemes schemes_of(const model& m, const std::string& scaling, double factor) {
    auto config = m.config;
    if (scaling == "linear") config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
    if (scaling == "yarn")
        config["rope_scaling"] = {{"rope_type", "yarn"},
                                  {"factor", factor},
                                  {"original_max_position_embeddings", config["max_position_embeddings"]}};
    auto read = rw::from_huggingface(config);
    if (scaling == "ntk") {  // Hugging Face has no name for static NTK
        read.ropes[0].scaling = rw::rope_scaling::ntk;
        read.ropes[0].factor = factor;
    }
    return rw::make_model_schemes(read);
}

/// Rotates as `inner` does, and records the largest difference from the same rotation in f64.
struct rotation_check {
    rotary inner;
    const rw::model_schemes& schemes;
    std::int64_t context_length;
    double worst = 0, largest = 0;

    void operator()(index layer, rw::heads_view<float> q, rw::heads_view<float> k,
                    std::span<const std::int32_t> positions) {
        rw::position_table<double> table(schemes[layer].spectrum_for(context_length), context_length);
        std::vector<double> wide_q(q.data, q.data + q.tokens() * q.strides.token),
            wide_k(k.data, k.data + k.tokens() * k.strides.token);
        const rw::heads_view exact_q(wide_q.data(), q.shape), exact_k(wide_k.data(), k.shape);
        rw::rotate(schemes[layer], exact_q, exact_k, table.rows(positions));
        inner(layer, q, k, positions);
        for (const auto& [got, wanted] : {std::pair{q, exact_q}, std::pair{k, exact_k}})
            for (index i = 0; i < got.tokens() * got.strides.token; ++i) {
                worst = std::max(worst, std::abs(static_cast<double>(got.data[i]) - wanted.data[i]));
                largest = std::max(largest, std::abs(wanted.data[i]));
            }
    }
};

int run(const arguments& a) {
    const auto m = load_model(a.model);
    const std::filesystem::path folder = a.model;
    const auto reference = parse_json("reference.json", read_file(folder / "reference.json"));
    const auto heldout = read_file(folder / "heldout.txt");
    const auto layers = schemes_of(m, "none", 1);
    const index trained = count_in(m.config, "max_position_embeddings");
    if (heldout.size() < 32768) throw bad_file("heldout.txt: must hold 32768 bytes");
    bool matches = true;

    const auto& rope = layers[0];
    std::printf(
        "scheme      %s: %td of %td channels rotated, pairs %s, base %g, omega %.6g ... %.6g, magnitude %g\n",
        rope.name.c_str(), rope.rotary_dim, rope.head_dim,
        rope.read_layout == rw::half_split{} ? "half-split" : "interleaved",
        m.config.value("rope_theta", 1e4), rope.spectrum_for(trained).omega(0),
        rope.spectrum_for(trained).omega(rope.rotary_dim / 2 - 1), rope.spectrum_for(trained).magnitude());

    // Generate: one prefill, then one token at a time.
    rotary rotate(layers, trained);
    kv_cache<> cache(m, static_cast<index>(a.prompt.size()) + a.tokens);
    std::mt19937_64 engine(a.seed);
    Eigen::RowVectorXf logits = forward(m, as_tokens(a.prompt), cache, std::ref(rotate)).bottomRows<1>();
    const double prefill_ns = rotate.nanoseconds / static_cast<double>(a.prompt.size());
    rotate.nanoseconds = 0;
    std::string text = a.prompt;
    for (index n = 0; n < a.tokens; ++n) {
        const std::uint8_t token = choose(logits, a.temperature, engine);
        text.push_back(static_cast<char>(token));
        logits = forward(m, std::span(&token, 1), cache, std::ref(rotate));
    }
    std::printf("generated   %s\n", text.c_str());
    std::printf(
        "rotation    %.0f ns a token in prefill, %.0f ns in decode (q and k, all %td layers, clock "
        "included)\n",
        prefill_ns, rotate.nanoseconds / static_cast<double>(std::max<index>(a.tokens, 1)), m.layers);

    // Compares with the logits of another implementation, by one prefill and by single steps.
    const auto& wanted = reference.at("logits_first_64_bytes");
    const auto beginning = as_tokens(heldout).first(64);
    rotation_check check{rotary(layers, trained), layers, trained};
    kv_cache<> prefill_cache(m, 64), decode_cache(m, 64);
    const auto prefill = forward(m, beginning, prefill_cache, std::ref(check));
    auto decode = prefill;
    for (index n = 0; n < decode.rows(); ++n)
        decode.row(n) =
            forward(m, beginning.subspan(static_cast<std::size_t>(n), 1), decode_cache, std::ref(rotate));
    double prefill_off = 0, decode_off = 0;
    for (std::size_t r = 0; r < wanted.at("rows").size(); ++r)
        for (index c = 0; c < m.vocabulary; ++c) {
            const auto row = wanted.at("rows").at(r).get<index>() % 64;
            const auto value = wanted.at("data").at(r).at(static_cast<std::size_t>(c)).get<float>();
            prefill_off = std::max<double>(prefill_off, std::abs(prefill(row, c) - value));
            decode_off = std::max<double>(decode_off, std::abs(decode(row, c) - value));
        }
    matches = matches && prefill_off <= 2e-3 && decode_off <= 2e-3;
    std::printf("logits      off by at most %.1e in prefill, %.1e in decode (limit 2e-3)\n", prefill_off,
                decode_off);

    // Scores of the held-out text.
    std::printf(
        "\ncontext  scaling  nats/byte  reference  difference  last quarter  reference  bf16 cache\n");
    const auto scored = as_tokens(heldout).first(32768);
    double worst = 0;
    for (const auto& row : reference.at("rows")) {
        const auto context = row.at("context").get<index>();
        const auto scaling = row.at("scaling").get<std::string>();
        if (!a.all && !(scaling == "yarn" ? context <= 2048 : scaling == "none" && context == trained))
            continue;
        const auto scaled = schemes_of(m, scaling, row.at("factor").get<double>());
        const auto hook = [&] { return make_hook(scaled, context); };
        const auto f32 = score(m, scored, context, hook);
        const double expected = row.at("nats_per_byte").get<double>(), off = f32.nats_per_byte - expected;
        worst = std::max(worst, std::abs(off));
        std::printf("%7td  %-7s  %9.6f  %9.6f  %10.1e  %12.6f  %9.6f", context, scaling.c_str(),
                    f32.nats_per_byte, expected, off, f32.last_quarter, row.at("last_quarter").get<double>());
        if (a.all || context <= 512)
            std::printf("  %10.6f", score<rw::bf16>(m, scored, context, hook).nats_per_byte);
        std::printf("\n");
        std::fflush(stdout);
    }
    matches = matches && worst <= 1e-4;

    // Rotation against f64, on the real queries and keys of the longest requested context.
    kv_cache<> long_cache(m, 2048);
    const auto extended = schemes_of(m, "yarn", 8);
    rotation_check long_check{rotary(extended, 2048), extended, 2048};
    forward(m, scored.first(2048), long_cache, std::ref(long_check));
    std::printf(
        "\nworst rotation error against f64: %.2e at 64 tokens (largest |q|, |k| %.1f), %.2e at 2048 under "
        "YaRN (%.1f)\n",
        check.worst, check.largest, long_check.worst, long_check.largest);
    std::printf("%s\n", matches ? "matches the reference" : "DIFFERS from the reference");
    return matches ? 0 : 1;
}

}  // namespace
}  // namespace tinylm

int main(int count, char** text) {
    try {
        return tinylm::run(tinylm::parse(count, text));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "tiny_llama: %s\n", error.what());
        return 1;
    }
}
