#include "device/emulated.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"

namespace moestro::device {

namespace {

using Operation = VirtualLanes::Operation;

struct Range {
    const std::byte* begin = nullptr;
    std::size_t size = 0;
    bool overlaps(const Range& other) const { return begin < other.begin + other.size && other.begin < begin + size; }
};

Range range(const void* data, std::size_t bytes) {
    return {static_cast<const std::byte*>(data), bytes};
}

bool touches(const std::vector<Range>& all, const Range& one) {
    return std::any_of(all.begin(), all.end(), [&](const Range& range) { return range.overlaps(one); });
}

// Of every stream, how much of what it was given is surely over when something begins.
using Past = std::map<int, std::uint64_t>;

struct Work {
    int stream = 0;
    std::uint64_t turn = 0;  // in its stream
    Operation operation = 0;
    std::vector<Range> reads, writes;
    std::vector<Range> to_spoil;  // of writes, while something before it still needs them

    bool before(const Past& past) const {
        const auto known = past.find(stream);
        return known != past.end() && known->second >= turn;
    }
};

class World;

class Done final : public Event::State {
  public:
    Done(std::shared_ptr<VirtualLanes> lanes, Past past) : past(std::move(past)), lanes_(std::move(lanes)) {}
    bool over() override { return lanes_->over(operation); }
    void wait() override { lanes_->finish(operation); }
    void check() override {
        if (error) throw Error(*error);
    }

    Operation operation = 0;
    std::optional<Error> error;
    const Past past;  // itself included

  private:
    const std::shared_ptr<VirtualLanes> lanes_;
};

// What the device, its streams and its buffers share.
class World final : public Memory {
  public:
    World(const EmulatedOptions& given, std::shared_ptr<VirtualLanes> given_lanes,
          std::shared_ptr<kernels::Compute> given_compute)
        : options(given), lanes(std::move(given_lanes)), compute(std::move(given_compute)) {}

    Buffer allocate(const std::shared_ptr<World>& self, std::size_t bytes, bool on_device) {
        complain();
        const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), kPageBytes);
        if (on_device) {
            ++allocations_;
            const bool refused = options.failed_allocation > 0 && allocations_ >= options.failed_allocation;
            const std::size_t free = options.memory - allocated;
            require(!refused && size <= free, ErrorKind::budget, "the emulated device refused ", bytes_text(size),
                    refused ? " (as it was told to)" : "", ": ", bytes_text(free), " of ", bytes_text(options.memory),
                    " are free");
            allocated += size;
            peak = std::max(peak, allocated);
        }
        PageBuffer memory = options.weightless ? PageBuffer::addresses(size) : PageBuffer(size);
        std::byte* data = memory.data();
        if (!options.weightless) std::memset(data, 0xFF, size);
        blocks_.emplace(data, Block{std::move(memory), on_device, bytes});
        return {self, data, bytes, !on_device && !options.no_pinning};
    }

    void give_back(std::byte* data) noexcept override {
        const auto block = blocks_.find(data);
        const Range whole = range(data, block->second.memory.size());
        if (block->second.on_device) allocated -= whole.size;
        for (const Work& work : live_)
            if (touches(work.reads, whole) || touches(work.writes, whole)) {
                misuse_ = "a buffer was given back while work on it was under way";
                forgotten_.push_back(std::move(block->second.memory));
                break;
            }
        blocks_.erase(block);
    }

    void complain() {
        if (!misuse_) return;
        const std::string what = *std::exchange(misuse_, std::nullopt);
        fail(ErrorKind::internal, "the emulated device: ", what);
    }

    bool on_device(const Range& of) const {
        const Block* const block = block_of(of);
        return block && block->on_device;
    }

    // Memory of its own is touched inside one buffer only.
    void require_inside(const Range& of) const {
        for (const auto& [begin, block] : blocks_)
            require_that(!of.overlaps({begin, block.memory.size()}) || block_of(of), "a range outside its buffer");
    }

    void require_memory(const Range& of, const char* what, bool or_host) const {
        const Block* const block = block_of(of);
        require_that(block && (block->on_device || (or_host && !options.no_pinning)), what,
                     ": not in memory that the device reaches");
    }

    // Throws where the work would race with what is under way.
    void begin(Work& work, const Past& past) {
        for (const Work& other : live_) {
            if (other.before(past)) continue;
            for (const Range& one : work.writes)
                require_that(!touches(other.reads, one) && !touches(other.writes, one),
                             "memory that is in use would be overwritten: an event was not waited for");
            for (const Range& one : work.reads)
                require_that(!touches(other.writes, one),
                             "memory would be read while it is written: an event was not waited for");
        }
        for (const Range& one : work.writes) {
            const bool needed = std::any_of(live_.begin(), live_.end(), [&](const Work& other) {
                return touches(other.reads, one) || touches(other.writes, one);
            });
            if (needed)
                work.to_spoil.push_back(one);
            else
                spoil(one);
        }
    }

    void add(Work work) { live_.push_back(std::move(work)); }

    void end(Operation operation) {
        std::erase_if(live_, [&](const Work& work) { return work.operation == operation; });
        for (std::size_t i = 0; i < live_.size(); ++i)
            std::erase_if(live_[i].to_spoil, [&](const Range& one) {
                const bool needed = std::any_of(
                    live_.begin(), live_.begin() + static_cast<std::ptrdiff_t>(i),
                    [&](const Work& other) { return touches(other.reads, one) || touches(other.writes, one); });
                if (!needed) spoil(one);
                return !needed;
            });
    }

    // Whether the next copy is the one that fails.
    bool copy_fails() { return options.failed_copy > 0 && ++copies_ == options.failed_copy; }
    int new_stream() { return streams_++; }

    const EmulatedOptions options;
    const std::shared_ptr<VirtualLanes> lanes;
    const std::shared_ptr<kernels::Compute> compute;
    std::size_t allocated = 0, peak = 0;
    kernels::Activations activations;
    kernels::MlpScratch scratch;

  private:
    struct Block {
        PageBuffer memory;
        bool on_device = false;
        std::size_t size = 0;  // as it was asked for
    };

    template <class... Parts>
    static void require_that(bool ok, const Parts&... parts) {
        require(ok, ErrorKind::internal, "the emulated device: ", parts...);
    }
    // Where all of it is.
    const Block* block_of(const Range& of) const {
        auto block = blocks_.upper_bound(of.begin);
        if (block == blocks_.begin()) return nullptr;
        --block;
        return of.begin + of.size <= block->first + block->second.size ? &block->second : nullptr;
    }

    static void spoil(const Range& range) { std::memset(const_cast<std::byte*>(range.begin), 0xFF, range.size); }

    std::map<const std::byte*, Block> blocks_;
    std::vector<PageBuffer> forgotten_;  // given back too early
    std::vector<Work> live_;             // in the order of submission
    std::optional<std::string> misuse_;
    int allocations_ = 0, copies_ = 0, streams_ = 0;
};

class EmulatedStream final : public Stream {
  public:
    explicit EmulatedStream(std::shared_ptr<World> world) : world_(std::move(world)), number_(world_->new_stream()) {}
    ~EmulatedStream() override { finish(); }

    Event copy(std::byte* to, const std::byte* from, std::size_t bytes, Nanos takes) override {
        world_->complain();
        if (world_->options.weightless) return submit({}, policy::Lane::link, takes, world_->copy_fails(), [] {});
        Work work;
        work.reads = {range(from, bytes)};
        work.writes = {range(to, bytes)};
        world_->require_inside(work.reads.front());
        world_->require_inside(work.writes.front());
        if (!world_->on_device(work.reads.front()))
            world_->require_memory(work.writes.front(), "both ends of a copy", false);
        return submit(std::move(work), policy::Lane::link, takes, world_->copy_fails(),
                      [=] { std::memcpy(to, from, bytes); });
    }

    Event experts(const ExpertsLaunch& launch, Nanos takes) override {
        world_->complain();
        if (world_->options.weightless) return submit({}, policy::Lane::device, takes, false, [] {});
        struct Kept {
            std::vector<kernels::ExpertJob> jobs;
            std::vector<std::vector<std::int32_t>> rows;
            ExpertsLaunch launch;
        };
        const auto kept = std::make_shared<Kept>();
        kept->launch = launch;
        kept->jobs.assign(launch.jobs.begin(), launch.jobs.end());
        Work work;
        const std::size_t row_bytes = static_cast<std::size_t>(launch.hidden) * sizeof(float);
        work.reads.push_back(range(launch.x, static_cast<std::size_t>(launch.rows) * row_bytes));
        world_->require_memory(work.reads.front(), "the input of experts", true);
        for (kernels::ExpertJob& job : kept->jobs) {
            kept->rows.emplace_back(job.rows.begin(), job.rows.end());
            for (const kernels::Matrix* matrix : {&job.mlp.gate, &job.mlp.up, &job.mlp.down}) {
                work.reads.push_back(range(matrix->data, matrix->spec.bytes()));
                world_->require_memory(work.reads.back(), "an expert's record", false);
            }
            work.writes.push_back(range(job.y, job.rows.size() * row_bytes));
            world_->require_memory(work.writes.back(), "the output of an expert", true);
        }
        for (std::size_t i = 0; i < kept->jobs.size(); ++i) kept->jobs[i].rows = kept->rows[i];
        World* const world = world_.get();
        return submit(std::move(work), policy::Lane::device, takes, false, [kept, world] {
            const ExpertsLaunch& asked = kept->launch;
            world->activations.prepare(*world->compute, asked.x, asked.rows, asked.hidden, asked.integer);
            kernels::experts(*world->compute, world->activations, kept->jobs, world->scratch);
        });
    }

    void wait(const Event& event) override {
        world_->complain();
        if (!event.state()) return;
        for (const Event& part : event.state()->parts()) wait(part);
        const auto* done = dynamic_cast<const Done*>(event.state().get());
        if (!done) return;
        after_.push_back(done->operation);
        for (const auto& [stream, turn] : done->past) past_[stream] = std::max(past_[stream], turn);
    }

    void finish() override { world_->lanes->finish(last_); }

  private:
    Event submit(Work work, policy::Lane lane, Nanos takes, bool fails, std::function<void()> body) {
        world_->begin(work, past_);
        work.stream = number_;
        work.turn = ++past_[number_];
        auto done = std::make_shared<Done>(world_->lanes, past_);
        after_.push_back(last_);
        const auto run = [world = world_, done, fails, body = std::move(body)] {
            try {
                require(!fails, ErrorKind::io, "a copy to the emulated device failed (as it was told to)");
                body();
            } catch (const Error& error) {
                done->error = error;
            }
            world->end(done->operation);
        };
        work.operation = done->operation = last_ = world_->lanes->submit(static_cast<int>(lane), takes, after_, run);
        world_->add(std::move(work));
        after_.clear();
        return Event(std::move(done));
    }

    const std::shared_ptr<World> world_;
    const int number_;
    Operation last_ = 0;
    std::vector<Operation> after_;
    Past past_;
};

class Emulated final : public Device {
  public:
    explicit Emulated(std::shared_ptr<World> world) : world_(std::move(world)) {}
    std::string_view name() const override { return "emulated"; }
    std::size_t memory() const override { return world_->options.memory; }
    std::size_t allocated() const override { return world_->allocated; }
    std::size_t peak() const override { return world_->peak; }
    Buffer allocate(std::size_t bytes) override { return world_->allocate(world_, bytes, true); }
    Buffer allocate_host(std::size_t bytes) override { return world_->allocate(world_, bytes, false); }
    std::unique_ptr<Stream> make_stream() override { return std::make_unique<EmulatedStream>(world_); }
    bool pin(std::byte*, std::size_t) override { return false; }  // it would change nothing
    void unpin(std::byte*) noexcept override {}
    std::shared_ptr<kernels::Accelerator> make_accelerator() override {
        fail(ErrorKind::unsupported, "an emulated device computes experts only");
    }
    bool wait_any() override {
        world_->complain();
        return world_->lanes->step();
    }

  private:
    const std::shared_ptr<World> world_;
};

}  // namespace

std::shared_ptr<Device> make_emulated(const EmulatedOptions& options, std::shared_ptr<VirtualLanes> lanes,
                                      std::shared_ptr<kernels::Compute> compute) {
    MOESTRO_CHECK(options.weightless || compute);
    return std::make_shared<Emulated>(std::make_shared<World>(options, std::move(lanes), std::move(compute)));
}

}  // namespace moestro::device
