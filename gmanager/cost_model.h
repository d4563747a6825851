// How fast an instance runs, as a function of its batch and of the KV tokens it attends over.
//
// One layer of one decode step (Infinite-LLM's performance model, with a roofline for f and g):
//   T_lyr  = nonattention(batch) + max(attention(tokens here), max over creditors of remote) + merge
//   nonattention(batch) = max(row_seconds * batch, weights_seconds) + launch_seconds
//   attention(tokens)   = token_seconds * tokens + launch_seconds           (1 / g = token_seconds)
//   remote              = wire(rows) + 2 * latency + attention(tokens there) at the creditor
//   wire(rows)          = (query_bytes + state_bytes) * rows / bandwidth
//   tokens per second   = batch / (layers * T_lyr)
// "Tokens here" are those of the own requests that lie here plus those hosted for others. Attention at home
// and at the creditors overlap, hence the max. Queueing at a creditor between debtors is not modelled.
//
// Values only; no state. All times in seconds, all counts of tokens and rows.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace lombard {

// What one worker needs for one layer. Measured by its engine, or from Roofline().
struct ComputeProfile {
  double weights_seconds = 0;  // read the layer's weights once: the floor of the part without attention
  double row_seconds = 0;      // compute of one batch row
  double token_seconds = 0;    // attend one query row over one token of KV
  double launch_seconds = 0;
};

struct LinkProfile {
  double bytes_per_second = 0;  // 0 = bytes cost nothing
  double latency_seconds = 0;   // one way
};

// Bytes that cross the wire per query row, layer and creditor.
struct WireShape {
  double query_bytes = 0;
  double state_bytes = 0;
};

struct Hardware {
  double flops_per_second;    // peak
  double bytes_per_second;    // peak of the memory
  double compute_efficiency;  // reached share of the peaks, in (0, 1]
  double memory_efficiency;
  double launch_seconds;
};

struct LayerShape {
  double parameters;  // of one layer, attention projections included
  double bytes_per_parameter;
  double kv_bytes_per_token;  // K and V of one layer
};

// weights = parameters * bytes / (eta_m * B);  row = 2 * parameters / (eta_c * F);  token = kv_bytes / (eta_m
// * B).
ComputeProfile Roofline(const Hardware& hardware, const LayerShape& layer);

class CostModel {
 public:
  struct Options {
    uint32_t layers = 1;
    double merge_seconds = 0;
    WireShape wire;
    double kv_bytes = 0;       // K and V of one token and layer; 0: not known
    LinkProfile link;          // between any two instances
    ComputeProfile profile;    // of instances without one of their own
    bool one_profile = false;  // of all, whatever they measure: plans that do not depend on the machine
  };
  // A creditor's part of a batch's attention.
  struct RemotePart {
    uint32_t creditor;
    double tokens;
    double rows;  // query rows that travel
  };

  explicit CostModel(const Options& options) : options_(options) {}

  // What `instance` measured itself; replaces the default profile.
  void SetProfile(uint32_t instance, const ComputeProfile& profile);
  const ComputeProfile& profile(uint32_t instance) const;

  double NonAttentionSeconds(uint32_t instance, double batch) const;
  double AttentionSeconds(uint32_t instance, double tokens) const;  // 0 for no token
  double RemoteSeconds(const RemotePart& part) const;
  double LayerSeconds(uint32_t instance, double batch, double tokens_here,
                      absl::Span<const RemotePart> remote) const;
  // 0 for an empty batch.
  double TokensPerSecond(uint32_t instance, double batch, double tokens_here,
                         absl::Span<const RemotePart> remote) const;
  // The batch from which the part without attention is bound by compute, where more requests no longer help;
  // infinity when rows cost nothing.
  double KneeBatch(uint32_t instance) const;

 private:
  Options options_;
  std::vector<ComputeProfile> profiles_;  // by instance; token_seconds < 0 marks a gap
};

}  // namespace lombard
