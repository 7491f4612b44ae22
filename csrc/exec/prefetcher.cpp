#include "exec/prefetcher.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moestro::exec {

namespace {

// A disk at rest is not free either: a record that nobody wants takes a slot, and memory's bandwidth.
constexpr double kLeastShare = 0.2;
// What a claim is worth before it was seen to come true, in observations; and when half of the old ones are forgotten.
constexpr double kPriorClaims = 8, kMostClaims = 256;
// A layer's window in tokens. Its hints lose when, of those that were worth their read if the claims were true, so few
// come true that the reads of the others cost more. Then they are not listened to for so many tokens.
constexpr int kWindowTokens = 64, kLeastJudged = 24, kLeastTokens = 8, kOffTokens = 1024;
// Reads under way at a time: enough for a disk's full rate, little enough for who comes next.
constexpr std::size_t kBytesInFlight = std::size_t{4} << 20;
constexpr int kRecordsInFlight = 2;

std::size_t bucket(float claimed, int buckets) {
    return static_cast<std::size_t>(
        std::clamp(static_cast<int>(claimed * static_cast<float>(buckets)), 0, buckets - 1));
}

}  // namespace

Prefetcher::Prefetcher(std::unique_ptr<policy::Predictor> predictor, const store::ExpertTable& table,
                       residency::ExpertCache& cache, LiveCosts& costs, const Clock& clock)
    : predictor_(std::move(predictor)),
      table_(table),
      cache_(cache),
      costs_(costs),
      clock_(clock),
      resident_([&cache](ExpertId id) { return cache.state(id) != residency::State::absent; }),
      counters_(table.sizes().size()),
      claims_(table.sizes().size()),
      windows_(table.sizes().size()),
      off_for_(table.sizes().size()) {
    for (const store::ExpertTable::Layer& layer : table.sizes())
        expected_.emplace_back(static_cast<std::size_t>(layer.experts));
}

void Prefetcher::begin_step(std::span<const std::int32_t> tokens) {
    forget();
    rows_ = static_cast<int>(tokens.size());
    last_routed_ = clock_.now();
    last_ = cache_.counters();
    predictor_->on_step(tokens);
    advise(-1);
}

// ---- what comes true ------------------------------------------------------------------------------------------------

void Prefetcher::routed(int layer, const policy::Chosen& chosen) {
    const std::size_t position = table_.position(layer);
    const int experts = table_.sizes()[position].experts;
    for (const std::int32_t id : chosen.ids)
        require(id >= 0 && id < experts, ErrorKind::usage, "expert ids are 0 to ", experts - 1, "; layer ", layer,
                " chose ", id);
    if (chosen.rows == 0) return;
    measure();
    chosen_.assign(expected_[position].size(), false);
    for (const std::int32_t id : chosen.ids) chosen_[static_cast<std::size_t>(id)] = true;
    judge(position);
    settle(position);
    decide(position, chosen.rows);
    drop(position);
    if (chosen.rows == rows_) predictor_->on_routing(layer, chosen);
}

void Prefetcher::judge(std::size_t position) {
    PrefetchCounters& counted = counters_[position];
    Claims& claims = claims_[position];
    Window& window = windows_[position];
    const double missed = costs_.read_ns(bytes(position));
    ++counted.steps;
    for (std::size_t expert = 0; expert < chosen_.size(); ++expert) {
        const float claimed = expected_[position][expert];
        counted.needed += chosen_[expert];
        if (claimed <= 0) continue;
        ++counted.hinted;
        counted.foreseen += chosen_[expert];
        const std::size_t at = bucket(claimed, kBuckets);
        claims.made[at] += 1;
        claims.true_[at] += chosen_[expert];
        if (claims.made[at] > kMostClaims) {
            claims.made[at] /= 2;
            claims.true_[at] /= 2;
        }
        if (static_cast<double>(claimed) * missed <= price(position)) continue;
        ++window.judged;
        window.right += chosen_[expert];
    }
}

// What was read ahead for this layer, and what had to go for it.
void Prefetcher::settle(std::size_t position) {
    PrefetchCounters& counted = counters_[position];
    const int layer = table_.sizes()[position].layer;
    for (std::size_t expert = 0; expert < chosen_.size(); ++expert) {
        const ExpertId id{layer, static_cast<std::int32_t>(expert)};
        const residency::State state = cache_.state(id);
        if (started_.erase(id) > 0) {
            if (!chosen_[expert] || state == residency::State::absent)
                counted.wasted_bytes += bytes(position);
            else
                (state == residency::State::resident ? counted.used_bytes : counted.late_bytes) += bytes(position);
        }
        if (!chosen_[expert]) continue;
        const auto gave = gave_way_.find(id);
        if (gave == gave_way_.end()) continue;
        if (state == residency::State::absent) {
            ++counters_[gave->second].regretted;
            ++windows_[gave->second].regretted;
        }
        gave_way_.erase(gave);
    }
}

void Prefetcher::decide(std::size_t position, int rows) {
    Window& window = windows_[position];
    int& off = off_for_[position];
    if (off > 0) {
        off = std::max(0, off - rows);
        if (off == 0) window = {};
        counters_[position].off = off > 0;
        return;
    }
    window.tokens += rows;
    const bool enough = window.judged >= kLeastJudged && window.tokens >= kLeastTokens;
    if (enough && window.right - window.regretted < busy_share() * window.judged) {
        off = kOffTokens;
        counters_[position].off = true;
        ++counters_[position].times_off;
    }
    if (window.tokens >= kWindowTokens) window = {};
}

// ---- what is read ---------------------------------------------------------------------------------------------------

// What reading a record of the layer now costs others, in expectation.
double Prefetcher::price(std::size_t position) const {
    return costs_.read_ns(bytes(position)) * busy_share();
}

double Prefetcher::busy_share() const {
    return std::max(costs_.demand_share(), kLeastShare);
}

double Prefetcher::probability(std::size_t position, float claimed) const {
    const Claims& claims = claims_[position];
    const std::size_t at = bucket(claimed, kBuckets);
    return (static_cast<double>(claimed) * kPriorClaims + claims.true_[at]) / (kPriorClaims + claims.made[at]);
}

void Prefetcher::advise(int layer) {
    hints_.clear();
    const std::size_t record = table_.largest_record();
    predictor_->predict(layer, {resident_, costs_.of(record), costs_.read_ns(record), costs_.layer_ns()}, hints_);
    expect(hints_);
    const int from = layer < 0 ? -1 : static_cast<int>(table_.position(layer));
    admit(from, hints_);
    go_on();
}

// A layer's latest hints replace the ones before, those that are queued too.
void Prefetcher::expect(std::span<const policy::Hint> hints) {
    for (const policy::Hint& hint : hints) {
        std::vector<float>& layer = expected_[table_.position(hint.id.layer)];
        std::fill(layer.begin(), layer.end(), 0.0f);
    }
    for (const policy::Hint& hint : hints)
        expected_[table_.position(hint.id.layer)][static_cast<std::size_t>(hint.id.expert)] = hint.probability;
    std::erase_if(queue_, [&](const Admitted& one) {
        const std::size_t position = table_.position(one.id.layer);
        if (expected_[position][static_cast<std::size_t>(one.id.expert)] > 0) return false;
        ++counters_[position].cancelled;
        return true;
    });
}

void Prefetcher::admit(int from, std::span<const policy::Hint> hints) {
    for (const policy::Hint& hint : hints) {
        const std::size_t position = table_.position(hint.id.layer);
        std::erase_if(queue_, [&](const Admitted& one) { return one.id == hint.id; });
        if (off_for_[position] > 0 || cache_.state(hint.id) != residency::State::absent) continue;
        const double gain = hint.gain > 0 ? hint.gain : costs_.read_ns(bytes(position));
        const double value = probability(position, hint.probability) * gain;
        if (value > price(position)) queue_.push_back({hint.id, value, bytes(position)});
    }
    // Of equal ones the nearer layer's is worth more: it has less time.
    std::sort(queue_.begin(), queue_.end(), [](const Admitted& a, const Admitted& b) {
        return a.value != b.value ? a.value < b.value : b.id < a.id;
    });
    // Most valuable first, as many as are read before their layer's turn; before anything was measured, a few.
    double time = 0;
    std::size_t kept = queue_.size();
    for (std::size_t i = queue_.size(); i-- > 0;) {
        const int away = static_cast<int>(table_.position(queue_[i].id.layer)) - from;
        time += costs_.read_ns(queue_[i].bytes);
        const bool fits = costs_.layer_ns() > 0 ? time <= away * costs_.layer_ns()
                                                : queue_.size() - i <= static_cast<std::size_t>(kRecordsInFlight);
        if (fits) {
            std::swap(queue_[--kept], queue_[i]);
        } else {
            time -= costs_.read_ns(queue_[i].bytes);
        }
    }
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(kept));
}

void Prefetcher::go_on() {
    const auto spare = [&](ExpertId id) {
        const std::size_t position = table_.position(id.layer);
        return off_for_[position] > 0 || expected_[position][static_cast<std::size_t>(id.expert)] <= 0;
    };
    bool any = false;
    while (!queue_.empty() && cache_.loading_urgently() == 0) {
        const Admitted next = queue_.back();
        const int most = std::max(kRecordsInFlight, static_cast<int>(kBytesInFlight / next.bytes));
        if (cache_.loading() >= most) break;
        queue_.pop_back();
        if (cache_.state(next.id) != residency::State::absent) continue;
        const std::size_t position = table_.position(next.id.layer);
        evicted_.clear();
        const bool started = cache_.start_prefetch(next.id, spare, evicted_);
        for (const ExpertId id : evicted_) gave_way_[id] = position;
        ++(started ? counters_[position].started : counters_[position].cancelled);
        if (started) started_.insert(next.id);
        any |= started;
    }
    if (any) cache_.flush();
}

void Prefetcher::drop(std::size_t position) {
    const int layer = table_.sizes()[position].layer;
    counters_[position].cancelled += std::erase_if(queue_, [&](const Admitted& one) { return one.id.layer == layer; });
    std::fill(expected_[position].begin(), expected_[position].end(), 0.0f);
}

void Prefetcher::end_step() {
    forget();
}

void Prefetcher::forget() {
    for (const ExpertId id : started_) {
        const std::size_t position = table_.position(id.layer);
        counters_[position].wasted_bytes += bytes(position);
    }
    started_.clear();
    for (const Admitted& one : queue_) ++counters_[table_.position(one.id.layer)].cancelled;
    queue_.clear();
    for (std::vector<float>& layer : expected_) std::fill(layer.begin(), layer.end(), 0.0f);
}

// How long the layer before took, and how much of that the disk read what was waited for.
void Prefetcher::measure() {
    const Nanos now = clock_.now();
    const residency::CacheCounters counted = cache_.counters();
    costs_.layer(now - last_routed_, counted.demand_ns - last_.demand_ns);
    costs_.read(counted.served_bytes - last_.served_bytes, counted.served_ns - last_.served_ns);
    last_routed_ = now;
    last_ = counted;
}

}  // namespace moestro::exec
