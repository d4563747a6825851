// The contract of fabric/transport.h as numbered rungs. A rung is written for one rank and run by all ranks
// at once, on threads or as processes, so every backend climbs the same ladder. A new backend starts at
// rung 1.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "fabric/transport.h"

namespace lombard::test {

// One rank: polls its transport and keeps what arrived, by sender. One thread, except where a rung says
// otherwise.
class Peer final : public TransportHandler {
 public:
  explicit Peer(Transport& transport);

  int rank() const { return transport_.rank(); }
  int size() const { return transport_.size(); }
  Transport& transport() { return transport_; }
  std::deque<Message>& inbox(int from) { return inbox_[from]; }
  // OnPeerDown calls by peer, in order.
  const std::vector<absl::Status>& downs(int peer) const { return downs_[peer]; }

  void MustSend(int to, Channel channel, std::string header, std::string payload);
  // Polls until done() or fails the test after `timeout`.
  bool PollUntil(absl::FunctionRef<bool()> done, absl::Duration timeout = absl::Seconds(30));
  // Messages from `from`, in the order they came; fewer when they did not come in time (the test has failed
  // then).
  std::vector<Message> Take(int from, size_t count);
  // All of the first `ranks` ranks have come here (all of the job when 0). Sends payload-free control
  // messages.
  void Barrier(int ranks = 0);
  int barrier_messages_sent() const { return barrier_messages_sent_; }

  void OnMessage(int from, Message message) override;
  void OnPeerDown(int peer, const absl::Status& why) override;

 private:
  Transport& transport_;
  std::vector<std::deque<Message>> inbox_;
  std::vector<std::vector<absl::Status>> downs_;
  std::vector<int> barriers_;  // how many barrier messages came, by sender
  int barriers_passed_ = 0, barrier_messages_sent_ = 0;
};

struct Rung {
  const char* name;
  void (*climb)(Peer&);
};
// The last rung closes the transport.
const std::vector<Rung>& Ladder();

// `bytes` bytes that are a function of seed and position alone.
std::string PatternBytes(size_t bytes, uint64_t seed);

// Runs `climb` on a thread for each transport.
void OnThreads(const std::vector<Transport*>& transports, absl::FunctionRef<void(Peer&)> climb);

}  // namespace lombard::test
