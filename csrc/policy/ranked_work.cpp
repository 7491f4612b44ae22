#include "policy/ranked_work.h"

#include <limits>
#include <numeric>
#include <tuple>

namespace moestro::policy {

namespace {

constexpr double kShorterThanAny = -1;

}  // namespace

void RankedWork::set(const LayerWork& work) {
    costs_ = work.costs;
    clocks_ = work.clocks;
    const std::size_t count = work.items.size();
    items_.resize(count);
    std::iota(items_.begin(), items_.end(), 0);
    const auto place = [&](int item) {
        const WorkItem& one = work.items[at(item)];
        return std::tuple(-static_cast<int>(one.where), -one.rows, item);
    };
    std::sort(items_.begin(), items_.end(), [&](int one, int other) { return place(one) < place(other); });
    cpu_.resize(count);
    device_.resize(count);
    kinds_.assign(count, 0);
    bound_.resize(count);
    hosts_ = reads_ = 0;
    for (std::size_t rank = 0; rank < count; ++rank) {
        const WorkItem& item = work.items[at(items_[rank])];
        cpu_[rank] = costs_.cpu.at(item.rows);
        device_[rank] = costs_.device.at(item.rows);
        bound_[rank] = !costs_.has_device || (item.where == Where::device && !item.host_copy);
        hosts_ += item.where == Where::device;
        reads_ += item.where != Where::ssd;
        if (rank == 0) continue;
        const WorkItem& last = work.items[at(items_[rank - 1])];
        const bool alike = item.where == last.where && item.rows == last.rows && bound_[rank] == bound_[rank - 1];
        kinds_[rank] = kinds_[rank - 1] + (alike ? 0 : 1);
    }
    least_ = last_read_computed();
    cpu_tails_.assign(count + 1, {kShorterThanAny, -1});
    device_tails_.assign(count + 1, {kShorterThanAny, -1});
}

// At least: the SSD is busy from one end to the other, and what it read last must still be computed.
double RankedWork::last_read_computed() const {
    double soonest = std::numeric_limits<double>::infinity();
    for (int rank = reads_; rank < count(); ++rank) {
        soonest = std::min(soonest, cpu(rank));
        if (costs_.has_device) soonest = std::min(soonest, costs_.link + device(rank));
    }
    const int reads = count() - reads_;
    return reads == 0 ? 0 : clocks_.ssd + reads * costs_.ssd + soonest;
}

// The load, when the computing that waits for no read can be done, and the tails of what does. Written without branches
// on who computes what, which no processor foresees: it is what a search spends its time on.
Finish RankedWork::measure(const Sides& sides) {
    const char* const on_cpu = sides.on_cpu.data();
    Load load;
    for (int rank = 0; rank < reads_; ++rank) {
        load.cpu += on_cpu[rank] ? cpu_[at(rank)] : 0;
        load.device += on_cpu[rank] ? 0 : device_[at(rank)];
        load.on_cpu += on_cpu[rank];
    }
    const bool cpu_begins_with_a_read = load.on_cpu == 0;
    double arriving = 0;
    std::size_t reads = 0;
    for (int rank = count(); rank-- > reads_;) {
        arriving += on_cpu[rank] ? cpu_[at(rank)] : 0;
        cpu_tails_[reads + 1] = {arriving, rank};
        reads += static_cast<std::size_t>(on_cpu[rank]);
    }
    cpu_reads_ = reads;
    if (cpu_begins_with_a_read && reads > 0) cpu_tails_[reads].after += costs_.cpu_start;
    load.cpu += arriving;
    load.on_cpu += static_cast<int>(reads);
    load.on_device = count() - load.on_cpu;

    // From the begin of a transfer until all is done: it, and then what is longer, computing everything sent from here
    // on, or the next transfer and what follows from that.
    double sent = 0, tail = 0, sent_reads = 0;
    reads = 0;
    for (std::size_t i = sides.link.size(); i-- > 0;) {
        const int rank = sides.link[i];
        const bool is_sent = !on_cpu[rank], is_read = rank >= reads_;
        const double computing = is_sent ? device_[at(rank)] : 0;
        sent += computing;
        sent_reads += is_read ? computing : 0;
        tail = is_sent ? costs_.link + std::max(sent, tail) : tail;
        device_tails_[reads + 1] = {tail, rank};
        reads += static_cast<std::size_t>(is_sent && is_read);
        load.sent += is_sent;
    }
    device_reads_ = reads;
    load.device += sent_reads;

    Finish finish{load, 0, 0};
    if (load.on_cpu > 0) finish.cpu = clocks_.cpu + costs_.cpu_start + load.cpu;
    if (load.on_device > 0) finish.device = clocks_.device + load.device;
    if (load.sent > 0) finish.device = std::max(finish.device, clocks_.link + tail);
    return finish;
}

// Longest tail first: of all orders of equally long reads it is the one in which the latest of their ends with their
// tails is earliest. On each side the tails are by rank, as they are sums over what follows.
template <class Read>
void RankedWork::each_read(const Read& read) const {
    const Tail* cpu = cpu_tails_.data() + cpu_reads_;
    const Tail* device = device_tails_.data() + device_reads_;
    for (std::size_t left = cpu_reads_ + device_reads_; left > 0; --left) {
        const bool for_cpu = cpu->after > device->after;
        read(for_cpu ? *cpu : *device, for_cpu);
        cpu -= for_cpu;
        device -= !for_cpu;
    }
}

Finish RankedWork::finish(const Sides& sides) {
    Finish finish = measure(sides);
    double ends[2] = {finish.device, finish.cpu}, now = clocks_.ssd;
    each_read([&](const Tail& tail, bool for_cpu) {
        now += costs_.ssd;
        ends[for_cpu] = std::max(ends[for_cpu], now + tail.after);
    });
    finish.device = ends[0];
    finish.cpu = ends[1];
    return finish;
}

void RankedWork::orders(const Sides& sides, LaneOrders& orders) {
    for (std::vector<int>* order : {&orders.ssd, &orders.link, &orders.cpu, &orders.device}) order->clear();
    measure(sides);
    each_read([&](const Tail& tail, bool) { orders.ssd.push_back(item(tail.rank)); });
    // The CPU begins with what the device lacks, fewest rows first, and then helps it out; the device begins with what
    // it has, most rows first. What arrives comes last, as it arrives.
    const auto give = [&](std::vector<int>& order, int rank, bool to_cpu) {
        if (static_cast<bool>(sides.on_cpu[at(rank)]) == to_cpu) order.push_back(item(rank));
    };
    const auto fewest_first = [&](int first, int last) {
        while (last > first) {
            int alike_from = last - 1;
            while (alike_from > first && alike(alike_from - 1, alike_from)) --alike_from;
            for (int rank = alike_from; rank < last; ++rank) give(orders.cpu, rank, true);
            last = alike_from;
        }
    };
    fewest_first(hosts_, reads_);
    fewest_first(0, hosts_);
    for (int rank = reads_; rank < count(); ++rank) give(orders.cpu, rank, true);
    for (int rank = 0; rank < hosts_; ++rank) give(orders.device, rank, false);
    for (const int rank : sides.link) {
        give(orders.link, rank, false);
        give(orders.device, rank, false);
    }
}

void RankedWork::change(Load& load, int rank, bool to_cpu) const {
    const int one = to_cpu ? 1 : -1;
    load.cpu += one * cpu(rank);
    load.device -= one * device(rank);
    load.on_cpu += one;
    load.on_device -= one;
    load.sent -= rank >= hosts_ ? one : 0;
}

double RankedWork::least(const Load& load) const {
    double least = 0;
    if (load.on_cpu > 0) least = clocks_.cpu + costs_.cpu_start + load.cpu;
    if (load.on_device > 0) least = std::max(least, clocks_.device + load.device);
    if (load.sent > 0) least = std::max(least, clocks_.link + load.sent * costs_.link);
    return least;
}

}  // namespace moestro::policy
