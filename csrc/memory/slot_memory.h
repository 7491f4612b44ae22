// The memory behind slots: of the host, of a device, or none at all.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace moestro::memory {

// One thread at a time.
class SlotMemory {
  public:
    virtual ~SlotMemory() = default;
    // Makes room for a size class, numbered from 0 in the order of these calls: up to `slots` slots of `bytes`.
    virtual void add_class(std::size_t bytes, std::size_t slots) = 0;
    // Where the slot is, with unspecified contents; null where there is no memory for it.
    virtual std::byte* commit(int size_class, int index) = 0;
    // REQUIRES that it was committed.
    virtual void decommit(int size_class, int index) = 0;
    // Why commit() found none; empty while it always did.
    virtual std::string refusal() const { return {}; }
};

// Of the operating system. The address of (size_class, index) never changes.
std::unique_ptr<SlotMemory> host_slots();
// Addresses that cannot be read or written, for simulations.
std::unique_ptr<SlotMemory> slots_without_memory();

}  // namespace moestro::memory
