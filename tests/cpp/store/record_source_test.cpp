#include "store/record_source.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "io/faulty_reader.h"
#include "support/scripted_reader.h"
#include "support/toy_model.h"

namespace moestro::store {
namespace {

using testing::ScriptedReader;
using testing::ToyModel;
using testing::ToyShape;

// A source over a real engine or a scripted one, and a slot for each record.
struct World {
    World(const ToyShape& shape, bool packed, std::unique_ptr<io::Reader> with, std::size_t staging_bytes,
          Verify verify = Verify::first, io::File::Cache cache = io::File::Cache::direct, bool beside = false)
        : model(shape),
          catalog(
              std::make_shared<const Catalog>(packed ? model.packed() : model.in_place(), model.open(packed, cache))),
          ledger(std::make_shared<memory::Ledger>(std::size_t{64} << 20)),
          staging(ledger, staging_bytes),
          pool(2),
          reader(std::move(with)),
          source(packed ? make_packed_source(catalog, *reader, pool, verify, clock, beside)
                        : make_checkpoint_source(catalog, *reader, staging, pool, clock)),
          slots(static_cast<std::size_t>(catalog->experts()) * slot_bytes()) {}

    std::size_t slot_bytes() const { return 4 * model.record_bytes(); }
    ExpertId id(int position, int expert) const { return {model.layer_number(position), expert}; }
    std::byte* slot(ExpertId id) const {
        return slots.data() + static_cast<std::size_t>(catalog->number(id)) * slot_bytes();
    }
    void start(ExpertId one, bool urgent = true) { source->start(catalog->number(one), slot(one), urgent); }
    void start_all() {
        for (const ExpertLayer& layer : catalog->layers())
            for (int expert = 0; expert < layer.experts(); ++expert) start({layer.layer, expert});
    }
    std::vector<Arrival> collect() {
        std::vector<Arrival> arrivals;
        while (source->in_flight() > 0) source->wait(arrivals);
        EXPECT_TRUE(staging.idle());
        return arrivals;
    }
    // Parts as the packed store has them; bytes between parts mean nothing.
    bool intact(ExpertId one) const {
        const ExpertLayer& layer = catalog->layer(one.layer);
        const std::byte* record = model.record((one.layer - 1) / 2, one.expert);
        for (const Part* part : layer.parts())
            if (std::memcmp(slot(one) + part->offset, record + part->offset, part->spec.bytes()) != 0) return false;
        return true;
    }

    SteadyClock clock;
    ToyModel model;
    std::shared_ptr<const Catalog> catalog;
    std::shared_ptr<memory::Ledger> ledger;
    memory::Staging staging;
    ThreadPool pool;
    std::unique_ptr<io::Reader> reader;
    std::unique_ptr<RecordSource> source;
    PageBuffer slots;
};

std::unique_ptr<io::Reader> engine(const std::string& name = "auto") {
    return io::make_reader({.engine = name, .registered = {}});
}

TEST(RecordSource, RecordsEqualThePackedStoreWhateverTheWay) {
    using quant::Format;
    struct Kind {
        Format format;
        quant::SourceType source;
        bool packed;
    };
    for (const Kind kind : {Kind{Format::bf16, quant::SourceType::bf16, false},
                            {Format::f32, quant::SourceType::f32, false},
                            {Format::f32, quant::SourceType::bf16, false},
                            {Format::q4, quant::SourceType::f32, true},
                            {Format::bf16, quant::SourceType::bf16, true}})
        for (const char* name : {"auto", "threads"})
            for (const auto cache : {io::File::Cache::direct, io::File::Cache::buffered}) {
                World world({.format = kind.format, .intermediate = 70, .source = kind.source, .uneven = true},
                            kind.packed, engine(name), 12 * kPageBytes, Verify::first, cache);
                world.start_all();
                const std::vector<Arrival> arrivals = world.collect();
                ASSERT_EQ(arrivals.size(), 18u);
                std::set<ExpertId> seen;
                for (const Arrival& arrival : arrivals) {
                    EXPECT_FALSE(arrival.error) << arrival.error->what();
                    EXPECT_TRUE(seen.insert(world.catalog->id(arrival.number)).second);
                    EXPECT_TRUE(world.intact(world.catalog->id(arrival.number)));
                }
                EXPECT_GE(world.source->counters().bytes, 18 * 3 * std::size_t{48} * 70 * 2 / (kind.packed ? 4 : 1));
            }
}

TEST(RecordSource, StagingBoundsWhatIsInFlightAndEverythingStillArrives) {
    // One panel of `down` with its alignment is about 3 pages: the smallest staging this model runs with.
    auto scripted = std::make_unique<ScriptedReader>(ScriptedReader::Order::shuffled);
    ScriptedReader* reader = scripted.get();
    World world({}, false, std::move(scripted), 4 * kPageBytes);
    world.start_all();
    const auto arrivals = world.collect();
    EXPECT_EQ(arrivals.size(), 18u);
    for (const Arrival& arrival : arrivals)
        EXPECT_TRUE(!arrival.error && world.intact(world.catalog->id(arrival.number)));
    EXPECT_LE(reader->most_in_flight, 4u);
}

// At once: a record whose read cannot begin would keep its slot for ever.
TEST(RecordSource, APanelLargerThanStagingIsRefusedByName) {
    try {
        const World world({.hidden = 4000}, false, engine(), 4 * kPageBytes);
        ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::unsupported);
        EXPECT_NE(std::string(error.what()).find("staging"), std::string::npos);
    }
}

TEST(RecordSource, UrgentRecordsAreReadFirst) {
    auto scripted = std::make_unique<ScriptedReader>();
    World world({}, false, std::move(scripted), 4 * kPageBytes);  // room for little, so the order shows
    for (int expert = 0; expert < 6; ++expert) world.start(world.id(0, expert), false);
    world.start(world.id(2, 3), true);
    EXPECT_EQ(world.collect().front().number, world.catalog->number(world.id(2, 3)));
}

Arrival only(World& world, ExpertId id) {
    world.start(id);
    std::vector<Arrival> arrivals = world.collect();
    EXPECT_EQ(arrivals.size(), 1u);
    return arrivals.front();
}

void flip_bit(const std::string& path, std::uint64_t offset) {
    // In place and with the old time stamps: what a disk does, and only a checksum can see.
    const auto time = std::filesystem::last_write_time(path);
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get() ^ 4);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
    file.close();
    std::filesystem::last_write_time(path, time);
}

class Checksums : public ::testing::TestWithParam<bool> {};  // on a thread of their own

TEST_P(Checksums, NameAFlippedBitWithBothSums) {
    World world({}, true, engine(), 4 * kPageBytes, Verify::first, io::File::Cache::direct, GetParam());
    flip_bit(world.model.packed_path(), 2 * world.model.record_bytes() + 999);
    EXPECT_FALSE(only(world, world.id(0, 1)).error);
    const Arrival bad = only(world, world.id(0, 2));
    ASSERT_TRUE(bad.error);
    EXPECT_EQ(bad.error->kind(), ErrorKind::integrity);
    const std::string message = bad.error->what();
    const RecordExtent& extent = world.catalog->layer(1).records[2];
    for (const std::string& part : {std::string("layer 1, expert 2"), text("offset ", extent.offset),
                                    world.model.packed_path(), text("expected 0x", std::hex, extent.checksum)})
        EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    EXPECT_TRUE(only(world, world.id(0, 2)).error) << "still bad when read again";
}

TEST_P(Checksums, AreVerifiedFirstAlwaysOrNever) {
    const bool beside = GetParam();
    const auto second_read_noticed = [beside](Verify verify) {
        World world({}, true, engine(), 4 * kPageBytes, verify, io::File::Cache::direct, beside);
        EXPECT_FALSE(only(world, world.id(0, 0)).error);
        flip_bit(world.model.packed_path(), 500);
        return only(world, world.id(0, 0)).error.has_value();
    };
    EXPECT_FALSE(second_read_noticed(Verify::first));
    EXPECT_TRUE(second_read_noticed(Verify::always));
    EXPECT_FALSE(second_read_noticed(Verify::never));
    World never({}, true, engine(), 4 * kPageBytes, Verify::never, io::File::Cache::direct, beside);
    flip_bit(never.model.packed_path(), 500);
    EXPECT_FALSE(only(never, never.id(0, 0)).error);
}

TEST_P(Checksums, OfManyRecordsAtOnce) {
    auto scripted = std::make_unique<ScriptedReader>(ScriptedReader::Order::shuffled);
    scripted->per_wait = 5;
    World world({}, true, std::move(scripted), 4 * kPageBytes, Verify::always, io::File::Cache::direct, GetParam());
    for (int round = 0; round < 20; ++round) {
        world.start_all();
        const std::vector<Arrival> arrivals = world.collect();
        ASSERT_EQ(arrivals.size(), 18u);
        for (const Arrival& arrival : arrivals)
            ASSERT_TRUE(!arrival.error && world.intact(world.catalog->id(arrival.number)));
    }
}

// A source goes while its records are being verified.
TEST_P(Checksums, MayBeGivenUp) {
    for (int round = 0; round < 20; ++round) {
        World world({}, true, engine(), 4 * kPageBytes, Verify::always, io::File::Cache::direct, GetParam());
        world.start_all();
        std::vector<Arrival> arrivals;
        world.source->wait(arrivals);
        world.source.reset();
        world.reader.reset();
    }
}

INSTANTIATE_TEST_SUITE_P(Pool, Checksums, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Beside, Checksums, ::testing::Values(true));

TEST(RecordSource, AReplacedFileIsNoticed) {
    for (const bool packed : {true, false}) {
        World world({}, packed, engine(), 16 * kPageBytes);
        const std::string& path = packed ? world.model.packed_path() : world.model.checkpoint_path();
        EXPECT_FALSE(only(world, world.id(0, 0)).error);
        std::filesystem::copy_file(path, path + ".new");
        std::filesystem::rename(path + ".new", path);
        const Arrival bad = only(world, world.id(0, 1));
        ASSERT_TRUE(bad.error);
        EXPECT_EQ(bad.error->kind(), ErrorKind::integrity);
        EXPECT_NE(std::string(bad.error->what()).find("layer 1, expert 1"), std::string::npos) << bad.error->what();
        EXPECT_NE(std::string(bad.error->what()).find("replaced"), std::string::npos) << bad.error->what();
    }
}

TEST(RecordSource, ATruncatedFileIsNoticed) {
    for (const bool packed : {true, false}) {
        World world({}, packed, engine(), 16 * kPageBytes);
        std::filesystem::resize_file(packed ? world.model.packed_path() : world.model.checkpoint_path(), 8192);
        const Arrival bad = only(world, world.id(2, 5));
        ASSERT_TRUE(bad.error);
        EXPECT_NE(std::string(bad.error->what()).find("layer 5, expert 5"), std::string::npos) << bad.error->what();
    }
}

TEST(RecordSource, OneBadReadSpoilsOneRecord) {
    for (const bool packed : {true, false})
        for (const char* plan : {"eio@3", "short@3"}) {
            auto faulty = std::make_unique<io::FaultyReader>(engine(), io::FaultPlan::parse(plan));
            World world({}, packed, std::move(faulty), 8 * kPageBytes);
            world.start_all();
            int failed = 0;
            for (const Arrival& arrival : world.collect()) {
                failed += arrival.error.has_value();
                if (arrival.error) {
                    EXPECT_EQ(arrival.error->kind(), ErrorKind::io) << arrival.error->what();
                }
                if (!arrival.error) {
                    EXPECT_TRUE(world.intact(world.catalog->id(arrival.number)));
                }
            }
            EXPECT_EQ(failed, 1) << plan << " packed " << packed;
        }
}

TEST(Verify, NamesAreParsed) {
    EXPECT_EQ(parse_verify("always"), Verify::always);
    EXPECT_EQ(parse_verify("first"), Verify::first);
    EXPECT_EQ(parse_verify("never"), Verify::never);
    EXPECT_THROW(parse_verify("sometimes"), Error);
}

}  // namespace
}  // namespace moestro::store
