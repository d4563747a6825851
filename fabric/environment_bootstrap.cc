// The meeting of ranks at a TCP port of rank 0.
//
//   rank r comes in (fabric/reception.h)
//   0 -> rank r   reply, when all have come: 'O' and the host keys; or 'E', a status code and why the job
//                 cannot start
//   then for each AllGather: r -> 0 its entry; 0 -> r a reply with all entries
// Connections that say no proper hello, or that of another job, are turned away; they do not disturb the job.
#include <poll.h>

#include <list>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "fabric/bootstrap.h"
#include "fabric/enter_reception.h"
#include "fabric/host_name.h"
#include "fabric/tcp_frames.h"

namespace lombard {
namespace {

constexpr size_t kGuestsMax = 4096;                         // connections without a hello yet
constexpr absl::Duration kFarewellTime = absl::Seconds(2);  // for telling the others why the job cannot start

class EnvironmentBootstrap final : public Bootstrap {
 public:
  explicit EnvironmentBootstrap(const BootstrapOptions& options)
      : options_(options), rules_(options.Rules()), who_(WhoAmI()), members_(options.size) {}

  absl::Status Start() {
    ASSIGN_OR_RETURN(const auto place, ParseHostPort(options_.rendezvous));
    const absl::Time deadline = absl::Now() + options_.deadline;
    absl::StatusOr<std::vector<std::string>> hosts =
        options_.rank == 0 ? Receive(deadline) : Join(place.first, place.second, deadline);
    if (!hosts.ok()) return hosts.status();
    layout_ = MakeLayout(options_.rank, *hosts);
    return absl::OkStatus();
  }

  JobLayout layout() const override { return layout_; }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view mine, absl::Duration wait) override;
  void Finish(bool) override { members_.clear(); }
  TcpListener TakeListener() override { return std::move(listener_); }

 private:
  struct Member {
    TcpStream stream;
    std::string who, host_key;
    bool here = false;
  };

  absl::StatusOr<std::vector<std::string>> Join(const std::string& host, int port, absl::Time deadline);
  absl::StatusOr<std::vector<std::string>> Receive(absl::Time deadline);
  struct Visitor {
    TcpStream stream;
    Host reception;
  };
  absl::Status Gather(absl::Time deadline);
  absl::StatusOr<bool> Welcome(Visitor& guest);
  absl::Status Reply(const absl::StatusOr<std::vector<std::string>>& result, absl::Time deadline);

  const BootstrapOptions options_;
  const ReceptionRules rules_;
  const std::string who_;
  TcpListener listener_;
  JobLayout layout_;
  std::vector<Member> members_;  // at rank 0: all others, by rank; elsewhere: rank 0
};

absl::StatusOr<std::vector<std::string>> EnvironmentBootstrap::Join(const std::string& host, int port,
                                                                    absl::Time deadline) {
  auto stream = EnterReception(
      rules_, {.rank = options_.rank, .size = options_.size, .host_key = HostKey(), .who = who_}, host, port,
      deadline);
  if (!stream.ok() && absl::IsUnavailable(stream.status())) {
    return Annotate(stream.status(), absl::StrCat("rank ", options_.rank, " did not reach rank 0 within ",
                                                  absl::FormatDuration(options_.deadline)));
  }
  if (!stream.ok()) return stream.status();
  members_[0] = {*std::move(stream), "", "", true};
  // Rank 0 gives up at its own deadline and says who is missing: a little more patience hears that.
  auto reply =
      members_[0].stream.ReadFrame(kReceptionFrameBytesMax * options_.size, deadline + kFarewellTime);
  if (!reply.ok())
    return Annotate(reply.status(),
                    absl::StrCat("rank ", options_.rank, " waiting for rank 0 at ", options_.rendezvous));
  return UnpackReply(*reply, options_.size);
}

absl::StatusOr<std::vector<std::string>> EnvironmentBootstrap::Receive(absl::Time deadline) {
  members_[0].host_key = HostKey();
  members_[0].here = true;
  members_[0].who = who_;
  if (options_.size == 1 && !options_.stays_open) return std::vector<std::string>{members_[0].host_key};
  ASSIGN_OR_RETURN(listener_, ListenAtRendezvous(options_));
  const absl::Status gathered = Gather(deadline);
  absl::StatusOr<std::vector<std::string>> result = std::vector<std::string>();
  if (!gathered.ok()) result = gathered;
  for (const Member& member : members_) {
    if (result.ok()) result->push_back(member.host_key);
  }
  RETURN_IF_ERROR(Reply(result, result.ok() ? deadline : absl::Now() + kFarewellTime));
  return result;
}

// Until all are here.
absl::Status EnvironmentBootstrap::Gather(absl::Time deadline) {
  std::list<Visitor> guests;
  for (int missing = options_.size - 1; missing > 0;) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      std::vector<int> absent;
      for (int i = 0; i < options_.size; ++i) {
        if (!members_[i].here) absent.push_back(i);
      }
      return absl::DeadlineExceededError(absl::StrCat("after ", absl::FormatDuration(options_.deadline), " ",
                                                      options_.size - missing, " of ", options_.size,
                                                      " ranks have come to ", options_.rendezvous,
                                                      "; missing: ", absl::StrJoin(absent, ", ")));
    }
    std::vector<pollfd> fds = {{listener_.fd(), POLLIN, 0}};
    for (const Visitor& guest : guests) fds.push_back({guest.stream.fd(), POLLIN, 0});
    for (const Member& member : members_)
      fds.push_back({member.stream.fd(), POLLIN, 0});  // none: -1, which poll passes over
    const timespec timeout = absl::ToTimespec(std::min(left, absl::Seconds(1)));
    ppoll(fds.data(), fds.size(), &timeout, nullptr);
    while (guests.size() < kGuestsMax) {
      auto guest = listener_.Accept();
      if (!guest.ok()) break;
      guests.push_back({*std::move(guest), Host(&rules_, MakeNonce())});
    }
    for (auto guest = guests.begin(); guest != guests.end();) {
      ASSIGN_OR_RETURN(const bool done, Welcome(*guest));
      guest = done ? guests.erase(guest) : std::next(guest);
    }
    missing = 0;
    for (int i = 1; i < options_.size; ++i) {
      Member& member = members_[i];
      missing += !member.here;
      std::string unexpected;
      if (member.here && !member.stream.TryReadFrame(kReceptionFrameBytesMax, unexpected).ok()) {
        return absl::UnavailableError(
            absl::StrCat("rank ", i, " (", member.who, ") left before all ranks had come"));
      }
    }
  }
  return absl::OkStatus();
}

// True when the guest is dealt with: it became a member, or was turned away. An error concerns the whole job.
absl::StatusOr<bool> EnvironmentBootstrap::Welcome(Visitor& guest) {
  std::string frame;
  const auto complete = guest.stream.TryReadFrame(kReceptionFrameBytesMax, frame);
  if (!complete.ok()) return true;  // a stranger
  if (!*complete) return false;
  const absl::Time soon = absl::Now() + kFarewellTime;
  const Host::Step step = guest.reception.OnFrame(frame);
  if (!step.refusal.ok() && options_.on_refusal) options_.on_refusal(step.refusal);
  if (!step.reply.empty() && !guest.stream.WriteFrame(step.reply, soon).ok()) return true;
  if (!step.in.has_value()) return step.done;
  const GuestHello* hello = &*step.in;
  if (hello->joins) {
    guest.stream
        .WriteFrame(PackRefusal(absl::UnavailableError("the job has not started: join it later")), soon)
        .IgnoreError();
    return true;
  }
  absl::Status status;
  if (hello->size != options_.size) {
    status = absl::InvalidArgumentError(absl::StrCat("rank ", hello->rank, " (", hello->who,
                                                     ") was started as one of ", hello->size, ", rank 0 (",
                                                     who_, ") as one of ", options_.size));
  } else if (hello->rank < 0 || hello->rank >= options_.size) {
    status = absl::InvalidArgumentError(
        absl::StrCat("rank ", hello->rank, " (", hello->who, ") in a job of ranks 0 to ", options_.size - 1));
  } else if (members_[hello->rank].here) {
    status = absl::InvalidArgumentError(
        absl::StrCat("rank ", hello->rank, " came twice: ", members_[hello->rank].who, " and ", hello->who));
  }
  if (!status.ok()) {
    guest.stream.WriteFrame(PackRefusal(status), soon).IgnoreError();
    return status;
  }
  members_[hello->rank] = {std::move(guest.stream), hello->who, hello->host_key, true};
  return true;
}

// To everyone who is here; the first failure.
absl::Status EnvironmentBootstrap::Reply(const absl::StatusOr<std::vector<std::string>>& result,
                                         absl::Time deadline) {
  const std::string frame = result.ok() ? PackEntries(*result) : PackRefusal(result.status());
  absl::Status first;
  for (int i = 1; i < options_.size; ++i) {
    if (members_[i].stream.fd() < 0) continue;
    const absl::Status status = members_[i].stream.WriteFrame(frame, deadline);
    if (!status.ok() && first.ok())
      first = Annotate(status, absl::StrCat("rank ", i, " (", members_[i].who, ")"));
  }
  return result.ok() ? first : result.status();
}

absl::StatusOr<std::vector<std::string>> EnvironmentBootstrap::AllGather(absl::string_view mine,
                                                                         absl::Duration wait) {
  if (mine.size() > kBootstrapEntryBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("an entry of ", mine.size(), " bytes, at most ", kBootstrapEntryBytesMax));
  }
  if (members_.empty()) return absl::FailedPreconditionError("the bootstrap is finished");
  const absl::Time deadline = absl::Now() + wait;
  if (options_.rank != 0) {
    TcpStream& stream = members_[0].stream;
    RETURN_IF_ERROR(Annotate(stream.WriteFrame(mine, deadline), "rank 0"));
    auto reply =
        stream.ReadFrame((kBootstrapEntryBytesMax + 4) * options_.size + 1, deadline + kFarewellTime);
    if (!reply.ok()) return Annotate(reply.status(), "waiting for rank 0");
    return UnpackReply(*reply, options_.size);
  }
  std::vector<std::string> entries = {std::string(mine)};
  for (int i = 1; i < options_.size; ++i) {
    auto entry = members_[i].stream.ReadFrame(kBootstrapEntryBytesMax, deadline);
    if (!entry.ok())
      return Reply(Annotate(entry.status(), absl::StrCat("rank ", i, " (", members_[i].who, ")")),
                   absl::Now() + kFarewellTime);
    entries.push_back(*std::move(entry));
  }
  RETURN_IF_ERROR(Reply(entries, deadline));
  return entries;
}

}  // namespace

absl::StatusOr<TcpListener> ListenAtRendezvous(const BootstrapOptions& options) {
  ASSIGN_OR_RETURN(const auto place, ParseHostPort(options.rendezvous));
  auto listener = TcpListener::Listen(options.bind.empty() ? place.first : options.bind, place.second,
                                      /*or_any=*/options.bind.empty());
  if (!listener.ok()) {
    return Annotate(listener.status(), options.bind.empty()
                                           ? absl::StrCat("rank 0 cannot listen at ", options.rendezvous,
                                                          " (choose another with --rendezvous)")
                                           : absl::StrCat("rank 0 cannot listen at --bind ", options.bind,
                                                          ", port ", place.second));
  }
  if (options.key.empty() && !listener->loopback()) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank 0 would listen at ", options.rendezvous,
                     ", where other hosts can reach it, and there is no key: give all ranks the same "
                     "--cluster-key-file FILE, or meet at 127.0.0.1"));
  }
  return listener;
}

absl::StatusOr<std::unique_ptr<Bootstrap>> MakeEnvironmentBootstrap(const BootstrapOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank, " of ", options.size, ": ranks count from 0 to size - 1"));
  }
  auto bootstrap = std::make_unique<EnvironmentBootstrap>(options);
  RETURN_IF_ERROR(bootstrap->Start());
  return bootstrap;
}

}  // namespace lombard
