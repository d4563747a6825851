#include "runtime/cli/generate.h"

#include <unistd.h>

#include <chrono>
#include <memory>

#include "base/status.h"
#include "fabric/bootstrap.h"
#include "fabric/make_transport.h"
#include "runtime/cli/batch_run.h"
#include "runtime/cli/device_choice.h"
#include "runtime/cli/gpu_start.h"
#include "runtime/cli/job_setup.h"
#include "runtime/cli/process_exit.h"
#include "runtime/job/local_cluster.h"
#include "runtime/model/dummy_model.h"

namespace lombard {
namespace {

struct Loaded {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
};

absl::StatusOr<Loaded> LoadModelAndTokenizer(const WorkerOptions& options) {
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.model, options.dummy_weights ? MakeDummyModel(options.model_dir)
                                                       : Model::Load(options.model_dir));
  ASSIGN_OR_RETURN(loaded.tokenizer, Tokenizer::Load(options.model_dir));
  return loaded;
}

// Puts this process's ranks where they compute. *kv_bytes: what a GPU has for each; 0: they stay on the CPUs.
absl::Status PlaceOnDevice(const WorkerOptions& options, const ClusterConfig& cluster, const RankPlace& place,
                           const Model& model, WorkerSettings* settings, uint64_t* kv_bytes) {
  ASSIGN_OR_RETURN(DeviceChoice choice, ChooseDevice(options, cluster, place, FindGpus()));
  if (options.in_process > 0) choice.sharers = 1;  // one process
  if (!choice.remark.empty() && place.rank == 0) fprintf(stderr, "%s\n", choice.remark.c_str());
  if (!choice.gpu.has_value() && options.dummy_weights) {
    return absl::FailedPreconditionError(
        "--load-format dummy makes weights on a GPU: use it with --device cuda, or `lombard model create`");
  }
  if (!choice.gpu.has_value()) return absl::OkStatus();
  return StartOnGpu(options, choice, model, options.verbose || place.rank == 0, settings, kv_bytes);
}

absl::Status RunInProcess(const GenerateOptions& options) {
  const int size = static_cast<int>(options.worker.in_process);
  const RankPlace place{.rank = 0, .size = size, .local_rank = 0, .local_size = size};
  ASSIGN_OR_RETURN(const ClusterConfig cluster_file, ResolveCluster(options.worker, place.size));
  ASSIGN_OR_RETURN(const Loaded loaded, LoadModelAndTokenizer(options.worker));
  ASSIGN_OR_RETURN(BatchFiles files, OpenBatchFiles(options));
  ASSIGN_OR_RETURN(WorkerSettings settings,
                   ResolveSettings(options.worker, cluster_file, loaded.model->config(), place));
  uint64_t gpu_kv_bytes = 0;
  RETURN_IF_ERROR(
      PlaceOnDevice(options.worker, cluster_file, place, *loaded.model, &settings, &gpu_kv_bytes));
  for (int rank = 0; rank < place.size; ++rank) {
    ASSIGN_OR_RETURN(
        const uint32_t blocks,
        ResolveKvBlocks(options.worker, cluster_file, loaded.model->config(), place, rank, gpu_kv_bytes));
    settings.kv_blocks.push_back(blocks);
  }
  const MonotonicClock clock;
  ASSIGN_OR_RETURN(auto cluster,
                   LocalCluster::Create(settings, loaded.model.get(), loaded.tokenizer.get(), &clock));
  if (options.worker.verbose && settings.engine.prefix_cache)
    fprintf(stderr, "shared prefixes: %s\n", cluster->worker(0).sharing().ToString().c_str());
  RETURN_IF_ERROR(
      RunBatch(options, *loaded.tokenizer, loaded.model->config().vocab_size, files, cluster->job()));
  return cluster->Join();
}

// Everyone's hello, after a failure here too: the others must not wait for us.
absl::StatusOr<std::vector<messages::Hello>> Meet(Bootstrap& bootstrap, const messages::Hello& mine,
                                                  absl::Duration deadline) {
  std::string bytes;
  mine.SerializeToString(&bytes);
  ASSIGN_OR_RETURN(const std::vector<std::string> all, bootstrap.AllGather(bytes, deadline));
  std::vector<messages::Hello> hellos(all.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!hellos[rank].ParseFromString(all[rank]))
      return absl::DataLossError(absl::StrCat("rank ", rank, " sent a malformed hello"));
  }
  RETURN_IF_ERROR(CheckHellos(hellos));
  return hellos;
}

absl::Status RunRank(const GenerateOptions& options, const std::string& version, Bootstrap& bootstrap,
                     bool* others_know, bool* someone_lost) {
  const JobLayout layout = bootstrap.layout();
  const RankPlace place{.rank = layout.rank,
                        .size = layout.size,
                        .local_rank = layout.local_rank,
                        .local_size = layout.local_size};
  messages::Hello hello;
  hello.set_host(layout.host);
  hello.set_pid(static_cast<uint64_t>(getpid()));
  hello.set_start_time_us(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
  hello.set_version(version);
  hello.set_block_tokens(options.worker.block_tokens);
  RETURN_IF_ERROR(Meet(bootstrap, hello, options.worker.start_timeout)
                      .status());  // who is there, before weights are loaded

  Loaded loaded;
  BatchFiles files;
  WorkerSettings settings;
  const auto prepare = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const ClusterConfig cluster, ResolveCluster(options.worker, place.size));
    ASSIGN_OR_RETURN(loaded, LoadModelAndTokenizer(options.worker));
    ASSIGN_OR_RETURN(settings, ResolveSettings(options.worker, cluster, loaded.model->config(), place));
    uint64_t gpu_kv_bytes = 0;
    RETURN_IF_ERROR(PlaceOnDevice(options.worker, cluster, place, *loaded.model, &settings, &gpu_kv_bytes));
    ASSIGN_OR_RETURN(const uint32_t blocks, ResolveKvBlocks(options.worker, cluster, loaded.model->config(),
                                                            place, place.rank, gpu_kv_bytes));
    hello.set_kv_blocks(blocks);
    hello.set_model_fingerprint(loaded.model->fingerprint());
    hello.set_kv_dtype(static_cast<uint32_t>(loaded.model->config().dtype));
    if (place.rank == 0) {
      ASSIGN_OR_RETURN(files, OpenBatchFiles(options));
    }
    return absl::OkStatus();
  };
  const absl::Status prepared = prepare();
  if (!prepared.ok()) hello.set_error(std::string(prepared.message()));
  ASSIGN_OR_RETURN(const std::vector<messages::Hello> hellos,
                   Meet(bootstrap, hello, options.worker.start_timeout));
  for (const messages::Hello& h : hellos) settings.kv_blocks.push_back(h.kv_blocks());
  settings.process = hello.start_time_us() ^ (hello.pid() << 40);

  ASSIGN_OR_RETURN(const Fabric fabric,
                   MakeUcxTransport(bootstrap, {.profile = options.worker.ucx_profile,
                                                .deadline = options.worker.start_timeout}));
  Transport* const transport = fabric.transport.get();
  if (options.worker.verbose && place.rank == 0)
    fprintf(stderr, "transport: %s\n", transport->Describe().c_str());
  const MonotonicClock clock;
  Job job(
      RouterInstances(settings), &clock,
      {.recovery_wait = options.worker.recovery_wait, .prefixes = CachedPrefixes(settings, *loaded.model)});
  ASSIGN_OR_RETURN(const std::unique_ptr<Worker> worker,
                   Worker::Create(settings, loaded.model.get(), loaded.tokenizer.get(), transport, &clock,
                                  place.rank == 0 ? &job : nullptr));
  if (options.worker.verbose && place.rank == 0 && settings.engine.prefix_cache)
    fprintf(stderr, "shared prefixes: %s\n", worker->sharing().ToString().c_str());
  *others_know = true;  // from here on a failure is announced
  job.Attach(worker.get());
  worker->Start();
  absl::Status batch;
  if (place.rank == 0) {
    batch = RunBatch(options, *loaded.tokenizer, loaded.model->config().vocab_size, files, job);
    if (!batch.ok()) worker->Fail(batch);
  }
  absl::Status left = worker->Join();
  *someone_lost = worker->lost_someone();
  if (place.rank == 0 && batch.ok()) RecordLostRanks(job.lost_ranks());
  return batch.ok() ? left : batch;
}

}  // namespace

RunOutcome RunGenerate(const GenerateOptions& options, const std::string& version) {
  if (options.worker.in_process > 0) return {.status = RunInProcess(options)};
  const BootstrapOptions where{
      .rank = options.worker.rank.has_value() ? static_cast<int>(*options.worker.rank) : -1,
      .size = options.worker.size.has_value() ? static_cast<int>(*options.worker.size) : -1,
      .rendezvous = options.worker.rendezvous,
      .job = {},
      .deadline = options.worker.start_timeout};
  absl::StatusOr<std::unique_ptr<Bootstrap>> bootstrap = DetectBootstrap(where);
  if (!bootstrap.ok()) return {.status = bootstrap.status()};
  bool others_know = false, someone_lost = false;
  RunOutcome outcome{.status = RunRank(options, version, **bootstrap, &others_know, &someone_lost)};
  const JobLayout layout = (*bootstrap)->layout();
  outcome.speaks = layout.rank == 0;
  // A hello that says why ends the job for everyone alike, in good order.
  const bool all_agree = absl::IsFailedPrecondition(outcome.status) && !others_know;
  outcome.must_exit_hard = (someone_lost || !outcome.status.ok()) && !all_agree && layout.size > 1;
  (*bootstrap)->Finish(!outcome.must_exit_hard);
  return outcome;
}

}  // namespace lombard
