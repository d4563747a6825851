// Processes of a simulated cluster that come to join it, and that leave.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/sim/cluster.h"
#include "runtime/sim/process.h"

namespace lombard::sim {
namespace {

constexpr absl::Duration kLeaveWait = absl::Seconds(1);

}  // namespace

void ClusterSim::ComeLater(absl::Duration delay, std::optional<InstanceId> wanted, uint32_t blocks) {
  ++coming_;
  events_.After(delay, [this, wanted, blocks] {
    --coming_;
    Come(wanted, blocks);
  });
}

void ClusterSim::Come(std::optional<InstanceId> wanted, uint32_t blocks) {
  const uint64_t number = next_process_++;
  const auto grant = gmanager_.Join(wanted, number, blocks, events_.now());
  AfterManager();
  if (!grant.ok()) {  // taken, or its loss is not known yet; who would be one more gives up
    bool full = true;
    for (size_t i = 0; i < processes_.size(); ++i)
      full = full && processes_[i] != nullptr && gmanager_.membership().members()[i].belongs();
    if (full) return;
    const bool any = !wanted.has_value() || random_.Chance(0.2);
    return ComeLater(random_.Between(absl::Milliseconds(50), absl::Milliseconds(500)),
                     any ? std::nullopt : wanted, any ? kPoolOfComers : blocks);
  }
  if (random_.Chance(0.1)) {  // it ends before its first word; its launcher starts another one
    Trace([&] { return absl::StrCat("process ", number, " is let in, and ends"); });
    return ComeLater(random_.Between(absl::Milliseconds(50), absl::Milliseconds(500)), wanted, blocks);
  }
  ++coming_;
  const int rank = static_cast<int>(Value(grant->instance));
  events_.After(random_.Between(absl::ZeroDuration(), absl::Milliseconds(20)),
                [this, rank, incarnation = grant->incarnation, number, blocks] {
                  --coming_;
                  if (const Process* ousted = processes_[static_cast<size_t>(rank)].get();
                      ousted != nullptr) {
                    // It lost its place, and ends as soon as it is told; then its launcher starts
                    // another.
                    ComeLater(ousted->next_after, {}, kPoolOfComers);
                    EndProcess(rank);
                  }
                  StartProcess(rank, incarnation, number, blocks);
                  ++stats_.joined;
                });
}

std::vector<uint32_t> ClusterSim::KnownPools() const {
  std::vector<uint32_t> pools;
  for (const Membership::Member& member : gmanager_.membership().members()) pools.push_back(member.kv_blocks);
  return pools;
}

// A process that has left, or lost its place. True: it is no more.
bool ClusterSim::GoneForGood(Process& process) {
  const Instance& instance = *process.instance;
  if (!instance.left()) return false;
  if (!process.left_since.has_value()) {
    process.left_since = events_.now();
    const RManager::Counters c = process.rmanager->counters();
    const bool in_time = events_.now() < process.drain_end.value_or(absl::InfinitePast());
    if (in_time && !instance.cut_off() &&
        (c.lent + c.prefix_lent > 0 || c.borrowed > 0 || !process.rmanager->settled()))
      Violate(absl::StrCat("rank ", process.rank, " leaves before its loans have moved"));
  }
  if (!instance.cut_off() && !process.told_to_leave && events_.now() - *process.left_since < kLeaveWait)
    return false;
  SendAll(process.rank, process.instance->TakeOutgoing());
  stats_.left += process.told_to_leave;
  ComeLater(process.next_after, InstanceId(process.rank), process.blocks);  // its launcher starts another
  EndProcess(process.rank);
  return true;
}

absl::Status ClusterSim::CheckDraining(const Process& process) const {
  if (!process.drain_end.has_value()) return absl::OkStatus();
  for (const auto& [id, slots] : process.rmanager->hosted()->loans) {
    if (!process.hosted_then.contains(id))
      return absl::InternalError(absl::StrCat("rank ", process.rank, " lends while it drains"));
  }
  return absl::OkStatus();
}

void ClusterSim::TellToLeave(const Fault& fault) {
  const Process* process = processes_[static_cast<size_t>(fault.a)].get();
  if (process == nullptr) return;
  ForProcess(fault.a, process->number, [this, fault](Process& p) {
    if (p.instance->left()) return;
    if (p.stepping) {  // taken up between steps
      events_.After(absl::Milliseconds(1), [this, fault] { TellToLeave(fault); });
      return;
    }
    if (!p.drain_end.has_value()) {
      for (const auto& [id, slots] : p.rmanager->hosted()->loans) p.hosted_then.insert(id);
    }
    p.instance->Drain(fault.wait, events_.now());
    p.recall_end = p.drain_end.has_value() ? events_.now() : events_.now() + fault.wait * 0.9;
    p.drain_end = p.drain_end.has_value() ? events_.now() : events_.now() + fault.wait;
    p.next_after = fault.lasts;
  });
}

}  // namespace lombard::sim
