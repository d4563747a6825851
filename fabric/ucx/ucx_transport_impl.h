// The class behind fabric/ucx/ucx_transport.h. Traffic: ucx_transport.cc; connections: ucx_connections.cc.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fabric/idle_yield.h"
#include "fabric/process_watch.h"
#include "fabric/traffic_meter.h"
#include "fabric/ucx/job_address.h"
#include "fabric/ucx/link.h"
#include "fabric/ucx/message_assembler.h"
#include "fabric/ucx/message_cutter.h"
#include "fabric/ucx/ucx_transport.h"
#include "fabric/ucx/ucx_worker.h"

namespace lombard {

// After Close's work is done or given up: time for closing the endpoints themselves.
constexpr absl::Duration kEndpointCloseTime = absl::Milliseconds(200);

class UcxTransportImpl final : public UcxTransport {
 public:
  UcxTransportImpl(const UcxProfile& profile, std::unique_ptr<UcxWorker> worker, std::string address)
      : profile_(profile), worker_(std::move(worker)), address_(std::move(address)) {}
  ~UcxTransportImpl() override;

  absl::Status Listen();
  const std::string& address() const override { return address_; }
  absl::Status Connect(int rank, const std::vector<std::string>& addresses, int size_max) override;
  absl::Status Join(const FabricPlace& place) override;
  uint64_t in_flight_bytes(int peer) const override {
    return peers_[peer]->in_flight_bytes.load(std::memory_order_relaxed);
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  std::string Describe() const override {
    return absl::StrCat("UCX ", ucp_get_version_string(), ", profile ", profile_.ToString(), ", rank ", rank_,
                        " of ", size());
  }
  absl::Status Send(int to, Message message) override;
  absl::Status UseDeviceSlots(std::shared_ptr<DeviceSlots> slots, bool insist) override;
  size_t device_payload_max(int to) const override {
    return to == rank_ ? 0 : device_payload_max_.load(std::memory_order_relaxed);
  }
  void Poll(TransportHandler& handler, absl::Duration wait) override;
  void Wake() override {
    woken_.store(true);
    worker_->Wake();
  }
  TrafficCounters counters() const override { return meter_.Read(); }
  void Close(absl::Duration deadline) override;

 private:
  // A proposed connection (fabric/ucx/link.h).
  struct ConnectWish {
    uint64_t generation;
    uint32_t connection;
    std::string address;
  };
  struct Peer {
    Peer(UcxTransportImpl* transport, int rank_in_job, const UcxProfile& profile)
        : owner(transport),
          rank(rank_in_job),
          cutter(profile.chunk_bytes, profile.window_bytes),
          assembler(profile.window_bytes) {}
    UcxTransportImpl* const owner;
    const int rank;
    std::atomic<uint64_t> queued_bytes{0};     // accepted by Send and not yet handed over by UCX
    std::atomic<uint64_t> in_flight_bytes{0};  // a copy of the cutter's

    // Guarded by mutex_.
    std::deque<std::shared_ptr<OutgoingMessage>> outbox;
    bool gone = true;

    // Guarded by turn_mutex_.
    RankAddress address;
    Link link;
    ucp_ep_h endpoint = nullptr;
    bool endpoint_works = false, endpoint_failed = false;  // a send over it was done; UCX has given it up
    std::optional<ChunkKind> greeting;                     // the note that is to go over it first
    std::optional<ConnectWish> wish;                       // came, and waits for AnswerWishes
    // Of the connection.
    MessageCutter cutter;
    MessageAssembler assembler;
    uint64_t credited_bytes = 0;  // what we told the peer that we have read
    bool owes_goodbye_seen = false;
    bool left = true;           // nobody there, its goodbye was read, or its loss reported
    bool goodbye_seen = false;  // it has read our goodbye
    absl::Status failure;       // of the endpoint or the stream; judged in JudgeFailures
    int failure_turns = 0;
    absl::Time failure_time;
  };
  // An active message that UCX has not completed.
  struct SendOp {
    UcxTransportImpl* owner;
    Peer* peer;
    ucp_ep_h endpoint;
    ChunkHeader header;
    std::string whole_header;  // of a kWhole: `header`, then the message's
    ucp_dt_iov_t parts[2];
    std::shared_ptr<OutgoingMessage> message;
  };
  // A rendezvous chunk on its way in.
  struct ReceiveOp {
    UcxTransportImpl* owner;
    Peer* peer;
    ChunkHeader header;
    Message message;  // of a kWhole all of it; else the chunk's bytes in `payload`
  };
  struct News {
    int from;
    std::optional<Message> message;  // none: the peer is down, or `up`
    absl::Status why;
    bool up = false;
  };

  // Callbacks of UCX; all run inside progress.
  static ucs_status_t OnActiveMessage(void* self, const void* header, size_t header_bytes, void* data,
                                      size_t bytes, const ucp_am_recv_param_t* param);
  static void OnSent(void* request, ucs_status_t status, void* op);
  static void OnRendezvousReceived(void* request, ucs_status_t status, size_t bytes, void* op);
  static void OnEndpointError(void* peer, ucp_ep_h endpoint, ucs_status_t status);

  void MakePeers(int rank, int size);
  absl::Status MakeEndpoint(Peer& peer);
  bool Turn();
  bool SendDirectly();
  bool TakeOutboxes();
  void Pump(Peer& peer);
  void Post(Peer& peer, const ChunkHeader& header, const absl::string_view (&parts)[2],
            std::shared_ptr<OutgoingMessage> message);
  void PostNote(Peer& peer, ChunkKind kind, uint64_t number, absl::string_view bytes = {});
  void Greet(Peer& peer, ChunkKind kind);
  bool SendGreetings();
  bool PostShort(Peer& peer, ChunkKind kind);
  bool MaySend(const Peer& peer) const { return peer.failure.ok() && !peer.greeting.has_value(); }
  bool IsHeard(Peer& peer, const ChunkHeader& header);
  // `whole`: the message of a kWhole, else null.
  void Read(Peer& peer, const ChunkHeader& header, absl::string_view bytes, Message* whole = nullptr);
  ucs_status_t ReceiveByRendezvous(Peer& peer, const ChunkHeader& header, absl::string_view message_header,
                                   void* data, size_t bytes);
  void Spoil(Peer& peer, const absl::Status& why);
  void AnswerReaders();
  void JudgeFailures(bool all_read);
  void AnswerWishes();
  void ProposeConnections();
  void BeUp(Peer& peer);
  void LookForEndedProcesses();
  void Wait(absl::Duration wait);
  void Leave(Peer& peer, const absl::Status& why);
  void CloseEndpoint(Peer& peer);
  void ForceClose(ucp_ep_h endpoint);
  void ReapCloses();
  static void Deliver(std::deque<News>& news, TransportHandler& handler);
  void Fail(Peer& peer, absl::Status why);
  SendOp* NewSendOp();
  void EndSendOp(SendOp* op, ucs_status_t status);

  const UcxProfile profile_;
  std::unique_ptr<UcxWorker> worker_;
  const std::string address_;
  int rank_ = 0;
  uint64_t generation_ = kFirstGeneration;
  uint32_t job_ = 0;
  std::vector<std::unique_ptr<Peer>> peers_;  // [rank_] is there for its queue alone
  TrafficMeter meter_;

  std::atomic<size_t> device_payload_max_{0};

  std::mutex mutex_;
  std::deque<std::shared_ptr<OutgoingMessage>> self_outbox_;
  bool closed_ = false;
  std::atomic<bool> outbox_filled_{false}, woken_{false};

  // Held for every call of UCX, by the progress thread for a turn, by a sender for what it sends itself; never
  // while waiting. Before mutex_. Guards the following.
  std::mutex turn_mutex_;
  std::shared_ptr<DeviceSlots> slots_;  // null: no GPUDirect
  std::deque<News> news_;
  std::vector<void*> closing_;           // requests
  std::vector<ucp_ep_h> failed_before_;  // of processes that another one followed; to be closed
  std::deque<SendOp> send_ops_;
  std::vector<SendOp*> free_send_ops_;
  int ops_under_way_ = 0;
  IdleYield idle_;
  ProcessWatch watch_;
  absl::Time watch_due_ = absl::InfinitePast();
  bool failures_pending_ = false, wishes_pending_ = false, greetings_pending_ = false;
  absl::Time next_attempt_ = absl::InfiniteFuture();
};

}  // namespace lombard
