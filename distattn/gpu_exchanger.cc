#include "distattn/gpu_exchanger.h"

#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace lombard {
namespace {

constexpr int kYields = 100;  // before a wait for a stream sleeps
constexpr std::chrono::microseconds kSleep(50);

}  // namespace

GpuExchanger::GpuExchanger(const Options& options, std::unique_ptr<Collectives> collectives,
                           Transport* transport, const Clock* clock)
    : options_(options),
      collectives_(std::move(collectives)),
      transport_(transport),
      clock_(clock),
      lane_(transport->rank()),
      announced_(&lane_) {}

// ---------------------------------------------------------------- pairs

bool GpuExchanger::CanAsk(int creditor, absl::Time now) {
  Pair::State state;
  {
    std::lock_guard lock(mutex_);
    Pair& pair = pairs_[creditor];
    if (pair.state == Pair::State::kAsked && now - pair.since > options_.open_wait)
      pair = {};  // maybe it has never heard of it
    state = pair.state;
    if (aborted_ || state == Pair::State::kRefused) return false;
    if (state == Pair::State::kClosed && now - pair.since < options_.open_again) return false;
  }
  if (state == Pair::State::kClosed) BeginToOpen(creditor, now);
  if (state == Pair::State::kAgreed) Connect(creditor, now);
  return state == Pair::State::kConnecting && collectives_->IsOpen(Lent(creditor));
}

void GpuExchanger::BeginToOpen(int creditor, absl::Time now) {
  absl::StatusOr<std::string> key = collectives_->NewKey();
  PairMessage message{
      .incarnation = Value(options_.incarnation), .host = options_.place.host, .pci = options_.place.pci};
  {
    std::lock_guard lock(mutex_);
    Pair& pair = pairs_[creditor];
    pair = {.since = now};
    if (!key.ok()) return;
    pair.state = Pair::State::kAsked;
    pair.serial = message.serial = ++serial_;
    pair.key = message.key = *std::move(key);
  }
  const absl::Status sent = transport_->Send(
      creditor, {.channel = Channel::kQuery, .header = EncodePair(WireKind::kPairOpen, message)});
  if (sent.ok()) return;
  std::lock_guard lock(mutex_);
  pairs_[creditor] = {.since = now};
}

void GpuExchanger::Connect(int creditor, absl::Time now) {
  Pair pair;
  {
    std::lock_guard lock(mutex_);
    pair = pairs_[creditor];
  }
  const absl::Status opened = collectives_->Open(Lent(creditor), pair.key, pair.place, now);
  std::lock_guard lock(mutex_);
  Pair& known = pairs_[creditor];
  if (known.serial != pair.serial || known.state != Pair::State::kAgreed) {
    if (opened.ok()) collectives_->Close(Lent(creditor));  // the creditor was lost meanwhile
  } else if (opened.ok()) {
    known.state = Pair::State::kConnecting;
  } else if (absl::IsFailedPrecondition(opened)) {
    known.state = Pair::State::kRefused;
  } else {
    known = {.since = now};
  }
}

void GpuExchanger::PollPairs(absl::Time now) {
  for (const Collectives::Closed& closed : collectives_->Poll(now)) NoteClosed(closed.pair, /*tell=*/true);
}

void GpuExchanger::NoteClosed(LoanPair pair, bool tell) {
  const bool debtor = pair.debtor == rank();
  PairMessage message{.incarnation = Value(options_.incarnation), .from_creditor = !debtor};
  {
    std::lock_guard lock(mutex_);
    ++counters_.pairs_closed;
    if (debtor) {
      pairs_[pair.creditor] = {.since = clock_->Now()};
    } else {
      debtors_.erase(pair.debtor);
    }
  }
  if (!tell) return;
  transport_
      ->Send(debtor ? pair.creditor : pair.debtor, {.channel = debtor ? Channel::kQuery : Channel::kState,
                                                    .header = EncodePair(WireKind::kPairClosed, message)})
      .IgnoreError();
}

void GpuExchanger::ClosePair(LoanPair pair) {
  collectives_->Close(pair);
  NoteClosed(pair, /*tell=*/true);
}

void GpuExchanger::OnPairOpen(int from, const Message& message) {
  PairMessage asked;
  if (!DecodePair(WireKind::kPairOpen, message.header, &asked).ok()) return;
  const LoanPair pair{from, rank()};
  collectives_->Close(pair);  // of a debtor that has lost its end, or of one before it
  absl::Status opened =
      collectives_->Open(pair, asked.key, {.host = asked.host, .pci = asked.pci}, clock_->Now());
  if (opened.ok()) {
    std::lock_guard lock(mutex_);
    debtors_.insert(from);
  }
  transport_
      ->Send(from, {.channel = Channel::kState,
                    .header = EncodePair(WireKind::kPairOpened, {.incarnation = Value(options_.incarnation),
                                                                 .serial = asked.serial,
                                                                 .from_creditor = 1,
                                                                 .code = static_cast<uint32_t>(opened.code()),
                                                                 .text = std::string(opened.message()),
                                                                 .host = options_.place.host,
                                                                 .pci = options_.place.pci})})
      .IgnoreError();
}

// ---------------------------------------------------------------- debtor

std::set<int> GpuExchanger::Ask(uint64_t step, absl::Span<const Wish> wishes) {
  const absl::Time now = clock_->Now();
  PollPairs(now);
  std::vector<const Wish*> ready;
  std::vector<int> others;
  for (const Wish& wish : wishes) {
    if (!CanAsk(wish.creditor, now)) continue;
    ready.push_back(&wish);
    others.push_back(wish.creditor);
  }
  if (ready.empty()) return {};
  std::optional<ExchangeId> id;
  {
    std::lock_guard lock(mutex_);
    if (!aborted_) id = lane_.Ask(others, now + options_.answer_wait);
    if (!id.has_value()) {
      counters_.not_accepted += others.size();
      return {};
    }
  }
  for (const Wish* wish : ready) {
    const absl::Status sent = transport_->Send(
        wish->creditor,
        {.channel = Channel::kQuery,
         .header = EncodeAnnounce(
             {.incarnation = Value(options_.incarnation), .serial = id->serial, .step = step}, wish->items)});
    std::lock_guard lock(mutex_);
    if (!sent.ok()) lane_.OnAnswer(*id, wish->creditor, false);
  }
  std::vector<int> late;
  {
    std::unique_lock lock(mutex_);
    answered_.wait_for(lock, absl::ToChronoMilliseconds(options_.answer_wait),
                       [&] { return lane_.state() != ExchangeLane::State::kAsking || aborted_; });
    late = lane_.OnTime(absl::InfiniteFuture());
    if (lane_.state() == ExchangeLane::State::kRunning) {
      running_ = lane_.participants();
      WatchLocked(clock_->Now());
    }
    counters_.not_accepted += ready.size() - running_.size();
    counters_.exchanges += running_.size();
    for (const Wish* wish : ready) {
      if (!running_.contains(wish->creditor)) continue;
      for (const QueryItem& item : wish->items)
        counters_.attended_tokens += uint64_t{item.rows} * static_cast<uint64_t>(item.token_count);
    }
  }
  // They may have said yes.
  for (const int creditor : late) ClosePair(Lent(creditor));
  return running_;
}

absl::Status GpuExchanger::Await(absl::FunctionRef<absl::StatusOr<bool>()> passed) {
  absl::Time until = clock_->Now() + options_.exchange_wait;
  {
    std::lock_guard lock(mutex_);
    WatchLocked(until - options_.exchange_wait);  // this thread has come back so far
  }
  bool closed = false;
  for (int i = 0;; ++i) {
    ASSIGN_OR_RETURN(const bool done, passed());
    if (done) return absl::OkStatus();
    RETURN_IF_ERROR(hung());
    const absl::Time now = clock_->Now();
    PollPairs(now);
    if (closed) {
      if (now >= until) NoteHung();
    } else if (const bool late = now >= until; late || aborted()) {
      closed = true;
      until = now + options_.hang_wait;
      for (const int creditor : running_) {
        if (late) ClosePair(Lent(creditor));
      }
    }
    i < kYields ? std::this_thread::yield() : std::this_thread::sleep_for(kSleep);
  }
}

std::set<int> GpuExchanger::EndRunning(uint64_t query_bytes) {
  PollPairs(clock_->Now());
  std::set<int> lost;
  for (const int creditor : running_) {
    if (collectives_->IsOpen(Lent(creditor))) continue;
    lost.insert(creditor);
    bool noted;  // not, when a call of ours has failed: the other end may wait
    {
      std::lock_guard lock(mutex_);
      noted = pairs_[creditor].state != Pair::State::kConnecting;
    }
    if (!noted) NoteClosed(Lent(creditor), /*tell=*/true);
  }
  running_.clear();
  std::lock_guard lock(mutex_);
  counters_.query_bytes += query_bytes;
  watch_at_ = absl::InfiniteFuture();
  lane_.Done();
  return lost;
}

// ---------------------------------------------------------------- creditor

AnnouncementAnswer GpuExchanger::OnAnnouncement(const Announcement& announcement,
                                                absl::FunctionRef<bool(const QueryItem&)> holds) {
  const absl::Time now = clock_->Now();
  PollPairs(now);
  const LoanPair pair{announcement.exchange.starter, rank()};
  const bool open = collectives_->IsOpen(pair);
  {
    std::lock_guard lock(mutex_);
    if (open || debtors_.contains(pair.debtor)) {
      const AnnouncementAnswer answer =
          announced_.OnAnnouncement(announcement, open && !aborted_, holds).answer;
      if (answer == AnnouncementAnswer::kYes) {
        serves_until_ = now + options_.exchange_wait;
        serving_cut_ = false;
        WatchLocked(now);
      }
      return answer;
    }
  }
  NoteClosed(pair, /*tell=*/true);  // the debtor does not know
  return AnnouncementAnswer::kBusy;
}

void GpuExchanger::Answer(ExchangeId exchange, AnnouncementAnswer answer) {
  // A debtor that is gone waits for nothing.
  transport_
      ->Send(exchange.starter, {.channel = Channel::kState,
                                .header = EncodeAnnounceAnswer({.incarnation = Value(options_.incarnation),
                                                                .serial = exchange.serial,
                                                                .answer = static_cast<uint8_t>(answer)})})
      .IgnoreError();
}

void GpuExchanger::WatchServing() {
  const absl::Time now = clock_->Now();
  PollPairs(now);
  if (now < serves_until_) return;
  serving_cut_ ? NoteHung() : CutServing();
}

void GpuExchanger::CutServing() {
  serving_cut_ = true;
  serves_until_ = clock_->Now() + options_.hang_wait;
  int debtor;
  {
    std::lock_guard lock(mutex_);
    debtor = lane_.exchange().starter;
  }
  ClosePair({debtor, rank()});
}

void GpuExchanger::EndServing(uint64_t state_bytes) {
  std::lock_guard lock(mutex_);
  counters_.state_bytes += state_bytes;
  watch_at_ = absl::InfiniteFuture();
  announced_.Done();
}

// ---------------------------------------------------------------- progress thread

void GpuExchanger::OnMessage(int from, const Message& message) {
  const absl::StatusOr<WireKind> kind = PeekKind(message.header);
  if (!kind.ok()) return;
  if (*kind == WireKind::kAnnounceAnswer) {
    AnnounceAnswerHeader header;
    if (!DecodeAnnounceAnswer(message.header, &header).ok()) return;
    const bool yes = header.answer == static_cast<uint8_t>(AnnouncementAnswer::kYes);
    std::lock_guard lock(mutex_);
    lane_.OnAnswer({rank(), header.serial}, from, yes);
    answered_.notify_all();
    return;
  }
  PairMessage pair;
  if (DecodePair(*kind, message.header, &pair).ok()) OnPairMessage(from, *kind, pair);
}

void GpuExchanger::OnPairMessage(int from, WireKind kind, const PairMessage& message) {
  if (kind == WireKind::kPairClosed) {
    const LoanPair pair = message.from_creditor != 0 ? LoanPair{rank(), from} : LoanPair{from, rank()};
    collectives_->Close(pair);
    return NoteClosed(pair, /*tell=*/false);
  }
  std::lock_guard lock(mutex_);
  Pair& pair = pairs_[from];
  if (pair.state != Pair::State::kAsked || pair.serial != message.serial) return;
  pair.state = message.code == 0 ? Pair::State::kAgreed : Pair::State::kRefused;
  pair.place = {.host = message.host, .pci = message.pci};
}

void GpuExchanger::OnPeerLost(int peer) {
  {
    std::lock_guard lock(mutex_);
    pairs_.erase(peer);
    debtors_.erase(peer);
    lane_.OnPeerDown(peer);
    answered_.notify_all();
  }
  collectives_->Close(Lent(peer));
  collectives_->Close({peer, rank()});
}

void GpuExchanger::Abort() {
  {
    std::lock_guard lock(mutex_);
    aborted_ = true;
    answered_.notify_all();
  }
  for (int peer = 0; peer < transport_->size(); ++peer) {
    if (peer == rank()) continue;
    collectives_->Close(Lent(peer));
    collectives_->Close({peer, rank()});
  }
}

void GpuExchanger::WatchLocked(absl::Time now) {
  watch_at_ = now + options_.exchange_wait + options_.hang_wait;
  watch_cut_ = false;
}

void GpuExchanger::Watch() {
  const absl::Time now = clock_->Now();
  std::vector<LoanPair> pairs;
  bool hangs;
  {
    std::lock_guard lock(mutex_);
    if (now < watch_at_) return;
    watch_at_ = now + options_.hang_wait;
    hangs = std::exchange(watch_cut_, true);
    if (lane_.state() == ExchangeLane::State::kServing) {
      pairs.push_back({lane_.exchange().starter, rank()});
    } else {
      for (const int creditor : lane_.participants()) pairs.push_back(Lent(creditor));
    }
  }
  if (hangs) return NoteHung();
  for (const LoanPair& pair : pairs) ClosePair(pair);
}

bool GpuExchanger::aborted() const {
  std::lock_guard lock(mutex_);
  return aborted_;
}

absl::Status GpuExchanger::hung() const {
  std::lock_guard lock(mutex_);
  return hung_;
}

void GpuExchanger::NoteHung() {
  absl::Status hung;
  {
    std::lock_guard lock(mutex_);
    if (!hung_.ok()) return;
    hung = hung_ = absl::DeadlineExceededError(absl::StrCat(
        "GPU ", options_.place.pci, " of ", options_.place.host,
        " hangs: what an exchange has put into a stream has not ended in ",
        absl::FormatDuration(options_.hang_wait), " although its NCCL communicators were aborted"));
  }
  options_.on_hang(hung);
}

GpuExchanger::Counters GpuExchanger::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace lombard
