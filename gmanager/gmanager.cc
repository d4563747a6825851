#include "gmanager/gmanager.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"

namespace lombard {
namespace {

constexpr size_t kPlacementsMax = 4096;  // per instance; only long requests are reported
constexpr size_t kPrefixesMax = 64;      // per instance; a few are reported

RequestId FromWire(const messages::RequestKey& key) { return {key.arrival_us(), key.number()}; }
void ToWire(RequestId request, messages::RequestKey* key) {
  key->set_arrival_us(request.arrival_us);
  key->set_number(request.number);
}

messages::MemberState OnWire(Membership::State state) {
  switch (state) {
    case Membership::State::kJoining:
      return messages::MEMBER_JOINING;
    case Membership::State::kAlive:
      return messages::MEMBER_ALIVE;
    case Membership::State::kDraining:
      return messages::MEMBER_DRAINING;
    case Membership::State::kLost:
      return messages::MEMBER_LOST;
    case Membership::State::kLeft:
      return messages::MEMBER_LEFT;
    case Membership::State::kVacant:
    case Membership::State::kExpected:
      break;
  }
  return messages::MEMBER_UNSPECIFIED;
}

bool Measured(double seconds) { return std::isfinite(seconds) && seconds > 0; }

}  // namespace

GManager::GManager(const GManagerOptions& options)
    : options_(options),
      outbox_(Value(options.incarnation)),
      cost_(options.cost),
      membership_({.instances = options.instances,
                   .expected = options.expected > 0 ? options.expected : options.instances,
                   .own = options.own,
                   .dead_after = options.dead_after,
                   .join_wait = options.join_wait,
                   .kv_blocks = options.kv_blocks,
                   .bug = options.bug}),
      records_(options.instances) {
  CHECK_GT(options.instances, 0);
  CHECK_GT(Value(options.incarnation), 0u);
}

void GManager::Handle(int from, const messages::ControlMessage& message, absl::Time now) {
  if (from < 0 || from >= options_.instances || message.incarnation() == 0 || !ForGlobalManager(message) ||
      (message.has_heartbeat() && message.heartbeat().instance() != static_cast<uint32_t>(from))) {
    ++counters_.malformed;
    return;
  }
  if (message.has_move_kv_done() || message.has_left()) {
    if (!membership_.IsAlive(InstanceId(from), Incarnation{message.incarnation()})) {
      ++counters_.stale;
    } else if (message.has_left()) {
      membership_.Leave(InstanceId(from));
      FollowMembership(now);
      outbox_.Add(from).mutable_leave();
    } else {
      OnMoveDone(from, message.move_kv_done());
    }
    return;
  }
  const uint64_t process = message.has_ping() ? message.ping().process() : message.heartbeat().process();
  if (!Admit(from, message.incarnation(), process, now)) return;
  if (message.has_heartbeat()) OnHeartbeat(from, message.heartbeat(), now);
}

bool GManager::Admit(int from, uint64_t incarnation, uint64_t process, absl::Time now) {
  const InstanceId instance{static_cast<uint32_t>(from)};
  const auto verdict = membership_.Heard(instance, Incarnation{incarnation}, process, now);
  FollowMembership(now);
  if (verdict == Membership::Verdict::kMember) return true;
  ++counters_.fenced;
  messages::Fenced& fenced = *outbox_.Add(from).mutable_fenced();
  fenced.set_incarnation(Value(membership_.members()[from].incarnation));
  fenced.set_taken(verdict == Membership::Verdict::kTaken);
  fenced.set_process(process);
  return false;
}

void GManager::ConnectionLost(int peer, absl::Time now) {
  if (peer < 0 || peer >= options_.instances) return;
  // The connection of the process that was there before; who joins is judged by join_wait.
  if (membership_.members()[static_cast<size_t>(peer)].state == Membership::State::kJoining) return;
  membership_.Lose(InstanceId(peer));
  FollowMembership(now);
}

absl::StatusOr<Membership::Grant> GManager::Join(std::optional<InstanceId> wanted, uint64_t process,
                                                 uint32_t kv_blocks, absl::Time now) {
  const absl::StatusOr<Membership::Grant> grant = membership_.Join(wanted, process, kv_blocks, now);
  FollowMembership(now);
  return grant;
}

// What a process told that is no member any more is void, and everyone is told at once.
void GManager::FollowMembership(absl::Time now) {
  if (followed_ == membership_.number()) return;
  followed_ = membership_.number();
  for (uint32_t i = 0; i < records_.size(); ++i) {
    const Membership::Member& member = membership_.members()[i];
    const bool same = member.belongs() && records_[i].facts.incarnation() == Value(member.incarnation);
    if (same || records_[i].seq == 0) continue;
    records_[i] = Record{};
    std::erase_if(moves_, [&](const auto& open) {
      return open.second.move.from == InstanceId{i} || open.second.move.to == InstanceId{i};
    });
    std::erase_if(copies_, [&](const auto& open) { return open.first.second == InstanceId{i}; });
  }
  ++epoch_;
  UpdateOldest();
  UpdateClaim(now);
  PublishView();
}

void GManager::PublishView() {
  for (uint32_t i = 0; i < records_.size(); ++i) {
    if (membership_.members()[i].belongs()) FillView(outbox_.Add(static_cast<int>(i)).mutable_cluster_view());
  }
}

void GManager::OnHeartbeat(int from, const messages::Heartbeat& beat, absl::Time now) {
  Record& record = records_[from];
  if (beat.seq() <= record.seq) {  // a copy, or overtaken
    ++counters_.stale;
    return;
  }
  ++counters_.heartbeats;
  if (beat.draining()) {
    membership_.Drain(InstanceId(from));
    FollowMembership(now);
  }
  if (!beat.full() && beat.seq() != record.seq + 1) record.complete = false;
  if (beat.full()) {
    record.placements.clear();
    record.prefixes.clear();
    record.complete = true;
  }
  if (record.complete) ApplyPlacements(record, beat), ApplyPrefixes(record, beat);
  record.seq = beat.seq();
  record.waiting_tokens = beat.waiting_tokens();
  record.own_tokens = beat.own_tokens();
  record.blocked.reset();
  if (beat.has_blocked()) {
    const auto waited =
        static_cast<int64_t>(std::min<uint64_t>(beat.blocked().waited_us(), int64_t{1} << 50));
    record.blocked = {FromWire(beat.blocked().request()), beat.blocked().blocks(), beat.blocked().held(),
                      now - absl::Microseconds(waited)};
  }
  record.unreachable.clear();
  for (uint32_t peer : beat.unreachable()) record.unreachable.insert(InstanceId{peer});
  record.oldest.reset();
  if (beat.has_oldest()) record.oldest = FromWire(beat.oldest());
  const messages::Rates& rates = beat.rates();
  if (Measured(rates.weights_seconds()) && Measured(rates.row_seconds()) && Measured(rates.token_seconds())) {
    cost_.SetProfile(from, {.weights_seconds = rates.weights_seconds(),
                            .row_seconds = rates.row_seconds(),
                            .token_seconds = rates.token_seconds()});
  }

  messages::InstanceFacts facts;
  facts.set_instance(from);
  facts.set_incarnation(Value(membership_.members()[from].incarnation));
  *facts.mutable_blocks() = beat.blocks();
  facts.set_batch(beat.batch());
  facts.set_waiting(beat.waiting());
  if (facts.SerializeAsString() != record.facts.SerializeAsString()) {
    record.facts = std::move(facts);
    ++epoch_;
  }
  UpdateOldest();
  UpdateClaim(now);

  messages::HeartbeatAck& ack = *outbox_.Add(from).mutable_heartbeat_ack();
  ack.set_seq(beat.seq());
  ack.set_need_full(!record.complete);
  counters_.full_dumps_asked += !record.complete;
  FillView(ack.mutable_view());
}

void GManager::UpdateOldest() {
  std::optional<RequestId> oldest;
  for (const Record& r : records_) {
    if (r.oldest.has_value() && (!oldest.has_value() || *r.oldest < *oldest)) oldest = r.oldest;
  }
  if (oldest == oldest_) return;
  oldest_ = oldest;
  ++epoch_;
}

void GManager::ApplyPlacements(Record& record, const messages::Heartbeat& beat) {
  for (const messages::Placement& p : beat.placements()) {
    const PlacementKey key{FromWire(p.request()), InstanceId{p.host()}};
    if (p.host() >= records_.size()) {
      ++counters_.malformed;
    } else if (p.blocks() == 0) {
      record.placements.erase(key);
    } else if (record.placements.size() < kPlacementsMax || record.placements.contains(key)) {
      const uint32_t movable = std::min(p.blocks(), p.movable());
      record.placements[key] = {.request = key.first,
                                .host = key.second,
                                .blocks = p.blocks(),
                                .movable = movable,
                                .shared = std::min(p.blocks() - movable, p.shared()),
                                .readers = p.readers()};
    } else {
      ++counters_.malformed;
    }
  }
}

void GManager::ApplyPrefixes(Record& record, const messages::Heartbeat& beat) {
  for (const messages::HotPrefix& p : beat.prefixes()) {
    if (p.blocks() == 0) {
      record.prefixes.erase(p.name());
    } else if (record.prefixes.size() < kPrefixesMax || record.prefixes.contains(p.name())) {
      record.prefixes[p.name()] = {p.blocks(), p.readers(), p.rows(), p.here()};
    } else {
      ++counters_.malformed;
    }
  }
}

// The oldest of those blocked long enough. Everyone is told at once when it changes.
void GManager::UpdateClaim(absl::Time now) {
  std::optional<Claim> claim;
  for (uint32_t i = 0; i < records_.size(); ++i) {
    const std::optional<Blocked>& blocked = records_[i].blocked;
    if (!blocked.has_value() || now - blocked->since < options_.claim_after) continue;
    if (claim.has_value() && claim->request < blocked->request) continue;
    claim = {blocked->request, InstanceId{i}, blocked->blocks, SpareBeside(*blocked, InstanceId{i})};
  }
  if (claim == claim_) return;
  claim_ = claim;
  ++epoch_;
  PublishView();
}

// What `home` could ever use, less all that the blocked request needs.
uint32_t GManager::SpareBeside(const Blocked& blocked, InstanceId home) const {
  uint64_t capacity = 0;
  for (uint32_t i = 0; i < records_.size(); ++i) {
    const messages::BlockCounts& blocks = records_[i].facts.blocks();
    capacity += InstanceId{i} == home ? blocks.total() : blocks.lendable_max();
  }
  const uint64_t need = uint64_t{blocked.blocks} + blocked.held;
  return static_cast<uint32_t>(std::min<uint64_t>(capacity > need ? capacity - need : 0, UINT32_MAX));
}

void GManager::FillView(messages::ClusterView* view) const {
  view->set_epoch(epoch_);
  for (const Record& record : records_) {
    if (record.seq != 0) *view->add_instances() = record.facts;
  }
  view->set_members_number(membership_.number());
  for (uint32_t i = 0; i < records_.size(); ++i) {
    const Membership::Member& known = membership_.members()[i];
    if (Value(known.incarnation) == 0) continue;
    messages::Member& member = *view->add_members();
    member.set_instance(i);
    member.set_incarnation(Value(known.incarnation));
    member.set_state(OnWire(known.state));
    member.set_process(known.process);
    member.set_kv_blocks(known.kv_blocks);
  }
  if (claim_.has_value()) {
    ToWire(claim_->request, view->mutable_claim()->mutable_request());
    view->mutable_claim()->set_home(Value(claim_->home));
    view->mutable_claim()->set_blocks(claim_->blocks);
    view->mutable_claim()->set_spare(claim_->spare);
  }
  if (oldest_.has_value()) ToWire(*oldest_, view->mutable_oldest());
}

void GManager::OnMoveDone(int from, const messages::MoveKvDone& done) {
  const auto it = moves_.find(done.plan_id());
  if (it == moves_.end() || Value(it->second.move.from) != static_cast<uint32_t>(from)) {
    ++counters_.stale;
    return;
  }
  counters_.moves_refused += done.moved() == 0;
  counters_.blocks_moved += done.moved();
  moves_.erase(it);
}

void GManager::Tick(absl::Time now) {
  if (!started_) {
    started_ = true;
    next_plan_time_ = now + options_.plan_period;
  }
  membership_.Tick(now);
  FollowMembership(now);
  UpdateClaim(now);
  std::erase_if(moves_, [&](const auto& open) { return open.second.deadline <= now; });
  std::erase_if(copies_, [&](const auto& open) { return open.second <= now; });
  if (next_plan_time_ <= now) {
    next_plan_time_ = now + options_.plan_period;
    SendMoves(now);
    SendCopies(now);
  }
}

absl::Time GManager::NextDeadline() const {
  if (!started_) return absl::InfinitePast();
  absl::Time next = std::min(next_plan_time_, membership_.NextDeadline());
  for (const Record& record : records_) {
    if (record.blocked.has_value() && (!claim_.has_value() || record.blocked->request < claim_->request)) {
      next = std::min(next, record.blocked->since + options_.claim_after);
    }
  }
  return next;
}

ClusterState GManager::State() const {
  ClusterState state{.epoch = epoch_};
  std::vector<double> hosted(records_.size(), 0);
  for (uint32_t i = 0; i < records_.size(); ++i) {
    for (const auto& [key, entry] : records_[i].placements) {
      state.placements.push_back(entry);
      state.placements.back().home = InstanceId{i};
      if (entry.host != InstanceId{i})
        hosted[Value(entry.host)] += double{1} * entry.blocks * options_.plan.block_tokens;
    }
  }
  std::sort(state.placements.begin(), state.placements.end(), [](const Placement& a, const Placement& b) {
    return std::tie(a.request, a.host) < std::tie(b.request, b.host);
  });
  for (uint32_t i = 0; i < records_.size(); ++i) {
    const Record& record = records_[i];
    if (record.seq == 0) continue;
    const messages::BlockCounts& blocks = record.facts.blocks();
    state.instances.push_back({.id = InstanceId{i},
                               .blocks_total = blocks.total(),
                               .blocks_free = std::min(blocks.free(), blocks.total()),
                               .blocks_lendable = std::min(blocks.lendable(), blocks.total()),
                               .batch = record.facts.batch(),
                               .waiting = record.facts.waiting(),
                               .waiting_tokens = static_cast<double>(record.waiting_tokens),
                               .own_tokens = static_cast<double>(record.own_tokens),
                               .hosted_tokens = hosted[i]});
  }
  return state;
}

// One open move per home; what is under way to a destination is not planned again. With a claim in force
// memory is spoken for.
void GManager::SendMoves(absl::Time now) {
  if (claim_.has_value()) return;
  ++counters_.plans;
  ClusterState state = State();
  std::set<InstanceId> moving;
  for (const auto& [plan_id, open] : moves_) {
    moving.insert(open.move.from);
    for (InstanceState& i : state.instances) {
      if (i.id == open.move.to) i.blocks_lendable -= std::min(i.blocks_lendable, open.move.blocks);
    }
  }
  for (Placement& p : state.placements) {
    if (moving.contains(p.home)) p.movable = p.shared = 0;
  }
  for (const Move& move : Plan(state, cost_, options_.plan)) {
    if (records_[Value(move.from)].unreachable.contains(move.to)) continue;
    if (!moving.insert(move.from).second) continue;
    const uint64_t plan_id = next_plan_++;
    moves_[plan_id] = {move, now + options_.move_deadline};
    ++counters_.moves_sent;
    messages::MoveKv& advice = *outbox_.Add(static_cast<int>(Value(move.from))).mutable_move_kv();
    advice.set_plan_id(plan_id);
    ToWire(move.request, advice.mutable_request());
    advice.set_blocks(move.blocks);
    advice.set_to(Value(move.to));
  }
}

// What is under way is not advised again; with a claim in force memory is spoken for.
void GManager::SendCopies(absl::Time now) {
  if (claim_.has_value() || options_.plan.policy == PlanPolicy::kNone) return;
  std::vector<PrefixState> states;
  std::set<uint64_t> reported;
  for (uint32_t i = 0; i < records_.size(); ++i) {
    states.push_back({InstanceId{i}, records_[i].facts.blocks().free(), records_[i].prefixes});
    for (auto& [name, use] : states.back().prefixes) {
      reported.insert(name);
      if (copies_.contains({name, InstanceId{i}})) use.readers = 0;
    }
  }
  std::erase_if(copies_advised_, [&](const auto& entry) { return !reported.contains(entry.first); });
  const PrefixPlanOptions options{.block_tokens = options_.plan.block_tokens,
                                  .wire = options_.cost.wire,
                                  .kv_bytes = options_.cost.kv_bytes};
  for (const PrefixCopy& copy : PlanCopies(states, copies_advised_, options)) {
    copies_[{copy.name, copy.to}] = now + options_.move_deadline;
    ++copies_advised_[copy.name];
    ++counters_.copies_advised;
    outbox_.Add(static_cast<int>(Value(copy.to))).mutable_copy_prefix()->set_name(copy.name);
  }
}

}  // namespace lombard
