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

}  // namespace

std::unique_ptr<memory::SlotMemory> device_slots(std::shared_ptr<Device> device) {
    return std::make_unique<DeviceSlots>(std::move(device));
}

}  // namespace moestro::device
