// The way of messages between simulated processes, and their service: what is queried, stored and read.
#include "absl/strings/str_cat.h"
#include "runtime/sim/cluster.h"
#include "runtime/sim/describe.h"
#include "runtime/sim/process.h"

namespace lombard::sim {

void ClusterSim::SendAll(int from, std::vector<Outgoing> outgoing) {
  for (Outgoing& out : outgoing) {
    if (out.message.has_recall() && processes_[static_cast<size_t>(from)] != nullptr)
      processes_[static_cast<size_t>(from)]->audit.OnRecall(out.message.recall(), events_.now());
    Trace([&] { return absl::StrCat("rank ", from, " -> ", out.to, ": ", DescribeMessage(out.message)); });
    network_->Send(from, out.to, std::make_shared<const messages::ControlMessage>(std::move(out.message)));
  }
}

void ClusterSim::Deliver(int from, int to, const Payload& payload) {
  if (const Control* control = std::get_if<Control>(&payload)) {
    const messages::ControlMessage& message = **control;
    if (to == 0 && ForGlobalManager(message)) {
      gmanager_.Handle(from, message, events_.now());
      return AfterManager();
    }
    if (to == 0 && message.has_tokens()) {
      dispatcher_.OnTokens(from, message.incarnation(), message.tokens(), events_.now());
      return AfterManager();
    }
    if (to == 0 && message.has_hand_back()) {
      dispatcher_.OnHandBack(from, message.incarnation(), message.hand_back(), events_.now());
      return AfterManager();
    }
  }
  const Process* process = processes_[static_cast<size_t>(to)].get();
  if (process == nullptr) return;
  ForProcess(to, process->number, [this, from, payload](Process& p) { Receive(p, from, payload); });
}

void ClusterSim::Receive(Process& process, int from, const Payload& payload) {
  const auto slots_of = [&](LoanId loan, uint64_t epoch) { return SlotsOf(process, from, loan, epoch); };
  const auto serve = [&](std::shared_ptr<const LoanSlots> slots, auto answer) {
    const absl::Duration busy = random_.Between(absl::ZeroDuration(), absl::Milliseconds(3));
    AnswerLater(process, from, std::move(slots), random_.Chance(0.05) ? 10 * busy : busy, answer);
  };
  if (const auto* control = std::get_if<Control>(&payload)) {
    process.told_to_leave |= (*control)->has_leave();
    if (!(*control)->has_leave()) process.inbox.emplace_back(from, *control);
  } else if (const auto* state = std::get_if<State>(&payload)) {
    process.heard = events_.now();
    process.machine->OnState(from, *state);
    TryFinishStep(process);
  } else if (const auto* stored = std::get_if<KvStored>(&payload)) {
    process.machine->OnStored(from, *stored);
  } else if (const auto* write = std::get_if<KvWrite>(&payload)) {
    serve(slots_of(write->loan, write->epoch),
          [write = *write](SymbolicMachine& machine, const LoanSlots* slots) {
            return machine.Store(write, slots);
          });
  } else if (const auto* query = std::get_if<Query>(&payload)) {
    process.queries.emplace_back(from, *query);
    TryServe(process);
  } else if (const auto* read = std::get_if<KvRead>(&payload)) {
    serve(slots_of(read->loan, read->epoch),
          [read = *read](SymbolicMachine& machine, const LoanSlots* slots) {
            return machine.Read(read, slots);
          });
  } else if (const auto* data = std::get_if<KvData>(&payload)) {
    process.machine->OnData(from, *data);
  }
}

std::shared_ptr<const LoanSlots> ClusterSim::SlotsOf(const Process& creditor, int debtor, LoanId loan,
                                                     uint64_t epoch) const {
  std::shared_ptr<const LoanSlots> slots = creditor.rmanager->hosted()->Find(loan, epoch);
  return slots != nullptr && slots->loan.debtor == InstanceId(debtor) ? slots : nullptr;
}

// A service thread takes the snapshot, and reads or writes a little later.
void ClusterSim::AnswerLater(Process& process, int from, std::shared_ptr<const LoanSlots> slots,
                             absl::Duration busy,
                             std::function<Payload(SymbolicMachine&, const LoanSlots*)> answer,
                             std::function<void(Process&)> then) {
  if (slots != nullptr) process.served.push_back(slots);
  events_.After(busy, [this, rank = process.rank, number = process.number, from, slots, answer, then] {
    ForProcess(rank, number, [this, rank, from, slots, answer, then](Process& p) {
      network_->Send(rank, from, answer(*p.machine, slots.get()));
      if (then) then(p);
    });
  });
}

// One query at a time, on the core that computes the own steps.
void ClusterSim::TryServe(Process& process) {
  const bool may = process.budget.MayAttend() || scenario_.bug == PlantedBug::kIgnoreGuard;
  if (process.serving || process.queries.empty() || !may) return;
  process.serving = true;
  const auto [from, query] = process.queries.front();
  process.queries.pop_front();
  const absl::Duration block =
      random_.Between(absl::Microseconds(10), absl::Microseconds(random_.Chance(0.05) ? 1000 : 100));
  const absl::Duration busy = block * query.blocks;
  const bool began_free = process.budget.free();
  AnswerLater(
      process, from, SlotsOf(process, from, query.loan, query.epoch), busy,
      [query = query](SymbolicMachine& machine, const LoanSlots* slots) {
        return machine.Answer(query, slots);
      },
      [this, busy, began_free](Process& p) {
        p.serving = false;
        p.budget.Attended(absl::ToDoubleSeconds(busy));
        if (p.stepping && !p.computed) {
          p.stolen += busy;
          if (!began_free) p.guard.Attended(absl::ToDoubleSeconds(busy));
        }
        TryServe(p);
      });
}

void ClusterSim::OnDown(int at, int peer) {
  Trace([&] { return absl::StrCat("rank ", at, ": the connection to rank ", peer, " is down"); });
  if (at == 0) {
    gmanager_.ConnectionLost(peer, events_.now());
    AfterManager();
  }
  Process* process = processes_[static_cast<size_t>(at)].get();
  if (process == nullptr) return;
  ForProcess(at, process->number, [this, peer](Process& p) {
    p.down.push_back(peer);
    p.machine->OnPeerDown(peer);
    TryFinishStep(p);
  });
}

}  // namespace lombard::sim
