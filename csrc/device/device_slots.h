// Slots of a device's memory: a buffer each.
#pragma once

#include <memory>

#include "device/device.h"
#include "memory/slot_memory.h"

namespace moestro::device {

std::unique_ptr<memory::SlotMemory> device_slots(std::shared_ptr<Device> device);

}  // namespace moestro::device
