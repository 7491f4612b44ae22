// The least makespan of a layer, by trying everything. Nothing here is shared with the planners but the words.
//
// Small layers try every order of every lane. Larger ones leave out orders that cannot be better than another one that
// is tried, given who computes what:
//  - A side computes what is there in the order in which it came: of one machine's jobs with release times that order
//    ends first, also when the first of them takes longer. What is there from the start comes first in any order.
//  - Of two records that are read for the same side, the one that its side computes longer is read first: change their
//    places in the reads (equally long), and, for the device, in the transfers (equally long); every place is then
//    filled no later than before, and the longer computation is there earlier.
//  - In the same way of two records in host memory the link takes first what the device computes longer.
// What remains is the order of reads for the CPU and for the device among each other, and the order of transfers out of
// host memory and of records read among each other: all of these are tried.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "policy/layer_plan.h"

namespace moestro::policy::testing {

class BruteForce {
  public:
    explicit BruteForce(const LayerWork& work) : work_(work), in_host_(work.items.size()) {}

    // Every side of every item, and the orders that the head of this file leaves.
    double least() {
        const std::size_t count = work_.items.size();
        for (std::size_t sides = 0; sides < std::size_t{1} << count; ++sides) {
            clear();
            bool possible = true;
            for (std::size_t i = 0; i < count; ++i) {
                const bool on_cpu = sides >> i & 1;
                possible = possible && can(i, on_cpu);
                place(static_cast<int>(i), on_cpu);
            }
            if (!possible || work_ends() >= best_) continue;
            sort(cpu_reads_, work_.costs.cpu);
            sort(device_reads_, work_.costs.device);
            sort(hosts_, work_.costs.device);
            read(0, 0, work_.clocks.ssd, cpu_begins(), cpu_here_.empty());
        }
        return best_;
    }

  private:
    void clear() {
        for (std::vector<int>* list : {&cpu_here_, &device_here_, &cpu_reads_, &device_reads_, &hosts_}) list->clear();
    }
    bool can(std::size_t item, bool on_cpu) const {
        const WorkItem& one = work_.items[item];
        return on_cpu ? one.where != Where::device || one.host_copy : work_.costs.has_device;
    }
    void place(int item, bool on_cpu) {
        const Where where = work_.items[static_cast<std::size_t>(item)].where;
        if (on_cpu)
            (where == Where::ssd ? cpu_reads_ : cpu_here_).push_back(item);
        else
            (where == Where::ssd ? device_reads_ : where == Where::host ? hosts_ : device_here_).push_back(item);
    }
    double of(const Line& line, int item) const { return line.at(work_.items[static_cast<std::size_t>(item)].rows); }
    double sum(const std::vector<int>& items, const Line& line) const {
        double total = 0;
        for (const int item : items) total += of(line, item);
        return total;
    }
    void sort(std::vector<int>& items, const Line& line) const {
        std::stable_sort(items.begin(), items.end(),
                         [&](int one, int other) { return of(line, one) > of(line, other); });
    }
    // No sooner than all of its work: what bounds every order.
    double work_ends() const {
        double cpu = 0, device = 0;
        if (!cpu_here_.empty() || !cpu_reads_.empty())
            cpu = work_.clocks.cpu + work_.costs.cpu_start + sum(cpu_here_, work_.costs.cpu) +
                  sum(cpu_reads_, work_.costs.cpu);
        if (!device_here_.empty() || !device_reads_.empty() || !hosts_.empty())
            device = work_.clocks.device + sum(device_here_, work_.costs.device) + sum(hosts_, work_.costs.device) +
                     sum(device_reads_, work_.costs.device);
        return std::max(cpu, device);
    }
    // What the CPU has from the start.
    double cpu_begins() const {
        if (cpu_here_.empty()) return 0;
        return work_.clocks.cpu + work_.costs.cpu_start + sum(cpu_here_, work_.costs.cpu);
    }

    // All orders of the reads not done yet: `ssd` is when the last one ended, `cpu` when what the CPU got so far ends;
    // `cold` while it got nothing.
    void read(std::size_t for_cpu, std::size_t for_device, double ssd, double cpu, bool cold) {
        if (cpu >= best_) return;
        const double end = ssd + work_.costs.ssd;
        if (for_cpu < cpu_reads_.size()) {
            const double begin = std::max(end, cold ? work_.clocks.cpu : cpu) + (cold ? work_.costs.cpu_start : 0);
            read(for_cpu + 1, for_device, end, begin + of(work_.costs.cpu, cpu_reads_[for_cpu]), false);
        }
        if (for_device < device_reads_.size()) {
            in_host_[static_cast<std::size_t>(device_reads_[for_device])] = end;
            read(for_cpu, for_device + 1, end, cpu, cold);
        }
        if (for_cpu < cpu_reads_.size() || for_device < device_reads_.size()) return;
        const double device = device_here_.empty() ? 0 : work_.clocks.device + sum(device_here_, work_.costs.device);
        send(0, 0, work_.clocks.link, device, cpu);
    }
    // All orders of the transfers not done yet, for reads that are settled.
    void send(std::size_t hosts, std::size_t reads, double link, double device, double cpu) {
        if (std::max(device, cpu) >= best_) return;
        const auto next = [&](int item, double there) {
            const double sent = std::max(link, there) + work_.costs.link;
            const double begin = std::max({sent, device, work_.clocks.device});
            return std::pair(sent, begin + of(work_.costs.device, item));
        };
        if (hosts < hosts_.size()) {
            const auto [sent, done] = next(hosts_[hosts], 0);
            send(hosts + 1, reads, sent, done, cpu);
        }
        if (reads < device_reads_.size()) {
            const auto [sent, done] =
                next(device_reads_[reads], in_host_[static_cast<std::size_t>(device_reads_[reads])]);
            send(hosts, reads + 1, sent, done, cpu);
        }
        if (hosts == hosts_.size() && reads == device_reads_.size()) best_ = std::max(device, cpu);
    }

    const LayerWork& work_;
    std::vector<int> cpu_here_, device_here_, cpu_reads_, device_reads_, hosts_;
    std::vector<double> in_host_;
    double best_ = std::numeric_limits<double>::infinity();
};

// Every order of every lane; for up to four items.
class EveryOrder {
  public:
    explicit EveryOrder(const LayerWork& work)
        : work_(work), in_host_(work.items.size()), on_device_(work.items.size()) {}

    double least() {
        double best = std::numeric_limits<double>::infinity();
        const std::size_t count = work_.items.size();
        for (std::size_t sides = 0; sides < std::size_t{1} << count; ++sides) {
            std::vector<int> reads, sent, cpu, device;
            bool possible = true;
            for (std::size_t i = 0; i < count; ++i) {
                const WorkItem& item = work_.items[i];
                const bool on_cpu = sides >> i & 1;
                possible =
                    possible && (on_cpu ? item.where != Where::device || item.host_copy : work_.costs.has_device);
                if (item.where == Where::ssd) reads.push_back(static_cast<int>(i));
                if (!on_cpu && item.where != Where::device) sent.push_back(static_cast<int>(i));
                (on_cpu ? cpu : device).push_back(static_cast<int>(i));
            }
            if (!possible) continue;
            const LaneCosts& costs = work_.costs;
            do {
                std::fill(in_host_.begin(), in_host_.end(), 0);
                lane(
                    reads, work_.clocks.ssd, {}, [&](int) { return costs.ssd; }, in_host_);
                const double cpu_end = least_of(cpu, work_.clocks.cpu, in_host_, costs.cpu, costs.cpu_start);
                do {
                    std::fill(on_device_.begin(), on_device_.end(), 0);
                    lane(
                        sent, work_.clocks.link, in_host_, [&](int) { return costs.link; }, on_device_);
                    const double device_end = least_of(device, work_.clocks.device, on_device_, costs.device, 0);
                    best = std::min(best, std::max(cpu_end, device_end));
                } while (std::next_permutation(sent.begin(), sent.end()));
            } while (std::next_permutation(reads.begin(), reads.end()));
        }
        return best;
    }

  private:
    // The end of the last of `items`, one after the other, each from when it is there.
    static double lane(const std::vector<int>& items, double free, const std::vector<double>& there, const auto& cost,
                       std::vector<double>& done) {
        for (const int item : items) {
            const auto i = static_cast<std::size_t>(item);
            free = std::max(free, there.empty() ? 0 : there[i]) + cost(item);
            done[i] = free;
        }
        return items.empty() ? 0 : free;
    }
    double least_of(std::vector<int> items, double free, const std::vector<double>& there, const Line& line,
                    double start) const {
        double best = std::numeric_limits<double>::infinity();
        std::vector<double> done(work_.items.size());
        do {
            const auto cost = [&](int item) {
                return line.at(work_.items[static_cast<std::size_t>(item)].rows) + (item == items.front() ? start : 0);
            };
            best = std::min(best, lane(items, free, there, cost, done));
        } while (std::next_permutation(items.begin(), items.end()));
        return best;
    }

    const LayerWork& work_;
    std::vector<double> in_host_, on_device_;
};

}  // namespace moestro::policy::testing
