// What the lanes of a machine take for one expert: straight lines, fitted from measurements, that planners and
// simulations count with.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace moestro::policy {

// fixed + per_unit * units, in nanoseconds.
struct Line {
    double fixed = 0, per_unit = 0;
    double at(double units) const { return fixed + per_unit * units; }
};

// Of one layer's experts, which are all of a size.
struct LaneCosts {
    Line cpu;              // of an expert, by its rows
    double cpu_start = 0;  // more for the first expert that the CPU runs in a layer (HybriMoE's cold start)
    Line device;           // of an expert, by its rows
    double link = 0;       // of a record, host to device
    double ssd = 0;        // of a record, SSD to host
    double ssd_start = 0;  // more for the first record that the SSD reads after a rest
    bool has_device = false;
};

}  // namespace moestro::policy
