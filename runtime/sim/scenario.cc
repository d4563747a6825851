#include "runtime/sim/scenario.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "rmanager/lent_ledger.h"
#include "runtime/sim/random.h"
#include "runtime/sim/symbolic_machine.h"

namespace lombard::sim {
namespace {

constexpr uint32_t kPoolMax = 32;  // blocks

absl::Time At(absl::Duration since_start) { return absl::UnixEpoch() + since_start; }

uint64_t BlocksReachable(const Scenario& s, size_t home) {
  uint64_t blocks = 0;
  for (size_t i = 0; i < s.pools.size(); ++i)
    blocks += i == home ? s.pools[i] : LendableBlocksMax(s.pools[i], s.reserve, s.lent_max);
  return blocks;
}

uint32_t LongestRequest(const Scenario& s) {  // tokens; at the home that reaches most
  uint64_t reachable = 0;
  for (size_t home = 0; home < s.pools.size(); ++home)
    reachable = std::max(reachable, BlocksReachable(s, home));
  return static_cast<uint32_t>(std::min<uint64_t>(reachable, 160)) * s.block_tokens;
}

void DrawRequests(SimRandom& random, uint32_t count, Scenario* s) {
  const uint32_t longest = LongestRequest(*s);
  const uint32_t short_max = std::max(2u, s->pools[0] * s->block_tokens / 4);
  std::vector<int32_t> common(longest);
  for (int32_t& token : common) token = static_cast<int32_t>(random.Below(kVocabulary));
  const double long_share = random.Chance(0.5) ? 0.25 : 0.6;
  for (uint64_t number = 1; number <= count; ++number) {
    SimRequest request{.number = number,
                       .arrival = At(random.Between(absl::ZeroDuration(), s->length * 0.8))};
    const uint32_t total = random.Chance(long_share) ? random.Between(2, longest)
                                                     : random.Between(2, std::min(short_max, longest));
    request.max_tokens = random.Between(1, std::min(total - 1, 40u));
    for (uint32_t i = 0; i < total - request.max_tokens; ++i)
      request.prompt.push_back(static_cast<int32_t>(random.Below(kVocabulary)));
    if (random.Chance(0.3)) {  // begins like others
      const uint32_t same = random.Between(0, static_cast<uint32_t>(request.prompt.size()));
      std::copy(common.begin(), common.begin() + same, request.prompt.begin());
    }
    s->requests.push_back(std::move(request));
  }
}

// Tenants; prompts that go on where earlier ones end, some while those are computed; requests sent elsewhere
// than where their beginning is.
void DrawSharing(SimRandom& random, Scenario* s) {
  if (random.Chance(0.4)) return;
  const uint32_t longest = LongestRequest(*s);
  std::vector<size_t> by_arrival(s->requests.size());
  std::iota(by_arrival.begin(), by_arrival.end(), size_t{0});
  std::stable_sort(by_arrival.begin(), by_arrival.end(),
                   [&](size_t a, size_t b) { return s->requests[a].arrival < s->requests[b].arrival; });
  for (size_t i = 1; i < by_arrival.size(); ++i) {
    SimRequest& request = s->requests[by_arrival[i]];
    if (random.Chance(0.2)) request.salt = "another";
    if (random.Chance(0.8)) {
      const SimRequest& earlier = s->requests[by_arrival[random.Below(i)]];
      if (random.Chance(0.3)) request.arrival = earlier.arrival + absl::Milliseconds(random.Between(0, 20));
      std::vector<int32_t> prompt = earlier.prompt;
      const size_t own = std::min<size_t>(request.prompt.size(), random.Between(1, 3 * s->block_tokens));
      prompt.insert(prompt.end(), request.prompt.end() - static_cast<int64_t>(own), request.prompt.end());
      if (prompt.size() + request.max_tokens <= longest) request.prompt = std::move(prompt);
    }
    const int home = static_cast<int>(random.Below(s->pools.size()));
    if (random.Chance(0.6) && BlocksReachable(*s, static_cast<size_t>(home)) * s->block_tokens >=
                                  request.prompt.size() + request.max_tokens) {
      request.home = home;
    }
  }
}

Fault DrawFault(SimRandom& random, const Scenario& s, bool of_links) {
  using Kind = Fault::Kind;
  const uint32_t last = static_cast<uint32_t>(s.pools.size()) - 1;
  constexpr Kind kOfLinks[] = {Kind::kCut, Kind::kCutBoth, Kind::kBreak, Kind::kSlow};
  Fault fault{.kind = of_links ? kOfLinks[random.Below(4)] : static_cast<Kind>(random.Below(7)),
              .at = At(random.Between(absl::Milliseconds(100), s.length)),
              .lasts = random.Between(absl::Milliseconds(20), std::max(absl::Seconds(4), s.length))};
  const bool of_process =
      fault.kind == Kind::kKill || fault.kind == Kind::kStop || fault.kind == Kind::kIsolate;
  const uint32_t first = of_process || of_links ? 1 : 0;  // who loses rank 0 ends
  fault.a = static_cast<int>(random.Between(first, last));
  if (of_process) return fault;
  fault.b = static_cast<int>(random.Between(first, last - 1));
  if (fault.b >= fault.a) ++fault.b;
  fault.breaks = random.Chance(0.4);
  return fault;
}

// Of all kinds; or many, of links between living workers alone; or deaths alone, soon after each other.
void DrawFaults(SimRandom& random, Scenario* s) {
  if (random.Chance(0.15)) {
    const uint32_t last = static_cast<uint32_t>(s->pools.size()) - 1;
    for (uint32_t count = random.Between(2, 8); count > 0; --count) {
      s->faults.push_back({.kind = Fault::Kind::kKill,
                           .at = At(random.Between(s->length * 0.2, s->length)),
                           .a = static_cast<int>(random.Between(1, last)),
                           .lasts = random.Between(absl::Milliseconds(20), absl::Seconds(1))});
    }
    return;
  }
  const bool of_links = s->pools.size() > 2 && random.Chance(0.4);
  for (uint32_t count = of_links ? random.Between(4, 24) : random.Between(1, 8); count > 0; --count)
    s->faults.push_back(DrawFault(random, *s, of_links));
  std::stable_sort(s->faults.begin(), s->faults.end(),
                   [](const Fault& a, const Fault& b) { return a.at < b.at; });
}

// Workers that come and go on purpose. From draws of its own, after everything else.
void DrawMembership(SimRandom random, Scenario* s) {
  using Kind = Fault::Kind;
  s->expected = static_cast<int>(s->pools.size());
  if (random.Chance(0.5)) return;
  for (uint32_t i = random.Between(0, 2); i > 0; --i) s->pools.push_back(kPoolMax);
  for (uint32_t i = random.Between(1, 4); i > 0; --i) {
    Fault fault{.kind = random.Chance(0.6) ? Kind::kDrain : Kind::kJoin,
                .at = At(random.Between(absl::Milliseconds(100), s->length)),
                .a = static_cast<int>(random.Between(1, static_cast<uint32_t>(s->expected) - 1)),
                .lasts = random.Between(absl::Milliseconds(1), absl::Seconds(2)),
                .wait = random.Between(absl::Milliseconds(200), absl::Seconds(6))};
    s->faults.push_back(fault);
  }
  std::stable_sort(s->faults.begin(), s->faults.end(),
                   [](const Fault& a, const Fault& b) { return a.at < b.at; });
}

// One beginning that nearly everybody reads, most at one instance, and copies that are dear.
Scenario DrawHotScenario(uint64_t seed) {
  SimRandom random(seed);
  Scenario s{.seed = seed, .row_keys = 0.25};
  for (uint32_t size = random.Between(2, 5); size > 0; --size)
    s.pools.push_back(random.Between(16, kPoolMax));
  s.guard = random.Chance(0.5) ? 0.05 : 1;
  s.step_max = absl::Milliseconds(random.Between(2, 20));
  s.length = absl::Seconds(random.Between(3, 6));
  std::vector<int32_t> head(s.block_tokens * random.Between(2, 8));
  for (int32_t& token : head) token = static_cast<int32_t>(random.Below(kVocabulary));
  for (uint64_t number = random.Between(20, 60); number > 0; --number) {
    SimRequest request{.number = number,
                       .arrival = At(random.Between(absl::ZeroDuration(), s.length * 0.8)),
                       .max_tokens = random.Between(1, 60)};
    if (random.Chance(0.9)) request.prompt = head;
    for (uint32_t own = random.Between(1, 8); own > 0; --own)
      request.prompt.push_back(static_cast<int32_t>(random.Below(kVocabulary)));
    request.home = random.Chance(0.6) ? 0 : static_cast<int>(random.Below(s.pools.size()));
    s.requests.push_back(std::move(request));
  }
  if (random.Chance(0.5)) DrawFaults(random, &s);
  DrawMembership(SimRandom(seed ^ 0x301d), &s);
  return s;
}

}  // namespace

Scenario DrawScenario(uint64_t seed) {
  if (seed % 16 == 15) return DrawHotScenario(seed);
  SimRandom random(seed);
  Scenario s{.seed = seed};
  const uint32_t kind = random.Between(1, 100);
  const uint32_t size = kind <= 75   ? random.Between(2, 5)
                        : kind <= 98 ? random.Between(6, 12)
                                     : random.Between(13, 64);
  for (uint32_t i = 0; i < size; ++i) s.pools.push_back(random.Between(4, kPoolMax));
  s.reserve = 0.05 * random.Between(0, 3);
  s.lent_max = 0.1 * random.Between(5, 10);
  s.guard = random.Chance(0.5) ? 0.05 : 0.1 * random.Between(1, 10);
  s.prefix_cache = random.Chance(0.7);
  s.duplicate = random.Chance(0.3) ? 0.01 * random.Between(1, 10) : 0;
  s.step_max = absl::Milliseconds(random.Between(2, 30));
  // In a long one, links can be cut for longer than a recall may take.
  s.length = absl::Seconds(random.Chance(0.85) ? random.Between(2, 6) : random.Between(8, 12));
  DrawRequests(random, random.Between(4, 24), &s);
  SimRandom sharing(~seed);
  DrawSharing(sharing, &s);
  if (random.Chance(0.85)) DrawFaults(random, &s);
  DrawMembership(SimRandom(seed ^ 0x301d), &s);
  return s;
}

Scenario DrawCrowdedScenario(uint64_t seed) {
  SimRandom random(seed);
  Scenario s{.seed = seed, .lent_max = 0.9};
  for (uint32_t size = random.Between(2, 3); size > 0; --size) s.pools.push_back(random.Between(8, 20));
  s.step_max = absl::Milliseconds(random.Between(2, 20));
  s.recall_after = absl::Milliseconds(10);
  s.length = absl::Seconds(2);
  DrawRequests(random, 100, &s);
  s.expected = static_cast<int>(s.pools.size());
  return s;
}

std::string Describe(const Fault& fault) {
  const std::string lasts = absl::StrCat(" for ", absl::FormatDuration(fault.lasts));
  const char* end = fault.breaks ? ", then their connection breaks" : "";
  switch (fault.kind) {
    case Fault::Kind::kKill:
      return absl::StrCat("rank ", fault.a, " is killed; another process starts after ",
                          absl::FormatDuration(fault.lasts));
    case Fault::Kind::kStop:
      return absl::StrCat("rank ", fault.a, " is stopped", lasts);
    case Fault::Kind::kCut:
      return absl::StrCat("messages ", fault.a, " -> ", fault.b, " wait", lasts, end);
    case Fault::Kind::kCutBoth:
      return absl::StrCat("messages ", fault.a, " <-> ", fault.b, " wait", lasts, end);
    case Fault::Kind::kIsolate:
      return absl::StrCat("rank ", fault.a, " is cut from all", lasts);
    case Fault::Kind::kBreak:
      return absl::StrCat("the connection ", fault.a, " - ", fault.b, " breaks");
    case Fault::Kind::kDrain:
      return absl::StrCat("rank ", fault.a, " is told to leave within ", absl::FormatDuration(fault.wait));
    case Fault::Kind::kJoin:
      return "a process comes to join";
    case Fault::Kind::kSlow:
      return absl::StrCat("messages ", fault.a, " -> ", fault.b, " are slow", lasts);
  }
  return "?";
}

}  // namespace lombard::sim
