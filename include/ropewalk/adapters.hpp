// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every header of adapters/: RoAd, phase shift calibration and MuseControlLite's layer. Needs Eigen.
#pragma once

// The order is that of cmake/layers.txt.
// clang-format off

#include <ropewalk/adapters/road.hpp>
#include <ropewalk/adapters/road_gradient.hpp>
#include <ropewalk/adapters/road_intervention.hpp>
#include <ropewalk/adapters/road_bank.hpp>
#include <ropewalk/adapters/phase_shift.hpp>
#include <ropewalk/adapters/musecontrollite.hpp>
