#include "gmanager/cost_model.h"

#include <algorithm>
#include <limits>

namespace lombard {

ComputeProfile Roofline(const Hardware& hardware, const LayerShape& layer) {
  const double memory = hardware.memory_efficiency * hardware.bytes_per_second;
  const double compute = hardware.compute_efficiency * hardware.flops_per_second;
  return {.weights_seconds = layer.parameters * layer.bytes_per_parameter / memory,
          .row_seconds = 2 * layer.parameters / compute,
          .token_seconds = layer.kv_bytes_per_token / memory,
          .launch_seconds = hardware.launch_seconds};
}

void CostModel::SetProfile(uint32_t instance, const ComputeProfile& profile) {
  if (options_.one_profile) return;
  if (instance >= profiles_.size()) profiles_.resize(instance + 1, ComputeProfile{.token_seconds = -1});
  profiles_[instance] = profile;
}

const ComputeProfile& CostModel::profile(uint32_t instance) const {
  const bool own = instance < profiles_.size() && profiles_[instance].token_seconds >= 0;
  return own ? profiles_[instance] : options_.profile;
}

double CostModel::NonAttentionSeconds(uint32_t instance, double batch) const {
  const ComputeProfile& p = profile(instance);
  return std::max(p.row_seconds * batch, p.weights_seconds) + p.launch_seconds;
}

double CostModel::AttentionSeconds(uint32_t instance, double tokens) const {
  if (tokens <= 0) return 0;
  const ComputeProfile& p = profile(instance);
  return p.token_seconds * tokens + p.launch_seconds;
}

double CostModel::RemoteSeconds(const RemotePart& part) const {
  if (part.tokens <= 0) return 0;
  const LinkProfile& link = options_.link;
  const double bytes = (options_.wire.query_bytes + options_.wire.state_bytes) * part.rows;
  const double wire = link.bytes_per_second > 0 ? bytes / link.bytes_per_second : 0;
  return wire + 2 * link.latency_seconds + AttentionSeconds(part.creditor, part.tokens);
}

double CostModel::LayerSeconds(uint32_t instance, double batch, double tokens_here,
                               absl::Span<const RemotePart> remote) const {
  double attention = AttentionSeconds(instance, tokens_here);
  for (const RemotePart& part : remote) attention = std::max(attention, RemoteSeconds(part));
  return NonAttentionSeconds(instance, batch) + attention + (remote.empty() ? 0 : options_.merge_seconds);
}

double CostModel::TokensPerSecond(uint32_t instance, double batch, double tokens_here,
                                  absl::Span<const RemotePart> remote) const {
  if (batch <= 0) return 0;
  const double seconds = options_.layers * LayerSeconds(instance, batch, tokens_here, remote);
  return seconds > 0 ? batch / seconds : 0;
}

double CostModel::KneeBatch(uint32_t instance) const {
  const ComputeProfile& p = profile(instance);
  return p.row_seconds > 0 ? p.weights_seconds / p.row_seconds : std::numeric_limits<double>::infinity();
}

}  // namespace lombard
