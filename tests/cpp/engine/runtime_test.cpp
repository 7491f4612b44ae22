#include "engine/runtime.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <tuple>
#include <utility>

#include "base/error.h"
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
