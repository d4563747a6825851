#include "fabric/ucx/ucx_transport.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status.h"
#include "fabric/idle_yield.h"
#include "fabric/message_checks.h"
#include "fabric/process_watch.h"
#include "fabric/traffic_meter.h"
#include "fabric/ucx/job_address.h"
#include "fabric/ucx/message_assembler.h"
#include "fabric/ucx/message_cutter.h"
#include "fabric/ucx/ucx_worker.h"

namespace lombard {
namespace {

constexpr unsigned kActiveMessageId = 1;
// Progress calls in a row before other duties get their turn.
constexpr int kProgressTurns = 64;
// A lost endpoint is believed after this many turns in which more came in: its goodbye may be among them.
constexpr int kLossTurns = 16;
// How often ended processes are looked for while there is traffic; a waiting thread is told at once.
constexpr absl::Duration kWatchInterval = absl::Milliseconds(5);
// After Close's work is done or given up: time for closing the endpoints themselves.
constexpr absl::Duration kEndpointCloseTime = absl::Milliseconds(200);

class UcxTransportImpl final : public UcxTransport {
 public:
  UcxTransportImpl(const UcxProfile& profile, std::unique_ptr<UcxWorker> worker, std::string address)
      : profile_(profile), worker_(std::move(worker)), address_(std::move(address)) {}
  ~UcxTransportImpl() override;

  absl::Status Listen();
  const std::string& address() const override { return address_; }
  absl::Status Connect(int rank, const std::vector<std::string>& addresses) override;
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
  void Poll(TransportHandler& handler, absl::Duration wait) override;
  void Wake() override {
    woken_.store(true);
    worker_->Wake();
  }
  TrafficCounters counters() const override { return meter_.Read(); }
  void Close(absl::Duration deadline) override;

 private:
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
    bool gone = false;

    // Progress thread.
    ucp_ep_h endpoint = nullptr;
    MessageCutter cutter;
    MessageAssembler assembler;
    uint64_t credited_bytes = 0;  // what we told the peer that we have read
    bool owes_goodbye_seen = false;
    bool left = false;          // its goodbye was read, or its loss reported
    bool goodbye_seen = false;  // it has read our goodbye
    absl::Status failure;       // of the endpoint or the stream; judged in JudgeFailures
    int failure_turns = 0;
  };
  // An active message that UCX has not completed.
  struct SendOp {
    UcxTransportImpl* owner;
    ChunkHeader header;
    ucp_dt_iov_t parts[2];
    std::shared_ptr<OutgoingMessage> message;
  };
  // A rendezvous chunk on its way in.
  struct ReceiveOp {
    UcxTransportImpl* owner;
    Peer* peer;
    ChunkHeader header;
    std::string bytes;
  };
  struct News {
    int from;
    std::optional<Message> message;  // none: the peer is down
    absl::Status why;
  };

  // Callbacks of UCX; all run inside progress.
  static ucs_status_t OnActiveMessage(void* self, const void* header, size_t header_bytes, void* data,
                                      size_t bytes, const ucp_am_recv_param_t* param);
  static void OnSent(void* request, ucs_status_t status, void* op);
  static void OnRendezvousReceived(void* request, ucs_status_t status, size_t bytes, void* op);
  static void OnEndpointError(void* peer, ucp_ep_h endpoint, ucs_status_t status);

  bool Turn();
  bool TakeOutboxes();
  void Pump(Peer& peer);
  void Post(Peer& peer, const ChunkHeader& header, const absl::string_view (&parts)[2],
            std::shared_ptr<OutgoingMessage> message);
  void PostNote(Peer& peer, ChunkKind kind, uint64_t number);
  void Read(Peer& peer, const ChunkHeader& header, absl::string_view bytes);
  void AnswerReaders();
  void JudgeFailures(bool all_read);
  void LookForEndedProcesses();
  void Wait(absl::Duration wait);
  void Leave(Peer& peer, const absl::Status& why);
  void CloseEndpoint(Peer& peer);
  void ReapCloses();
  bool Deliver(TransportHandler& handler);
  void Fail(Peer& peer, absl::Status why);
  SendOp* NewSendOp();
  void FreeSendOp(SendOp* op);

  const UcxProfile profile_;
  std::unique_ptr<UcxWorker> worker_;
  const std::string address_;
  int rank_ = 0;
  uint32_t job_ = 0;
  std::vector<std::unique_ptr<Peer>> peers_;  // [rank_] is there for its queue alone
  TrafficMeter meter_;

  std::mutex mutex_;
  std::deque<std::shared_ptr<OutgoingMessage>> self_outbox_;
  bool closed_ = false;
  std::atomic<bool> outbox_filled_{false}, woken_{false};

  // Progress thread.
  std::deque<News> news_;
  std::vector<void*> closing_;  // requests
  std::deque<SendOp> send_ops_;
  std::vector<SendOp*> free_send_ops_;
  int ops_under_way_ = 0;
  IdleYield idle_;
  ProcessWatch watch_;
  absl::Time watch_due_ = absl::InfinitePast();
  bool failures_pending_ = false;
};

absl::Status UcxTransportImpl::Listen() {
  ucp_am_handler_param_t param{};
  param.field_mask =
      UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = kActiveMessageId;
  param.cb = OnActiveMessage;
  param.arg = this;
  return UcxError(ucp_worker_set_am_recv_handler(worker_->get(), &param), "setting the UCX receive handler");
}

absl::Status UcxTransportImpl::Connect(int rank, const std::vector<std::string>& addresses) {
  CHECK(peers_.empty());
  CHECK(rank >= 0 && rank < static_cast<int>(addresses.size()));
  ASSIGN_OR_RETURN(const std::vector<RankAddress> ranks, ReadJobAddresses(rank, addresses));
  rank_ = rank;
  job_ = JobFingerprint(addresses);
  for (int i = 0; i < static_cast<int>(addresses.size()); ++i)
    peers_.push_back(std::make_unique<Peer>(this, i, profile_));
  for (auto& peer : peers_) {
    if (peer->rank == rank_) continue;
    ucp_ep_params_t param{};
    param.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                       UCP_EP_PARAM_FIELD_ERR_HANDLER;
    param.address = reinterpret_cast<const ucp_address_t*>(ranks[peer->rank].worker.data());
    param.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    param.err_handler.cb = OnEndpointError;
    param.err_handler.arg = peer.get();
    RETURN_IF_ERROR(Annotate(UcxError(ucp_ep_create(worker_->get(), &param, &peer->endpoint),
                                      absl::StrCat("connecting to rank ", peer->rank)),
                             absl::StrCat("profile ", profile_.ToString())));
    watch_.Add(peer->rank, ranks[peer->rank].process);
  }
  return absl::OkStatus();
}

UcxTransportImpl::~UcxTransportImpl() {
  const absl::Time deadline = absl::Now() + kEndpointCloseTime;
  for (auto& peer : peers_) CloseEndpoint(*peer);
  while ((!closing_.empty() || ops_under_way_ > 0) && absl::Now() < deadline) {
    if (!worker_->Progress()) sched_yield();
    ReapCloses();
  }
  worker_.reset();  // before the members that its last callbacks may touch
}

absl::Status UcxTransportImpl::Send(int to, Message message) {
  RETURN_IF_ERROR(CheckSend(message, to, size()));
  AlignPayload(message.payload);
  Peer& peer = *peers_[to];
  const uint64_t bytes = MessageBytes(message);
  auto outgoing = std::make_shared<OutgoingMessage>(std::move(message), &peer.queued_bytes);
  const uint64_t queued = peer.queued_bytes.fetch_add(
      bytes, std::memory_order_relaxed);  // the message takes it back when it ends
  RETURN_IF_ERROR(CheckQueue(outgoing->message, to, queued));
  {
    std::lock_guard lock(mutex_);
    if (closed_) return ClosedError();
    if (peer.gone) return PeerGoneError(to);
    (to == rank_ ? self_outbox_ : peer.outbox).push_back(std::move(outgoing));
  }
  outbox_filled_.store(true);
  worker_->Wake();
  return absl::OkStatus();
}

void UcxTransportImpl::Poll(TransportHandler& handler, absl::Duration wait) {
  if (closed_) return;  // written by this thread only
  absl::Time deadline = absl::InfiniteFuture();
  idle_.Reset();
  while (true) {
    const bool moved = Turn();
    if (Deliver(handler) || woken_.exchange(false) || wait <= absl::ZeroDuration()) return;
    const absl::Time now = absl::Now();
    if (deadline == absl::InfiniteFuture()) deadline = now + wait;
    if (now >= deadline) return;
    if (moved || failures_pending_) {  // what moved may allow more, a credit for example
      idle_.Reset();
    } else if (!idle_.Again()) {
      Wait(deadline - now);
    }
  }
}

// Everything there is to do now, without waiting. False when there was nothing.
bool UcxTransportImpl::Turn() {
  LookForEndedProcesses();  // before reading, so that their last words are read before they are judged
  bool moved = TakeOutboxes();
  for (auto& peer : peers_) Pump(*peer);
  bool all_read = false;
  for (int i = 0; i < kProgressTurns && !all_read; ++i) {
    all_read = !worker_->Progress();
    moved = moved || !all_read;
  }
  AnswerReaders();
  JudgeFailures(all_read);
  ReapCloses();
  return moved;
}

bool UcxTransportImpl::TakeOutboxes() {
  if (!outbox_filled_.load(std::memory_order_relaxed) || !outbox_filled_.exchange(false)) return false;
  std::lock_guard lock(mutex_);
  for (auto& peer : peers_) {
    for (auto& message : peer->outbox) peer->cutter.Push(std::move(message));
    peer->outbox.clear();
  }
  for (auto& message : self_outbox_) {
    OutgoingMessage& own = *message;
    own.queued->fetch_sub(MessageBytes(own.message), std::memory_order_relaxed);
    news_.push_back({rank_, std::move(own.message), absl::OkStatus()});
    own.message = {};  // nothing left to give back
  }
  self_outbox_.clear();
  return true;
}

void UcxTransportImpl::Pump(Peer& peer) {
  if (peer.endpoint == nullptr || peer.cutter.idle() || !peer.failure.ok()) return;
  while (std::optional<MessageCutter::Chunk> chunk = peer.cutter.Next()) {
    if (chunk->header.kind == ChunkKind::kFirst) meter_.AddMessage();
    meter_.AddPayload(chunk->header.channel, chunk->parts[1].size());
    meter_.AddFraming(chunk->parts[0].size());
    Post(peer, chunk->header, chunk->parts, std::move(chunk->message));
  }
  peer.in_flight_bytes.store(peer.cutter.in_flight_bytes(), std::memory_order_relaxed);
}

void UcxTransportImpl::Post(Peer& peer, const ChunkHeader& header, const absl::string_view (&parts)[2],
                            std::shared_ptr<OutgoingMessage> message) {
  meter_.AddFraming(kChunkHeaderBytes);
  SendOp* op = NewSendOp();
  op->header = header;
  op->header.job = job_;
  op->header.from = static_cast<uint32_t>(rank_);
  op->message = std::move(message);
  int count = 0;
  for (const absl::string_view part : parts) {
    if (!part.empty()) op->parts[count++] = {const_cast<char*>(part.data()), part.size()};
  }
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = profile_.eager_only ? UCP_AM_SEND_FLAG_EAGER : 0;
  param.cb.send = OnSent;
  param.user_data = op;
  const void* buffer = count == 0 ? nullptr : op->parts[0].buffer;
  size_t length = count == 0 ? 0 : op->parts[0].length;
  if (count == 2) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    param.datatype = ucp_dt_make_iov();
    buffer = op->parts;
    length = 2;
  }
  ++ops_under_way_;
  const ucs_status_ptr_t request = ucp_am_send_nbx(peer.endpoint, kActiveMessageId, &op->header,
                                                   kChunkHeaderBytes, buffer, length, &param);
  if (UCS_PTR_IS_PTR(request)) return;
  FreeSendOp(op);
  if (UCS_PTR_IS_ERR(request))
    Fail(peer, UcxError(UCS_PTR_STATUS(request), absl::StrCat("sending to rank ", peer.rank)));
}

void UcxTransportImpl::PostNote(Peer& peer, ChunkKind kind, uint64_t number) {
  ChunkHeader header;
  header.kind = kind;
  header.number = number;
  Post(peer, header, {}, nullptr);
}

void UcxTransportImpl::OnSent(void* request, ucs_status_t,
                              void* op) {  // a failed send also fails the endpoint
  ucp_request_free(request);
  static_cast<SendOp*>(op)->owner->FreeSendOp(static_cast<SendOp*>(op));
}

ucs_status_t UcxTransportImpl::OnActiveMessage(void* self, const void* header_bytes, size_t header_length,
                                               void* data, size_t bytes, const ucp_am_recv_param_t* param) {
  auto& transport = *static_cast<UcxTransportImpl*>(self);
  const auto header = ReadChunkHeader({static_cast<const char*>(header_bytes), header_length});
  // What is not of this job is none of ours.
  if (!header.ok() || header->job != transport.job_ || header->from >= transport.peers_.size()) return UCS_OK;
  Peer& peer = *transport.peers_[header->from];
  if (peer.left || peer.rank == transport.rank_ || !IsNumbered(header->kind) ||
      !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
    transport.Read(peer, *header, {static_cast<const char*>(data), bytes});
    return UCS_OK;
  }
  auto* op = new ReceiveOp{&transport, &peer, *header, std::string(bytes, '\0')};
  ucp_request_param_t receive{};
  receive.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  receive.cb.recv_am = OnRendezvousReceived;
  receive.user_data = op;
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(transport.worker_->get(), data, op->bytes.data(), bytes, &receive);
  if (!UCS_PTR_IS_PTR(request)) OnRendezvousReceived(nullptr, UCS_PTR_RAW_STATUS(request), bytes, op);
  return UCS_INPROGRESS;
}

void UcxTransportImpl::OnRendezvousReceived(void* request, ucs_status_t status, size_t, void* op_pointer) {
  if (request != nullptr) ucp_request_free(request);
  const std::unique_ptr<ReceiveOp> op(static_cast<ReceiveOp*>(op_pointer));
  if (status == UCS_OK) {
    op->owner->Read(*op->peer, op->header, op->bytes);
  } else {
    op->owner->Fail(*op->peer, UcxError(status, absl::StrCat("receiving from rank ", op->peer->rank)));
  }
}

void UcxTransportImpl::Read(Peer& peer, const ChunkHeader& header, absl::string_view bytes) {
  // Behind a failed endpoint the goodbye may still come, so only a broken stream is not read on.
  if (peer.left || peer.rank == rank_ || absl::IsDataLoss(peer.failure)) return;
  absl::Status status;
  if (header.kind == ChunkKind::kCredit) {
    status = peer.cutter.Credit(header.number);
    peer.in_flight_bytes.store(peer.cutter.in_flight_bytes(), std::memory_order_relaxed);
  } else if (header.kind == ChunkKind::kGoodbyeSeen) {
    peer.goodbye_seen = true;
  } else {
    status = peer.assembler.Add(header, bytes, [&](std::optional<Message> message) {
      if (message.has_value()) {
        news_.push_back({peer.rank, std::move(message), absl::OkStatus()});
      } else {
        peer.owes_goodbye_seen = true;
        Leave(peer, absl::OkStatus());
      }
    });
  }
  if (!status.ok()) {
    peer.failure =
        Annotate(status, absl::StrCat("from rank ", peer.rank));  // worse than what an endpoint may have said
    failures_pending_ = true;
  }
}

void UcxTransportImpl::Fail(Peer& peer, absl::Status why) {
  if (!peer.failure.ok()) return;
  peer.failure = std::move(why);
  failures_pending_ = true;
}

// Credits and the answer to a goodbye.
void UcxTransportImpl::AnswerReaders() {
  for (auto& peer : peers_) {
    if (peer->endpoint == nullptr || !peer->failure.ok()) continue;
    const uint64_t read_bytes = peer->assembler.read_bytes();
    // Four credits per window: few notes, and the sender never runs dry while we read.
    if (!peer->left && read_bytes - peer->credited_bytes >= profile_.window_bytes / 4) {
      peer->credited_bytes = read_bytes;
      PostNote(*peer, ChunkKind::kCredit, read_bytes);
    }
    if (peer->owes_goodbye_seen) {
      peer->owes_goodbye_seen = false;
      PostNote(*peer, ChunkKind::kGoodbyeSeen, 0);
    }
  }
}

void UcxTransportImpl::OnEndpointError(void* peer_pointer, ucp_ep_h, ucs_status_t status) {
  Peer& peer = *static_cast<Peer*>(peer_pointer);
  peer.owner->Fail(peer, UcxError(status, absl::StrCat("connection to rank ", peer.rank)));
}

void UcxTransportImpl::LookForEndedProcesses() {
  const absl::Time now = absl::Now();
  if (now < watch_due_) return;
  watch_due_ = now + kWatchInterval;
  for (const int rank : watch_.Ended()) {
    Fail(*peers_[rank], absl::UnavailableError(absl::StrCat("the process of rank ", rank, " has ended")));
  }
}

void UcxTransportImpl::Wait(absl::Duration wait) {
  worker_->Wait(wait, watch_.fd(), [this] { return outbox_filled_.load() || woken_.load(); });
  watch_due_ = absl::InfinitePast();
}

void UcxTransportImpl::JudgeFailures(bool all_read) {
  if (!failures_pending_) return;
  bool undecided = false;
  for (auto& peer : peers_) {
    if (peer->failure.ok() || peer->endpoint == nullptr) continue;
    if (!all_read && ++peer->failure_turns < kLossTurns) {
      undecided = true;
      continue;
    }
    CloseEndpoint(*peer);
    if (!peer->left) Leave(*peer, peer->failure);
  }
  if (!undecided) failures_pending_ = false;
}

// From here on the peer gets and gives nothing more. OK: it said goodbye.
void UcxTransportImpl::Leave(Peer& peer, const absl::Status& why) {
  peer.left = true;
  peer.cutter.Clear();
  std::deque<std::shared_ptr<OutgoingMessage>> dropped;
  {
    std::lock_guard lock(mutex_);
    peer.gone = true;
    dropped.swap(peer.outbox);
  }
  news_.push_back({peer.rank, std::nullopt, why});
}

void UcxTransportImpl::CloseEndpoint(Peer& peer) {
  if (peer.endpoint == nullptr) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(std::exchange(peer.endpoint, nullptr), &param);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
}

void UcxTransportImpl::ReapCloses() {
  std::erase_if(closing_, [](void* request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
}

bool UcxTransportImpl::Deliver(TransportHandler& handler) {
  if (news_.empty()) return false;
  std::deque<News> news;
  news.swap(news_);
  for (News& item : news) {
    if (item.message.has_value()) {
      handler.OnMessage(item.from, std::move(*item.message));
    } else {
      handler.OnPeerDown(item.from, item.why);
    }
  }
  return true;
}

void UcxTransportImpl::Close(absl::Duration wait) {
  const absl::Time deadline = absl::Now() + wait;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
  }
  TakeOutboxes();
  for (auto& peer : peers_) {
    if (peer->rank != rank_ && !peer->left) peer->cutter.PushGoodbye();
  }
  const auto all_done = [this] {
    return std::all_of(peers_.begin(), peers_.end(), [this](const auto& peer) {
      return peer->rank == rank_ || peer->left || peer->goodbye_seen;
    });
  };
  idle_.Reset();
  while (!all_done() && absl::Now() < deadline) {
    const bool moved = Turn();
    news_.clear();  // nobody listens any more
    if (moved || failures_pending_) {
      idle_.Reset();
    } else if (!idle_.Again()) {
      Wait(deadline - absl::Now());
    }
  }
  const absl::Time last = std::min(deadline, absl::Now() + kEndpointCloseTime);
  do {  // the answers to goodbyes leave
    Turn();
    news_.clear();
  } while (ops_under_way_ > 0 && all_done() && absl::Now() < last);
  for (auto& peer : peers_) CloseEndpoint(*peer);
}

UcxTransportImpl::SendOp* UcxTransportImpl::NewSendOp() {
  if (free_send_ops_.empty()) {
    send_ops_.push_back({this, {}, {}, nullptr});
    return &send_ops_.back();
  }
  SendOp* op = free_send_ops_.back();
  free_send_ops_.pop_back();
  return op;
}

void UcxTransportImpl::FreeSendOp(SendOp* op) {
  op->message.reset();
  free_send_ops_.push_back(op);
  --ops_under_way_;
}

}  // namespace

absl::StatusOr<std::unique_ptr<UcxTransport>> UcxTransport::Create(const UcxProfile& profile) {
  ASSIGN_OR_RETURN(std::unique_ptr<UcxWorker> worker, UcxWorker::Create(profile));
  ASSIGN_OR_RETURN(const std::string worker_address, worker->Address());
  auto transport =
      std::make_unique<UcxTransportImpl>(profile, std::move(worker), MakeJobAddress(profile, worker_address));
  RETURN_IF_ERROR(transport->Listen());
  return transport;
}

}  // namespace lombard
