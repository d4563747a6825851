// One debtor with a real engine and real bytes, and creditors that only lend and serve, in one process. The
// control plane runs in the caller's thread under a fake clock; queries and KV travel over the loopback
// transport. Creditors lose what they lent when they are told to.
//
//   LoanBench bench(settings, &model, &tokenizer);
//   bench.Submit(prompt, sampling);
//   bench.At(400, [&] { bench.Lose(2); });     // once 400 rows are committed
//   ASSERT_TRUE(bench.Run());
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "distattn/remote_service.h"
#include "fabric/loopback_transport.h"
#include "gmanager/gmanager.h"
#include "runtime/engine/cpu_machine.h"

namespace lombard {

class LoanBench {
 public:
  struct Settings {
    std::vector<uint32_t> kv_blocks;  // of every rank; rank 0 is the debtor
    EngineOptions engine;             // block_tokens, batch limits
    bool kv_is_fast = false;          // it has arrived when the step that sent for it begins
  };
  struct Result {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs, gaps;  // gap: between the two best, where known
    absl::Status error;
    bool finished = false;
  };
  LoanBench(const Settings& settings, const Model* model, const Tokenizer* tokenizer);
  ~LoanBench();

  void Submit(std::vector<int32_t> prompt, uint32_t max_tokens);  // greedy, arrival in this order
  void At(uint64_t rows, std::function<void()> action);
  void After(absl::Duration time, std::function<void()> action);  // a step takes 1 ms
  // A creditor forgets every loan of the debtor's, as after a restart. The debtor learns it when a query or a
  // transfer is refused, or at once.
  void Lose(int creditor, bool told = false);
  // As gManager would advise.
  void Move(uint64_t request, uint32_t blocks, int creditor);
  void TakeHome(int creditor, absl::Duration within);  // every loan of it
  uint32_t lent(int creditor) const { return ranks_[creditor].rmanager->counters().lent; }
  void SetLending(int creditor, bool on);  // off: it has no memory to spare
  // True when every sequence has finished and everything is as it should be; otherwise false, and error().
  bool Run();

  const absl::Status& error() const { return error_; }
  const std::vector<Result>& results() const { return results_; }
  const Engine& engine() const { return *engine_; }
  uint64_t refused_loans() const { return refused_loans_; }  // failures that named one
  uint64_t keys_read() const { return keys_read_; }          // at home, of one layer, in all steps

 private:
  class Pump;
  struct Rank {
    std::unique_ptr<KvStorage> storage;
    std::unique_ptr<KvPool> pool;
    std::unique_ptr<RManager> rmanager;
    std::unique_ptr<CpuSpanAttention> attention;
    std::unique_ptr<RemoteService> service;
    std::thread serving;
    std::unique_ptr<Pump> pump;
    std::vector<BlockId> kept;  // while it does not lend
  };
  void Exchange();  // control messages, until there are none
  void Step();
  void Check();

  const uint32_t block_tokens_;
  const bool kv_is_fast_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::vector<Rank> ranks_;
  std::unique_ptr<RemoteClient> client_;
  std::unique_ptr<CpuMachine> machine_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GManager> gmanager_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  uint64_t rows_ = 0, keys_read_ = 0, refused_loans_ = 0;
  std::multimap<uint64_t, std::function<void()>> actions_;
  std::multimap<absl::Time, std::function<void()>> timed_actions_;
  std::vector<Result> results_;
  absl::Status error_;
};

}  // namespace lombard
