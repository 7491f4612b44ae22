#include "exec/layer_schedule.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moestro::exec {

using residency::State;
using Stage = residency::Wave::Stage;

namespace {

std::size_t at(int number) {
    return static_cast<std::size_t>(number);
}

}  // namespace

const std::byte* LayerRun::record(int number) const {
    const TaskPlace& place = places_[at(number)];
    return (place.device ? device_ : host_).pin(place.item).data();
}

LayerSchedule::LayerSchedule(const residency::Tiers& tiers, const store::ExpertTable& table, const Clock& clock,
                             LiveCosts* live, std::vector<policy::LaneCosts> costs)
    : tiers_(tiers), table_(table), clock_(clock), live_(live), known_(std::move(costs)) {
    if (!tiers_.has_device()) return;
    set_planner("hybrid");
    piece_.experts = 1;  // the other lanes must not wait for long
}

void LayerSchedule::set_planner(std::string_view name) {
    planner_ = policy::make_planner(name);
}

policy::LaneCosts LayerSchedule::costs(int layer) const {
    const std::size_t position = table_.position(layer);
    if (!known_.empty()) return known_[position];
    return live_ ? live_->of(table_.sizes()[position].record_bytes) : policy::LaneCosts{};
}

// ---- the beginning --------------------------------------------------------------------------------------------------

void LayerSchedule::begin(LayerRun& run, std::span<const Task> tasks) {
    end(run);
    run.tasks_.assign(tasks.begin(), tasks.end());
    run.places_.assign(tasks.size(), {});
    run.host_tasks_.clear();
    run.device_tasks_.clear();
    run.began_ = clock_.now();
    run.computed_any_ = false;
    if (tasks.empty()) return;
    run.costs_ = costs(tasks.front().id.layer);
    if (tiers_.has_device()) {
        plan(run);
    } else {
        for (int number = 0; number < run.tasks(); ++number) run.host_tasks_.push_back(number);
    }
    for (const bool device : {false, true}) {
        const std::vector<int>& numbers = device ? run.device_tasks_ : run.host_tasks_;
        ids_.clear();
        for (const int number : numbers) {
            run.places_[at(number)] = {device, static_cast<int>(ids_.size())};
            ids_.push_back(run.task(number).id);
        }
        if (device && !tiers_.has_device()) break;
        run.wave(device).pin_present(device ? tiers_.device() : tiers_.host(), ids_);
    }
    run.launched_.assign(run.device_tasks_.size(), false);
    if (tiers_.has_device())
        start_as_planned(run);
    else
        run.host_.acquire();
    count(run);
}

void LayerSchedule::plan(LayerRun& run) {
    work_.clear();
    for (const Task& task : run.tasks_) {
        const bool here = tiers_.device().state(task.id) != State::absent;  // or on its way
        const bool copy = tiers_.host_copy(task.id);
        work_.push_back({task.id.expert, task.rows,
                         here   ? policy::Where::device
                         : copy ? policy::Where::host
                                : policy::Where::ssd,
                         copy});
    }
    const policy::LaneClocks clocks{.link = run.costs_.link * tiers_.device().loading_urgently(),
                                    .ssd = run.costs_.ssd_start + run.costs_.ssd * tiers_.host().loading_urgently()};
    policy::LaneCosts priced = run.costs_;
    if (tiers_.sending_loses(table_)) priced.link += priced.ssd;  // which somebody will pay
    planner_->plan({work_, priced, clocks}, run.plan_);
    for (const policy::Operation& one : run.plan_.operations) {
        if (one.lane == policy::Lane::cpu) run.host_tasks_.push_back(one.item);
        if (one.lane == policy::Lane::device) run.device_tasks_.push_back(one.item);
    }
}

// What the link and the disk do, in the order of the plan.
void LayerSchedule::start_as_planned(LayerRun& run) {
    bool room[2] = {true, true};
    const auto start = [&](int number) {
        const auto [device, item] = run.places_[at(number)];
        residency::Wave& wave = run.wave(device);
        if (wave.stage(item) == Stage::todo && room[device]) room[device] = wave.start(item);
        if (device) wave.flush();  // what it must read is queued now
    };
    for (const policy::Lane lane : {policy::Lane::link, policy::Lane::ssd})
        for (const policy::Operation& one : run.plan_.operations) {
            const bool is_read = work_[at(one.item)].where == policy::Where::ssd;
            if (one.lane == lane && is_read == (lane == policy::Lane::ssd)) start(one.item);
        }
    run.host_.flush();
}

void LayerSchedule::count(const LayerRun& run) {
    for (const residency::Wave* wave : {&run.host_, &run.device_})
        for (int item = 0; item < wave->size(); ++item)
            ++(wave->found(item) == State::resident  ? counters_.hits
               : wave->found(item) == State::loading ? counters_.joined
                                                     : counters_.misses);
    counters_.on_device += static_cast<std::uint64_t>(run.device_.size());
}

// ---- until all is computed ------------------------------------------------------------------------------------------

void LayerSchedule::finish(LayerRun& run, Workers& workers, const std::function<bool()>& make_room) {
    while (run.left() > 0) {
        run.host_.acquire();
        run.device_.acquire();
        launch(run, workers);
        if (compute_some(run, workers))
            tiers_.poll();
        else
            stall(run, make_room);
        retire(run);  // arrivals were taken in: a copy that failed is known
        if (prefetcher_) prefetcher_->go_on();
    }
}

// Everything that is there for the device at once, and what the link has one by one, to follow its copy.
void LayerSchedule::launch(LayerRun& run, Workers& workers) {
    const residency::Wave& wave = run.device_;
    items_.clear();
    for (int item = 0; item < wave.size(); ++item) {
        if (run.launched_[at(item)] || wave.stage(item) != Stage::pinned) continue;
        if (wave.pin(item).state() == State::failed) throw wave.pin(item).error();
        if (wave.pin(item).state() == State::resident) items_.push_back(item);
    }
    if (!items_.empty()) launch_items(run, workers, {});
    for (int item = 0; item < wave.size(); ++item) {
        if (run.launched_[at(item)] || wave.stage(item) != Stage::pinned) continue;
        const int number = table_.number(wave.id(item));
        if (!tiers_.link().copying(number)) continue;
        items_ = {item};
        launch_items(run, workers, tiers_.link().copied(number));
    }
}

void LayerSchedule::launch_items(LayerRun& run, Workers& workers, const device::Event& after) {
    double takes = 0;
    numbers_.clear();
    for (const int item : items_) {
        numbers_.push_back(run.device_tasks_[at(item)]);
        takes += run.costs_.device.at(run.task(numbers_.back()).rows);
        run.launched_[at(item)] = true;
    }
    if (run.launches_.empty()) device_since_ = clock_.now();
    run.launches_.push_back({items_, workers.on_device(run, numbers_, after, static_cast<Nanos>(takes)), clock_.now()});
}

void LayerSchedule::retire(LayerRun& run) {
    while (!run.launches_.empty() && run.launches_.front().over.over()) {
        const LayerRun::Launch done = std::move(run.launches_.front());
        run.launches_.erase(run.launches_.begin());
        for (const int item : done.items)
            if (run.device_.pin(item).state() == State::failed) throw run.device_.pin(item).error();
        done.over.check();
        const Nanos now = clock_.now(), started = device_lane_.done(done.began, now);
        if (run.launches_.empty()) counters_.device_ns += now - device_since_;
        if (trace_)
            trace_->add({.lane = Lane::device,
                         .activity = Activity::experts,
                         .layer = run.tasks_.front().id.layer,
                         .count = static_cast<std::int32_t>(done.items.size()),
                         .submitted = done.began,
                         .started = started,
                         .done = now});
        for (const int item : done.items) run.device_.done(item);
    }
}

// Computes a piece of what is ready and unpins it; false when nothing is.
bool LayerSchedule::compute_some(LayerRun& run, Workers& workers) {
    items_.clear();
    numbers_.clear();
    piece_rows_ = 0;
    piece_bytes_ = 0;
    piece_ready_ = 0;
    collect(run, true);
    collect(run, false);
    if (items_.empty()) return false;
    const Nanos begin = clock_.now();
    for (const int item : items_) counters_.queued_ns += begin - ready(run, item);
    workers.on_cpu(run, numbers_);
    double takes = run.computed_any_ ? 0 : run.costs_.cpu_start;
    for (const int number : numbers_) takes += run.costs_.cpu.at(run.task(number).rows);
    run.computed_any_ = true;
    tiers_.computed(takes);
    const Nanos end = clock_.now();
    counters_.compute_ns += end - begin;
    if (live_) live_->computed(static_cast<int>(items_.size()), piece_rows_, end - begin);
    if (trace_)
        trace_->add({.activity = Activity::experts,
                     .layer = run.tasks_.front().id.layer,
                     .count = static_cast<std::int32_t>(items_.size()),
                     .submitted = piece_ready_,
                     .started = begin,
                     .done = end});
    if (planner_ && planner_->fills_device()) fill_device(run);
    for (const int item : items_) run.host_.done(item);
    return true;
}

// Room that nobody uses takes what was just computed here, while the link has nothing to do.
void LayerSchedule::fill_device(const LayerRun& run) {
    residency::ExpertCache& device = tiers_.device();
    for (const int number : numbers_) {
        const ExpertId id = run.task(number).id;
        if (device.loading() > 0 || device.state(id) != State::absent) continue;
        evicted_.clear();
        device.start_prefetch(
            id, [](ExpertId) { return false; }, evicted_);
    }
    device.flush();
}

// Adds experts whose records are complete until the piece is full; those that were resident from the start first.
void LayerSchedule::collect(const LayerRun& run, bool hits) {
    const residency::Wave& wave = run.host_;
    for (int item = 0; item < wave.size(); ++item) {
        if ((wave.found(item) == State::resident) != hits || wave.stage(item) != Stage::pinned) continue;
        const residency::Pin& pin = wave.pin(item);
        if (pin.state() == State::failed) throw pin.error();
        if (pin.state() != State::resident) continue;
        const int number = run.host_tasks_[at(item)];
        const Task& task = run.task(number);
        const std::size_t bytes = table_.sizes()[table_.position(task.id.layer)].record_bytes;
        const bool full = piece_rows_ + task.rows > piece_.rows || piece_bytes_ + bytes > piece_.bytes ||
                          items_.size() >= piece_.experts;
        if (!items_.empty() && full) return;
        items_.push_back(item);
        numbers_.push_back(number);
        piece_rows_ += task.rows;
        piece_bytes_ += bytes;
        piece_ready_ = std::max(piece_ready_, ready(run, item));
    }
}

// When an expert could first be computed by the processor.
Nanos LayerSchedule::ready(const LayerRun& run, int item) const {
    return std::max(run.began_, run.host_.pin(item).ready());
}

void LayerSchedule::stall(const LayerRun& run, const std::function<bool()>& make_room) {
    // Otherwise all slots are held by others, or by loads nobody waits for any more.
    if (!run.host_.waiting() && !run.device_.waiting() && make_room()) return;
    const Nanos arrivals_before = tiers_.host().source_counters().arrival_ns, begin = clock_.now();
    if (!tiers_.wait()) {
        if (!run.launches_.empty() && run.launches_.front().over.over()) return;  // somebody else waited for it
        if (make_room()) return;
        MOESTRO_CHECK(tiers_.has_device());
        require(tiers_.device().loading() > 0, ErrorKind::budget, "layer ", run.tasks_.front().id.layer,
                ": the device has no room for an expert: ", tiers_.device().refusal());
        tiers_.device().wait();  // fails what can never come
    }
    const Nanos end = clock_.now();
    counters_.stall_ns += end - begin - (tiers_.host().source_counters().arrival_ns - arrivals_before);
    if (trace_)
        trace_->add({.activity = Activity::stall,
                     .layer = run.tasks_.front().id.layer,
                     .submitted = begin,
                     .started = begin,
                     .done = end});
}

// ---- the end --------------------------------------------------------------------------------------------------------

void LayerSchedule::end(LayerRun& run) noexcept {
    for (const LayerRun::Launch& launch : run.launches_)
        if (launch.over.state()) launch.over.state()->wait();
    run.launches_.clear();
    run.host_.end();
    run.device_.end();
}

bool LayerSchedule::disarm(LayerRun& run) {
    const bool host = run.host_.disarm(), device = run.device_.disarm();
    return host || device;
}

}  // namespace moestro::exec
