#include "device/cuda/experts.h"

#include <algorithm>
#include <vector>

#include "base/bytes.h"
#include "base/types.h"
#include "device/cuda/carver.h"
#include "device/cuda/errors.h"

namespace moestro::device::cuda {

namespace {

using kernels::ExpertJob;
using kernels::cuda::ExpertItem;

std::size_t floats_bytes(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(float);
}

// Some of the pairs of a launch, in its order.
struct Piece {
    std::vector<ExpertItem> items;
    std::vector<std::int32_t> rows;
};

std::vector<Piece> cut(std::span<const ExpertJob> jobs, std::size_t most_pairs, int hidden) {
    std::vector<Piece> pieces(1);
    for (const ExpertJob& job : jobs)
        for (std::size_t begin = 0, taken; begin < job.rows.size(); begin += taken) {
            if (pieces.back().rows.size() == most_pairs) pieces.emplace_back();
            Piece& piece = pieces.back();
            taken = std::min(job.rows.size() - begin, most_pairs - piece.rows.size());
            ExpertItem item{job.mlp.gate, job.mlp.up, job.mlp.down, job.mlp.kind};
            item.first = static_cast<std::int32_t>(piece.rows.size());
            item.count = static_cast<std::int32_t>(taken);
            item.y = job.y + begin * static_cast<std::size_t>(hidden);
            piece.items.push_back(item);
            const auto rows = job.rows.subspan(begin, taken);
            piece.rows.insert(piece.rows.end(), rows.begin(), rows.end());
        }
    return pieces;
}

}  // namespace

void Experts::run(const ExpertsLaunch& launch, std::uint32_t* fault) {
    std::size_t pairs = 0;
    bool integer_down = false;
    for (const ExpertJob& job : launch.jobs) {
        const kernels::Mlp& mlp = job.mlp;
        MOESTRO_CHECK(mlp.gate.spec.rows == launch.jobs[0].mlp.gate.spec.rows && mlp.gate.spec.cols == launch.hidden &&
                      mlp.up.spec.cols == launch.hidden && mlp.up.spec.rows == mlp.gate.spec.rows &&
                      mlp.down.spec.cols == mlp.gate.spec.rows && mlp.down.spec.rows == launch.hidden);
        pairs += job.rows.size();
        integer_down = integer_down || quant::is_integer(mlp.down.spec.format);
    }
    if (pairs == 0) return;
    const std::int64_t rows = launch.rows, hidden = launch.hidden, width = launch.jobs[0].mlp.gate.spec.rows;
    const std::int64_t groups = ceil_div(hidden, quant::kGroup), hidden_groups = ceil_div(width, quant::kGroup);
    // Host memory is read once.
    const bool copies_x = !world_.on_device(launch.x);
    const std::size_t x_bytes =
        (copies_x ? floats_bytes(rows * hidden) : 0) + (launch.integer ? Carver::codes_bytes(rows, groups) : 0);
    const std::size_t pair_bytes = 2 * floats_bytes(width) + (integer_down ? Carver::codes_bytes(1, hidden_groups) : 0);
    constexpr std::size_t kArrays = 9;  // each padded to begin on a multiple
    const std::size_t fixed = x_bytes + kArrays * Arena::kAlignment;
    make_scratch(fixed + pair_bytes, fixed + pairs * pair_bytes);
    const std::size_t most_pairs = std::min(pairs, (scratch_.size() - fixed) / pair_bytes);

    Carver carver(scratch_.data());
    kernels::cuda::ExpertsLaunch piece_launch;
    piece_launch.inputs = {launch.x, {}, launch.hidden};
    const auto check_launch = [](int status) { check(static_cast<cudaError_t>(status), "compute experts"); };
    piece_launch.fault = fault;
    if (copies_x) {
        auto* const x = carver.take<float>(rows * hidden);
        check(cudaMemcpyAsync(x, launch.x, floats_bytes(rows * hidden), cudaMemcpyDefault, stream_), "copy rows");
        piece_launch.inputs.x = x;
    }
    if (launch.integer) {
        piece_launch.inputs.codes = carver.codes(rows, groups);
        check_launch(kernels::cuda::quantise(piece_launch.inputs.x, launch.rows, launch.hidden,
                                             piece_launch.inputs.codes, piece_launch.fault, stream_));
    }
    const auto at_once = static_cast<std::int64_t>(most_pairs);
    piece_launch.gate = carver.take<float>(at_once * width);
    piece_launch.up = carver.take<float>(at_once * width);
    if (integer_down) piece_launch.hidden = carver.codes(at_once, hidden_groups);
    piece_launch.intermediate = static_cast<int>(width);
    piece_launch.marks = marks(launch.jobs.size() + 1);
    for (const Piece& piece : cut(launch.jobs, most_pairs, launch.hidden)) {
        piece_launch.items = piece.items.data();
        piece_launch.count = static_cast<int>(piece.items.size());
        piece_launch.row_ids = piece.rows.data();
        piece_launch.pairs = static_cast<int>(piece.rows.size());
        check_launch(kernels::cuda::experts(piece_launch, courier_, stream_));
    }
}

// At most half of what there is for all streams.
void Experts::make_scratch(std::size_t least, std::size_t wanted) {
    wanted = std::max(least, std::min(wanted, world_.work.size() / 2));
    if (scratch_.size() >= least && (scratch_.size() >= wanted || tried_ >= wanted)) return;
    tried_ = wanted;
    check(cudaStreamSynchronize(stream_), "finish a stream's work");  // what is under way has the one before
    scratch_ = {};
    for (std::size_t size = wanted; !scratch_.data(); size = std::max(least, size / 2)) {
        scratch_ = world_.allocate_work(size);
        if (size == least) break;
    }
    require(scratch_.data(), ErrorKind::budget, world_.name, " has no ", bytes_text(least),
            " for one row of experts: ", bytes_text(world_.work.largest_gap()), " of ", bytes_text(world_.work.size()),
            " are left for launches");
}

// Kernels leave them as they find them: 0.
std::uint32_t* Experts::marks(std::size_t count) {
    const std::size_t bytes = count * sizeof(std::uint32_t);
    if (marks_.size() < bytes) {
        check(cudaStreamSynchronize(stream_), "finish a stream's work");
        marks_ = {};
        marks_ = world_.allocate_work(2 * bytes);
        require(marks_.data(), ErrorKind::budget, world_.name, " has no room left for launches");
        check(cudaMemsetAsync(marks_.data(), 0, marks_.size(), stream_), "clear memory");
    }
    return reinterpret_cast<std::uint32_t*>(marks_.data());
}

}  // namespace moestro::device::cuda
