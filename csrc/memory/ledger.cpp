#include "memory/ledger.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"

namespace moestro::memory {

bool Ledger::add(const std::string& name, std::size_t bytes) {
    if (bytes > budget_ - held_) return false;
    LedgerEntry& entry = entries_[name];
    entry.name = name;
    entry.bytes += bytes;
    entry.peak = std::max(entry.peak, entry.bytes);
    held_ += bytes;
    peak_ = std::max(peak_, held_);
    return true;
}

void Ledger::take(const std::string& name, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    if (add(name, bytes)) return;
    const std::size_t free = budget_ - held_;
    fail(ErrorKind::budget, "the memory budget of ", bytes_text(budget_), " has no room for ", bytes_text(bytes),
         " of ", name, ": ", bytes_text(free), " free, ", bytes_text(bytes - free), " (", bytes - free,
         " bytes) missing; held: ", summary_locked(), ". Give more host_memory");
}

bool Ledger::try_take(const std::string& name, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    return add(name, bytes);
}

void Ledger::give(const std::string& name, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    const auto entry = entries_.find(name);
    const std::size_t held = entry == entries_.end() ? 0 : entry->second.bytes;
    require(bytes <= held, ErrorKind::internal, "ledger: ", bytes, " bytes given back to ", name, ", which holds ",
            held);
    if (bytes == 0) return;
    entry->second.bytes -= bytes;
    held_ -= bytes;
}

bool Ledger::set_budget(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    if (held_ > bytes) return false;
    budget_ = bytes;
    largest_budget_ = std::max(largest_budget_, bytes);
    return true;
}

std::size_t Ledger::budget() const {
    std::lock_guard lock(mutex_);
    return budget_;
}

std::size_t Ledger::held() const {
    std::lock_guard lock(mutex_);
    return held_;
}

std::size_t Ledger::peak() const {
    std::lock_guard lock(mutex_);
    return peak_;
}

std::size_t Ledger::free() const {
    std::lock_guard lock(mutex_);
    return budget_ - held_;
}

std::vector<LedgerEntry> Ledger::entries() const {
    std::lock_guard lock(mutex_);
    std::vector<LedgerEntry> all;
    for (const auto& [name, entry] : entries_) all.push_back(entry);
    return all;
}

std::string Ledger::summary() const {
    std::lock_guard lock(mutex_);
    return summary_locked();
}

std::string Ledger::summary_locked() const {
    std::string all;
    for (const auto& [name, entry] : entries_)
        if (entry.bytes > 0) all += (all.empty() ? "" : " + ") + name + " " + bytes_text(entry.bytes);
    return all.empty() ? "nothing" : all;
}

void Ledger::check_integrity() const {
    std::lock_guard lock(mutex_);
    std::size_t sum = 0;
    for (const auto& [name, entry] : entries_) {
        MOESTRO_CHECK(entry.name == name && entry.bytes <= entry.peak);
        sum += entry.bytes;
    }
    MOESTRO_CHECK(sum == held_ && held_ <= budget_ && held_ <= peak_ && peak_ <= largest_budget_);
}

Reservation::Reservation(std::shared_ptr<Ledger> ledger, std::string name, std::size_t bytes)
    : ledger_(std::move(ledger)), name_(std::move(name)), bytes_(bytes) {
    ledger_->take(name_, bytes_);
}

Reservation::~Reservation() {
    if (ledger_) ledger_->give(name_, bytes_);
}

Reservation::Reservation(Reservation&& other) noexcept
    : ledger_(std::move(other.ledger_)), name_(std::move(other.name_)), bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
    std::swap(ledger_, other.ledger_);
    std::swap(name_, other.name_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

bool Reservation::try_resize(std::size_t bytes) {
    if (bytes > bytes_ && !ledger_->try_take(name_, bytes - bytes_)) return false;
    if (bytes < bytes_) ledger_->give(name_, bytes_ - bytes);
    bytes_ = bytes;
    return true;
}

}  // namespace moestro::memory
