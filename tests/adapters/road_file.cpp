// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/road_file.hpp>

#include <filesystem>
#include <fstream>
#include <random>

#include "adapters/road_inputs.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"
#include "support/safetensors_bytes.hpp"

namespace rw = ropewalk;
namespace road = ropewalk::road;
using road::variant;
using support::refusal;
using support::written_tensors;

namespace {

const std::string q = "model.layers.0.self_attn.q_proj", v = "model.layers.1.self_attn.v_proj";

std::string config_of(const std::string& kind, const std::string& group) {
    return R"({"peft_type":"ROAD","variant":")" + kind + R"(","group_size":)" + group +
           R"(,"base_model_name_or_path":"some/model","target_modules":["q_proj","v_proj"],"inference_mode":true})";
}
/// What peft writes for layers of these sizes of parameters.
written_tensors tensors_of(std::ptrdiff_t q_size, std::ptrdiff_t v_size, unsigned seed) {
    written_tensors all;
    for (const auto& [module, size] : {std::pair(q, q_size), std::pair(v, v_size)})
        for (const char* part : {".road_theta", ".road_alpha"})
            all["base_model.model." + module + part] = support::random_f32({size}, seed++, 0.5);
    return all;
}
road::checkpoint read(const std::string& config, const written_tensors& tensors) {
    return road::read_checkpoint(config, rw::read_safetensors(support::safetensors_bytes(tensors), "file"));
}
std::vector<double> numbers(const written_tensors& tensors, const std::string& name) {
    const auto floats = support::floats_of(tensors.at("base_model.model." + name));
    return {floats.begin(), floats.end()};
}

}  // namespace

TEST_CASE("road_file: what peft writes is read back, every variant", "[adapters][road][files]") {
    // 24 and 48 channels in groups of 12.
    for (const auto& [kind, name, part] :
         {std::tuple(variant::road_1, "road_1", 0.5), std::tuple(variant::road_2, "road_2", 1.0),
          std::tuple(variant::road_4, "road_4", 2.0)}) {
        const auto tensors =
            tensors_of(static_cast<std::ptrdiff_t>(24 * part), static_cast<std::ptrdiff_t>(48 * part), 3);
        const auto got = read(config_of(name, "12"), tensors);
        CHECK(got.variant == kind);
        CHECK(got.group == 12);
        CHECK(got.base_model == "some/model");
        REQUIRE(got.layers.size() == 2);
        for (const auto& [module, channels] : {std::pair(q, 24), std::pair(v, 48)}) {
            const auto& layer = got.layers.at(module);
            CHECK(layer.config().channels == channels);
            CHECK(layer.theta() == numbers(tensors, module + ".road_theta"));
            CHECK(layer.alpha() == numbers(tensors, module + ".road_alpha"));
        }
    }
    // peft's defaults.
    const auto plain = read(R"({"peft_type":"ROAD"})", tensors_of(64, 32, 3));
    CHECK(plain.variant == variant::road_1);
    CHECK(plain.group == 64);
}

TEST_CASE("road_file: merged into weights is mixed after them", "[adapters][road][files]") {
    const auto got = read(config_of("road_4", "8"), tensors_of(32, 64, 9));
    const auto blocks = road::make_blocks(got.layers.at(q));
    const Eigen::MatrixXd weight = Eigen::MatrixXd::Random(16, 5);
    const Eigen::VectorXd x = Eigen::VectorXd::Random(5);
    const Eigen::VectorXd h = weight * x;
    const auto want = road_inputs::expected(blocks, std::vector<double>(h.data(), h.data() + 16));
    Eigen::MatrixXd merged = weight;
    road::merge(blocks, merged);
    const Eigen::VectorXd y = merged * x;
    for (int i = 0; i < 16; ++i) CHECK(y(i) == Approx(want[static_cast<std::size_t>(i)]).epsilon(1e-12));
    road::merge(road::make_inverse(blocks), merged);
    CHECK((merged - weight).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("road_file: requests of several checkpoints share a batch", "[adapters][road][files]") {
    const auto poet = read(config_of("road_1", "8"), tensors_of(8, 12, 20));
    auto tensors = tensors_of(16, 24, 30);
    for (const char* part : {".road_theta", ".road_alpha"}) tensors.erase("base_model.model." + v + part);
    const auto coder = read(config_of("road_2", "4"), tensors);
    const auto banks = road::make_banks<double>({{"poet", &poet}, {"coder", &coder}});
    REQUIRE(banks.size() == 2);
    const std::vector<std::string> wanted{"coder", "__base__", "poet"};
    for (const auto& [module, channels] : {std::pair(q, 16), std::pair(v, 24)}) {
        const auto& bank = banks.at(module);
        const auto size = static_cast<std::size_t>(channels);
        auto x = support::noise(3 * channels, 40);
        const auto before = x;
        road::mix_pairs(rw::heads_view<double>(x.data(), 3, 1, channels), bank.rows(bank.ids_of(wanted)));
        for (std::size_t request = 0; request < 3; ++request) {
            std::vector<double> one(before.begin() + static_cast<std::ptrdiff_t>(request * size),
                                    before.begin() + static_cast<std::ptrdiff_t>((request + 1) * size));
            if (request == 0 && module == q)
                one = road_inputs::expected(road::make_blocks(coder.layers.at(q)), one);
            if (request == 2) one = road_inputs::expected(road::make_blocks(poet.layers.at(module)), one);
            for (std::size_t c = 0; c < size; ++c)
                CHECK(x[request * size + c] == Approx(one[c]).epsilon(1e-12));
        }
    }
    const auto other = read(config_of("road_1", "8"), tensors_of(16, 12, 20));
    CHECK_REFUSES("road::make_banks: channels of " + q + " must be those of the other checkpoints, got 32",
                  road::make_banks<float>({{"poet", &poet}, {"other", &other}}));
}

TEST_CASE("road_file: every spoiled key is refused by its name", "[adapters][road][files][errors]") {
    const auto good = tensors_of(12, 24, 3);
    const std::string theta = "base_model.model." + q + ".road_theta",
                      alpha = "base_model.model." + q + ".road_alpha";
    const std::string file = "road::read_checkpoint: file: ", config = config_of("road_1", "12");
    REQUIRE(refusal([&] { read(config, good); }).empty());
    const auto spoiled = [&](auto change) {
        auto tensors = good;
        change(tensors);
        return refusal([&] { read(config, tensors); });
    };
    for (const auto& entry : good) {
        const std::string& name = entry.first;
        const bool is_theta = name.ends_with("theta");
        CHECK(spoiled([&](auto& t) { t.erase(name); }) ==
              (is_theta ? file + name + " must be beside road_alpha, got nothing of that name"
                        : "safetensors: file: " + name + " must be in the file, got nothing of that name"));
        CHECK(spoiled([&](auto& t) {
                  auto node = t.extract(name);
                  node.key() += "s";
                  t.insert(std::move(node));
              }).find("road_") != std::string::npos);
        CHECK(spoiled([&](auto& t) { t[name] = support::random_f32({18}, 1); }).find(" must ") !=
              std::string::npos);
        CHECK(spoiled([&](auto& t) { t[name].dtype = "I32"; }) ==
              "safetensors: file: " + name + " must hold real numbers, got I32");
        CHECK(spoiled([&](auto& t) {
                  t[name] = support::tensor_of("F32", t[name].shape,
                                               std::vector<float>(t[name].bytes.size() / 4, HUGE_VALF));
              }) == file + name + " must hold finite numbers, got inf");
    }
    CHECK(spoiled([&](auto& t) {
              t[theta].shape = {3, 4};
          }) == file + theta + " must have one extent, got [3, 4]");
    CHECK(spoiled([&](auto& t) { t[theta] = support::random_f32({7}, 1); }) ==
          file + theta + " must be of whole groups of 12 channels, got 7");
    CHECK(spoiled([&](auto& t) { t[theta] = support::random_f32({0}, 1); }) ==
          file + theta + " must be of whole groups of 12 channels, got 0");
    CHECK(spoiled([&](auto& t) { t[alpha] = support::random_f32({18}, 1); }) ==
          "safetensors: file: " + alpha + " must have shape [12], got [18]");
    CHECK(spoiled([&](auto& t) { t["base_model.model.lm_head.weight"] = support::random_f32({4}, 1); }) ==
          file +
              "base_model.model.lm_head.weight must be base_model.model.MODULE.road_theta or .road_alpha, "
              "got another name");
    CHECK(spoiled([&](auto& t) {
              t[q + ".road_theta"] = support::random_f32({12}, 1);
          }).find("got another name") != std::string::npos);
    CHECK(spoiled([](auto& t) { t.clear(); }) ==
          file + "the file must hold road_theta and road_alpha of a layer, got none");

    const std::pair<std::string, std::string> configs[] = {
        {R"({})", "peft_type must be given, got nothing"},
        {R"({"peft_type":"LORA"})", "peft_type must be \"ROAD\", got \"LORA\""},
        {R"({"peft_type":4})", "peft_type must be a string, got 4"},
        {config_of("road_3", "12"), "variant must be road_1, road_2 or road_4, got \"road_3\""},
        {config_of("road_1", "7"), "group_size must be even, got 7"},
        {config_of("road_1", "0"), "group_size must be a whole number in [1, 2^63), got 0"},
        {config_of("road_1", "\"64\""), "group_size must be a whole number in [1, 2^63), got \"64\""},
        {R"([])", "the config must be an object, got []"},
    };
    for (const auto& wrong : configs)
        CHECK(refusal([&] { read(wrong.first, good); }) == "road::read_checkpoint: " + wrong.second);
    CHECK(refusal([&] { read("{", good); }).starts_with("parse_config: "));
}

TEST_CASE("road_file: a folder as save_pretrained leaves it", "[adapters][road][files]") {
    namespace fs = std::filesystem;
    const auto folder =
        fs::temp_directory_path() / ("ropewalk_road_" + std::to_string(std::random_device{}()));
    fs::create_directory(folder);
    const auto bytes = support::safetensors_bytes(tensors_of(12, 24, 3));
    std::ofstream(folder / "adapter_model.safetensors", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    CHECK(refusal([&] { road::read_checkpoint(folder.string()); }).ends_with("adapter_config.json"));
    std::ofstream(folder / "adapter_config.json") << config_of("road_1", "12");
    CHECK(road::read_checkpoint(folder.string()).layers.size() == 2);
    fs::remove(folder / "adapter_model.safetensors");
    CHECK(refusal([&] { road::read_checkpoint(folder.string()); }).ends_with("adapter_model.safetensors"));
    fs::remove_all(folder);
}
