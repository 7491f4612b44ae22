#include "peaks.h"

#include <algorithm>
#include <map>
#include <sstream>

#include "base/thread_pool.h"
#include "read_rates.h"
#include "unit_rates.h"

namespace moestro::bench {

namespace {

Peaks measure(int threads) {
    ThreadPool pool(threads);
    Peaks found;
    found.threads = threads;
    found.reads = measure_reads(pool);
    found.units = measure_units(pool);
    for (const ReadRate& read : found.reads)
        found.read_bytes_per_second = std::max(found.read_bytes_per_second, read.bytes_per_second);
    return found;
}

}  // namespace

const Peaks& peaks(int threads) {
    static std::map<int, Peaks> measured;
    const auto found = measured.find(threads);
    return found != measured.end() ? found->second : measured.emplace(threads, measure(threads)).first->second;
}

const UnitRate* unit_of(const Peaks& peaks, std::string_view isa, std::string_view type) {
    for (const UnitRate& unit : peaks.units)
        if (unit.isa == isa && unit.type == type) return &unit;
    return nullptr;
}

std::string to_json(const Peaks& peaks) {
    std::ostringstream text;
    text << "{\"threads\": " << peaks.threads << ", \"read_bytes_per_second\": " << peaks.read_bytes_per_second
         << ", \"reads\": [";
    const char* between = "";
    for (const ReadRate& read : peaks.reads) {
        text << between << "{\"streams\": " << read.streams << ", \"prefetch\": " << (read.prefetch ? "true" : "false")
             << ", \"bytes_per_second\": " << read.bytes_per_second << "}";
        between = ", ";
    }
    text << "], \"units\": [";
    between = "";
    for (const UnitRate& unit : peaks.units) {
        text << between << "{\"isa\": \"" << unit.isa << "\", \"type\": \"" << unit.type
             << "\", \"operations_per_second\": " << unit.operations_per_second << "}";
        between = ", ";
    }
    text << "]}";
    return text.str();
}

}  // namespace moestro::bench
