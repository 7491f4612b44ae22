#include "attention.h"

#include <cstring>

#include "base/types.h"
#include "random_data.h"

namespace moestro::bench {

namespace {

using namespace kernels;

constexpr int kHeads = 32;
const KvLayout kLayout{KvType::bf16, 8, 128, 128, false};

// KV of some sequences of one length, all of the same values at places of their own.
class Sequences {
  public:
    Sequences(int context, int count)
        : blocks_(static_cast<std::size_t>(context / kKvBlock)),
          bytes_(blocks_ * kLayout.block_bytes()),
          host_(aligned_bytes(bytes_)),
          device_(bytes_ * static_cast<std::size_t>(count)) {
        fill_bf16(host_.get(), bytes_, 3);
        for (int i = 0; i < count; ++i)
            check(cudaMemcpy(start(i), i == 0 ? host_.get() : start(0), bytes_, cudaMemcpyDefault), "bring the KV");
        settle();
    }
    std::size_t bytes() const { return bytes_; }  // of one sequence
    std::size_t blocks() const { return blocks_; }
    std::vector<const std::byte*> table(int sequence) const { return table_of(start(sequence)); }
    std::vector<const std::byte*> host_table() const { return table_of(host_.get()); }

  private:
    std::byte* start(int sequence) const { return device_.data() + bytes_ * static_cast<std::size_t>(sequence); }
    std::vector<const std::byte*> table_of(const std::byte* begin) const {
        std::vector<const std::byte*> table;
        for (std::size_t block = 0; block < blocks_; ++block) table.push_back(begin + block * kLayout.block_bytes());
        return table;
    }

    std::size_t blocks_, bytes_;
    AlignedBytes host_;
    OnDevice<std::byte> device_;
};

// Launches of `rows` rows, one of each of so many sequences in a row.
class AttentionRun {
  public:
    AttentionRun(const Setting& setting, int context, int rows, int sequences)
        : setting_(setting),
          rows_(rows),
          context_(context),
          sequences_(context, sequences),
          queries_(random_floats(static_cast<std::size_t>(rows * kHeads * kLayout.key_dim), 5)),
          q_(queries_),
          y_(static_cast<std::size_t>(rows * kHeads * kLayout.value_dim)),
          positions_(std::vector<std::int64_t>(static_cast<std::size_t>(rows), context - 1)),
          segments_(ceil_div(context, kKvSegment)),
          states_(cuda::attention_floats(kLayout, kHeads, rows, segments_)) {
        std::vector<const std::byte*> tables;
        for (int i = 0; i < sequences; ++i)
            for (const std::byte* block : sequences_.table(i)) tables.push_back(block);
        tables_ = OnDevice<const std::byte*>(tables);
        std::vector<std::int64_t> begins;
        for (int row = 0; row < rows; ++row) begins.push_back(row * static_cast<std::int64_t>(sequences_.blocks()));
        begins_ = OnDevice<std::int64_t>(begins);
    }

    double bytes() const { return static_cast<double>(sequences_.bytes()) * rows_; }
    void launch(int first) {
        cuda::AttentionLaunch launch;
        launch.job = job(q_.data(), positions_.data(), begins_.data(), y_.data());
        launch.job.rows = rows_;
        launch.job.block_tables = tables_.data() + static_cast<std::size_t>(first) * sequences_.blocks();
        launch.most_segments = segments_;
        launch.states = states_.data();
        launch.state_floats = cuda::attention_floats(kLayout, kHeads, rows_, segments_);
        check(cuda::attention(launch, setting_.stream.get()), "launch attention");
    }
    // The first row against the processor's.
    void verify(const std::string& name) {
        launch(0);
        setting_.stream.wait();
        const std::vector<const std::byte*> table = sequences_.host_table();
        const std::int64_t position = context_ - 1, begin = 0;
        std::vector<float> expected(static_cast<std::size_t>(kHeads * kLayout.value_dim)), actual = y_.read();
        AttentionJob here = job(queries_.data(), &position, &begin, expected.data());
        here.rows = 1;
        here.block_tables = table.data();
        kernels::attention(setting_.compute, here);
        if (std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(float)) != 0)
            throw std::runtime_error(name + ": the device's result is not the processor's, bit for bit");
    }
    double seconds(int rounds, int sets) {
        return seconds_per_round(setting_.stream, rounds, [&](int round) { launch(round % sets * rows_); });
    }

  private:
    AttentionJob job(const float* q, const std::int64_t* positions, const std::int64_t* begins, float* y) const {
        AttentionJob made;
        made.layout = kLayout;
        made.heads = kHeads;
        made.scale = 0.08838835f;
        made.q = q;
        made.positions = positions;
        made.table_begin = begins;
        made.y = y;
        return made;
    }

    const Setting& setting_;
    int rows_, context_;
    Sequences sequences_;
    std::vector<float> queries_;
    OnDevice<float> q_, y_;
    OnDevice<std::int64_t> positions_;
    std::int64_t segments_;
    OnDevice<float> states_;
    OnDevice<const std::byte*> tables_;
    OnDevice<std::int64_t> begins_;
};

}  // namespace

void measure_attention(const Setting& setting, int context, int rows) {
    const std::string name = "attention, " + std::to_string(context) + " positions, " + std::to_string(rows) +
                             (rows == 1 ? " sequence" : " sequences");
    const std::size_t each = static_cast<std::size_t>(context / kKvBlock) * kLayout.block_bytes();
    const int sets = static_cast<int>(
        std::max<std::size_t>(1, ceil_div(setting.megabytes << 20, each * static_cast<std::size_t>(rows))));
    if (free_memory() < each * static_cast<std::size_t>(sets * rows) + (std::size_t{256} << 20))
        return setting.results.skip("attention", name, "its KV does not fit into device memory");
    AttentionRun run(setting, context, rows, sets * rows);
    run.verify(name);
    const double seconds = run.seconds(std::max(sets, 8), sets);
    setting.results.add("attention", name,
                        {{"us", seconds * 1e6},
                         {"gb_per_s", run.bytes() / seconds / 1e9},
                         {"share_of_read", run.bytes() / seconds / setting.limits.read}});
}

}  // namespace moestro::bench
