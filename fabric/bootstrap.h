// How the ranks of a job find each other: who they are, and one exchange of bytes before the fabric exists.
// Nothing else: after the exchange all traffic goes over the fabric, because an MPI call towards a dead
// member hangs.
//
//   ASSIGN_OR_RETURN(auto bootstrap, DetectBootstrap(options));
//   ASSIGN_OR_RETURN(auto transport, MakeUcxTransport(*bootstrap, {}));   // fabric/make_transport.h
//   ... the job ...
//   bootstrap->Finish(clean);                                             // then flush and _exit where not
//   clean
//
// All calls on one thread, the one that made the bootstrap (the main thread: MPI wants it).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "fabric/cluster_key.h"
#include "fabric/reception.h"
#include "fabric/tcp_frames.h"

namespace lombard {

struct JobLayout {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // among the ranks of this host, in rank order
  std::string host;
};

class Bootstrap {
 public:
  virtual ~Bootstrap() = default;
  virtual JobLayout layout() const = 0;
  // Collective over all ranks; entry i is what rank i gave. kDeadlineExceeded: somebody did not come in time
  // (who, where it is known); kUnavailable: somebody left. After an error the job is to end.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view mine,
                                                             absl::Duration deadline) = 0;
  // Clean: every rank is here and says so (MPI_Finalize, which hangs otherwise). Not clean: MPI is not
  // touched again; flush and _exit.
  virtual void Finish(bool clean) = 0;
  // Rank 0's port after the start, for those who join later (fabric/join_desk.h); fd() < 0: there is none.
  // Once.
  virtual TcpListener TakeListener() { return {}; }
};
constexpr size_t kBootstrapEntryBytesMax = 1 << 20;

struct BootstrapOptions {
  // --rank, --size and --rendezvous: for launchers that set nothing. Unset: from the environment.
  int rank = -1, size = -1;
  std::string rendezvous;  // host:port of rank 0
  // Jobs that meet at the wrong port do not mix. Slurm's job and step where there are such.
  std::string job;
  absl::Duration deadline = absl::Seconds(60);  // for all ranks to come
  ClusterKey key;                               // needed unless everything is loopback
  std::string bind;                             // where rank 0 listens; empty: where the rendezvous says
  uint32_t protocol = 0;                        // version that all must speak
  // Rank 0's: somebody was turned away, and why. Strangers without a word are not worth one.
  std::function<void(const absl::Status&)> on_refusal;
  bool stays_open = false;  // rank 0 listens even in a job of one rank

  ReceptionRules Rules() const { return {.key = key, .protocol = protocol, .job = job, .place = rendezvous}; }
};

// Rank 0's port. kFailedPrecondition: it can be reached from other hosts, and there is no key. kUnavailable:
// it is taken.
absl::StatusOr<TcpListener> ListenAtRendezvous(const BootstrapOptions& options);

// A job of one rank. Knows no MPI.
std::unique_ptr<Bootstrap> MakeSingleBootstrap();

// For mpirun and srun --mpi=pmix. kUnimplemented: built without MPI.
absl::StatusOr<std::unique_ptr<Bootstrap>> MakeMpiBootstrap();

// For launchers without MPI: the ranks meet at a TCP port of rank 0. Plain TCP rather than a UCX listener:
// the addresses that UCX gives out depend on the layout (all ranks on one host or not), which only the
// meeting tells, and a stray connection can be turned away word by word (fabric/reception.h).
// kInvalidArgument: rank, size or address make no sense, a rank came twice, or the ranks disagree on the
// size; all ranks are told. kDeadlineExceeded: ranks are missing (which). kUnavailable: rank 0 cannot be
// reached, or its port is taken.
absl::StatusOr<std::unique_ptr<Bootstrap>> MakeEnvironmentBootstrap(const BootstrapOptions& options);

// What the process was started by.
enum class Launcher { kNone, kMpi, kEnvironment };
struct LaunchChoice {
  Launcher launcher = Launcher::kNone;
  BootstrapOptions options;  // for kEnvironment, filled in
};
// Flags first, then Open MPI or PMIx, then a Slurm step; else one rank. `env` is getenv, or a test's.
absl::StatusOr<LaunchChoice> ChooseLauncher(const BootstrapOptions& options,
                                            absl::FunctionRef<const char*(const char*)> env);

absl::StatusOr<std::unique_ptr<Bootstrap>> DetectBootstrap(const BootstrapOptions& options);

}  // namespace lombard
