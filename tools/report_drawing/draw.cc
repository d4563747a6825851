#include "tools/report_drawing/draw.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace lombard {
namespace {

using Json = nlohmann::json;

// The number at a path like "tokens.output".
absl::StatusOr<double> Number(const Json& json, absl::string_view path) {
  const Json* at = &json;
  for (absl::string_view name : absl::StrSplit(path, '.')) {
    const auto found = at->is_object() ? at->find(std::string(name)) : at->end();
    if (found == at->end()) return absl::InvalidArgumentError(absl::StrCat("the report has no ", path));
    at = &*found;
  }
  if (!at->is_number())
    return absl::InvalidArgumentError(absl::StrCat("the report's ", path, " is no number"));
  return at->get<double>();
}

struct Rank {
  double capacity = 0, used = 0, lent = 0,
         borrowed = 0;  // tokens; the last three at most, each at its own time
};

std::string Repeat(char mark, int count) { return std::string(std::max(count, 0), mark); }

}  // namespace

absl::StatusOr<std::string> DrawReport(absl::string_view report_json, int columns) {
  const Json report =
      Json::parse(report_json.begin(), report_json.end(), nullptr, /*allow_exceptions=*/false);
  if (!report.is_object()) return absl::InvalidArgumentError("the report is not a JSON object");
  const auto list = report.find("ranks");
  if (list == report.end() || !list->is_array()) return absl::InvalidArgumentError("the report has no ranks");

  std::vector<Rank> ranks;
  double widest = 1;
  for (const Json& entry : *list) {
    Rank rank;
    ASSIGN_OR_RETURN(rank.capacity, Number(entry, "kv_tokens.capacity"));
    ASSIGN_OR_RETURN(rank.used, Number(entry, "kv_tokens.used_max"));
    ASSIGN_OR_RETURN(rank.lent, Number(entry, "kv_tokens.lent_max"));
    ASSIGN_OR_RETURN(rank.borrowed, Number(entry, "kv_tokens.borrowed_max"));
    ranks.push_back(rank);
    widest = std::max({widest, rank.capacity, rank.borrowed});
  }
  const double tokens_per_mark = std::max(1.0, widest / columns);
  const auto marks = [&](double tokens) {
    return tokens <= 0 ? 0 : std::max(1, static_cast<int>(tokens / tokens_per_mark + 0.5));
  };

  std::string out = absl::StrFormat(
      "KV memory of each rank, one mark for %.0f tokens:  # own requests   > lent to others   . free   < "
      "borrowed\n",
      tokens_per_mark);
  for (size_t i = 0; i < ranks.size(); ++i) {
    const Rank& rank = ranks[i];
    const int all = marks(rank.capacity);
    const int lent = std::min(marks(rank.lent), all);
    const int own = std::min(marks(std::min(rank.used, rank.capacity - rank.lent)), all - lent);
    absl::StrAppendFormat(&out, "rank %-2d |%s%s%s|%s%s\n", i, Repeat('#', own), Repeat('>', lent),
                          Repeat('.', all - own - lent), rank.borrowed > 0 ? "+" : "",
                          Repeat('<', marks(rank.borrowed)));
    absl::StrAppendFormat(&out, "         holds %.0f, used %.0f", rank.capacity, rank.used);
    if (rank.lent > 0) absl::StrAppendFormat(&out, ", lent %.0f", rank.lent);
    if (rank.borrowed > 0) absl::StrAppendFormat(&out, ", borrowed %.0f", rank.borrowed);
    absl::StrAppend(&out, " tokens at most\n");
  }

  // Who lent to whom: certain when one rank alone borrowed.
  const auto debtor =
      std::find_if(ranks.begin(), ranks.end(), [](const Rank& rank) { return rank.borrowed > 0; });
  const bool one_debtor =
      debtor != ranks.end() &&
      std::none_of(debtor + 1, ranks.end(), [](const Rank& rank) { return rank.borrowed > 0; });
  if (one_debtor) {
    for (size_t i = 0; i < ranks.size(); ++i) {
      if (ranks[i].lent <= 0) continue;
      absl::StrAppendFormat(&out, "rank %d ==[%5.0f tokens]==> rank %d\n", i, ranks[i].lent,
                            debtor - ranks.begin());
    }
  }

  ASSIGN_OR_RETURN(const double output, Number(report, "tokens.output"));
  ASSIGN_OR_RETURN(const double speed, Number(report, "output_tokens_per_s"));
  ASSIGN_OR_RETURN(const double steps, Number(report, "steps"));
  ASSIGN_OR_RETURN(const double remote, Number(report, "remote_steps"));
  ASSIGN_OR_RETURN(const double query, Number(report, "wire_bytes.query"));
  ASSIGN_OR_RETURN(const double state, Number(report, "wire_bytes.state"));
  ASSIGN_OR_RETURN(const double kv, Number(report, "wire_bytes.kv"));
  absl::StrAppendFormat(&out,
                        "%.0f tokens out, %.1f tokens/s; %.0f of %.0f steps attended partly on other ranks\n",
                        output, speed, remote, steps);
  absl::StrAppendFormat(&out, "sent: queries %.0f KiB, states %.0f KiB, KV %.0f KiB\n", query / 1024,
                        state / 1024, kv / 1024);
  return out;
}

}  // namespace lombard
