// What the engine tells the manager: its load, and the rates it measured.
#include <algorithm>

#include "runtime/engine/engine_internal.h"

namespace lombard {
namespace {

// Weight of a new measurement. A guess: the last twenty steps or so count.
constexpr double kNewWeight = 0.05;

void Average(double value, double* average) {
  *average = *average == 0 ? value : (1 - kNewWeight) * *average + kNewWeight * value;
}

}  // namespace

void Engine::MeasureRates(const StepReport& report) {
  const double layers = static_cast<double>(model_.layer_windows.size());
  double row_tokens = 0;  // query rows times keys
  uint32_t row_count = 0;
  for (const Row& row : rows_) {
    row_count += row.tokens;
    row_tokens += static_cast<double>(row.tokens) *
                  static_cast<double>(row.sequence->table.local_tokens() + row.tokens);
  }
  const AttentionTiming& t = report.attention;
  const double dense = (report.seconds - t.local - t.wait - t.merge - t.send) / layers;
  if (row_count == rows_.size()) {
    Average(dense, &rates_.weights_seconds);  // decodes only: bound by reading the weights
  } else if (row_count > 64) {
    Average(std::max(0.0, dense - rates_.weights_seconds) / row_count, &rates_.row_seconds);
  }
  if (row_tokens > 0) Average(t.local / layers / row_tokens, &rates_.token_seconds);
  Average(dense + (t.local + t.merge + t.send) / layers, &layer_seconds_);
}

void Engine::ReportLoad() {
  Load load = rates_;
  load.prefixes = hot_;
  const auto consider = [&](const Sequence& s) {
    if (!load.oldest.has_value() || s.id() < *load.oldest) load.oldest = s.id();
    if (!s.blocked_since.has_value()) return;
    if (load.oldest_blocked.has_value() && load.oldest_blocked->request < s.id()) return;
    // An admission needs all its blocks, one that is being admitted has some of them at hand.
    const uint32_t held = s.phase == SequencePhase::kRunning ? s.table.held_blocks() : 0;
    load.oldest_blocked = {
        .request = s.id(), .blocks = s.blocked_need, .since = *s.blocked_since, .held = held};
  };
  const std::map<RequestId, SharedPrefix> lendable = LendablePrefixes();
  for (const SequencePtr& s : running_) {
    consider(*s);
    if (s->phase != SequencePhase::kRunning) continue;
    if (!load.oldest_running.has_value()) load.oldest_running = s->id();
    ++load.batch;
    load.own_tokens += s->table.local_tokens();
    const uint32_t home = s->table.local_blocks(), movable = PrivateBlocks(*s);
    const auto whole = lendable.find(s->id());
    const SharedPrefix shared = whole == lendable.end() ? SharedPrefix{} : whole->second;
    if (movable > 0 || shared.blocks > 0) {
      load.long_requests.push_back({.request = s->id(),
                                    .blocks = home,
                                    .movable = movable,
                                    .shared = shared.blocks,
                                    .readers = shared.readers});
    }
  }
  for (const SequencePtr& s : waiting_) {
    consider(*s);
    ++load.waiting;
    load.waiting_tokens += s->tokens.size();
  }
  if (layer_seconds_ > 0) load.block_share = options_.block_tokens * rates_.token_seconds / layer_seconds_;
  rmanager_->SetLoad(load);
}

}  // namespace lombard
