#include "fabric/sim_transport.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "fabric/message_checks.h"
#include "fabric/traffic_meter.h"

namespace lombard {

class SimTransport final : public Transport {
 public:
  SimTransport(SimNetwork& network, int rank) : network_(network), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return network_.size_; }
  std::string Describe() const override {
    return absl::StrCat("simulated network, seed ", network_.options_.seed, ", rank ", rank_, " of ", size());
  }
  absl::Status Send(int to, Message message) override {
    const Channel channel = message.channel;
    const uint64_t header_bytes = message.header.size(), payload_bytes = message.payload.size();
    RETURN_IF_ERROR(network_.Send(rank_, to, std::move(message)));
    if (to == rank_) return absl::OkStatus();
    meter_.AddPayload(channel, payload_bytes);
    meter_.AddFraming(header_bytes);
    meter_.AddMessage();
    return absl::OkStatus();
  }
  void Poll(TransportHandler& handler, absl::Duration wait) override {
    if (wait > absl::ZeroDuration())
      std::this_thread::yield();  // whoever moves the time may be another thread
    network_.Poll(rank_, handler);
  }
  void Wake() override {}  // Poll does not wait
  TrafficCounters counters() const override { return meter_.Read(); }
  void Close(absl::Duration) override { network_.Leave(rank_, absl::OkStatus(), absl::ZeroDuration()); }

 private:
  SimNetwork& network_;
  const int rank_;
  TrafficMeter meter_;
};

SimNetwork::SimNetwork(const SimOptions& options)
    : options_(options),
      size_(options.size),
      now_(options.start),
      random_(options.seed),
      links_(options.size * options.size),
      workers_(options.size) {
  CHECK_GE(size_, 1);
  for (Link& link : links_) {
    link.model = options.link;
    link.free_at = link.last_arrival = now_;
  }
  for (int rank = 0; rank < size_; ++rank)
    workers_[rank].transport = std::make_unique<SimTransport>(*this, rank);
}

SimNetwork::~SimNetwork() = default;

Transport& SimNetwork::transport(int rank) { return *workers_[rank].transport; }

absl::Time SimNetwork::Now() const {
  std::lock_guard lock(mutex_);
  return now_;
}

absl::Time SimNetwork::NextArrival() const {
  std::lock_guard lock(mutex_);
  return NextArrivalLocked();
}

absl::Time SimNetwork::NextArrivalLocked() const {
  absl::Time next = absl::InfiniteFuture();
  for (const Link& link : links_) {
    if (!link.cut && !link.under_way.empty()) next = std::min(next, link.under_way.front().arrival);
  }
  return next;
}

bool SimNetwork::Step() {
  std::lock_guard lock(mutex_);
  const absl::Time next = NextArrivalLocked();
  if (next == absl::InfiniteFuture()) return false;
  ArriveLocked(std::max(now_, next));
  return true;
}

void SimNetwork::AdvanceTo(absl::Time time) {
  std::lock_guard lock(mutex_);
  CHECK_GE(time, now_);
  for (absl::Time next; (next = NextArrivalLocked()) <= time;) ArriveLocked(std::max(now_, next));
  now_ = time;
}

// Everything that has arrived by `now`, link by link in a fixed order.
void SimNetwork::ArriveLocked(absl::Time now) {
  now_ = now;
  for (int from = 0; from < size_; ++from) {
    for (int to = 0; to < size_; ++to) {
      Link& link = At(from, to);
      while (!link.cut && !link.under_way.empty() && link.under_way.front().arrival <= now_) {
        Item item = std::move(link.under_way.front());
        link.under_way.pop_front();
        if (item.message.has_value()) link.queued_bytes -= MessageBytes(*item.message);
        if (!item.message.has_value()) link.ended = true;
        if (!workers_[to].closed) workers_[to].inbox.emplace_back(from, std::move(item));
      }
    }
  }
}

void SimNetwork::PutLocked(int from, int to, Item item, absl::Duration extra) {
  Link& link = At(from, to);
  const uint64_t bytes = item.message.has_value() ? MessageBytes(*item.message) : 0;
  link.queued_bytes += bytes;
  link.free_at =
      std::max(now_, link.free_at) + absl::Seconds(static_cast<double>(bytes) / link.model.bytes_per_s);
  const double chance = std::uniform_real_distribution<double>(0, 1)(random_);
  item.arrival =
      std::max(link.last_arrival, link.free_at + link.model.latency + chance * link.model.jitter + extra);
  link.last_arrival = item.arrival;
  link.under_way.push_back(std::move(item));
}

absl::Status SimNetwork::Send(int from, int to, Message message) {
  RETURN_IF_ERROR(CheckSend(message, to, size_));
  AlignPayload(message.payload);
  std::lock_guard lock(mutex_);
  if (workers_[from].closed) return ClosedError();
  if (At(to, from).ended) return PeerGoneError(to);
  RETURN_IF_ERROR(CheckQueue(message, to, At(from, to).queued_bytes));
  if (to == from) {
    workers_[to].inbox.emplace_back(from, Item{std::move(message), absl::OkStatus(), now_});
  } else {
    PutLocked(from, to, {std::move(message), absl::OkStatus(), now_}, absl::ZeroDuration());
  }
  return absl::OkStatus();
}

void SimNetwork::Poll(int rank, TransportHandler& handler) {
  std::deque<std::pair<int, Item>> items;
  {
    std::lock_guard lock(mutex_);
    items.swap(workers_[rank].inbox);
  }
  for (auto& [from, item] : items) {
    if (item.message.has_value()) {
      handler.OnMessage(from, std::move(*item.message));
    } else {
      handler.OnPeerDown(from, item.why);
    }
  }
}

void SimNetwork::Leave(int rank, const absl::Status& why, absl::Duration delay) {
  std::lock_guard lock(mutex_);
  if (workers_[rank].closed) return;
  workers_[rank].closed = true;
  workers_[rank].inbox.clear();
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank || workers_[peer].closed || At(rank, peer).ended) continue;
    PutLocked(rank, peer, {std::nullopt, why, now_}, delay);
  }
}

void SimNetwork::Kill(int rank) {
  {
    std::lock_guard lock(mutex_);
    if (workers_[rank].closed) return;
    for (int peer = 0; peer < size_; ++peer) {
      Link& link = At(rank, peer);
      for (size_t kept = random_() % (link.under_way.size() + 1); link.under_way.size() > kept;) {
        link.queued_bytes -= MessageBytes(*link.under_way.back().message);
        link.under_way.pop_back();
      }
    }
  }
  Leave(rank, absl::UnavailableError(absl::StrCat("rank ", rank, " was killed in the simulation")),
        options_.death_report);
}

void SimNetwork::Break(int a, int b) {
  std::lock_guard lock(mutex_);
  for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
    Link& link = At(from, to);
    if (link.ended || workers_[from].closed || workers_[to].closed) continue;
    link.under_way.clear();
    link.queued_bytes = 0;
    link.ended = true;
    workers_[to].inbox.push_back(
        {from,
         {std::nullopt, absl::UnavailableError(absl::StrCat("connection to rank ", from, " broke")), now_}});
  }
}

void SimNetwork::SetLink(int from, int to, const SimLink& link) {
  std::lock_guard lock(mutex_);
  At(from, to).model = link;
}

void SimNetwork::Cut(int from, int to) {
  std::lock_guard lock(mutex_);
  At(from, to).cut = true;
}

void SimNetwork::CutBoth(int a, int b) {
  Cut(a, b);
  Cut(b, a);
}

void SimNetwork::Isolate(int rank) {
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank) CutBoth(rank, peer);
  }
}

// What waited is sent again: it arrives in the old order and spacing, the first of it one latency from now.
void SimNetwork::HealLocked(Link& link) {
  if (!link.cut) return;
  link.cut = false;
  if (link.under_way.empty()) return;
  const absl::Duration late =
      std::max(absl::ZeroDuration(), now_ + link.model.latency - link.under_way.front().arrival);
  for (Item& item : link.under_way) item.arrival += late;
  link.last_arrival = link.under_way.back().arrival;
}

void SimNetwork::Heal(int from, int to) {
  std::lock_guard lock(mutex_);
  HealLocked(At(from, to));
}

void SimNetwork::HealAll() {
  std::lock_guard lock(mutex_);
  for (Link& link : links_) HealLocked(link);
}

}  // namespace lombard
