// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// What a reader is handed may come from anyone: each of these texts and files is refused by the name of what
// is wrong with it, within a second and 64 MiB, and what is read keeps to 20 times its text.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/gguf_file.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/models/multimodal_config.hpp>
#include <ropewalk/models/safetensors.hpp>
#include <ropewalk/models/vision_towers.hpp>

#include "support/catch.hpp"
#include "support/gguf_bytes.hpp"
#include "support/refusal.hpp"
#include "support/safetensors_bytes.hpp"

// A sanitizer makes everything several times as slow.
#if defined(__SANITIZE_ADDRESS__)
#define TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define TEST_SANITIZED
#endif
#endif

namespace {

std::atomic<std::size_t> held{0}, most_held{0};
constexpr std::size_t prefix = alignof(std::max_align_t);  // the size stands in front of the block

void* taken(std::size_t bytes) noexcept {
    auto* const block = static_cast<std::byte*>(std::malloc(bytes + prefix));
    if (block == nullptr) std::abort();
    *reinterpret_cast<std::size_t*>(block) = bytes;
    const std::size_t now = held += bytes;
    if (now > most_held) most_held = now;
    return block + prefix;
}
void given_back(void* at) noexcept {
    if (at == nullptr) return;
    auto* const block = static_cast<std::byte*>(at) - prefix;
    held -= *reinterpret_cast<std::size_t*>(block);
    std::free(block);
}

}  // namespace

// Not inlined: the compiler would see malloc on one side and delete on the other, and warn.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return taken(bytes); }
[[gnu::noinline]] void* operator new[](std::size_t bytes) { return taken(bytes); }
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return taken(bytes);
}
[[gnu::noinline]] void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
    return taken(bytes);
}
[[gnu::noinline]] void operator delete(void* p) noexcept { given_back(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { given_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { given_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { given_back(p); }

using namespace ropewalk;
using support::gguf_bytes;

namespace {

struct cost {
    double seconds = 0;
    std::size_t bytes = 0;  // at the most at once, beyond what was held before
};

cost cost_of(const std::function<void()>& call) {
    const std::size_t before = held;
    most_held = before;
    const std::clock_t start = std::clock();  // of the processor: other programs do not count
    call();
    return {static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, most_held - before};
}

/// Refuses `call` with a text that holds `part`, in bounded time and memory.
void check_refused(const std::string& part, const std::function<void()>& call) {
    std::string said;
    const auto spent = cost_of([&] { said = support::refusal(call); });
    INFO("said: " << said);
#if defined(__cpp_exceptions)
    CHECK(said.find(part) != std::string::npos);
#else
    static_cast<void>(part);  // nothing was called
#endif
    CHECK(said.size() < 1000);
    CHECK(spent.bytes < std::size_t{64} << 20);
#if !defined(TEST_SANITIZED) && defined(__OPTIMIZE__)
    CHECK(spent.seconds < 1);
#endif
}

std::string repeated(const std::string& part, std::size_t times) {
    std::string all;
    all.reserve(part.size() * times);
    for (std::size_t i = 0; i < times; ++i) all += part;
    return all;
}
std::string listed(const std::string& entry, std::size_t count) {
    return "[" + entry + repeated("," + entry, count - 1) + "]";
}
std::string llama(const std::string& more) {
    return R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,"num_hidden_layers":2)" + more +
           "}";
}
model_config read(const std::string& text) { return from_huggingface(parse_config(text)); }

}  // namespace

TEST_CASE("bounded reading: hostile texts of configs are refused by key path",
          "[models][huggingface][hostile]") {
    const std::string deep = repeated("[", 100000) + repeated("]", 100000);
    const std::string ladder = repeated(R"({"a":)", 100000) + "1" + repeated("}", 100000);
    const std::string million = listed("0", 1000000), ten_million = listed("0", 10000000);
    struct hostile {
        std::string text, part;
    };
    const std::vector<hostile> texts = {
        {llama(R"(,"rope_theta":)" + deep), "rope_theta must be nested at most 64 deep"},
        {llama(R"(,"rope_scaling":)" + ladder), "rope_scaling.a.a.a.a.a.a must be nested at most 64 deep"},
        {ladder, "must be nested at most 64 deep"},
        {llama(R"(,"layer_types":)" + million), "layer_types must be an array of at most 65536 entries"},
        {llama(R"(,"rope_scaling":{"short_factor":)" + million + "}"),
         "rope_scaling.short_factor must be an array of at most 65536 entries"},
        {llama(R"(,"x":)" + ten_million), "text must be at most 16 MiB"},
        {llama(R"(,"x":)" + listed("[[]]", 1000000)), "x must be an array of at most 65536 entries"},
        {llama(R"(,"rope_theta":1,"rope_theta":1)"), "rope_theta must be given once"},
        {llama(R"(,"rope_parameters":{"full_attention":{"rope_theta":1,"rope_theta":2}})"),
         "rope_parameters.full_attention.rope_theta must be given once"},
        {llama(R"(,"rope_theta":Infinity)"), "rope_theta must be a finite number, got \"Infinity\""},
        {llama(R"(,"rope_theta":NaN)"), "rope_theta must be a finite number, got \"NaN\""},
        {llama(R"(,"rope_scaling":{"rope_type":"linear","factor":-Infinity})"),
         "rope_scaling.factor must be a finite number, got \"-Infinity\""},
        {llama(R"(,"rope_theta":1e999)"), "must be JSON, got \"1e999"},
        {llama(",\"rope_theta\":\"" + std::string(1000000, '9') + "\""),
         "rope_theta must be a finite number"},
        {llama(",\"rope_" + std::string(1000000, 'x') + "\":1"), "must be a key that is read here"},
        {llama(R"(,"max_position_embeddings":-1)"), "max_position_embeddings must be a whole number"},
        {R"({"model_type":"llama","num_hidden_layers":1000000000000000000,"head_dim":64})",
         "num_hidden_layers must be a number of layers <= 65536"},
        {R"({"model_type":"llama","num_hidden_layers":2,"head_dim":1000000000000000000})",
         "head_dim must be a number of channels <= 65536"},
        {R"({"model_type":"llama","num_hidden_layers":2,"hidden_size":9007199254740993,"num_attention_heads":1})",
         "hidden_size must be that of heads of <= 65536 channels"},
        {R"({"model_type":"llama","num_hidden_layers":1e18,"head_dim":64})",
         "num_hidden_layers must be a number of layers <= 65536"},
        {llama(R"(,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,
                  "original_max_position_embeddings":[8192]})"),
         "rope_scaling.original_max_position_embeddings must be a finite number, got [8192]"},
        {R"({"model_type":)" + listed("\"llama\"", 60000) + "}", "model_type must be a string"},
        {R"({"model_type":")" + std::string(1000000, 'm') + R"("})",
         "model_type must be one whose pair layout"},
        {std::string(1000000, '['), "must be nested at most 64 deep"},
        {std::string(1000000, '"'), "must be JSON"},
        {"{\"a\":\"" + std::string(1000000, '\\'), "must be JSON"},
    };
    for (const auto& one : texts) {
        INFO("text of " << one.text.size() << " bytes: " << one.text.substr(0, 60));
        check_refused(one.part, [&] { static_cast<void>(read(one.text)); });
    }
}

TEST_CASE("bounded reading: JSON of another parser is bounded as well", "[models][huggingface][hostile]") {
    using nlohmann::json;
    const json plain = json::parse(llama(""));
    const auto with = [&](const char* key, json value) {
        json config = plain;
        config[key] = std::move(value);
        return config;
    };
    json deep = 1;
    for (int i = 0; i < 1000; ++i) deep = json::array({std::move(deep)});
    const json many(std::size_t{100000}, json(1));
    const std::vector<std::pair<json, std::string>> configs = {
        {with("rope_scaling", std::move(deep)), "rope_scaling must be nested at most 64 deep"},
        {with("layer_types", json(std::size_t{10000000}, json(1))),
         "layer_types must be an array of at most 65536 entries, got 10000000"},
        {with("rope_theta", many), "rope_theta must be an array of at most 65536 entries, got 100000"},
        {with("rope_scaling", {{"rope_type", "longrope"},
                               {"short_factor", many},
                               {"long_factor", many},
                               {"original_max_position_embeddings", 4096},
                               {"factor", 2}}),
         "rope_scaling.short_factor must be an array of at most 65536 entries, got 100000"},
        {with("rope_theta", std::numeric_limits<double>::infinity()), "rope_theta must be a finite number"},
        {with("rope_theta", std::numeric_limits<double>::quiet_NaN()), "rope_theta must be a finite number"},
        {with("num_hidden_layers", 1e300), "num_hidden_layers must be a whole number in [1, 2^63)"},
        {with("num_hidden_layers", std::numeric_limits<double>::quiet_NaN()),
         "num_hidden_layers must be a whole number in [1, 2^63)"},
    };
    for (const auto& [config, part] : configs) {
        const json& given = config;
        check_refused(part, [&] { static_cast<void>(from_huggingface(given)); });
    }
    // The readers of towers and of media.
    check_refused("vision_config.hidden_size must be a whole number in [1, 65536]", [] {
        static_cast<void>(from_tower(
            json::parse(R"({"model_type":"kimi_k25","vision_config":{"hidden_size":1000000000000000000}})")));
    });
    const json media = {{"model_type", "qwen2_vl"}, {"vision_config", many}};
    check_refused("vision_config must be an object, got [1,1,1",
                  [&] { static_cast<void>(from_multimodal(media)); });
}

TEST_CASE("bounded reading: hostile GGUF files are refused by the name of the field",
          "[models][gguf][hostile]") {
    const auto refused = [](const std::string& part, gguf_bytes& b) {
        const std::span<const std::byte> bytes = b.bytes();
        check_refused(part, [&] { static_cast<void>(read_gguf(bytes)); });
    };
    // A string, an array and a tensor that say they are longer than any file.
    gguf_bytes word;
    word.header(0, 1).key("a.k", 8).number(std::uint64_t{1} << 60, 8);
    refused("a.k", word);
    gguf_bytes list;
    list.header(0, 1).array("a.k", 0, std::uint64_t{1} << 60);
    refused("a.k", list);
    gguf_bytes nested;  // arrays of arrays of arrays ...
    nested.header(0, 1).array("a.k", 9, 1);
    for (int i = 0; i < 100000; ++i) nested.number(9, 4).number(1, 8);
    refused("a.k", nested);
    gguf_bytes full;
    full.header(0, 200);
    for (int k = 0; k < 200; ++k) {
        full.array("a.k" + std::to_string(k), 0, 65536);
        full.bytes().resize(full.size() + 65536);
    }
    refused("must leave the header below", full);
}

TEST_CASE("bounded reading: hostile headers of safetensors are refused by name",
          "[models][safetensors][hostile]") {
    const auto named = [](const char* before, const char* after, std::size_t times) {
        std::string all;
        for (std::size_t i = 0; i < times; ++i)
            all += (i > 0 ? "," : "") + std::string("\"") + before + std::to_string(i) + "\":" + after;
        return all;
    };
    const std::string empty = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    const std::pair<std::string, std::string> headers[] = {
        {std::string(4000000, '['), "the header must begin with {"},
        {R"({"a":)" + repeated(R"({"dtype":)", 400000), "a must have dtype a text, got an object"},
        {R"({"a":{"shape":)" + repeated("[", 4000000), "a must have whole numbers"},
        {R"({"a":{"shape":)" + listed("1", 1000000), "a must have at most 32 numbers in shape"},
        {"{" + named("t", empty.c_str(), 140000) + "}", "t131072 must be one of at most 2^17 names"},
        {R"({"__metadata__":{)" + named("m", "\"\"", 140000) + "}}",
         "m131072 must be one of at most 2^17 names"},
        {"{\"" + std::string(4000000, 'n') + "\":1}",
         "nnn... must be one of at most 2^17 names of at most 65535"},
        {R"({"a":{"dtype":")" + std::string(4000000, 'F') + R"(","shape":[0],"data_offsets":[0,0]}})",
         "a must have a known dtype, got FFF"},
        {"{\"a\":" + std::string(4000000, '9') + "}", "the header must be JSON"},
    };
    for (const auto& [header, part] : headers) {
        INFO(header.substr(0, 60));
        const auto file = support::safetensors_file_of(header, {});
        check_refused(part, [&] { static_cast<void>(read_safetensors(file)); });
    }
}

TEST_CASE("bounded reading: a text of a megabyte keeps to 20 times its size",
          "[models][huggingface][memory]") {
    const auto grown = [](const std::string& opening, const std::function<std::string(int)>& part,
                          const std::string& closing) {
        std::string text = llama("");
        text.pop_back();
        text += opening;
        for (int i = 0; text.size() < 1000000; ++i) text += (i == 0 ? "" : ",") + part(i);
        return text + closing + "}";
    };
    const std::vector<std::string> texts = {
        grown(R"(,"id2label":{)",
              [](int i) { return '"' + std::to_string(i) + "\":\"L" + std::to_string(i) + '"'; }, "}"),
        grown(
            ",", [](int i) { return "\"k" + std::to_string(i) + "\":" + std::to_string(i); }, ""),
        grown(R"(,"o":{)", [](int i) { return "\"m" + std::to_string(i) + "\":{\"k\":{\"a\":1}}"; }, "}"),
        grown(R"(,"o":{)", [](int i) { return "\"m" + std::to_string(i) + "\":{}"; }, "}"),
        grown(
            ",", [](int i) { return "\"a" + std::to_string(i) + "\":" + listed("1", 60000); }, ""),
        grown(
            ",", [](int i) { return "\"a" + std::to_string(i) + "\":" + listed("1.5", 100); }, ""),
        llama(R"(,"s":")" + std::string(1000000, 'x') + '"'),
    };
    for (const auto& text : texts) {
        INFO(text.substr(80, 60));
        const auto spent = cost_of([&] { static_cast<void>(read(text)); });
        CHECK(spent.bytes < 20 * text.size());
#if !defined(TEST_SANITIZED) && defined(__OPTIMIZE__)
        CHECK(spent.seconds < 1);  // some hundredths of a second; the rest is for a machine that is busy
#endif
    }
    // As many layers as a model may have, each said by its own word.
    const auto layers = R"({"model_type":"llama","head_dim":64,"num_hidden_layers":58000,"layer_types":)" +
                        listed("\"full_attention\"", 58000) + "}";
    const auto spent = cost_of([&] { CHECK(read(layers).layers == 58000); });
    CHECK(spent.bytes < 20 * layers.size());
}
