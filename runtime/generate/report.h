// report.json: what a run did, for people and plots. Written once at the end; field names are a contract with
// scripts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/generate/distribution.h"

namespace lombard {

struct RankReport {
  struct {
    uint64_t capacity = 0, used_max = 0, lent_max = 0, borrowed_max = 0;
  } kv_tokens;
  uint64_t served_steps = 0;  // steps of others it attended for
  bool lost = false;          // at the end; then the other figures are not known
};

// Of one interval.
struct ThroughputEntry {
  double start_s = 0, seconds = 0;  // since the job's start
  uint64_t tokens = 0;
  int workers = 0;                         // at its end
  std::vector<uint64_t> kv_used, kv_lent;  // tokens at its end, by rank
};

struct Report {
  uint64_t requests = 0;
  struct {
    uint64_t prompt = 0, output = 0;
  } tokens;
  double output_tokens_per_s = 0;
  Percentiles ttft_s, tpot_s, itl_s, e2e_s;
  uint64_t steps = 0;         // committed, with at least one row, summed over instances
  uint64_t remote_steps = 0;  // of those, with some attention elsewhere
  uint64_t remote_tokens_attended = 0;
  struct {
    uint64_t query = 0, state = 0, kv = 0, control = 0;  // payload
    uint64_t framing = 0;
  } wire_bytes;
  std::vector<RankReport> ranks;
  struct {
    uint64_t queried = 0, hit = 0,
             evicted = 0;  // tokens: of admitted requests, of them found, given up again
  } prefix_cache;
  struct {
    uint64_t ranks_lost = 0, requests_replayed = 0;
    uint64_t lost_tokens = 0, recomputed_tokens = 0;  // KV in lost loans; computed again because of that
    uint64_t abandoned_steps = 0;
    uint64_t ranks_joined = 0, ranks_left = 0, requests_handed_back = 0;
    uint64_t fenced = 0, stale_tokens = 0;  // processes declared lost that lived; what they still delivered
    uint64_t replayed_tokens = 0;           // of requests replayed: prompts, and what had been delivered
    uint64_t adopted_tokens = 0;            // of these, those whose KV creditors still held
    uint64_t stale_messages = 0;            // of or for what was lost: dropped or refused
    Percentiles pause_s, others_pause_s;    // of sequences that lost KV or home; of those running beside them
  } recovery;
  struct {
    uint64_t granted = 0, refused = 0, recalled = 0, repaid = 0, lost = 0;
  } loans;
  struct {
    uint64_t done = 0;  // between a debtor's and one creditor's GPU, for all layers of a step
    uint64_t refused = 0, pairs_closed = 0;
  } gpu_exchanges;
  std::vector<ThroughputEntry> timeline;
};

std::string ReportJson(const Report& report);  // indented, with a line end
// Creates `directory` and writes report.json there, whole or not at all. Errors name the path.
absl::Status WriteReport(const Report& report, const std::string& directory);

}  // namespace lombard
