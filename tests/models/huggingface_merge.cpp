#include <ropewalk/models/huggingface_merge.hpp>

#include "support/catch.hpp"
