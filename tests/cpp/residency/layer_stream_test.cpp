#include "residency/layer_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "base/checksum.h"
#include "io/faulty_reader.h"
#include "support/refusal.h"
#include "support/toy_model.h"

namespace moestro::residency {
namespace {

using testing::refusal;
using testing::ToyModel;

constexpr std::size_t kBudget = std::size_t{64} << 20;

// Units of a model: the experts of a toy, taken as if they were its layers.
struct World {
    World(const ToyModel& model, bool packed, const StreamOptions& options, const std::string& faults = "",
          std::size_t budget = kBudget, store::Verify verify = store::Verify::first)
        : ledger(std::make_shared<memory::Ledger>(budget)), units(std::make_shared<store::TrunkUnits>(ledger)) {
        const auto file = model.open(packed).front();
        for (const store::ExpertLayer& layer : packed ? model.packed() : model.in_place())
            for (int expert = 0; expert < layer.experts(); ++expert) {
                const auto which = static_cast<std::size_t>(expert);
                const std::string name = text("unit ", units->count());
                const std::vector<store::Part> parts = {layer.gate, layer.up, layer.down};
                std::vector<store::TrunkUnits::Piece> pieces;
                for (std::size_t part = 0; !packed && part < 3; ++part)
                    pieces.push_back({file, layer.slices[which][part], parts[part].spec.format});
                handles.push_back(packed ? units->add(name, file, layer.records[which], parts, {})
                                         : units->add(name, pieces));
                expected.push_back({model.record((layer.layer - 1) / 2, expert), parts});
            }
        StreamReading reading;
        reading.pool = std::make_unique<ThreadPool>(1);
        auto engine = io::make_reader({.registered = {}});
        auto faulty = std::make_unique<io::FaultyReader>(std::move(engine), io::FaultPlan::parse(faults));
        reader = faulty.get();
        reading.reader = std::move(faulty);
        if (packed) {
            reading.source = make_packed_source(units, *reader, *reading.pool, verify, clock);
        } else {
            reading.staging = std::make_unique<memory::Staging>(ledger, std::size_t{1} << 20);
            reading.source = make_checkpoint_source(units, *reader, *reading.staging, *reading.pool, clock);
        }
        stream = std::make_unique<LayerStream>(units, ledger, options, std::move(reading), clock);
    }

    // Holds the unit and compares it with the packed file's bytes.
    bool right(int unit) {
        stream->hold(unit);
        const auto& [record, parts] = expected[static_cast<std::size_t>(unit)];
        bool same = true;
        for (std::size_t part = 0; part < parts.size(); ++part) {
            const kernels::Matrix& matrix = *handles[static_cast<std::size_t>(unit)][part];
            same =
                same && matrix.data && std::memcmp(matrix.data, record + parts[part].offset, matrix.spec.bytes()) == 0;
        }
        stream->release(unit);
        return same && handles[static_cast<std::size_t>(unit)].front()->data == nullptr;
    }
    void pass(int used) {
        stream->begin(used);
        for (int unit = 0; unit < used; ++unit) ASSERT_TRUE(right(unit)) << unit;
        stream->check_integrity();
        ledger->check_integrity();
    }

    struct Expected {
        const std::byte* record;
        std::vector<store::Part> parts;
    };
    SteadyClock clock;
    std::shared_ptr<memory::Ledger> ledger;
    std::shared_ptr<store::TrunkUnits> units;
    std::vector<std::vector<store::MatrixHandle>> handles;
    std::vector<Expected> expected;
    io::FaultyReader* reader = nullptr;
    std::unique_ptr<LayerStream> stream;
};

TEST(LayerStream, UnitsAreRightWhateverTheRing) {
    for (const bool packed : {true, false})
        for (const bool uneven : {false, true}) {
            const ToyModel model({.format = quant::Format::bf16, .uneven = uneven});
            for (const auto& [window, batch] : {std::pair{1, 1}, {2, 1}, {3, 2}, {4, 4}, {7, 3}})
                for (const std::size_t keep : {std::size_t{0}, 5 * model.record_bytes(), kBudget / 2}) {
                    World world(model, packed, {window, batch, keep});
                    for (const int used : {18, 18, 11, 18, 3, 18}) world.pass(used);
                }
        }
}

TEST(LayerStream, HoldsWhatItSaysAndReadsWhatDoesNotStay) {
    const ToyModel model({.format = quant::Format::q8});
    const std::size_t record = model.record_bytes();
    World world(model, true, {2, 1, 5 * record + record / 2});
    EXPECT_EQ(world.stream->kept(), 5);
    EXPECT_EQ(world.ledger->held(), (2 + 5) * record);
    world.pass(18);
    for (int pass = 0; pass < 3; ++pass) world.pass(18);
    // Every pass reads what does not stay; at most two units were read ahead into the next one.
    const StreamCounters counters = world.stream->counters();
    EXPECT_GE(counters.bytes, (5 + 4 * 13) * record);
    EXPECT_LE(counters.bytes, (5 + 4 * 13 + 2) * record);
    EXPECT_EQ(counters.used, 4u * 18);
    world.stream.reset();
    EXPECT_EQ(world.ledger->held(), 0u);
}

TEST(LayerStream, AFailedReadIsNamedAndTheNextTryIsFine) {
    const ToyModel model({.format = quant::Format::q4});
    for (const char* fault : {"eio@3", "short@3", "flip@3"}) {
        for (const std::size_t keep : {std::size_t{0}, kBudget / 2}) {
            World world(model, true, {2, 1, keep}, fault, kBudget, store::Verify::always);
            world.stream->begin(18);
            EXPECT_TRUE(world.right(0));
            EXPECT_TRUE(world.right(1));
            std::string said;
            try {
                world.stream->hold(2);
            } catch (const Error& error) {
                said = error.what();
            }
            EXPECT_NE(said.find("unit 2"), std::string::npos) << fault << ": " << said;
            world.stream->release_all();
            for (int pass = 0; pass < 2; ++pass) world.pass(18);
        }
    }
}

TEST(LayerStream, ABrokenOffPassLeavesTheNextOneRight) {
    const ToyModel model({});
    World world(model, true, {3, 1, 2 * model.record_bytes()});
    std::mt19937 random(4);
    for (int pass = 0; pass < 30; ++pass) {
        const int used = 1 + static_cast<int>(random() % 18), until = static_cast<int>(random() % 18);
        world.stream->begin(used);
        for (int unit = 0; unit < std::min(used, until); ++unit) ASSERT_TRUE(world.right(unit));
        if (until < used) world.stream->hold(until);  // and an exception flies
        world.stream->release_all();
        world.stream->check_integrity();
    }
    world.pass(18);
}

TEST(LayerStream, LendsWhatStaysAndTakesItAgain) {
    const ToyModel model({});
    const std::size_t record = model.record_bytes();
    World world(model, true, {2, 1, 10 * record}, "", 12 * record);
    EXPECT_EQ(world.stream->can_lend(), 10 * record);
    // At once, while their first reads are under way.
    EXPECT_TRUE(world.stream->lend(3 * record - 5));
    EXPECT_EQ(world.stream->kept(), 7);
    EXPECT_EQ(world.ledger->free(), 3 * record);
    world.pass(18);
    world.pass(18);
    EXPECT_FALSE(world.stream->lend(7 * record + 1));
    EXPECT_EQ(world.stream->kept(), 7);
    EXPECT_TRUE(world.stream->lend(7 * record));
    EXPECT_EQ(world.stream->kept(), 0);
    world.pass(18);
    world.ledger->take("kv", 4 * record);
    world.stream->grow();
    EXPECT_EQ(world.stream->kept(), 6);
    world.pass(18);
    const std::uint64_t before = world.stream->counters().bytes;
    world.pass(18);
    EXPECT_LE(world.stream->counters().bytes - before, (12 + 2) * record) << "units that stay were read again";
    world.ledger->give("kv", 4 * record);
}

TEST(LayerStream, AReplacedFileIsNoticed) {
    for (const bool packed : {true, false}) {
        const ToyModel model({});
        World world(model, packed, {1, 1, 0});
        world.stream->begin(18);
        EXPECT_TRUE(world.right(0));
        const std::string& path = packed ? model.packed_path() : model.checkpoint_path();
        std::filesystem::copy_file(path, path + ".new");
        std::filesystem::rename(path + ".new", path);
        std::string said;
        for (int unit = 1; unit < 4 && said.empty(); ++unit) {  // one may have been read ahead before
            try {
                world.stream->hold(unit);
                world.stream->release(unit);
            } catch (const Error& error) {
                said = error.what();
            }
        }
        EXPECT_NE(said.find("replaced"), std::string::npos) << said;
    }
}

// From the fifth read on the disk answers now and then only.
TEST(LayerStream, ASlowDiskCostsTimeAndNothingElse) {
    const ToyModel model({});
    for (const int window : {1, 2, 4}) {
        World world(model, true, {window, 1, 3 * model.record_bytes()}, "gate@5");
        std::atomic<bool> done = false;
        std::thread disk([&] {
            while (!done) {
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
                world.reader->release(1);
            }
        });
        for (int pass = 0; pass < 3; ++pass) world.pass(18);
        EXPECT_GT(world.stream->counters().stall_ns, 40'000'000);
        world.reader->open_gate();
        done = true;
        disk.join();
        world.pass(18);
    }
}

TEST(LayerStream, ClosesWhileReadsAreUnderWay) {
    const ToyModel model({});
    for (int round = 0; round < 50; ++round) {
        World world(model, round % 2 == 0, {3, 1, 0});
        world.stream->begin(18);
        for (int unit = 0; unit < round % 5; ++unit) ASSERT_TRUE(world.right(unit));
    }
}

TEST(LayerStream, MisuseIsRefused) {
    const ToyModel model({});
    World world(model, true, {2, 1, 0});
    world.stream->begin(4);
    EXPECT_NE(refusal([&] { world.stream->hold(18); }).find("no unit 18 of 18"), std::string::npos);
    EXPECT_NE(refusal([&] { world.stream->hold(5); }).find("units below 4"), std::string::npos);
    EXPECT_NE(refusal([&] { world.stream->release(0); }).find("not held"), std::string::npos);
    world.stream->hold(0);
    EXPECT_NE(refusal([&] { world.stream->hold(1); }).find("unit 0 is held"), std::string::npos);
    world.stream->release(0);
    EXPECT_NE(refusal([&] { World(model, true, {0, 1, 0}); }).find("window"), std::string::npos);
}

TEST(LayerStream, WithoutRoomForItsSlotsItIsRefused) {
    const ToyModel model({});
    EXPECT_THROW(World(model, true, {3, 1, 0}, "", 2 * model.record_bytes()), Error);
}

}  // namespace
}  // namespace moestro::residency
