// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Two RoAd adapters on the output layer of the tiny checkpoint: each is fitted to a spelling that the model
// has not seen; then both and the model without adapter serve one batch.
#include <cmath>
#include <cstdio>

#include <ropewalk/adapters/road_bank.hpp>
#include <ropewalk/adapters/road_gradient.hpp>

#include "tinylm/model.hpp"

namespace {

namespace rw = ropewalk;
namespace road = rw::road;
constexpr rw::index context = 256, bytes = 128;

/// Rows of logits and the byte that should follow each.
struct lesson {
    std::vector<float> logits;
    std::string next;
};
lesson read(const tinylm::model& m, const std::string& text) {
    lesson made;
    const auto rotate = tinylm::make_hook(rw::make_model_schemes(rw::from_huggingface(m.config)), context);
    for (std::size_t at = 0; at + context < text.size(); at += context) {
        tinylm::kv_cache<> cache(m, context);
        const auto out = tinylm::forward(
            m, {reinterpret_cast<const std::uint8_t*>(text.data()) + at, context}, cache, rotate);
        made.logits.insert(made.logits.end(), out.data(), out.data() + out.size());
        made.next += text.substr(at + 1, context);
    }
    return made;
}
rw::heads_view<float> rows(std::vector<float>& x) {
    return {x.data(), static_cast<rw::index>(x.size()) / bytes, 1, bytes};
}
/// Mean nats per byte; the rows become dL/dlogits.
double loss(std::vector<float>& rows, const std::string& next) {
    Eigen::Map<tinylm::matrix> p(rows.data(), static_cast<rw::index>(next.size()), bytes);
    double sum = 0;
    for (rw::index n = 0; n < p.rows(); ++n) {
        p.row(n) = (p.row(n).array() - p.row(n).maxCoeff()).exp();
        p.row(n) /= p.row(n).sum();
        float& hit = p(n, next[static_cast<std::size_t>(n)]);
        sum -= std::log(static_cast<double>(hit));
        hit -= 1;
    }
    p /= static_cast<float>(next.size());
    return sum / static_cast<double>(next.size());
}
road::adapter fit(lesson data, road::adapter learned, const char* name) {
    std::vector<double> theta = learned.theta(), alpha = learned.alpha(), pace(2 * theta.size(), 0.0);
    for (int step = 0; step <= 60; ++step) {
        learned = {learned.config(), theta, alpha};
        auto y = data.logits;
        const auto table = road::make_table<float>(road::make_blocks(learned));
        const std::vector<std::int32_t> own(data.next.size(), 0);
        rw::mix_pairs(learned.layout(), rows(y), table.rows(std::span<const std::int32_t>(own)));
        const double nats = loss(y, data.next);
        if (step % 20 == 0) std::printf("  %s after %2d steps: %.3f nats a byte\n", name, step, nats);
        const auto g = road::make_gradient(learned, rows(data.logits), rows(y));
        for (std::size_t i = 0; i < pace.size(); ++i) {  // RMSProp
            const bool turns = i < theta.size();
            const double slope = turns ? g.theta[i] : g.alpha[i - theta.size()];
            pace[i] = 0.9 * pace[i] + 0.1 * slope * slope;
            (turns ? theta[i] : alpha[i - theta.size()]) -= 0.02 * slope / (std::sqrt(pace[i]) + 1e-8);
        }
    }
    return learned;
}

}  // namespace

int main() try {
    const auto m = tinylm::load_model("data/tinylm");
    const auto text = tinylm::read_file("data/tinylm/heldout.txt");
    const auto spelled = [&](auto change, std::size_t from) {
        std::string s = text.substr(from, 8 * context + 1);
        for (char& c : s) c = change(c);
        return read(m, s);
    };
    const auto loud = [](char c) { return static_cast<char>(std::toupper(static_cast<unsigned char>(c))); };
    const auto vague = [](char c) { return std::string("aeiou").find(c) == std::string::npos ? c : 'e'; };
    const auto plain = [](char c) { return c; };

    road::adapter_bank<float> bank(bytes, {"loud", "vague"});
    bank.set("loud",
             road::make_blocks(fit(
                 spelled(loud, 0),
                 road::adapter({.channels = bytes, .group = 64, .variant = road::variant::road_4}), "loud")));
    bank.set("vague", road::make_blocks(fit(spelled(vague, 0),
                                            road::adapter({.channels = bytes, .group = bytes}), "vague")));

    // One batch of three requests on unseen text, each with its own adapter or none.
    const lesson batch[] = {spelled(loud, 30000), spelled(plain, 30000), spelled(vague, 30000)};
    std::vector<float> mixed;
    for (const auto& one : batch) mixed.insert(mixed.end(), one.logits.begin(), one.logits.end());
    const std::vector<std::string> wanted{"loud", bank.base, "vague"};
    road::mix_pairs(rows(mixed), bank.rows(bank.ids_of(wanted), 8 * context));
    bool better = true;
    for (std::size_t i = 0; i < 3; ++i) {
        const auto from = mixed.begin() + static_cast<std::ptrdiff_t>(i * batch[i].logits.size());
        std::vector<float> served(from, from + static_cast<std::ptrdiff_t>(batch[i].logits.size())),
            bare = batch[i].logits;
        const bool untouched = served == bare;
        const double with = loss(served, batch[i].next), without = loss(bare, batch[i].next);
        std::printf("request %zu, %-8s: %.3f nats a byte, %.3f without adapter\n", i, wanted[i].c_str(), with,
                    without);
        better = better && (i == 1 ? untouched : with < without);
    }
    return better ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "road_adapters: %s\n", error.what());
    return 1;
}
