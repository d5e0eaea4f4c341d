// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "examples/tinylm/phase_shift_fit.hpp"

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "examples/tinylm/score.hpp"
#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

/// Two layers with random weights; two query heads share one key head.
tinylm::model random_model() {
    tinylm::model m{};
    m.layers = 2, m.hidden = 12, m.intermediate = 10, m.heads = 2, m.kv_heads = 1, m.head_dim = 6,
    m.vocabulary = 16;
    m.norm_epsilon = 1e-5f;
    std::mt19937 engine(5);
    std::normal_distribution<float> normal;
    const auto random = [&](rw::index rows, rw::index columns, float size) {
        return tinylm::matrix(
            tinylm::matrix::NullaryExpr(rows, columns, [&] { return size * normal(engine); }));
    };
    const auto gain = [&] { return tinylm::matrix(random(1, 12, 0.2f).array() + 1); };
    m.embedding = random(16, 12, 1);
    m.head = random(16, 12, 0.5f);
    m.final_norm = gain();
    for (rw::index l = 0; l < 2; ++l)
        m.layer.push_back({.input_norm = gain(),
                           .q = random(12, 12, 0.5f),
                           .k = random(6, 12, 0.5f),
                           .v = random(6, 12, 0.4f),
                           .o = random(12, 12, 0.3f),
                           .post_norm = gain(),
                           .gate = random(10, 12, 0.4f),
                           .up = random(10, 12, 0.4f),
                           .down = random(12, 10, 0.4f)});
    return m;
}
const rw::rotary_scheme half = rw::make_fixed_scheme(
    {.name = "tiny", .head_dim = 6}, rw::frequencies::geometric({.rotary_dim = 6, .base = 100}));

}  // namespace

TEST_CASE("phase_shift_fit: every gradient is the central difference of the loss",
          "[examples][phase_shift][gradient]") {
    const auto m = random_model();
    std::vector<std::uint8_t> text;
    std::mt19937 engine(6);
    for (int i = 0; i < 21; ++i) text.push_back(static_cast<std::uint8_t>(engine() % 16));
    const auto yarn =
        rw::frequencies::yarn({.rotary_dim = 6, .base = 100, .factor = 4, .original_context = 8});
    tinylm::phase_pass<double> pass(m, half, yarn);
    auto modules = tinylm::initial_modules<double>(m), gradient = tinylm::zero_modules<double>(m);
    std::normal_distribution<double> normal(0, 0.6);
    tinylm::each_tensor(modules, [&](auto& tensor) {
        for (double& v : tensor) v = normal(engine);
    });
    const double before = pass.loss(text, modules, &gradient);
    CHECK(before == pass.loss(text, modules));
    std::vector<std::vector<double>*> slopes;
    tinylm::each_tensor(gradient, [&](auto& tensor) { slopes.push_back(&tensor); });
    std::size_t at = 0;
    double largest = 0, off = 0;
    tinylm::each_tensor(modules, [&](auto& tensor) {
        for (std::size_t i = 0; i < tensor.size(); ++i) {
            const double kept = tensor[i], step = 1e-5;
            tensor[i] = kept + step;
            const double above = pass.loss(text, modules);
            tensor[i] = kept - step;
            const double slope = (above - pass.loss(text, modules)) / (2 * step);
            tensor[i] = kept;
            off = std::max(off, std::abs(slope - (*slopes[at])[i]));
            largest = std::max(largest, std::abs(slope));
        }
        ++at;
    });
    CHECK(at == 8);
    CHECK(largest > 1e-3);
    CHECK(off < 1e-7 * (1 + largest));
}

TEST_CASE("phase_shift_fit: at the start the loss is the model's own", "[examples][phase_shift]") {
    const auto m =
        tinylm::load_model(std::filesystem::path(ROPEWALK_TEST_DATA) / "../../../examples/data/tinylm");
    const auto schemes = rw::make_model_schemes(rw::from_huggingface(m.config));
    const auto bytes = tinylm::read_file(std::filesystem::path(ROPEWALK_TEST_DATA) /
                                         "../../../examples/data/tinylm/heldout.txt")
                           .substr(0, 256);
    const tinylm::tokens_view text(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    tinylm::phase_pass<float> pass(m, schemes[0], schemes[0].spectrum_for(256));
    const double wanted =
        tinylm::score(m, text, 256, [&] { return tinylm::make_hook(schemes, 256); }).nats_per_byte;
    CHECK(pass.loss(text, tinylm::initial_modules(m)) == Approx(wanted).epsilon(1e-5));
}

TEST_CASE("phase_shift_fit: a few steps read the text apart better, or leave the start",
          "[examples][phase_shift]") {
    const auto m = random_model();
    std::vector<std::uint8_t> text;
    for (int i = 0; i < 400; ++i) text.push_back(static_cast<std::uint8_t>(i * i / 3 % 16));
    const tinylm::tokens_view all(text);
    int heard = 0;
    const auto fit =
        tinylm::fit_phase_modules(m, half, half.spectrum_for(1), all.first(300), all.subspan(300),
                                  {.context = 50, .steps = 20, .pace = 1e-2}, [&] { ++heard; });
    CHECK(heard == 20);
    CHECK(fit.after < fit.before - 0.01);
    CHECK(fit.best_step > 0);
    tinylm::phase_pass<float> pass(m, half, half.spectrum_for(1));
    const double again =
        (pass.loss(all.subspan(300, 50), fit.modules) + pass.loss(all.subspan(350, 50), fit.modules)) / 2;
    CHECK(again == Approx(fit.after).epsilon(1e-6));
    // Uphill nothing is better than the start.
    const auto none = tinylm::fit_phase_modules(m, half, half.spectrum_for(1), all.first(300),
                                                all.subspan(300), {.context = 50, .steps = 4, .pace = -1e-2});
    CHECK(none.best_step == 0);
    CHECK(none.after == none.before);
}
