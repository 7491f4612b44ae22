#include "device/device_slots.h"

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace moestro::device {

namespace {

class DeviceSlots final : public memory::SlotMemory {
  public:
    explicit DeviceSlots(std::shared_ptr<Device> device) : device_(std::move(device)) {}

    void add_class(std::size_t bytes, std::size_t slots) override {
        classes_.push_back({bytes, std::vector<Buffer>(slots)});
    }

    std::byte* commit(int size_class, int index) override {
        Class& of = classes_[static_cast<std::size_t>(size_class)];
        Buffer& buffer = of.buffers[static_cast<std::size_t>(index)];
        try {
            buffer = device_->allocate(of.bytes);
        } catch (const Error& error) {
            if (error.kind() != ErrorKind::budget) throw;
            refusal_ = error.what();
            return nullptr;
        }
        return buffer.data();
    }

    void decommit(int size_class, int index) override {
        classes_[static_cast<std::size_t>(size_class)].buffers[static_cast<std::size_t>(index)] = {};
    }

    std::string refusal() const override { return refusal_; }

  private:
    struct Class {
        std::size_t bytes = 0;
        std::vector<Buffer> buffers;  // by index; empty ones hold nothing
    };
    const std::shared_ptr<Device> device_;
    std::vector<Class> classes_;
    std::string refusal_;
};

class PinnedSlots final : public memory::SlotMemory {
  public:
    explicit PinnedSlots(std::shared_ptr<Device> device) : device_(std::move(device)) {}
    ~PinnedSlots() override {
        for (const Class& of : classes_)
            for (std::byte* const data : of.pinned)
                if (data) device_->unpin(data);
    }

    void add_class(std::size_t bytes, std::size_t slots) override {
        slots_->add_class(bytes, slots);
        classes_.push_back({bytes, std::vector<std::byte*>(slots)});
    }

    std::byte* commit(int size_class, int index) override {
        std::byte* const data = slots_->commit(size_class, index);
        Class& of = classes_[static_cast<std::size_t>(size_class)];
        if (data && device_->pin(data, of.bytes))
            of.pinned[static_cast<std::size_t>(index)] = data;
        else if (data)
            refusal_ = "pinned host memory: the system refused it to expert slots, so copies to the device are slower";
        return data;
    }

    void decommit(int size_class, int index) override {
        std::byte*& pinned = classes_[static_cast<std::size_t>(size_class)].pinned[static_cast<std::size_t>(index)];
        if (std::byte* const data = std::exchange(pinned, nullptr)) device_->unpin(data);
        slots_->decommit(size_class, index);
    }

    std::string refusal() const override { return slots_->refusal().empty() ? refusal_ : slots_->refusal(); }

  private:
    struct Class {
        std::size_t bytes = 0;
        std::vector<std::byte*> pinned;  // by index; null where it is not
    };
    const std::shared_ptr<Device> device_;
    const std::unique_ptr<memory::SlotMemory> slots_ = memory::host_slots();
    std::vector<Class> classes_;
    std::string refusal_;
};

}  // namespace

std::unique_ptr<memory::SlotMemory> device_slots(std::shared_ptr<Device> device) {
    return std::make_unique<DeviceSlots>(std::move(device));
}

std::unique_ptr<memory::SlotMemory> pinned_slots(std::shared_ptr<Device> device) {
    return std::make_unique<PinnedSlots>(std::move(device));
}

}  // namespace moestro::device
