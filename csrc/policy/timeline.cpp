#include "policy/timeline.h"

#include <algorithm>

#include "base/error.h"

namespace moestro::policy {

namespace {

std::size_t at(int position) {
    return static_cast<std::size_t>(position);
}

// Everything that begins earlier first; of equal ones the earlier lane.
void merge(const std::vector<Operation> (&lanes)[kLanes], std::vector<Operation>& merged) {
    std::size_t next[kLanes] = {};
    while (true) {
        int first = kLanes;
        for (int lane = 0; lane < kLanes; ++lane) {
            if (next[lane] == lanes[lane].size()) continue;
            if (first == kLanes || lanes[lane][next[lane]].begin < lanes[first][next[first]].begin) first = lane;
        }
        if (first == kLanes) return;
        merged.push_back(lanes[first][next[first]++]);
    }
}

}  // namespace

void Timeline::check(const LayerWork& work, const LaneOrders& orders) {
    constexpr unsigned kRead = 1, kSent = 2, kOnCpu = 4, kOnDevice = 8;
    passed_.assign(work.items.size(), 0);
    const auto pass = [&](const std::vector<int>& order, unsigned step) {
        for (const int item : order) {
            MOESTRO_CHECK((passed_[at(item)] & step) == 0);
            passed_[at(item)] |= step;
        }
    };
    pass(orders.ssd, kRead);
    pass(orders.link, kSent);
    pass(orders.cpu, kOnCpu);
    pass(orders.device, kOnDevice);
    MOESTRO_CHECK(work.costs.has_device || orders.device.empty());
    for (std::size_t i = 0; i < work.items.size(); ++i) {
        const WorkItem& item = work.items[i];
        const unsigned read = item.where == Where::ssd ? kRead : 0;
        const unsigned sent = item.where == Where::device ? 0 : kSent;
        const bool by_cpu = passed_[i] == (read | kOnCpu) && (item.where != Where::device || item.host_copy);
        MOESTRO_CHECK(by_cpu || passed_[i] == (read | sent | kOnDevice));
    }
}

void Timeline::run(const LayerWork& work, const LaneOrders& orders, LayerPlan& plan) {
    check(work, orders);
    ready_.assign(work.items.size(), 0);
    plan.ends = {};
    const auto pass = [&](Lane lane, const std::vector<int>& order, double free, const auto& cost) {
        std::vector<Operation>& operations = lanes_[static_cast<std::size_t>(lane)];
        operations.clear();
        for (const int item : order) {
            double& ready = ready_[at(item)];
            const double begin = std::max(free, ready);
            free = ready = begin + cost(item);
            operations.push_back({item, work.items[at(item)].expert, lane, begin, free});
        }
        if (!order.empty()) plan.ends[static_cast<std::size_t>(lane)] = free;
    };
    const LaneCosts& costs = work.costs;
    const auto rows = [&](int item) { return work.items[at(item)].rows; };
    pass(Lane::ssd, orders.ssd, work.clocks.ssd, [&](int) { return costs.ssd; });
    pass(Lane::link, orders.link, work.clocks.link, [&](int) { return costs.link; });
    pass(Lane::cpu, orders.cpu, work.clocks.cpu,
         [&](int item) { return costs.cpu.at(rows(item)) + (item == orders.cpu.front() ? costs.cpu_start : 0); });
    pass(Lane::device, orders.device, work.clocks.device, [&](int item) { return costs.device.at(rows(item)); });
    plan.operations.clear();
    merge(lanes_, plan.operations);
    plan.makespan = std::max(plan.end(Lane::cpu), plan.end(Lane::device));
}

void orders_as_listed(const LayerWork& work, const std::vector<Side>& sides, LaneOrders& orders) {
    for (std::vector<int>* order : {&orders.ssd, &orders.link, &orders.cpu, &orders.device}) order->clear();
    // What is on the spot goes first, and what must be read last: a pass each.
    for (const Where where : {Where::device, Where::host, Where::ssd})
        for (int i = 0; i < static_cast<int>(work.items.size()); ++i) {
            if (work.items[at(i)].where != where) continue;
            if (where == Where::ssd) orders.ssd.push_back(i);
            if (sides[at(i)] == Side::cpu) {
                orders.cpu.push_back(i);
                continue;
            }
            if (where != Where::device) orders.link.push_back(i);
            orders.device.push_back(i);
        }
}

}  // namespace moestro::policy
