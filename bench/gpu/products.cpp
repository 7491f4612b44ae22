#include "products.h"

#include <cstring>
#include <numeric>

#include "base/types.h"
#include "random_data.h"

namespace moestro::bench {

namespace {

using namespace kernels;
using quant::Format, quant::MatrixSpec, quant::ScaleType;

constexpr int kDistinct = 2;  // records with values of their own; the others are copies at other addresses
constexpr int kMostRecords = 64;
constexpr double kTera = 1e12, kGiga = 1e9;
constexpr int kFewest = 8;  // launches that are recorded together

MatrixSpec spec_of(int rows, int cols, Format format) {
    return {rows, cols, format, quant::is_integer(format) ? ScaleType::f16 : ScaleType::none};
}

// Matrices that lie one after the other, many times over.
class Records {
  public:
    // At least `least` records, and so many that they take `megabytes`.
    Records(std::vector<MatrixSpec> parts, int least, std::size_t megabytes) : parts_(std::move(parts)) {
        for (const MatrixSpec& part : parts_) bytes_ += part.bytes();
        const auto wanted = static_cast<int>(ceil_div(megabytes << 20, bytes_));
        count_ = static_cast<int>(round_up(std::max(wanted, least), least));
        if (free_memory() < (bytes_ + 1) * static_cast<std::size_t>(count_)) {
            missing_ = "its weights do not fit into device memory";
            return;
        }
        device_ = OnDevice<std::byte>(bytes_ * static_cast<std::size_t>(count_));
        for (int i = 0; i < kDistinct; ++i) {
            host_.push_back(aligned_bytes(bytes_));
            std::byte* to = host_.back().get();
            for (const MatrixSpec& part : parts_) {
                fill_matrix(part, to, static_cast<std::uint64_t>(1000 + i * 10 + (&part - parts_.data())));
                to += part.bytes();
            }
        }
        for (int i = 0; i < count_; ++i) {
            const std::byte* const from = i < kDistinct ? host_[static_cast<std::size_t>(i)].get() : at(i % kDistinct);
            check(cudaMemcpy(at(i), from, bytes_, cudaMemcpyDefault), "bring weights");
        }
        settle();
    }

    const std::string& missing() const { return missing_; }  // why there are none
    int count() const { return count_; }
    std::size_t bytes() const { return bytes_; }  // of one
    double weights() const {
        double sum = 0;
        for (const MatrixSpec& part : parts_) sum += double{1} * part.rows * part.cols;
        return sum;
    }
    Matrix on_device(int record, int part) const { return matrix(at(record), part); }
    Matrix on_host(int record, int part) const {
        return matrix(host_[static_cast<std::size_t>(record % kDistinct)].get(), part);
    }

  private:
    std::byte* at(int record) const { return device_.data() + bytes_ * static_cast<std::size_t>(record); }
    Matrix matrix(const std::byte* record, int part) const {
        for (int i = 0; i < part; ++i) record += parts_[static_cast<std::size_t>(i)].bytes();
        return {record, parts_[static_cast<std::size_t>(part)], nullptr};
    }

    std::vector<MatrixSpec> parts_;
    std::size_t bytes_ = 0;
    int count_ = 0;
    std::string missing_;
    OnDevice<std::byte> device_;
    std::vector<AlignedBytes> host_;
};

struct DeviceCodes {
    DeviceCodes(int rows, int cols)
        : groups(static_cast<std::size_t>(rows) * static_cast<std::size_t>((cols + 31) / 32)),
          codes(groups * 32),
          scales(groups),
          sums(groups) {}
    cuda::Codes get() const { return {codes.data(), scales.data(), sums.data()}; }

    std::size_t groups;
    OnDevice<std::int8_t> codes;
    OnDevice<float> scales;
    OnDevice<std::int32_t> sums;
};

// Rows of activations, here and there, quantised there.
struct Inputs {
    Inputs(const Setting& setting, int rows, int cols)
        : host(random_floats(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols), 7)),
          x(host),
          codes(rows, cols),
          fault(zeros<std::uint32_t>(1)),
          launch{x.data(), codes.get(), cols} {
        check(cuda::quantise(x.data(), rows, cols, codes.get(), fault.data(), setting.stream.get()), "quantise");
        setting.stream.wait();
        prepared.prepare(setting.compute, host.data(), rows, cols, true);
    }

    std::vector<float> host;
    OnDevice<float> x;
    DeviceCodes codes;
    OnDevice<std::uint32_t> fault;
    cuda::LinearInputs launch;
    Activations prepared;
};

void expect_same(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& name) {
    if (std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(float)) != 0)
        throw std::runtime_error(name + ": the device's result is not the processor's, bit for bit");
}
std::vector<float> from_device(const float* data, std::size_t count) {
    std::vector<float> values(count);
    check(cudaMemcpy(values.data(), data, count * sizeof(float), cudaMemcpyDefault), "read a result");
    return values;
}

// A launch of `counts.size()` experts, of which number i computes counts[i] of `tokens` rows.
class ExpertsRun {
  public:
    ExpertsRun(const Setting& setting, const Records& records, const ExpertShape& shape, std::vector<int> counts,
               int tokens)
        : setting_(setting),
          records_(records),
          shape_(shape),
          counts_(std::move(counts)),
          inputs_(setting, tokens, shape.hidden),
          pairs_(std::accumulate(counts_.begin(), counts_.end(), 0)),
          gate_(floats(shape.width)),
          up_(floats(shape.width)),
          y_(floats(shape.hidden)),
          hidden_(pairs_, shape.width),
          marks_(zeros<std::uint32_t>(counts_.size() + 1)) {
        for (const int count : counts_)
            for (int i = 0; i < count; ++i)  // spread over the tokens, ascending
                ids_.push_back(static_cast<std::int32_t>(std::int64_t{i} * tokens / count));
    }

    int pairs() const { return pairs_; }
    // Records [first, first + count) of all.
    void launch(int first) {
        std::vector<cuda::ExpertItem> items;
        std::int32_t row = 0;
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            const int record = first + static_cast<int>(i);
            items.push_back({records_.on_device(record, 0), records_.on_device(record, 1),
                             records_.on_device(record, 2), GateKind::silu, row, counts_[i], output(row)});
            row += counts_[i];
        }
        cuda::ExpertsLaunch launch;
        launch.items = items.data();
        launch.count = static_cast<int>(items.size());
        launch.row_ids = ids_.data();
        launch.pairs = pairs_;
        launch.inputs = inputs_.launch;
        launch.intermediate = shape_.width;
        launch.gate = gate_.data();
        launch.up = up_.data();
        launch.hidden = hidden_.get();
        launch.marks = marks_.data();
        launch.fault = inputs_.fault.data();
        check(cuda::experts(launch, courier_, setting_.stream.get()), "launch experts");
    }
    // The first expert and the last one, against the processor's.
    void verify(const std::string& name) {
        launch(0);
        setting_.stream.wait();
        courier_.clear();
        std::int32_t row = 0;
        for (std::size_t i = 0; i < counts_.size(); row += counts_[i], ++i)
            if (i == 0 || i + 1 == counts_.size()) verify_one(static_cast<int>(i), row, name);
        if (inputs_.fault.read()[0] != 0) throw std::runtime_error(name + ": the kernel left a fault");
    }
    double seconds() {
        const int count = static_cast<int>(counts_.size()), sets = records_.count() / count;
        const double found = seconds_per_round(setting_.stream, std::max(sets, kFewest),
                                               [&](int round) { launch(round % sets * count); });
        courier_.clear();
        return found;
    }

  private:
    std::size_t floats(int cols) const { return static_cast<std::size_t>(pairs_) * static_cast<std::size_t>(cols); }
    float* output(std::int32_t row) const { return y_.data() + std::int64_t{row} * shape_.hidden; }
    void verify_one(int expert, std::int32_t row, const std::string& name) {
        const auto count = static_cast<std::size_t>(counts_[static_cast<std::size_t>(expert)]);
        std::vector<float> expected(count * static_cast<std::size_t>(shape_.hidden));
        const Mlp mlp{records_.on_host(expert, 0), records_.on_host(expert, 1), records_.on_host(expert, 2)};
        const ExpertJob job{mlp, {ids_.data() + row, count}, expected.data()};
        MlpScratch scratch;
        kernels::experts(setting_.compute, inputs_.prepared, {&job, 1}, scratch);
        expect_same(from_device(output(row), expected.size()), expected, name);
    }

    const Setting& setting_;
    const Records& records_;
    ExpertShape shape_;
    std::vector<int> counts_;
    Inputs inputs_;
    int pairs_;
    OnDevice<float> gate_, up_, y_;
    DeviceCodes hidden_;
    OnDevice<std::uint32_t> marks_;
    std::vector<std::int32_t> ids_;
    Courier courier_;
};

std::string name_of(const ExpertShape& shape, Format format) {
    return std::to_string(shape.hidden) + " x " + std::to_string(shape.width) + " " + std::string(quant::name(format));
}
std::string number_of(int count, const char* what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}
Records expert_records(const Setting& setting, const ExpertShape& shape, Format format) {
    const MatrixSpec in = spec_of(shape.width, shape.hidden, format);
    return Records({in, in, spec_of(shape.hidden, shape.width, format)}, kMostRecords, setting.megabytes);
}

Results::Figures streaming(const Setting& setting, double seconds, double bytes) {
    return {{"us", seconds * 1e6},
            {"gb_per_s", bytes / seconds / kGiga},
            {"share_of_read", bytes / seconds / setting.limits.read}};
}
Results::Figures multiplying(const Setting& setting, double seconds, double operations, Format format) {
    Results::Figures figures{{"us", seconds * 1e6}, {"tops", operations / seconds / kTera}};
    if (!quant::is_integer(format)) return figures;
    figures.emplace_back("share_of_mixed", operations / seconds / setting.limits.mixed);
    if (setting.limits.datasheet > 0)
        figures.emplace_back("share_of_datasheet", operations / seconds / setting.limits.datasheet);
    return figures;
}

// How many rows each of 64 experts has where `tokens` choose 8 each: from a few to four times the mean.
std::vector<int> uneven(int tokens) {
    constexpr int kExperts = 64, kChosen = 8;
    std::vector<double> shares;
    for (int i = 0; i < kExperts; ++i) shares.push_back(1.0 / (1 + 7.0 * ((i * 37) % kExperts) / kExperts));
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    std::vector<int> counts;
    for (const double share : shares)
        counts.push_back(std::clamp(static_cast<int>(share / sum * tokens * kChosen + 0.5), 1, tokens));
    return counts;
}

// One matrix over the first rows of its inputs.
class LinearRun {
  public:
    LinearRun(const Setting& setting, const Records& records, int rows, int cols, int inputs)
        : setting_(setting),
          records_(records),
          rows_(rows),
          count_(inputs),
          inputs_(setting, inputs, cols),
          y_(static_cast<std::size_t>(inputs) * static_cast<std::size_t>(rows)) {}

    void launch(int record) {
        const cuda::LinearItem item{records_.on_device(record, 0), nullptr, 0, count_, y_.data(), rows_};
        check(cuda::linear(inputs_.launch, &item, 1, courier_, setting_.stream.get()), "launch a linear");
    }
    void verify(const std::string& name) {
        launch(0);
        setting_.stream.wait();
        courier_.clear();
        std::vector<float> expected(y_.size());
        const LinearJob job{records_.on_host(0, 0), expected.data(), rows_};
        kernels::linear(setting_.compute, inputs_.prepared, {&job, 1});
        expect_same(from_device(y_.data(), y_.size()), expected, name);
    }
    double seconds() {
        const double found = seconds_per_round(setting_.stream, std::max(records_.count(), kFewest),
                                               [&](int round) { launch(round % records_.count()); });
        courier_.clear();
        return found;
    }

  private:
    const Setting& setting_;
    const Records& records_;
    int rows_, count_;
    Inputs inputs_;
    OnDevice<float> y_;
    Courier courier_;
};

}  // namespace

void measure_decode(const Setting& setting, const ExpertShape& shape, Format format) {
    const Records records = expert_records(setting, shape, format);
    if (!records.missing().empty())
        return setting.results.skip("decode", "experts " + name_of(shape, format), records.missing());
    for (const int count : {8, 16, 64})
        for (const int rows : {1, 2, 4, 8}) {
            const std::string name =
                "experts " + name_of(shape, format) + ", " + number_of(count, "record") + ", " + number_of(rows, "row");
            ExpertsRun run(setting, records, shape, std::vector<int>(static_cast<std::size_t>(count), rows), rows);
            if (count == 8) run.verify(name);
            const double bytes = static_cast<double>(records.bytes()) * count;
            setting.results.add("decode", name, streaming(setting, run.seconds(), bytes));
        }
}

void measure_grouped_prefill(const Setting& setting, const ExpertShape& shape, Format format) {
    const Records records = expert_records(setting, shape, format);
    if (!records.missing().empty())
        return setting.results.skip("prefill", "64 experts " + name_of(shape, format), records.missing());
    for (const int tokens : {128, 512, 2048}) {
        const std::string name = "64 experts " + name_of(shape, format) + ", " + number_of(tokens, "token");
        ExpertsRun run(setting, records, shape, uneven(tokens), tokens);
        if (tokens == 128) run.verify(name);
        const double operations = 2 * records.weights() * run.pairs();
        setting.results.add("prefill", name, multiplying(setting, run.seconds(), operations, format));
    }
}

void measure_linear(const Setting& setting, int rows, int cols, Format format, const std::vector<int>& inputs) {
    const std::string matrix =
        "linear " + std::to_string(rows) + " x " + std::to_string(cols) + " " + std::string(quant::name(format));
    const Records records({spec_of(rows, cols, format)}, 1, setting.megabytes);
    if (!records.missing().empty()) return setting.results.skip("linear", matrix, records.missing());
    for (const int count : inputs) {
        const std::string name = matrix + ", " + number_of(count, "row");
        LinearRun run(setting, records, rows, cols, count);
        if (count == inputs.front()) run.verify(name);
        const double seconds = run.seconds(), operations = 2 * records.weights() * count;
        const bool few = count <= 8;
        setting.results.add(few ? "decode" : "prefill", name,
                            few ? streaming(setting, seconds, static_cast<double>(records.bytes()))
                                : multiplying(setting, seconds, operations, format));
    }
}

}  // namespace moestro::bench
