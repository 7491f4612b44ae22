#include "memory/slot_memory.h"

#include <sys/mman.h>

#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"

namespace moestro::memory {

namespace {

// A range of addresses per class.
class Ranges final : public SlotMemory {
  public:
    explicit Ranges(bool backed) : backed_(backed) {}

    void add_class(std::size_t bytes, std::size_t slots) override {
        classes_.push_back({bytes, PageBuffer::addresses(bytes * slots, backed_), false});
    }

    std::byte* commit(int size_class, int index) override {
        Class& of = classes_[static_cast<std::size_t>(size_class)];
        const std::size_t offset = static_cast<std::size_t>(index) * of.bytes;
        if (backed_ && !of.range.commit(offset, of.bytes)) {
            refusal_ = text("host memory: the system refused a slot of ", bytes_text(of.bytes));
            return nullptr;
        }
        return of.range.data() + offset;
    }

    void decommit(int size_class, int index) override {
        Class& of = classes_[static_cast<std::size_t>(size_class)];
        if (!of.split) {
            // From here on the range has holes, and the kernel must not fill them again by merging pages into huge
            // ones.
            ::madvise(of.range.data(), of.range.size(), MADV_NOHUGEPAGE);
            of.split = true;
        }
        of.range.release(static_cast<std::size_t>(index) * of.bytes, of.bytes);
    }

    std::string refusal() const override { return refusal_; }

  private:
    struct Class {
        std::size_t bytes = 0;
        PageBuffer range;
        bool split = false;  // see decommit
    };
    const bool backed_;
    std::vector<Class> classes_;
    std::string refusal_;
};

}  // namespace

std::unique_ptr<SlotMemory> host_slots() {
    return std::make_unique<Ranges>(true);
}

std::unique_ptr<SlotMemory> slots_without_memory() {
    return std::make_unique<Ranges>(false);
}

}  // namespace moestro::memory
