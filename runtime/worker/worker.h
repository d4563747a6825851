// One worker of a job: its threads, and the way of every message that reaches it.
//
//   progress thread  owns the transport; sorts messages, sends pings, never computes
//   service thread   answers other ranks' queries and stores the KV they lend us to hold
//                    (distattn/remote_service.h)
//   step thread      rmanager and engine: takes what came, decides, computes, commits
//   manager thread   rank 0 only: gManager
//
// The front door (rank 0) is whoever implements FrontDoor; it is called on the progress thread, unless it
// says otherwise, and must not block.
//
//   ASSIGN_OR_RETURN(auto worker, Worker::Create(options, model, tokenizer, transport, clock, &front_door));
//   worker->Start();
//   absl::Status end = worker->Join();    // after Leave arrived or the job failed; bounded teardown
//
// A worker that is lost costs what it held (fabric/messages/protocol.h). When a worker fails by its own
// mistake, everyone is told (JobFailed). One that loses rank 0 ends alone. Join returns why.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "distattn/announced_exchanges.h"
#include "distattn/gpu_exchanger.h"
#include "distattn/remote_client.h"
#include "distattn/remote_service.h"
#include "fabric/messages/control.pb.h"
#include "fabric/transport.h"
#include "gmanager/gmanager.h"
#include "kvpool/kv_pool.h"
#include "rmanager/rmanager.h"
#include "runtime/engine/compute.h"
#include "runtime/engine/engine.h"
#include "runtime/worker/inbox.h"
#include "runtime/worker/instance.h"
#include "runtime/worker/liveness.h"

namespace lombard {

class FrontDoor {
 public:
  virtual ~FrontDoor() = default;
  virtual void OnTokens(int rank, uint64_t incarnation, const messages::TokenBatch& batch) = 0;
  virtual void OnHandBack(int rank, uint64_t incarnation, const messages::HandBack& back) = 0;
  virtual void OnMembers(const std::vector<Membership::Member>& members) = 0;  // on the manager thread
  // Now and then, on the manager thread. Returns workers that cannot be relied on: they are declared lost.
  virtual std::vector<int> OnTick() = 0;
  // The same: lets processes join. True while somebody is at the door.
  virtual bool OnDoor(GManager* /*gmanager*/, absl::Time /*now*/) { return false; }
  virtual void OnReport(int rank, const messages::WorkerReport& report) = 0;
  virtual void OnJobFailed(const absl::Status& why) = 0;
};

struct WorkerSettings {
  EngineOptions engine;  // block_tokens, batch limits, context limit
  Isa isa = Isa::kBase;
  int threads = 1;  // of the step thread's loops
  int service_threads = 1;
  MakeCompute compute;              // empty: the CPUs, by the three lines above
  std::vector<uint32_t> kv_blocks;  // of every rank, [size]; 0: nobody there yet
  Incarnation incarnation{1};
  uint64_t process = 0;                    // differs from one process of a rank to the next
  double reserve = 0.05, lent_max = 0.80;  // shares of a pool
  double guard = 0.05;                     // share of own steps' time that others' attention may take
  GManagerOptions gmanager;                // rank 0's
  absl::Duration heartbeat = absl::Milliseconds(100);
  absl::Duration dead_after = absl::Seconds(10);      // a silent peer is lost
  absl::Duration reply_deadline = absl::Seconds(60);  // of a query
  bool compact_states = false;                        // over the transport
  absl::Duration gpu_answer_wait = absl::Seconds(1);  // GpuExchanger's
  absl::Duration gpu_hang_wait = absl::Seconds(30);   // the same; a thread that leaves may take twice as long
  std::optional<bool> gpu_direct;                     // KV moves without host memory; unset: where it can
  bool poison = false;                                // NaN into free and lent-away blocks
  std::optional<SharingCost> sharing;                 // replaces the engine's; unset: measured at start
};

// Blocks that one request at home at `rank` can hold in all: the pool there and what the others may lend.
uint32_t ReachableBlocks(const WorkerSettings& settings, int rank);

class Worker final : public TransportHandler {
 public:
  // `model`, `tokenizer`, `transport`, `clock`, `front_door` (rank 0; may be null elsewhere) are not owned
  // and outlive this.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(const WorkerSettings& settings, const Model* model,
                                                        const Tokenizer* tokenizer, Transport* transport,
                                                        const Clock* clock, FrontDoor* front_door);
  ~Worker() override;  // waits for the GPU, for ever if it hangs

  void Start();
  // Blocks until the worker has left. OK: it was told to leave and did in good order.
  absl::Status Join();
  // After Join: its GPU hangs. Nothing that has to do with it can be freed; end the process at once.
  bool hangs() const;
  // Any thread: fails this worker, and with it the job.
  void Fail(const absl::Status& why);
  // Any thread: leave in good order, within `wait`; the second time, at once. Join returns when it is done:
  // OK, or what was not. REQUIRES: not rank 0.
  void Drain(absl::Duration wait);
  // Any thread. Messages of the front door to a worker (SubmitSequence, Drain, Leave).
  absl::Status SendControl(int to, const messages::ControlMessage& message);

  void OnMessage(int from, Message message) override;
  void OnPeerDown(int peer, const absl::Status& why) override;
  void OnPeerUp(int peer) override;

  // After Join, for tests.
  absl::Status CheckInvariants() const;
  const RemoteService& service() const { return *service_; }
  const GpuExchanger* exchanger() const { return exchanger_.get(); }
  const std::string& kv_path() const { return kv_path_; }       // how KV leaves its GPU; empty: it does not
  const SharingCost& sharing() const { return sharing_; }       // by which the engine groups readers
  const GManager* gmanager() const { return gmanager_.get(); }  // rank 0's; null elsewhere
  // Any thread: some rank has been lost, maybe this one. Then nobody must wait for all ranks again
  // (MPI_Finalize).
  bool lost_someone() const { return lost_someone_.load(); }
  // After Join: it left alone, as it drained, has no place any more, or does not reach rank 0.
  bool parted() const { return parted_.load() || drains_asked_.load() > 0; }

 private:
  Worker(const WorkerSettings& settings, Transport* transport, const Clock* clock, FrontDoor* front_door);
  absl::Status UseGpuDirect();
  void SetLeaving();
  void JoinInTime(std::thread& thread, const bool& ended);
  void Abort(const absl::Status& why);
  void PeerGone(int peer, const absl::Status& why);
  void Part(const absl::Status& why);  // leaves alone; the job goes on
  void GoOnDraining(absl::Time now);
  void ProgressLoop();
  void StepLoop();
  StepReport Step(absl::Time now);
  void ManagerLoop();
  void SendOutgoing(std::vector<Outgoing> outgoing);
  void SendReport();
  void HandleControl(int from, messages::ControlMessage message);
  void FollowLosses(const messages::ClusterView& view);

  const WorkerSettings settings_;
  Transport* const transport_;
  const Clock* const clock_;
  FrontDoor* const front_door_;

  SharingCost sharing_;
  std::string kv_path_;
  std::unique_ptr<Compute> compute_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<RManager> rmanager_;
  std::unique_ptr<GpuExchanger> exchanger_;  // null: no GPU that exchanges with others; goes before compute_
  std::unique_ptr<AnnouncedExchanges> exchanges_;
  std::unique_ptr<RemoteClient> client_;
  std::unique_ptr<RemoteService> service_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Instance> instance_;  // drives rmanager_ and engine_
  std::unique_ptr<GManager> gmanager_;
  Liveness liveness_;                  // progress thread only
  std::map<uint32_t, uint64_t> lost_;  // newest incarnation declared lost, by rank; progress thread only

  Inbox step_inbox_, manager_inbox_;
  std::thread progress_thread_, service_thread_, step_thread_, manager_thread_;
  std::atomic<bool> leaving_{false};  // told to, or failed
  std::atomic<bool> lost_someone_{false}, parted_{false};
  std::atomic<int> drains_asked_{0};
  std::atomic<int64_t> drain_wait_us_{0};
  std::atomic<uint64_t> incarnation_;  // instance_'s, for all threads
  std::mutex ended_mutex_;
  std::condition_variable ended_;
  bool service_ended_ = false, step_ended_ = false;  // their threads
  std::mutex failure_mutex_;
  absl::Status failure_;

  // Step thread only.
  messages::WorkerReport report_;
  bool draining_ = false;  // the job ends
  int drains_ = 0;         // told to leave, and done so far
  std::optional<absl::Time> left_since_;
  std::atomic<bool> reported_{false};  // written by the step thread
};

}  // namespace lombard
