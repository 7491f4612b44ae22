// Matrices that lie in columns of a wider table, and stacks of matrices: what is read of them is what packing the
// gathered matrix gives.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <random>

#include "io/faulty_reader.h"
#include "quant/pack.h"
#include "store/catalog.h"
#include "store/record_source.h"
#include "store/row_reader.h"
#include "store/trunk_loader.h"
#include "store/trunk_units.h"
#include "support/refusal.h"
#include "support/scripted_reader.h"
#include "support/toy_model.h"

namespace moestro::store {
namespace {

using testing::refusal;
using testing::ScriptedReader;

// A file of random numbers, of any type, that begins anywhere in a page.
class NumbersFile {
  public:
    NumbersFile(quant::SourceType type, std::size_t elements, std::uint64_t offset = 123)
        : type_(type), offset_(offset), bytes_(elements * quant::bytes(type)) {
        std::mt19937 random(7);
        std::uniform_int_distribution<int> byte(0, 255);
        for (std::byte& b : bytes_) b = static_cast<std::byte>(byte(random));
        // No exponent of all ones: a NaN has more than one form.
        for (std::size_t at = quant::bytes(type) - 1; at < bytes_.size(); at += quant::bytes(type))
            bytes_[at] &= std::byte{0xbf};
        std::ofstream out(path_, std::ios::binary);
        out << std::string(offset, 'x');
        out.write(reinterpret_cast<const char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size()));
    }

    std::shared_ptr<const io::File> open(io::File::Cache cache = io::File::Cache::direct) const {
        return io::File::open(path_, cache);
    }
    std::size_t elements() const { return bytes_.size() / quant::bytes(type_); }

    // A slice that begins at an element.
    TensorSlice at(std::size_t element, std::int32_t rows, std::int32_t cols) const {
        TensorSlice slice;
        slice.offset = offset_ + element * quant::bytes(type_);
        slice.type = type_;
        slice.rows = rows;
        slice.cols = cols;
        return slice;
    }

    // The slice's matrix packed whole, its elements looked up one by one.
    std::vector<std::byte> packed(const TensorSlice& slice, quant::Format format) const {
        const std::size_t size = quant::bytes(type_);
        std::vector<std::byte> gathered(static_cast<std::size_t>(slice.rows) * static_cast<std::size_t>(slice.cols) *
                                        size);
        const std::int32_t rows = slice.rows / slice.stack, used = slice.stack > 1 ? slice.stack_rows : rows;
        for (std::int32_t n = 0; n < slice.rows; ++n)
            for (std::int32_t k = 0; k < slice.cols && n % rows < used; ++k) {
                const std::int64_t row = n % rows;
                const std::int64_t element =
                    slice.column_stride > 0 ? k * slice.column_stride + row * slice.column_step : row * slice.cols + k;
                const std::size_t from = slice.offset - offset_ +
                                         static_cast<std::size_t>(n / rows) * slice.stack_bytes +
                                         static_cast<std::size_t>(element) * size;
                std::memcpy(gathered.data() + (static_cast<std::size_t>(n) * static_cast<std::size_t>(slice.cols) +
                                               static_cast<std::size_t>(k)) *
                                                  size,
                            bytes_.data() + from, size);
            }
        const quant::MatrixSpec spec{slice.rows, slice.cols, format, quant::ScaleType::none};
        std::vector<std::byte> out(spec.bytes());
        quant::pack({gathered.data(), type_, slice.rows, slice.cols}, spec, out.data(), 0, spec.panels());
        return out;
    }

  private:
    testing::TemporaryDirectory directory_;
    std::string path_ = directory_.file("numbers.bin");
    quant::SourceType type_;
    std::uint64_t offset_;
    std::vector<std::byte> bytes_;
};

TensorSlice in_columns(TensorSlice slice, std::int64_t stride, std::int32_t step) {
    slice.column_stride = stride;
    slice.column_step = step;
    return slice;
}

// `slice` describes one matrix; so many of them, `elements` apart, each padded to a multiple of 32 rows.
TensorSlice stacked(TensorSlice slice, std::int32_t count, std::size_t elements) {
    slice.stack = count;
    slice.stack_rows = slice.rows;
    slice.stack_bytes = elements * quant::bytes(slice.type);
    slice.rows = count * ((slice.rows + 31) / 32 * 32);
    return slice;
}

struct Reading {
    explicit Reading(std::unique_ptr<io::Reader> with, std::size_t staging_pages)
        : reader(std::move(with)),
          staging(std::make_shared<memory::Ledger>(std::size_t{64} << 20), staging_pages * kPageBytes) {}

    std::vector<std::byte> read(const std::shared_ptr<const io::File>& file, const TensorSlice& slice,
                                quant::Format format) {
        const quant::MatrixSpec spec{slice.rows, slice.cols, format, quant::ScaleType::none};
        std::vector<std::byte> out(spec.bytes(), std::byte{0xee});
        RowReader rows(*reader, staging, pool, clock);
        for (RowJob& job : packing_jobs(file, slice, spec, out.data())) rows.push(std::move(job));
        std::vector<RowsDone> done;
        while (rows.in_flight() > 0) rows.wait(done);
        EXPECT_EQ(done.size(), static_cast<std::size_t>(slice.stack));
        for (const RowsDone& one : done) EXPECT_FALSE(one.error) << one.error->what();
        EXPECT_TRUE(staging.idle());
        return out;
    }

    std::unique_ptr<io::Reader> reader;
    memory::Staging staging;
    ThreadPool pool{2};
    SteadyClock clock;
};

struct Shape {
    std::int32_t rows, cols;
    std::int64_t more;  // elements of a table's column beyond those of the matrix
    std::int32_t step, stack;
};

const Shape kShapes[] = {{1, 1, 0, 1, 1},    {33, 70, 0, 1, 1},   {70, 33, 3, 1, 1},  {64, 300, 0, 2, 1},
                         {65, 31, 1, 2, 1},  {300, 257, 7, 1, 1}, {1500, 9, 0, 2, 1}, {32, 40, 0, 1, 3},
                         {40, 33, 50, 1, 4}, {17, 64, 40, 2, 5}};

// Every shape as columns, and as rows where the step allows; the last element of the file is the matrix's last one.
void expect_slices(quant::SourceType type, const std::function<std::unique_ptr<io::Reader>()>& reader,
                   io::File::Cache cache) {
    for (const Shape& shape : kShapes)
        for (const bool by_columns : {true, false}) {
            if (!by_columns && shape.step > 1) continue;
            SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols) + ", step " +
                         std::to_string(shape.step) + ", stack " + std::to_string(shape.stack) +
                         (by_columns ? ", columns" : ", rows"));
            TensorSlice slice{.type = type, .rows = shape.rows, .cols = shape.cols};
            if (by_columns) slice = in_columns(slice, std::int64_t{shape.rows} * shape.step + shape.more, shape.step);
            const auto apart =
                static_cast<std::size_t>(shape.cols) * static_cast<std::size_t>(shape.rows * shape.step + shape.more) +
                11;
            if (shape.stack > 1) slice = stacked(slice, shape.stack, apart);
            const std::size_t before = 5;
            const NumbersFile numbers(type, before + slice.span() / quant::bytes(type));
            slice.offset = numbers.at(before, 1, 1).offset;
            const auto file = numbers.open(cache);
            ASSERT_EQ(slice.offset + slice.span(), file->size());
            for (const auto format : {quant::Format::f32, quant::Format::bf16})
                for (const std::size_t pages : {std::size_t{20}, std::size_t{80}}) {
                    Reading reading(reader(), pages);
                    ASSERT_EQ(reading.read(file, slice, format), numbers.packed(slice, format))
                        << quant::name(format) << ", staging of " << pages << " pages";
                }
        }
}

TEST(ColumnSlices, EqualPackingTheGatheredMatrix) {
    for (const auto type : {quant::SourceType::f32, quant::SourceType::bf16, quant::SourceType::f16})
        for (const auto cache : {io::File::Cache::direct, io::File::Cache::buffered}) {
            SCOPED_TRACE(quant::name(type));
            expect_slices(
                type, [] { return io::make_reader({.registered = {}}); }, cache);
        }
}

TEST(ColumnSlices, ComeInAnyOrder) {
    expect_slices(
        quant::SourceType::bf16, [] { return std::make_unique<ScriptedReader>(ScriptedReader::Order::shuffled); },
        io::File::Cache::direct);
}

TEST(ColumnSlices, MayBeMuchLargerThanStaging) {
    const NumbersFile numbers(quant::SourceType::bf16, 400 * 3000 + 9);
    const TensorSlice slice = in_columns(numbers.at(9, 1450, 400), 3000, 2);
    Reading reading(io::make_reader({.registered = {}}), 8);
    EXPECT_EQ(reading.read(numbers.open(), slice, quant::Format::bf16), numbers.packed(slice, quant::Format::bf16));
}

TEST(ColumnSlices, FailuresNameTheColumns) {
    const NumbersFile numbers(quant::SourceType::f32, 40 * 100);
    const TensorSlice slice = in_columns(numbers.at(0, 100, 40), 100, 1);
    Reading reading(
        std::make_unique<io::FaultyReader>(io::make_reader({.registered = {}}), io::FaultPlan::parse("eio@1")), 20);
    const quant::MatrixSpec spec{100, 40, quant::Format::f32, quant::ScaleType::none};
    std::vector<std::byte> out(spec.bytes());
    RowReader rows(*reading.reader, reading.staging, reading.pool, reading.clock);
    for (RowJob& job : packing_jobs(numbers.open(), slice, spec, out.data())) rows.push(std::move(job));
    std::vector<RowsDone> done;
    while (rows.in_flight() > 0) rows.wait(done);
    ASSERT_TRUE(done.front().error);
    EXPECT_NE(std::string(done.front().error->what()).find("columns 0 to "), std::string::npos)
        << done.front().error->what();

    // A column that staging cannot hold is refused before anything is read.
    const TensorSlice wide = in_columns(numbers.at(0, 2, 2), 100000, 1);
    try {
        rows.push(packing_jobs(numbers.open(), wide, {2, 2, quant::Format::f32, {}}, out.data()).front());
        ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::unsupported);
        EXPECT_NE(std::string(error.what()).find("1 columns of a [2, 2] matrix"), std::string::npos) << error.what();
    }
}

TEST(ColumnSlices, AStackFillsItsPanels) {
    const NumbersFile numbers(quant::SourceType::f32, 4000);
    std::vector<std::byte> out(1 << 16);
    const auto jobs = [&](std::int32_t rows, std::int32_t stack_rows) {
        TensorSlice slice = numbers.at(0, rows, 4);
        slice.stack = 2;
        slice.stack_rows = stack_rows;
        slice.stack_bytes = 4000;
        return packing_jobs(numbers.open(), slice, {rows, 4, quant::Format::f32, {}}, out.data()).size();
    };
    EXPECT_EQ(jobs(64, 32), 2u);
    EXPECT_EQ(jobs(64, 1), 2u);
    EXPECT_THROW(jobs(80, 40), Error) << "40 rows end inside a panel";
    EXPECT_THROW(jobs(128, 32), Error) << "a panel that nobody writes";
}

TEST(RequireSlice, NamesStridesAndStacksThatMakeNoSense) {
    const TensorSlice rows{.rows = 6, .cols = 4},
        columns = in_columns(rows, 12, 2),
        stack{.rows = 64, .cols = 4, .stack = 2, .stack_rows = 20, .stack_bytes = 160};
    const auto refused = [](TensorSlice slice, const auto& spoil) {
        spoil(slice);
        return refusal([&] { require_slice("the weight", slice); });
    };
    const auto as_it_is = [](TensorSlice&) {};
    for (const TensorSlice& slice : {rows, columns, stack}) EXPECT_EQ(refused(slice, as_it_is), "accepted");
    EXPECT_EQ(refused(columns, [](TensorSlice& s) { s.column_stride = 11; }), "accepted") << "the last needs no step";
    for (const auto& [said, slice, spoil] : std::initializer_list<std::tuple<
             const char*, TensorSlice, std::function<void(TensorSlice&)>>>{{"the weight", rows,
                                                                            [](TensorSlice& s) { s.rows = 0; }},
                                                                           {"the weight", rows,
                                                                            [](TensorSlice& s) { s.cols = -1; }},
                                                                           {"do not fit a table of 10", columns,
                                                                            [](TensorSlice& s) {
                                                                                s.column_stride = 10;
                                                                            }},
                                                                           {"do not fit a table of 5", columns,
                                                                            [](TensorSlice& s) {
                                                                                s.column_stride = 5;
                                                                                s.column_step = 1;
                                                                            }},
                                                                           {"every 0", columns,
                                                                            [](TensorSlice& s) { s.column_step = 0; }},
                                                                           {"table of -12", columns,
                                                                            [](TensorSlice& s) {
                                                                                s.column_stride = -12;
                                                                            }},
                                                                           {"do not fit a table of 12", columns,
                                                                            [](TensorSlice& s) {
                                                                                s.column_step = 0x7fffffff;
                                                                            }},
                                                                           {"beyond any file", columns,
                                                                            [](TensorSlice& s) {
                                                                                s.column_stride = std::int64_t{1} << 62;
                                                                            }},
                                                                           {"beyond any file", stack,
                                                                            [](TensorSlice& s) {
                                                                                s.stack_bytes = std::uint64_t{1} << 63;
                                                                            }},
                                                                           {"a stack of 0", stack,
                                                                            [](TensorSlice& s) { s.stack = 0; }},
                                                                           {"a stack of 3", stack,
                                                                            [](TensorSlice& s) { s.stack = 3; }},
                                                                           {"matrices of 0", stack,
                                                                            [](TensorSlice& s) { s.stack_rows = 0; }},
                                                                           {"matrices of 33", stack,
                                                                            [](TensorSlice& s) { s.stack_rows = 33; }},
                                                                           {"do not fit a table of 39", stack,
                                                                            [](TensorSlice& s) {
                                                                                s.column_stride = 39;
                                                                                s.column_step = 3;
                                                                            }}}) {
        const std::string message = refused(slice, spoil);
        EXPECT_EQ(message.find("the weight"), 0u) << message;
        EXPECT_NE(message.find(said), std::string::npos) << said << " in: " << message;
    }
}

TEST(TrunkLoader, ReadsColumnsAndStacks) {
    const NumbersFile numbers(quant::SourceType::bf16, 9000);
    const auto file = numbers.open();
    Reading reading(io::make_reader({.registered = {}}), 8);
    const auto ledger = std::make_shared<memory::Ledger>(std::size_t{8} << 20);
    TrunkLoader loader(ledger, *reading.reader, reading.staging, reading.pool, Verify::first, reading.clock);
    const TensorSlice last = in_columns(numbers.at(9000 - 59 * 60 - 45, 45, 60), 60, 1),
                      turned = stacked(in_columns(numbers.at(3, 40, 30), 41, 1), 7, 1250),
                      straight = stacked(numbers.at(17, 40, 30), 7, 1250);
    ASSERT_EQ(last.offset + last.span(), file->size());
    for (const TensorSlice& slice : {last, turned, straight})
        for (const auto format : {quant::Format::f32, quant::Format::bf16}) {
            const MatrixHandle matrix = loader.load_matrix("kv_b", file, slice, format, {});
            const std::vector<std::byte> expected = numbers.packed(slice, format);
            ASSERT_EQ(matrix->spec.bytes(), expected.size());
            EXPECT_EQ(std::memcmp(matrix->data, expected.data(), expected.size()), 0) << quant::name(format);
        }
    const auto load = [&](const TensorSlice& slice, quant::Format format) {
        return refusal([&] { loader.load_matrix("kv_b", file, slice, format, {}); });
    };
    for (const TensorSlice& slice : {last, turned, straight})
        for (const auto format : {quant::Format::q8, quant::Format::q4})
            EXPECT_NE(load(slice, format).find("kv_b: a matrix that lies in columns or a stack"), std::string::npos);
    TensorSlice broken = last;
    broken.column_step = 0;
    EXPECT_EQ(load(broken, quant::Format::f32).find("kv_b: "), 0u);
    TensorSlice beyond = last;
    beyond.offset += 2;
    EXPECT_EQ(load(beyond, quant::Format::f32), "another kind") << "the file ends";
    beyond = turned;
    beyond.stack_bytes = 6000;
    EXPECT_EQ(load(beyond, quant::Format::f32), "another kind");
    EXPECT_EQ(ledger->held(), 0u);
    EXPECT_TRUE(reading.staging.idle());
}

// Experts as some checkpoints have them: [experts, hidden, 2 intermediate], gate and up alternating, and [experts,
// intermediate, hidden].
TEST(RecordSource, RecordsOfColumnsEqualPackingThem) {
    constexpr std::int32_t hidden = 70, intermediate = 45, experts = 5;
    constexpr std::size_t both = hidden * 2 * intermediate, one = both + hidden * intermediate;
    for (const auto format : {quant::Format::bf16, quant::Format::f32}) {
        const NumbersFile numbers(quant::SourceType::bf16, experts * one);
        ExpertLayer layer;
        layer.gate.spec = layer.up.spec = {intermediate, hidden, format, quant::ScaleType::none};
        layer.down.spec = {hidden, intermediate, format, quant::ScaleType::none};
        layer.up.offset = layer.gate.spec.bytes();
        layer.down.offset = layer.up.offset + layer.up.spec.bytes();
        layer.record_bytes = round_up(layer.down.offset + layer.down.spec.bytes(), kPageBytes);
        for (std::size_t expert = 0; expert < experts; ++expert)
            layer.slices.push_back(
                {in_columns(numbers.at(expert * both, intermediate, hidden), 2 * intermediate, 2),
                 in_columns(numbers.at(expert * both + 1, intermediate, hidden), 2 * intermediate, 2),
                 in_columns(numbers.at(experts * both + expert * hidden * intermediate, hidden, intermediate), hidden,
                            1)});
        const auto catalog =
            std::make_shared<const Catalog>(std::vector{layer}, Files{numbers.open(io::File::Cache::direct)});
        ASSERT_EQ(layer.slices.back()[2].offset + layer.slices.back()[2].span(), catalog->file(0).size());
        for (const bool scripted : {false, true}) {
            Reading reading(scripted ? std::make_unique<ScriptedReader>(ScriptedReader::Order::shuffled)
                                     : io::make_reader({.registered = {}}),
                            4);
            const auto source =
                make_checkpoint_source(catalog, *reading.reader, reading.staging, reading.pool, reading.clock);
            PageBuffer slots(experts * layer.record_bytes);
            for (int number = 0; number < experts; ++number)
                source->start(number, slots.data() + static_cast<std::size_t>(number) * layer.record_bytes, false);
            std::vector<Arrival> arrivals;
            while (source->in_flight() > 0) source->wait(arrivals);
            EXPECT_EQ(arrivals.size(), static_cast<std::size_t>(experts));
            for (const Arrival& arrival : arrivals) {
                ASSERT_FALSE(arrival.error) << arrival.error->what();
                const auto expert = static_cast<std::size_t>(arrival.number);
                for (std::size_t part = 0; part < 3; ++part) {
                    const std::vector<std::byte> expected = numbers.packed(layer.slices[expert][part], format);
                    EXPECT_EQ(std::memcmp(slots.data() + expert * layer.record_bytes + layer.parts()[part]->offset,
                                          expected.data(), expected.size()),
                              0)
                        << "expert " << expert << ", part " << part;
                }
            }
        }
        ExpertLayer beyond = layer;
        beyond.slices.back()[2].offset += 2;
        EXPECT_THROW(Catalog({beyond}, Files{numbers.open()}), Error);
        beyond = layer;
        beyond.slices[1][0].column_stride = 50;
        EXPECT_NE(refusal([&] { Catalog({beyond}, Files{numbers.open()}); }).find("do not fit a table of 50"),
                  std::string::npos);
    }
}

// One matrix of a unit may be several jobs: the unit is there when all of them are.
TEST(RecordSource, UnitsOfStacksEqualPackingThem) {
    const NumbersFile numbers(quant::SourceType::bf16, 9000);
    const auto file = numbers.open();
    const TensorSlice slices[] = {stacked(in_columns(numbers.at(3, 40, 30), 41, 1), 7, 1250),
                                  in_columns(numbers.at(9000 - 59 * 60 - 45, 45, 60), 60, 1), numbers.at(1, 33, 20),
                                  stacked(numbers.at(17, 40, 30), 7, 1250)};
    const auto units = std::make_shared<TrunkUnits>(std::make_shared<memory::Ledger>(std::size_t{8} << 20));
    std::vector<std::vector<MatrixHandle>> handles;
    for (const auto format : {quant::Format::f32, quant::Format::bf16}) {
        std::vector<TrunkUnits::Piece> pieces;
        for (const TensorSlice& slice : slices) pieces.push_back({file, slice, format});
        handles.push_back(units->add("layer", pieces));
    }
    for (const char* faults : {"", "eio@9"}) {
        Reading reading(
            std::make_unique<io::FaultyReader>(std::make_unique<ScriptedReader>(ScriptedReader::Order::shuffled),
                                               io::FaultPlan::parse(faults)),
            4);
        const auto source =
            make_checkpoint_source(units, *reading.reader, reading.staging, reading.pool, reading.clock);
        std::vector<PageBuffer> records;
        for (int unit = 0; unit < 2; ++unit) {
            records.emplace_back(units->bytes(unit));
            source->start(unit, records.back().data(), true);
        }
        std::vector<Arrival> arrivals;
        while (source->in_flight() > 0) source->wait(arrivals);
        EXPECT_EQ(arrivals.size(), 2u);
        int failed = 0;
        for (const Arrival& arrival : arrivals) {
            failed += arrival.error.has_value();
            if (arrival.error) continue;
            const std::byte* record = records[static_cast<std::size_t>(arrival.number)].data();
            units->place(arrival.number, record);
            for (std::size_t i = 0; i < std::size(slices); ++i) {
                const kernels::Matrix& matrix = *handles[static_cast<std::size_t>(arrival.number)][i];
                const std::vector<std::byte> expected = numbers.packed(slices[i], matrix.spec.format);
                EXPECT_EQ(std::memcmp(matrix.data, expected.data(), expected.size()), 0) << "matrix " << i;
            }
            units->place(arrival.number, nullptr);
        }
        EXPECT_EQ(failed, faults[0] ? 1 : 0);
        EXPECT_TRUE(reading.staging.idle());
    }
    EXPECT_NE(refusal([&] {
                  const TrunkUnits::Piece piece{file, slices[0], quant::Format::q8};
                  units->add("layer", {&piece, 1});
              }).find("pack it first"),
              std::string::npos);
}

}  // namespace
}  // namespace moestro::store
