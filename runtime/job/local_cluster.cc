#include "runtime/job/local_cluster.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "fabric/loopback_transport.h"

namespace lombard {

Router::Instance RouterInstance(const WorkerSettings& settings, uint32_t kv_blocks) {
  const uint32_t lendable =
      settings.engine.lending ? LendableBlocksMax(kv_blocks, settings.reserve, settings.lent_max) : 0;
  return {.capacity = uint64_t{kv_blocks} * settings.engine.block_tokens,
          .lendable = uint64_t{lendable} * settings.engine.block_tokens};
}

std::vector<Router::Instance> RouterInstances(const WorkerSettings& settings) {
  std::vector<Router::Instance> instances;
  for (const uint32_t blocks : settings.kv_blocks) instances.push_back(RouterInstance(settings, blocks));
  return instances;
}

std::optional<PrefixSpace> CachedPrefixes(const WorkerSettings& settings, const Model& model) {
  const std::vector<int>& windows = model.config().layer_windows;
  const bool forgets = std::none_of(windows.begin(), windows.end(), [](int window) { return window == 0; });
  if (!settings.engine.prefix_cache || forgets) return std::nullopt;
  return PrefixSpace{.model_fingerprint = model.fingerprint(),
                     .kv_format = std::string(DTypeName(model.config().dtype)),
                     .block_tokens = settings.engine.block_tokens};
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Create(const WorkerSettings& settings,
                                                                   const Model* model,
                                                                   const Tokenizer* tokenizer,
                                                                   const Clock* clock) {
  auto cluster = std::unique_ptr<LocalCluster>(new LocalCluster);
  const int size = static_cast<int>(settings.kv_blocks.size());
  cluster->transports_ = MakeLoopbackTransports(size);
  cluster->job_ = std::make_unique<Job>(RouterInstances(settings), clock,
                                        Dispatcher::Options{.prefixes = CachedPrefixes(settings, *model)});
  for (int rank = 0; rank < size; ++rank) {
    ASSIGN_OR_RETURN(auto worker, Worker::Create(settings, model, tokenizer, cluster->transports_[rank].get(),
                                                 clock, rank == 0 ? cluster->job_.get() : nullptr));
    cluster->workers_.push_back(std::move(worker));
  }
  cluster->job_->Attach(cluster->workers_[0].get());
  for (const auto& worker : cluster->workers_) worker->Start();
  return cluster;
}

LocalCluster::~LocalCluster() {
  for (const auto& worker : workers_) worker->Fail(absl::CancelledError("cluster destroyed while running"));
  Join().IgnoreError();
}

absl::Status LocalCluster::Join() {
  absl::Status status;
  for (const auto& worker : workers_) status.Update(worker->Join());
  return status;
}

}  // namespace lombard
