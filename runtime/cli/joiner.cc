#include "runtime/cli/joiner.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "fabric/host_name.h"
#include "fabric/join_desk.h"
#include "fabric/make_transport.h"
#include "fabric/messages/control.pb.h"
#include "runtime/cli/job_setup.h"
#include "runtime/cli/process_exit.h"
#include "runtime/cli/rank_start.h"
#include "runtime/worker/worker.h"

namespace lombard {

absl::Status RunJoiner(const WorkerOptions& options, const std::string& version,
                       const BootstrapOptions& where, Termination* termination) {
  const absl::Time deadline = absl::Now() + options.start_timeout;
  ASSIGN_OR_RETURN(JobEntry entry, JobEntry::Enter(where.Rules(), deadline));

  const bool named = options.rank.has_value();
  const int lists = static_cast<int>(std::max(options.kv.tokens.size(), options.kv.bytes.size()));
  const RankPlace place{.rank = named ? static_cast<int>(*options.rank) : static_cast<int>(kRanksMax) - 1,
                        .size = named ? lists : 1,  // which value of a list is ours, only a --rank says
                        .local_rank = entry.ranks_here(),
                        .local_size = entry.ranks_here() + 1};
  ASSIGN_OR_RETURN(const ClusterConfig cluster, ResolveCluster(options, /*size=*/0));
  ASSIGN_OR_RETURN(const Loaded loaded, LoadModelAndTokenizer(options));
  const Model* const model = loaded.model.get();
  ASSIGN_OR_RETURN(WorkerSettings settings, ResolveSettings(options, cluster, model->config(), place));
  uint64_t gpu_kv_bytes = 0;
  RETURN_IF_ERROR(PlaceOnDevice(options, cluster, place, *model, &settings, &gpu_kv_bytes));
  ASSIGN_OR_RETURN(const uint32_t blocks,
                   ResolveKvBlocks(options, cluster, model->config(), place, place.rank, gpu_kv_bytes));
  ASSIGN_OR_RETURN(const auto fabric, MakeJoiningFabric(options.ucx_profile, entry.single_host()));

  messages::JoinRequest request;
  messages::Hello& hello = *request.mutable_hello();
  hello.set_host(HostName());
  hello.set_pid(static_cast<uint64_t>(getpid()));
  hello.set_start_time_us(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
  hello.set_version(version);
  hello.set_block_tokens(options.block_tokens);
  hello.set_kv_blocks(blocks);
  hello.set_model_fingerprint(model->fingerprint());
  hello.set_kv_dtype(static_cast<uint32_t>(model->config().dtype));
  if (named) request.set_rank(*options.rank);
  settings.process = hello.start_time_us() ^ (hello.pid() << 40);
  request.set_process(settings.process);
  request.set_address(fabric->address());
  ASSIGN_OR_RETURN(const std::string reply, entry.Ask(request.SerializeAsString(), deadline));
  messages::Welcome welcome;
  if (!welcome.ParseFromString(reply) || welcome.rank() >= welcome.kv_blocks_size() ||
      welcome.incarnation() == 0)
    return absl::DataLossError("rank 0 sent a reply that makes no sense: not the same build?");

  const int rank = static_cast<int>(welcome.rank());
  std::fprintf(stderr, "lombard: joins the job at %s as rank %d\n", where.rendezvous.c_str(), rank);
  settings.incarnation = Incarnation{welcome.incarnation()};
  settings.kv_blocks.assign(welcome.kv_blocks().begin(), welcome.kv_blocks().end());
  settings.kv_blocks[rank] = blocks;
  FabricPlace in_fabric{.rank = rank,
                        .size_max = welcome.kv_blocks_size(),
                        .generation = welcome.incarnation(),
                        .job = welcome.job(),
                        .members = {}};
  for (const messages::Welcome::Member& member : welcome.members())
    in_fabric.members.push_back({static_cast<int>(member.rank()), member.generation(), member.address()});
  ASSIGN_OR_RETURN(const std::unique_ptr<Transport> transport, fabric->Join(in_fabric));
  const MonotonicClock clock;
  ASSIGN_OR_RETURN(const std::unique_ptr<Worker> worker,
                   Worker::Create(settings, model, loaded.tokenizer.get(), transport.get(), &clock, nullptr));
  worker->Start();
  termination->set_handler([&] { worker->Drain(options.drain_wait); });
  const absl::Status end = worker->Join();
  termination->reset();
  if (worker->hangs())
    ExitAtOnce(Annotate(end, absl::StrCat("rank ", rank)), /*speaks=*/true, /*launched=*/false);
  return Annotate(end, absl::StrCat("rank ", rank));
}

}  // namespace lombard
