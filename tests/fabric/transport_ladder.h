// The contract of fabric/transport.h as numbered rungs. A rung is written for one rank and run by all ranks
// at once, on threads or as processes, so every backend climbs the same ladder. A new backend starts at
// rung 1.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "fabric/transport.h"

namespace lombard::test {

// What must not be used up: the test's own time limit (CTest's) ends first, and fails it.
inline constexpr absl::Duration kLongerThanTheTest = absl::Hours(1);

// One rank: keeps what arrived, by sender. By default a thread of its own polls the transport until the Peer
// ends, as in production; everything else is called by one other thread.
class Peer final : public TransportHandler {
 public:
  enum class Polling { kThread, kInline };  // kInline: only inside WaitUntil and what calls it
  explicit Peer(Transport& transport, Polling polling = Polling::kThread);
  ~Peer() override;

  int rank() const { return transport_.rank(); }
  int size() const { return transport_.size(); }
  Transport& transport() { return transport_; }
  size_t waiting(int from) const;
  // OnPeerDown calls for a peer, in order.
  std::vector<absl::Status> downs(int peer) const;
  int ups(int peer) const;  // OnPeerUp calls

  void MustSend(int to, Channel channel, std::string header, std::string payload);
  // False, and the test has failed, when done() does not become true in time.
  bool WaitUntil(absl::FunctionRef<bool()> done, absl::Duration timeout = absl::Seconds(100));
  // Messages from `from`, in the order they came; fewer when they did not come in time (the test has failed
  // then).
  std::vector<Message> Take(int from, size_t count);
  Message TakeOne(int from);  // an empty one when none came in time
  // All of the first `ranks` ranks have come here (all of the job when 0). Sends payload-free control
  // messages.
  void Barrier(int ranks = 0);
  int barrier_messages_sent() const { return barrier_messages_sent_; }
  void StartPolling();
  void StopPolling();

  void OnMessage(int from, Message message) override;
  void OnPeerDown(int peer, const absl::Status& why) override;
  void OnPeerUp(int peer) override;

 private:
  Transport& transport_;
  std::thread poller_;
  std::atomic<bool> stop_{false};
  int barriers_passed_ = 0, barrier_messages_sent_ = 0;

  mutable std::recursive_mutex mutex_;  // recursive, so that done() may use the accessors
  std::condition_variable_any changed_;
  std::vector<std::deque<Message>> inbox_;
  std::vector<std::vector<absl::Status>> downs_;
  std::vector<int> ups_;
  std::vector<int> barriers_;  // how many barrier messages came, by sender
};

struct Rung {
  const char* name;
  void (*climb)(Peer&);
};
// The last rung closes the transport.
const std::vector<Rung>& Ladder();

// `bytes` bytes that are a function of seed and position alone.
std::string PatternBytes(size_t bytes, uint64_t seed);

// Runs `climb` on a thread for each transport; each is polled until all have ended.
void OnThreads(const std::vector<Transport*>& transports, absl::FunctionRef<void(Peer&)> climb);

}  // namespace lombard::test
