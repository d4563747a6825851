#include "runtime/cli/generate.h"

#include <unistd.h>

#include <memory>

#include "absl/strings/escaping.h"
#include "base/status.h"
#include "fabric/bootstrap.h"
#include "fabric/host_name.h"
#include "fabric/make_transport.h"
#include "fabric/messages/protocol.h"
#include "runtime/cli/batch_run.h"
#include "runtime/cli/door.h"
#include "runtime/cli/job_setup.h"
#include "runtime/cli/joiner.h"
#include "runtime/cli/process_exit.h"
#include "runtime/cli/rank_start.h"
#include "runtime/cli/termination.h"
#include "runtime/job/local_cluster.h"

namespace lombard {
namespace {

void SayHowKvMoves(const Worker& worker) {
  if (!worker.kv_path().empty()) fprintf(stderr, "%s\n", worker.kv_path().c_str());
}

absl::Status RunInProcess(const GenerateOptions& options, Termination* termination) {
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
  SayHowKvMoves(cluster->worker(0));
  termination->set_handler([&] { cluster->job().Interrupt(); });
  const absl::Status batch =
      RunBatch(options, *loaded.tokenizer, loaded.model->config().vocab_size, files, cluster->job());
  termination->reset();
  if (!batch.ok() && !absl::IsCancelled(batch)) return batch;
  const absl::Status left = cluster->Join();
  return batch.ok() ? left : batch;
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

// Rank 0's port after the start; none when the job has no rendezvous.
absl::StatusOr<TcpListener> OpenDoor(Bootstrap& bootstrap, const BootstrapOptions& where) {
  TcpListener listener = bootstrap.TakeListener();
  if (listener.fd() >= 0 || where.rendezvous.empty()) return listener;
  return ListenAtRendezvous(where);
}

struct RankRun {
  const GenerateOptions& options;
  const std::string& version;
  const BootstrapOptions& where;
  Termination* termination;
  // Of its end.
  bool others_know = false;   // why it failed
  bool someone_lost = false;  // nobody may wait for all ranks again
  bool parted = false;        // this rank left alone
};

absl::Status RunRank(Bootstrap& bootstrap, RankRun* run) {
  const GenerateOptions& options = run->options;
  const std::string& version = run->version;
  const JobLayout layout = bootstrap.layout();
  const int size_max = std::max(layout.size, static_cast<int>(options.worker.size_max));
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
  hello.set_host_key(HostKey());
  hello.set_size_max(static_cast<uint32_t>(size_max));
  TcpListener listener;
  if (place.rank == 0) {
    auto opened = OpenDoor(bootstrap, run->where);
    if (!opened.ok()) hello.set_error(std::string(opened.status().message()));
    if (opened.ok()) listener = *std::move(opened);
    hello.set_only_this_host(listener.fd() < 0 || listener.loopback());
  }
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
  settings.kv_blocks.resize(static_cast<size_t>(size_max), 0);
  settings.gmanager.instances = size_max;
  settings.gmanager.expected = place.size;
  settings.gmanager.kv_blocks = settings.kv_blocks;
  settings.process = hello.start_time_us() ^ (hello.pid() << 40);

  ASSIGN_OR_RETURN(const Fabric fabric,
                   MakeUcxTransport(bootstrap, {.profile = options.worker.ucx_profile,
                                                .deadline = options.worker.start_timeout,
                                                .size_max = size_max,
                                                .only_this_host = hellos[0].only_this_host()}));
  Transport* const transport = fabric.transport.get();
  if (options.worker.verbose && place.rank == 0)
    fprintf(stderr, "transport: %s\n", transport->Describe().c_str());
  const MonotonicClock clock;
  Job job(RouterInstances(settings), &clock,
          {.recovery_wait = options.worker.recovery_wait,
           .prefixes = CachedPrefixes(settings, *loaded.model),
           .size_of = [&settings](uint32_t blocks) { return RouterInstance(settings, blocks); }});
  std::optional<Door> door;
  if (listener.fd() >= 0) {
    door.emplace(JoinDesk::Options{.rules = run->where.Rules(),
                                   .single_host = hello.only_this_host() && layout.local_size == layout.size,
                                   .request_wait = options.worker.start_timeout,
                                   .host_keys = {},
                                   .on_refusal = run->where.on_refusal},
                 std::move(listener), hellos, fabric, size_max, &job);
    job.set_door([&door](GManager* gmanager, absl::Time now) { return door->Turn(gmanager, now); });
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Worker> worker,
                   Worker::Create(settings, loaded.model.get(), loaded.tokenizer.get(), transport, &clock,
                                  place.rank == 0 ? &job : nullptr));
  if (options.worker.verbose && place.rank == 0 && settings.engine.prefix_cache)
    fprintf(stderr, "shared prefixes: %s\n", worker->sharing().ToString().c_str());
  if (place.rank == 0) SayHowKvMoves(*worker);
  run->others_know = true;  // from here on a failure is announced
  job.Attach(worker.get());
  worker->Start();
  run->termination->set_handler([&] {
    if (place.rank == 0) {
      job.Interrupt();
    } else {
      worker->Drain(options.worker.drain_wait);
    }
  });
  absl::Status batch;
  if (place.rank == 0) {
    batch = RunBatch(options, *loaded.tokenizer, loaded.model->config().vocab_size, files, job);
    if (!batch.ok() && !absl::IsCancelled(batch)) worker->Fail(batch);
  }
  absl::Status left = worker->Join();
  run->termination->reset();
  run->someone_lost = worker->lost_someone();
  run->parted = worker->parted();
  if (place.rank == 0 && batch.ok()) RecordLostRanks(job.ever_lost_ranks());
  if (run->parted) left = Annotate(left, absl::StrCat("rank ", place.rank));
  if (worker->hangs())
    ExitAtOnce(batch.ok() ? left : batch, place.rank == 0 || run->parted, /*launched=*/true);
  return batch.ok() ? left : batch;
}

}  // namespace

RunOutcome RunGenerate(const GenerateOptions& options, const std::string& version) {
  Termination termination;
  if (options.worker.in_process > 0) return {.status = RunInProcess(options, &termination)};
  BootstrapOptions where{
      .rank = options.worker.rank.has_value() ? static_cast<int>(*options.worker.rank) : -1,
      .size = options.worker.size.has_value() ? static_cast<int>(*options.worker.size) : -1,
      .rendezvous = options.worker.rendezvous,
      .job = {},
      .deadline = options.worker.start_timeout,
      .key = {},
      .bind = options.worker.bind,
      .protocol = kProtocolVersion,
      .on_refusal =
          [](const absl::Status& why) {
            std::fprintf(stderr, "lombard: refused: %s\n", absl::CHexEscape(why.message()).c_str());
          },
      .stays_open = true};
  if (!options.worker.cluster_key_file.empty()) {
    absl::StatusOr<ClusterKey> key = ClusterKey::Load(options.worker.cluster_key_file);
    if (!key.ok()) return {.status = key.status()};
    where.key = *std::move(key);
  }
  if (options.worker.join) {
    // Others go on whatever becomes of this process, so nothing is to be finished.
    return {.status = RunJoiner(options.worker, version, where, &termination),
            .must_exit_hard = true,
            .launched = false};
  }
  // What the launcher says is for the door too.
  if (const auto choice = ChooseLauncher(where, [](const char* name) -> const char* { return getenv(name); });
      choice.ok()) {
    where = choice->options;
  }
  absl::StatusOr<std::unique_ptr<Bootstrap>> bootstrap = DetectBootstrap(where);
  if (!bootstrap.ok()) return {.status = bootstrap.status()};
  RankRun run{.options = options, .version = version, .where = where, .termination = &termination};
  RunOutcome outcome{.status = RunRank(**bootstrap, &run)};
  const JobLayout layout = (*bootstrap)->layout();
  outcome.speaks = layout.rank == 0 || run.parted;
  // A hello that says why ends the job for everyone alike, in good order.
  const bool all_agree = absl::IsFailedPrecondition(outcome.status) && !run.others_know;
  const bool in_order = outcome.status.ok() || absl::IsCancelled(outcome.status);
  outcome.must_exit_hard = (run.someone_lost || run.parted || !in_order) && !all_agree && layout.size > 1;
  (*bootstrap)->Finish(!outcome.must_exit_hard);
  return outcome;
}

}  // namespace lombard
