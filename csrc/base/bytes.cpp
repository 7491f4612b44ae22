#include "base/bytes.h"

#include <array>
#include <iomanip>
#include <sstream>

namespace moestro {

std::string bytes_text(std::size_t bytes) {
    constexpr std::array<const char*, 4> kUnits{"KiB", "MiB", "GiB", "TiB"};
    std::ostringstream out;
    if (bytes < 1024) {
        out << bytes << " bytes";
        return out.str();
    }
    double value = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
    out << std::fixed << std::setprecision(value < 10 ? 2 : value < 100 ? 1 : 0) << value << ' ' << kUnits[unit];
    return out.str();
}

}  // namespace moestro
