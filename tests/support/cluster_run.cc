#include "tests/support/cluster_run.h"

#include "base/status.h"

namespace lombard {

SamplingParams Greedy(uint32_t max_tokens) {
  SamplingParams sampling;
  sampling.max_tokens = max_tokens;
  sampling.ignore_eos = true;
  sampling.logprobs = 0;
  return sampling;
}

WorkerSettings TestSettings(const Model& model, std::vector<uint32_t> kv_blocks, uint32_t block_tokens) {
  WorkerSettings settings;
  settings.kv_blocks = std::move(kv_blocks);
  settings.engine.block_tokens = block_tokens;
  settings.engine.max_model_len = static_cast<uint32_t>(model.config().max_position_embeddings);
  settings.isa = DetectIsa();
  settings.reserve = 0;
  settings.lent_max = 1;
  settings.poison = true;
  settings.gmanager.instances = static_cast<int>(settings.kv_blocks.size());
  settings.heartbeat = absl::Milliseconds(20);
  settings.dead_after = absl::Seconds(60);  // sanitizers and busy machines
  return settings;
}

absl::StatusOr<ClusterRun> RunOnCluster(const WorkerSettings& settings, const Model& model,
                                        const Tokenizer& tokenizer,
                                        const std::vector<TestSequence>& sequences) {
  const MonotonicClock clock;
  ASSIGN_OR_RETURN(auto cluster, LocalCluster::Create(settings, &model, &tokenizer, &clock));
  ClusterRun run;
  run.results.resize(sequences.size());
  size_t submitted = 0;
  for (int wave = 0; submitted < sequences.size(); ++wave) {
    std::map<uint64_t, size_t> index;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const TestSequence& s = sequences[i];
      if (s.wave != wave) continue;
      ASSIGN_OR_RETURN(const uint64_t number,
                       cluster->job().Submit(s.prompt, s.sampling, 0, s.cache_salt, s.home));
      index[number] = i;
    }
    submitted += index.size();
    for (size_t missing = index.size(); missing > 0;) {
      ASSIGN_OR_RETURN(std::vector<SequenceResult> done, cluster->job().Wait(absl::Seconds(1)));
      for (SequenceResult& result : done) run.results[index.at(result.number)] = std::move(result), --missing;
    }
  }
  ASSIGN_OR_RETURN(run.reports, cluster->job().End(absl::Hours(1)));
  RETURN_IF_ERROR(cluster->Join());
  run.manager = cluster->worker(0).gmanager()->counters();
  for (size_t rank = 0; rank < settings.kv_blocks.size(); ++rank) {
    run.invariants.Update(cluster->worker(static_cast<int>(rank)).CheckInvariants());
    run.services.push_back(cluster->worker(static_cast<int>(rank)).service().counters());
    const GpuExchanger* exchanger = cluster->worker(static_cast<int>(rank)).exchanger();
    run.exchanges.push_back(exchanger != nullptr ? exchanger->counters() : GpuExchanger::Counters{});
  }
  return run;
}

std::string TestPath(absl::string_view below_root) {
  return std::string(below_root);
}  // tests run in the source root

}  // namespace lombard
