#include "fabric/reception.h"

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace lombard {
namespace {

constexpr char kFormat[] = "lombard rendezvous 2";
constexpr char kChallenge[] = "challenge";
constexpr size_t kNonceMax = 256, kNameMax = 256;  // what a stranger may make rank 0 print

absl::Status WrongKey(absl::string_view of_guest, absl::string_view of_host, absl::string_view place) {
  return absl::PermissionDeniedError(absl::StrCat("cluster key ", of_guest, " is not that of the job at ",
                                                  place, ", which is ", of_host,
                                                  ": give all ranks the same --cluster-key-file"));
}

std::string HelloText(const GuestHello& hello) {
  return absl::StrCat(hello.rank, "\n", hello.size, "\n", hello.host_key);
}

}  // namespace

// ------------------------------------------------------------------------------------------------ host

Host::Step Host::Refuse(absl::Status why) const {
  return {.reply = PackRefusal(why), .done = true, .refusal = std::move(why), .in = std::nullopt};
}

Host::Step Host::OnFrame(absl::string_view frame) {
  if (!greeted_) return Greet(frame);
  const std::vector<std::string> lines = absl::StrSplit(frame, '\n');
  if (lines.size() != 4 || !absl::SimpleAtoi(lines[0], &hello_.rank) ||
      !absl::SimpleAtoi(lines[1], &hello_.size))
    return {.reply = {}, .done = true, .refusal = {}, .in = std::nullopt};
  hello_.host_key = lines[2];
  if (!rules_->key.Verify("guest", absl::StrCat(nonce_, guest_nonce_, HelloText(hello_)), lines[3])) {
    return Refuse(absl::PermissionDeniedError(
        absl::StrCat(hello_.who, " has not proven that it has the cluster key ", rules_->key.id(),
                     " of the job at ", rules_->place, ": give all ranks the same --cluster-key-file")));
  }
  return {.reply = {}, .done = false, .refusal = {}, .in = hello_};
}

Host::Step Host::Greet(absl::string_view frame) {
  const std::vector<std::string> lines = absl::StrSplit(frame, '\n');
  uint32_t protocol = 0;
  if (lines.size() != 7 || lines[0] != kFormat || (lines[1] != "start" && lines[1] != "join") ||
      !absl::SimpleAtoi(lines[4], &protocol) || lines[6].size() > kNonceMax || lines[2].size() > kNameMax ||
      lines[3].size() > kNameMax || lines[5].size() > kNameMax) {
    return {.reply = {}, .done = true, .refusal = {}, .in = std::nullopt};
  }
  hello_.joins = lines[1] == "join";
  hello_.who = lines[3];
  guest_nonce_ = lines[6];
  if (!hello_.joins && lines[2] != rules_->job) {
    return Refuse(absl::FailedPreconditionError(
        absl::StrCat(rules_->place, " is the meeting place of another job ('", rules_->job, "', not '",
                     lines[2], "'): choose another with --rendezvous")));
  }
  if (lines[5] != rules_->key.id()) return Refuse(WrongKey(lines[5], rules_->key.id(), rules_->place));
  if (protocol != rules_->protocol) {
    return Refuse(absl::FailedPreconditionError(absl::StrCat(
        "protocol version ", protocol, " of ", hello_.who, " is not that of the job at ", rules_->place,
        ", which is ", rules_->protocol, ": start all ranks with the same build")));
  }
  greeted_ = true;
  return {.reply = absl::StrCat(kChallenge, "\n", nonce_, "\n",
                                rules_->key.Prove("host", absl::StrCat(guest_nonce_, nonce_))),
          .done = false,
          .refusal = {},
          .in = std::nullopt};
}

// ----------------------------------------------------------------------------------------------- guest

std::string Guest::Greeting() const {
  return absl::StrJoin({std::string(kFormat), std::string(hello_.joins ? "join" : "start"), rules_->job,
                        hello_.who, absl::StrCat(rules_->protocol), rules_->key.id(), nonce_},
                       "\n");
}

absl::StatusOr<std::string> Guest::OnChallenge(absl::string_view frame) const {
  const std::vector<std::string> lines = absl::StrSplit(frame, '\n');
  if (lines.size() != 3 || lines[0] != kChallenge || lines[1].size() > kNonceMax) {
    const auto refusal = UnpackReply(frame, 0);
    if (!refusal.ok()) return refusal.status();
    return absl::DataLossError("rank 0 sent a reply that makes no sense: not the same build?");
  }
  if (!rules_->key.Verify("host", absl::StrCat(nonce_, lines[1]), lines[2])) {
    return absl::PermissionDeniedError(
        absl::StrCat("who listens at ", rules_->place, " has not proven that it has the cluster key ",
                     rules_->key.id(), ": give all ranks the same --cluster-key-file"));
  }
  const std::string text = HelloText(hello_);
  return absl::StrCat(text, "\n", rules_->key.Prove("guest", absl::StrCat(lines[1], nonce_, text)));
}

// --------------------------------------------------------------------------------------------- replies

std::string PackEntries(const std::vector<std::string>& entries) {
  std::string out(1, 'O');
  for (const std::string& entry : entries) {
    const uint32_t length = static_cast<uint32_t>(entry.size());
    out.append(reinterpret_cast<const char*>(&length), sizeof(length));
    out.append(entry);
  }
  return out;
}

std::string PackRefusal(const absl::Status& status) {
  return absl::StrCat("E", std::string(1, static_cast<char>(status.code())), status.message());
}

absl::StatusOr<std::vector<std::string>> UnpackReply(absl::string_view reply, int count) {
  const absl::Status malformed =
      absl::DataLossError("rank 0 sent a reply that makes no sense: not the same build?");
  if (reply.size() >= 2 && reply[0] == 'E' && reply[1] > 0 && reply[1] <= 16)
    return absl::Status(static_cast<absl::StatusCode>(reply[1]), reply.substr(2));
  if (reply.empty() || reply[0] != 'O') return malformed;
  reply.remove_prefix(1);
  std::vector<std::string> entries;
  while (!reply.empty()) {
    uint32_t length;
    if (reply.size() < sizeof(length)) return malformed;
    std::memcpy(&length, reply.data(), sizeof(length));
    reply.remove_prefix(sizeof(length));
    if (reply.size() < length) return malformed;
    entries.emplace_back(reply.substr(0, length));
    reply.remove_prefix(length);
  }
  if (count >= 0 && entries.size() != static_cast<size_t>(count)) return malformed;
  return entries;
}

}  // namespace lombard
