// What the benches need of CUDA: memory that frees itself, a courier, and times from CUDA's events.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"

namespace moestro::bench {

inline void check(int status, const char* what) {
    if (status == cudaSuccess) return;
    const auto error = static_cast<cudaError_t>(status);
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error));
}

// Copies and fills that were asked for without a stream are over when it returns; no stream waits for them by itself.
inline void settle() {
    check(cudaDeviceSynchronize(), "fill device memory");
}

struct FreeDevice {
    void operator()(void* data) const { cudaFree(data); }
};
// An array in the device's memory.
template <class T>
class OnDevice {
  public:
    OnDevice() = default;
    explicit OnDevice(std::size_t count) : count_(count) {
        void* data = nullptr;
        check(cudaMalloc(&data, std::max<std::size_t>(count, 1) * sizeof(T)), "allocate device memory");
        data_.reset(static_cast<T*>(data));
    }
    explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) { write(values); }

    T* data() const { return data_.get(); }
    std::size_t size() const { return count_; }
    void write(const std::vector<T>& values) const {
        check(cudaMemcpy(data(), values.data(), values.size() * sizeof(T), cudaMemcpyDefault), "copy to the device");
        settle();
    }
    std::vector<T> read() const {
        std::vector<T> values(count_);
        check(cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDefault), "copy from the device");
        return values;
    }

  private:
    std::unique_ptr<T, FreeDevice> data_;
    std::size_t count_ = 0;
};
template <class T>
OnDevice<T> zeros(std::size_t count) {
    OnDevice<T> made(count);
    check(cudaMemset(made.data(), 0, count * sizeof(T)), "clear device memory");
    settle();
    return made;
}

class Stream {
  public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }
    void wait() const { check(cudaStreamSynchronize(stream_), "run kernels"); }

  private:
    cudaStream_t stream_ = nullptr;
};

// Brings what it is given at once and keeps it until it is cleared: so a recorded launch can be repeated, and what is
// timed is kernels alone.
class Courier final : public kernels::cuda::Courier {
  public:
    const void* send(const void* data, std::size_t bytes, kernels::cuda::Stream stream) override;
    void clear() { kept_.clear(), used_ = 0; }

  private:
    Stream beside_;
    std::vector<OnDevice<std::byte>> kept_;
    std::size_t used_ = 0;  // of the last one
};

struct Device {
    std::string name;
    int major = 0, minor = 0, multiprocessors = 0;
    std::size_t free = 0;  // bytes, now
};
// Throws where there is none.
Device open_device();
std::size_t free_memory();

// Median seconds of body(), which puts work on the stream, over some repetitions after one to warm up.
template <class Body>
double seconds_of(const Stream& stream, const Body& body);
// The same per round: `rounds` calls of body(round) are recorded once and repeated without the host.
template <class Body>
double seconds_per_round(const Stream& stream, int rounds, const Body& body);

class Events {
  public:
    Events();
    ~Events();
    Events(const Events&) = delete;
    Events& operator=(const Events&) = delete;
    void begin(const Stream& stream) { check(cudaEventRecord(begun_, stream.get()), "record an event"); }
    double end(const Stream& stream);  // waits; seconds since begin()

  private:
    cudaEvent_t begun_ = nullptr, ended_ = nullptr;
};

inline constexpr int kSamples = 11;

template <class Body>
double seconds_of(const Stream& stream, const Body& body) {
    Events events;
    std::vector<double> samples;
    body();
    stream.wait();
    for (int i = 0; i < kSamples; ++i) {
        events.begin(stream);
        body();
        samples.push_back(events.end(stream));
    }
    std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
    return samples[kSamples / 2];
}

template <class Body>
double seconds_per_round(const Stream& stream, int rounds, const Body& body) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t recorded = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed), "record launches");
    for (int round = 0; round < rounds; ++round) body(round);
    check(cudaStreamEndCapture(stream.get(), &graph), "record launches");
    check(cudaGraphInstantiate(&recorded, graph, 0), "record launches");
    const double seconds =
        seconds_of(stream, [&] { check(cudaGraphLaunch(recorded, stream.get()), "repeat launches"); });
    cudaGraphExecDestroy(recorded);
    cudaGraphDestroy(graph);
    return seconds / rounds;
}

}  // namespace moestro::bench
