#include <ropewalk/models/huggingface_sizes.hpp>

#include "support/catch.hpp"
