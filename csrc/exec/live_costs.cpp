#include "exec/live_costs.h"

#include <algorithm>

namespace moestro::exec {

namespace {

constexpr double kNew = 1.0 / 32;  // weight of the latest in a moving average

void blend(double& average, double latest) {
    average += kNew * (latest - average);
}

}  // namespace

LiveCosts::LiveCosts(const policy::LaneCosts& measured, std::size_t record_bytes)
    : measured_(measured), record_bytes_(record_bytes) {
    if (measured.ssd <= 0 || record_bytes == 0) return;
    ns_per_byte_ = measured.ssd / static_cast<double>(record_bytes);
    read_any_ = true;
}

void LiveCosts::computed(int experts, std::int64_t rows, Nanos took) {
    if (took <= 0 || experts == 0) return;
    const double time = static_cast<double>(took);
    if (measured_.cpu.fixed <= 0 && measured_.cpu.per_unit <= 0) measured_.cpu.fixed = time / experts;
    const double said = experts * measured_.cpu.fixed + static_cast<double>(rows) * measured_.cpu.per_unit;
    blend(cpu_factor_, time / said);
}

void LiveCosts::read(std::size_t bytes, Nanos took) {
    if (bytes == 0 || took < 0) return;
    const double latest = static_cast<double>(took) / static_cast<double>(bytes);
    if (!read_any_) ns_per_byte_ = latest;
    read_any_ = true;
    blend(ns_per_byte_, latest);
}

void LiveCosts::layer(Nanos took, Nanos demand) {
    if (took <= 0) return;
    if (layer_ns_ == 0) layer_ns_ = static_cast<double>(took);
    blend(layer_ns_, static_cast<double>(took));
    blend(demand_share_, std::min(1.0, static_cast<double>(demand) / static_cast<double>(took)));
}

policy::LaneCosts LiveCosts::of(std::size_t record_bytes) const {
    policy::LaneCosts now = measured_;
    now.cpu.fixed *= cpu_factor_;
    now.cpu.per_unit *= cpu_factor_;
    now.ssd = read_ns(record_bytes);
    return now;
}

}  // namespace moestro::exec
