// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

extern "C" {
struct plugin_says {
    const char* version;
    float rotated;  // channel 0 of (1, 1) by one radian
    int misfit;     // what a call that does not fit returned, -1: not tried
    int refused;    // whether a bad parameter was an exception, -1: not tried
};
plugin_says plugin();
}
