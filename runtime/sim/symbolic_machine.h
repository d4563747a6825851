// The machine below a simulated engine. KV is symbolic: a cell holds a hash of all tokens up to its own, so a
// stale, foreign or overwritten cell is noticed whoever reads it. Attention is coverage: a committed step
// must see each earlier position of each row's context exactly once, with the right cell, wherever it lies.
// Logits follow from what was read, and from who computes: a process that goes on where another one was
// generates other tokens than that one would have.
//
// The exchange with creditors is real in its timing: queries and KV travel over the network and are answered
// from the snapshot of the creditor's ledger at the time of arrival.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "distattn/remote_failure.h"
#include "rmanager/loans.h"
#include "runtime/engine/kv_mover.h"
#include "runtime/engine/step_work.h"
#include "runtime/sim/payload.h"

namespace lombard::sim {

constexpr int kVocabulary = 16;
// The cell of `token` behind `before` (0 at the start), and the token that a process samples at a cell.
Cell NextCell(Cell before, int32_t token);
struct Sampler {
  int rank = 0;
  uint64_t incarnation = 0;
  auto operator<=>(const Sampler&) const = default;
};
int32_t SampleAt(Cell cell, const Sampler& by);

class SymbolicMachine final : public KvMover {
 public:
  struct Hooks {
    std::function<void(int to, Payload)> send;
    // What the request's context must be at a position, for the check; and the place to complain.
    std::function<Cell(const RequestId&, uint32_t position)> expected;
    std::function<void(std::string)> violation;
    std::function<Cell(const RequestId&)> origin;  // before its first token
    std::function<Sampler()> sampler;
  };
  SymbolicMachine(uint32_t block_tokens, uint32_t blocks, Hooks hooks)
      : block_tokens_(block_tokens), cells_(size_t{blocks} * block_tokens, 0), hooks_(std::move(hooks)) {}

  void Send(const KvSend& send) override;
  void Fetch(const KvFetch& fetch) override;
  KvTransfer transfer(uint64_t id) override;
  void ForgetTransfer(uint64_t id) override { transfers_.erase(id); }
  void Copy(BlockId from, BlockId to) override;
  void Poison(BlockId id) override;

  // Sends the step's queries. The own computing takes `seconds`.
  void Start(const StepWork* work, double seconds);
  bool ready() const { return missing_ == 0 || failed_; }  // all states are here, or it has failed
  // The creditors that have not answered count as unreachable.
  void GiveUp();
  // Checks the coverage, stores the new KV, sends what leaves. Fails when a part failed.
  absl::StatusOr<StepResult> Finish();
  // What failed since the last call, in steps and transfers.
  std::vector<RemoteFailure> TakeFailures() { return std::exchange(failures_, {}); }

  void OnState(int from, const State& state);
  void OnStored(int from, const KvStored& stored);
  void OnData(int from, const KvData& data);
  // The step under way and the transfers that need the peer fail.
  void OnPeerDown(int peer);

  // What lies in a block, for the audit: block_tokens cells.
  const Cell* Look(BlockId block) const { return &cells_[Value(block) * size_t{block_tokens_}]; }

  // The creditor's side; `slots` is what its ledger has of the loan, or null.
  State Answer(const Query& query, const LoanSlots* slots) const;
  KvStored Store(const KvWrite& write, const LoanSlots* slots);
  KvData Read(const KvRead& read, const LoanSlots* slots) const;

 private:
  struct Part {
    int creditor = 0;
    LoanId loan{};
    std::vector<Cell> cells;  // empty until its state is here
  };
  struct Sent {
    KvTransfer progress;
    std::vector<int> creditors;
    std::map<uint32_t, std::vector<BlockId>> fetches;  // not yet here, by first slot
  };
  Cell& At(BlockId block, uint32_t slot) { return cells_[Value(block) * size_t{block_tokens_} + slot]; }
  std::vector<Cell> Gather(const std::vector<BlockId>& blocks) const;
  void FailStep(RemoteFailure failure);
  std::vector<Cell> Coverage(size_t sequence, uint32_t* part);

  const uint32_t block_tokens_;
  std::vector<Cell> cells_;
  const Hooks hooks_;
  std::map<uint64_t, Sent> transfers_;

  const StepWork* work_ = nullptr;  // of the step under way
  uint64_t exchange_ = 0;
  std::vector<Part> parts_;
  uint32_t missing_ = 0;
  double seconds_ = 0;
  bool failed_ = false;
  std::vector<RemoteFailure> failures_;
};

}  // namespace lombard::sim
