// The creditor's half of remote attention: answers other ranks' queries from the blocks it has lent, stores
// KV written into them, and gives it back.
//
// The progress thread hands messages to Enqueue; the service thread runs Serve. It works on immutable
// snapshots of the ledger, so it never waits for this worker's own step, and two workers may serve each other
// within the same step. A message is a bounded slice of work (the debtor cuts large ones); slices are served
// in the order they came. One that reads a prefix takes along what else waits to read the same in the same
// layer, whoever asks, as far as all together are no larger than a slice may be: their rows are one product,
// and nobody is waited for. While own requests are computed, queries are attended on credit
// (service_budget.h); the step thread tells what it does. KV passes queries that have to wait. Announcements
// of exchanges between GPUs are answered at once (announced_exchanges.h).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "distattn/announced_exchanges.h"
#include "distattn/service_budget.h"
#include "distattn/span_attention.h"
#include "distattn/wire.h"
#include "fabric/transport.h"
#include "kernels/cpu_context.h"
#include "kvpool/kv_bytes.h"

namespace lombard {

class RemoteService {
 public:
  // The blocks behind a loan's slots, kept from being freed while the pointer is held. Thread-safe.
  // kNotFound: no such loan of that debtor; kFailedPrecondition: another epoch. `writes`: they will be
  // written; kInvalidArgument: these are only read.
  using BlocksOfLoan = std::function<absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>>(
      int debtor, LoanId loan, uint64_t epoch, bool writes)>;

  struct Options {
    Incarnation incarnation{};
    int q_heads = 0;
    Isa isa = Isa::kBase;  // of compact states' conversion
    double guard = 1;      // share of the own steps' time that service may take
  };
  // `storage`, `attention` (used by the service thread alone) and `transport` are not owned and outlive this,
  // as `exchanges`, which is null where nothing goes from GPU to GPU.
  RemoteService(const Options& options, const KvBytes* storage, SpanAttention* attention,
                Transport* transport, BlocksOfLoan blocks_of_loan, AnnouncedExchanges* exchanges = nullptr);

  void Enqueue(int from, Message message);  // those that are ForService (distattn/wire.h)
  void Serve();                             // until Stop
  void Stop();

  // Step thread: see ServiceBudget.
  void OwnBegins();
  void OwnWaits(bool waits);
  void OwnEnds(double cpu_seconds);  // of the step thread
  void OwnIdle();
  ServiceTotals totals() const;

  struct Counters {
    uint64_t steps = 0;     // distinct (debtor, step) pairs for which something was attended
    uint64_t queries = 0;   // query rows attended, over all layers
    uint64_t products = 0;  // that these were: one for the readers of a prefix that are served together
    uint64_t keys = 0;      // read for them, once in a product
    uint64_t refused = 0;
    uint64_t blocks_written = 0, blocks_read = 0;  // times layers
    uint64_t blocks_direct = 0;                    // of both: those that came or left in device memory
  };
  Counters counters() const;

 private:
  using Queue = std::deque<std::pair<int, Message>>;
  // A message with queries, and what of it is attended here.
  struct Slice {
    int from = 0;
    Message message;
    QueryHeader header = {};
    std::vector<QueryItem> items = {};
    std::vector<SpanQuery> queries = {};                                 // of items
    std::vector<std::shared_ptr<const std::vector<BlockId>>> held = {};  // keeps their blocks meanwhile
    uint32_t refused_item = 0;
    int rows = 0;
  };
  void WakeLocked();
  Queue::iterator NextLocked();  // what may be served now; the end: nothing
  void Attend(int from, Message message);
  absl::Status Read(Slice& slice) const;       // the error says why it is refused
  absl::Status ReadItems(Slice& slice) const;  // the same
  void OpenPair(int from, const Message& message);
  void OnAnnouncement(int from, const Message& message);
  void AnswerBusy(int from, const Message& announcement) const;
  void CountLocked(const Slice& slice, uint64_t step);
  // What waits to read the same as `slice`.
  std::vector<Slice> TakeAlong(const Slice& slice);
  // Its answer; `states` begins with its states, and then with those after them.
  Message StateOf(const Slice& slice, absl::Span<float>* states) const;
  void Refuse(const Slice& slice, const absl::Status& why);
  void Send(int to, Message answer);
  Message MoveKv(int from, const Message& message);  // to a KvWrite or KvRead
  absl::Status Store(int from, const KvHeader& header, const Message& message);
  absl::Status Load(int from, const KvHeader& header, Message* data);
  absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> BlocksOf(int from, const KvHeader& header,
                                                                       bool writes) const;

  const Options options_;
  const KvBytes* const storage_;
  SpanAttention* const attention_;
  Transport* const transport_;
  const BlocksOfLoan blocks_of_loan_;
  AnnouncedExchanges* const exchanges_;

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  Queue queue_;
  ServiceBudget budget_;
  bool stop_ = false;
  bool submits_ = false;  // an exchange's part, which may wait for its debtor
  Counters counters_;
  std::map<int, uint64_t> last_step_;  // by debtor
};

}  // namespace lombard
