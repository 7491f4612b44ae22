#include "store/trunk_loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "base/checksum.h"
#include "io/faulty_reader.h"
#include "quant/pack.h"
#include "support/toy_model.h"

namespace moestro::store {
namespace {

constexpr std::int32_t kRows = 300, kCols = 70;
constexpr std::uint64_t kOffset = 123;

struct World {
    explicit World(std::vector<float> values, const std::string& faults = "", std::size_t budget = std::size_t{8} << 20)
        : weights(std::move(values)), ledger(std::make_shared<memory::Ledger>(budget)) {
        std::ofstream out(path, std::ios::binary);
        out << std::string(kOffset, 'x');
        out.write(reinterpret_cast<const char*>(weights.data()),
                  static_cast<std::streamsize>(weights.size() * sizeof(float)));
        out.close();
        file = io::File::open(path, io::File::Cache::direct);
        reader = std::make_unique<io::FaultyReader>(io::make_reader({.registered = {}}), io::FaultPlan::parse(faults));
        loader = std::make_unique<TrunkLoader>(ledger, *reader, staging, pool, Verify::first, clock);
    }
    MatrixHandle load(quant::Format format, std::span<const float> bias = {}) {
        return loader->load_matrix("model.q_proj.weight", file, {0, kOffset, quant::SourceType::f32, kRows, kCols},
                                   format, bias);
    }
    quant::Source source() const {
        return {reinterpret_cast<const std::byte*>(weights.data()), quant::SourceType::f32, kRows, kCols};
    }

    testing::TemporaryDirectory directory;
    std::string path = directory.file("model.bin");
    std::vector<float> weights;
    std::shared_ptr<memory::Ledger> ledger;
    // Smaller than the matrix: it can only come in pieces.
    memory::Staging staging{std::make_shared<memory::Ledger>(1 << 20), 8 * kPageBytes};
    ThreadPool pool{2};
    SteadyClock clock;
    std::shared_ptr<const io::File> file;
    std::unique_ptr<io::Reader> reader;
    std::unique_ptr<TrunkLoader> loader;
};

std::vector<float> random_weights(float scale = 0.1f) {
    std::mt19937 random(4);
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> weights(static_cast<std::size_t>(kRows) * kCols);
    for (float& weight : weights) weight = normal(random);
    return weights;
}

void expect_error(const std::function<void()>& call, ErrorKind kind, const std::string& says) {
    try {
        call();
        ADD_FAILURE() << "no error: " << says;
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), kind) << error.what();
        EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << says << " in: " << error.what();
    }
}

TEST(TrunkLoader, AMatrixEqualsPackingItWhole) {
    // Weights too small for f16 scales in one late row: the scale type is a property of the whole matrix.
    std::vector<float> tiny = random_weights();
    for (std::size_t i = 290 * kCols; i < 291 * kCols; ++i) tiny[i] *= 1e-9f;
    for (const std::vector<float>& weights : {random_weights(), tiny})
        for (const auto format : {quant::Format::f32, quant::Format::bf16, quant::Format::q8, quant::Format::q4}) {
            World world(weights);
            const quant::ScaleType scale = quant::choose_scale_type(world.source(), format);
            if (quant::is_integer(format)) {
                EXPECT_EQ(scale, weights == tiny ? quant::ScaleType::f32 : quant::ScaleType::f16);
            }
            const quant::MatrixSpec spec{kRows, kCols, format, scale};
            std::vector<std::byte> whole(spec.bytes());
            quant::pack(world.source(), spec, whole.data(), 0, spec.panels());

            const MatrixHandle matrix = world.load(format);
            EXPECT_EQ(matrix->spec.scale, scale);
            ASSERT_EQ(matrix->spec.bytes(), spec.bytes());
            EXPECT_EQ(std::memcmp(matrix->data, whole.data(), whole.size()), 0) << quant::name(format);
            EXPECT_EQ(matrix->bias, nullptr);
            EXPECT_TRUE(world.staging.idle());
        }
}

TEST(TrunkLoader, TheLedgerHoldsItAsLongAsTheHandle) {
    MatrixHandle kept;
    std::shared_ptr<memory::Ledger> ledger;
    std::vector<float> bias(kRows, 2.0f);
    {
        World world(random_weights());
        ledger = world.ledger;
        kept = world.load(quant::Format::f32, bias);
        bias.assign(kRows, 0.0f);
    }
    EXPECT_EQ(kept->bias[kRows - 1], 2.0f) << "the bias is copied";
    EXPECT_GE(ledger->held(), kept->spec.bytes() + kRows * sizeof(float));
    EXPECT_LT(ledger->held(), kept->spec.bytes() + kRows * sizeof(float) + kPageBytes);
    kept.reset();
    EXPECT_EQ(ledger->held(), 0u);
}

TEST(TrunkLoader, FailedLoadsLeaveNothingBehind) {
    World tight(random_weights(), "", 4096);
    expect_error([&] { tight.load(quant::Format::f32); }, ErrorKind::budget, "trunk");
    for (const char* plan : {"eio@2", "short@1"}) {
        World world(random_weights(), plan);
        expect_error([&] { world.load(quant::Format::f32); }, ErrorKind::io, "model.q_proj.weight: rows");
        EXPECT_EQ(world.ledger->held(), 0u);
        EXPECT_TRUE(world.staging.idle());
        EXPECT_EQ(world.reader->in_flight(), 0u);
        EXPECT_NE(world.load(quant::Format::f32), nullptr) << "the fault is over";
    }
}

TEST(TrunkLoader, WrongArgumentsAndWeightsAreNamed) {
    World world(random_weights());
    expect_error([&] { world.load(quant::Format::f32, std::vector<float>(3)); }, ErrorKind::usage, "bias of 300");
    const TensorSlice beyond{0, kOffset + 1, quant::SourceType::f32, kRows, kCols};
    expect_error([&] { world.loader->load_matrix("w", world.file, beyond, quant::Format::f32, {}); },
                 ErrorKind::checkpoint, "model.bin");
    std::vector<float> weights = random_weights();
    weights[5000] = std::nanf("");
    World broken(weights);
    expect_error([&] { broken.load(quant::Format::q8); }, ErrorKind::numeric, "model.q_proj.weight");
    EXPECT_EQ(broken.ledger->held(), 0u);
    EXPECT_NE(broken.load(quant::Format::f32), nullptr);
}

// A packed record of two matrices.
struct Record {
    explicit Record(const World& world) {
        parts[0].spec = {kRows, kCols, quant::Format::q8, quant::ScaleType::f32};
        parts[1].spec = {kRows, kCols, quant::Format::bf16, quant::ScaleType::none};
        parts[1].offset = round_up(parts[0].spec.bytes(), quant::kPartAlign);
        bytes.resize(round_up(parts[1].offset + parts[1].spec.bytes(), kPageBytes));
        for (const Part& part : parts)
            quant::pack(world.source(), part.spec, bytes.data() + part.offset, 0, part.spec.panels());
        path = world.directory.file("trunk.bin");
        std::ofstream out(path, std::ios::binary);
        out << std::string(kPageBytes, 'x');
        out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        out.close();
        file = io::File::open(path, io::File::Cache::direct);
        extent = {0, kPageBytes, bytes.size(), xxh64(bytes)};
    }
    std::vector<Part> parts{2};
    std::vector<std::byte> bytes;
    std::string path;
    std::shared_ptr<const io::File> file;
    RecordExtent extent;
};

TEST(TrunkLoader, ARecordBecomesMatricesThatShareIt) {
    World world(random_weights());
    const Record record(world);
    const std::vector<float> bias(kRows, 3.0f);
    const std::vector<std::span<const float>> biases{{}, bias};
    auto matrices = world.loader->load_record("layers.0.trunk", record.file, record.extent, record.parts, biases);
    ASSERT_EQ(matrices.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i)
        EXPECT_EQ(
            std::memcmp(matrices[i]->data, record.bytes.data() + record.parts[i].offset, record.parts[i].spec.bytes()),
            0);
    EXPECT_EQ(matrices[0]->bias, nullptr);
    EXPECT_EQ(matrices[1]->bias[7], 3.0f);
    matrices.erase(matrices.begin());
    EXPECT_GE(world.ledger->held(), record.bytes.size()) << "one of them keeps all";
    matrices.clear();
    EXPECT_EQ(world.ledger->held(), 0u);
}

TEST(TrunkLoader, ABadRecordIsNamed) {
    World world(random_weights());
    Record record(world);
    const auto load = [&](World& with) {
        return with.loader->load_record("layers.0.trunk", record.file, record.extent, record.parts, {});
    };
    record.extent.checksum ^= 1;
    expect_error([&] { load(world); }, ErrorKind::integrity, "layers.0.trunk: the record of");
    record.extent.checksum ^= 1;
    World failing(random_weights(), "eio@1");
    expect_error([&] { load(failing); }, ErrorKind::io, "layers.0.trunk: reading");
    EXPECT_EQ(failing.ledger->held(), 0u);
    EXPECT_EQ(load(failing).size(), 2u);
    record.parts[1].offset += 64 * 1000;
    expect_error([&] { load(world); }, ErrorKind::usage, "does not fit a record");
}

}  // namespace
}  // namespace moestro::store
