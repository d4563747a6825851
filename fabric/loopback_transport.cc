#include "fabric/loopback_transport.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fabric/idle_yield.h"
#include "fabric/message_checks.h"
#include "fabric/traffic_meter.h"

namespace lombard {
namespace {

struct Event {
  int from;
  bool down;  // then `why`, else `message`
  Message message;
  absl::Status why;
};

// What waits for one worker. Everything but `pending` is guarded by `mutex`.
struct Mailbox {
  explicit Mailbox(int size) : queued_bytes(size), left(size) {}
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Event> events;
  std::vector<uint64_t> queued_bytes;  // by sender: in `events`
  std::vector<bool> left;              // by sender: its goodbye or loss is already in `events`
  bool woken = false;
  bool gone = false;                    // the owner closed or was destroyed
  std::atomic<bool> pending{false};     // there are events, or a wake-up
  std::atomic<size_t> device_bytes{0};  // the largest device payload that the owner takes
};

using Hub = std::vector<std::unique_ptr<Mailbox>>;

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(int rank, std::shared_ptr<Hub> hub)
      : rank_(rank), hub_(std::move(hub)), own_(*(*hub_)[rank]) {}
  ~LoopbackTransport() override {
    Leave(absl::UnavailableError(absl::StrCat("rank ", rank_, " ended without a goodbye")));
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(hub_->size()); }
  std::string Describe() const override {
    return absl::StrCat("loopback, rank ", rank_, " of ", size(), " in this process");
  }

  absl::Status Send(int to, Message message) override {
    if (absl::Status status = CheckSend(message, to, size(), device_payload_max(to)); !status.ok())
      return status;
    AlignPayload(message.payload);
    const Channel channel = message.channel;
    const uint64_t header_bytes = message.header.size(), payload_bytes = PayloadBytes(message);
    Mailbox& box = *(*hub_)[to];
    std::lock_guard lock(box.mutex);
    if (box.left[rank_]) return ClosedError();
    if (box.gone) return PeerGoneError(to);
    if (absl::Status status = CheckQueue(message, to, box.queued_bytes[rank_]); !status.ok()) return status;
    box.queued_bytes[rank_] += header_bytes + payload_bytes;
    if (to != rank_) {  // counted before anybody can have read it
      meter_.AddPayload(channel, payload_bytes);
      meter_.AddFraming(header_bytes);
      meter_.AddMessage();
    }
    box.events.push_back({rank_, false, std::move(message), absl::OkStatus()});
    Notify(box);
    return absl::OkStatus();
  }

  // A device payload is handed over as it is: the reader gets the sender's slot.
  absl::Status UseDeviceSlots(std::shared_ptr<DeviceSlots> slots, bool /*insist*/) override {
    own_.device_bytes.store(slots->slot_bytes());
    slots_ = std::move(slots);
    return absl::OkStatus();
  }
  size_t device_payload_max(int to) const override {
    if (to < 0 || to >= size()) return 0;
    return std::min(own_.device_bytes.load(), (*hub_)[to]->device_bytes.load());
  }

  void Poll(TransportHandler& handler, absl::Duration wait) override {
    idle_.Reset();
    while (wait > absl::ZeroDuration() && !own_.pending.load(std::memory_order_acquire) && idle_.Again()) {
    }
    std::deque<Event> events;
    {
      std::unique_lock lock(own_.mutex);
      const auto has_news = [this] { return own_.woken || own_.gone || !own_.events.empty(); };
      own_.ready.wait_for(
          lock, absl::ToChronoNanoseconds(std::clamp(wait, absl::ZeroDuration(), absl::Hours(1))), has_news);
      if (own_.gone) return;
      own_.woken = false;
      own_.pending.store(false, std::memory_order_release);
      events.swap(own_.events);
      std::fill(own_.queued_bytes.begin(), own_.queued_bytes.end(), 0);
    }
    for (Event& event : events) {
      if (event.down) {
        handler.OnPeerDown(event.from, event.why);
      } else {
        handler.OnMessage(event.from, std::move(event.message));
      }
    }
  }

  void Wake() override {
    std::lock_guard lock(own_.mutex);
    own_.woken = true;
    Notify(own_);
  }

  TrafficCounters counters() const override { return meter_.Read(); }

  void Close(absl::Duration) override { Leave(absl::OkStatus()); }  // what was sent is already at its readers

 private:
  static void Notify(Mailbox& box) {
    box.pending.store(true, std::memory_order_release);
    box.ready.notify_one();
  }

  void Leave(const absl::Status& why) {
    std::deque<Event> unread;
    {
      std::lock_guard lock(own_.mutex);
      if (own_.gone) return;
      own_.gone = own_.left[rank_] = true;
      unread.swap(own_.events);
      Notify(own_);
    }
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_) continue;
      Mailbox& box = *(*hub_)[peer];
      std::lock_guard lock(box.mutex);
      box.left[rank_] = true;
      if (box.gone) continue;
      box.events.push_back({rank_, true, {}, why});
      Notify(box);
    }
  }

  const int rank_;
  const std::shared_ptr<Hub> hub_;
  Mailbox& own_;
  std::shared_ptr<DeviceSlots> slots_;
  TrafficMeter meter_;
  IdleYield idle_;  // progress thread
};

}  // namespace

std::vector<std::unique_ptr<Transport>> MakeLoopbackTransports(int size) {
  CHECK_GE(size, 1);
  auto hub = std::make_shared<Hub>();
  for (int rank = 0; rank < size; ++rank) hub->push_back(std::make_unique<Mailbox>(size));
  std::vector<std::unique_ptr<Transport>> transports;
  for (int rank = 0; rank < size; ++rank)
    transports.push_back(std::make_unique<LoopbackTransport>(rank, hub));
  return transports;
}

}  // namespace lombard
