#include "exec/layer_runner.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstring>
#include <limits>

#include "io/faulty_reader.h"
#include "support/scripted_reader.h"
#include "support/toy_model.h"

namespace moestro::exec {
namespace {

using testing::Call;
using testing::ScriptedReader;
using Order = ScriptedReader::Order;

struct Setup {
    bool packed = true;
    int slots = 4;
    int threads = 1;
    Order order = Order::first_in;
    testing::ToyShape shape = {};
    std::string faults = {};
    std::size_t staging = 16 * kPageBytes;
};

struct World {
    explicit World(const Setup& setup)
        : model(setup.shape),
          catalog(std::make_shared<const store::Catalog>(setup.packed ? model.packed() : model.in_place(),
                                                         model.open(setup.packed))),
          compute(setup.threads, kernels::choose_isa("")),
          ledger(std::make_shared<memory::Ledger>(std::size_t{64} << 20)),
          staging(ledger, setup.staging),
          reader(new ScriptedReader(setup.order)),
          faulty(std::unique_ptr<io::Reader>(reader), io::FaultPlan::parse(setup.faults)),
          cache(catalog, ledger, static_cast<std::size_t>(setup.slots) * largest(*catalog), setup.slots,
                setup.packed ? make_packed_source(catalog, faulty, compute.pool(), store::Verify::always, clock)
                             : make_checkpoint_source(catalog, faulty, staging, compute.pool(), clock),
                policy::make_eviction("lru"), clock),
          runner(*catalog, residency::Tiers(cache), compute, clock) {}

    static std::size_t largest(const store::Catalog& catalog) {
        std::size_t bytes = 0;
        for (const auto& layer : catalog.layers()) bytes = std::max(bytes, layer.record_bytes);
        return bytes;
    }
    std::shared_ptr<Submission> submit(const Call& call) {
        return runner.submit(call.layer, call.x.data(), call.rows, call.ids.data(), call.weights.data(), call.top_k);
    }
    std::vector<float> wait(Submission& submission, const Call& call) {
        std::vector<float> y(call.x.size(), std::numeric_limits<float>::quiet_NaN());
        runner.wait(submission, y.data());
        cache.check_integrity();
        return y;
    }
    std::vector<float> run(const Call& call) { return wait(*submit(call), call); }
    std::vector<float> expected(const Call& call) { return model.expected(compute, call); }
    // Makes expert records resident, by running one row through each.
    void warm(int position, std::initializer_list<int> experts) {
        for (const int expert : experts) {
            Call call = model.random_call(position, 1, 1, 1);
            call.ids = {expert};
            run(call);
        }
    }

    VirtualClock clock;
    testing::ToyModel model;
    std::shared_ptr<const store::Catalog> catalog;
    kernels::Compute compute;
    std::shared_ptr<memory::Ledger> ledger;
    memory::Staging staging;
    ScriptedReader* reader;
    io::FaultyReader faulty;
    residency::ExpertCache cache;
    LayerRunner runner;
};

// One row for all six experts of a layer.
Call all_experts(const World& world, int position, unsigned seed) {
    return world.model.random_call(position, 1, world.model.shape().experts, seed);
}

// The heart of it: same bits whatever the slots, the threads, the order of arrival, the format and where records come
// from.
TEST(LayerRunner, PlacementNeverChangesTheAnswer) {
    using quant::Format;
    struct Kind {
        Format format;
        quant::SourceType source;
        bool packed;
    };
    const Kind kinds[] = {{Format::bf16, quant::SourceType::bf16, true}, {Format::bf16, quant::SourceType::bf16, false},
                          {Format::f32, quant::SourceType::f32, true},   {Format::f32, quant::SourceType::f32, false},
                          {Format::f32, quant::SourceType::bf16, false}, {Format::q8, quant::SourceType::bf16, true},
                          {Format::q4, quant::SourceType::f32, true}};
    for (const Kind& kind : kinds)
        for (const int slots : {2, 3, 7, 18})
            for (const int threads : {1, 2}) {
                World world({.packed = kind.packed,
                             .slots = slots,
                             .threads = threads,
                             .order = threads == 1 ? Order::shuffled : Order::last_in,
                             .shape = {.format = kind.format, .source = kind.source, .uneven = slots == 7}});
                for (int step = 0; step < 4; ++step)
                    for (int position = 0; position < 3; ++position) {
                        const int rows[] = {1, 5, 40, 2};
                        const Call call = world.model.random_call(position, rows[step], 1 + step,
                                                                  static_cast<unsigned>(10 * step + position));
                        ASSERT_EQ(world.run(call), world.expected(call))
                            << quant::name(kind.format) << " packed " << kind.packed << " slots " << slots;
                    }
                const RunCounters counters = world.runner.counters();
                EXPECT_GT(counters.misses, 0u);
                if (slots < 18) {
                    EXPECT_GT(world.cache.counters().evictions, 0u);
                }
                if (slots == 18) {
                    EXPECT_GT(counters.hits, 0u);
                }
            }
}

TEST(LayerRunner, HitsAreComputedBeforeTheFirstMissIsDelivered) {
    World world({.slots = 6, .order = Order::last_in});
    world.warm(0, {0, 2, 4});
    const Call call = all_experts(world, 0, 5);
    const std::vector<float> expected = world.expected(call);
    const std::uint64_t before = world.reader->submitted;
    bool first = true;
    world.reader->before_wait = [&] {
        if (!std::exchange(first, false)) return;
        // Nothing was delivered yet. If a hit were still to be computed, it would now be computed from NaNs.
        for (const int expert : {0, 2, 4}) {
            const residency::Pin pin = world.cache.pin({call.layer, expert});
            std::memset(const_cast<std::byte*>(pin.data()), 0xFF, world.model.record_bytes());
        }
    };
    const auto submission = world.submit(call);
    EXPECT_EQ(world.reader->submitted - before, 3u) << "all misses are with the reader before anything is computed";
    EXPECT_EQ(world.reader->in_flight(), 3u);
    EXPECT_EQ(world.wait(*submission, call), expected);
    EXPECT_FALSE(first) << "the misses were waited for";
    EXPECT_EQ(world.runner.counters().hits, 3u);
    EXPECT_EQ(world.runner.counters().misses, 3u + 3u);
}

TEST(LayerRunner, ArrivalsAreComputedAsTheyCome) {
    World world({.slots = 6});
    const Call call = all_experts(world, 0, 5);
    // At the second wait the first arrival must have been computed: it is overwritten, and nothing shows.
    int waits = 0;
    world.reader->before_wait = [&] {
        if (++waits != 2) return;
        const auto states = [&](int expert) { return world.cache.state({call.layer, expert}); };
        for (int expert = 0; expert < 6; ++expert)
            if (states(expert) == residency::State::resident) {
                const residency::Pin pin = world.cache.pin({call.layer, expert});
                std::memset(const_cast<std::byte*>(pin.data()), 0xFF, world.model.record_bytes());
            }
    };
    EXPECT_EQ(world.run(call), world.expected(call));
    EXPECT_EQ(waits, 6);
}

TEST(LayerRunner, TwoSlotsServeEveryExpertWithTwoLoadsInFlight) {
    World world({.slots = 2, .order = Order::shuffled});
    const Call call = all_experts(world, 1, 6);
    EXPECT_EQ(world.run(call), world.expected(call));
    EXPECT_EQ(world.reader->most_in_flight, 2u);
    EXPECT_EQ(world.cache.counters().evictions, 4u);
    EXPECT_EQ(world.runner.counters().misses, 6u);
}

TEST(LayerRunner, TwoSubmissionsJoinOneLoad) {
    World world({.slots = 6});
    const Call first = all_experts(world, 0, 1), second = all_experts(world, 0, 2);
    const auto a = world.submit(first), b = world.submit(second);
    EXPECT_EQ(world.reader->submitted, 6u);
    EXPECT_EQ(world.runner.counters().joined, 6u);
    EXPECT_EQ(world.wait(*b, second), world.expected(second)) << "in any order";
    EXPECT_EQ(world.wait(*a, first), world.expected(first));
    EXPECT_EQ(world.reader->submitted, 6u);
}

TEST(LayerRunner, ALaterSubmissionCannotBeStarvedByAnEarlierOne) {
    for (const bool packed : {true, false}) {
        World world({.packed = packed, .slots = 2, .order = Order::shuffled});
        const Call first = all_experts(world, 0, 1), second = all_experts(world, 1, 2);
        const auto a = world.submit(first), b = world.submit(second);  // a holds both slots
        EXPECT_EQ(world.wait(*b, second), world.expected(second));
        EXPECT_EQ(world.wait(*a, first), world.expected(first));
    }
}

TEST(LayerRunner, AbandonedWorkLeavesNothingPinned) {
    World world({.slots = 3});
    const Call call = all_experts(world, 0, 3);
    auto submission = world.submit(call);
    submission->abandon();
    submission.reset();
    world.runner.sweep();
    EXPECT_EQ(world.runner.open(), 0);
    world.cache.check_integrity();
    // All three slots are loading for nobody; another layer must get them all the same.
    const Call other = all_experts(world, 2, 4);
    EXPECT_EQ(world.run(other), world.expected(other));
    const auto again = world.submit(call);
    world.runner.abandon_all();
    EXPECT_THROW(world.wait(*again, call), Error) << "a ticket that is over cannot be waited for";
    EXPECT_EQ(world.run(call), world.expected(call));
}

TEST(LayerRunner, TheFirstFailureIsThrownAndTheNextRunIsExact) {
    struct Case {
        bool packed;
        const char* faults;
        ErrorKind kind;
        std::vector<const char*> says;
    };
    const Case cases[] = {
        {true, "eio@2", ErrorKind::io, {"layer 1", "expert", "offset", "experts.bin", "Input/output error"}},
        {true, "short@3", ErrorKind::io, {"layer 1", "expert", "offset", "experts.bin", "ended after"}},
        {true,
         "flip@1",
         ErrorKind::integrity,
         {"layer 1", "expert", "offset", "experts.bin", "checksum 0x", "expected 0x"}},
        {false, "eio@2", ErrorKind::io, {"layer 1", "expert", "offset", "checkpoint.bin", "Input/output error"}},
        {false, "short@5", ErrorKind::io, {"layer 1", "expert", "offset", "checkpoint.bin", "ended after"}},
    };
    for (const Case& one : cases)
        for (const int slots : {2, 6}) {
            World world({.packed = one.packed, .slots = slots, .order = Order::shuffled, .faults = one.faults});
            const Call call = all_experts(world, 0, 3);
            try {
                world.run(call);
                ADD_FAILURE() << one.faults << " went unnoticed";
            } catch (const Error& error) {
                EXPECT_EQ(error.kind(), one.kind) << error.what();
                for (const char* part : one.says)
                    EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
                        << part << " in: " << error.what();
            }
            EXPECT_EQ(world.runner.open(), 0);
            world.cache.check_integrity();
            for (int round = 0; round < 2; ++round) EXPECT_EQ(world.run(call), world.expected(call)) << one.faults;
            EXPECT_TRUE(world.cache.loading() > 0 || world.staging.idle());
        }
}

TEST(LayerRunner, NonFiniteInputsAreNamedAndForgotten) {
    for (const quant::Format format : {quant::Format::q8, quant::Format::q4}) {
        World world({.slots = 3, .shape = {.format = format}});
        Call call = all_experts(world, 0, 3);
        const std::vector<float> expected = world.expected(call);
        const float good = std::exchange(call.x[7], std::numeric_limits<float>::infinity());
        try {
            world.run(call);
            ADD_FAILURE() << "infinity went unnoticed";
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::numeric);
        }
        world.cache.check_integrity();
        call.x[7] = good;
        EXPECT_EQ(world.run(call), expected);
    }
}

TEST(LayerRunner, NoRowsIsFine) {
    World world({});
    const Call call{world.model.layer_number(0), 0, 2, {}, {}, {}};
    EXPECT_TRUE(world.run(call).empty());
    EXPECT_EQ(world.runner.open(), 0);
}

TEST(LayerRunner, WrongArgumentsAreRefused) {
    World world({});
    Call call = all_experts(world, 0, 3);
    call.layer = 2;
    EXPECT_THROW(world.submit(call), Error);
    call.layer = 1;
    call.ids[3] = 6;
    EXPECT_THROW(world.submit(call), Error);
    EXPECT_EQ(world.runner.open(), 0);
    world.cache.check_integrity();
}

TEST(LayerRunner, ScratchGrowsWithEverySize) {
    const auto bytes = [](std::int64_t rows, std::int64_t top_k, std::int64_t hidden, std::int64_t width, bool integer,
                          kernels::Math math = kernels::Math::exact) {
        return LayerRunner::scratch_bytes(rows, top_k, hidden, width, integer, math);
    };
    EXPECT_LT(bytes(1, 8, 2048, 768, true), bytes(64, 8, 2048, 768, true));
    EXPECT_LT(bytes(64, 8, 2048, 768, false), bytes(64, 8, 2048, 768, true)) << "codes and scales come on top";
    EXPECT_EQ(bytes(64, 8, 2048, 768, false, kernels::Math::fast) - bytes(64, 8, 2048, 768, false),
              std::size_t{64} * 2048 * 2 + std::size_t{256} * 768 * 2)
        << "in fast math, the input and the hidden rows of a piece as bf16";
    EXPECT_GE(bytes(512, 8, 2048, 768, true), std::size_t{512} * 8 * 2048 * 4) << "every expert's output is kept apart";
}

}  // namespace
}  // namespace moestro::exec
