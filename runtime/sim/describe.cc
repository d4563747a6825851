#include "runtime/sim/describe.h"

#include "absl/strings/str_cat.h"

namespace lombard::sim {

std::string DescribeMessage(const messages::ControlMessage& message) {
  std::string text = message.ShortDebugString();
  constexpr size_t kLongest = 300;
  if (text.size() > kLongest) text = absl::StrCat(text.substr(0, kLongest), " ...");
  return text;
}

std::string DescribeMembers(const Membership& membership) {
  std::string text = absl::StrCat("members ", membership.number(), ":");
  for (size_t i = 0; i < membership.members().size(); ++i) {
    const Membership::Member& member = membership.members()[i];
    constexpr const char* kNames[] = {" vacant", " expected", " joining", "", " draining", " lost", " left"};
    if (Value(member.incarnation) == 0) continue;
    absl::StrAppend(&text, " ", i, ".", Value(member.incarnation), kNames[static_cast<size_t>(member.state)]);
  }
  return text;
}

std::string DescribeWork(const StepWork& work) {
  std::string text;
  for (size_t i = 0; i < work.plan.sequences.size(); ++i) {
    const SequenceRows& rows = work.plan.sequences[i];
    absl::StrAppend(&text, ToString(work.requests[i]), " rows ", rows.first_position, "+", rows.rows,
                    " over");
    for (const AttentionSpan& span : rows.spans) {
      if (const auto* lent = std::get_if<LentSpan>(&span)) {
        absl::StrAppend(&text, " rank ", lent->creditor, " loan ", Value(lent->loan) & 0xffffffffff, " [",
                        lent->first_position, ", +", lent->token_count, ")");
      } else {
        const LocalSpan& local = std::get<LocalSpan>(span);
        absl::StrAppend(&text, " home [", local.first_position, ", +", local.token_count, ")");
      }
    }
    absl::StrAppend(&text, "; ");
  }
  if (!work.sends.empty()) absl::StrAppend(&text, work.sends.size(), " sends");
  return text;
}

}  // namespace lombard::sim
