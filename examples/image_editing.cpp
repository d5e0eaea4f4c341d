// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// FreeFlux's object addition on one attention layer: an image of 16 x 16 patches after 8 words, and the same
// image with noise and an object that the last word names. The object is located by the attention between
// word and image; all other patches then take the keys and values of the first image.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include <ropewalk/attention/kv_injection.hpp>
#include <ropewalk/attention/object_mask.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;
namespace edit = ropewalk::kv_injection;

namespace {

constexpr rw::index words = 8, side = 16, patches = side * side, tokens = words + patches, heads = 2,
                    channels = 128;

bool in_object(rw::index patch) {
    return std::hypot(float(patch / side) - 5, float(patch % side) - 10) < 3.3F;
}

/// Source and target; the same numbers are queries, keys and values.
std::vector<float> two_samples() {
    std::mt19937 engine(3);
    std::normal_distribution<float> normal;
    std::vector<float> object(heads * channels), source, target;
    for (float& o : object) o = 0.6F * normal(engine);
    for (rw::index n = 0; n < tokens; ++n)
        for (const float o : object) {
            const float own = normal(engine), noise = normal(engine);
            const bool asked = n == words - 1 || (n >= words && in_object(n - words));
            source.push_back(own);
            target.push_back(asked ? o + 0.3F * noise : own + 0.6F * noise);
        }
    source.insert(source.end(), target.begin(), target.end());
    return source;
}

rw::heads_view<float> view(std::vector<float>& x) {
    return {x.data(), {.batches = 2, .tokens = tokens, .heads = heads, .channels = channels}};
}

}  // namespace

int main() {
    const auto rope = rw::flux::joint({});
    const auto where = rw::flux::flux1_positions({.text_tokens = words, .generated = {side, side}});
    const auto table = rw::make_factored_table(rope.spectrum_for(1), where);
    std::vector<float> x = two_samples(), q = x, k = x;
    for (rw::index b : {0, 1})
        rw::rotate(rope.read_layout, view(q).batch_slice(b, 1), view(k).batch_slice(b, 1), table);

    const rw::index word[] = {words - 1};
    const auto map = edit::make_word_map(view(q).batch_slice(1, 1), view(k).batch_slice(1, 1),
                                         {.image = {words, patches}, .word = word});
    const auto found = edit::make_object_tokens(map, {.grid = {side, side}, .first_token = words});
    int right = 0, wanted = 0;
    for (rw::index n : found) right += in_object(n - words);
    for (rw::index patch = 0; patch < patches; ++patch) wanted += in_object(patch);
    std::printf("found %zu patches, %d of them in the object, which has %d\n", found.size(), right, wanted);

    auto keys = k, values = x, plain = x, edited = x;
    edit::inject_keys_values(view(keys), view(values), {}, {words, patches}, found);
    rw::attend(view(q), view(k), view(x), view(plain));
    rw::attend(view(q), view(keys), view(values), view(edited));
    double without[2] = {}, with[2] = {};  // background, object: distance to the source
    for (std::size_t i = words * heads * channels, half = plain.size() / 2; i < half; ++i) {
        const bool object = in_object(rw::index(i) / (heads * channels) - words);
        without[object] = std::hypot(without[object], double(plain[half + i] - plain[i]));
        with[object] = std::hypot(with[object], double(edited[half + i] - plain[i]));
    }
    std::printf("distance to the source: background %.2f, edited %.2f; object %.2f, edited %.2f\n",
                without[0], with[0], without[1], with[1]);
    return right == wanted && with[0] < without[0] ? 0 : 1;
}
