// The part of RManager that reports to gManager.
#include <algorithm>

#include "rmanager/rmanager.h"
#include "rmanager/wire.h"

namespace lombard {

void RManager::SetLoad(const Load& load) {
  const auto blocked = [](const Load& l) {
    return l.oldest_blocked.has_value() ? std::optional(l.oldest_blocked->request) : std::nullopt;
  };
  const bool news = blocked(load) != blocked(load_);
  load_ = load;
  if (news) next_heartbeat_ = std::min(next_heartbeat_, last_heartbeat_ + options_.heartbeat_period / 4);
}

// While somebody waits with the claim, memory that comes back is told sooner, still at most four times a
// period.
void RManager::HurryHeartbeat() {
  if (facts_.claim.has_value() && lent_.lendable() > reported_lendable_) {
    next_heartbeat_ = std::min(next_heartbeat_, last_heartbeat_ + options_.heartbeat_period / 4);
  }
}

RManager::Placements RManager::CurrentPlacements() const {
  Placements placements;
  for (const Load::LongRequest& r : load_.long_requests) {
    placements[{r.request, Value(options_.self)}] = {r.blocks, std::min(r.blocks, r.movable), r.shared,
                                                     r.readers};
  }
  for (const auto& [id, loan] : borrowed_.loans()) {
    if (!loan.prefix) placements[{loan.request, Value(loan.creditor)}].blocks += loan.blocks;
  }
  return placements;
}

void RManager::SendHeartbeat(absl::Time now) {
  messages::Heartbeat& beat = *outbox_.Add(options_.gmanager).mutable_heartbeat();
  beat.set_instance(Value(options_.self));
  beat.set_seq(++heartbeat_seq_);
  beat.set_full(full_heartbeat_);
  beat.set_process(options_.process);
  beat.set_draining(draining());
  for (int peer = 0; peer < options_.instances; ++peer) {
    if (Unreachable(peer, now)) beat.add_unreachable(static_cast<uint32_t>(peer));
  }
  beat.set_batch(load_.batch);
  beat.set_waiting(load_.waiting);
  beat.set_waiting_tokens(load_.waiting_tokens);
  beat.set_own_tokens(load_.own_tokens);
  messages::BlockCounts& blocks = *beat.mutable_blocks();
  blocks.set_total(pool_->total_count());
  blocks.set_free(pool_->free_count());
  blocks.set_lent(lent_.lent());
  blocks.set_borrowed(borrowed_.borrowed());
  blocks.set_lendable(LendableToYounger(now));
  blocks.set_lendable_older(lent_.lendable());
  blocks.set_lendable_max(lent_.lendable_max());
  if (load_.oldest_running.has_value()) ToWire(*load_.oldest_running, blocks.mutable_guarded_for());
  if (load_.oldest_blocked.has_value()) {
    messages::BlockedRequest& blocked = *beat.mutable_blocked();
    ToWire(load_.oldest_blocked->request, blocked.mutable_request());
    blocked.set_blocks(load_.oldest_blocked->blocks);
    blocked.set_held(load_.oldest_blocked->held);
    const int64_t waited = absl::ToInt64Microseconds(now - load_.oldest_blocked->since);
    blocked.set_waited_us(std::max<int64_t>(0, waited));
  }
  if (load_.oldest.has_value()) ToWire(*load_.oldest, beat.mutable_oldest());
  beat.mutable_rates()->set_weights_seconds(load_.weights_seconds);
  beat.mutable_rates()->set_row_seconds(load_.row_seconds);
  beat.mutable_rates()->set_token_seconds(load_.token_seconds);

  Placements placements = CurrentPlacements();
  const auto add = [&](const PlacementKey& key, const PlacedBlocks& placed) {
    messages::Placement& entry = *beat.add_placements();
    ToWire(key.first, entry.mutable_request());
    entry.set_host(key.second);
    entry.set_blocks(placed.blocks);
    entry.set_movable(placed.movable);
    entry.set_shared(placed.shared);
    entry.set_readers(placed.readers);
  };
  for (const auto& [key, entry] : placements) {
    const auto known = reported_.find(key);
    if (full_heartbeat_ || known == reported_.end() || known->second != entry) add(key, entry);
  }
  if (!full_heartbeat_) {
    for (const auto& [key, entry] : reported_) {
      if (!placements.contains(key)) add(key, {});
    }
  }
  reported_ = std::move(placements);
  TellPrefixes(&beat);
  reported_lendable_ = lent_.lendable();
  full_heartbeat_ = false;
  last_heartbeat_ = now;
  next_heartbeat_ = now + options_.heartbeat_period;
}

void RManager::TellPrefixes(messages::Heartbeat* beat) {
  const auto add = [&](uint64_t name, const Load::HotPrefix& prefix) {
    messages::HotPrefix& entry = *beat->add_prefixes();
    entry.set_name(name);
    entry.set_blocks(prefix.blocks);
    entry.set_readers(prefix.readers);
    entry.set_rows(prefix.rows);
    entry.set_here(prefix.here);
  };
  for (const auto& [name, prefix] : load_.prefixes) {
    const auto known = reported_prefixes_.find(name);
    if (beat->full() || known == reported_prefixes_.end() || known->second != prefix) add(name, prefix);
  }
  if (!beat->full()) {
    for (const auto& [name, prefix] : reported_prefixes_) {
      if (!load_.prefixes.contains(name)) add(name, {});
    }
  }
  reported_prefixes_ = load_.prefixes;
}

}  // namespace lombard
