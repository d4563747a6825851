// Which exchange between GPUs a rank takes part in: one at a time, the rule that fabric/collectives.h builds
// on. A state machine; messages and time are brought to it.
//
//   state    event                                       next
//   free     Ask                                         asking
//   free     OnAsked: yes                                serving
//   asking   the last answer is in, one at least is yes  running
//   asking   the last answer is in, all are no           free
//   running  Done                                        free
//   serving  Done                                        free
//   all but free: Ask and OnAsked are refused
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

struct ExchangeId {
  int starter = 0;      // rank
  uint64_t serial = 0;  // counted by the starter
  auto operator<=>(const ExchangeId&) const = default;
};

class ExchangeLane {
 public:
  enum class State : uint8_t { kFree, kAsking, kRunning, kServing };

  explicit ExchangeLane(int rank) : rank_(rank) {}
  State state() const { return state_; }

  // For an exchange that this rank starts. nullopt: the lane is taken. Otherwise the message with the id goes
  // to all `others` (not empty, this rank is not among them), who answer by `answer_by`.
  std::optional<ExchangeId> Ask(const std::vector<int>& others, absl::Time answer_by);
  // An answer, or the loss of a peer (a no). Others than those awaited are ignored.
  void OnAnswer(ExchangeId id, int from, bool yes);
  void OnPeerDown(int peer);
  // Who has not answered in time. They count as a no, but may have said yes: the caller aborts their
  // communicators, so that what they have submitted ends.
  std::vector<int> OnTime(absl::Time now);
  // While running: who said yes, ascending.
  const std::set<int>& participants() const { return accepted_; }

  // Somebody else's exchange. True: this rank submits its part and answers yes; false: it answers no.
  bool OnAsked(ExchangeId id);
  // While serving: whose exchange. While asking or running: our own.
  ExchangeId exchange() const { return exchange_; }

  // REQUIRES: running or serving, and nothing of the exchange is left in this rank's streams.
  void Done();

 private:
  void EndAskingIfAllAnswered();

  int rank_;
  State state_ = State::kFree;
  uint64_t serial_ = 0;
  ExchangeId exchange_;
  std::set<int> awaited_, accepted_;
  absl::Time answer_by_;
};

}  // namespace lombard
