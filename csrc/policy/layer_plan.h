// Who computes each expert of one layer, and when: plain data that planners make, lanes run and people read.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "policy/lane_costs.h"

namespace moestro::policy {

// Where a record is now. From the SSD it is read into host memory; what is in host memory is computed by the CPU, or
// goes over the link and is computed by the device.
enum class Where : std::uint8_t { ssd, host, device };

enum class Lane : std::uint8_t { ssd, link, cpu, device };
inline constexpr int kLanes = 4;

// An expert that rows of this layer chose.
struct WorkItem {
    int expert = 0;
    int rows = 1;
    Where where = Where::ssd;
    bool host_copy = true;  // of a record on the device: it is in host memory too, so the CPU may compute it
};

// Nanoseconds from now until each lane is free.
struct LaneClocks {
    double cpu = 0, device = 0, link = 0, ssd = 0;
};

// REQUIRES rows >= 1 of every item, and no item on the device where costs.has_device is false.
struct LayerWork {
    std::span<const WorkItem> items;
    LaneCosts costs;
    LaneClocks clocks;
};

// One lane's work on one item. Nanoseconds from now.
struct Operation {
    int item = 0;  // its position in the layer's items
    int expert = 0;
    Lane lane = Lane::cpu;
    double begin = 0, end = 0;
};

struct LayerPlan {
    std::vector<Operation> operations;     // by begin; of equal ones ssd, link, cpu, device
    std::array<double, kLanes> ends = {};  // by lane: of its last operation; 0 of a lane that has none
    double makespan = 0;                   // when the last expert is computed

    double end(Lane lane) const { return ends[static_cast<std::size_t>(lane)]; }
};

const char* name_of(Lane lane);
// One line per operation and one for the end, in microseconds.
std::string table(const LayerPlan& plan);

}  // namespace moestro::policy
