// lombard-sim-fuzz: runs seeds of the cluster simulation.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "runtime/sim/cluster.h"

namespace {

using namespace lombard;
using namespace lombard::sim;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Add(const SimStats& more, SimStats* sum) {
  sum->events += more.events, sum->steps += more.steps, sum->remote_steps += more.remote_steps;
  sum->abandoned_steps += more.abandoned_steps, sum->tokens += more.tokens, sum->loans += more.loans;
  sum->recalled += more.recalled, sum->guard_recalls += more.guard_recalls, sum->overdue += more.overdue,
      sum->lost += more.lost;
  sum->adopted_tokens += more.adopted_tokens;
  sum->joined += more.joined, sum->left += more.left, sum->handed_back += more.handed_back;
  sum->fenced += more.fenced, sum->replayed += more.replayed, sum->preemptions += more.preemptions;
  sum->prefixes += more.prefixes, sum->copied += more.copied, sum->awaited += more.awaited;
  sum->copies_advised += more.copies_advised, sum->prefixes_lent += more.prefixes_lent;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t first = 0, count = 0;
  double seconds = 0;
  int bug = 0;
  bool trace = false;
  CLI::App app{
      "Simulates clusters with faults, one per seed, and checks that no token, block or request is lost,\n"
      "doubled or wrong. Prints the first seed that fails; --seed replays it, --trace shows how."};
  app.add_option("--seed", first, "the first seed");
  app.add_option("--seeds", count, "how many; 1 unless --seconds is given");
  app.add_option("--seconds", seconds, "runs new seeds for so long");
  app.add_option("--bug", bug, "plants a bug (base/planted_bug.h)")->check(CLI::Range(0, kPlantedBugs - 1));
  app.add_flag("--trace", trace, "prints everything that happens");
  CLI11_PARSE(app, argc, argv);
  if (count == 0 && seconds == 0) count = 1;

  SimStats sum;
  const double start = Seconds();
  uint64_t done = 0;
  for (uint64_t seed = first; (count != 0 && done < count) || (count == 0 && Seconds() - start < seconds);
       ++seed) {
    Scenario scenario = DrawScenario(seed);
    scenario.bug = static_cast<PlantedBug>(bug);
    absl::Time now;
    ClusterSim sim(std::move(scenario), trace ? [](const std::string& line) { std::puts(line.c_str()); }
                                              : std::function<void(const std::string&)>());
    const absl::Status verdict = sim.Run();
    Add(sim.stats(), &sum);
    ++done;
    if (!verdict.ok()) {
      absl::PrintF("FAILED after %u seeds: %s\nreplay: --seed %u --trace\n", done,
                   std::string(verdict.message()), seed);
      return 1;
    }
  }
  absl::PrintF(
      "%u seeds without a violation in %.1f s (%.1f per second)\n"
      "events %u, committed steps %u (remote %u, abandoned %u), tokens %u\n"
      "loans %u (of prefixes %u, %u awaited, %u brought home, %u copies begun on advice, %u lent whole; "
      "recalled %u, %u "
      "times for the guard, overdue "
      "%u, lost %u), "
      "fenced %u, requests replayed %u (%u tokens adopted), preemptions %u\n"
      "joined %u, left in good order %u, requests handed back %u\n",
      done, Seconds() - start, static_cast<double>(done) / (Seconds() - start), sum.events, sum.steps,
      sum.remote_steps, sum.abandoned_steps, sum.tokens, sum.loans, sum.prefixes, sum.awaited, sum.copied,
      sum.copies_advised, sum.prefixes_lent, sum.recalled, sum.guard_recalls, sum.overdue, sum.lost,
      sum.fenced, sum.replayed, sum.adopted_tokens, sum.preemptions, sum.joined, sum.left, sum.handed_back);
  return 0;
}
