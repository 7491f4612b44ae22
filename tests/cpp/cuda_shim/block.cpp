#include "block.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"
#include "shim.h"

// Static shared memory of all kernels, where shared.ld puts it. It is the block's that runs.
extern "C" std::byte moestro_shared_begin[], moestro_shared_end[];

namespace moestro::cuda_shim {

namespace {

constexpr unsigned kLanes = 32;
constexpr std::size_t kGuardBytes = 256;
constexpr unsigned char kUnwritten = 0xFF, kGuard = 0xA5;
constexpr std::size_t kMostTurns = 10000;  // of every block, in which threads do nothing but wait for others

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
};

struct Thread {
    Fiber fiber;
    uint3 index;
    unsigned number = 0;
    bool ended = true;
    Meeting meeting = nullptr;  // that it waits for, of its block or of some lanes
    bool of_block = false;
    unsigned mask = 0;
    void* brought = nullptr;
    const std::uint32_t* watched = nullptr;  // it waits for others to write it
    std::vector<Copy> copies;                // not yet in a group
    std::deque<std::vector<Copy>> groups;
};

std::string text(const uint3& at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

void do_copies(std::vector<Copy>& copies) {
    for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.clear();
}

// The static shared memory, whatever AddressSanitizer puts between its variables.
class StaticShared {
  public:
    static void clear() {
        std::byte* to = moestro_shared_begin;
        std::size_t count = bytes();
        asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(kUnwritten) : "memory");
    }
    void save() {
        kept_.resize(bytes());
        copy(kept_.data(), moestro_shared_begin);
    }
    void restore() { copy(moestro_shared_begin, kept_.data()); }

  private:
    static std::size_t bytes() { return static_cast<std::size_t>(moestro_shared_end - moestro_shared_begin); }
    static void copy(std::byte* to, const std::byte* from) {
        std::size_t count = bytes();
        asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }

    std::vector<std::byte> kept_;
};

class Block {
  public:
    explicit Block(std::mt19937_64& random) : random_(random) {}

    Thread& now() { return *now_; }
    std::byte* shared() { return shared_; }
    std::mt19937_64& random() { return random_; }
    bool ended() const { return alive_ == 0; }

    StaticShared statics;  // while another block runs
    bool idle = false;     // in its last turn threads did nothing but wait for others

    void begin(const Shape& shape, std::size_t shared_bytes, const std::function<void()>& thread, const uint3& index) {
        body_ = &thread;
        shape_ = shape;
        index_ = index;
        while (threads_.size() < shape.count()) threads_.push_back(std::make_unique<Thread>());
        memory_.assign(shared_bytes + 2 * kGuardBytes, std::byte{kUnwritten});
        shared_bytes_ = shared_bytes;
        // On a multiple of 16, and of no more.
        auto address = (reinterpret_cast<std::uintptr_t>(memory_.data()) + 31) / 32 * 32 + 16;
        shared_ = reinterpret_cast<std::byte*>(address);
        std::memset(shared_ + shared_bytes_, kGuard, kGuardBytes - 64);
        const auto count = static_cast<unsigned>(shape_.count());
        ready_.clear();
        waiting_.clear();
        alive_ = count;
        came_to_block_ = 0;
        for (unsigned i = 0; i < count; ++i) {
            Thread& thread = *threads_[i];
            thread.index = {i % shape_.x, i / shape_.x % shape_.y, i / shape_.x / shape_.y};
            thread.number = i;
            thread.ended = false;
            thread.meeting = nullptr;
            thread.copies.clear();
            thread.groups.clear();
            thread.fiber.start([] { (*current()->body_)(); });
            ready_.push_back(i);
        }
    }

    // Until its threads have met, or all that can run wait for others; at random, earlier.
    void take_turn(bool may_break_off) {
        if (ready_.empty()) {
            if (waiting_.empty()) hang();
            std::swap(ready_, waiting_);
        }
        idle = true;
        over_ = false;
        while (!ready_.empty() && !over_) {
            resume(take());
            if (may_break_off && options().order == Order::random && random_() % 8 == 0) break;
        }
        if (ended()) check_guard();
    }

    void let_others(const std::uint32_t* watched) {
        now_->watched = watched;
        waits_ = true;
        waiting_.push_back(now_->number);
        Fiber::pause();
    }
    void step_aside() {
        if (options().order != Order::random || random_() % 2) return;
        over_ = true;
        ready_.push_back(now_->number);
        Fiber::pause();
    }

    void meet(bool of_block, unsigned mask, Meeting meeting, void* brought) {
        Thread& mine = *now_;
        mine.meeting = meeting;
        mine.of_block = of_block;
        mine.mask = mask;
        mine.brought = brought;
        if (of_block) {
            if (++came_to_block_ == shape_.count()) hold_block(mine);
            Fiber::pause();
        } else if (all_lanes_are_here(mine)) {
            hold_warp(mine);
        } else {
            Fiber::pause();
        }
    }

    static Block*& current() {
        static thread_local Block* block = nullptr;
        return block;
    }

    [[noreturn]] void fail(const std::string& what) { throw KernelError("block " + text(index_) + ": " + what); }
    unsigned lane_of(const Thread& thread) const { return thread.number % kLanes; }
    void complain(std::string what) { complaint_ = std::move(what); }

    // Of a thread that waits for others.
    std::string wait_text() const {
        const Thread& thread = *threads_[waiting_.empty() ? ready_.front() : waiting_.front()];
        std::ostringstream what;
        what << "block " << text(index_) << ": thread " << text(thread.index);
        if (thread.watched)
            what << " waits for the word at " << thread.watched << ", which is " << *thread.watched;
        else
            what << " sleeps";
        return what.str();
    }

  private:
    unsigned take() {
        std::size_t at = 0;
        if (options().order == Order::reverse) at = ready_.size() - 1;
        if (options().order == Order::random) at = random_() % ready_.size();
        const unsigned taken = ready_[at];
        if (at == 0) {
            ready_.pop_front();
        } else {
            ready_[at] = ready_.back();
            ready_.pop_back();
        }
        return taken;
    }

    void resume(unsigned number) {
        Thread& thread = *threads_[number];
        now_ = &thread;
        threadIdx = thread.index;
        blockIdx = index_;
        current() = this;
        waits_ = false;
        if (!thread.fiber.resume()) {
            thread.ended = true;
            --alive_;
        }
        idle = idle && waits_;
        if (!complaint_.empty()) fail("thread " + text(thread.index) + ": " + std::exchange(complaint_, {}));
    }

    template <class Function>
    void for_lanes(const Thread& of, const Function& function) {
        const unsigned first = of.number - lane_of(of);
        for (unsigned lane = 0; lane < kLanes; ++lane)
            if (of.mask >> lane & 1) function(lane, first + lane);
    }

    bool all_lanes_are_here(const Thread& mine) {
        if (!(mine.mask >> lane_of(mine) & 1)) {
            complain("it meets lanes of a mask that it is not in itself");
            Fiber::pause();
        }
        bool all = true;
        for_lanes(mine, [&](unsigned, unsigned number) {
            const Thread* const other = number < shape_.count() ? threads_[number].get() : nullptr;
            all = all && other && !other->ended && other->meeting == mine.meeting && !other->of_block &&
                  other->mask == mine.mask;
        });
        return all;
    }

    // The last one that came does it for all.
    void hold_block(Thread& mine) {
        brought_.clear();
        for (unsigned i = 0; i < shape_.count(); ++i) {
            if (threads_[i]->meeting != mine.meeting) {
                complain("its barrier of the block is not the others'");
                return;
            }
            brought_.push_back(threads_[i]->brought);
        }
        came_to_block_ = 0;
        over_ = true;
        mine.meeting(brought_.data(), static_cast<unsigned>(brought_.size()));
        for (unsigned i = 0; i < shape_.count(); ++i) release(*threads_[i]);
    }
    // Of a warp it goes on.
    void hold_warp(Thread& mine) {
        void* brought[kLanes] = {};
        for_lanes(mine, [&](unsigned lane, unsigned number) { brought[lane] = threads_[number]->brought; });
        mine.meeting(brought, kLanes);
        for_lanes(mine, [&](unsigned, unsigned number) {
            if (number != mine.number) release(*threads_[number]);
        });
        mine.meeting = nullptr;
    }
    void release(Thread& thread) {
        thread.meeting = nullptr;
        ready_.push_back(thread.number);
    }

    void check_guard() {
        const auto* const guard = reinterpret_cast<const unsigned char*>(shared_ + shared_bytes_);
        if (std::any_of(guard, guard + kGuardBytes - 64, [](unsigned char byte) { return byte != kGuard; }))
            fail("something was written beyond its shared memory of " + std::to_string(shared_bytes_) + " bytes");
    }

    // Nobody can run.
    [[noreturn]] void hang() {
        const Thread* waits = nullptr;
        const Thread* ended = nullptr;
        for (unsigned i = 0; i < shape_.count(); ++i) {
            const Thread& thread = *threads_[i];
            if (thread.ended && !ended) ended = &thread;
            if (!thread.ended && !waits) waits = &thread;
        }
        const Thread* missing = nullptr;  // who does not come to where `waits` is
        if (waits->of_block)
            for (unsigned i = 0; i < shape_.count() && !missing; ++i)
                if (!threads_[i]->of_block || threads_[i]->ended) missing = threads_[i].get();
        std::string what = "thread " + text(waits->index) + " waits for ever ";
        if (waits->of_block) {
            what += "at a barrier of the block";
            if (missing)
                what += ", to which thread " + text(missing->index) +
                        (missing->ended ? " did not come before it ended" : " does not come");
        } else {
            what += "for lanes of its warp";
            for_lanes(*waits, [&](unsigned lane, unsigned number) {
                if (missing) return;
                if (number >= shape_.count()) {
                    what += ", of which lane " + std::to_string(lane) + " does not exist";
                    missing = waits;
                    return;
                }
                const Thread& other = *threads_[number];
                if (other.ended || other.of_block || other.meeting != waits->meeting || other.mask != waits->mask) {
                    missing = &other;
                    what += ", of which lane " + std::to_string(lane) +
                            (other.ended      ? " has ended"
                             : other.of_block ? " is at a barrier of the block"
                                              : " waits for something else");
                }
            });
        }
        fail(what);
    }

    std::vector<std::unique_ptr<Thread>> threads_;
    Shape shape_;
    uint3 index_;
    const std::function<void()>* body_ = nullptr;
    std::vector<std::byte> memory_;
    std::byte* shared_ = nullptr;
    std::size_t shared_bytes_ = 0;
    std::deque<unsigned> ready_, waiting_;
    std::vector<void*> brought_;
    unsigned alive_ = 0, came_to_block_ = 0;
    Thread* now_ = nullptr;
    std::string complaint_;  // of a thread, which cannot throw
    bool over_ = false;      // its turn
    bool waits_ = false;     // who was resumed last, for others
    std::mt19937_64& random_;
};

Block& block() {
    return *Block::current();
}

// The blocks of a launch.
class Grid {
  public:
    void run(const Shape& grid, const Shape& shape, std::size_t shared_bytes, const std::function<void()>& thread) {
        random_.seed(options().seed);
        const std::size_t at_once = std::clamp<std::size_t>(options().blocks_at_once, 1, grid.count());
        while (blocks_.size() < at_once) blocks_.push_back(std::make_unique<Block>(random_));
        free_.clear();
        for (const auto& block : blocks_) free_.push_back(block.get());
        resident_.clear();
        loaded_ = nullptr;
        last_ = idle_turns_ = 0;
        std::vector<unsigned> numbers(grid.count());
        std::iota(numbers.begin(), numbers.end(), 0u);
        if (at_once == 1) put_in_order(numbers);
        for (auto next = numbers.begin(); next != numbers.end() || !resident_.empty();) {
            if (next != numbers.end() && resident_.size() < at_once) {
                begin(shape, shared_bytes, thread, {*next % grid.x, *next / grid.x % grid.y, *next / grid.x / grid.y});
                ++next;
                give_turn(resident_.size() - 1);
            } else {
                give_turn(whose_turn());
            }
        }
    }

  private:
    void put_in_order(std::vector<unsigned>& numbers) {
        if (options().order == Order::reverse) std::reverse(numbers.begin(), numbers.end());
        if (options().order == Order::random) std::shuffle(numbers.begin(), numbers.end(), random_);
    }

    void begin(const Shape& shape, std::size_t shared_bytes, const std::function<void()>& thread, const uint3& index) {
        if (loaded_) loaded_->statics.save();
        resident_.push_back(loaded_ = free_.back());
        free_.pop_back();
        StaticShared::clear();
        loaded_->begin(shape, shared_bytes, thread, index);
    }

    std::size_t whose_turn() {
        if (options().order == Order::random) return random_() % resident_.size();
        if (options().order == Order::forward) return (last_ + 1) % resident_.size();
        // The latest that does not merely wait. Where all do, each of them looks again.
        if (std::all_of(resident_.begin(), resident_.end(), [](const Block* block) { return block->idle; }))
            for (Block* const block : resident_) block->idle = false;
        std::size_t at = resident_.size() - 1;
        while (resident_[at]->idle) --at;
        return at;
    }

    void give_turn(std::size_t at) {
        Block& block = *resident_[at];
        if (loaded_ != &block) {
            if (loaded_) loaded_->statics.save();
            block.statics.restore();
            loaded_ = &block;
        }
        block.take_turn(resident_.size() > 1);
        last_ = at;
        idle_turns_ = block.idle ? idle_turns_ + 1 : 0;
        if (block.ended()) {
            resident_.erase(resident_.begin() + static_cast<std::ptrdiff_t>(at));
            free_.push_back(std::exchange(loaded_, nullptr));
            last_ = at + resident_.size() - (resident_.empty() ? 0 : 1);  // whoever came after it is next
        } else if (idle_turns_ > kMostTurns * resident_.size()) {
            std::string what = "blocks wait for what nobody writes";
            for (const Block* const waits : resident_) what += "; " + waits->wait_text();
            throw KernelError(what);
        }
    }

    std::mt19937_64 random_;
    std::vector<std::unique_ptr<Block>> blocks_;
    std::vector<Block*> free_, resident_;  // these as they began
    Block* loaded_ = nullptr;              // whose the static shared memory is
    std::size_t last_ = 0, idle_turns_ = 0;
};

}  // namespace

void run_grid(const Shape& grid, const Shape& shape, std::size_t shared_bytes, const std::function<void()>& thread) {
    static thread_local Grid all;
    gridDim = {grid.x, grid.y, grid.z};
    blockDim = {shape.x, shape.y, shape.z};
    all.run(grid, shape, shared_bytes, thread);
}

void meet_block(Meeting meeting, void* brought) {
    block().meet(true, 0, meeting, brought);
}
void meet_warp(unsigned mask, Meeting meeting, void* brought) {
    block().meet(false, mask, meeting, brought);
}
unsigned lane() {
    return block().lane_of(block().now());
}
void let_others(const std::uint32_t* watched) {
    block().let_others(watched);
}
void step_aside() {
    block().step_aside();
}
std::byte* dynamic_shared() {
    return block().shared();
}

void later_copy(void* to, const void* from, std::size_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(to) % bytes || reinterpret_cast<std::uintptr_t>(from) % bytes) {
        block().complain("an asynchronous copy of " + std::to_string(bytes) + " bytes is not aligned to as many");
        Fiber::pause();
    }
    const Order order = options().order;
    if (order == Order::reverse || (order == Order::random && block().random()() % 2))
        std::memcpy(to, from, bytes);
    else
        block().now().copies.push_back({to, from, bytes});
}
void later_commit() {
    Thread& thread = block().now();
    thread.groups.push_back(std::move(thread.copies));
    thread.copies.clear();
}
void later_wait(unsigned still_under_way) {
    auto& groups = block().now().groups;
    for (; groups.size() > still_under_way; groups.pop_front()) do_copies(groups.front());
}

}  // namespace moestro::cuda_shim
