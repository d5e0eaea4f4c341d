// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/ropewalk.hpp>

#ifdef EIGEN_WORLD_VERSION
#error the core includes Eigen
#endif
#ifdef INCLUDE_NLOHMANN_JSON_HPP_
#error the core includes nlohmann-json
#endif
