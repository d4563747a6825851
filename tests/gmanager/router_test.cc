#include "gmanager/router.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

constexpr InstanceId k0{0}, k1{1}, k2{2};

// Pools of 100, 100 and 400 tokens; each lends half.
Router MakeRouter() {
  return Router({{.capacity = 100, .lendable = 50},
                 {.capacity = 100, .lendable = 50},
                 {.capacity = 400, .lendable = 200}});
}

TEST(Router, GivesToWhereTheWorkIsSmallestForTheMemory) {
  Router router = MakeRouter();
  EXPECT_EQ(router.Pick(40), k2);
  EXPECT_EQ(router.Pick(40), k2);  // 80 of 400 is less than 40 of 100
  EXPECT_EQ(router.Pick(40), k2);
  EXPECT_EQ(router.Pick(40), k0);  // ties go to the lowest id
}

TEST(Router, DoneTakesTheChargeBack) {
  Router router({{.capacity = 100}, {.capacity = 100}});
  EXPECT_EQ(router.Pick(10), k0);
  EXPECT_EQ(router.Pick(10), k1);
  router.Done(k1, 10);
  EXPECT_EQ(router.Pick(10), k1);
}

TEST(Router, ALongRequestGoesToWhoCanHoldIt) {
  Router router = MakeRouter();
  EXPECT_EQ(router.Reachable(k0), 350u);
  EXPECT_EQ(router.Reachable(k2), 500u);
  EXPECT_EQ(router.ReachableMax(), 500u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(router.Pick(450), k2);
}

TEST(Router, WhatNobodyCouldEverHoldGoesToWhoComesClosest) {
  Router router = MakeRouter();
  EXPECT_EQ(router.Pick(501), k2);
  router.SetAlive(k2, false);
  EXPECT_EQ(router.Pick(501), k0);
}

TEST(Router, WaitsForThoseThatCouldHoldIt) {
  Router router = MakeRouter();
  router.SetAlive(k2, false);
  EXPECT_EQ(router.Reachable(k0), 150u);
  EXPECT_EQ(router.ReachableMax(), 500u);
  EXPECT_EQ(router.Pick(450), std::nullopt);
  EXPECT_EQ(router.Pick(150), k0);
  router.SetAlive(k2, true);
  EXPECT_EQ(router.Pick(450), k2);
}

TEST(Router, TakesTheWantedOneIfItIsAlive) {
  Router router = MakeRouter();
  EXPECT_EQ(router.Pick(450, k1), k1);
  EXPECT_EQ(router.Pick(450, k1), k1);
  router.SetAlive(k1, false);
  EXPECT_EQ(router.Pick(450, k1), k2);
}

TEST(Router, WithNobodyAliveThereIsNoHome) {
  Router router = MakeRouter();
  for (InstanceId i : {k0, k1, k2}) router.SetAlive(i, false);
  EXPECT_FALSE(router.IsAlive(k0));
  EXPECT_EQ(router.Pick(1), std::nullopt);
  EXPECT_EQ(router.Pick(501), std::nullopt);
}

}  // namespace
}  // namespace lombard
