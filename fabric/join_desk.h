// Rank 0's port for the life of a job: processes that come to join it are received (fabric/reception.h), told
// what they must know to make their fabric address, and say what they are; somebody else decides.
//
//   for (JoinDesk::Request& request : desk.Poll(now)) desk.Answer(request.guest, Decide(request.body));
//
// After the hello:  host -> guest  entries: "1" if all ranks are on one host, then the members' host keys
//                   guest -> host  its request
//                   host -> guest  an entry, the welcome; or a refusal
// One thread. No call waits for a guest's words; who does not speak in time is turned away. A reply fits a
// socket's buffer: a guest whose buffer stays full holds a call up for 200 ms, then it is turned away.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fabric/reception.h"
#include "fabric/tcp_frames.h"

namespace lombard {

constexpr size_t kJoinRequestBytesMax = 64 << 10, kWelcomeBytesMax = 16 << 20;

class JoinDesk {
 public:
  struct Options {
    ReceptionRules rules;
    bool single_host = false;
    absl::Duration word_wait = absl::Seconds(10);      // for the next frame of the reception
    absl::Duration request_wait = absl::Seconds(120);  // for the request: the guest loads its model meanwhile
    std::function<std::vector<std::string>()> host_keys;  // of the members
    std::function<void(const absl::Status&)> on_refusal;  // may be empty
  };
  struct Request {
    uint64_t guest;
    std::string who, host_key, body;
  };
  JoinDesk(Options options, TcpListener listener)
      : options_(std::move(options)), listener_(std::move(listener)) {}

  std::vector<Request> Poll(absl::Time now);
  // Once for each request. Nothing happens when the guest is gone.
  void Answer(uint64_t guest, const absl::StatusOr<std::string>& welcome);
  bool has_guests() const { return !guests_.empty(); }

 private:
  struct Visitor {
    uint64_t number;
    TcpStream stream;
    Host reception;
    absl::Time deadline;
    std::optional<GuestHello> hello;  // it is in
    bool asked = false;
  };
  bool Serve(Visitor& guest, absl::Time now, std::vector<Request>* requests);  // false: turn it away
  bool Reply(Visitor& guest, const std::string& frame);

  const Options options_;
  TcpListener listener_;
  std::list<Visitor> guests_;
  uint64_t next_guest_ = 1;
};

// The other side. One thread; every call waits for rank 0 until `deadline` at most.
class JobEntry {
 public:
  // Comes in at `rules.place` (host:port), as one that joins. kInvalidArgument: the place is none.
  // kUnavailable: nobody listens there, or rank 0 is gone. kDeadlineExceeded: it did not answer.
  // kDataLoss: its answer makes no sense. Otherwise its refusal, by name: kPermissionDenied for another key,
  // kFailedPrecondition for another protocol version.
  static absl::StatusOr<JobEntry> Enter(const ReceptionRules& rules, absl::Time deadline);
  bool single_host() const { return single_host_; }
  int ranks_here() const { return ranks_here_; }  // members on this host
  // Once: rank 0's welcome to `request` (at most kJoinRequestBytesMax); or its refusal, or an error as above.
  absl::StatusOr<std::string> Ask(const std::string& request, absl::Time deadline);

 private:
  TcpStream stream_;
  bool single_host_ = false;
  int ranks_here_ = 0;
};

}  // namespace lombard
