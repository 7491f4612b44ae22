#include "policy/first_finish.h"

#include <limits>

namespace moestro::policy {

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

void FirstFinish::run(const RankedWork& work, Sides& sides) {
    work_ = &work;
    clocks_ = work.clocks();
    cpu_started_ = false;
    resident_ = 0;
    last_resident_ = work.hosts() - 1;
    host_ = work.hosts();
    last_host_ = work.reads() - 1;
    read_ = taken_ = work.reads();
    sent_.clear();
    computed_ = 0;
    std::fill(sides.on_cpu.begin(), sides.on_cpu.end(), 0);
    for (int left = work.count(); left > 0;) {
        skip(sides);
        const Step device = on_device(), cpu = on_cpu(), link = on_link(), ssd = on_ssd();
        const double first = std::min(std::min(device.end, cpu.end), std::min(link.end, ssd.end));
        if (device.end == first) {
            if (device.rank < work.hosts())
                ++resident_;
            else
                ++computed_;
            clocks_.device = first;
            --left;
        } else if (cpu.end == first) {
            sides.on_cpu[static_cast<std::size_t>(cpu.rank)] = 1;
            if (cpu.rank >= work.reads())
                ++taken_;
            else
                --(cpu.rank >= work.hosts() ? last_host_ : last_resident_);
            clocks_.cpu = first;
            cpu_started_ = true;
            --left;
        } else if (link.end == first) {
            ++(link.rank >= work.reads() ? taken_ : host_);
            clocks_.link = first;
            sent_.emplace_back(link.rank, first);
        } else {
            ++read_;
            clocks_.ssd = first;
        }
    }
}

// The device passes by what the CPU took, and the CPU what only the device has.
void FirstFinish::skip(const Sides& sides) {
    while (resident_ < work_->hosts() && sides.on_cpu[static_cast<std::size_t>(resident_)]) ++resident_;
    while (last_resident_ >= resident_ && work_->bound(last_resident_)) --last_resident_;
}

FirstFinish::Step FirstFinish::on_device() const {
    if (resident_ < work_->hosts()) return {clocks_.device + work_->device(resident_), resident_};
    if (computed_ == sent_.size()) return {kNever, -1};
    const auto [rank, there] = sent_[computed_];
    return {std::max(clocks_.device, there) + work_->device(rank), rank};
}

FirstFinish::Step FirstFinish::on_cpu() const {
    const double free = clocks_.cpu + (cpu_started_ ? 0 : work_->costs().cpu_start);
    if (last_host_ >= host_) return {free + work_->cpu(last_host_), last_host_};
    Step found{kNever, -1};
    if (taken_ < read_) {
        // What is read starts late, and then from cold if it is the first.
        const double waited = std::max(0.0, read_end(taken_) - clocks_.cpu);
        found = {free + waited + work_->cpu(taken_), taken_};
    }
    if (last_resident_ >= resident_) {
        const double end = free + work_->cpu(last_resident_);
        if (end < found.end) found = {end, last_resident_};
    }
    return found;
}

FirstFinish::Step FirstFinish::on_link() const {
    if (host_ <= last_host_) return {clocks_.link + work_->costs().link, host_};
    if (taken_ == read_) return {kNever, -1};
    return {std::max(clocks_.link, read_end(taken_)) + work_->costs().link, taken_};
}

FirstFinish::Step FirstFinish::on_ssd() const {
    if (read_ == work_->count()) return {kNever, -1};
    return {clocks_.ssd + work_->costs().ssd, read_};
}

// Reads follow each other without a gap.
double FirstFinish::read_end(int rank) const {
    return work_->clocks().ssd + work_->costs().ssd * (rank - work_->reads() + 1);
}

}  // namespace moestro::policy
