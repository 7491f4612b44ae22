#include "sim/replay.h"

#include <algorithm>
#include <climits>
#include <memory>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "policy/belady.h"
#include "residency/expert_cache.h"
#include "residency/wave.h"
#include "sim/layer_clock.h"
#include "sim/virtual_source.h"

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

std::vector<Nanos> record_times(const store::ExpertTable& table, const std::vector<policy::LaneCosts>& costs) {
    std::vector<Nanos> times;
    for (int number = 0; number < table.experts(); ++number) {
        const policy::LaneCosts& of = costs[table.position(table.id(number).layer)];
        times.push_back(static_cast<Nanos>(of.has_device ? of.link : of.ssd));
    }
    return times;
}

std::vector<std::size_t> record_sizes(const store::ExpertTable& table) {
    std::vector<std::size_t> bytes;
    for (int number = 0; number < table.experts(); ++number)
        bytes.push_back(table.sizes()[table.position(table.id(number).layer)].record_bytes);
    return bytes;
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

class Replay {
  public:
    Replay(const policy::RoutingRecord& record, const ReplayOptions& options)
        : record_(record),
          options_(options),
          table_(std::make_shared<store::ExpertTable>(sizes(record, options))),
          made_source_(
              std::make_unique<VirtualSource>(clock_, record_times(*table_, options.costs), record_sizes(*table_))),
          source_(made_source_.get()),
          cache_(table_, std::make_shared<memory::Ledger>(most_bytes(record, options, first_limit())), first_limit(),
                 options.max_slots.value_or(INT_MAX), std::move(made_source_),
                 policy::make_eviction(options.policy, {expert_set(*table_), options.frequencies}), clock_,
                 memory::Backing::none),
          costs_(options.costs.front(), table_->sizes().front().record_bytes),
          layers_(clock_, cache_, *source_, costs_, options.planner) {
        result_.layers.resize(record.layers.size());
        if (options.prefetch == "none") return;
        policy::PredictorSettings settings = options.predictor;
        settings.experts = expert_set(*table_);
        prefetcher_ = std::make_unique<exec::Prefetcher>(policy::make_predictor(options.prefetch, settings), *table_,
                                                         cache_, costs_, clock_);
        layers_.set_prefetcher(prefetcher_.get());
    }

    ReplayResult run() {
        if (options_.policy == "static" && options_.costs.front().has_device) place();
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

    // Fiddler's static placement: what a trace used most is on the device from the start.
    void place() {
        std::vector<int> order(options_.frequencies.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            return options_.frequencies[static_cast<std::size_t>(a)] >
                   options_.frequencies[static_cast<std::size_t>(b)];
        });
        for (const int number : order) {
            const policy::Evictable nothing = [](ExpertId) { return false; };
            std::vector<ExpertId> evicted;
            if (!cache_.start_prefetch(table_->id(number), nothing, evicted)) break;
        }
        while (cache_.loading() > 0) cache_.wait();
    }

    void begin_counting() {
        begin_ = {clock_.now(),    source_->busy(),   layers_.cpu_busy(),  layers_.device_busy(),
                  layers_.stall(), cache_.counters(), source_->counters(), prefetched()};
        for (ReplayResult::Layer& layer : result_.layers) layer = {};
        result_.steps = result_.rows = 0;
    }

    void finish() {
        const residency::CacheCounters cached = cache_.counters();
        result_.evictions = cached.evictions - begin_.cached.evictions;
        result_.loads = cached.loads - begin_.cached.loads;
        result_.bytes = source_->counters().bytes - begin_.read.bytes;
        result_.time = clock_.now() - begin_.time;
        result_.link_busy = source_->busy() - begin_.link;
        result_.cpu_busy = layers_.cpu_busy() - begin_.cpu;
        result_.device_busy = layers_.device_busy() - begin_.device;
        result_.stall = layers_.stall() - begin_.stall;
        result_.prefetch = prefetched();
        for (std::size_t i = 0; i < begin_.prefetched.size(); ++i) take_away(result_.prefetch[i], begin_.prefetched[i]);
    }

    std::vector<exec::PrefetchCounters> prefetched() const {
        if (!prefetcher_) return {};
        const auto all = prefetcher_->counters();
        return {all.begin(), all.end()};
    }

    void advance(double nanoseconds) { clock_.advance(static_cast<Nanos>(nanoseconds)); }

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
        cache_.poll();
        if (prefetcher_) prefetcher_->routed(layer.layer, {chosen, rows, layer.top_k});
        count_rows(layer, chosen);
        layers_.begin(options_.costs[position], needed_);
        for (const Needed& one : needed_) {
            ReplayResult::Layer& counted = result_.layers[position];
            ++(one.found == residency::State::host      ? counted.hits
               : one.found == residency::State::loading ? counted.joined
                                                        : counted.misses);
        }
        look_ahead(position, begin, rows);
        layers_.finish();
    }

    void count_rows(const policy::RoutingRecord::Layer& layer, std::span<const std::int32_t> chosen) {
        rows_of_.assign(static_cast<std::size_t>(layer.experts), 0);
        for (const std::int32_t expert : chosen) ++rows_of_[static_cast<std::size_t>(expert)];
        needed_.clear();
        for (std::int32_t expert = 0; expert < layer.experts; ++expert) {
            const int rows = rows_of_[static_cast<std::size_t>(expert)];
            if (rows == 0) continue;
            const ExpertId id{layer.layer, expert};
            needed_.push_back({id, rows, cache_.state(id)});
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
            cache_.token();
            if (prefetcher_) prefetcher_->token(record_.tokens[row]);
            for (const policy::RoutingRecord::Layer& layer : record_.layers) {
                const std::size_t kept = static_cast<std::size_t>(layer.kept);
                const std::size_t width = static_cast<std::size_t>(layer.top_k);
                if (cache_.wants_scores()) cache_.scored(layer.layer, std::span(layer.best).subspan(row * kept, kept));
                for (const std::int32_t expert : std::span(layer.chosen).subspan(row * width, width)) {
                    cache_.used({layer.layer, expert});
                    if (prefetcher_) prefetcher_->used({layer.layer, expert});
                }
            }
        }
        if (prefetcher_) prefetcher_->end_step();
    }

    struct Begin {
        Nanos time = 0, link = 0, cpu = 0, device = 0, stall = 0;
        residency::CacheCounters cached;
        store::SourceCounters read;
        std::vector<exec::PrefetchCounters> prefetched;
    };

    const policy::RoutingRecord& record_;
    const ReplayOptions& options_;
    VirtualClock clock_;
    const std::shared_ptr<const store::ExpertTable> table_;
    std::unique_ptr<VirtualSource> made_source_;  // until the cache has it
    VirtualSource* const source_;
    residency::ExpertCache cache_;
    exec::LiveCosts costs_;
    LayerClock layers_;
    std::unique_ptr<exec::Prefetcher> prefetcher_;

    std::size_t row_ = 0;
    std::vector<int> rows_of_;  // by expert, of the layer under way
    std::vector<Needed> needed_;
    Begin begin_;
    ReplayResult result_;
};

}  // namespace

ReplayResult replay(const policy::RoutingRecord& record, const ReplayOptions& options) {
    require(!record.layers.empty(), ErrorKind::usage, "the record has no layers with experts");
    check(record);
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
