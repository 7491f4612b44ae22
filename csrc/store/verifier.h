// Checksums on a thread of their own: records are verified beside whoever computes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace moestro::store {

// push, poll and wait: one thread. The bytes belong to the verifier until their sum was returned.
class Verifier {
  public:
    struct Sum {
        std::size_t tag = 0;  // the caller's own
        std::uint64_t sum = 0;
    };

    Verifier();
    ~Verifier();  // finishes the record it is at, and drops the others
    Verifier(const Verifier&) = delete;
    Verifier& operator=(const Verifier&) = delete;

    void push(std::size_t tag, std::span<const std::byte> bytes);
    // Appends what is done; wait() blocks until something is. REQUIRES in_flight() > 0.
    void poll(std::vector<Sum>& out);
    void wait(std::vector<Sum>& out);
    std::size_t in_flight() const { return in_flight_; }  // pushed and not yet returned

  private:
    struct Task {
        std::size_t tag;
        std::span<const std::byte> bytes;
    };
    void serve();
    void take(std::vector<Sum>& out);

    std::size_t in_flight_ = 0;  // the caller's thread

    std::mutex mutex_;  // guards what follows
    std::condition_variable work_, done_;
    std::deque<Task> tasks_;
    std::vector<Sum> sums_;
    bool stopping_ = false;

    std::thread thread_;  // last: it uses all of the above
};

}  // namespace moestro::store
