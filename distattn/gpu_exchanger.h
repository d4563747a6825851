// A rank's end of exchanges between GPUs (fabric/collectives.h): its pairs with other ranks, its lane, and
// the messages of both halves. Streams are others' (gpu_step_exchange.h, announced_attention.h).
//
//   debtor, step thread                            creditor, service thread
//     asked = exchanger.Ask(step, wishes)            exchanger.OnPairOpen(from, message)
//     ... transfers with those who said yes ...      if (exchanger.OnAnnouncement(...) == kYes) {
//     exchanger.Await([&] { return passed; })          exchanger.Answer(...), then all transfers
//     exchanger.EndRunning()                           ... they have passed ...
//                                                      exchanger.EndServing(); }
//
// A pair opens when it is first wished for: the debtor sends PairOpen, connects when the answer is there, and
// until both ends have, Ask says no for it. What was closed is opened again after a while, with a new key;
// who says that it will not connect (no GPU, no NCCL, the same GPU) is not asked again.
//
// A GPU hangs when its stream does not pass although the pairs are closed: then nothing may wait for it any
// more, not even to free its memory (hung).
//
// Any thread unless said otherwise. Every wait is bounded by Options.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "distattn/announcement.h"
#include "distattn/wire.h"
#include "fabric/collectives.h"
#include "fabric/exchange_lane.h"
#include "fabric/transport.h"

namespace lombard {

class GpuExchanger {
 public:
  struct Options {
    Incarnation incarnation{};
    GpuPlace place;  // of this rank
    // A debtor's, for all answers to an announcement. Shorter than what a call of Collectives waits for the
    // other end. A guess: a creditor may be in the middle of a slice for somebody else.
    absl::Duration answer_wait = absl::Seconds(1);
    absl::Duration exchange_wait = absl::Seconds(60);  // for an exchange to end
    absl::Duration open_wait = absl::Seconds(30);      // for PairOpened
    absl::Duration open_again = absl::Seconds(1);      // after a pair was closed
    absl::Duration hang_wait = absl::Seconds(30);      // for a stream to pass when its pairs are closed
    // Told once what hung() will say, by the thread that has found it.
    std::function<void(const absl::Status&)> on_hang = [](const absl::Status&) {};
  };
  // `transport` and `clock` are borrowed.
  GpuExchanger(const Options& options, std::unique_ptr<Collectives> collectives, Transport* transport,
               const Clock* clock);

  Collectives& collectives() { return *collectives_; }
  int rank() const { return transport_->rank(); }

  // ---- debtor; step thread
  struct Wish {
    int creditor = 0;
    std::vector<QueryItem> items;
  };
  // Announces an exchange with those of them that can be asked and waits for the answers. Who said yes, and
  // has submitted its part or will: the caller submits its own at once, and calls EndRunning in the end.
  // Nobody: there is no exchange. REQUIRES: one wish a creditor.
  std::set<int> Ask(uint64_t step, absl::Span<const Wish> wishes);
  // Waits until `passed` says so, at most exchange_wait beyond what it takes when nothing fails: then the
  // pairs of the exchange are closed, and all that waits for them goes on. Errors are those of `passed`;
  // kDeadlineExceeded: it has not gone on, hung().
  absl::Status Await(absl::FunctionRef<absl::StatusOr<bool>()> passed);
  // REQUIRES: nothing of the exchange is left in this rank's streams. Those whose pair was closed meanwhile:
  // what they sent is rubbish.
  std::set<int> EndRunning(uint64_t query_bytes);

  // ---- creditor; service thread
  void OnPairOpen(int from, const Message& message);
  // `holds`: see AnnouncedService. A yes takes the lane until EndServing.
  AnnouncementAnswer OnAnnouncement(const Announcement& announcement,
                                    absl::FunctionRef<bool(const QueryItem&)> holds);
  void Answer(ExchangeId exchange, AnnouncementAnswer answer);
  // Looks for errors, and closes the pair if the exchange that is served lasts too long; later it may find
  // that the GPU hangs.
  void WatchServing();
  void CutServing();  // as if it had lasted too long; REQUIRES: one is served
  void EndServing(uint64_t state_bytes);

  // Aborts the pair and tells the other end.
  void ClosePair(LoanPair pair);

  // ---- progress thread
  void OnMessage(int from, const Message& message);  // those that are ForExchanger (distattn/wire.h)
  void OnPeerLost(int peer);                         // also when the connection to it broke
  // Closes all pairs; nobody waits any more, and no exchange begins.
  void Abort();
  // Now and then: does what Await and WatchServing would, later, should their threads be in a call of CUDA or
  // NCCL that does not return.
  void Watch();

  // kDeadlineExceeded: the GPU hangs. The process should end without waiting for it.
  absl::Status hung() const;

  struct Counters {
    uint64_t exchanges = 0;                     // of this rank as debtor: with one creditor, for one step
    uint64_t not_accepted = 0;                  // asked, and not told yes in time
    uint64_t pairs_closed = 0;                  // that had been opened or were about to be, at this end
    uint64_t query_bytes = 0, state_bytes = 0;  // sent from this GPU
    uint64_t attended_tokens = 0;               // tokens times rows that were asked for, as RemoteClient's
  };
  Counters counters() const;

 private:
  // This rank's pair with a creditor.
  struct Pair {
    enum class State : uint8_t { kClosed, kAsked, kAgreed, kConnecting, kRefused };
    State state = State::kClosed;
    uint64_t serial = 0;
    std::string key;
    GpuPlace place;
    absl::Time since = absl::InfinitePast();  // kClosed, kAsked
  };
  LoanPair Lent(int creditor) const { return {rank(), creditor}; }
  bool CanAsk(int creditor, absl::Time now);
  void BeginToOpen(int creditor, absl::Time now);
  void Connect(int creditor, absl::Time now);
  void PollPairs(absl::Time now);
  void NoteClosed(LoanPair pair, bool tell);
  void OnPairMessage(int from, WireKind kind, const PairMessage& message);
  bool aborted() const;
  void NoteHung();
  void WatchLocked(absl::Time now);

  const Options options_;
  const std::unique_ptr<Collectives> collectives_;
  Transport* const transport_;
  const Clock* const clock_;

  mutable std::mutex mutex_;
  std::condition_variable answered_;
  ExchangeLane lane_;
  AnnouncedService announced_;
  std::map<int, Pair> pairs_;  // by creditor
  std::set<int> debtors_;      // whose pair this end has opened and not closed
  uint64_t serial_ = 0;
  bool aborted_ = false;
  absl::Status hung_;
  absl::Time watch_at_ = absl::InfiniteFuture();  // of the exchange under way
  bool watch_cut_ = false;
  std::set<int> running_;    // creditors of the exchange under way; step thread
  absl::Time serves_until_;  // service thread, as what follows
  bool serving_cut_ = false;
  Counters counters_;
};

}  // namespace lombard
