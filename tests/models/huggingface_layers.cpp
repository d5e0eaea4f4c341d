#include <ropewalk/models/huggingface_layers.hpp>

#include "support/catch.hpp"
