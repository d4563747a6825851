#include "runtime/sim/oracle.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace lombard::sim {
namespace {

std::string Name(const Loan& loan) {
  return absl::StrCat("loan ", Value(loan.id) & ((uint64_t{1} << 40) - 1), " of rank ", Value(loan.creditor),
                      " to rank ", Value(loan.debtor));
}

bool Agree(const LoanSlots& at_creditor, const Loan& at_debtor) {
  const Loan& loan = at_creditor.loan;
  return loan.prefix == at_debtor.prefix && loan.debtor == at_debtor.debtor &&
         loan.request == at_debtor.request && loan.blocks == at_debtor.blocks &&
         at_creditor.blocks.size() == at_debtor.blocks;
}

}  // namespace

// -------------------------------------------------------------------------------------------- requests

Cell RequestOracle::OriginOf(absl::string_view salt) {
  Cell origin = 0;
  for (const char c : salt) origin = NextCell(origin, c);
  return origin;
}

void RequestOracle::Add(const RequestId& id, const SimRequest& asked) {
  Request& request = requests_[id];
  request.prompt_size = static_cast<uint32_t>(asked.prompt.size());
  request.tokens = asked.prompt;
  request.max_tokens = asked.max_tokens;
  request.origin = OriginOf(asked.salt);
}

absl::Status RequestOracle::Given(const RequestId& id, const Sampler& home) {
  Request& request = requests_.at(id);
  const auto [it, is_new] = request.chains.try_emplace(home);
  if (!is_new || request.finished) {
    return absl::InternalError(absl::StrCat(ToString(id), " is given to rank ", home.rank, ".",
                                            home.incarnation, is_new ? " after its end" : " again"));
  }
  Chain& chain = it->second;
  chain.tokens = request.tokens;
  Cell before = request.origin;
  for (size_t i = 0; i < size_t{request.prompt_size} + request.max_tokens; ++i) {
    if (i == chain.tokens.size()) chain.tokens.push_back(SampleAt(before, home));
    before = NextCell(before, chain.tokens[i]);
    chain.cells.push_back(before);
  }
  request.home = &chain;
  return absl::OkStatus();
}

absl::Status RequestOracle::Delivered(const SequenceOutput& output) {
  const auto fail = [&](auto... what) {
    return absl::InternalError(absl::StrCat(ToString(output.id), what...));
  };
  Request& request = requests_.at(output.id);
  const size_t delivered = request.tokens.size() - request.prompt_size;
  if (!output.error.ok()) return fail(" fails: ", output.error.message());
  if (request.finished) return fail(" goes on after its end");
  if (output.token.has_value()) {
    if (delivered == request.max_tokens) return fail(" gets more tokens than it asked for");
    if (output.index != delivered)
      return fail(": token ", output.index, " is delivered in the place of ", delivered);
    if (request.home == nullptr || request.home->tokens[request.tokens.size()] != *output.token)
      return fail(": token ", delivered, " of its answer is wrong");
    request.tokens.push_back(*output.token);
  }
  if (!output.finished) return absl::OkStatus();
  request.finished = true;
  if (request.tokens.size() != size_t{request.prompt_size} + request.max_tokens)
    return fail(" ends after ", delivered, " tokens");
  return absl::OkStatus();
}

Cell RequestOracle::CellOf(const RequestId& id, const Sampler& at, uint32_t position) const {
  const Request& request = requests_.at(id);
  const auto it = request.chains.find(at);
  return it == request.chains.end() || position >= it->second.cells.size() ? 0 : it->second.cells[position];
}

bool RequestOracle::AllDone() const {
  return std::all_of(requests_.begin(), requests_.end(),
                     [](const auto& entry) { return entry.second.finished; });
}

std::string RequestOracle::DescribeOpen() const {
  std::string text;
  for (const auto& [id, request] : requests_) {
    if (request.finished) continue;
    absl::StrAppend(&text, " ", ToString(id), " (", request.prompt_size, " + ",
                    request.tokens.size() - request.prompt_size, " of ", request.max_tokens, " tokens)");
  }
  return text;
}

// ----------------------------------------------------------------------------------------------- loans

void CreditorAudit::OnMessage(int from, const messages::ControlMessage& message) {
  const messages::ClusterView* view = nullptr;
  if (message.has_cluster_view()) view = &message.cluster_view();
  if (message.has_heartbeat_ack()) view = &message.heartbeat_ack().view();
  if (view != nullptr) {
    for (const messages::Member& member : view->members()) {
      const bool over = member.state() == messages::MEMBER_LOST || member.state() == messages::MEMBER_LEFT;
      const uint64_t lost = member.incarnation() - (over ? 0 : 1);
      uint64_t& known = lost_[static_cast<int>(member.instance())];
      if (member.incarnation() == 0 || lost <= known) continue;
      known = lost;
      ended_debtors_.insert(static_cast<int>(member.instance()));
    }
    return;
  }
  if (message.has_move_kv() || message.has_fenced() || message.has_submit() || message.has_cancel()) return;
  if (message.incarnation() > newest_[from]) {
    newest_[from] = message.incarnation();
    ended_debtors_.insert(from);
  }
  if (message.has_activate_loan()) {
    const messages::LoanKey& key = message.activate_loan().loan();
    activated_.insert({from, {LoanId{key.id()}, key.epoch()}});
  }
  if (message.has_repay()) {
    const messages::LoanKey& key = message.repay().loan();
    repaid_.insert({from, {LoanId{key.id()}, key.epoch()}});
  }
}

void CreditorAudit::OnRecall(const messages::Recall& recall, absl::Time now) {
  recalled_.try_emplace({LoanId{recall.loan().id()}, recall.loan().epoch()}, now);
}

absl::Status CreditorAudit::CheckInUse(const Loan& loan) const {
  const auto lost = lost_.find(static_cast<int>(Value(loan.creditor)));
  if (lost == lost_.end() || loan.epoch >> 32 > lost->second) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(Name(loan), " is in use, and its creditor known to be lost"));
}

absl::Status LoanOracle::CreditorStepped(int rank, const RManager& creditor, Incarnation incarnation,
                                         absl::Duration recall_deadline, absl::Time drain_end, absl::Time now,
                                         CreditorAudit* audit) {
  const bool restarted = std::exchange(audit->incarnation_, Value(incarnation)) != Value(incarnation);
  const auto repaid = std::exchange(audit->repaid_, {});
  const auto activated = std::exchange(audit->activated_, {});
  const auto ended_debtors = std::exchange(audit->ended_debtors_, {});
  const std::map<LoanId, Loan> last = std::exchange(audit->hosted_, {});
  for (const auto& [id, slots] : creditor.hosted()->loans) audit->hosted_.emplace(id, slots->loan);
  absl::Status verdict;
  for (const auto& [id, loan] : last) {
    const CreditorAudit::LoanKey key{id, loan.epoch};
    const auto still = audit->hosted_.find(id);
    if (still != audit->hosted_.end() && still->second.epoch == loan.epoch) continue;
    const int debtor = static_cast<int>(Value(loan.debtor));
    if (repaid.contains({debtor, key})) continue;
    const auto recalled = audit->recalled_.find(key);
    const bool overdue = recalled != audit->recalled_.end() && now - recalled->second >= recall_deadline;
    if (restarted || overdue || now >= drain_end || ended_debtors.contains(debtor)) {
      ended_.insert(key);
    } else {
      verdict.Update(
          absl::InternalError(absl::StrCat("rank ", rank, ": ", Name(loan), " has ended for no reason")));
    }
  }
  // Those that were activated and ended between two looks.
  for (const auto& [debtor, key] : activated) {
    const auto hosted = audit->hosted_.find(key.first);
    const bool there = hosted != audit->hosted_.end() && hosted->second.epoch == key.second;
    if (!there && (restarted || now >= drain_end || ended_debtors.contains(debtor))) ended_.insert(key);
  }
  return verdict;
}

void LoanOracle::CreditorGone(const RManager& creditor) {
  for (const auto& [id, slots] : creditor.hosted()->loans) ended_.insert({id, slots->loan.epoch});
}

absl::Status LoanOracle::CheckInUse(const Loan& loan, const RManager* creditor) const {
  const auto hosted = creditor == nullptr ? nullptr : creditor->hosted()->Find(loan.id, loan.epoch);
  if (hosted != nullptr && Agree(*hosted, loan)) return absl::OkStatus();
  if (ended_.contains({loan.id, loan.epoch})) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(Name(loan), " is in use, and its creditor does not know it so and has not ended it"));
}

// ----------------------------------------------------------------------------------------------- guard

void GuardOracle::Attended(double seconds) {
  attended_ += seconds;
  slice_max_ = std::max(slice_max_, seconds);
}

absl::Status GuardOracle::StepEnded(double own_seconds, double guard) {
  constexpr double kRounding = 1e-9;
  excess_ =
      std::max(0.0, excess_ + std::exchange(attended_, 0) - guard * std::exchange(last_own_, own_seconds));
  if (excess_ <= slice_max_ + kRounding) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("attention for others took ", 1e6 * excess_,
                                          " us more of own steps than the guard allows; the longest slice "
                                          "took ",
                                          1e6 * slice_max_));
}

// ---------------------------------------------------------------------------------------------- blocks

absl::Status AuditBlocks(const KvPool& pool, const RManager& rmanager, const Engine& engine,
                         const std::vector<std::weak_ptr<const LoanSlots>>& served) {
  const auto fail = [](BlockId block, auto... what) {
    return absl::InternalError(absl::StrCat("block ", Value(block), what...));
  };
  std::vector<uint32_t> users(pool.total_count(), 0);
  std::vector<bool> shared(pool.total_count(), false), lent(pool.total_count(), false);
  if (const PrefixTree* prefixes = engine.prefixes(); prefixes != nullptr) {
    for (const PrefixNodeView& node : prefixes->Nodes()) {
      for (BlockId block : node.blocks) {
        if (users[Value(block)]++ > 0) return fail(block, " is cached twice");
        shared[Value(block)] = true;
      }
    }
  }
  for (const auto& [id, table] : engine.tables()) {
    for (BlockId block : table->AllLocal()) {
      if (users[Value(block)]++ > 0 && !shared[Value(block)])
        return fail(block, " has two users, one is ", ToString(id));
    }
  }
  for (BlockId block : rmanager.held_over()) {
    if (users[Value(block)]++ > 0) return fail(block, " has two users, one is held over");
  }
  uint64_t held = 0;
  for (const std::shared_ptr<const LoanSlots>& slots : rmanager.lent_slots()) {
    held += slots->blocks.size();
    for (BlockId block : slots->blocks) {
      if (slots->loan.prefix) {
        if (!shared[Value(block)]) return fail(block, " of ", Name(slots->loan), " is not cached");
        ++users[Value(block)];
      } else if (users[Value(block)]++ > 0)
        return fail(block, " has two users, one is ", Name(slots->loan));
      lent[Value(block)] = true;
    }
  }
  for (const std::weak_ptr<const LoanSlots>& weak : served) {
    const std::shared_ptr<const LoanSlots> slots = weak.lock();
    if (slots == nullptr) continue;
    for (BlockId block : slots->blocks) {
      const bool given_away = users[Value(block)] > 0 && !lent[Value(block)] && !slots->loan.prefix;
      if (pool.references(block) == 0 || given_away)
        return fail(block, " of ", Name(slots->loan), " is read by service, and given away");
    }
  }
  uint64_t ended = 0;  // of ended loans, until service has let go of them
  for (uint32_t block = 0; block < pool.total_count(); ++block) {
    const uint32_t counted = pool.references(BlockId{block});
    if (counted == users[block]) continue;
    if (counted < users[block] || (!shared[block] && (users[block] > 0 || counted > 1)))
      return fail(BlockId{block}, " has ", users[block], " users, the pool counts ", counted);
    ended += counted - users[block];
  }
  const uint64_t known = rmanager.counters().lent + rmanager.counters().prefix_lent;
  if (held + ended != known) {
    return absl::InternalError(
        absl::StrCat(held, " blocks in loans and ", ended, " that nobody has, ", known, " counted as lent"));
  }
  return absl::OkStatus();
}

absl::Status AuditTables(const RManager& rmanager, const Engine& engine) {
  std::set<LoanId> used;
  for (const auto& [id, table] : engine.tables()) {
    for (const TableLoan& loan : table->loans()) {
      const auto it = rmanager.borrowed().find(loan.id);
      if (it == rmanager.borrowed().end() || it->second.epoch != loan.epoch ||
          (it->second.request != id && !it->second.shared))
        return absl::InternalError(absl::StrCat(ToString(id), " uses a loan that is not its own"));
      used.insert(loan.id);
    }
  }
  if (used.size() != rmanager.borrowed().size()) {
    return absl::InternalError(
        absl::StrCat("the tables use ", used.size(), " of ", rmanager.borrowed().size(), " borrowed loans"));
  }
  return absl::OkStatus();
}

}  // namespace lombard::sim
