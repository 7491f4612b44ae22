#include "engine/runtime.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "sim/replay.h"
#include "support/refusal.h"
#include "support/scripted_reader.h"
#include "support/toy_model.h"

namespace moestro::engine {
namespace {

using testing::Call;
using testing::ScriptedReader;
using testing::ToyModel;

constexpr std::size_t kBudget = std::size_t{32} << 20;

RuntimeOptions options(std::optional<int> slots = {}, int threads = 1) {
    RuntimeOptions made;
    made.threads = threads;
    made.host_memory = kBudget;
    made.expert_slots = slots;
    return made;
}

void set_experts(Runtime& runtime, const ToyModel& model, bool packed) {
    const int file = runtime.open_file(packed ? model.packed_path() : model.checkpoint_path());
    runtime.set_experts(packed ? model.packed(file) : model.in_place(file));
}

std::vector<float> run_layer(Runtime& runtime, const Call& call) {
    Ticket ticket =
        runtime.submit_experts(call.layer, call.x.data(), call.rows, call.ids.data(), call.weights.data(), call.top_k);
    EXPECT_EQ(ticket.rows(), call.rows);
    std::vector<float> y(call.x.size());
    runtime.wait(ticket, y.data());
    return y;
}

Call rows_of(const Call& call, int begin, int end, int hidden) {
    const auto cut = [&](const auto& all, int width) {
        return std::decay_t<decltype(all)>(all.begin() + begin * width, all.begin() + end * width);
    };
    return {call.layer,
            end - begin,
            call.top_k,
            cut(call.x, hidden),
            cut(call.ids, call.top_k),
            cut(call.weights, call.top_k)};
}

// A short prompt, then decoding, through every layer; `piece` rows per submit.
std::vector<float> play(Runtime& runtime, const ToyModel& model, int piece) {
    std::vector<float> all;
    for (int step = 0; step < 6; ++step) {
        const int rows = step == 0 ? 33 : 1 + step % 3;
        runtime.begin_step(rows, {});
        for (int position = 0; position < model.shape().layers; ++position) {
            const Call call = model.random_call(position, rows, 3, static_cast<unsigned>(100 * step + position));
            for (int row = 0; row < rows; row += piece) {
                const auto y =
                    run_layer(runtime, rows_of(call, row, std::min(rows, row + piece), model.shape().hidden));
                all.insert(all.end(), y.begin(), y.end());
            }
        }
        runtime.end_step({});
    }
    runtime.check_integrity();
    return all;
}

std::vector<float> resident(Runtime& runtime, const ToyModel& model) {
    std::vector<float> all;
    for (int step = 0; step < 6; ++step)
        for (int position = 0; position < model.shape().layers; ++position) {
            const Call call = model.random_call(position, step == 0 ? 33 : 1 + step % 3, 3,
                                                static_cast<unsigned>(100 * step + position));
            const auto y = model.expected(*runtime.compute(), call);
            all.insert(all.end(), y.begin(), y.end());
        }
    return all;
}

TEST(Runtime, SameBitsWhateverTheSlotsThreadsReaderPiecesAndSource) {
    for (const auto format : {quant::Format::bf16, quant::Format::f32, quant::Format::q8, quant::Format::q4}) {
        const auto source = format == quant::Format::f32 ? quant::SourceType::f32 : quant::SourceType::bf16;
        const ToyModel model({.format = format, .source = source});
        for (const bool packed : {true, false}) {
            if (!packed && quant::is_integer(format)) continue;
            for (const auto& [slots, threads, reader, piece] :
                 std::vector<std::tuple<std::optional<int>, int, const char*, int>>{
                     {2, 1, "auto", 1000}, {2, 2, "threads", 7}, {9, 2, "auto", 1}, {std::nullopt, 1, "auto", 7}}) {
                RuntimeOptions given = options(slots, threads);
                given.engine = reader;
                Runtime runtime(given);
                set_experts(runtime, model, packed);
                ASSERT_EQ(play(runtime, model, piece), resident(runtime, model))
                    << quant::name(format) << " packed " << packed << " slots " << slots.value_or(0);
                const Counters counters = runtime.counters();
                EXPECT_GT(counters.misses, 0u);
                EXPECT_EQ(counters.evictions > 0, slots.has_value());
                EXPECT_TRUE(counters.hits > 0 || slots);
                EXPECT_EQ(counters.steps, 6u);
                EXPECT_EQ(counters.rows, 33u + 2 + 3 + 1 + 2 + 3);
                EXPECT_GE(counters.expert_bytes_read, counters.misses * 3 * 48 * 40 / 2);
            }
        }
    }
}

TEST(Runtime, TheCacheGetsWhatTheBudgetHasLeft) {
    const ToyModel model({});
    RuntimeOptions given = options();
    const std::size_t record = model.record_bytes();
    given.host_memory = Runtime::staging_bytes() + 7 * record + 100;
    {
        Runtime runtime(given);
        runtime.ledger()->take("scratch", record);
        set_experts(runtime, model, true);
        EXPECT_EQ(runtime.residency().slots, 6);
        EXPECT_EQ(runtime.ledger()->free(), 0u);
        EXPECT_EQ(runtime.residency().expert_bytes_total, 18 * record);
        EXPECT_THROW(set_experts(runtime, model, true), Error) << "once";
    }
    given.host_memory = Runtime::staging_bytes() + 2 * record - 1;
    Runtime tight(given);
    try {
        set_experts(tight, model, true);
        ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::budget);
        for (const char* part : {"two expert slots", "(1 bytes) missing", "staging"})
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    given.host_memory = Runtime::staging_bytes() - 1;
    EXPECT_THROW(Runtime{given}, Error);
    given.host_memory = Runtime::staging_bytes() + 100 * record;
    Runtime roomy(given);
    set_experts(roomy, model, true);
    EXPECT_EQ(roomy.residency().slots, 18) << "no more than there are records";
    EXPECT_EQ(roomy.ledger()->free(), 82 * record);
}

TEST(Runtime, KvBlocksAndExpertsShareTheBudget) {
    const ToyModel model({});
    RuntimeOptions given = options();
    const std::size_t record = model.record_bytes();
    given.host_memory = Runtime::staging_bytes() + 12 * record;
    Runtime runtime(given);
    set_experts(runtime, model, true);
    const std::vector<float> expected = resident(runtime, model);
    memory::KvPool& kv = runtime.set_kv({kernels::KvType::f32, 1, 16, 16}, 2);
    EXPECT_THROW(runtime.set_kv({kernels::KvType::f32, 1, 16, 16}, 2), Error) << "once";
    EXPECT_EQ(play(runtime, model, 7), expected);
    EXPECT_EQ(runtime.residency().resident, 12);

    const std::int64_t available = kv.blocks_available();
    EXPECT_EQ(available, static_cast<std::int64_t>(10 * record / kv.block_bytes()));
    std::vector<memory::BlockId> blocks;
    for (std::int64_t i = 0; i < available; ++i) {
        blocks.push_back(kv.allocate());
        runtime.check_integrity();
    }
    EXPECT_THROW(kv.allocate(), Error);
    EXPECT_EQ(runtime.residency().slots, 2);
    EXPECT_EQ(play(runtime, model, 7), expected) << "two slots are enough";
    EXPECT_LE(runtime.residency().resident, 2);
    for (const memory::BlockId block : blocks) kv.release(block);
    EXPECT_EQ(runtime.residency().slots, 12) << "the cache grew back";
    EXPECT_EQ(play(runtime, model, 7), expected);
    EXPECT_EQ(runtime.residency().resident, 12);
}

TEST(Runtime, PoliciesLearnFromAcceptedRowsAtTheEndOfAStep) {
    const ToyModel model({});
    Runtime runtime(options(3));
    set_experts(runtime, model, true);
    const auto one_expert = [&](std::int32_t expert) {
        Call call = model.random_call(0, 1, 1, 1);
        call.ids = {expert};
        return call;
    };
    const auto step = [&](std::int32_t expert, bool accepted) {
        const std::uint8_t tentative = 1, accept = accepted;
        runtime.begin_step(1, {&tentative, 1});
        run_layer(runtime, one_expert(expert));
        runtime.end_step({&accept, 1});
    };
    for (const std::int32_t expert : {0, 1, 2}) step(expert, true);
    step(0, false);  // a use that was not accepted: 0 stays the oldest
    step(3, true);   // evicts 0
    std::uint64_t misses = runtime.counters().misses;
    step(1, true);
    EXPECT_EQ(runtime.counters().misses, misses) << "1 is still there";
    step(0, true);  // evicts 2
    misses = runtime.counters().misses;
    step(1, true);
    step(3, true);
    EXPECT_EQ(runtime.counters().misses, misses);
    step(2, true);
    EXPECT_EQ(runtime.counters().misses, misses + 1);
    EXPECT_EQ(runtime.counters().rows, 9u) << "rejected rows do not count";
}

TEST(Runtime, StepsAreKeptInOrder) {
    const ToyModel model({});
    Runtime runtime(options(4));
    const Call call = model.random_call(0, 2, 2, 1);
    runtime.begin_step(2, {});
    EXPECT_THROW(run_layer(runtime, call), Error) << "no experts yet";
    runtime.abort_step();
    set_experts(runtime, model, true);
    EXPECT_THROW(run_layer(runtime, call), Error) << "no step is open";
    EXPECT_THROW(runtime.end_step({}), Error);
    runtime.begin_step(2, {});
    EXPECT_THROW(runtime.begin_step(2, {}), Error);
    Ticket ticket = runtime.submit_experts(call.layer, call.x.data(), 2, call.ids.data(), call.weights.data(), 2);
    EXPECT_THROW(run_layer(runtime, call), Error) << "these rows were submitted";
    EXPECT_THROW(runtime.end_step({}), Error) << "a ticket is open";
    std::vector<float> y(call.x.size());
    runtime.wait(ticket, y.data());
    EXPECT_EQ(y, model.expected(*runtime.compute(), call));
    EXPECT_THROW(runtime.wait(ticket, y.data()), Error) << "waited for already";
    runtime.end_step({});
    runtime.check_integrity();
}

TEST(Runtime, TicketsCanBeDroppedAnywhereAndAnyTime) {
    const ToyModel model({});
    const Call call = model.random_call(0, 3, 4, 1);
    Ticket survivor;
    {
        Runtime runtime(options(2)), other(options(2));
        set_experts(runtime, model, true);
        set_experts(other, model, true);
        const auto submit = [&] {
            return runtime.submit_experts(call.layer, call.x.data(), 3, call.ids.data(), call.weights.data(), 4);
        };
        runtime.begin_step(3, {});
        std::thread([ticket = submit()] {}).join();  // dropped on another thread
        runtime.end_step({});
        runtime.check_integrity();

        runtime.begin_step(3, {});
        Ticket aborted = submit();
        runtime.abort_step();
        runtime.abort_step();
        runtime.check_integrity();
        std::vector<float> y(call.x.size());
        EXPECT_THROW(runtime.wait(aborted, y.data()), Error);

        runtime.begin_step(3, {});
        EXPECT_EQ(run_layer(runtime, call), model.expected(*runtime.compute(), call));
        runtime.end_step({});
        runtime.begin_step(3, {});
        survivor = submit();
        EXPECT_THROW(other.wait(survivor, y.data()), Error);
    }
    survivor = {};  // after its runtime
}

TEST(Runtime, FaultsAreNamedAndTheNextStepIsExact) {
    const ToyModel model({});
    for (const bool packed : {true, false})
        for (const char* faults : {"eio@3", "short@4", "flip@2", "eio@1,eio@9,short@12"}) {
            if (!packed && std::string(faults) == "flip@2") continue;  // cannot be seen without checksums
            RuntimeOptions given = options(3, 2);
            given.faults = faults;
            Runtime runtime(given);
            set_experts(runtime, model, packed);
            int failures = 0;
            for (int attempt = 0; attempt < 5; ++attempt) {
                const Call call = model.random_call(attempt % 3, 9, 4, static_cast<unsigned>(attempt));
                try {
                    runtime.begin_step(9, {});
                    EXPECT_EQ(run_layer(runtime, call), model.expected(*runtime.compute(), call));
                    runtime.end_step({});
                } catch (const Error& error) {
                    ++failures;
                    EXPECT_TRUE(error.kind() == ErrorKind::io || error.kind() == ErrorKind::integrity);
                    EXPECT_EQ(std::string(error.what()).find("layer "), 0u) << error.what();
                    runtime.abort_step();
                }
                runtime.check_integrity();
            }
            EXPECT_GT(failures, 0) << faults;
            EXPECT_LT(failures, 5) << faults;
            EXPECT_EQ(play(runtime, model, 7), resident(runtime, model));
        }
}

TEST(Runtime, OneCallAtATime) {
    const ToyModel model({});
    std::function<void()> in_wait;
    World world;
    world.make_reader = [&](const io::ReaderOptions&) {
        auto reader = std::make_unique<ScriptedReader>();
        reader->before_wait = [&] {
            if (const auto once = std::exchange(in_wait, nullptr)) once();
        };
        return reader;
    };
    Runtime runtime(options(2), world);
    set_experts(runtime, model, true);
    memory::KvPool& kv = runtime.set_kv({kernels::KvType::f32, 1, 16, 16}, 2);
    const memory::BlockId block = kv.allocate();
    int refused = 0;
    in_wait = [&] {
        std::thread([&] {
            try {
                runtime.begin_step(1, {});
            } catch (const Error& error) {
                refused += error.kind() == ErrorKind::usage;
            }
            EXPECT_EQ(runtime.counters().steps, 0u) << "looking is always allowed";
            EXPECT_EQ(runtime.file_mode().empty(), false);
            kv.release(block);  // and so is letting go
        }).join();
    };
    const Call call = model.random_call(0, 1, 2, 1);
    runtime.begin_step(1, {});
    EXPECT_EQ(run_layer(runtime, call), model.expected(*runtime.compute(), call));
    runtime.end_step({});
    EXPECT_EQ(refused, 1);
    runtime.check_integrity();
}

TEST(Runtime, TrunkLoadsWaitForExpertsInFlight) {
    const ToyModel model({});
    Runtime runtime(options(4));
    set_experts(runtime, model, true);
    const Call call = model.random_call(0, 3, 4, 1);
    runtime.begin_step(3, {});
    runtime.submit_experts(call.layer, call.x.data(), 3, call.ids.data(), call.weights.data(), 4);
    runtime.abort_step();
    const int file = runtime.open_file(model.checkpoint_path());
    EXPECT_EQ(runtime.open_file(model.checkpoint_path()), file);
    store::TensorSlice slice = model.in_place(file)[0].slices[0][0];
    const MatrixHandle matrix = runtime.load_matrix("gate", slice, quant::Format::bf16, {});
    EXPECT_EQ(std::memcmp(matrix->data, model.record(0, 0), matrix->spec.bytes()), 0);
    EXPECT_GT(runtime.counters().trunk_bytes_read, 0u);
    slice.file = 7;
    EXPECT_THROW(runtime.load_matrix("gate", slice, quant::Format::bf16, {}), Error);
    runtime.check_integrity();
}

// ---- records --------------------------------------------------------------------------------------------------------

std::vector<float> random_logits(int rows, int experts, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> logits(static_cast<std::size_t>(rows * experts));
    for (float& one : logits) one = normal(random);
    return logits;
}

// Steps of several rows, some of them rejected, in pieces of at most `piece` rows, as a record.
Recorded play_and_record(Runtime& runtime, const ToyModel& model, int piece) {
    constexpr int kSteps = 25;
    for (int step = 0; step < kSteps; ++step) {
        const int rows = step == 0 ? 9 : 1 + step % 3;
        std::vector<std::uint8_t> tentative(static_cast<std::size_t>(rows), 1), accepted(tentative);
        if (step % 4 == 3) accepted.back() = 0;
        std::vector<std::int32_t> tokens;
        for (int row = 0; row < rows; ++row) tokens.push_back(100 * step + row);
        runtime.begin_step(rows, tentative, {}, tokens);
        for (int position = 0; position < model.shape().layers; ++position) {
            const auto seed = static_cast<unsigned>(100 * step + position);
            const Call call = model.random_call(position, rows, 2, seed);
            const std::vector<float> logits = random_logits(rows, model.shape().experts, seed);
            for (int row = 0; row < rows; row += piece) {
                const Call part = rows_of(call, row, std::min(rows, row + piece), model.shape().hidden);
                Ticket ticket =
                    runtime.submit_experts(part.layer, part.x.data(), part.rows, part.ids.data(), part.weights.data(),
                                           part.top_k, logits.data() + row * model.shape().experts);
                std::vector<float> y(part.x.size());
                runtime.wait(ticket, y.data());
            }
        }
        runtime.end_step(accepted);
    }
    runtime.check_integrity();
    return runtime.take_record();
}

// What the cache did is done again from the record alone, whatever the order in which the reader answers.
TEST(Runtime, AReplayOfItsRecordDoesWhatItDid) {
    for (const bool uneven : {false, true}) {
        const ToyModel model({.uneven = uneven});
        for (const std::string_view policy : policy::eviction_names())
            for (const int slots : {2, 3, 7}) {
                RuntimeOptions given = options(slots);
                given.policy = policy;
                given.record_rows = 100;
                if (policy == "static")
                    for (int expert = 0; expert < 18; ++expert) given.frequencies.push_back((expert * 7) % 5);
                World world;
                world.make_reader = [&](const io::ReaderOptions&) {
                    return std::make_unique<ScriptedReader>(ScriptedReader::Order::shuffled,
                                                            static_cast<unsigned>(slots));
                };
                Runtime runtime(given, world);
                set_experts(runtime, model, true);
                const Recorded recorded = play_and_record(runtime, model, 1000);
                const Counters counted = runtime.counters();
                ASSERT_EQ(recorded.rows_lost, 0u);
                ASSERT_EQ(recorded.routing.steps.size(), 25u);

                sim::ReplayOptions again;
                again.record_bytes = runtime.record_sizes();
                again.costs.resize(again.record_bytes.size());
                for (policy::LaneCosts& costs : again.costs) {
                    costs.cpu = {50, 5};
                    costs.ssd = 100;
                }
                again.max_slots = slots;
                again.policy = policy;
                again.frequencies = given.frequencies;
                const sim::ReplayResult result = sim::replay(recorded.routing, again);
                std::uint64_t hits = 0, misses = 0, joined = 0;
                for (const sim::ReplayResult::Layer& layer : result.layers) {
                    hits += layer.hits;
                    misses += layer.misses;
                    joined += layer.joined;
                }
                EXPECT_EQ(hits, counted.hits) << policy << ", " << slots << " slots, uneven " << uneven;
                EXPECT_EQ(misses, counted.misses) << policy << ", " << slots << " slots, uneven " << uneven;
                EXPECT_EQ(joined, counted.joined);
                EXPECT_EQ(result.evictions, counted.evictions) << policy << ", " << slots << " slots";
                EXPECT_EQ(result.bytes, counted.expert_bytes_read) << policy << ", " << slots << " slots";
                EXPECT_EQ(result.rows, static_cast<int>(recorded.routing.tokens.size()));
                EXPECT_GT(counted.evictions, 0u);
                if (slots == 7) {
                    EXPECT_GT(hits, 0u);
                }
            }
    }
}

TEST(Runtime, ARecordSaysWhatWasRouted) {
    const ToyModel model({});
    RuntimeOptions given = options(7);
    given.record_rows = 100;
    for (const int piece : {1000, 2}) {
        Runtime runtime(given);
        set_experts(runtime, model, true);
        const policy::RoutingRecord record = play_and_record(runtime, model, piece).routing;
        ASSERT_EQ(record.layers.size(), 3u);
        EXPECT_EQ(record.steps[0].rows, 9);
        EXPECT_EQ(record.steps[0].cache_bytes, 7 * model.record_bytes());
        EXPECT_GT(record.steps[0].read_bytes, 0u);
        EXPECT_GE(record.steps[1].began, record.steps[0].ended);
        EXPECT_EQ(record.tokens[9], 100);
        // The first step's rows and the second's two, and then the third's.
        const Call call = model.random_call(1, 3, 2, 201);
        const std::size_t begin = 9 + 2;
        for (std::size_t row = 0; row < 3; ++row) {
            std::vector<std::int32_t> expected(call.ids.begin() + static_cast<std::ptrdiff_t>(2 * row),
                                               call.ids.begin() + static_cast<std::ptrdiff_t>(2 * row + 2));
            std::sort(expected.begin(), expected.end());
            const auto chosen = std::span(record.layers[1].chosen).subspan(2 * (begin + row), 2);
            EXPECT_EQ(std::vector<std::int32_t>(chosen.begin(), chosen.end()), expected);
        }
        EXPECT_EQ(record.accepted[begin + 2], 1);
        EXPECT_EQ(record.accepted[begin + 3], 0) << "the fourth step's one row was rejected";
        EXPECT_EQ(runtime.take_record().routing.rows(), 0) << "it was taken";
    }
    Runtime plain(options(7));
    set_experts(plain, model, true);
    EXPECT_THROW(plain.take_record(), Error);
}

TEST(Runtime, AStepThatCannotBeRecordedStaysOpenAndTeachesNothing) {
    const ToyModel model({});
    RuntimeOptions given = options(7);
    given.record_rows = 100;
    Runtime runtime(given);
    set_experts(runtime, model, true);
    runtime.begin_step(1, {});
    run_layer(runtime, model.random_call(0, 1, 2, 1));
    EXPECT_NE(testing::refusal([&] { runtime.end_step({}); }).find("layer 3"), std::string::npos);
    EXPECT_EQ(runtime.counters().steps, 0u);
    EXPECT_THROW(runtime.begin_step(1, {}), Error) << "it is open";
    runtime.abort_step();
    EXPECT_EQ(play_and_record(runtime, model, 1000).routing.steps.size(), 25u);
}

TEST(Runtime, OffsetsCorrectWhatIsForeseen) {
    const ToyModel model({});
    RuntimeOptions given = options(7);
    given.record_rows = 10;
    given.record_ahead = 2;
    given.offsets = {{}, {{1, 0, 0, 0, 0, -1}}, {{0, 0, 9, 0, 0, 0}, {}}};
    Runtime runtime(given);
    set_experts(runtime, model, true);
    EXPECT_EQ(runtime.lookahead(), 2);
    const auto foresee = [&](int layer, int target) {
        std::vector<float> logits{0, 1, 2, 3, 4, 5}, seen;
        const std::int32_t ids[] = {5, 4};
        runtime.foresee(layer, target, logits.data(), 1, 2, [&](const float* at) {
            seen.assign(at, at + 6);
            return ids;
        });
        return seen;
    };
    runtime.begin_step(1, {});
    run_layer(runtime, model.random_call(0, 1, 2, 1));
    EXPECT_EQ(foresee(1, 3), (std::vector<float>{1, 1, 2, 3, 4, 4}));
    EXPECT_NE(testing::refusal([&] { foresee(1, 5); }).find("offsets of layer 5"), std::string::npos);
    EXPECT_NE(testing::refusal([&] { foresee(3, 3); }).find("does not come after"), std::string::npos);
    EXPECT_EQ(foresee(3, 5), (std::vector<float>{0, 1, 11, 3, 4, 5}));
    runtime.abort_step();
}

// Rows may come in several submits; ids that do not exist reach no predictor.
TEST(Runtime, EveryPredictorStandsWhatCallersDo) {
    const ToyModel model({});
    for (const char* prefetch : {"next_gate", "impact", "transition", "activation", "pre_gated"}) {
        RuntimeOptions given = options(7);
        given.prefetch = prefetch;
        given.predictor.top_k = {3, 3, 3};
        given.predictor.trace = {{1, 2}, {0, 1, 2, 1, 2, 3, 0, 1, 2, 1, 2, 3, 0, 1, 2, 1, 2, 3}, 3};
        Runtime runtime(given);
        set_experts(runtime, model, true);
        EXPECT_EQ(play(runtime, model, 2), resident(runtime, model)) << prefetch;
        EXPECT_EQ(play(runtime, model, 1000), resident(runtime, model)) << prefetch;
        Call call = model.random_call(0, 1, 3, 1);
        for (const std::int32_t wrong : {-1, 6}) {
            call.ids[1] = wrong;
            runtime.begin_step(1, {});
            EXPECT_NE(testing::refusal([&] { run_layer(runtime, call); }).find("0 to 5"), std::string::npos);
            runtime.abort_step();
        }
        EXPECT_EQ(play(runtime, model, 1000), resident(runtime, model)) << prefetch;
    }
}

TEST(Runtime, OptionsAreCheckedAtOnce) {
    const auto refused = [](const std::function<void(RuntimeOptions&)>& spoil) {
        RuntimeOptions given = options();
        spoil(given);
        try {
            const Runtime runtime(given);
            return false;
        } catch (const Error& error) {
            return error.kind() == ErrorKind::usage;
        }
    };
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.policy = "oldest"; }));
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.prefetch = "dream"; }));
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.expert_slots = 1; }));
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.threads = 0; }));
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.isa = "mmx"; }));
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.engine = "punch cards"; }));
    EXPECT_TRUE(refused([](RuntimeOptions& given) { given.faults = "fire@3"; }));
    EXPECT_FALSE(refused([](RuntimeOptions&) {}));
}

TEST(Runtime, SaysWhatIsActive) {
    const ToyModel model({});
    RuntimeOptions given = options(2);
    given.cache = io::File::Cache::buffered;
    given.isa = "scalar";
    Runtime runtime(given);
    EXPECT_EQ(runtime.file_mode(), "none");
    runtime.open_file(model.packed_path());
    EXPECT_EQ(runtime.file_mode(), "buffered");
    EXPECT_EQ(runtime.compute()->isa().active, kernels::Isa::scalar);
    EXPECT_FALSE(runtime.refused().empty()) << "faster tables were not taken, and it says why";
    EXPECT_THROW(runtime.open_file(model.packed_path() + ".not"), Error);
}

}  // namespace
}  // namespace moestro::engine
