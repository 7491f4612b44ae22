#include "sim/replay.h"

#include <algorithm>
#include <climits>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/virtual_lanes.h"
#include "device/emulated.h"
#include "exec/layer_schedule.h"
#include "policy/belady.h"
#include "residency/placement.h"
#include "store/virtual_source.h"

namespace moestro::sim {

namespace {

std::vector<store::ExpertTable::Layer> sizes(const policy::RoutingRecord& record, const ReplayOptions& options) {
    const std::size_t layers = record.layers.size();
    require(options.record_bytes.size() == layers && options.costs.size() == layers, ErrorKind::usage,
            "the record has ", layers, " layers with experts; record sizes of ", options.record_bytes.size(),
            " and costs of ", options.costs.size(), " were given");
    std::vector<store::ExpertTable::Layer> all;
    for (std::size_t i = 0; i < layers; ++i)
        all.push_back({record.layers[i].layer, record.layers[i].experts, options.record_bytes[i]});
    return all;
}

void check_scores(const policy::RoutingRecord::Layer& layer, const std::vector<policy::ScoredExpert>& scores) {
    for (const policy::ScoredExpert& one : scores)
        require(one.expert >= 0 && one.expert < layer.experts, ErrorKind::usage, "layer ", layer.layer,
                ": scores of expert ", one.expert, " of ", layer.experts);
}

void check(const policy::RoutingRecord& record) {
    std::size_t rows = 0;
    for (const policy::RoutingRecord::Step& step : record.steps) {
        require(step.rows >= 1, ErrorKind::usage, "a step of the record has ", step.rows, " rows");
        rows += static_cast<std::size_t>(step.rows);
    }
    require(rows == record.tokens.size() && rows == record.accepted.size(), ErrorKind::usage,
            "the record's steps have ", rows, " rows; tokens of ", record.tokens.size(), " and acceptance of ",
            record.accepted.size(), " were given");
    for (const policy::RoutingRecord::Layer& layer : record.layers) {
        require(layer.top_k >= 1 && layer.chosen.size() == rows * static_cast<std::size_t>(layer.top_k) &&
                    layer.best.size() == rows * static_cast<std::size_t>(layer.kept),
                ErrorKind::usage, "layer ", layer.layer, ": the record has ", layer.chosen.size(), " choices and ",
                layer.best.size(), " scores for ", rows, " rows");
        for (const std::int32_t expert : layer.chosen)
            require(expert >= 0 && expert < layer.experts, ErrorKind::usage, "layer ", layer.layer, ": expert ", expert,
                    " of ", layer.experts);
        check_scores(layer, layer.best);
        for (const std::vector<policy::ScoredExpert>& ahead : layer.ahead) {
            require(ahead.empty() || ahead.size() == layer.best.size(), ErrorKind::usage, "layer ", layer.layer,
                    ": the record has ", ahead.size(), " scores that were foreseen for ", rows, " rows");
            check_scores(layer, ahead);
        }
    }
}

policy::ExpertSet expert_set(const store::ExpertTable& table) {
    policy::ExpertSet set;
    for (const store::ExpertTable::Layer& layer : table.sizes()) set.layers.push_back({layer.layer, layer.experts});
    return set;
}

std::size_t most_bytes(const policy::RoutingRecord& record, const ReplayOptions& options, std::size_t first) {
    std::size_t most = first;
    if (!options.cache_bytes)
        for (const policy::RoutingRecord::Step& step : record.steps) most = std::max(most, step.cache_bytes);
    return most;
}

// All but whether it is off now.
void take_away(exec::PrefetchCounters& from, const exec::PrefetchCounters& earlier) {
    using Counters = exec::PrefetchCounters;
    for (const auto count : {&Counters::steps, &Counters::needed, &Counters::hinted, &Counters::foreseen,
                             &Counters::used_bytes, &Counters::late_bytes, &Counters::wasted_bytes, &Counters::started,
                             &Counters::cancelled, &Counters::regretted, &Counters::times_off})
        from.*count -= earlier.*count;
}

// Computes nothing, in its time.
class IdleHands final : public exec::Workers {
  public:
    explicit IdleHands(device::Stream* stream) : stream_(stream) {}
    void on_cpu(const exec::LayerRun&, std::span<const int>) override {}
    device::Event on_device(const exec::LayerRun&, std::span<const int>, const device::Event& after,
                            Nanos takes) override {
        busy_ += takes;
        stream_->wait(after);
        return stream_->experts({}, takes);
    }
    Nanos busy() const { return busy_; }

  private:
    device::Stream* const stream_;
    Nanos busy_ = 0;
};

class Replay {
  public:
    Replay(const policy::RoutingRecord& record, const ReplayOptions& options)
        : record_(record),
          options_(options),
          table_(std::make_shared<store::ExpertTable>(sizes(record, options))),
          lanes_(std::make_shared<VirtualLanes>(policy::kLanes)),
          clock_(*lanes_->clock()),
          has_device_(options.costs.front().has_device),
          host_(make_host()),
          tier_(has_device_ ? make_device() : residency::DeviceTier()),
          cache_(has_device_ ? *device_ : *host_),
          tiers_(*host_, tier_, lanes_),
          costs_(options.costs.front(), table_->largest_record()),
          prefetch_costs_(of_prefetches(options.costs.front()), table_->largest_record()),
          schedule_(tiers_, *table_, clock_, &costs_, options.costs),
          hands_(stream_.get()) {
        result_.layers.resize(record.layers.size());
        if (has_device_) schedule_.set_planner(options.planner);
        if (options.prefetch == "none") return;
        policy::PredictorSettings settings = options.predictor;
        settings.experts = expert_set(*table_);
        prefetcher_ = std::make_unique<exec::Prefetcher>(policy::make_predictor(options.prefetch, settings), *table_,
                                                         ahead_into_host() ? *host_ : cache_,
                                                         has_device_ ? prefetch_costs_ : costs_, clock_);
        schedule_.set_prefetcher(prefetcher_.get());
    }

    ReplayResult run() {
        if (has_device_ && !options_.host_bytes) residency::fill(*host_, *table_);
        if (has_device_ && (options_.policy == "static" || options_.planner == "static"))
            residency::fill(*device_, *table_, options_.frequencies);
        const int steps = static_cast<int>(record_.steps.size());
        for (int step = 0; step < steps; ++step) {
            if (step == options_.first_step) begin_counting();
            run_step(record_.steps[static_cast<std::size_t>(step)]);
        }
        if (options_.first_step < steps) finish();
        return std::move(result_);
    }

  private:
    std::size_t first_limit() const {
        if (options_.cache_bytes) return *options_.cache_bytes;
        return record_.steps.empty() ? 2 * table_->largest_record() : record_.steps.front().cache_bytes;
    }
    bool ahead_into_host() const { return has_device_ && host_->limit() < table_->record_bytes(); }
    policy::LaneCosts of_prefetches(policy::LaneCosts costs) const {
        if (!ahead_into_host()) costs.ssd = costs.link;
        return costs;
    }
    std::unique_ptr<policy::Eviction> eviction() const {
        return policy::make_eviction(options_.policy, {expert_set(*table_), options_.frequencies});
    }

    std::unique_ptr<residency::ExpertCache> make_host() {
        std::size_t limit = first_limit(), most = most_bytes(record_, options_, limit);
        if (has_device_)
            limit = most = options_.host_bytes.value_or(
                std::max<std::size_t>(table_->record_bytes(), 2 * table_->largest_record()));
        auto disk = std::make_unique<store::VirtualSource>(
            lanes_, static_cast<int>(policy::Lane::ssd),
            store::times_by_record(*table_, options_.costs, &policy::LaneCosts::ssd), store::sizes_by_record(*table_),
            nullptr, static_cast<Nanos>(options_.costs.front().ssd_start));
        disk_ = disk.get();
        const int slots = (has_device_ ? options_.host_slots : options_.max_slots).value_or(INT_MAX);
        return std::make_unique<residency::ExpertCache>(table_, std::make_shared<memory::Ledger>(most), limit, slots,
                                                        std::move(disk), eviction(), clock_,
                                                        memory::slots_without_memory());
    }

    residency::DeviceTier make_device() {
        const auto device = device::make_emulated({.weightless = true}, lanes_, nullptr);
        stream_ = device->make_stream();
        auto link = std::make_unique<residency::LinkSource>(
            *host_, table_, device->make_stream(),
            store::times_by_record(*table_, options_.costs, &policy::LaneCosts::link));
        residency::DeviceTier tier{device, nullptr, link.get(), options_.copies};
        device_ = std::make_unique<residency::ExpertCache>(
            table_, std::make_shared<memory::Ledger>(most_bytes(record_, options_, first_limit())), first_limit(),
            options_.max_slots.value_or(INT_MAX), std::move(link), eviction(), clock_, memory::slots_without_memory());
        tier.cache = device_.get();
        return tier;
    }

    Nanos busy_link() const { return has_device_ ? tier_.link->busy() : disk_->busy(); }

    void begin_counting() {
        begin_ = {clock_.now(),         busy_link(),       hands_.busy(),
                  schedule_.counters(), cache_.counters(), cache_.source_counters(),
                  disk_->counters(),    prefetched()};
        for (ReplayResult::Layer& layer : result_.layers) layer = {};
        result_.steps = result_.rows = 0;
    }

    void finish() {
        const residency::CacheCounters cached = cache_.counters();
        result_.evictions = cached.evictions - begin_.cached.evictions;
        result_.loads = cached.loads - begin_.cached.loads;
        result_.bytes = cache_.source_counters().bytes - begin_.moved.bytes;
        result_.read_bytes = disk_->counters().bytes - begin_.read.bytes;
        result_.time = clock_.now() - begin_.time;
        result_.link_busy = busy_link() - begin_.link;
        result_.cpu_busy = schedule_.counters().compute_ns - begin_.run.compute_ns;
        result_.device_busy = hands_.busy() - begin_.device;
        result_.stall = schedule_.counters().stall_ns - begin_.run.stall_ns;
        result_.prefetch = prefetched();
        for (std::size_t i = 0; i < begin_.prefetched.size(); ++i) take_away(result_.prefetch[i], begin_.prefetched[i]);
    }

    std::vector<exec::PrefetchCounters> prefetched() const {
        if (!prefetcher_) return {};
        const auto all = prefetcher_->counters();
        return {all.begin(), all.end()};
    }

    void advance(double nanoseconds) { lanes_->advance(static_cast<Nanos>(nanoseconds)); }

    void run_step(const policy::RoutingRecord::Step& step) {
        if (!options_.cache_bytes && step.cache_bytes != cache_.limit())
            require(cache_.set_limit(step.cache_bytes), ErrorKind::usage, "the record's cache of ", step.cache_bytes,
                    " bytes does not hold two records");
        const std::size_t begin = row_, rows = static_cast<std::size_t>(step.rows);
        row_ += rows;
        advance(options_.step.at(step.rows));
        if (prefetcher_) prefetcher_->begin_step(std::span(record_.tokens).subspan(begin, rows));
        for (std::size_t position = 0; position < record_.layers.size(); ++position) {
            advance(options_.layer.at(step.rows));
            run_layer(position, begin, step.rows);
        }
        learn(begin, rows);
        ++result_.steps;
        result_.rows += step.rows;
    }

    void run_layer(std::size_t position, std::size_t begin, int rows) {
        const policy::RoutingRecord::Layer& layer = record_.layers[position];
        const std::size_t width = static_cast<std::size_t>(layer.top_k);
        const auto chosen = std::span(layer.chosen).subspan(begin * width, static_cast<std::size_t>(rows) * width);
        tiers_.poll();
        if (prefetcher_) prefetcher_->routed(layer.layer, {chosen, rows, layer.top_k});
        count_rows(layer, chosen);
        for (const exec::Task& task : tasks_) {
            ReplayResult::Layer& counted = result_.layers[position];
            const residency::State found = cache_.state(task.id);
            ++(found == residency::State::resident  ? counted.hits
               : found == residency::State::loading ? counted.joined
                                                    : counted.misses);
        }
        schedule_.begin(run_, tasks_);
        look_ahead(position, begin, rows);
        schedule_.finish(run_, hands_, [] { return false; });
        schedule_.end(run_);
    }

    void count_rows(const policy::RoutingRecord::Layer& layer, std::span<const std::int32_t> chosen) {
        rows_of_.assign(static_cast<std::size_t>(layer.experts), 0);
        for (const std::int32_t expert : chosen) ++rows_of_[static_cast<std::size_t>(expert)];
        tasks_.clear();
        for (std::int32_t expert = 0; expert < layer.experts; ++expert) {
            const int rows = rows_of_[static_cast<std::size_t>(expert)];
            if (rows == 0) continue;
            tasks_.push_back({{layer.layer, expert}, rows});
        }
    }

    void look_ahead(std::size_t position, std::size_t begin, int rows) {
        if (!prefetcher_) return;
        const std::size_t last = record_.layers.size() - 1;
        const std::size_t wanted = static_cast<std::size_t>(prefetcher_->lookahead());
        for (std::size_t distance = 1; distance <= std::min(wanted, last - position); ++distance) {
            const policy::RoutingRecord::Layer& target = record_.layers[position + distance];
            if (distance > target.ahead.size() || target.ahead[distance - 1].empty()) continue;  // was not recorded
            const std::size_t width = static_cast<std::size_t>(target.kept);
            const auto thought =
                std::span(target.ahead[distance - 1]).subspan(begin * width, static_cast<std::size_t>(rows) * width);
            prefetcher_->ahead(record_.layers[position].layer, target.layer,
                               {thought, rows, target.kept, target.top_k});
        }
        prefetcher_->advise(record_.layers[position].layer);
    }

    void learn(std::size_t begin, std::size_t rows) {
        for (std::size_t row = begin; row < begin + rows; ++row) {
            if (!record_.accepted[row]) continue;
            each_cache([](residency::ExpertCache& cache) { cache.token(); });
            if (prefetcher_) prefetcher_->token(record_.tokens[row]);
            for (const policy::RoutingRecord::Layer& layer : record_.layers) {
                const std::size_t kept = static_cast<std::size_t>(layer.kept);
                const std::size_t width = static_cast<std::size_t>(layer.top_k);
                each_cache([&](residency::ExpertCache& cache) {
                    if (cache.wants_scores())
                        cache.scored(layer.layer, std::span(layer.best).subspan(row * kept, kept));
                });
                for (const std::int32_t expert : std::span(layer.chosen).subspan(row * width, width)) {
                    each_cache([&](residency::ExpertCache& cache) { cache.used({layer.layer, expert}); });
                    if (prefetcher_) prefetcher_->used({layer.layer, expert});
                }
            }
        }
        if (prefetcher_) prefetcher_->end_step();
    }

    void each_cache(const auto& tell) {
        tell(*host_);
        if (device_) tell(*device_);
    }

    struct Begin {
        Nanos time = 0, link = 0, device = 0;
        exec::RunCounters run;
        residency::CacheCounters cached;
        store::SourceCounters moved, read;
        std::vector<exec::PrefetchCounters> prefetched;
    };

    const policy::RoutingRecord& record_;
    const ReplayOptions& options_;
    const std::shared_ptr<const store::ExpertTable> table_;
    const std::shared_ptr<VirtualLanes> lanes_;
    const VirtualClock& clock_;
    const bool has_device_;
    store::VirtualSource* disk_ = nullptr;  // the host cache's
    const std::unique_ptr<residency::ExpertCache> host_;
    std::unique_ptr<device::Stream> stream_;  // these two: with a device
    std::unique_ptr<residency::ExpertCache> device_;
    const residency::DeviceTier tier_;
    residency::ExpertCache& cache_;  // the fastest
    const residency::Tiers tiers_;
    exec::LiveCosts costs_, prefetch_costs_;
    exec::LayerSchedule schedule_;
    IdleHands hands_;
    std::unique_ptr<exec::Prefetcher> prefetcher_;
    exec::LayerRun run_;

    std::size_t row_ = 0;
    std::vector<int> rows_of_;  // by expert, of the layer under way
    std::vector<exec::Task> tasks_;
    Begin begin_;
    ReplayResult result_;
};

}  // namespace

ReplayResult replay(const policy::RoutingRecord& record, const ReplayOptions& options) {
    require(!record.layers.empty(), ErrorKind::usage, "the record has no layers with experts");
    check(record);
    policy::require_planner(options.planner);
    return Replay(record, options).run();
}

std::vector<std::int64_t> belady_misses(const policy::RoutingRecord& record, const std::vector<int>& slots,
                                        int first_step) {
    check(record);
    std::vector<ExpertId> accesses;
    std::vector<std::size_t> groups;
    std::size_t row = 0;
    const std::size_t counted_from = static_cast<std::size_t>(std::max(0, first_step)) * record.layers.size();
    std::vector<bool> wanted;
    for (std::size_t step = 0; step < record.steps.size(); ++step) {
        const std::size_t rows = static_cast<std::size_t>(record.steps[step].rows);
        for (const policy::RoutingRecord::Layer& layer : record.layers) {
            const std::size_t width = static_cast<std::size_t>(layer.top_k);
            wanted.assign(static_cast<std::size_t>(layer.experts), false);
            for (const std::int32_t expert : std::span(layer.chosen).subspan(row * width, rows * width))
                wanted[static_cast<std::size_t>(expert)] = true;
            for (std::int32_t expert = 0; expert < layer.experts; ++expert)
                if (wanted[static_cast<std::size_t>(expert)]) accesses.push_back({layer.layer, expert});
            groups.push_back(accesses.size());
        }
        row += rows;
    }
    std::vector<std::int64_t> misses;
    for (const int count : slots) misses.push_back(policy::belady_misses(accesses, count, groups, counted_from));
    return misses;
}

}  // namespace moestro::sim
