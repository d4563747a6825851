// Connections of UcxTransport: made, failed, made again, ended.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status.h"
#include "fabric/ucx/ucx_transport_impl.h"

namespace lombard {
namespace {

// A lost endpoint is believed after this many turns in which more came in: its goodbye may be among them.
constexpr int kLossTurns = 16;
// How often ended processes are looked for while there is traffic; a waiting thread is told at once.
constexpr absl::Duration kWatchInterval = absl::Milliseconds(5);
// A connection to a process of this host that broke: time for the kernel to say that the process has ended.
constexpr absl::Duration kEndedTime = absl::Milliseconds(20);

}  // namespace

void UcxTransportImpl::MakePeers(int rank, int size) {
  CHECK(peers_.empty());
  CHECK(rank >= 0 && rank < size);
  rank_ = rank;
  for (int i = 0; i < size; ++i) peers_.push_back(std::make_unique<Peer>(this, i, profile_));
  peers_[rank]->gone = false;
}

absl::Status UcxTransportImpl::Connect(int rank, const std::vector<std::string>& addresses, int size_max) {
  const int size = static_cast<int>(addresses.size());
  MakePeers(rank, std::max(size, size_max));
  ASSIGN_OR_RETURN(const std::vector<RankAddress> ranks, ReadJobAddresses(rank, addresses));
  job_ = JobFingerprint(addresses);
  for (int i = 0; i < size; ++i) {
    if (i == rank_) continue;
    Peer& peer = *peers_[i];
    peer.address = ranks[i];
    RETURN_IF_ERROR(MakeEndpoint(peer));
    peer.link.Start(kFirstGeneration);
    Greet(peer, ChunkKind::kConnected);
    peer.left = peer.gone = false;
  }
  return absl::OkStatus();
}

absl::Status UcxTransportImpl::Join(const FabricPlace& place) {
  MakePeers(place.rank, place.size_max);
  generation_ = place.generation;
  job_ = place.job;
  for (const FabricPlace::Member& member : place.members) {
    if (member.rank == rank_) continue;
    if (member.rank < 0 || member.rank >= place.size_max) {
      return absl::InvalidArgumentError(
          absl::StrCat("a member of rank ", member.rank, " in a job of at most ", place.size_max));
    }
    Peer& peer = *peers_[member.rank];
    ASSIGN_OR_RETURN(peer.address, ReadJobAddress(member.rank, member.address, rank_, address_));
    peer.link.Introduce(member.generation, generation_, absl::Now());
  }
  next_attempt_ = absl::InfinitePast();
  return absl::OkStatus();
}

absl::Status UcxTransportImpl::MakeEndpoint(Peer& peer) {
  ucp_ep_params_t param{};
  param.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                     UCP_EP_PARAM_FIELD_ERR_HANDLER;
  param.address = reinterpret_cast<const ucp_address_t*>(peer.address.worker.data());
  param.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  param.err_handler.cb = OnEndpointError;
  param.err_handler.arg = &peer;
  RETURN_IF_ERROR(Annotate(UcxError(ucp_ep_create(worker_->get(), &param, &peer.endpoint),
                                    absl::StrCat("connecting to rank ", peer.rank)),
                           absl::StrCat("profile ", profile_.ToString())));
  peer.endpoint_works = peer.endpoint_failed = false;
  peer.greeting.reset();
  watch_.Add(peer.rank, peer.address.process);
  return absl::OkStatus();
}

void UcxTransportImpl::Fail(Peer& peer, absl::Status why) {
  if (!peer.failure.ok()) return;
  peer.failure = std::move(why);
  peer.failure_time = absl::Now();
  failures_pending_ = true;
}

void UcxTransportImpl::OnEndpointError(void* peer_pointer, ucp_ep_h endpoint, ucs_status_t status) {
  Peer& peer = *static_cast<Peer*>(peer_pointer);
  if (endpoint != peer.endpoint) {  // an earlier one
    peer.owner->failed_before_.push_back(endpoint);
    return;
  }
  peer.endpoint_failed = true;
  peer.owner->Fail(peer, UcxError(status, absl::StrCat("connection to rank ", peer.rank)));
}

void UcxTransportImpl::LookForEndedProcesses() {
  const absl::Time now = absl::Now();
  if (now < watch_due_) return;
  watch_due_ = now + kWatchInterval;
  for (const int rank : watch_.Ended()) {
    Peer& peer = *peers_[rank];
    if (peer.link.state() == Link::State::kNone) continue;
    if (!absl::IsDataLoss(peer.failure)) peer.failure = absl::OkStatus();  // now it is known why
    Fail(peer, absl::NotFoundError(absl::StrCat("the process of rank ", rank, " has ended")));
  }
}

void UcxTransportImpl::JudgeFailures(bool all_read) {
  if (!failures_pending_) return;
  const absl::Time now = absl::Now();
  bool undecided = false;
  for (auto& peer : peers_) {
    if (peer->failure.ok()) continue;
    const bool may_have_ended = !peer->left && absl::IsUnavailable(peer->failure) &&
                                watch_.Watches(peer->rank) && now - peer->failure_time < kEndedTime;
    if ((!all_read && ++peer->failure_turns < kLossTurns) || may_have_ended) {
      undecided = true;
      continue;
    }
    const absl::Status why = std::exchange(peer->failure, absl::OkStatus());
    peer->failure_turns = 0;
    CloseEndpoint(*peer);
    if (absl::IsNotFound(why)) peer->link.Ended();
    peer->link.Broke(now);
    next_attempt_ = absl::InfinitePast();
    if (!peer->left) Leave(*peer, why);
  }
  if (!undecided) failures_pending_ = false;
}

// Proposals of others. Apart from the callback that brought them, in which no endpoint is to be made or
// ended.
void UcxTransportImpl::AnswerWishes() {
  if (!std::exchange(wishes_pending_, false)) return;
  for (auto& peer : peers_) {
    const std::optional<ConnectWish> wish = std::exchange(peer->wish, std::nullopt);
    if (!wish.has_value() || closed_) continue;
    absl::StatusOr<RankAddress> address = ReadJobAddress(peer->rank, wish->address, rank_, address_);
    if (!address.ok()) continue;
    const bool same = wish->generation == peer->link.generation();
    switch (peer->link.OnConnect(wish->generation, wish->connection)) {
      case Link::Answer::kNothing:
        continue;
      case Link::Answer::kAgain:
        break;
      case Link::Answer::kMeet:
        BeUp(*peer);
        break;
      case Link::Answer::kAccept:
        if (!same || peer->endpoint_works) CloseEndpoint(*peer);  // one that is connecting serves
        if (!peer->left) {
          Leave(*peer, absl::UnavailableError(absl::StrCat(
                           same ? "its side of the connection broke: rank " : "another process is now rank ",
                           peer->rank)));
        }
        peer->address = *std::move(address);
        if (peer->endpoint == nullptr && !MakeEndpoint(*peer).ok()) {
          peer->link.Broke(absl::Now());
          next_attempt_ = absl::InfinitePast();
          continue;
        }
        BeUp(*peer);
    }
    if (peer->endpoint != nullptr) Greet(*peer, ChunkKind::kConnected);
  }
}

void UcxTransportImpl::ProposeConnections() {
  if (next_attempt_ == absl::InfiniteFuture() || closed_) return;
  const absl::Time now = absl::Now();
  if (now < next_attempt_) return;
  next_attempt_ = absl::InfiniteFuture();
  for (auto& peer : peers_) {
    if (peer->link.next_attempt() <= now) {
      peer->link.Attempt(now);
      if (peer->endpoint != nullptr || MakeEndpoint(*peer).ok()) {
        Greet(*peer, ChunkKind::kConnect);
      } else {
        peer->link.Broke(now);
      }
    }
    next_attempt_ = std::min(next_attempt_, peer->link.next_attempt());
  }
}

// kConnect or kConnected. UCX 1.13 as Debian builds it aborts when a process dies while UCX's own messages
// about an endpoint wait for the connection below. So nothing goes over a new endpoint before a short note,
// which waits for nothing, has found it connected.
void UcxTransportImpl::Greet(Peer& peer, ChunkKind kind) {
  if (peer.endpoint_works || !profile_.eager_only) {
    if (kind == ChunkKind::kConnect) PostNote(peer, kind, generation_, address_);
    if (kind == ChunkKind::kConnected) PostNote(peer, kind, 0);
    return;
  }
  peer.greeting = kind;
  greetings_pending_ = true;
}

// True when one was sent.
bool UcxTransportImpl::SendGreetings() {
  if (!std::exchange(greetings_pending_, false)) return false;
  bool sent = false;
  for (auto& peer : peers_) {
    if (!peer->greeting.has_value()) continue;
    if (peer->endpoint == nullptr || !peer->failure.ok()) {
      peer->greeting.reset();
    } else if (PostShort(*peer, *peer->greeting)) {
      peer->greeting.reset();
      peer->endpoint_works = sent = true;
    } else {
      greetings_pending_ = true;
    }
  }
  return sent;
}

// With nothing of what was before. Only notes it: it may be called inside progress.
void UcxTransportImpl::BeUp(Peer& peer) {
  peer.cutter = MessageCutter(profile_.chunk_bytes, profile_.window_bytes);
  peer.assembler = MessageAssembler(profile_.window_bytes);
  peer.in_flight_bytes.store(0, std::memory_order_relaxed);
  peer.credited_bytes = 0;
  peer.owes_goodbye_seen = peer.goodbye_seen = peer.left = false;
  peer.failure = absl::OkStatus();
  peer.failure_turns = 0;
  {
    std::lock_guard lock(mutex_);
    peer.gone = false;
  }
  news_.push_back({.from = peer.rank, .message = std::nullopt, .why = absl::OkStatus(), .up = true});
}

// From here on the peer gets and gives nothing more. OK: it said goodbye.
void UcxTransportImpl::Leave(Peer& peer, const absl::Status& why) {
  if (why.ok()) peer.link.Ended();
  peer.left = true;
  peer.cutter.Clear();
  std::deque<std::shared_ptr<OutgoingMessage>> dropped;
  {
    std::lock_guard lock(mutex_);
    peer.gone = true;
    dropped.swap(peer.outbox);
  }
  news_.push_back({.from = peer.rank, .message = std::nullopt, .why = why});
}

// One that is still connecting, as to a host that is cut off, is left alone until it fails: UCX 1.13 keeps
// the socket of such a one, and aborts, at once or when the answer comes.
void UcxTransportImpl::CloseEndpoint(Peer& peer) {
  ucp_ep_h endpoint = std::exchange(peer.endpoint, nullptr);
  if (endpoint != nullptr && (peer.endpoint_works || peer.endpoint_failed)) ForceClose(endpoint);
}

void UcxTransportImpl::ForceClose(ucp_ep_h endpoint) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
}

void UcxTransportImpl::ReapCloses() {
  for (ucp_ep_h endpoint : std::exchange(failed_before_, {})) ForceClose(endpoint);
  std::erase_if(closing_, [](void* request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
}

void UcxTransportImpl::Close(absl::Duration wait) {
  const absl::Time deadline = absl::Now() + wait;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
  }
  std::unique_lock turn(turn_mutex_);
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
    } else {
      turn.unlock();
      if (!idle_.Again()) Wait(deadline - absl::Now());
      turn.lock();
    }
  }
  const absl::Time last = std::min(deadline, absl::Now() + kEndpointCloseTime);
  do {  // the answers to goodbyes leave
    Turn();
    news_.clear();
  } while (ops_under_way_ > 0 && all_done() && absl::Now() < last);
  for (auto& peer : peers_) CloseEndpoint(*peer);
}

}  // namespace lombard
