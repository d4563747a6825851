// What a simulated cluster goes through: its shape, its requests, its faults. Drawn from a seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/planted_bug.h"

namespace lombard::sim {

struct SimRequest {
  uint64_t number = 0;
  absl::Time arrival;
  std::vector<int32_t> prompt;
  uint32_t max_tokens = 1;
  std::string salt;  // of a tenant
  int home = -1;     // instead of the front door's choice; -1: none
};

// Something that happens to the cluster from outside. `b` < 0: it concerns `a` alone.
struct Fault {
  enum class Kind : uint8_t {
    kKill,     // the process at `a` is gone; another one starts after `lasts`
    kStop,     // it is stopped for `lasts` (SIGSTOP, SIGCONT)
    kCut,      // messages a -> b wait for `lasts`
    kCutBoth,  // both ways
    kIsolate,  // all messages from and to `a` wait for `lasts`
    kBreak,    // the connection a - b breaks
    kSlow,     // messages a -> b take up to 50 ms, for `lasts`
    kDrain,    // the process at `a` is told to leave within `wait`; another one comes after `lasts`
    kJoin,     // a process comes that takes any place
  };
  Kind kind;
  absl::Time at;
  int a = 0, b = -1;
  absl::Duration lasts;
  absl::Duration wait;
  bool breaks = false;  // kCut, kCutBoth: then the connection breaks, and what waited is lost
};

struct Scenario {
  uint64_t seed = 0;
  std::vector<uint32_t> pools;  // blocks, by instance
  int expected = 0;             // the first of them start; the other places are vacant
  uint32_t block_tokens = 4;
  double reserve = 0.05, lent_max = 0.8, guard = 0.05;
  bool prefix_cache = true;
  double row_keys = 2;  // what a row attended elsewhere costs, in keys' bytes
  double duplicate = 0;
  absl::Duration step_max = absl::Milliseconds(20);
  absl::Duration recall_after = absl::Milliseconds(250);
  std::vector<SimRequest> requests;
  std::vector<Fault> faults;
  absl::Duration length = absl::Seconds(5);  // of arrivals and faults
  PlantedBug bug = PlantedBug::kNone;
};

Scenario DrawScenario(uint64_t seed);
// Two or three workers with hardly more memory than the requests want, and no faults: many recalls.
Scenario DrawCrowdedScenario(uint64_t seed);
std::string Describe(const Fault& fault);

}  // namespace lombard::sim
