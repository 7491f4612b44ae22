#include "residency/expert_cache.h"

#include <algorithm>
#include <unordered_set>

#include "base/bytes.h"

namespace moestro::residency {

void Pin::reset() noexcept {
    if (cache_) cache_->unpin(number_);
    cache_ = nullptr;
}

State Pin::state() const {
    return cache_->entries_[static_cast<std::size_t>(number_)].state;
}

const std::byte* Pin::data() const {
    return cache_->entries_[static_cast<std::size_t>(number_)].slot.data;
}

const Error& Pin::error() const {
    return *cache_->entries_[static_cast<std::size_t>(number_)].error;
}

Nanos Pin::ready() const {
    return cache_->entries_[static_cast<std::size_t>(number_)].ready;
}

// One size class per distinct record size, in order of appearance.
std::vector<memory::SlotClass> ExpertCache::classes() {
    std::vector<memory::SlotClass> all;
    for (const store::ExpertTable::Layer& layer : table_->sizes()) {
        auto found = std::find_if(all.begin(), all.end(),
                                  [&](const memory::SlotClass& one) { return one.bytes == layer.record_bytes; });
        if (found == all.end()) found = all.insert(all.end(), {layer.record_bytes, 0});
        found->most += layer.experts;
        class_of_layer_.push_back(static_cast<int>(found - all.begin()));
        largest_slot_ = std::max(largest_slot_, layer.record_bytes);
    }
    return all;
}

ExpertCache::ExpertCache(std::shared_ptr<const store::ExpertTable> table, std::shared_ptr<memory::Ledger> ledger,
                         std::size_t limit, int max_slots, std::unique_ptr<store::RecordSource> source,
                         std::unique_ptr<policy::Eviction> eviction, const Clock& clock,
                         std::unique_ptr<memory::SlotMemory> memory)
    : table_(std::move(table)),
      slots_(std::move(ledger), classes(), limit, max_slots, std::move(memory)),
      source_(std::move(source)),
      eviction_(std::move(eviction)),
      clock_(clock),
      may_evict_([this](ExpertId id) { return evictable(entries_[number(id)]); }),
      entries_(static_cast<std::size_t>(table_->experts())) {
    require(limit >= minimum() && max_slots >= 2, ErrorKind::budget, "the expert cache needs two slots of ",
            bytes_text(largest_slot_), "; it was given ", bytes_text(limit), " in at most ", max_slots, " slots");
    const std::size_t slots = static_cast<std::size_t>(std::min(max_slots, table_->experts()));
    useful_ = std::max(minimum(), std::min<std::size_t>(table_->record_bytes(), slots * largest_slot_));
    require_two_slots();
    eviction_->on_capacity(this->slots());
}

void ExpertCache::require_two_slots() {
    const store::ExpertTable::Layer& largest =
        *std::max_element(table_->sizes().begin(), table_->sizes().end(),
                          [](const auto& one, const auto& other) { return one.record_bytes < other.record_bytes; });
    const int size_class = class_of_layer_[table_->position(largest.layer)];
    const std::optional<memory::Slot> first = slots_.take(size_class), second = slots_.take(size_class);
    for (const auto& slot : {first, second})
        if (slot) slots_.give(*slot);
    require(slots_.limit() >= minimum(), ErrorKind::budget, "the expert cache needs two slots of ",
            bytes_text(largest_slot_), ", and there is no memory for them: ", slots_.refusal());
}

Pin ExpertCache::pin(ExpertId id) {
    Entry& entry = entries_[number(id)];
    MOESTRO_CHECK(entry.state != State::absent);
    count(entry, -1);
    ++entry.pins;
    count(entry, +1);
    return {this, static_cast<int>(number(id))};
}

void ExpertCache::unpin(int number) noexcept {
    Entry& entry = entries_[static_cast<std::size_t>(number)];
    count(entry, -1);
    --entry.pins;
    if (entry.pins == 0 && entry.state == State::failed) {
        static_assert(legal(State::failed, State::absent));
        entry.state = State::absent;
        entry.error.reset();
    }
    count(entry, +1);
}

// Adds an entry to the totals, or takes it out while it changes.
void ExpertCache::count(const Entry& entry, int sign) {
    if (entry.state == State::loading) {
        loading_ += sign;
        if (entry.urgent) loading_urgently_ += sign;
    }
    if (entry.state != State::resident) return;
    const std::size_t bytes = slots_.slot_bytes(entry.slot.size_class);
    resident_ += sign;
    resident_bytes_ += sign > 0 ? bytes : -bytes;
    if (!evictable(entry)) return;
    evictable_ += sign;
    evictable_bytes_ += sign > 0 ? bytes : -bytes;
}

void ExpertCache::move(Entry& entry, State to) {
    MOESTRO_CHECK(legal(entry.state, to));
    count(entry, -1);
    entry.state = to;
    count(entry, +1);
}

bool ExpertCache::start_load(ExpertId id, bool urgent) {
    Entry& entry = entries_[number(id)];
    MOESTRO_CHECK(entry.state == State::absent);
    if (!slots_.would_fit(size_class(id), evictable_bytes_, evictable_)) return false;
    std::optional<memory::Slot> slot;
    while (!(slot = take(id)))
        if (!evict_one(may_evict_, id)) return false;  // there was less memory than the limit allows
    load_into(*slot, id, entry, urgent);
    return true;
}

std::optional<memory::Slot> ExpertCache::take(ExpertId id) {
    const std::size_t before = slots_.limit();
    const std::optional<memory::Slot> slot = slots_.take(size_class(id));
    if (slots_.limit() != before) eviction_->on_capacity(slots());
    return slot;
}

bool ExpertCache::start_prefetch(ExpertId id, const policy::Evictable& spare, std::vector<ExpertId>& evicted) {
    Entry& entry = entries_[number(id)];
    MOESTRO_CHECK(entry.state == State::absent);
    const policy::Evictable among = [&](ExpertId one) { return may_evict_(one) && spare(one); };
    std::optional<memory::Slot> slot;
    while (!(slot = take(id))) {
        const std::optional<ExpertId> victim = evict_one(among, id);
        if (!victim) return false;
        evicted.push_back(*victim);
    }
    load_into(*slot, id, entry, false);
    return true;
}

void ExpertCache::load_into(memory::Slot slot, ExpertId id, Entry& entry, bool urgent) {
    entry.slot = slot;
    entry.urgent = urgent;
    entry.submitted = clock_.now();
    if (loading_ == 0) busy_since_ = entry.submitted;
    move(entry, State::loading);
    ++counters_.loads;
    eviction_->on_insert(id);
    source_->start(table_->number(id), entry.slot.data, urgent);
}

std::optional<ExpertId> ExpertCache::evict_one(const policy::Evictable& among, std::optional<ExpertId> incoming) {
    if (evictable_ == 0) return std::nullopt;
    std::optional<ExpertId> victim;
    if (given_up_first_)
        victim = eviction_->victim([&](ExpertId id) { return among(id) && given_up_first_(id); }, incoming);
    if (!victim) victim = eviction_->victim(among, incoming);
    if (!victim) return std::nullopt;
    Entry& entry = entries_[number(*victim)];
    MOESTRO_CHECK(evictable(entry));
    release_slot(*victim, entry, State::absent);
    ++counters_.evictions;
    return victim;
}

void ExpertCache::release_slot(ExpertId id, Entry& entry, State to) {
    move(entry, to);
    slots_.give(entry.slot);
    entry.slot = {};
    eviction_->on_evict(id);
}

void ExpertCache::poll() {
    source_->poll(arrivals_);
    take_in();
}

void ExpertCache::wait() {
    source_->wait(arrivals_);
    take_in();
}

void ExpertCache::take_in() {
    if (arrivals_.empty()) return;
    const Nanos now = clock_.now();
    for (store::Arrival& arrival : arrivals_) {
        Entry& entry = entries_[static_cast<std::size_t>(arrival.number)];
        record(arrival.number, entry, now);
        if (!arrival.error) {
            entry.ready = now;
            move(entry, State::resident);
            continue;
        }
        if (entry.pins > 0) entry.error = std::move(arrival.error);
        release_slot(table_->id(arrival.number), entry, entry.pins > 0 ? State::failed : State::absent);
    }
    arrivals_.clear();
    if (loading_ == 0) counters_.read_busy_ns += now - busy_since_;
}

void ExpertCache::record(int number, const Entry& entry, Nanos now) {
    const Nanos started = lane_.done(entry.submitted, now);
    counters_.served_bytes += slots_.slot_bytes(entry.slot.size_class);
    counters_.served_ns += now - started;
    if (entry.urgent) counters_.demand_ns += now - started;
    if (!trace_) return;
    const ExpertId id = table_->id(number);
    trace_->add({.lane = trace_lane_,
                 .activity = Activity::read,
                 .layer = id.layer,
                 .item = id.expert,
                 .count = 1,
                 .bytes = slots_.slot_bytes(entry.slot.size_class),
                 .submitted = entry.submitted,
                 .started = started,
                 .done = now});
}

bool ExpertCache::set_limit(std::size_t bytes) {
    if (bytes < minimum() || immovable_bytes() > bytes) return false;
    while (slots_.bytes_in_use() > bytes)
        if (!evict_one(may_evict_, std::nullopt)) wait();  // a load nobody waits for will end
    if (!slots_.set_limit(bytes)) return false;
    eviction_->on_capacity(slots());
    return true;
}

// In slots that neither eviction nor waiting frees.
std::size_t ExpertCache::immovable_bytes() const {
    std::size_t bytes = 0;
    for (const Entry& entry : entries_)
        if (entry.pins > 0 && has_slot(entry.state)) bytes += slots_.slot_bytes(entry.slot.size_class);
    return bytes;
}

int ExpertCache::slots() const {
    return static_cast<int>(
        std::min<std::size_t>(static_cast<std::size_t>(slots_.max_slots()), limit() / largest_slot_));
}

CacheCounters ExpertCache::counters() const {
    CacheCounters now = counters_;
    now.read_queued_ns = lane_.queued;
    if (loading_ > 0) now.read_busy_ns += clock_.now() - busy_since_;
    return now;
}

void ExpertCache::check_integrity() const {
    slots_.check_integrity();
    check_entries();
    MOESTRO_CHECK(static_cast<std::size_t>(loading_) == source_->in_flight());
    MOESTRO_CHECK(loading_ + resident_ == slots_.slots_in_use());
    MOESTRO_CHECK(slots_.bytes_in_use() <= limit() && (limit() >= minimum() || !refusal().empty()));
    const std::optional<ExpertId> victim = eviction_->victim(may_evict_, std::nullopt);
    MOESTRO_CHECK(victim.has_value() == (evictable_ > 0));
}

void ExpertCache::check_entries() const {
    int loading = 0, urgent = 0, resident = 0, evictable_now = 0;
    std::size_t resident_bytes = 0, evictable_bytes = 0;
    std::unordered_set<const std::byte*> owned;
    for (const Entry& entry : entries_) {
        MOESTRO_CHECK(entry.pins >= 0 && (entry.pins == 0 || entry.state != State::absent));
        MOESTRO_CHECK(has_slot(entry.state) == (entry.slot.data != nullptr));
        MOESTRO_CHECK((entry.state == State::failed) == entry.error.has_value());
        MOESTRO_CHECK(entry.state != State::failed || entry.pins > 0);
        if (!has_slot(entry.state)) continue;
        MOESTRO_CHECK(owned.insert(entry.slot.data).second);
        const std::size_t bytes = slots_.slot_bytes(entry.slot.size_class);
        loading += entry.state == State::loading;
        urgent += entry.state == State::loading && entry.urgent;
        resident += entry.state == State::resident;
        resident_bytes += entry.state == State::resident ? bytes : 0;
        evictable_now += evictable(entry);
        evictable_bytes += evictable(entry) ? bytes : 0;
    }
    MOESTRO_CHECK(loading == loading_ && urgent == loading_urgently_);
    MOESTRO_CHECK(resident == resident_ && evictable_now == evictable_);
    MOESTRO_CHECK(resident_bytes == resident_bytes_ && evictable_bytes == evictable_bytes_);
}

}  // namespace moestro::residency
