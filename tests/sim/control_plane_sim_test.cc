// The loan protocol under random load and a bad network, then the scenarios that must not deadlock. Method:
// see sim_cluster.h. LOMBARD_SIM_SEED replays one seed, LOMBARD_SIM_SEEDS sets how many are run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/sim/sim_cluster.h"

namespace lombard {
namespace {

std::vector<uint64_t> Seeds() {
  if (const char* one = std::getenv("LOMBARD_SIM_SEED")) return {std::strtoull(one, nullptr, 10)};
  const char* many = std::getenv("LOMBARD_SIM_SEEDS");
  std::vector<uint64_t> seeds(many != nullptr ? std::strtoull(many, nullptr, 10) : 200);
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i] = i;
  return seeds;
}

absl::Time At(int64_t milliseconds) { return absl::UnixEpoch() + absl::Milliseconds(milliseconds); }

// What a request at `home` may use at most, as the engine would compute it.
uint32_t Capacity(const SimOptions& options, uint32_t home) {
  uint32_t blocks = 0;
  for (uint32_t i = 0; i < options.pools.size(); ++i) {
    blocks +=
        i == home ? options.pools[i] : LendableBlocksMax(options.pools[i], options.reserve, options.lent_max);
  }
  return blocks;
}

TEST(ControlPlaneSim, NoBlockIsLostOrSharedUnderFaultsAndEverybodyIsServed) {
  uint64_t loans = 0, refusals = 0, preemptions = 0, moves = 0, expired = 0, stale = 0;
  for (uint64_t seed : Seeds()) {
    SCOPED_TRACE(testing::Message() << "replay with LOMBARD_SIM_SEED=" << seed);
    std::mt19937_64 random(seed);
    const auto draw = [&](uint32_t low, uint32_t high) {
      return low + static_cast<uint32_t>(random() % (high - low + 1));
    };
    SimOptions options{.seed = seed, .reserve = 0.05 * draw(0, 3), .lent_max = 0.1 * draw(5, 10)};
    for (uint32_t n = draw(2, 8); n > 0; --n) options.pools.push_back(draw(4, 48));
    options.loss = draw(0, 2) == 0 ? 0.01 * draw(1, 5) : 0;
    options.duplicate = draw(0, 2) == 0 ? 0.01 * draw(1, 10) : 0;
    options.overtake = draw(0, 3) == 0;
    SimCluster sim(options);
    for (uint32_t number = 1, count = draw(10, 50); number <= count; ++number) {
      const uint32_t home = draw(0, options.pools.size() - 1), capacity = Capacity(options, home);
      const uint32_t blocks =
          draw(0, 3) == 0 ? draw(1, capacity) : draw(1, std::max(1u, options.pools[home] / 4));
      const uint32_t arrival = draw(0, 5000);
      sim.Submit({.id = {arrival * uint64_t{1000}, number},
                  .home = InstanceId{home},
                  .blocks = blocks,
                  .growth = draw(0, std::min(6u, capacity - blocks)),
                  .run_time = absl::Milliseconds(draw(0, 19) == 0 ? draw(3000, 9000) : draw(10, 500)),
                  .arrival = At(arrival)});
    }
    sim.Run(absl::Seconds(5));
    const bool done_in_time = sim.RunUntilDone(absl::Seconds(300));
    ASSERT_TRUE(sim.verdict().ok()) << sim.verdict() << "\n" << sim.Describe();
    ASSERT_TRUE(done_in_time) << sim.Describe();
    sim.HealNetwork();
    sim.Run(absl::Seconds(8));  // longer than a lease
    ASSERT_TRUE(sim.verdict().ok()) << sim.verdict() << "\n" << sim.Describe();
    ASSERT_TRUE(sim.CheckSettled().ok()) << sim.CheckSettled() << "\n" << sim.Describe();
    for (size_t i = 0; i < options.pools.size(); ++i) {
      const RManager::Counters c = sim.manager(i).counters();
      loans += c.granted;
      refusals += c.refused;
      expired += c.expired;
      stale += c.stale;
      preemptions += sim.engine(i).preemptions();
      moves += sim.engine(i).moves();
    }
  }
  std::printf("loans %lu, refused %lu, expired reservations %lu, preemptions %lu, moves %lu, stale %lu\n",
              loans, refusals, expired, preemptions, moves, stale);
  if (Seeds().size() >= 200) {  // the runs must have met what they are for
    EXPECT_GT(loans, 1000);
    EXPECT_GT(refusals, 100);
    EXPECT_GT(expired, 0);
    EXPECT_GT(preemptions, 100);
    EXPECT_GT(moves, 10);
  }
}

TEST(ControlPlaneSim, TheSameSeedGivesTheSameRun) {
  const auto run = [] {
    SimOptions options{.seed = 7, .pools = {20, 10, 30}, .loss = 0.02, .duplicate = 0.02};
    SimCluster sim(options);
    for (uint32_t i = 1; i <= 30; ++i) {
      sim.Submit({.id = {i, i},
                  .home = InstanceId{i % 3},
                  .blocks = 1 + i % 25,
                  .growth = 2,
                  .run_time = absl::Milliseconds(50),
                  .arrival = At(i)});
    }
    sim.RunUntilDone(absl::Seconds(100));
    return std::pair(sim.now(), sim.events());
  };
  EXPECT_EQ(run(), run());
}

SimOptions Uneven(uint64_t seed) {
  return {.seed = seed, .pools = {20, 40, 80, 20}, .reserve = 0, .lent_max = 1};  // 1:2:4:1, the sum is 160
}

TEST(ControlPlaneSim, ARequestOfNearlyTheWholeSumIsServed) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    SimCluster sim(Uneven(seed));
    for (uint32_t home = 0; home < 4; ++home) {
      sim.Submit({.id = {1, home},
                  .home = InstanceId{home},
                  .blocks = 152,
                  .growth = 8,
                  .run_time = absl::Milliseconds(200),
                  .arrival = At(0)});
    }
    ASSERT_TRUE(sim.RunUntilDone(absl::Seconds(60))) << sim.verdict() << "\n" << sim.Describe();
    sim.Run(absl::Seconds(8));
    ASSERT_TRUE(sim.CheckSettled().ok()) << sim.CheckSettled();
  }
}

TEST(ControlPlaneSim, EightRequestsOfMostOfTheSumTogetherWithShortOnesAllComplete) {
  absl::Duration longest, short_wait_max;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    SimOptions options = Uneven(seed);
    options.duplicate = seed % 2 * 0.05;
    options.loss = seed % 3 == 2 ? 0.02 : 0;
    SimCluster sim(options);
    uint64_t number = 0;
    for (uint32_t i = 0; i < 8; ++i) {  // 60 % of the sum, two per instance, at the same moment
      sim.Submit({.id = {1000, ++number},
                  .home = InstanceId{i % 4},
                  .blocks = 94,
                  .growth = 2,
                  .run_time = absl::Milliseconds(500),
                  .arrival = At(1)});
    }
    for (uint32_t i = 0; i < 60; ++i) {
      sim.Submit({.id = {1000 + i * 50000, ++number},
                  .home = InstanceId{i % 4},
                  .blocks = 1 + i % 3,
                  .growth = 1,
                  .run_time = absl::Milliseconds(100),
                  .arrival = At(1 + i * 50)});
    }
    ASSERT_TRUE(sim.RunUntilDone(absl::Seconds(60))) << sim.verdict() << "\n" << sim.Describe();
    longest = std::max(longest, sim.now() - absl::UnixEpoch());
    sim.Run(absl::Seconds(8));
    ASSERT_TRUE(sim.CheckSettled().ok()) << sim.CheckSettled() << "\n" << sim.Describe();
  }
  std::printf("last of 68 requests done after at most %s; the giants alone take %s one after the other\n",
              absl::FormatDuration(longest).c_str(),
              absl::FormatDuration(8 * absl::Milliseconds(500)).c_str());
}

TEST(ControlPlaneSim, AStreamOfShortRequestsNeitherStarvesNorStopsBehindAGiant) {
  SimCluster sim({.seed = 3, .pools = {40, 40}, .reserve = 0, .lent_max = 1});
  // Two giants: the second waits for the first. Short ones keep coming to both homes, more than would fit if
  // all were let in.
  sim.Submit(
      {.id = {0, 1}, .home = InstanceId{0}, .blocks = 50, .run_time = absl::Seconds(4), .arrival = At(0)});
  sim.Submit(
      {.id = {1, 2}, .home = InstanceId{1}, .blocks = 60, .run_time = absl::Seconds(1), .arrival = At(0)});
  uint64_t number = 2;
  for (uint32_t i = 0; i < 200; ++i) {
    sim.Submit({.id = {1000 + i * 50000, ++number},
                .home = InstanceId{i % 2},
                .blocks = 3,
                .run_time = absl::Milliseconds(400),
                .arrival = At(500 + i * 50)});
  }
  sim.Run(absl::Seconds(4));
  uint64_t short_done = 0;
  for (int i = 0; i < 2; ++i) {
    for (const auto& [id, state] : sim.engine(i).requests()) {
      short_done += id.number > 2 && state.phase == SimEngine::Phase::kDone;
    }
  }
  EXPECT_GT(short_done, 20) << "short ones flow while the second giant waits\n" << sim.Describe();
  sim.Run(absl::Seconds(2));
  const SimEngine::State& second = sim.engine(1).requests().at({1, 2});
  EXPECT_NE(second.phase, SimEngine::Phase::kWaiting) << "the short ones must not keep it out\n"
                                                      << sim.Describe();
  ASSERT_TRUE(sim.RunUntilDone(absl::Seconds(60))) << sim.Describe();
}

}  // namespace
}  // namespace lombard
