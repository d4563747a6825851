#include "rmanager/borrowed_ledger.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/status.h"
#include "rmanager/wire.h"

namespace lombard {
namespace {

constexpr size_t kAttemptsRemembered = 4096;
constexpr uint32_t kBackoffDoublings = 4;

// In [0.5, 1.5): the same for the same arguments everywhere, different for competitors (finaliser of
// splitmix64).
double Spread(RequestId request, uint32_t attempt) {
  uint64_t x = request.arrival_us * 0x9e3779b97f4a7c15u + request.number * 0xbf58476d1ce4e5b9u + attempt;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return 0.5 + static_cast<double>(x >> 11) * 0x1p-53;
}

bool HasClaim(const ClusterFacts& facts, RequestId request) {
  return facts.claim.has_value() && facts.claim->request == request;
}
bool MustYield(const ClusterFacts& facts, RequestId request) {
  return facts.claim.has_value() && facts.claim->request < request;
}

}  // namespace

uint64_t BorrowedLedger::Borrow(RequestId request, uint32_t blocks, Purpose purpose, absl::Time now,
                                std::optional<InstanceId> only_from, const ClusterFacts& facts) {
  CHECK_GT(blocks, 0u) << request;
  Borrowing borrowing{.request = request, .blocks = blocks, .purpose = purpose};
  if (purpose == Purpose::kGrowth || !MustYield(facts, request)) {
    borrowing.parts = ChooseCreditors(borrowing, only_from, facts);
  }
  return Start(std::move(borrowing), facts, now);
}

uint64_t BorrowedLedger::BorrowPrefix(RequestId request, InstanceId holder, messages::PrefixKey prefix,
                                      uint32_t blocks, absl::Time now, const ClusterFacts& facts) {
  CHECK_GT(blocks, 0u) << request;
  Borrowing borrowing{.request = request, .blocks = blocks, .purpose = Purpose::kPrefix};
  borrowing.prefix = std::move(prefix);
  if (!MustYield(facts, request)) borrowing.parts = ChooseCreditors(borrowing, holder, facts);
  return Start(std::move(borrowing), facts, now);
}

uint64_t BorrowedLedger::Start(Borrowing borrowing, const ClusterFacts& facts, absl::Time now) {
  const uint64_t ticket = next_ticket_++;
  borrowing.deadline = now + options_.reply_deadline;
  borrowing.next_retry = now + options_.retry;
  if (borrowing.parts.empty()) {
    Refuse(ticket, borrowing, facts, now);
    return ticket;
  }
  for (const Part& part : borrowing.parts) Ask(ticket, borrowing, part);
  borrowings_.emplace(ticket, std::move(borrowing));
  return ticket;
}

uint64_t BorrowedLedger::Adopt(RequestId request, InstanceId creditor, const LostHome& lost,
                               std::vector<uint64_t> names, absl::Time now) {
  CHECK(!names.empty()) << request;
  const uint64_t ticket = next_ticket_++;
  const auto blocks = static_cast<uint32_t>(names.size());
  Borrowing borrowing{.request = request,
                      .blocks = blocks,
                      .purpose = Purpose::kAdopt,
                      .parts = {{creditor, blocks, PartState::kAsked, {}}},
                      .deadline = now + options_.reply_deadline,
                      .next_retry = now + options_.retry,
                      .lost = lost,
                      .names = std::move(names),
                      .adopted = {}};
  Ask(ticket, borrowing, borrowing.parts[0]);
  borrowings_.emplace(ticket, std::move(borrowing));
  return ticket;
}

// Most room first, so that few creditors are involved; for growth those that hold a part of the request
// already come first. Empty when the view has too little room.
std::vector<BorrowedLedger::Part> BorrowedLedger::ChooseCreditors(const Borrowing& borrowing,
                                                                  std::optional<InstanceId> only_from,
                                                                  const ClusterFacts& facts) const {
  if (only_from.has_value()) {  // advice from gManager: the destination decides, whatever the view says
    if (*only_from == options_.self || Value(*only_from) >= facts.instances.size()) return {};
    return {{*only_from, borrowing.blocks, PartState::kAsked, {}}};
  }
  struct Candidate {
    bool holds_request;
    uint32_t room;
    InstanceId id;
  };
  std::set<InstanceId> holders;
  if (borrowing.purpose == Purpose::kGrowth) {
    for (const auto& [id, loan] : loans_) {
      if (loan.request == borrowing.request) holders.insert(loan.creditor);
    }
  }
  std::vector<Candidate> candidates;
  for (uint32_t i = 0; i < facts.instances.size(); ++i) {
    const InstanceId id{i};
    if (id == options_.self) continue;
    candidates.push_back({holders.contains(id), Room(id, borrowing.request, borrowing.purpose, facts), id});
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::tuple(!a.holds_request, ~a.room, a.id) < std::tuple(!b.holds_request, ~b.room, b.id);
  });
  std::vector<Part> parts;
  uint32_t left = borrowing.blocks;
  for (const Candidate& candidate : candidates) {
    const uint32_t take = std::min(left, candidate.room);
    if (take == 0) continue;
    parts.push_back({candidate.id, take, PartState::kAsked, {}});
    left -= take;
  }
  if (left > 0) parts.clear();
  return parts;
}

// What the creditor would lend by our view, less what we have asked it for already.
uint32_t BorrowedLedger::Room(InstanceId creditor, RequestId request, Purpose purpose,
                              const ClusterFacts& facts) const {
  uint32_t room = facts.instances[Value(creditor)].LendableTo(request, purpose == Purpose::kGrowth);
  for (const auto& [ticket, borrowing] : borrowings_) {
    for (const Part& part : borrowing.parts) {
      if (part.creditor == creditor && part.state == PartState::kAsked) room -= std::min(room, part.blocks);
    }
  }
  return room;
}

uint32_t BorrowedLedger::RoomOfOthers(const Borrowing& borrowing, const ClusterFacts& facts) const {
  uint32_t room = 0;
  for (uint32_t i = 0; i < facts.instances.size(); ++i) {
    if (InstanceId{i} != options_.self)
      room += Room(InstanceId{i}, borrowing.request, borrowing.purpose, facts);
  }
  return room;
}

void BorrowedLedger::Ask(uint64_t ticket, const Borrowing& borrowing, const Part& part) {
  messages::TryMoveKv& ask = *outbox_->Add(static_cast<int>(Value(part.creditor))).mutable_try_move_kv();
  ask.set_ticket(ticket);
  ToWire(borrowing.request, ask.mutable_request());
  ask.set_blocks(part.blocks);
  ask.set_purpose(ToWire(borrowing.purpose));
  if (borrowing.purpose == Purpose::kPrefix) *ask.mutable_prefix() = borrowing.prefix;
  if (borrowing.purpose != Purpose::kAdopt) return;
  ask.mutable_adopt()->set_instance(Value(borrowing.lost.instance));
  ask.mutable_adopt()->set_incarnation(Value(borrowing.lost.incarnation));
  ask.mutable_adopt()->mutable_names()->Assign(borrowing.names.begin(), borrowing.names.end());
}

void BorrowedLedger::Activate(const Part& part) {
  ToWire(part.loan,
         outbox_->Add(static_cast<int>(Value(part.creditor))).mutable_activate_loan()->mutable_loan());
}

void BorrowedLedger::TellStored(LoanId id, uint32_t first_slot, absl::Span<const SlotContent> contents) {
  const auto it = loans_.find(id);
  if (it == loans_.end()) return;
  messages::SpanStored& stored =
      *outbox_->Add(static_cast<int>(Value(it->second.creditor))).mutable_span_stored();
  ToWire(it->second, stored.mutable_loan());
  stored.set_first_slot(first_slot);
  for (const SlotContent& content : contents) {
    stored.add_blocks(content.block);
    stored.add_names(content.name);
  }
}

// Whether it grants what was asked for: all of the blocks, or some of those to be adopted.
bool BorrowedLedger::Fits(const messages::TryMoveKvReply& reply, Borrowing& borrowing, Part& part) const {
  if (borrowing.purpose != Purpose::kAdopt) return reply.blocks() == part.blocks;
  const auto& adopted = reply.adopted();
  const bool sound =
      reply.blocks() > 0 && reply.blocks() == static_cast<uint32_t>(adopted.size()) &&
      std::adjacent_find(adopted.begin(), adopted.end(), std::greater_equal<>()) == adopted.end() &&
      adopted[adopted.size() - 1] < borrowing.names.size();
  if (!sound) return false;
  borrowing.blocks = part.blocks = reply.blocks();
  borrowing.adopted.assign(adopted.begin(), adopted.end());
  return true;
}

void BorrowedLedger::OnReply(InstanceId from, const messages::TryMoveKvReply& reply,
                             const ClusterFacts& facts, absl::Time now) {
  const LoanId id{reply.loan().id()};
  const bool new_loan = reply.has_loan() && CreditorOf(id) == from && !Knows(id);
  if (const auto it = borrowings_.find(reply.ticket()); it != borrowings_.end()) {
    for (Part& part : it->second.parts) {
      if (part.creditor != from || part.state != PartState::kAsked) continue;
      if (new_loan && Fits(reply, it->second, part)) {
        part.loan = {.id = id,
                     .epoch = reply.loan().epoch(),
                     .creditor = from,
                     .debtor = options_.self,
                     .request = it->second.request,
                     .blocks = part.blocks,
                     .prefix = it->second.purpose == Purpose::kPrefix};
        part.state = PartState::kGranted;
        Advance(it, now);
        return;
      }
      if (!reply.has_loan() && reply.coming()) it->second.coming = reply.prefix_blocks();
      Fail(it, facts, now);
      break;
    }
  }
  // A grant that nobody waits for any more goes back; a copy of a known one changes nothing.
  if (new_loan) SendRepay(from, id, reply.loan().epoch());
}

bool BorrowedLedger::Knows(LoanId id) const {
  if (loans_.contains(id) || repaying_.contains(id)) return true;
  for (const auto& [ticket, borrowing] : borrowings_) {
    for (const Part& part : borrowing.parts) {
      if (part.state != PartState::kAsked && part.loan.id == id) return true;
    }
  }
  return false;
}

// All granted: activate all. All active: hand them over.
void BorrowedLedger::Advance(Borrowings::iterator it, absl::Time now) {
  Borrowing& borrowing = it->second;
  const auto all = [&](PartState state) {
    return std::all_of(borrowing.parts.begin(), borrowing.parts.end(),
                       [&](const Part& p) { return p.state == state; });
  };
  if (all(PartState::kGranted)) {
    for (Part& part : borrowing.parts) {
      part.state = PartState::kActivating;
      Activate(part);
    }
    borrowing.deadline = now + options_.reply_deadline;
    borrowing.next_retry = now + options_.retry;
  }
  const bool confirmed =
      all(options_.bug == PlantedBug::kUseUnconfirmed ? PartState::kActivating : PartState::kActive);
  if (confirmed) {
    Result result{.ticket = it->first,
                  .request = borrowing.request,
                  .purpose = borrowing.purpose,
                  .blocks = borrowing.blocks,
                  .granted = true,
                  .loans = {},
                  .adopted = borrowing.adopted};
    for (const Part& part : borrowing.parts) {
      result.loans.push_back(part.loan);
      loans_.emplace(part.loan.id, part.loan);
      borrowed_ += Counted(part.loan);
    }
    borrowed_max_ = std::max(borrowed_max_, borrowed_);
    if (borrowing.purpose != Purpose::kAdopt) attempts_.erase(borrowing.request);
    borrowings_.erase(it);
    results_.push_back(std::move(result));
  }
}

void BorrowedLedger::OnActivateReply(InstanceId from, const messages::ActivateLoanReply& reply,
                                     const ClusterFacts& facts, absl::Time now) {
  for (auto it = borrowings_.begin(); it != borrowings_.end(); ++it) {
    for (Part& part : it->second.parts) {
      if (part.creditor != from || part.state != PartState::kActivating ||
          Value(part.loan.id) != reply.loan().id() || part.loan.epoch != reply.loan().epoch()) {
        continue;
      }
      if (reply.active()) {
        part.state = PartState::kActive;
        Advance(it, now);
      } else {
        Fail(it, facts, now);
      }
      return;
    }
  }
}

// Gives back what was granted. Parts still unanswered are repaid when their grant arrives.
BorrowedLedger::Borrowings::iterator BorrowedLedger::Release(Borrowings::iterator it, absl::Time now) {
  for (const Part& part : it->second.parts) {
    if (options_.bug == PlantedBug::kKeepParts) break;
    if (part.state != PartState::kAsked) StartRepayment(part.loan, now);
  }
  return borrowings_.erase(it);
}

BorrowedLedger::Borrowings::iterator BorrowedLedger::Fail(Borrowings::iterator it, const ClusterFacts& facts,
                                                          absl::Time now) {
  const uint64_t ticket = it->first;
  const Borrowing borrowing = it->second;
  const auto next = Release(it, now);
  Refuse(ticket, borrowing, facts, now);
  return next;
}

// The waiting time doubles with each refusal in a row by a creditor, that is after a collision with others.
// What our own view rules out has cost nobody anything and is tried again soon; so is the request with the
// claim, for which all others stand back.
void BorrowedLedger::Refuse(uint64_t ticket, const Borrowing& borrowing, const ClusterFacts& facts,
                            absl::Time now) {
  const bool adopts = borrowing.purpose == Purpose::kAdopt;  // it finds something or not; nobody collides
  refusals_ += !adopts && !borrowing.coming.has_value();
  uint32_t attempt = 0;
  if (!borrowing.parts.empty() && !adopts) {
    if (attempts_.size() >= kAttemptsRemembered) attempts_.erase(attempts_.begin());  // likely ended
    attempt = attempts_[borrowing.request]++;
  }
  const uint32_t doublings = HasClaim(facts, borrowing.request) ? 0 : std::min(attempt, kBackoffDoublings);
  results_.push_back(
      {.ticket = ticket,
       .request = borrowing.request,
       .purpose = borrowing.purpose,
       .blocks = borrowing.blocks,
       .granted = false,
       .cluster_free = RoomOfOthers(borrowing, facts),
       .retry_after = now + options_.backoff * (1u << doublings) * Spread(borrowing.request, attempt),
       .coming = borrowing.coming});
}

void BorrowedLedger::StartRepayment(const Loan& loan, absl::Time now) {
  repaying_[loan.id] = {loan, now + options_.retry};
  SendRepay(loan.creditor, loan.id, loan.epoch);
}

void BorrowedLedger::SendRepay(InstanceId creditor, LoanId id, uint64_t epoch) {
  messages::LoanKey& key = *outbox_->Add(static_cast<int>(Value(creditor))).mutable_repay()->mutable_loan();
  key.set_id(Value(id));
  key.set_epoch(epoch);
}

void BorrowedLedger::Cancel(uint64_t ticket, absl::Time now) {
  if (const auto it = borrowings_.find(ticket); it != borrowings_.end()) Release(it, now);
  for (const Result& result : results_) {  // decided, but nobody has been told yet
    if (result.ticket != ticket) continue;
    for (const Loan& loan : result.loans) Repay(loan.id, now);
  }
  std::erase_if(results_, [&](const Result& result) { return result.ticket == ticket; });
}

bool BorrowedLedger::Repay(LoanId id, absl::Time now) {
  const auto it = loans_.find(id);
  if (it == loans_.end()) return false;
  borrowed_ -= Counted(it->second);
  StartRepayment(it->second, now);
  loans_.erase(it);
  return true;
}

void BorrowedLedger::RepayAll(RequestId request, absl::Time now) {
  for (auto it = borrowings_.begin(); it != borrowings_.end();) {
    it = it->second.request == request ? Release(it, now) : std::next(it);
  }
  std::vector<LoanId> ids;
  for (const auto& [id, loan] : loans_) {
    if (loan.request == request && !loan.shared) ids.push_back(id);
  }
  for (LoanId id : ids) Repay(id, now);
  std::erase_if(results_, [&](const Result& result) { return result.request == request; });
}

void BorrowedLedger::OnRepayAck(InstanceId from, const messages::RepayAck& ack) {
  const auto it = repaying_.find(LoanId{ack.loan().id()});
  if (it == repaying_.end() || it->second.loan.creditor != from ||
      it->second.loan.epoch != ack.loan().epoch())
    return;
  repaying_.erase(it);
}

std::vector<Loan> BorrowedLedger::DropCreditor(InstanceId creditor, bool process_gone,
                                               const ClusterFacts& facts, absl::Time now) {
  for (auto it = borrowings_.begin(); it != borrowings_.end();) {
    const bool involved = std::any_of(it->second.parts.begin(), it->second.parts.end(),
                                      [&](const Part& part) { return part.creditor == creditor; });
    it = involved ? Fail(it, facts, now) : std::next(it);
  }
  std::vector<Loan> lost;
  for (const auto& [id, loan] : loans_) {
    if (loan.creditor == creditor) lost.push_back(loan);
  }
  for (const Loan& loan : lost) Repay(loan.id, now);
  if (process_gone)
    std::erase_if(repaying_, [&](const auto& entry) { return entry.second.loan.creditor == creditor; });
  return lost;
}

void BorrowedLedger::Restart() {
  borrowings_.clear();
  loans_.clear();
  repaying_.clear();
  results_.clear();
  borrowed_ = 0;
}

void BorrowedLedger::Tick(const ClusterFacts& facts, absl::Time now) {
  for (auto it = borrowings_.begin(); it != borrowings_.end();) {
    Borrowing& borrowing = it->second;
    if (borrowing.deadline <= now) {
      it = Fail(it, facts, now);
      continue;
    }
    if (borrowing.next_retry <= now) {
      borrowing.next_retry = now + options_.retry;
      for (const Part& part : borrowing.parts) {
        if (part.state == PartState::kAsked) Ask(it->first, borrowing, part);
        if (part.state == PartState::kActivating) Activate(part);
      }
    }
    ++it;
  }
  for (auto& [id, repayment] : repaying_) {
    if (repayment.next_retry > now || options_.bug == PlantedBug::kForgetRepay) continue;
    repayment.next_retry = now + options_.retry;
    SendRepay(repayment.loan.creditor, id, repayment.loan.epoch);
  }
}

absl::Time BorrowedLedger::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [ticket, borrowing] : borrowings_)
    next = std::min({next, borrowing.deadline, borrowing.next_retry});
  for (const auto& [id, repayment] : repaying_) next = std::min(next, repayment.next_retry);
  return next;
}

absl::Status BorrowedLedger::CheckInvariants() const {
  uint64_t blocks = 0;
  std::set<LoanId> seen;
  for (const auto& [id, loan] : loans_) {
    blocks += Counted(loan);
    seen.insert(id);
  }
  if (blocks != borrowed_) {
    return absl::InternalError(absl::StrCat(blocks, " blocks in loans, ", borrowed_, " counted as borrowed"));
  }
  for (const auto& [id, repayment] : repaying_) {
    if (!seen.insert(id).second)
      return absl::InternalError(absl::StrCat("loan ", Value(id), " is repaid and in use"));
  }
  for (const auto& [ticket, borrowing] : borrowings_) {
    uint64_t asked = 0;
    for (const Part& part : borrowing.parts) {
      asked += part.blocks;
      if (part.state != PartState::kAsked && !seen.insert(part.loan.id).second) {
        return absl::InternalError(absl::StrCat("loan ", Value(part.loan.id), " serves two borrowings"));
      }
    }
    if (asked != borrowing.blocks) {
      return absl::InternalError(
          absl::StrCat("ticket ", ticket, " asks for ", asked, " of ", borrowing.blocks, " blocks"));
    }
  }
  return absl::OkStatus();
}

}  // namespace lombard
