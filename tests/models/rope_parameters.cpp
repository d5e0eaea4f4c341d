#include <ropewalk/models/rope_parameters.hpp>

#include "support/catch.hpp"
