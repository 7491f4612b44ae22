#include "store/catalog.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "support/toy_model.h"

namespace moestro::store {
namespace {

using testing::ToyModel;
using Layers = std::vector<ExpertLayer>;

void expect_refused(const ToyModel& model, bool packed, const std::function<void(Layers&)>& spoil, ErrorKind kind,
                    const std::string& says) {
    Layers layers = packed ? model.packed() : model.in_place();
    spoil(layers);
    try {
        const Catalog catalog(layers, model.open(packed));
        ADD_FAILURE() << "accepted: " << says;
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), kind) << error.what();
        EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << says << " in: " << error.what();
    }
}

TEST(Catalog, FindsLayersByNumberInAnyOrder) {
    const ToyModel model({});
    Layers layers = model.packed();
    std::swap(layers[0], layers[2]);
    const Catalog catalog(layers, model.open(true));
    EXPECT_EQ(catalog.experts(), 18);
    EXPECT_EQ(catalog.layer(3).layer, 3);
    EXPECT_EQ(catalog.number({1, 0}), 0);
    EXPECT_EQ(catalog.number({5, 5}), 17);
    EXPECT_EQ(catalog.record_bytes(), 18 * model.record_bytes());
    for (const int layer : {-1, 0, 2, 6, 100}) EXPECT_THROW(catalog.layer(layer), Error);
}

TEST(Catalog, RefusesWhatContradictsItself) {
    const ToyModel model({});
    const auto refused = [&](const std::function<void(Layers&)>& spoil, const std::string& says) {
        expect_refused(model, true, spoil, ErrorKind::usage, says);
    };
    refused([](Layers& layers) { layers.clear(); }, "without expert layers");
    refused([](Layers& layers) { layers[1].layer = 1; }, "layer 1 was given twice");
    refused([](Layers& layers) { layers[1].layer = -3; }, "start at 0");
    refused([](Layers& layers) { layers[1].records.clear(); }, "layer 3: either packed records or slices");
    refused([](Layers& layers) { layers[1].down.spec.cols = 41; }, "down [hidden, intermediate]");
    refused([](Layers& layers) { layers[1].up.offset += 1; }, "multiples of 64");
    refused([](Layers& layers) { layers[1].up.offset = 0; }, "up of");
    refused([](Layers& layers) { layers[1].down.offset = ~std::size_t{63}; }, "does not fit a record");
    refused([](Layers& layers) { layers[1].record_bytes -= 4096; }, "does not fit a record");
    refused([](Layers& layers) { layers[1].records[2].bytes += 4096; }, "layer 3, expert 2");
    refused([](Layers& layers) { layers[1].records[2].offset += 512; }, "multiple of 4096");
    refused([](Layers& layers) { layers[1].records[2].file = 1; }, "no file number 1");
    refused([&](Layers& layers) { layers[1] = model.in_place()[1]; }, "all layers are packed");
}

TEST(Catalog, RefusesSlicesThatDoNotFit) {
    const ToyModel model({});
    expect_refused(
        model, false, [](Layers& layers) { layers[0].slices[1][2].rows = 7; }, ErrorKind::usage,
        "layer 1, expert 1, down: [48, 40] was expected; got [7, 40]");
    const ToyModel quantised({.format = quant::Format::q8});
    expect_refused(
        quantised, false, [](Layers&) {}, ErrorKind::usage, "pack it first");
}

TEST(Catalog, ExtentsLieInsideTheirFiles) {
    const ToyModel model({});
    expect_refused(
        model, true, [](Layers& layers) { layers[2].records[5].offset += 4096; }, ErrorKind::checkpoint, "cut off");
    expect_refused(
        model, true, [](Layers& layers) { layers[2].records[5].offset = ~std::uint64_t{4095}; }, ErrorKind::checkpoint,
        "experts.bin");
    expect_refused(
        model, false, [](Layers& layers) { layers[2].slices[5][2].offset += 1; }, ErrorKind::checkpoint,
        "layer 5, expert 5, down");
}

}  // namespace
}  // namespace moestro::store
