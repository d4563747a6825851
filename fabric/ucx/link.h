// Whether this rank is connected to one other, and how they come to be again: a state machine without UCX.
//
// The connections of a pair of ranks are numbered; every chunk names its connection, and chunks of another
// one are dropped. The first, number 0, needs no words: both know the other's address from the start. Later
// ones are proposed:
//
//   kConnect    (generation of the sender's process, connection, its address), again until it is answered
//   kConnected  the answer; any chunk of the proposed connection is one
//
// Both sides may propose at once: they propose the same number, or the smaller one yields. The process of a
// rank has a generation; rank 0 gives each that joins a larger one than all before it at that rank. A
// proposal of a smaller generation is of a process whose place was given to another, and is not heard.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace lombard {

class Link {
 public:
  enum class State : uint8_t {
    kNone,  // nobody there, or its process has ended: only a new one can change that
    kUp,
    kDown,        // broken; the next attempt is due at next_attempt()
    kConnecting,  // proposed, not answered
  };
  // Guesses: a broken connection of living processes is made again at once or in vain for a while.
  static constexpr absl::Duration kBackoffMin = absl::Milliseconds(20), kBackoffMax = absl::Seconds(2),
                                  kRepeatMin = absl::Milliseconds(100);

  State state() const { return state_; }
  bool up() const { return state_ == State::kUp; }
  uint32_t connection() const { return connection_; }
  uint64_t generation() const { return generation_; }  // of the peer's process

  // The first connection of ranks that start together.
  void Start(uint64_t generation) { *this = Link(), state_ = State::kUp, generation_ = generation; }
  // A member that this process, which joins, is to connect to. Its connections have other numbers than those
  // of the process before it, which may still send.
  void Introduce(uint64_t generation, uint64_t own_generation, absl::Time now) {
    *this = Link(), state_ = State::kDown, generation_ = generation, next_attempt_ = now;
    connection_ = static_cast<uint32_t>(own_generation << 16);
  }
  void Broke(absl::Time now) {
    if (state_ == State::kNone) return;
    if (state_ == State::kUp) backoff_ = kBackoffMin;
    state_ = State::kDown;
    next_attempt_ = now + backoff_;
    backoff_ = std::min(2 * backoff_, kBackoffMax);
  }
  void Ended() { state_ = State::kNone; }

  absl::Time next_attempt() const {
    return state_ == State::kDown || state_ == State::kConnecting ? next_attempt_ : absl::InfiniteFuture();
  }
  // REQUIRES: next_attempt() has come. From here on connection() is proposed, again and again until it is
  // answered or Broke.
  void Attempt(absl::Time now) {
    if (!proposed_) ++connection_;
    proposed_ = true;
    if (state_ != State::kConnecting) repeat_ = kRepeatMin;
    state_ = State::kConnecting;
    next_attempt_ = now + repeat_;
    repeat_ = std::min(2 * repeat_, kBackoffMax);
  }

  enum class Answer : uint8_t {
    kNothing,  // of an earlier connection or process
    kAgain,    // is up already: say so again
    kMeet,     // both proposed it: up, over the endpoint that is there
    kAccept,   // up; the endpoint that is there, if any, is of an earlier connection
  };
  Answer OnConnect(uint64_t generation, uint32_t connection) {
    if (generation < generation_ || (generation == generation_ && state_ == State::kNone))
      return Answer::kNothing;
    const bool ours = generation == generation_ && connection == connection_;
    if (ours && state_ == State::kUp) return Answer::kAgain;
    if (ours && state_ == State::kConnecting) {
      Up();
      return Answer::kMeet;
    }
    if (generation == generation_ && connection <= connection_ && !(ours && proposed_))
      return Answer::kNothing;
    generation_ = generation, connection_ = connection;
    Up();
    return Answer::kAccept;
  }
  // A chunk of the connection came. False: it is to be dropped.
  bool Hears(uint32_t connection) {
    if (connection != connection_ || (state_ != State::kUp && state_ != State::kConnecting)) return false;
    if (state_ == State::kConnecting) Up();
    return true;
  }

 private:
  void Up() { state_ = State::kUp, proposed_ = false, backoff_ = kBackoffMin; }

  State state_ = State::kNone;
  uint64_t generation_ = 0;
  uint32_t connection_ = 0;
  bool proposed_ = false;  // connection_ has been proposed and was never up
  absl::Duration backoff_ = kBackoffMin, repeat_ = kRepeatMin;
  absl::Time next_attempt_ = absl::InfiniteFuture();
};

}  // namespace lombard
