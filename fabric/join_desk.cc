#include "fabric/join_desk.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "fabric/enter_reception.h"
#include "fabric/host_name.h"

namespace lombard {
namespace {

constexpr size_t kGuestsMax = 64;                               // at once; more wait in the kernel's queue
constexpr absl::Duration kWriteTime = absl::Milliseconds(200);  // a reply fits a socket's buffer

}  // namespace

std::vector<JoinDesk::Request> JoinDesk::Poll(absl::Time now) {
  while (guests_.size() < kGuestsMax) {
    auto stream = listener_.Accept();
    if (!stream.ok()) break;
    guests_.push_back({.number = next_guest_++,
                       .stream = *std::move(stream),
                       .reception = Host(&options_.rules, MakeNonce()),
                       .deadline = now + options_.word_wait,
                       .hello = std::nullopt});
  }
  std::vector<Request> requests;
  std::erase_if(guests_,
                [&](Visitor& guest) { return now >= guest.deadline || !Serve(guest, now, &requests); });
  return requests;
}

bool JoinDesk::Reply(Visitor& guest, const std::string& frame) {
  return guest.stream.WriteFrame(frame, absl::Now() + kWriteTime).ok();
}

bool JoinDesk::Serve(Visitor& guest, absl::Time now, std::vector<Request>* requests) {
  std::string frame;
  const size_t bytes_max = guest.hello.has_value() ? kJoinRequestBytesMax : kReceptionFrameBytesMax;
  const auto complete = guest.stream.TryReadFrame(bytes_max, frame);
  if (!complete.ok()) return false;
  if (!*complete) return true;
  guest.deadline = now + options_.word_wait;
  if (guest.hello.has_value()) {
    if (std::exchange(guest.asked, true)) return false;
    requests->push_back({guest.number, guest.hello->who, guest.hello->host_key, std::move(frame)});
    return true;
  }
  Host::Step step = guest.reception.OnFrame(frame);
  if (step.in.has_value() && !step.in->joins) {
    step.done = true;
    step.refusal = absl::FailedPreconditionError(
        absl::StrCat("the job at ", options_.rules.place, " has started: ", step.in->who, " may --join it"));
    step.reply = PackRefusal(step.refusal);
  }
  if (!step.refusal.ok() && options_.on_refusal) options_.on_refusal(step.refusal);
  if (!step.reply.empty() && !Reply(guest, step.reply)) return false;
  if (step.done || !step.in.has_value()) return !step.done;
  guest.hello = *std::move(step.in);
  guest.deadline = now + options_.request_wait;
  std::vector<std::string> entries = {options_.single_host ? "1" : "0"};
  for (std::string& key : options_.host_keys()) entries.push_back(std::move(key));
  return Reply(guest, PackEntries(entries));
}

void JoinDesk::Answer(uint64_t number, const absl::StatusOr<std::string>& welcome) {
  const auto guest = std::find_if(guests_.begin(), guests_.end(),
                                  [&](const Visitor& visitor) { return visitor.number == number; });
  if (guest == guests_.end()) return;
  if (!welcome.ok() && options_.on_refusal) {
    options_.on_refusal(Annotate(welcome.status(), guest->hello->who));
  }
  // Who does not read this never comes, and its place is free again after a while.
  Reply(*guest, welcome.ok() ? PackEntries({*welcome}) : PackRefusal(welcome.status()));
  guests_.erase(guest);
}

absl::StatusOr<JobEntry> JobEntry::Enter(const ReceptionRules& rules, absl::Time deadline) {
  ASSIGN_OR_RETURN(const auto place, ParseHostPort(rules.place));
  JobEntry entry;
  ASSIGN_OR_RETURN(entry.stream_,
                   EnterReception(rules, {.joins = true, .host_key = HostKey(), .who = WhoAmI()}, place.first,
                                  place.second, deadline));
  ASSIGN_OR_RETURN(const std::string reply, entry.stream_.ReadFrame(kWelcomeBytesMax, deadline));
  ASSIGN_OR_RETURN(const std::vector<std::string> entries, UnpackReply(reply, -1));
  if (entries.empty())
    return absl::DataLossError("rank 0 sent a reply that makes no sense: not the same build?");
  entry.single_host_ = entries[0] == "1";
  entry.ranks_here_ = static_cast<int>(std::count(entries.begin() + 1, entries.end(), HostKey()));
  return entry;
}

absl::StatusOr<std::string> JobEntry::Ask(const std::string& request, absl::Time deadline) {
  RETURN_IF_ERROR(stream_.WriteFrame(request, deadline));
  ASSIGN_OR_RETURN(const std::string reply, stream_.ReadFrame(kWelcomeBytesMax, deadline));
  ASSIGN_OR_RETURN(std::vector<std::string> entries, UnpackReply(reply, 1));
  return std::move(entries[0]);
}

}  // namespace lombard
