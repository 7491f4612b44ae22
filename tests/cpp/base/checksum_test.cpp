// Expected values come from the PyPI package xxhash 4.1.0: xxh64_intdigest(pattern[:n]), seed 0.
#include "base/checksum.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

namespace moestro {
namespace {

// Byte i is (131 i + i / 256 + 7) modulo 256.
std::vector<std::byte> pattern(std::size_t bytes) {
    std::vector<std::byte> made(bytes);
    for (std::size_t i = 0; i < bytes; ++i) made[i] = static_cast<std::byte>(i * 131 + (i >> 8) + 7);
    return made;
}

constexpr std::array<std::uint64_t, 101> kByLength{
    0xef46db3751d8e999, 0xa96c7f0ce858bbb7, 0xc22c6a70ad56bba6, 0xbed43740ee6332bb, 0xfa212ae44b3bb23d,
    0xd339dcc9ac8e6776, 0x71cabdc85da7ffa0, 0x2744460dd675d2c0, 0x994b676b71ce94dd, 0x572b84c18b983af8,
    0x08283fd40ee4f8c9, 0x97f078da7a1a590c, 0xb92f588ce720786e, 0xdadc8a6255b4829b, 0x574269377227d80a,
    0x09e6451ed2ff8b1d, 0x94ad0095e72b24d5, 0x1464f2eff23b5fe1, 0x712c39f6d1ed935e, 0x83ef9c758393e89d,
    0x67822fa80e0c8933, 0xfa6de19e99ff8d43, 0xa8d0ae04d79885f2, 0xcf65b69586b05fab, 0x0a3b0194f3afe0b8,
    0xe0fd072fff811c86, 0xc4f7372a7fb8f247, 0xfee26cac05aeecf0, 0x01a6f3d224fa7d3b, 0x161a3bc98afcf092,
    0x3f8796d7bfaaaa08, 0x6711d55e306b5d8f, 0x07f7b8e3bc5d6e25, 0x09f85eeb4e1cbe9f, 0x35284e7f91dd1ae5,
    0x25cc31e4544bc8c9, 0xe7ac625222f2b655, 0x1d8c3a2215085739, 0x1fb3064ed36c675f, 0xb13c137a0fb701c3,
    0xd25150177ba46490, 0x3ad8bb2779d9285e, 0xfe4ddab6e3d75ddc, 0x9d340603aa03cc62, 0xd02b2028c27a5329,
    0xff59426b0066066b, 0x713a114207f600e2, 0x79bd9d6dd8c15570, 0x2947de5e3a6afece, 0x43f1e784039912d3,
    0x072fa9968401e9c7, 0xc3c4ff0d8f66e206, 0x0efbc3939fa05814, 0x42be842d0902d7a7, 0x8a78b907c424dc46,
    0x8f8dc5b07f6d48ed, 0xa2acf5b431db2e52, 0x403200f5d0354116, 0xc326a3d65678339b, 0xa53b8e5bc9ff65a4,
    0x4cce586d8aca19e5, 0xbd3bd33486af6dc6, 0x4149dd403b20a2dc, 0xb7c9968c066cb6a5, 0x50d4159a0411632e,
    0xd277176bff863efc, 0x578ba93daaaa4333, 0x5c44ab49f377e73f, 0x0074fd38e968c15b, 0xdd2aa690f53212c8,
    0xa4b1256e6fd1d806, 0x363a593dc9d738d1, 0xcd82801d226eb2a5, 0x5d19a4c3f67b2bea, 0xbb7db43ea46e9a29,
    0xd608a44e07fe8624, 0x869e11664e92c3b4, 0x162ce6431a7eda2a, 0xf3cb7538a89612bb, 0xc3f3dc0bf60fd094,
    0x16538439a19ab93e, 0x71bf4a997e4bc698, 0x81f5f158a1769c15, 0x01f5909a472fea86, 0x6187bf0bf8dfa176,
    0x411b4022bb181b45, 0x8eb62f30a8fa66a5, 0xf4b43a97d47f5f98, 0x91b6179102c221c2, 0xe1a6e5a7b8596fdd,
    0xbda467ab983b5874, 0x81082eee7357b6b0, 0xf8f1612fd1c10a43, 0x44b5dc960d90d5bd, 0x64904fdd7296cc2e,
    0x928c35b989d3c594, 0x18c8f362eb735341, 0x7683defa1456dab5, 0xa4d9f00e9f94203c, 0x285a4a54a4a84ab4,
    0x9ddada11d3dc2d8f};

TEST(Xxh64, EveryShortLength) {
    const std::vector<std::byte> bytes = pattern(kByLength.size());
    for (std::size_t n = 0; n < kByLength.size(); ++n)
        EXPECT_EQ(xxh64(std::span(bytes).first(n)), kByLength[n]) << "length " << n;
}

TEST(Xxh64, LongInputs) {
    const std::vector<std::byte> bytes = pattern(1 << 20);
    EXPECT_EQ(xxh64(std::span(bytes).first(4096)), 0xc61a25af7e617211u);
    EXPECT_EQ(xxh64(std::span(bytes).first(65537)), 0xe19df42a39bffd4bu);
    EXPECT_EQ(xxh64(std::span(bytes).first(1048576)), 0x45c417fb6ab1c6a4u);
}

TEST(Xxh64, ThePublishedTextVectors) {
    const auto of = [](std::string_view words) { return xxh64(std::as_bytes(std::span(words))); };
    EXPECT_EQ(of("a"), 0xd24ec4f1a98c6e5bu);
    EXPECT_EQ(of("abc"), 0x44bc2cf5ad770999u);
    EXPECT_EQ(of("Nobody inspects the spammish repetition"), 0xfbcea83c8a378bf1u);
}

TEST(Xxh64, AddressDoesNotMatter) {
    const std::vector<std::byte> bytes = pattern(100);
    for (std::size_t shift = 0; shift < 16; ++shift) {
        std::vector<std::byte> moved(bytes.size() + shift);
        std::memcpy(moved.data() + shift, bytes.data(), bytes.size());
        EXPECT_EQ(xxh64(std::span(moved).subspan(shift)), kByLength[100]) << "shift " << shift;
    }
}

TEST(Xxh64, EveryBitCounts) {
    std::vector<std::byte> bytes = pattern(77);
    const std::uint64_t whole = xxh64(bytes);
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        const std::byte mask{static_cast<unsigned char>(1u << bit % 8)};
        bytes[bit / 8] ^= mask;
        EXPECT_NE(xxh64(bytes), whole) << "bit " << bit;
        bytes[bit / 8] ^= mask;
    }
}

}  // namespace
}  // namespace moestro
