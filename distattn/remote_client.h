// The debtor's half of remote attention: sends query rows to creditors, takes their states, and ships KV
// blocks to them.
//
//   client.Post(step, layer, items);   // query messages leave
//   ... attend the local spans ...
//   RETURN_IF_ERROR(client.Wait());    // every item's state is filled, or the exchange failed as a whole
//
// Threads: Post, Wait, SendKv, FetchKv, transfer, ForgetTransfer, TakeFailures belong to the step thread;
// OnMessage, OnPeerDown, OnPeerUp and OnPeerLost to the progress thread. Every wait is bounded by Options::reply_deadline; that of
// an exchange begins anew with every state, since a creditor may hold queries back (service_budget.h).
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "distattn/attention_state.h"
#include "distattn/kv_transfer.h"
#include "distattn/remote_failure.h"
#include "distattn/wire.h"
#include "fabric/transport.h"
#include "kvpool/kv_bytes.h"

namespace lombard {

struct RemoteItem {
  int creditor = 0;  // rank
  LoanId loan{};
  uint64_t epoch = 0;
  uint32_t first_slot = 0;
  int first_position = 0, token_count = 0;
  int rows = 0, first_query_position = 0;
  const float* q = nullptr;  // [rows, q_heads, head_dim]; read until Post returns
  AttentionState state;      // rows * q_heads rows; written by Wait
};

class RemoteClient {
 public:
  struct Options {
    Incarnation incarnation{};
    absl::Duration reply_deadline = absl::Seconds(60);
    bool compact_states = false;  // acc / sum in the KV dtype on the wire
    // Called by Wait when it has to wait, and when it goes on; may be empty.
    std::function<void(bool waits)> on_wait;
    std::function<void()>
        on_transfer;  // called from the progress thread when a transfer made progress; may be empty
  };
  // `transport` and `storage` are not owned and outlive this.
  RemoteClient(const Options& options, int q_heads, Transport* transport, const KvBytes* storage);

  // One exchange at a time. On error nothing is pending; states that still come are dropped.
  absl::Status Post(uint64_t step, int layer, int window, absl::Span<const RemoteItem> items);
  // kUnavailable: a creditor is gone; kFailedPrecondition / kNotFound: it refused (stale epoch, unknown
  // loan); kDeadlineExceeded: silence.
  absl::Status Wait();

  // Sends `layer` (K and V), in parts of at most kKvBytesMax. The bytes are copied before this returns. The
  // transfer is done when the creditor has stored every part sent under its number. A failure shows there.
  // REQUIRES: all sends of a transfer are of one loan.
  void SendKv(const KvSend& send, int layer);
  // Asks for `layer`. Its bytes are written to the blocks when they come, by the progress thread, until the
  // transfer is forgotten.
  void FetchKv(const KvFetch& fetch, int layer);
  KvTransfer transfer(uint64_t id);
  void ForgetTransfer(uint64_t id);

  // Why exchanges and transfers failed since the last call, each creditor and loan once.
  std::vector<RemoteFailure> TakeFailures();

  void OnMessage(int from, Message message);  // those that are not ForService (distattn/wire.h)
  void OnPeerDown(int peer, const absl::Status& why);
  void OnPeerUp(int peer);  // a new process in its place
  // The peer was declared lost, but its connection stands: what is under way with it fails.
  void OnPeerLost(int peer, const absl::Status& why);
  // Any thread: ends the wait under way, and refuses every later Post, with `why`.
  void Abort(const absl::Status& why);

  uint64_t stale_messages() const;  // dropped because their exchange or transfer is over
  uint64_t attended_tokens() const { return attended_tokens_; }

 private:
  struct Part {
    int creditor;
    std::vector<RemoteItem> items;
    bool arrived = false;
  };
  struct OpenTransfer {
    KvTransfer state;
    int creditor = 0;
    LoanId loan{};
    std::vector<KvFetch> fetches;                    // what may be written here
    std::chrono::steady_clock::time_point deadline;  // of the last part
  };
  absl::Status UnpackLocked(const Message& message, const Part& part) const;
  void FailPeerLocked(int peer, const absl::Status& why);
  bool OpenLocked(const KvSlots& slots);  // false: it has failed already
  std::vector<KvSlots> PartsOf(const KvSlots& slots) const;
  KvHeader HeaderOf(const KvSlots& slots, int layer) const;
  void SendPart(const KvSlots& slots, Message message);
  void OnKvLocked(int from, const Message& message);
  absl::Status StoreLocked(const OpenTransfer& transfer, const KvHeader& header, const Message& message);
  void NoteLocked(int creditor, std::optional<LoanId> loan, const absl::Status& status);
  // Notes it for the creditor, or for the one `loan`.
  void FailLocked(OpenTransfer& transfer, const absl::Status& status, std::optional<LoanId> loan = {});

  const Options options_;
  const int q_heads_;
  Transport* const transport_;
  const KvBytes* const storage_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t exchange_ = 0;
  std::vector<Part> parts_;  // of the exchange under way
  size_t parts_missing_ = 0;
  absl::Status failure_;  // of the exchange under way
  absl::Status aborted_;
  std::map<int, absl::Status> down_;
  std::map<uint64_t, OpenTransfer> transfers_;
  std::map<std::pair<int, std::optional<LoanId>>, absl::Status> failures_;
  uint64_t stale_messages_ = 0;
  uint64_t attended_tokens_ = 0;
};

}  // namespace lombard
