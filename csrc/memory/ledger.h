// One budget, named reservations: what moestro holds, measured. A budget is a promise: nothing is taken that does not fit.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace moestro::memory {

struct LedgerEntry {
    std::string name;
    std::size_t bytes = 0;  // now
    std::size_t peak = 0;
};

// Thread-safe.
class Ledger {
  public:
    explicit Ledger(std::size_t budget) : budget_(budget) {}

    // Adds `bytes` to the entry. Throws Error(budget) naming the entry, what was asked for, what is free, the missing
    // number and every entry held ("trunk 1.2 GiB + slots ...").
    void take(const std::string& name, std::size_t bytes);
    bool try_take(const std::string& name, std::size_t bytes);
    void give(const std::string& name, std::size_t bytes);

    std::size_t budget() const { return budget_; }
    std::size_t held() const;
    std::size_t peak() const;  // of the sum
    std::size_t free() const;
    std::vector<LedgerEntry> entries() const;

  private:
    bool add(const std::string& name, std::size_t bytes);  // mutex held

    const std::size_t budget_;
    mutable std::mutex mutex_;  // guards all below
    std::map<std::string, LedgerEntry> entries_;
    std::size_t held_ = 0, peak_ = 0;
};

}  // namespace moestro::memory
