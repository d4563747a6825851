#include "runtime/generate/report.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace lombard {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const Percentiles& p) {
  Json out;
  out["count"] = p.count;
  const auto value = [&p](double v) { return p.count == 0 ? Json(nullptr) : Json(v); };
  out["mean"] = value(p.mean);
  out["p50"] = value(p.p50);
  out["p90"] = value(p.p90);
  out["p95"] = value(p.p95);
  out["p99"] = value(p.p99);
  return out;
}

}  // namespace

std::string ReportJson(const Report& r) {
  Json out;
  out["requests"] = r.requests;
  out["tokens"] = {{"prompt", r.tokens.prompt}, {"output", r.tokens.output}};
  out["output_tokens_per_s"] = r.output_tokens_per_s;
  out["ttft_s"] = ToJson(r.ttft_s);
  out["tpot_s"] = ToJson(r.tpot_s);
  out["itl_s"] = ToJson(r.itl_s);
  out["e2e_s"] = ToJson(r.e2e_s);
  out["steps"] = r.steps;
  out["remote_steps"] = r.remote_steps;
  out["remote_tokens_attended"] = r.remote_tokens_attended;
  out["wire_bytes"] = {{"query", r.wire_bytes.query},
                       {"state", r.wire_bytes.state},
                       {"kv", r.wire_bytes.kv},
                       {"control", r.wire_bytes.control},
                       {"framing", r.wire_bytes.framing}};
  out["ranks"] = Json::array();
  for (const RankReport& rank : r.ranks) {
    out["ranks"].push_back({{"kv_tokens",
                             {{"capacity", rank.kv_tokens.capacity},
                              {"used_max", rank.kv_tokens.used_max},
                              {"lent_max", rank.kv_tokens.lent_max},
                              {"borrowed_max", rank.kv_tokens.borrowed_max}}},
                            {"served_steps", rank.served_steps},
                            {"lost", rank.lost}});
  }
  out["prefix_cache"] = {{"queried_tokens", r.prefix_cache.queried},
                         {"hit_tokens", r.prefix_cache.hit},
                         {"evicted_tokens", r.prefix_cache.evicted}};
  out["recovery"] = {{"ranks_lost", r.recovery.ranks_lost},
                     {"requests_replayed", r.recovery.requests_replayed},
                     {"lost_tokens", r.recovery.lost_tokens},
                     {"recomputed_tokens", r.recovery.recomputed_tokens},
                     {"abandoned_steps", r.recovery.abandoned_steps},
                     {"fenced", r.recovery.fenced},
                     {"stale_tokens", r.recovery.stale_tokens},
                     {"replayed_tokens", r.recovery.replayed_tokens},
                     {"adopted_tokens", r.recovery.adopted_tokens},
                     {"stale_messages", r.recovery.stale_messages},
                     {"pause_s", ToJson(r.recovery.pause_s)},
                     {"others_pause_s", ToJson(r.recovery.others_pause_s)},
                     {"ranks_joined", r.recovery.ranks_joined},
                     {"ranks_left", r.recovery.ranks_left},
                     {"requests_handed_back", r.recovery.requests_handed_back}};
  out["loans"] = {{"granted", r.loans.granted},
                  {"refused", r.loans.refused},
                  {"recalled", r.loans.recalled},
                  {"repaid", r.loans.repaid},
                  {"lost", r.loans.lost}};
  out["gpu_exchanges"] = {{"done", r.gpu_exchanges.done},
                          {"refused", r.gpu_exchanges.refused},
                          {"pairs_closed", r.gpu_exchanges.pairs_closed}};
  out["timeline"] = Json::array();
  for (const ThroughputEntry& entry : r.timeline) {
    out["timeline"].push_back({{"start_s", entry.start_s},
                               {"seconds", entry.seconds},
                               {"tokens_per_s", entry.seconds > 0 ? entry.tokens / entry.seconds : 0},
                               {"workers", entry.workers},
                               {"kv_tokens_used", entry.kv_used},
                               {"kv_tokens_lent", entry.kv_lent}});
  }
  return out.dump(2) + "\n";
}

absl::Status WriteReport(const Report& report, const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return ErrnoStatus(error.value(), "cannot create the report directory", directory);
  // Beside its final name first: a reader never sees half of it.
  const std::string path = absl::StrCat(directory, "/report.json"), partial = absl::StrCat(path, ".partial");
  std::FILE* file = std::fopen(partial.c_str(), "w");
  if (file == nullptr) return ErrnoStatus(errno, "cannot write the report", partial);
  const std::string text = ReportJson(report);
  int failed = std::fwrite(text.data(), 1, text.size(), file) == text.size() ? 0 : errno;
  if (std::fclose(file) != 0 && failed == 0) failed = errno;
  if (failed == 0 && std::rename(partial.c_str(), path.c_str()) != 0) failed = errno;
  return failed == 0 ? absl::OkStatus() : ErrnoStatus(failed, "cannot write the report", path);
}

}  // namespace lombard
