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

// Where it goes; all tests but those of charges.
std::optional<InstanceId> Pick(Router& router, uint64_t tokens, std::optional<InstanceId> wanted = {},
                               std::vector<uint64_t> cached = {}) {
  const auto choice = router.Pick(tokens, wanted, cached);
  return choice.has_value() ? std::optional(choice->home) : std::nullopt;
}

TEST(Router, GivesToWhereTheWorkIsSmallestForTheMemory) {
  Router router = MakeRouter();
  EXPECT_EQ(Pick(router, 40), k2);
  EXPECT_EQ(Pick(router, 40), k2);  // 80 of 400 is less than 40 of 100
  EXPECT_EQ(Pick(router, 40), k2);
  EXPECT_EQ(Pick(router, 40), k0);  // ties go to the lowest id
}

TEST(Router, DoneTakesTheChargeBack) {
  Router router({{.capacity = 100}, {.capacity = 100}});
  EXPECT_EQ(Pick(router, 10), k0);
  EXPECT_EQ(Pick(router, 10), k1);
  router.Done({k1, 10});
  EXPECT_EQ(Pick(router, 10), k1);
}

TEST(Router, ALongRequestGoesToWhoCanHoldIt) {
  Router router = MakeRouter();
  EXPECT_EQ(router.Reachable(k0), 350u);
  EXPECT_EQ(router.Reachable(k2), 500u);
  EXPECT_EQ(router.ReachableMax(), 500u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Pick(router, 450), k2);
}

TEST(Router, WhatNobodyCouldEverHoldGoesToWhoComesClosest) {
  Router router = MakeRouter();
  EXPECT_EQ(Pick(router, 501), k2);
  router.SetAlive(k2, false);
  EXPECT_EQ(Pick(router, 501), k0);
}

TEST(Router, WaitsForThoseThatCouldHoldIt) {
  Router router = MakeRouter();
  router.SetAlive(k2, false);
  EXPECT_EQ(router.Reachable(k0), 150u);
  EXPECT_EQ(router.ReachableMax(), 500u);
  EXPECT_EQ(router.Pick(450), std::nullopt);
  EXPECT_EQ(Pick(router, 150), k0);
  router.SetAlive(k2, true);
  EXPECT_EQ(Pick(router, 450), k2);
}

TEST(Router, TakesTheWantedOneIfItIsAlive) {
  Router router = MakeRouter();
  EXPECT_EQ(Pick(router, 450, k1), k1);
  EXPECT_EQ(Pick(router, 450, k1), k1);
  router.SetAlive(k1, false);
  EXPECT_EQ(Pick(router, 450, k1), k2);
}

TEST(Router, WithNobodyAliveThereIsNoHome) {
  Router router = MakeRouter();
  for (InstanceId i : {k0, k1, k2}) router.SetAlive(i, false);
  EXPECT_FALSE(router.IsAlive(k0));
  EXPECT_EQ(router.Pick(1), std::nullopt);
  EXPECT_EQ(router.Pick(501), std::nullopt);
}

TEST(Router, GoesWhereThePrefixIsUntilAnotherHasSoMuchLessToDo) {
  Router router({{.capacity = 10000}, {.capacity = 10000}});
  EXPECT_EQ(router.Pick(1050), (Router::Choice{k0, 1050}));
  // 50 more tokens each beside 1,000 that are there: twice 1,000 are the price of leaving.
  int stayed = 0;
  while (Pick(router, 1050, {}, {1000, 0}) == k0) ++stayed;
  EXPECT_EQ(stayed, 20);
  // Now both have it: the second catches up, then they take turns.
  int caught_up = 0;
  while (Pick(router, 1050, {}, {1000, 1000}) == k1) ++caught_up;
  EXPECT_EQ(caught_up, 20);
  EXPECT_EQ(Pick(router, 1050, {}, {1000, 1000}), k1);
  EXPECT_EQ(Pick(router, 1050, {}, {1000, 1000}), k0);
}

TEST(Router, PromptsInTreeOrderStayTogetherAndSpread) {
  Router router({{.capacity = 10000}, {.capacity = 10000}, {.capacity = 10000}});
  std::vector<int> groups(3, 0);
  for (int group = 0; group < 12; ++group) {
    const InstanceId home = *Pick(router, 350);
    ++groups[Value(home)];
    std::vector<uint64_t> cached(3, 0);
    cached[Value(home)] = 300;
    for (int question = 0; question < 3; ++question) EXPECT_EQ(Pick(router, 350, {}, cached), home);
  }
  EXPECT_EQ(groups, (std::vector<int>{4, 4, 4}));
}

TEST(Router, ChargesWhatIsNewAndTakesJustThatBack) {
  Router router({{.capacity = 10000}, {.capacity = 10000}});
  const std::vector<uint64_t> cached = {900, 0};
  const auto choice = router.Pick(1000, {}, cached);
  EXPECT_EQ(choice, (Router::Choice{k0, 100}));
  EXPECT_EQ(Pick(router, 50), k1);
  router.Done(*choice);
  EXPECT_EQ(Pick(router, 10), k0);
}

}  // namespace
}  // namespace lombard
