// The scheduler and step loop of one instance: continuous batching with chunked prefill over a paged KV pool
// that reaches into other instances' memory.
//
//   engine.Submit(request, now);                   // any time between steps
//   engine.HandleEvent(event, now);                // what rmanager decided
//   const StepWork* work = engine.Begin(now);
//   if (work != nullptr) StepReport report = engine.Finish(machine.Run(*work), now);
//   for (SequenceOutput& output : engine.TakeOutputs()) ...
//
// It decides; somebody else computes (runtime/engine/step_work.h) and moves bytes (kv_mover.h). So it knows
// no weights, no storage, no transport and no clock.
//
// Begin: take what came (stored blocks flip to their loans), admit, schedule. Finish: commit. Tables, token
// counts, sampler state and output change only at commit. Belongs to the step thread.
//
// Memory. A sequence is admitted when blocks for its tokens and some headroom are reserved, here and at
// creditors, all or nothing. Its oldest full blocks leave for the loans as they are computed; the newest
// stay. When a decode outgrows its blocks it takes a free one, pushes an old one into a loan, borrows more,
// or preempts the youngest sequence of the instance. One that is blocked while an older request of the
// cluster claims memory gives up its own (requeued, recomputed): so the oldest always gets through.
//
// Losses. When a loan is lost, only the tokens in it are computed again, as a prefill that attends to what
// lies before them; then the sequence goes on where it was. Memory for them is found as for a decode that
// outgrew its blocks; a sequence that finds none begins again.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "base/planted_bug.h"
#include "distattn/sharing_cost.h"
#include "kvpool/kv_pool.h"
#include "kvpool/prefix_tree.h"
#include "rmanager/rmanager.h"
#include "runtime/engine/kv_mover.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_work.h"

namespace lombard {

struct EngineOptions {
  uint32_t block_tokens = 32;
  uint32_t max_batch_tokens = 512;   // query rows of a step: decodes first, then prefill chunks
  uint32_t max_batch_size = 256;     // sequences of a step
  uint32_t headroom_tokens = 128;    // reserved for output at admission, at most
  uint32_t max_model_len = 0;        // tokens
  uint32_t cluster_blocks = 0;       // what one sequence can hold: this pool and what the others may lend
  uint32_t decode_move_tokens = 16;  // of planner's moves, per step
  // How long a request that fits this pool waits for moves before it borrows itself; a guess: two plan
  // periods.
  absl::Duration borrow_patience = absl::Milliseconds(400);
  bool lending = true;
  bool prefix_cache = true;  // KV of equal prefixes is computed once and kept until memory is wanted
  // Which prefixes are attended to for all their readers at once.
  SharingCost sharing = SharingCost::OfReading(256);
  // What another instance's cache has of a request is read there instead of computed here when it is at least
  // so many tokens more than the own cache has. A guess: every step then waits for answers in every layer.
  uint32_t remote_prefix_min = 512;
  // Without a new block of it for so long, one that another instance computes is computed here. A guess: many
  // steps.
  absl::Duration prefix_patience = absl::Seconds(5);
  bool copy_prefixes = true;  // those read elsewhere, when that has become cheaper (distattn/prefix_copy.h)
  bool poison_freed = false;  // NaN into local blocks that were lent away (tests)
  InstanceId self{};
  PlantedBug bug = PlantedBug::kNone;
};

// What an engine must know of its model.
struct EngineModel {
  std::vector<int> layer_windows;  // [layers]; 0: full attention
  int vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  uint64_t fingerprint = 0;
  std::string kv_format;  // prefixes are shared where fingerprint and format are equal
  double row_keys = 1;    // what a row attended elsewhere costs, in keys' bytes (distattn/prefix_copy.h)
};

// Of a step that was committed; zeros of one that was abandoned.
struct StepReport {
  int rows = 0;
  int sequences = 0;
  bool remote = false;  // some attention ran elsewhere
  AttentionTiming attention;
  uint64_t keys_read = 0;  // here, of one layer
  double seconds = 0;
};

// What lost loans cost.
struct RecoveryStats {
  uint64_t loans_lost = 0, blocks_lost = 0;  // with KV in them
  uint64_t recomputed_tokens = 0;
  uint64_t preemptions = 0;  // sequences that had to begin again
  uint64_t abandoned_steps = 0;
  uint64_t blocks_returned = 0;  // fetched home from loans
  uint64_t adopted_tokens = 0;   // of requests whose home was lost, found at creditors of that
};

class Engine {
 public:
  // Nothing is owned; all outlive this.
  Engine(const EngineOptions& options, EngineModel model, const Tokenizer* tokenizer, KvPool* pool,
         RManager* rmanager, KvMover* mover);
  ~Engine();

  // A request that can never fit is answered at once with an error that names both numbers.
  void Submit(SequenceRequest request, absl::Time now);
  // Forgets a request, or all: no output follows, and what is in TakeOutputs is dropped.
  void Cancel(const RequestId& id, absl::Time now);
  void CancelAll(absl::Time now);
  void HandleEvent(const RManager::Event& event, absl::Time now);
  // What lies in the loan comes home, some of it in every step; then the loan is repaid. Decoding goes on.
  // Where memory is short, other blocks leave for other creditors. What has not come by `deadline` is given
  // up and computed again. Nothing happens to an unknown loan.
  void TakeHome(LoanId loan, absl::Time deadline, absl::Time now);
  // The next step; null: nothing can run. Valid until Finish. Until then nobody calls the engine, its pool or
  // its rmanager.
  const StepWork* Begin(absl::Time now);
  // What came of it. An error abandons the step, which has then left no trace and may be run again.
  StepReport Finish(absl::StatusOr<StepResult> result, absl::Time now);
  std::vector<SequenceOutput> TakeOutputs();

  bool Knows(const RequestId& id) const;                // it waits or runs
  std::vector<RequestId> requests(bool running) const;  // those that run, or those that wait
  // Who may lend has changed: what one sequence can hold now (EngineOptions::cluster_blocks).
  void set_cluster_blocks(uint32_t blocks) { cluster_blocks_ = blocks; }
  uint32_t block_tokens() const { return options_.block_tokens; }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  uint32_t running_count() const { return static_cast<uint32_t>(running_.size()); }
  uint32_t waiting_count() const { return static_cast<uint32_t>(waiting_.size()); }
  uint64_t preemptions() const { return preemptions_; }
  uint64_t prefixes_copied() const { return prefixes_copied_; }  // from other instances, each for all readers
  uint64_t prefixes_awaited() const { return prefixes_awaited_; }  // until they were computed elsewhere
  uint64_t copies_advised() const { return copies_advised_; }      // begun because gManager advised it
  uint64_t prefixes_lent() const { return prefixes_lent_; }        // whole, each for all its readers
  const RecoveryStats& recovery_stats() const { return recovery_; }
  PrefixStats prefix_stats() const { return prefixes_ == nullptr ? PrefixStats{} : prefixes_->stats(); }
  // The tables of all sequences, and the cache, for whoever audits them. Null: no prefix cache.
  std::vector<std::pair<RequestId, const BlockTable*>> tables() const;
  const PrefixTree* prefixes() const { return prefixes_.get(); }
  absl::Time NextRetry() const;  // earliest retry_at of the waiting; InfiniteFuture when none
  absl::Status CheckInvariants() const;

 private:
  using SequencePtr = std::unique_ptr<Sequence>;
  struct Row;  // a sequence's part of a step

  void FlipStoredBlocks();
  void FlipStoredBlocks(Sequence& sequence);
  void Admit(absl::Time now);
  bool TryAdmit(Sequence& sequence, absl::Time now);
  uint32_t BlocksOfYoungerThanClaim() const;                        // that they hold here
  bool Block(Sequence& sequence, uint32_t blocks, absl::Time now);  // notes what it lacks; false
  // Reserves `blocks`, here or partly elsewhere; false: it cannot now. `patient`: it would wait for moves.
  bool TakeMemory(Sequence& sequence, uint32_t blocks, bool patient, absl::Time now);
  void BackToWaiting(Sequence& sequence);

  // engine_adopt.cc
  absl::Span<const uint64_t> Names(Sequence& sequence, uint32_t blocks) const;  // of the first ones
  void TellStored(Sequence& sequence, const BlockExport& part) const;
  bool StartAdoption(Sequence& sequence, absl::Time now);  // false: there is nothing to adopt
  void Adopt(Sequence& sequence, const Borrowed& borrowed, absl::Time now);
  void FinishAdoptions(absl::Time now);

  // engine_prefix.cc
  bool SomeoneComputesMoreOf(const Sequence& sequence, uint64_t cached_tokens) const;
  // Admits at home over what the cache has of its tokens, if that needs no more than is free.
  bool TryAdmitOverPrefix(Sequence& sequence, const PrefixMatch& match, uint32_t blocks, absl::Time now);
  // Takes what several sequences of `plan` read out of their spans into shared ones.
  void ShareSpans(AttentionPlan* plan) const;
  void ShareFullBlocks(Sequence& sequence, absl::Time now);
  void ShareBlocks(Sequence& sequence, uint32_t count, absl::Time now);  // the first ones
  // The first blocks, and, if all of it is here, what follows. False: not even those are here.
  bool StartSharing(Sequence& sequence, uint32_t first, absl::Time now);
  void StopSharing(Sequence& sequence);
  // Its first blocks, as far as others read them too: they stay, since nothing would be free without them.
  // With a prefix that it reads elsewhere, which comes home whole or not at all.
  uint32_t SharedBlocks(const Sequence& sequence) const;
  uint32_t PrivateBlocks(const Sequence& sequence) const;  // full ones that are its alone, here
  void LeavePrefix(Sequence& sequence, absl::Time now);

  // engine_elsewhere.cc
  // Asks the instance that the front door names for what it has of the tokens.
  bool TryReadElsewhere(Sequence& sequence, uint64_t cached_tokens, uint32_t blocks, absl::Time now);
  // Somebody here is about to give the cache all blocks that `tokens` fill.
  bool Computes(absl::string_view salt, absl::Span<const int32_t> tokens) const;
  // After the holder's refusal; nullopt: it is not worth waiting for.
  std::optional<PrefixComing> StillComing(const Sequence& sequence, const BorrowRefused& refused,
                                          absl::Time now) const;
  static bool ReadsElsewhere(const Sequence& sequence);
  // The rows of this step, for the prefixes that they attend to.
  void CountPrefixRows();
  void BringPrefixesHome(absl::Time now);
  bool ReadHere(Sequence& sequence, absl::Time now);

  // engine_lend_prefix.cc
  // Prefixes that several sequences read whole, and nobody a part of them, by the oldest reader.
  struct SharedPrefix {
    uint32_t blocks = 0, readers = 0;
  };
  std::map<RequestId, SharedPrefix> LendablePrefixes() const;
  // The node with which ends what it shares; nullopt: nothing is shared, or some read a part of it only.
  std::optional<PrefixNodeView> SharedEnd(const Sequence& sequence) const;
  bool StartPrefixMove(const MoveWanted& wanted, absl::Time now);
  void SendPrefix(const Borrowed& borrowed, absl::Time now);
  void FlipMovedPrefix(absl::Time now);
  void EndPrefixMove(uint32_t moved, absl::Time now);
  // Reads what a running sequence has lent of the same tokens.
  bool TryReadLent(Sequence& sequence, uint64_t cached_blocks, uint32_t blocks);
  std::vector<RequestId> ReadersOf(LoanId loan) const;  // oldest first
  void RepayUnlessRead(LoanId loan, absl::Time now);

  // How many of the `wanted` next tokens have room now; finds more room where it can. 0: blocked.
  uint32_t MakeRoom(Sequence& sequence, uint32_t wanted, absl::Time now);
  bool PreemptYoungerThan(const Sequence& sequence, absl::Time now);
  void Preempt(Sequence& sequence, absl::Time now);
  void ReleaseMemory(Sequence& sequence, absl::Time now);
  void EndMove(Sequence& sequence);
  void EndFinishedMove(Sequence& sequence);
  std::vector<Row> Schedule(absl::Time now);
  StepInput BuildInput() const;
  AttentionPlan BuildPlan() const;
  // Fills the rows' exports and the work's sends.
  void PlanExports();
  // One for each run of consecutive slots.
  std::vector<BlockExport> MakeTransfers(const std::vector<BlockTable::Transit>& transits);
  static KvSlots SlotsOf(const Sequence& sequence, const BlockExport& part);
  void Depart(Sequence& sequence, BlockExport part);
  // Ships full blocks that need no step to be complete. REQUIRES: there are some, and free slots.
  void ExportFullBlocks(Sequence& sequence, uint32_t count);
  void LoseLoan(const Loan& loan, absl::Time now);
  void LoseLoan(Sequence& sequence, const Loan& loan, absl::Time now);
  void GiveBack(const RecallWanted& recall, absl::Time now);

  // engine_return.cc
  void BringLoansHome(absl::Time now);
  void FinishImports(Sequence& sequence);
  void StartImports(Sequence& sequence, LoanReturn& back, absl::Time now);
  uint32_t SpareForReturns(Sequence& sequence, uint32_t blocks, uint32_t left, absl::Time now);
  SampledToken SampledAt(size_t row, StepResult& result, size_t* logits_used) const;
  void Commit(StepResult& result, absl::Time now);
  void End(Sequence& sequence, std::string reason, absl::Status error, absl::Time now);
  void MeasureRates(const StepReport& report);
  void ReportLoad();
  // Blocks that would be lent to the request, by our view; of all others together.
  uint32_t LendableAt(InstanceId instance, const RequestId& request) const;
  uint32_t ClusterLendable(const RequestId& request) const;
  uint32_t BlocksFor(uint64_t tokens) const {
    return static_cast<uint32_t>((tokens + options_.block_tokens - 1) / options_.block_tokens);
  }
  Sequence* Find(const RequestId& id);

  const EngineOptions options_;
  uint32_t cluster_blocks_;
  const EngineModel model_;
  const Tokenizer* const tokenizer_;
  KvPool* const pool_;
  RManager* const rmanager_;
  KvMover* const mover_;
  int window_max_ = 0;                    // 0: some layer sees everything
  std::unique_ptr<PrefixTree> prefixes_;  // null: no prefix cache
  bool has_windows_ = false;              // in some layer

  using Sequences = std::vector<SequencePtr>;
  Sequences waiting_;  // by age
  Sequences running_;  // by age; includes those still borrowing
  std::vector<SequenceOutput> outputs_;
  // The step between Begin and Finish.
  StepWork work_;
  std::vector<Row> rows_;  // empty: none is under way

  uint64_t next_transfer_ = 1, preemptions_ = 0;
  uint32_t move_credit_tokens_ = 0;  // what decoding sequences may still push into loans at the limited rate
  Load rates_;                       // only its measured rates are used
  double layer_seconds_ = 0;         // of a step's own computing, on average
  RecoveryStats recovery_;
  std::map<uint64_t, uint64_t> rows_elsewhere_;  // that were sent to a prefix, by its name
  std::map<uint64_t, uint64_t> prefix_rows_;     // here or elsewhere, so far, by the prefix's name
  std::map<uint64_t, Load::HotPrefix> hot_;      // those read most, in the last step
  std::set<uint64_t> copies_wanted_;             // names; advice since the last step
  uint64_t prefixes_copied_ = 0, prefixes_awaited_ = 0, copies_advised_ = 0, prefixes_lent_ = 0;
  // A prefix on its way to a creditor, in the name of its oldest reader, and read here until all of it is there.
  struct PrefixMove {
    uint64_t plan_id = 0, ticket = 0;
    RequestId request;
    PrefixReader reader{};  // so that nothing of it is evicted
    std::vector<BlockId> blocks;
    LoanId loan{};          // once it is granted
    uint64_t transfer = 0;  // likewise
  };
  std::optional<PrefixMove> prefix_move_;
};

}  // namespace lombard
