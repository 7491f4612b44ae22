// One budget, named reservations: what moestro holds, measured. A budget is a promise: nothing is taken that does not
// fit.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
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
    explicit Ledger(std::size_t budget) : budget_(budget), largest_budget_(budget) {}

    // Adds `bytes` to the entry. Throws Error(budget) naming the entry, what was asked for, what is free, the missing
    // number and every entry held ("trunk 1.2 GiB + slots ...").
    void take(const std::string& name, std::size_t bytes);
    bool try_take(const std::string& name, std::size_t bytes);
    // Throws Error(internal) when the entry holds less.
    void give(const std::string& name, std::size_t bytes);

    // False, and unchanged, when more than that is held.
    bool set_budget(std::size_t bytes);
    std::size_t budget() const;
    std::size_t held() const;
    std::size_t peak() const;  // of the sum
    std::size_t free() const;
    std::vector<LedgerEntry> entries() const;
    std::string summary() const;  // "expert slots 3.10 GiB + trunk 1.20 GiB", for messages

    // Throws Error(internal) when the entries do not add up or exceed the budget.
    void check_integrity() const;

  private:
    bool add(const std::string& name, std::size_t bytes);  // mutex held
    std::string summary_locked() const;

    mutable std::mutex mutex_;  // guards all below
    std::size_t budget_, largest_budget_;
    std::map<std::string, LedgerEntry> entries_;
    std::size_t held_ = 0, peak_ = 0;
};

// Bytes of one entry for as long as something lives; it keeps the ledger alive too. Movable, one owner.
class Reservation {
  public:
    Reservation() = default;
    // Throws Error(budget) as Ledger::take does.
    Reservation(std::shared_ptr<Ledger> ledger, std::string name, std::size_t bytes);
    ~Reservation();
    Reservation(Reservation&& other) noexcept;
    Reservation& operator=(Reservation&& other) noexcept;
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    std::size_t bytes() const { return bytes_; }
    // False, and unchanged, when the budget has no room to grow.
    bool try_resize(std::size_t bytes);

  private:
    std::shared_ptr<Ledger> ledger_;
    std::string name_;
    std::size_t bytes_ = 0;
};

}  // namespace moestro::memory
