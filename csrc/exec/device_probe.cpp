#include "exec/device_probe.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

namespace moestro::exec {

namespace {

constexpr int kTimes = 5;            // the median counts
constexpr int kFew = 1, kMany = 32;  // rows that the line goes through

template <class Body>
double median_of(const Clock& clock, const Body& body) {
    body();  // the first is slower: what is loaded and grown
    std::array<double, kTimes> took;
    for (double& one : took) {
        const Nanos begin = clock.now();
        body();
        one = static_cast<double>(clock.now() - begin);
    }
    std::nth_element(took.begin(), took.begin() + kTimes / 2, took.end());
    return took[kTimes / 2];
}

kernels::Matrix matrix(const store::Part& part, const std::byte* record) {
    return {.data = record + part.offset, .spec = part.spec, .bias = nullptr};
}

}  // namespace

policy::LaneCosts with_device(policy::LaneCosts costs, device::Device& device, const store::ExpertLayer& layer,
                              std::size_t record_bytes, const Clock& clock) {
    const auto hidden = static_cast<std::size_t>(layer.gate.spec.cols);
    const device::Buffer host = device.allocate_host(record_bytes), record = device.allocate(record_bytes);
    const device::Buffer rows = device.allocate(2 * kMany * hidden * sizeof(float));
    std::memset(host.data(), 0, host.size());  // numbers, in every format
    const auto stream = device.make_stream();
    for (std::size_t at = 0; at < rows.size(); at += host.size())
        stream->copy(rows.data() + at, host.data(), std::min(host.size(), rows.size() - at), 0).wait();
    costs.link = median_of(clock, [&] { stream->copy(record.data(), host.data(), record_bytes, 0).wait(); });

    auto* const x = reinterpret_cast<float*>(rows.data());
    const auto time = [&](int count) {
        std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
        std::iota(ids.begin(), ids.end(), 0);
        const kernels::ExpertJob job{{matrix(layer.gate, record.data()), matrix(layer.up, record.data()),
                                      matrix(layer.down, record.data()), layer.kind},
                                     ids,
                                     x + kMany * hidden};
        const bool integer = quant::is_integer(layer.gate.spec.format) || quant::is_integer(layer.up.spec.format);
        return median_of(clock, [&] {
            stream->experts({{&job, 1}, x, count, static_cast<int>(hidden), integer}, 0).wait();
        });
    };
    const double few = time(kFew), many = time(kMany);
    costs.device.per_unit = std::max(0.0, (many - few) / (kMany - kFew));
    costs.device.fixed = std::max(0.0, few - kFew * costs.device.per_unit);
    costs.has_device = true;
    return costs;
}

}  // namespace moestro::exec
