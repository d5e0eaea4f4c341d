#include <ropewalk/models/model_types.hpp>

#include "support/catch.hpp"
