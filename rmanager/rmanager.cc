#include "rmanager/rmanager.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "rmanager/wire.h"

namespace lombard {
namespace {

constexpr size_t kOpenMovesMax = 64;

}  // namespace

RManager::RManager(const RManagerOptions& options, KvPool* pool)
    : options_(options),
      pool_(pool),
      outbox_(Value(options.incarnation)),
      lent_({.self = options.self,
             .incarnation = options.incarnation,
             .reserve = options.reserve,
             .lent_max = options.lent_max,
             .lease = options.lease,
             .retry = options.retry,
             .recall_deadline = options.recall_deadline,
             .recall_again = options.recall_again,
             .adopt_within = options.adopt_within,
             .bug = options.bug},
            pool),
      borrowed_({.self = options.self,
                 .reply_deadline = options.reply_deadline,
                 .retry = options.retry,
                 .backoff = options.backoff,
                 .bug = options.bug},
                &outbox_),
      guard_(options.guard),
      incarnation_(options.incarnation),
      incarnations_(options.instances, 0),
      lost_(options.instances, 0),
      unreachable_until_(options.instances, absl::InfinitePast()),
      member_blocks_(options.kv_blocks) {
  member_blocks_.resize(options.instances, 0);
  CHECK_LT(Value(options.self), static_cast<uint32_t>(options.instances));
  CHECK_GT(Value(options.incarnation), 0u);
  facts_.instances.resize(options.instances);
}

void RManager::Handle(int from, const messages::ControlMessage& message, absl::Time now) {
  using Body = messages::ControlMessage::BodyCase;
  if (from < 0 || from >= options_.instances || message.incarnation() == 0) {
    ++malformed_;
    return;
  }
  const Body body = message.body_case();
  const bool from_gmanager = body == Body::kHeartbeatAck || body == Body::kClusterView ||
                             body == Body::kMoveKv || body == Body::kCopyPrefix || body == Body::kFenced;
  if (from_gmanager ? from != options_.gmanager : from == static_cast<int>(Value(options_.self))) {
    ++malformed_;
    return;
  }
  if (!(from_gmanager ? AcceptGManager(message.incarnation())
                      : AcceptIncarnation(from, message.incarnation(), now))) {
    ++stale_;
    return;
  }
  const InstanceId peer{static_cast<uint32_t>(from)};
  switch (body) {
    case Body::kHeartbeatAck:
      full_heartbeat_ |= message.heartbeat_ack().need_full();
      OnView(message.heartbeat_ack().view(), now);
      break;
    case Body::kClusterView:
      OnView(message.cluster_view(), now);
      break;
    case Body::kFenced:
      OnFenced(message.fenced());
      break;
    case Body::kMoveKv:
      OnMove(message.move_kv());
      break;
    case Body::kCopyPrefix:
      events_.push_back(CopyWanted{message.copy_prefix().name()});
      break;
    case Body::kTryMoveKv:
      OnTry(peer, message.try_move_kv(), now);
      break;
    case Body::kTryMoveKvReply:
      UpdateLendable(from, message.try_move_kv_reply().lendable(),
                     message.try_move_kv_reply().lendable_older());
      borrowed_.OnReply(peer, message.try_move_kv_reply(), facts_, now);
      break;
    case Body::kActivateLoan:
      OnActivate(peer, message.activate_loan());
      break;
    case Body::kActivateLoanReply:
      borrowed_.OnActivateReply(peer, message.activate_loan_reply(), facts_, now);
      break;
    case Body::kRepay:
      OnRepay(peer, message.repay(), now);
      break;
    case Body::kRepayAck:
      UpdateLendable(from, message.repay_ack().lendable(), message.repay_ack().lendable_older());
      borrowed_.OnRepayAck(peer, message.repay_ack());
      break;
    case Body::kSpanStored:
      OnStored(peer, message.span_stored());
      break;
    case Body::kRecall:
      OnRecall(peer, message.recall(), now);
      break;
    case Body::kRecallDeclined:
      lent_.DeclineRecall(peer, LoanId{message.recall_declined().loan().id()},
                          message.recall_declined().loan().epoch(), now);
      break;
    case Body::kHeartbeat:
    case Body::kMoveKvDone:
    case Body::BODY_NOT_SET:
    default:
      ++malformed_;
  }
  HurryHeartbeat();
}

// What a peer tells itself is newer than the view; never more than its pool, whatever it says.
void RManager::UpdateLendable(int peer, uint32_t lendable, uint32_t lendable_older) {
  ClusterFacts::Instance& facts = facts_.instances[peer];
  facts.lendable = std::min(lendable, facts.blocks_total);
  facts.lendable_older = std::min(lendable_older, facts.blocks_total);
}

uint32_t RManager::LendableToYounger(absl::Time now) const {
  if (!load_.oldest_running.has_value()) return lent_.lendable();
  if (guard_.closed(now)) return 0;
  const uint32_t most = guard_.BlocksMax(load_.block_share), lent = lent_.lent() + lent_.prefix_lent();
  return std::min(lent_.lendable(), most - std::min(most, lent));
}

bool RManager::GuardBears(uint32_t blocks, absl::Time now) const {
  if (!load_.oldest_running.has_value()) return true;
  const uint64_t lent = uint64_t{lent_.lent()} + lent_.prefix_lent() + blocks;
  return !guard_.closed(now) && lent <= guard_.BlocksMax(load_.block_share);
}

bool RManager::AcceptIncarnation(int from, uint64_t incarnation, absl::Time now) {
  uint64_t& known = incarnations_[from];
  if (incarnation < known || incarnation <= lost_[from] || fenced_) return false;
  unreachable_until_[from] = absl::InfinitePast();
  if (incarnation > known && known != 0) PeerLost(from, now);
  known = incarnation;
  return true;
}

// Its incarnation is its own, whatever becomes of the instance beside it.
bool RManager::AcceptGManager(uint64_t incarnation) {
  if (incarnation < gmanager_incarnation_ || fenced_) return false;
  if (incarnation > gmanager_incarnation_) {  // a new one knows nothing and counts from the start
    facts_.epoch = newest_plan_ = members_number_ = 0;
    full_heartbeat_ = true;
  }
  gmanager_incarnation_ = incarnation;
  return true;
}

void RManager::OnTry(InstanceId from, const messages::TryMoveKv& ask, absl::Time now) {
  const bool prefix = ask.purpose() == messages::PURPOSE_PREFIX;
  if (ask.blocks() == 0 || ask.purpose() < messages::PURPOSE_ADMISSION ||
      ask.purpose() > messages::PURPOSE_ADOPT || prefix != ask.has_prefix() ||
      (ask.purpose() == messages::PURPOSE_ADOPT) != ask.has_adopt() ||
      (ask.has_adopt() && ask.adopt().instance() >= facts_.instances.size())) {
    ++malformed_;
    return;
  }
  const RequestId request = FromWire(ask.request());
  const std::optional<RequestId> recalled_for = lent_.recalls_for();
  const bool drains = draining() && options_.bug != PlantedBug::kGrantWhileDraining;
  const bool yields =
      drains || (ask.purpose() != messages::PURPOSE_GROWTH &&
                 (!MayAdmit(request) || (recalled_for.has_value() && *recalled_for < request)));
  if (ask.has_adopt()) {
    const LostHome lost{InstanceId{ask.adopt().instance()}, Incarnation{ask.adopt().incarnation()}};
    if (options_.bug == PlantedBug::kAdoptUnheard) lent_.DropDebtor(lost.instance, now);
    // Too early: it is asked again.
    if (!IsLost(lost) && options_.bug != PlantedBug::kAdoptUnheard) return;
    if (lent_.AwaitsService(request)) return;
  }
  std::optional<Loan> loan;
  std::vector<uint32_t> adopted;
  std::optional<uint32_t> coming;
  const bool spared = ask.purpose() == messages::PURPOSE_GROWTH ||
                      (load_.oldest_running.has_value() && request <= *load_.oldest_running);
  const uint32_t limit = spared ? lent_.lendable() : LendableToYounger(now);
  if (yields) {
    // no loan
  } else if (prefix) {
    const bool bears = spared || GuardBears(ask.blocks(), now);
    loan = lent_.ReservePrefix(from, ask.ticket(), request, ask.prefix().salt(), ask.prefix().tokens(),
                               ask.blocks(), bears, now);
    if (!loan.has_value() && bears && prefix_comes_ &&
        prefix_comes_(ask.prefix().salt(), ask.prefix().tokens()))
      coming = lent_.PrefixBlocks(ask.prefix().salt(), ask.prefix().tokens());
  } else if (ask.has_adopt()) {
    const std::vector<uint64_t> names(ask.adopt().names().begin(), ask.adopt().names().end());
    loan = lent_.Adopt(from, ask.ticket(), request, names, now, &adopted);
  } else {
    loan = lent_.Reserve(from, ask.ticket(), request, ask.blocks(), limit, now);
  }
  messages::TryMoveKvReply& reply = *outbox_.Add(static_cast<int>(Value(from))).mutable_try_move_kv_reply();
  reply.set_ticket(ask.ticket());
  reply.set_lendable(LendableToYounger(now));
  reply.set_lendable_older(lent_.lendable());
  if (!loan.has_value()) {
    refused_ += !ask.has_adopt() && !coming.has_value();
    reply.set_coming(coming.has_value());
    reply.set_prefix_blocks(coming.value_or(0));
    return;
  }
  reply.mutable_adopted()->Assign(adopted.begin(), adopted.end());
  ToWire(*loan, reply.mutable_loan());
  reply.set_blocks(loan->blocks);
  reply.set_lease_us(absl::ToInt64Microseconds(options_.lease));
}

bool RManager::IsLost(const LostHome& process) const {
  const uint64_t incarnation = Value(process.incarnation);
  return lost_[Value(process.instance)] >= incarnation ||
         incarnations_[Value(process.instance)] > incarnation;
}

std::vector<uint64_t> RManager::Adopt(RequestId request, const LostHome& lost,
                                      const std::vector<uint64_t>& names, absl::Time now) {
  std::vector<uint64_t> tickets;
  for (uint32_t i = 0; i < facts_.instances.size(); ++i) {
    const InstanceId peer{i};
    const bool asked = peer != options_.self && peer != lost.instance && facts_.instances[i].known &&
                       !Unreachable(static_cast<int>(i), now);
    if (asked) tickets.push_back(borrowed_.Adopt(request, peer, lost, names, now));
  }
  return tickets;
}

void RManager::OnStored(InstanceId from, const messages::SpanStored& stored) {
  if (stored.blocks_size() != stored.names_size()) {
    ++malformed_;
    return;
  }
  std::vector<SlotContent> contents;
  for (int i = 0; i < stored.blocks_size(); ++i) contents.push_back({stored.blocks(i), stored.names(i)});
  lent_.NoteStored(from, LoanId{stored.loan().id()}, stored.loan().epoch(), stored.first_slot(), contents);
}

void RManager::OnActivate(InstanceId from, const messages::ActivateLoan& activate) {
  const bool active = lent_.Activate(from, LoanId{activate.loan().id()}, activate.loan().epoch());
  messages::ActivateLoanReply& reply =
      *outbox_.Add(static_cast<int>(Value(from))).mutable_activate_loan_reply();
  *reply.mutable_loan() = activate.loan();
  reply.set_active(active);
}

void RManager::OnRepay(InstanceId from, const messages::Repay& repay, absl::Time now) {
  lent_.Repay(from, LoanId{repay.loan().id()}, repay.loan().epoch());
  messages::RepayAck& ack = *outbox_.Add(static_cast<int>(Value(from))).mutable_repay_ack();
  *ack.mutable_loan() = repay.loan();
  ack.set_lendable(LendableToYounger(now));
  ack.set_lendable_older(lent_.lendable());
}

void RManager::Drain(absl::Time deadline, absl::Time now) {
  lent_.Drain(deadline);
  next_heartbeat_ = now;
}

void RManager::SayLeft() { outbox_.Add(options_.gmanager).mutable_left(); }

uint32_t RManager::reachable_blocks() const {
  uint64_t blocks = 0;
  for (size_t i = 0; i < member_blocks_.size(); ++i) {
    if (InstanceId(i) == options_.self) continue;
    blocks += LendableBlocksMax(member_blocks_[i], options_.reserve, options_.lent_max);
  }
  if (member_blocks_[Value(options_.self)] == 0) return 0;
  return static_cast<uint32_t>(std::min<uint64_t>(pool_->total_count() + blocks, UINT32_MAX));
}

void RManager::Restart(Incarnation next) {
  CHECK(next > incarnation_) << Value(next);
  incarnation_ = next;
  fenced_ = false;
  outbox_.Take();
  outbox_.set_incarnation(Value(next));
  lent_.Restart(next);
  borrowed_.Restart();
  moves_.clear();
  events_.clear();
  const size_t instances = facts_.instances.size();
  facts_ = ClusterFacts{};
  facts_.instances.resize(instances);
  load_ = Load{};
  reported_.clear();
  reported_prefixes_.clear();
  heartbeat_seq_ = 0;
  full_heartbeat_ = true;
  next_heartbeat_ = absl::InfinitePast();
}

void RManager::OnRecall(InstanceId from, const messages::Recall& recall, absl::Time now) {
  const auto it = borrowed_.loans().find(LoanId{recall.loan().id()});
  if (it == borrowed_.loans().end() || it->second.creditor != from ||
      it->second.epoch != recall.loan().epoch()) {
    ++stale_;  // repaid meanwhile, or not yet in use: the creditor asks again
    return;
  }
  const int64_t left = static_cast<int64_t>(std::min<uint64_t>(recall.deadline_us(), int64_t{1} << 50));
  events_.push_back(RecallWanted{.loan = it->second,
                                 .deadline = now + absl::Microseconds(left),
                                 .may_decline = it->second.request <= FromWire(recall.wanted_for())});
}

void RManager::DeclineRecall(LoanId loan) {
  const auto it = borrowed_.loans().find(loan);
  if (it == borrowed_.loans().end()) return;
  ++declined_;
  ToWire(it->second,
         outbox_.Add(static_cast<int>(Value(it->second.creditor))).mutable_recall_declined()->mutable_loan());
}

// The oldest blocked request of this home would fit here if others gave back what they borrow.
void RManager::RecallForOwnLoad(absl::Time now) {
  const std::optional<Load::Blocked>& blocked = load_.oldest_blocked;
  if (blocked.has_value() && now - blocked->since >= options_.recall_after && MayAdmit(blocked->request)) {
    const uint32_t free = pool_->free_count();
    if (blocked->blocks > free) lent_.Recall(blocked->blocks - free, blocked->request, now);
  }
}

void RManager::RecallForGuard(absl::Time now) {
  guard_.Observe(own_seconds_, starved_seconds_, now);
  if (!load_.oldest_running.has_value() || lent_.lent() + lent_.prefix_lent() == 0 || !guard_.TakeRecall(now))
    return;
  ++guard_recalls_;
  lent_.RecallYoungest(*load_.oldest_running, now);
}

void RManager::SendRecalls(absl::Time now) {
  for (const LentLedger::RecallDue& due : lent_.TakeRecallsDue(now)) {
    messages::Recall& recall = *outbox_.Add(static_cast<int>(Value(due.loan.debtor))).mutable_recall();
    ToWire(due.loan, recall.mutable_loan());
    recall.set_deadline_us(absl::ToInt64Microseconds(std::max(due.left, absl::ZeroDuration())));
    ToWire(due.wanted_for, recall.mutable_wanted_for());
  }
}

void RManager::OnMove(const messages::MoveKv& move) {
  if (move.plan_id() <= newest_plan_) {
    ++stale_;
    return;
  }
  newest_plan_ = move.plan_id();
  const RequestId request = FromWire(move.request());
  const InstanceId to{move.to()};
  const bool moving = std::any_of(moves_.begin(), moves_.end(),
                                  [&](const auto& open) { return open.second.request == request; });
  moves_[move.plan_id()] = {request, move.blocks(), to, {}};
  if (moving || move.blocks() == 0 || move.to() >= facts_.instances.size() || to == options_.self ||
      moves_.size() > kOpenMovesMax) {
    RefuseMove(move.plan_id());
    return;
  }
  events_.push_back(MoveWanted{move.plan_id(), request, move.blocks(), to});
}

std::optional<uint64_t> RManager::StartMove(uint64_t plan_id, absl::Time now,
                                            std::optional<uint32_t> blocks) {
  const auto it = moves_.find(plan_id);
  if (it == moves_.end() || it->second.ticket.has_value()) return std::nullopt;
  OpenMove& move = it->second;
  move.blocks = blocks.value_or(move.blocks);
  move.ticket = borrowed_.Borrow(move.request, move.blocks, Purpose::kMove, now, move.to, facts_);
  return move.ticket;
}

void RManager::FinishMove(uint64_t plan_id, uint32_t blocks_moved) {
  if (moves_.erase(plan_id) == 0) return;
  messages::MoveKvDone& done = *outbox_.Add(options_.gmanager).mutable_move_kv_done();
  done.set_plan_id(plan_id);
  done.set_moved(blocks_moved);
}

void RManager::Tick(absl::Time now) {
  if (fenced_) return;
  lent_.Tick(now);
  RecallForOwnLoad(now);
  RecallForGuard(now);
  SendRecalls(now);
  borrowed_.Tick(facts_, now);
  HurryHeartbeat();
  if (next_heartbeat_ <= now) SendHeartbeat(now);
}

// Loans are told before what became of them.
std::vector<RManager::Event> RManager::TakeEvents() {
  std::vector<Event> events;
  for (BorrowedLedger::Result& result : borrowed_.TakeResults()) {
    if (result.granted) {
      events.push_back(
          Borrowed{result.ticket, result.request, std::move(result.loans), std::move(result.adopted)});
      continue;
    }
    const auto move = std::find_if(moves_.begin(), moves_.end(),
                                   [&](const auto& open) { return open.second.ticket == result.ticket; });
    if (move != moves_.end()) FinishMove(move->first, 0);
    events.push_back(BorrowRefused{result.ticket, result.request, result.blocks, result.cluster_free,
                                   result.retry_after, result.purpose, result.coming});
  }
  std::move(events_.begin(), events_.end(), std::back_inserter(events));
  events_.clear();
  return events;
}

absl::Time RManager::NextDeadline() const {
  return std::min({next_heartbeat_, lent_.NextDeadline(), borrowed_.NextDeadline()});
}

uint64_t RManager::Borrow(RequestId request, uint32_t blocks, Purpose purpose, absl::Time now,
                          std::optional<InstanceId> only_from) {
  return borrowed_.Borrow(request, blocks, purpose, now, only_from, facts_);
}

uint64_t RManager::BorrowPrefix(RequestId request, InstanceId holder, absl::string_view salt,
                                absl::Span<const int32_t> tokens, uint32_t blocks, absl::Time now) {
  messages::PrefixKey prefix;
  prefix.set_salt(std::string(salt));
  prefix.mutable_tokens()->Assign(tokens.begin(), tokens.end());
  return borrowed_.BorrowPrefix(request, holder, std::move(prefix), blocks, now, facts_);
}

void RManager::CancelBorrow(uint64_t ticket, absl::Time now) {
  borrowed_.Cancel(ticket, now);
  for (auto& [plan_id, move] : moves_) {
    if (move.ticket != ticket) continue;
    FinishMove(plan_id, 0);
    break;
  }
}

void RManager::Repay(LoanId loan, absl::Time now) { borrowed_.Repay(loan, now); }

void RManager::RepayAll(RequestId request, absl::Time now) {
  borrowed_.RepayAll(request, now);
  for (auto it = moves_.begin(); it != moves_.end();) {
    const auto move = it++;
    if (move->second.request == request) FinishMove(move->first, 0);
  }
}

void RManager::PeerLost(int peer, absl::Time now) {
  if (peer < 0 || peer >= options_.instances) return;
  if (options_.bug != PlantedBug::kKeepLoansOfLost) lent_.DropDebtor(InstanceId(peer), now);
  DropLoansFrom(peer, true, now);
}

void RManager::PeerUnreachable(int peer, absl::Time now) {
  if (peer < 0 || peer >= options_.instances || InstanceId(peer) == options_.self) return;
  unreachable_until_[peer] = now + options_.unreachable_for;
  DropLoansFrom(peer, false, now);
}

void RManager::DropLoansFrom(int peer, bool process_gone, absl::Time now) {
  if (options_.bug == PlantedBug::kUseLoansOfLost && process_gone) return;
  facts_.instances[peer].lendable = facts_.instances[peer].lendable_older = 0;
  if (process_gone) facts_.instances[peer] = {};
  for (const Loan& loan : borrowed_.DropCreditor(InstanceId(peer), process_gone, facts_, now))
    events_.push_back(LoanLost{loan});
}

void RManager::LoanRefused(LoanId id, absl::Time now) {
  const auto it = borrowed_.loans().find(id);
  if (it == borrowed_.loans().end()) return;
  events_.push_back(LoanLost{it->second});
  borrowed_.Repay(id, now);
}

bool RManager::MayAdmit(RequestId request) const {
  return !facts_.claim.has_value() || request <= facts_.claim->request;
}

bool RManager::MayAdmitLocally(RequestId request, uint32_t blocks, uint32_t younger_blocks) const {
  return MayAdmit(request) || uint64_t{blocks} + younger_blocks <= facts_.SpareFor(options_.self);
}

bool RManager::IsOldest(RequestId request) const {
  return (!load_.oldest.has_value() || request <= *load_.oldest) &&
         (!facts_.oldest.has_value() || request <= *facts_.oldest);
}

bool RManager::knows_of_losses() const {
  return std::any_of(lost_.begin(), lost_.end(), [](uint64_t incarnation) { return incarnation > 0; });
}

RManager::Counters RManager::counters() const {
  const LentLedger::Counters& lent = lent_.counters();
  return {.granted = lent.granted,
          .refused = refused_,
          .repaid = lent.repaid,
          .lost = lent.lost,
          .withdrawn = lent.withdrawn,
          .expired = lent.expired,
          .recalled = lent.recalled,
          .overdue = lent.overdue,
          .guard_recalls = guard_recalls_,
          .lent = lent_.lent(),
          .lent_max = lent.lent_max,
          .prefixes_granted = lent.prefixes,
          .prefix_lent = lent_.prefix_lent(),
          .borrow_refused = borrowed_.refusals(),
          .borrowed = borrowed_.borrowed(),
          .borrowed_max = borrowed_.borrowed_max(),
          .recalls_declined = declined_,
          .stale = stale_,
          .malformed = malformed_};
}

absl::Status RManager::CheckInvariants() const {
  RETURN_IF_ERROR(lent_.CheckInvariants());
  return borrowed_.CheckInvariants();
}

}  // namespace lombard
