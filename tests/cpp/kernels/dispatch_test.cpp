#include <algorithm>

#include "base/error.h"
#include "kernels/ops.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using testing::runs;

TEST(Dispatch, ForcedTableIsTheLiveOne) {
    for (const char* isa : {"scalar", "avx2", "avx512"}) {
        if (!runs(isa)) continue;
        const IsaChoice choice = choose_isa(isa);
        EXPECT_EQ(name(choice.active), isa);
        const Table& expected = std::string(isa) == "scalar" ? scalar_table()
                                : std::string(isa) == "avx2" ? avx2_table()
                                                             : avx512_table();
        EXPECT_EQ(choice.table, &expected);
        EXPECT_EQ(&Compute(1, choice).table(), &expected);
    }
}

TEST(Dispatch, TablesShareNoFunction) {
    EXPECT_NE(scalar_table().panel[2], avx2_table().panel[2]);
    EXPECT_NE(avx2_table().panel[2], avx512_table().panel[2]);
    EXPECT_NE(scalar_table().attend[0], avx2_table().attend[0]);
}

TEST(Dispatch, EveryOtherTableIsRefusedWithItsReason) {
    const IsaChoice best = choose_isa("");
    EXPECT_EQ(best.refused.size(), 2u - static_cast<std::size_t>(best.active)) << "only faster tables are refused";
    for (const std::string& line : best.refused) EXPECT_NE(line.find(": "), std::string::npos) << line;
    const IsaChoice scalar = choose_isa("scalar");
    EXPECT_EQ(scalar.refused.size(), 2u);
    const bool named =
        std::find(scalar.refused.begin(), scalar.refused.end(), "avx2: MOESTRO_ISA=scalar") != scalar.refused.end();
    EXPECT_EQ(named, runs("avx2"));
}

TEST(Dispatch, UnknownNameListsTheKnownOnes) {
    try {
        choose_isa("avx3");
        FAIL() << "expected an error";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_NE(std::string(error.what()).find("scalar, avx2, avx512"), std::string::npos) << error.what();
    }
}

TEST(Dispatch, TableThisCpuLacksIsRefused) {
    if (runs("avx512")) GTEST_SKIP() << "this CPU runs every table";
    try {
        choose_isa("avx512");
        FAIL() << "expected an error";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::unsupported);
        EXPECT_NE(std::string(error.what()).find("avx512"), std::string::npos) << error.what();
    }
}

TEST(Dispatch, Avx512RunsNatively) {
    if (!runs("avx512")) GTEST_SKIP() << "this CPU lacks AVX-512 with VNNI: its table is tested only emulated";
    EXPECT_EQ(choose_isa("").active, Isa::avx512);
}

TEST(Dispatch, Avx512IsEmulatedForTheTestsBesideThis) {
#ifndef MOESTRO_TEST_EMULATED_AVX512
    GTEST_SKIP() << "built without SIMDe (libsimde-dev) or with sanitizers: no emulated AVX-512 table";
#endif
    const auto tables = testing::runnable_tables();
    EXPECT_TRUE(
        std::any_of(tables.begin(), tables.end(), [](const auto& table) { return table.name == "avx512_emulated"; }));
}

}  // namespace
}  // namespace moestro::kernels
