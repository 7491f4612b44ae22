// What was measured: a JSON line on stdout, and a line of a table on stderr.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moestro::bench {

// What the other figures are held against.
struct Limits {
    double read = 0;       // bytes per second, of a kernel that only reads
    double int8 = 0;       // operations per second: tensor cores alone,
    double mixed = 0;      // and with the float arithmetic that every group of 32 takes
    double datasheet = 0;  // 0: not given
};

class Results {
  public:
    // Figures by name, in order; names end in their unit.
    using Figures = std::vector<std::pair<std::string, double>>;
    void add(std::string_view kind, std::string_view name, const Figures& figures) const;
    void skip(std::string_view kind, std::string_view name, std::string_view why) const;
    void about(const std::string& device, int major, int minor, int multiprocessors) const;
};

}  // namespace moestro::bench
