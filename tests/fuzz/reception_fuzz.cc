// Any bytes as frames of a guest, and of a host: nobody comes in without the key, every refusal has words,
// and what a host packs is what a guest reads.
//
// Input: frames, each one byte length and so many bytes.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "fabric/reception.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lombard;
  static const ReceptionRules* const rules = new ReceptionRules{
      .key = ClusterKey("sixteen bytes or more"), .protocol = 2, .job = "", .place = "h:1"};
  absl::string_view input(reinterpret_cast<const char*>(data), size);
  Host host(rules, "0123");
  const Guest guest(rules, {.joins = true, .host_key = "k", .who = "w"}, "4567");
  bool open = true;
  while (!input.empty()) {
    const size_t length = static_cast<uint8_t>(input[0]);
    const absl::string_view frame = input.substr(1, length);
    input.remove_prefix(1 + frame.size());
    if (open) {
      const Host::Step step = host.OnFrame(frame);
      CHECK(!step.in.has_value()) << "came in without the key";
      CHECK(step.refusal.ok() || (step.done && !step.reply.empty()));
      CHECK(step.refusal.ok() || UnpackReply(step.reply, 0).status() == step.refusal);
      open = !step.done;
    }
    CHECK(!guest.OnChallenge(frame).ok());
    const auto entries = UnpackReply(frame, -1);
    if (entries.ok()) {
      const auto again = UnpackReply(PackEntries(*entries), static_cast<int>(entries->size()));
      CHECK(again.ok() && *again == *entries);
    }
  }
  return 0;
}
