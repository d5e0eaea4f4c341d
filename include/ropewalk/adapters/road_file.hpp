// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads RoAd checkpoints as peft saves them, and makes banks of several.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ropewalk/adapters/road_bank.hpp>
#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/safetensors.hpp>

namespace ROPEWALK_NAMESPACE::road {

/// A RoAd checkpoint as peft saves it: what all layers share, and the adapter of each layer by the name of
/// its module in the model ("model.layers.0.self_attn.q_proj").
/// Source: Hugging Face peft, tuners/road and save_pretrained.
struct checkpoint {
    road::variant variant = variant::road_1;     ///< of all layers
    index group = 64;                            ///< group_size
    std::string base_model = {};                 ///< base_model_name_or_path, empty where not given
    std::map<std::string, adapter> layers = {};  ///< by module
};

}  // namespace ROPEWALK_NAMESPACE::road

namespace ROPEWALK_NAMESPACE::detail {

inline constexpr const char* road_file = "road::read_checkpoint";

/// Reads adapter_config.json: everything but the layers.
inline road::checkpoint road_config(std::string_view text) {
    const auto config = parse_config(text);
    json_object keys(road_file, config, "");
    road::checkpoint made;
    const auto type = keys.word("peft_type");
    if (!type) keys.missing("peft_type");
    if (*type != "ROAD") keys.reject("peft_type", "\"ROAD\"", keys.node().at("peft_type"));
    if (const auto variant = keys.word("variant")) {
        if (*variant == "road_1")
            made.variant = road::variant::road_1;
        else if (*variant == "road_2")
            made.variant = road::variant::road_2;
        else if (*variant == "road_4")
            made.variant = road::variant::road_4;
        else
            keys.reject("variant", "road_1, road_2 or road_4", keys.node().at("variant"));
    }
    if (const auto group = keys.count("group_size")) {
        if (*group % 2 != 0) keys.reject("group_size", "even", keys.node().at("group_size"));
        made.group = *group;
    }
    made.base_model = keys.word("base_model_name_or_path").value_or("");
    return made;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::road {

/// A checkpoint from the text of adapter_config.json and the tensors of adapter_model.safetensors:
/// base_model.model.MODULE.road_theta and .road_alpha, one-dimensional, of any real type. The number of
/// channels of a layer follows from their size.
/// Throws:   invalid_config naming the key: a peft_type that is not ROAD, an unknown variant, an odd
///           group_size; a tensor with another name (modules_to_save are not supported), one of the two
///           missing, sizes that differ or are not multiples of a group, numbers that are not finite; no
///           layer at all.
/// Cost:     O(file); the numbers become f64.
/// Source:   Hugging Face peft, tuners/road/layer.py and utils/save_and_load.py.
inline checkpoint read_checkpoint(std::string_view config, const safetensors& weights) {
    using detail::shown_name;
    constexpr std::string_view before = "base_model.model.", theta = ".road_theta", alpha = ".road_alpha";
    checkpoint made = detail::road_config(config);
    const auto wrong = [&](std::string_view name, const std::string& must, const std::string& got) {
        detail::fail(std::string(detail::road_file) + ": " + weights.called() + ": " + shown_name(name) +
                     " must " + must + ", got " + got);
    };
    for (const auto& [name, tensor] : weights.all()) {
        const bool is_theta = name.ends_with(theta), is_alpha = name.ends_with(alpha);
        if (!name.starts_with(before) || !(is_theta || is_alpha) ||
            name.size() <= before.size() + theta.size())
            wrong(name, "be base_model.model.MODULE.road_theta or .road_alpha", "another name");
        const std::string stem = name.substr(0, name.size() - theta.size());
        if (is_alpha && !weights.contains(stem + std::string(theta)))
            wrong(stem + std::string(theta), "be beside road_alpha", "nothing of that name");
        if (is_alpha) continue;  // read with its road_theta
        if (tensor.extents.size() != 1) wrong(name, "have one extent", detail::extents_text(tensor.extents));
        const index count = tensor.extents[0];
        // The inverse of parameter_count.
        const bool whole = made.variant != variant::road_4 || count % 2 == 0;
        const index channels = made.variant == variant::road_1   ? 2 * count
                               : made.variant == variant::road_2 ? count
                                                                 : count / 2;
        if (!whole || channels == 0 || channels % made.group != 0)
            wrong(name, "be of whole groups of " + detail::text(made.group) + " channels",
                  detail::text(count));
        const auto real = [&](const std::string& of) {
            auto numbers = weights.numbers<double>(of, std::span(&count, 1));
            for (const double v : numbers)
                if (!std::isfinite(v)) wrong(of, "hold finite numbers", detail::text(v));
            return numbers;
        };
        made.layers.emplace(stem.substr(before.size()),
                            adapter({.channels = channels, .group = made.group, .variant = made.variant},
                                    real(name), real(stem + std::string(alpha))));
    }
    if (made.layers.empty()) wrong("the file", "hold road_theta and road_alpha of a layer", "none");
    return made;
}
/// The same for a folder that save_pretrained wrote.
/// Throws: also when one of the two files cannot be read.
inline checkpoint read_checkpoint(const std::string& folder) {
    const mapped_file config(folder + "/adapter_config.json");
    const std::string_view text(reinterpret_cast<const char*>(config.bytes().data()), config.bytes().size());
    return read_checkpoint(text, read_safetensors_file(folder + "/adapter_model.safetensors"));
}

/// A bank for every module that one of the checkpoints adapts, so that their requests can share a batch.
/// Tokens of a request are untouched in modules that its checkpoint does not adapt. Ids are the indices in
/// `checkpoints`.
/// Throws:   invalid_config when the channels of a module differ between two of them, naming the module; as
///           adapter_bank on their names.
/// Source:   peft, mixed batches by adapter name.
///
///     const auto poet = road::read_checkpoint("adapters/poet");
///     const auto coder = road::read_checkpoint("adapters/coder");
///     const auto banks = road::make_banks<float>({{"poet", &poet}, {"coder", &coder}});
///     const auto& bank = banks.at("model.layers.0.self_attn.q_proj");
template <class T = float>
std::map<std::string, adapter_bank<T>> make_banks(
    const std::vector<std::pair<std::string, const checkpoint*>>& checkpoints) {
    std::vector<std::string> names;
    for (const auto& [name, from] : checkpoints) names.push_back(name);
    std::map<std::string, adapter_bank<T>> banks;
    for (const auto& [name, from] : checkpoints)
        for (const auto& [module, learned] : from->layers) {
            const index channels = learned.config().channels;
            auto& bank = banks.try_emplace(module, channels, names).first->second;
            detail::require(bank.channels() == channels, "road::make_banks",
                            ("channels of " + module + " must be those of the other checkpoints").c_str(),
                            channels);
            bank.set(name, make_blocks(learned));
        }
    return banks;
}

}  // namespace ROPEWALK_NAMESPACE::road
