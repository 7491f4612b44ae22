// Slots of a device's memory: a buffer each.
#pragma once

#include <memory>

#include "device/device.h"
#include "memory/slot_memory.h"

namespace moestro::device {

std::unique_ptr<memory::SlotMemory> device_slots(std::shared_ptr<Device> device);
// Slots of the host from which the device copies: pinned where the system allows it, else ordinary memory.
std::unique_ptr<memory::SlotMemory> pinned_slots(std::shared_ptr<Device> device);

}  // namespace moestro::device
