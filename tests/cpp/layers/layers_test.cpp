#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/table.h"
#include "layers/reference.h"

namespace moestro::layers {
namespace {

using testing::expect_same_bits;
using testing::normal_floats;
using testing::Reference;
using testing::SmallDecoder;

using D = SmallDecoder;

std::vector<std::int64_t> every(int rows) {
    std::vector<std::int64_t> chosen(static_cast<std::size_t>(rows));
    std::iota(chosen.begin(), chosen.end(), 0);
    return chosen;
}

template <class Call>
void expect_refused(ErrorKind kind, const std::string& part, const Call& call) {
    try {
        call();
        ADD_FAILURE() << "accepted; expected an error about " << part;
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), kind) << error.what();
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
}

TEST(Layers, GiveTheBitsOfTheSingleOperations) {
    for (const auto format : {quant::Format::f32, quant::Format::bf16, quant::Format::q8, quant::Format::q4})
        for (const int threads : {1, 2, 3}) {
            SCOPED_TRACE(std::string(quant::name(format)) + ", threads " + std::to_string(threads));
            SmallDecoder model(format, threads);
            Reference reference(model);
            unsigned seed = 50;
            for (const int rows : {33, 1, 1, 4, 33, 2, 1}) {
                const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * D::kHidden), ++seed);
                std::vector<float> logits(static_cast<std::size_t>(rows * D::kVocab));
                model.step(x.data(), rows, every(rows), logits.data());
                expect_same_bits(logits, reference.step(x, rows));
            }
            model.runtime.check_integrity();
        }
}

TEST(Head, GivesTheChosenRowsInTheirOrder) {
    SmallDecoder model(quant::Format::q8, 2);
    const std::vector<float> x = normal_floats(5 * D::kHidden, 1);
    std::vector<float> all(5 * D::kVocab), some(3 * D::kVocab);
    model.step(x.data(), 5, every(5), all.data());
    const std::vector<std::int64_t> chosen{4, 0, 4};
    model.head.run(model.compute(), model.work, chosen, some.data());
    for (std::size_t i = 0; i < chosen.size(); ++i) {
        const auto row = [](const std::vector<float>& rows, std::int64_t at) {
            return std::vector<float>(rows.begin() + at * D::kVocab, rows.begin() + (at + 1) * D::kVocab);
        };
        expect_same_bits(row(some, static_cast<std::int64_t>(i)), row(all, chosen[i]));
    }
    const auto head = [&](std::vector<std::int64_t> rows) {
        return [&model, rows] {
            std::vector<float> logits(rows.size() * D::kVocab);
            model.head.run(model.compute(), model.work, rows, logits.data());
        };
    };
    expect_refused(ErrorKind::usage, "row 5 of 5", head({5}));
    expect_refused(ErrorKind::usage, "row -1 of 5", head({-1}));
    expect_refused(ErrorKind::usage, "at most 33 rows", head(std::vector<std::int64_t>(34)));
    EXPECT_NO_THROW(head({})());
}

TEST(Moe, KeepsTheOrderOfItsCalls) {
    SmallDecoder model(quant::Format::bf16);
    const std::vector<float> x = normal_floats(2 * D::kHidden, 1);
    const auto submit = [&] { model.moe.submit(model.runtime, model.work); };
    const auto wait = [&] { model.moe.wait(model.runtime, model.work); };
    model.begin(2);
    std::copy(x.begin(), x.end(), model.work.arrays().x);
    expect_refused(ErrorKind::usage, "nothing was submitted", wait);
    expect_refused(ErrorKind::usage, "call begin_step first", submit);
    model.runtime.begin_step(2, {});
    submit();
    wait();
    expect_refused(ErrorKind::usage, "nothing was submitted", wait);
    model.runtime.end_step({});

    model.runtime.begin_step(2, {});
    submit();
    model.runtime.abort_step();
    expect_refused(ErrorKind::usage, "this ticket is over", wait);
    model.runtime.begin_step(2, {});
    submit();
    model.begin(1);  // whoever was interrupted begins again
    expect_refused(ErrorKind::usage, "nothing was submitted", wait);
    model.runtime.abort_step();
    model.runtime.check_integrity();
}

TEST(Layers, RefuseAWorkspaceOfAnotherShape) {
    SmallDecoder model(quant::Format::bf16);
    Workspace narrow({D::kHidden, D::kHeads, D::kKvHeads, D::kHeadDim, D::kExperts - 1, D::kTopK}, 4);
    Workspace other({D::kHidden / 2, D::kHeads, D::kKvHeads, D::kHeadDim, D::kExperts, D::kTopK}, 4);
    Workspace heads({D::kHidden, D::kHeads / 2, D::kKvHeads, D::kHeadDim, D::kExperts, D::kTopK}, 4);
    kernels::Compute& compute = model.compute();
    expect_refused(ErrorKind::usage, "attention of layer 0",
                   [&] { model.attention[0].run(compute, model.pool, other); });
    expect_refused(ErrorKind::usage, "attention of layer 1",
                   [&] { model.attention[1].run(compute, model.pool, heads); });
    expect_refused(ErrorKind::usage, "layer 1 has", [&] { model.mlp.run(compute, other); });
    expect_refused(ErrorKind::usage, "5 experts", [&] { model.moe.submit(model.runtime, narrow); });
    expect_refused(ErrorKind::usage, "the head has", [&] { model.head.run(compute, other, {}, nullptr); });
}

TEST(Layers, NameWhatIsNotFinite) {
    SmallDecoder model(quant::Format::q8);
    std::vector<float> x(D::kHidden, std::numeric_limits<float>::infinity());
    model.begin(1);
    std::copy(x.begin(), x.end(), model.work.arrays().x);
    model.runtime.begin_step(1, {});
    expect_refused(ErrorKind::numeric, "rms_norm",
                   [&] { model.attention[0].run(model.compute(), model.pool, model.work); });
    expect_refused(ErrorKind::numeric, "rms_norm", [&] { model.moe.submit(model.runtime, model.work); });
    expect_refused(ErrorKind::numeric, "rms_norm", [&] { model.mlp.run(model.compute(), model.work); });
    model.runtime.abort_step();
}

TEST(Attention, SeesOnlyBlocksThatAreThere) {
    SmallDecoder model(quant::Format::f32);
    std::vector<float> logits(33 * D::kVocab);
    const std::vector<float> x = normal_floats(33 * D::kHidden, 1);
    for (const int rows : {33, 31, 8}) model.step(x.data(), rows, {}, logits.data());
    std::int64_t position = 72, begin = 0;
    std::array table{memory::kNoBlock, model.table[1]};
    const auto run = [&](int layer) {
        const StepPlaces::Rotary rotary{.inv_freq = model.frequencies.data()};
        model.work.begin(
            {.batch = {{&position, 1}, table, {&begin, 1}}, .blocks = {&table[1], 1}, .rotary = {&rotary, 1}});
        std::copy_n(x.data(), D::kHidden, model.work.arrays().x);
        model.attention[static_cast<std::size_t>(layer)].run(model.compute(), model.pool, model.work);
    };
    EXPECT_NO_THROW(run(1)) << "its window of 9 begins at position 64";
    expect_refused(ErrorKind::usage, "row 0 at position 72 sees block 0", [&] { run(0); });
    table[0] = 77;
    expect_refused(ErrorKind::usage, "KV block 77", [&] { run(1); });
}

}  // namespace
}  // namespace moestro::layers
