// Runtimes with an emulated device: the same answers wherever experts are, under every schedule.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "engine/runtime.h"
#include "policy/planner.h"
#include "sim/replay.h"
#include "support/toy_model.h"

namespace moestro::engine {
namespace {

using testing::Call;
using testing::ToyModel;

struct Setting {
    double share = 0.25;  // of all experts, on the device
    double link = 20e3;   // ns per record
    residency::Copies copies = residency::Copies::inclusive;
    std::string schedule = "hybrid";
    std::string policy = "lru";
    std::string prefetch = "none";
    int threads = 1;
    std::optional<int> host_slots = {};
    bool packed = true;
};

EmulatedMachine machine(const ToyModel&, double link) {
    policy::LaneCosts costs{.cpu = {20e3, 5e3}, .cpu_start = 1e3, .device = {4e3, 100}, .link = link, .ssd = 60e3};
    EmulatedMachine made{.costs = {costs}, .layer = {10e3, 500}, .step = {30e3, 1e3}};
    made.memory = std::size_t{64} << 20;
    return made;
}

std::size_t device_bytes(const ToyModel& model, double share) {
    std::size_t all = 0, largest = 0;
    for (int position = 0; position < model.shape().layers; ++position) {
        all += model.record_bytes(position) * static_cast<std::size_t>(model.shape().experts);
        largest = std::max(largest, model.record_bytes(position));
    }
    if (share == 0) return 0;
    return std::max(2 * largest, round_down(static_cast<std::size_t>(static_cast<double>(all) * share), kPageBytes));
}

RuntimeOptions options(const ToyModel& model, const Setting& setting) {
    RuntimeOptions made;
    made.threads = setting.threads;
    made.host_memory = std::size_t{32} << 20;
    made.expert_slots = setting.host_slots;
    made.policy = setting.policy;
    made.prefetch = setting.prefetch;
    made.predictor.top_k.assign(static_cast<std::size_t>(model.shape().layers), 3);
    made.emulated = machine(model, setting.link);
    made.device_memory = device_bytes(model, setting.share);
    made.copies = setting.copies;
    made.schedule = setting.schedule;
    return made;
}

void set_experts(Runtime& runtime, const ToyModel& model, bool packed) {
    const int file = runtime.open_file(packed ? model.packed_path() : model.checkpoint_path());
    runtime.set_experts(packed ? model.packed(file) : model.in_place(file));
}

int rows_of_step(int step) {
    return step == 0 ? 17 : 1 + step % 3;
}

constexpr int kSteps = 8;

std::vector<float> play(Runtime& runtime, const ToyModel& model, int steps = kSteps) {
    std::vector<float> all;
    for (int step = 0; step < steps; ++step) {
        const int rows = rows_of_step(step);
        runtime.begin_step(rows, {});
        for (int position = 0; position < model.shape().layers; ++position) {
            const Call call = model.random_call(position, rows, 3, static_cast<unsigned>(100 * step + position));
            // What the router thought, as far as anybody asks.
            std::vector<float> logits(static_cast<std::size_t>(rows * model.shape().experts));
            for (std::size_t pair = 0; pair < call.ids.size(); ++pair)
                logits[pair / 3 * static_cast<std::size_t>(model.shape().experts) +
                       static_cast<std::size_t>(call.ids[pair])] = 1 + call.weights[pair];
            Ticket ticket = runtime.submit_experts(call.layer, call.x.data(), call.rows, call.ids.data(),
                                                   call.weights.data(), call.top_k, logits.data());
            runtime.advise(call.layer);
            std::vector<float> y(call.x.size());
            runtime.wait(ticket, y.data());
            all.insert(all.end(), y.begin(), y.end());
        }
        runtime.end_step({});
    }
    runtime.check_integrity();
    return all;
}

std::vector<float> expected(Runtime& runtime, const ToyModel& model, int steps = kSteps) {
    std::vector<float> all;
    for (int step = 0; step < steps; ++step)
        for (int position = 0; position < model.shape().layers; ++position) {
            const Call call =
                model.random_call(position, rows_of_step(step), 3, static_cast<unsigned>(100 * step + position));
            const auto y = model.expected(*runtime.compute(), call);
            all.insert(all.end(), y.begin(), y.end());
        }
    return all;
}

TEST(Device, SameBitsWhereverExpertsAreUnderEverySchedule) {
    for (const auto format : {quant::Format::bf16, quant::Format::q4}) {
        const ToyModel model({.format = format, .uneven = format == quant::Format::bf16});
        std::vector<std::string> schedules{"auto"};
        for (const std::string_view name : policy::planner_names()) schedules.emplace_back(name);
        for (const std::string& schedule : schedules)
            for (const double share : {0.0, 0.12, 0.25, 0.5, 1.0})
                for (const auto& [copies, link, slots] :
                     std::vector<std::tuple<residency::Copies, double, std::optional<int>>>{
                         {residency::Copies::inclusive, 2e3, {}},
                         {residency::Copies::exclusive, 2e3, 7},
                         {residency::Copies::inclusive, 200e3, 2},
                         {residency::Copies::exclusive, 200e3, {}}}) {
                    const Setting setting{
                        .share = share, .link = link, .copies = copies, .schedule = schedule, .host_slots = slots};
                    Runtime runtime(options(model, setting));
                    set_experts(runtime, model, true);
                    ASSERT_EQ(play(runtime, model), expected(runtime, model))
                        << quant::name(format) << " " << schedule << " share " << share << " link " << link
                        << " exclusive " << (copies == residency::Copies::exclusive) << " slots " << slots.value_or(0);
                    EXPECT_LE(runtime.residency().device_peak, options(model, setting).device_memory);
                }
    }
}

TEST(Device, SameBitsUnderEveryPolicyPredictorAndNumberOfThreads) {
    const ToyModel model({.format = quant::Format::q8});
    for (const std::string policy : {"lru", "lfu", "lrfu", "score", "shallow"})
        for (const std::string prefetch : {"none", "activation"})
            for (const int threads : {1, 3}) {
                const Setting setting{.policy = policy, .prefetch = prefetch, .threads = threads, .host_slots = 5};
                Runtime runtime(options(model, setting));
                set_experts(runtime, model, true);
                ASSERT_EQ(play(runtime, model), expected(runtime, model)) << policy << " " << prefetch;
            }
}

TEST(Device, AVirtualRunTakesTheSameTimeWheneverItIsRepeated) {
    const ToyModel model({});
    const auto run = [&](int threads) {
        Runtime runtime(options(model, {.threads = threads}));
        set_experts(runtime, model, true);
        play(runtime, model);
        const Counters counters = runtime.counters();
        return std::tuple(counters.clock_ns, counters.hits, counters.misses, counters.on_device, counters.link_bytes,
                          counters.stall_ns, counters.compute_ns);
    };
    EXPECT_EQ(run(1), run(1));
    EXPECT_EQ(run(1), run(3));
    EXPECT_GT(std::get<0>(run(1)), 0);
}

// The forecast is right: a replay of the record, on the same machine, takes the same time and moves the same bytes.
TEST(Device, AReplayTakesAsLongAsTheRun) {
    for (const bool uneven : {false, true}) {
        const ToyModel model({.experts = 12, .uneven = uneven});
        for (const std::string_view schedule : policy::planner_names())
            for (const std::string policy : {"lru", "score", "lrfu"})
                for (const auto& [copies, slots] : std::vector<std::pair<residency::Copies, std::optional<int>>>{
                         {residency::Copies::inclusive, {}},
                         {residency::Copies::inclusive, 20},
                         {residency::Copies::exclusive, 20}}) {
                    RuntimeOptions given = options(model, {.share = 0.3,
                                                           .copies = copies,
                                                           .schedule = std::string(schedule),
                                                           .policy = policy,
                                                           .host_slots = slots});
                    given.record_rows = 100;
                    Runtime runtime(given);
                    set_experts(runtime, model, true);
                    const Nanos begin = runtime.counters().clock_ns;
                    const std::uint64_t link_before = runtime.counters().link_bytes;
                    const std::uint64_t read_before = runtime.counters().expert_bytes_read;
                    play(runtime, model, 20);
                    const Counters counters = runtime.counters();
                    const Recorded recorded = runtime.take_record();
                    ASSERT_EQ(recorded.rows_lost, 0u);

                    sim::ReplayOptions again;
                    again.record_bytes = runtime.record_sizes();
                    again.costs.assign(again.record_bytes.size(), given.emulated->costs.front());
                    for (policy::LaneCosts& costs : again.costs) costs.has_device = true;
                    again.layer = given.emulated->layer;
                    again.step = given.emulated->step;
                    again.cache_bytes = given.device_memory;
                    again.host_bytes =
                        runtime.residency().slot_bytes * static_cast<std::size_t>(runtime.residency().slots);
                    again.host_slots = slots;
                    again.copies = copies;
                    again.policy = policy;
                    again.planner = schedule;
                    const sim::ReplayResult result = sim::replay(recorded.routing, again);
                    EXPECT_EQ(result.time, counters.clock_ns - begin) << schedule << " " << policy;
                    EXPECT_EQ(result.bytes, counters.link_bytes - link_before) << schedule << " " << policy;
                    EXPECT_EQ(result.read_bytes, counters.expert_bytes_read - read_before) << schedule << " " << policy;
                }
    }
}

TEST(Device, ComputesSomeAndSavesTime) {
    const ToyModel model({.experts = 16});
    const auto took = [&](double share, const std::string& schedule, bool device) {
        Runtime runtime(options(model, {.share = share, .schedule = schedule}));
        set_experts(runtime, model, true);
        play(runtime, model, 30);
        EXPECT_EQ(runtime.counters().on_device > 0, device) << schedule;
        return runtime.counters().clock_ns;
    };
    const Nanos alone = took(0, "hybrid", false), hybrid = took(0.5, "hybrid", true);
    EXPECT_LT(hybrid, alone);
    EXPECT_LT(took(1, "device", true), alone);
    EXPECT_LE(hybrid, took(0.5, "on_demand", true));
    EXPECT_LE(hybrid, took(0.5, "cpu", false));
}

TEST(Device, WhatAScheduleWantsThereIsThereFromTheStart) {
    const ToyModel model({});
    for (const auto& [schedule, share] : {std::pair("device", 1.0), std::pair("static", 0.5)}) {
        Runtime runtime(options(model, {.share = share, .schedule = schedule}));
        set_experts(runtime, model, true);
        runtime.check_integrity();
        const Residency where = runtime.residency();
        EXPECT_EQ(where.device_resident, where.device_slots) << schedule;
        EXPECT_GT(where.device_resident, 0);
    }
}

TEST(Device, AutoTriesAllAndSaysWhatItChose) {
    const ToyModel model({.layers = 2});
    Runtime runtime(options(model, {.schedule = "auto"}));
    set_experts(runtime, model, true);
    play(runtime, model, 1);
    EXPECT_NE(runtime.schedule().find("trying hybrid"), std::string::npos) << runtime.schedule();
    play(runtime, model, 60);
    EXPECT_NE(runtime.schedule().find(" ms a token ("), std::string::npos) << runtime.schedule();
}

TEST(Device, ExclusiveCopiesMakeOneCapacityOfTwo) {
    const ToyModel model({});
    // Half of the experts in host memory, half on the device: everything is somewhere, and read once.
    for (const std::string schedule : {"static", "hybrid"}) {
        Runtime runtime(options(
            model, {.share = 0.5, .copies = residency::Copies::exclusive, .schedule = schedule, .host_slots = 9}));
        set_experts(runtime, model, true);
        play(runtime, model, 40);
        EXPECT_EQ(runtime.residency().resident + runtime.residency().device_resident, 18) << schedule;
        if (schedule == "hybrid") continue;  // may send what makes the device give up something
        EXPECT_EQ(runtime.counters().expert_bytes_read, runtime.residency().expert_bytes_total);
    }
}

TEST(Device, BudgetsChangeWhileItRuns) {
    const ToyModel model({});
    Runtime runtime(options(model, {.share = 1, .schedule = "on_demand"}));
    set_experts(runtime, model, true);
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
    const std::size_t two = 2 * model.record_bytes();
    runtime.resize({}, two);
    EXPECT_EQ(runtime.residency().device_resident, 2);
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
    runtime.resize(runtime.ledger()->held() - model.record_bytes(), device_bytes(model, 0.5));
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
    EXPECT_GT(runtime.residency().device_resident, 2);
    EXPECT_THROW(runtime.resize({}, model.record_bytes()), Error);
    EXPECT_THROW(runtime.resize({}, std::size_t{65} << 20), Error);
    EXPECT_THROW(runtime.resize(4096, {}), Error);
    const std::size_t before = runtime.residency().device_bytes;
    EXPECT_THROW(runtime.resize(4096, two), Error);
    EXPECT_EQ(runtime.residency().device_bytes, before) << "both, or neither";
    runtime.resize(std::size_t{48} << 20, {});
    EXPECT_EQ(runtime.ledger()->budget(), std::size_t{48} << 20);
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
}

TEST(Device, FewerSlotsAreSaidAloud) {
    const ToyModel model({});
    RuntimeOptions given = options(model, {.share = 1, .schedule = "on_demand"});
    given.emulated->failed_allocation = 5;
    Runtime runtime(given);
    set_experts(runtime, model, true);
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
    EXPECT_EQ(runtime.residency().device_slots, 4);
    const auto refused = runtime.refused();
    EXPECT_TRUE(std::any_of(refused.begin(), refused.end(), [](const std::string& reason) {
        return reason.find("emulated device refused") != std::string::npos;
    }));
    given.emulated->failed_allocation = 2;
    Runtime hopeless(given);
    EXPECT_THROW(set_experts(hopeless, model, true), Error);
}

TEST(Device, RowsAreCopiedWhereNothingCanBePinned) {
    const ToyModel model({});
    RuntimeOptions given = options(model, {.share = 0.5, .schedule = "on_demand"});
    given.emulated->no_pinning = true;
    Runtime runtime(given);
    set_experts(runtime, model, true);
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
    EXPECT_LE(runtime.residency().device_peak, given.device_memory);
    const auto refused = runtime.refused();
    EXPECT_TRUE(std::any_of(refused.begin(), refused.end(), [](const std::string& reason) {
        return reason.find("pinned host memory") != std::string::npos;
    }));
}

TEST(Device, AFailedCopyIsNamedAndTheNextStepIsExact) {
    const ToyModel model({});
    RuntimeOptions given = options(model, {.schedule = "on_demand"});
    given.emulated->failed_copy = 3;
    Runtime runtime(given);
    set_experts(runtime, model, true);
    try {
        play(runtime, model);
        ADD_FAILURE() << "no error";
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("expert"), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find("copy"), std::string::npos) << error.what();
    }
    runtime.abort_step();
    EXPECT_EQ(play(runtime, model), expected(runtime, model));
}

TEST(Device, WhatCannotBeIsRefused) {
    const ToyModel model({});
    const auto refused = [&](RuntimeOptions given) {
        try {
            Runtime runtime(given);
            set_experts(runtime, model, true);
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("accepted");
    };
    RuntimeOptions given = options(model, {.schedule = "device"});
    EXPECT_NE(refused(given).find("bytes are missing"), std::string::npos) << refused(given);
    given = options(model, {});
    given.device_memory = model.record_bytes();
    EXPECT_NE(refused(given).find("no room for two experts"), std::string::npos) << refused(given);
    given.device_memory = std::size_t{65} << 20;
    EXPECT_NE(refused(given).find("the device has"), std::string::npos) << refused(given);
    given = options(model, {.schedule = "best"});
    EXPECT_NE(refused(given).find("hybrid"), std::string::npos) << refused(given);
    given = options(model, {});
    given.emulated.reset();
    EXPECT_NE(refused(given).find("emulated"), std::string::npos) << refused(given);
}

// A step is given up after every one of its calls; the next is exact.
TEST(Device, StepsCanBeGivenUpAnywhere) {
    const ToyModel model({});
    for (const auto copies : {residency::Copies::inclusive, residency::Copies::exclusive})
        for (const std::string schedule : {"hybrid", "on_demand"}) {
            Runtime runtime(
                options(model, {.copies = copies, .schedule = schedule, .prefetch = "activation", .host_slots = 4}));
            set_experts(runtime, model, true);
            for (int last = 0; last <= 3 * model.shape().layers; ++last) {
                int calls = 0;
                std::vector<Ticket> open;
                runtime.begin_step(5, {});
                for (int position = 0; position < model.shape().layers; ++position) {
                    const Call call = model.random_call(position, 5, 3, static_cast<unsigned>(last));
                    if (calls++ == last) break;
                    open.push_back(runtime.submit_experts(call.layer, call.x.data(), call.rows, call.ids.data(),
                                                          call.weights.data(), call.top_k));
                    if (calls++ == last) break;
                    runtime.advise(call.layer);
                    if (calls++ == last) break;
                    std::vector<float> y(call.x.size());
                    runtime.wait(open.back(), y.data());
                }
                if (last % 2 == 0) open.clear();  // or they go after the step
                runtime.abort_step();
                runtime.check_integrity();
                ASSERT_EQ(play(runtime, model, 2), expected(runtime, model, 2)) << schedule << ", call " << last;
            }
        }
}

TEST(Device, RuntimesGoWithEverythingInFlight) {
    const ToyModel model({});
    for (const int slots : {2, 18}) {
        Runtime runtime(options(model, {.schedule = "on_demand", .host_slots = slots}));
        set_experts(runtime, model, true);
        runtime.begin_step(4, {});
        const Call call = model.random_call(0, 4, 3, 1);
        Ticket kept = runtime.submit_experts(call.layer, call.x.data(), 4, call.ids.data(), call.weights.data(), 3);
        Ticket dropped = runtime.submit_experts(call.layer, call.x.data(), 0, nullptr, nullptr, 3);
    }
}

}  // namespace
}  // namespace moestro::engine
