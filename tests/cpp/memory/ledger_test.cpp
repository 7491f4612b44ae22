#include "memory/ledger.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/bytes.h"
#include "base/error.h"

namespace moestro::memory {
namespace {

ErrorKind kind_of(const std::function<void()>& call, std::string* message = nullptr) {
    try {
        call();
    } catch (const Error& error) {
        if (message) *message = error.what();
        return error.kind();
    }
    ADD_FAILURE() << "no error";
    return ErrorKind::internal;
}

TEST(Ledger, KeepsNamesPeaksAndTheSum) {
    Ledger ledger(1000);
    ledger.take("trunk", 300);
    ledger.take("kv", 500);
    ledger.take("trunk", 100);
    ledger.give("kv", 450);
    EXPECT_EQ(ledger.held(), 450u);
    EXPECT_EQ(ledger.free(), 550u);
    EXPECT_EQ(ledger.peak(), 900u);
    const auto entries = ledger.entries();
    ASSERT_EQ(entries.size(), 2u);
    EXPECT_EQ(entries[0].name, "kv");
    EXPECT_EQ(entries[0].bytes, 50u);
    EXPECT_EQ(entries[0].peak, 500u);
    EXPECT_EQ(entries[1].bytes, 400u);
    ledger.check_integrity();
}

TEST(Ledger, RefusesWithTheArithmetic) {
    Ledger ledger(10 << 20);
    ledger.take("trunk", 4 << 20);
    ledger.take("staging", 1 << 20);
    std::string message;
    EXPECT_EQ(kind_of([&] { ledger.take("expert slots", 8 << 20); }, &message), ErrorKind::budget);
    for (const char* part : {"10.0 MiB", "8.00 MiB of expert slots", "5.00 MiB free",
                             "3.00 MiB (3145728 bytes) missing", "staging 1.00 MiB + trunk 4.00 MiB"})
        EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    EXPECT_EQ(ledger.held(), std::size_t{5} << 20) << "a refused reservation takes nothing";
    EXPECT_FALSE(ledger.try_take("kv", (5 << 20) + 1));
    EXPECT_TRUE(ledger.try_take("kv", 5 << 20));
    EXPECT_EQ(ledger.free(), 0u);
    ledger.check_integrity();
}

TEST(Ledger, HugeRequestsDoNotWrapAround) {
    Ledger ledger(1000);
    ledger.take("trunk", 10);
    EXPECT_FALSE(ledger.try_take("kv", ~std::size_t{0}));
    EXPECT_EQ(ledger.held(), 10u);
}

TEST(Ledger, GivingBackMoreThanHeldIsABug) {
    Ledger ledger(100);
    ledger.take("kv", 10);
    EXPECT_EQ(kind_of([&] { ledger.give("kv", 11); }), ErrorKind::internal);
    EXPECT_EQ(kind_of([&] { ledger.give("trunk", 1); }), ErrorKind::internal);
    EXPECT_EQ(ledger.held(), 10u);
}

TEST(Ledger, ThreadsNeverPassTheBudget) {
    Ledger ledger(64);
    const auto work = [&] {
        for (int i = 0; i < 5000; ++i)
            if (ledger.try_take("kv", 40)) ledger.give("kv", 40);
    };
    std::thread other(work);
    work();
    other.join();
    EXPECT_EQ(ledger.held(), 0u);
    EXPECT_EQ(ledger.peak(), 40u);
    ledger.check_integrity();
}

TEST(Reservation, HoldsAsLongAsItLivesAndMoves) {
    auto ledger = std::make_shared<Ledger>(100);
    {
        Reservation first(ledger, "trunk", 60);
        Reservation second = std::move(first);
        EXPECT_EQ(ledger->held(), 60u);
        EXPECT_EQ(second.bytes(), 60u);
        EXPECT_FALSE(second.try_resize(101));
        EXPECT_EQ(ledger->held(), 60u);
        EXPECT_TRUE(second.try_resize(100));
        EXPECT_TRUE(second.try_resize(30));
        EXPECT_EQ(ledger->held(), 30u);
        EXPECT_EQ(kind_of([&] { Reservation(ledger, "kv", 71); }), ErrorKind::budget);
    }
    EXPECT_EQ(ledger->held(), 0u);
    ledger->check_integrity();
}

TEST(BytesText, ThreeDigitsAndBinaryUnits) {
    EXPECT_EQ(bytes_text(0), "0 bytes");
    EXPECT_EQ(bytes_text(1023), "1023 bytes");
    EXPECT_EQ(bytes_text(1536), "1.50 KiB");
    EXPECT_EQ(bytes_text(std::size_t{20} << 20), "20.0 MiB");
    EXPECT_EQ(bytes_text(std::size_t{300} << 30), "300 GiB");
}

}  // namespace
}  // namespace moestro::memory
