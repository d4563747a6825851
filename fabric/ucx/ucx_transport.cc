#include "fabric/ucx/ucx_transport.h"

#include <sched.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/status.h"
#include "fabric/message_checks.h"
#include "fabric/ucx/gpu_direct.h"
#include "fabric/ucx/ucx_transport_impl.h"

namespace lombard {
namespace {

constexpr unsigned kActiveMessageId = 1;
// Progress calls in a row before other duties get their turn.
constexpr int kProgressTurns = 64;
// Between two looks whether a new endpoint is connected.
constexpr absl::Duration kGreetingInterval = absl::Milliseconds(2);
// What a sender hands to UCX itself; copying more would take its time.
constexpr uint64_t kDirectBytesMax = 64 << 10;

ucs_memory_type_t MemoryType(const DeviceSlots& slots) {
  return slots.on_host() ? UCS_MEMORY_TYPE_HOST : UCS_MEMORY_TYPE_CUDA;
}

}  // namespace

absl::Status UcxTransportImpl::Listen() {
  ucp_am_handler_param_t param{};
  param.field_mask =
      UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = kActiveMessageId;
  param.cb = OnActiveMessage;
  param.arg = this;
  return UcxError(ucp_worker_set_am_recv_handler(worker_->get(), &param), "setting the UCX receive handler");
}

UcxTransportImpl::~UcxTransportImpl() {
  const absl::Time deadline = absl::Now() + kEndpointCloseTime;
  const std::lock_guard turn(turn_mutex_);
  for (auto& peer : peers_) CloseEndpoint(*peer);
  while ((!closing_.empty() || ops_under_way_ > 0) && absl::Now() < deadline) {
    if (!worker_->Progress()) sched_yield();
    ReapCloses();
  }
  worker_.reset();  // before the members that its last callbacks may touch
}

absl::Status UcxTransportImpl::Send(int to, Message message) {
  RETURN_IF_ERROR(CheckSend(message, to, size(), device_payload_max(to)));
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
  if (to == rank_ || bytes > kDirectBytesMax || !SendDirectly()) worker_->Wake();
  return absl::OkStatus();
}

absl::Status UcxTransportImpl::UseDeviceSlots(std::shared_ptr<DeviceSlots> slots, bool insist) {
  if (profile_.eager_only) {
    return absl::FailedPreconditionError(absl::StrCat(
        "UCX profile ", profile_.name, " has no rendezvous, by which UCX moves a GPU's memory as it lies"));
  }
  if (!slots->on_host()) {
    const UcxHost host = InspectUcxHost(/*single_host=*/false);
    RETURN_IF_ERROR(CheckGpuDirect(
        {.ucx_version = ucp_get_version_string(),
         .ucx_moves_cuda = worker_->MovesCudaMemory(),
         .ucx_knows_dma_buf = std::pair(host.version_major, host.version_minor) >= std::pair(1, 14),
         .gpu_gives_dma_buf = slots->dma_buf(),
         .has_peer_memory_module = HasPeerMemoryModule()},
        insist));
  }
  const std::lock_guard turn(turn_mutex_);
  CHECK(slots_ == nullptr) << "once";
  slots_ = std::move(slots);
  device_payload_max_.store(std::min(slots_->slot_bytes(), profile_.chunk_bytes), std::memory_order_relaxed);
  return absl::OkStatus();
}

// Everything that waits, also what other senders have left, without the detour over the progress thread.
// False: there is something left for that thread.
bool UcxTransportImpl::SendDirectly() {
  const std::unique_lock turn(turn_mutex_, std::try_to_lock);
  if (!turn.owns_lock()) return false;
  TakeOutboxes();
  bool all_sent = true;
  for (auto& peer : peers_) {
    Pump(*peer);
    all_sent = all_sent && peer->cutter.idle();
  }
  return all_sent && ops_under_way_ == 0 && news_.empty() && !failures_pending_;
}

void UcxTransportImpl::Poll(TransportHandler& handler, absl::Duration wait) {
  if (closed_) return;  // written by this thread only
  absl::Time deadline = absl::InfiniteFuture();
  idle_.Reset();
  while (true) {
    std::deque<News> news;
    bool moved;
    {
      const std::lock_guard turn(turn_mutex_);
      moved = Turn() || failures_pending_;
      news.swap(news_);
    }
    Deliver(news, handler);
    if (!news.empty() || woken_.exchange(false) || wait <= absl::ZeroDuration()) return;
    const absl::Time now = absl::Now();
    if (deadline == absl::InfiniteFuture()) deadline = now + wait;
    if (now >= deadline) return;
    if (moved) {  // what moved may allow more, a credit for example
      idle_.Reset();
    } else if (!idle_.Again()) {
      Wait(deadline - now);
    }
  }
}

// Everything there is to do now, without waiting. False when there was nothing.
bool UcxTransportImpl::Turn() {
  if (slots_ != nullptr) slots_->MakeCurrent();
  LookForEndedProcesses();  // before reading, so that their last words are read before they are judged
  bool moved = TakeOutboxes();
  moved = SendGreetings() || moved;
  for (auto& peer : peers_) Pump(*peer);
  bool all_read = false;
  for (int i = 0; i < kProgressTurns && !all_read; ++i) {
    all_read = !worker_->Progress();
    moved = moved || !all_read;
  }
  AnswerReaders();
  JudgeFailures(all_read);
  AnswerWishes();
  ProposeConnections();
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
    news_.push_back({.from = rank_, .message = std::move(own.message), .why = absl::OkStatus()});
    own.message = {};  // nothing left to give back
  }
  self_outbox_.clear();
  return true;
}

void UcxTransportImpl::Pump(Peer& peer) {
  if (peer.endpoint == nullptr || !MaySend(peer) || peer.cutter.idle()) return;
  while (std::optional<MessageCutter::Chunk> chunk = peer.cutter.Next()) {
    const ChunkKind kind = chunk->header.kind;
    if (kind == ChunkKind::kFirst || kind == ChunkKind::kWhole) meter_.AddMessage();
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
  op->peer = &peer;
  op->endpoint = peer.endpoint;
  op->header = header;
  op->header.job = job_;
  op->header.from = static_cast<uint32_t>(rank_);
  op->header.connection = peer.link.connection();
  op->message = std::move(message);
  const bool whole = header.kind == ChunkKind::kWhole;  // then the first part goes with the header
  if (whole) {
    op->whole_header.assign(reinterpret_cast<const char*>(&op->header), kChunkHeaderBytes);
    op->whole_header.append(parts[0].data(), parts[0].size());
  }
  int count = 0;
  for (const absl::string_view part : absl::MakeConstSpan(parts).subspan(whole ? 1 : 0)) {
    if (!part.empty()) op->parts[count++] = {const_cast<char*>(part.data()), part.size()};
  }
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = profile_.eager_only ? UCP_AM_SEND_FLAG_EAGER : 0;
  param.cb.send = OnSent;
  param.user_data = op;
  if (whole) {
    slots_->MakeCurrent();
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.memory_type = MemoryType(*slots_);
    param.flags = UCP_AM_SEND_FLAG_RNDV;
  }
  const void* buffer = count == 0 ? nullptr : op->parts[0].buffer;
  size_t length = count == 0 ? 0 : op->parts[0].length;
  if (count == 2) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    param.datatype = ucp_dt_make_iov();
    buffer = op->parts;
    length = 2;
  }
  ++ops_under_way_;
  const void* const wire_header = whole ? op->whole_header.data() : static_cast<const void*>(&op->header);
  const size_t wire_header_bytes = whole ? op->whole_header.size() : kChunkHeaderBytes;
  const ucs_status_ptr_t request = ucp_am_send_nbx(peer.endpoint, kActiveMessageId, wire_header,
                                                   wire_header_bytes, buffer, length, &param);
  if (UCS_PTR_IS_PTR(request)) return;
  EndSendOp(op, UCS_PTR_RAW_STATUS(request));
  if (!UCS_PTR_IS_ERR(request)) return;
  peer.endpoint_failed = true;
  Fail(peer, UcxError(UCS_PTR_STATUS(request), absl::StrCat("sending to rank ", peer.rank)));
}

// A greeting over an endpoint that is connected. False: it is not yet, or has failed.
bool UcxTransportImpl::PostShort(Peer& peer, ChunkKind kind) {
  ChunkHeader header;
  header.kind = kind;
  header.number = kind == ChunkKind::kConnect ? generation_ : 0;
  header.job = job_;
  header.from = static_cast<uint32_t>(rank_);
  header.connection = peer.link.connection();
  const absl::string_view bytes = kind == ChunkKind::kConnect ? absl::string_view(address_) : "";
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FLAG_FORCE_IMM_CMPL;
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  const ucs_status_ptr_t status = ucp_am_send_nbx(peer.endpoint, kActiveMessageId, &header, kChunkHeaderBytes,
                                                  bytes.data(), bytes.size(), &param);
  CHECK(!UCS_PTR_IS_PTR(status));  // there is nothing to wait for
  if (UCS_PTR_RAW_STATUS(status) == UCS_OK) {
    meter_.AddFraming(kChunkHeaderBytes + bytes.size());
    return true;
  }
  if (UCS_PTR_RAW_STATUS(status) == UCS_ERR_NO_RESOURCE) return false;
  peer.endpoint_failed = true;
  Fail(peer, UcxError(UCS_PTR_RAW_STATUS(status), absl::StrCat("sending to rank ", peer.rank)));
  return false;
}

// `bytes` outlive the transport's endpoints.
void UcxTransportImpl::PostNote(Peer& peer, ChunkKind kind, uint64_t number, absl::string_view bytes) {
  ChunkHeader header;
  header.kind = kind;
  header.number = number;
  Post(peer, header, {bytes, {}}, nullptr);
}

// A failed send also fails the endpoint.
void UcxTransportImpl::OnSent(void* request, ucs_status_t status, void* op) {
  ucp_request_free(request);
  static_cast<SendOp*>(op)->owner->EndSendOp(static_cast<SendOp*>(op), status);
}

ucs_status_t UcxTransportImpl::OnActiveMessage(void* self, const void* header_bytes, size_t header_length,
                                               void* data, size_t bytes, const ucp_am_recv_param_t* param) {
  auto& transport = *static_cast<UcxTransportImpl*>(self);
  const auto header = ReadChunkHeader({static_cast<const char*>(header_bytes), header_length});
  // What is not of this job is none of ours.
  if (!header.ok() || header->job != transport.job_ || header->from >= transport.peers_.size()) return UCS_OK;
  Peer& peer = *transport.peers_[header->from];
  const bool whole = !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
  if (header->kind == ChunkKind::kConnect && whole && peer.rank != transport.rank_) {
    peer.wish = {header->number, header->connection, std::string(static_cast<const char*>(data), bytes)};
    transport.wishes_pending_ = true;
    return UCS_OK;
  }
  const absl::string_view message_header(static_cast<const char*>(header_bytes) + kChunkHeaderBytes,
                                         header_length - kChunkHeaderBytes);
  if (IsNumbered(header->kind) && !whole && transport.IsHeard(peer, *header)) {
    return transport.ReceiveByRendezvous(peer, *header, message_header, data, bytes);
  }
  const absl::string_view all(static_cast<const char*>(data), whole ? bytes : 0);
  if (header->kind == ChunkKind::kWhole) {
    Message message{header->channel, std::string(message_header), std::string(all), {}};
    transport.Read(peer, *header, {}, &message);
  } else {
    transport.Read(peer, *header, all);
  }
  return UCS_OK;
}

ucs_status_t UcxTransportImpl::ReceiveByRendezvous(Peer& peer, const ChunkHeader& header,
                                                   absl::string_view message_header, void* data,
                                                   size_t bytes) {
  if (bytes > profile_.window_bytes) {
    Spoil(peer, absl::DataLossError(absl::StrCat("a chunk of ", bytes, " bytes, which no window allows")));
    return UCS_OK;
  }
  auto* op = new ReceiveOp{this, &peer, header, {header.channel, std::string(message_header), {}, {}}};
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = OnRendezvousReceived;
  param.user_data = op;
  void* to;
  if (header.kind == ChunkKind::kWhole && slots_ != nullptr) op->message.device_payload = slots_->Take(bytes);
  if (op->message.device_payload) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.memory_type = MemoryType(*slots_);
    to = op->message.device_payload.data.get();
  } else {
    op->message.payload.resize(bytes);
    to = op->message.payload.data();
  }
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker_->get(), data, to, bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) OnRendezvousReceived(nullptr, UCS_PTR_RAW_STATUS(request), bytes, op);
  return UCS_INPROGRESS;
}

void UcxTransportImpl::OnRendezvousReceived(void* request, ucs_status_t status, size_t, void* op_pointer) {
  if (request != nullptr) ucp_request_free(request);
  const std::unique_ptr<ReceiveOp> op(static_cast<ReceiveOp*>(op_pointer));
  if (status != UCS_OK) {
    op->owner->Fail(*op->peer, UcxError(status, absl::StrCat("receiving from rank ", op->peer->rank)));
  } else if (op->header.kind == ChunkKind::kWhole) {
    op->owner->Read(*op->peer, op->header, {}, &op->message);
  } else {
    op->owner->Read(*op->peer, op->header, op->message.payload);
  }
}

// Of the connection that stands, or that it confirms. Behind a failed endpoint the goodbye may still come, so
// only a broken stream is not read on.
bool UcxTransportImpl::IsHeard(Peer& peer, const ChunkHeader& header) {
  if (peer.rank == rank_ || absl::IsDataLoss(peer.failure)) return false;
  const bool was_up = peer.link.up();
  if (!peer.link.Hears(header.connection)) return false;
  if (!was_up) BeUp(peer);
  return !peer.left || header.kind == ChunkKind::kGoodbyeSeen;
}

void UcxTransportImpl::Read(Peer& peer, const ChunkHeader& header, absl::string_view bytes, Message* whole) {
  if (!IsHeard(peer, header)) return;
  absl::Status status;
  if (header.kind == ChunkKind::kCredit) {
    status = peer.cutter.Credit(header.number);
    peer.in_flight_bytes.store(peer.cutter.in_flight_bytes(), std::memory_order_relaxed);
  } else if (header.kind == ChunkKind::kGoodbyeSeen) {
    peer.goodbye_seen = true;
  } else if (IsNumbered(header.kind)) {
    const auto deliver = [&](std::optional<Message> message) {
      if (message.has_value()) {
        news_.push_back({.from = peer.rank, .message = std::move(message), .why = absl::OkStatus()});
      } else {
        peer.owes_goodbye_seen = true;
        Leave(peer, absl::OkStatus());
      }
    };
    status = whole == nullptr ? peer.assembler.Add(header, bytes, deliver)
                              : peer.assembler.AddWhole(header, std::move(*whole), deliver);
  }
  if (!status.ok()) Spoil(peer, status);
}

// The stream makes no sense: worse than what an endpoint may have said.
void UcxTransportImpl::Spoil(Peer& peer, const absl::Status& why) {
  peer.failure = Annotate(why, absl::StrCat("from rank ", peer.rank));
  failures_pending_ = true;
}

// Credits and the answer to a goodbye.
void UcxTransportImpl::AnswerReaders() {
  for (auto& peer : peers_) {
    if (peer->endpoint == nullptr || !MaySend(*peer)) continue;
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

void UcxTransportImpl::Wait(absl::Duration wait) {
  absl::Duration until_attempt = std::max(next_attempt_ - absl::Now(), absl::ZeroDuration());
  if (greetings_pending_) until_attempt = std::min(until_attempt, kGreetingInterval);
  worker_->Wait(std::min(wait, until_attempt), watch_.fd(), turn_mutex_,
                [this] { return outbox_filled_.load() || woken_.load(); });
  watch_due_ = absl::InfinitePast();
}

void UcxTransportImpl::Deliver(std::deque<News>& news, TransportHandler& handler) {
  for (News& item : news) {
    if (item.message.has_value()) {
      handler.OnMessage(item.from, std::move(*item.message));
    } else if (item.up) {
      handler.OnPeerUp(item.from);
    } else {
      handler.OnPeerDown(item.from, item.why);
    }
  }
}

UcxTransportImpl::SendOp* UcxTransportImpl::NewSendOp() {
  if (free_send_ops_.empty()) {
    send_ops_.push_back({.owner = this});
    return &send_ops_.back();
  }
  SendOp* op = free_send_ops_.back();
  free_send_ops_.pop_back();
  return op;
}

void UcxTransportImpl::EndSendOp(SendOp* op, ucs_status_t status) {
  if (status == UCS_OK && op->endpoint == op->peer->endpoint) op->peer->endpoint_works = true;
  op->message.reset();
  free_send_ops_.push_back(op);
  --ops_under_way_;
}

absl::StatusOr<std::unique_ptr<UcxTransport>> UcxTransport::Create(const UcxProfile& profile) {
  ASSIGN_OR_RETURN(std::unique_ptr<UcxWorker> worker, UcxWorker::Create(profile));
  ASSIGN_OR_RETURN(const std::string worker_address, worker->Address());
  auto transport =
      std::make_unique<UcxTransportImpl>(profile, std::move(worker), MakeJobAddress(profile, worker_address));
  RETURN_IF_ERROR(transport->Listen());
  return transport;
}

}  // namespace lombard
