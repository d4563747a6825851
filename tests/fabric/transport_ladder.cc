#include "tests/fabric/transport_ladder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lombard::test {
namespace {

constexpr char kBarrierHeader[] = "barrier";

int Next(const Peer& me) { return (me.rank() + 1) % me.size(); }
int Previous(const Peer& me) { return (me.rank() + me.size() - 1) % me.size(); }

void SelfSend(Peer& me) {
  for (int i = 0; i < 3; ++i) me.MustSend(me.rank(), Channel::kQuery, absl::StrCat(i), PatternBytes(1000, i));
  const auto got = me.Take(me.rank(), 3);
  ASSERT_EQ(got.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(got[i].header, absl::StrCat(i));
    EXPECT_EQ(got[i].payload, PatternBytes(1000, i));
  }
}

void OrderIsKept(Peer& me) {
  constexpr int kMessages = 2000;
  std::mt19937 random(7);
  for (int i = 0; i < kMessages; ++i) {
    me.MustSend(Next(me), static_cast<Channel>(i % kChannelCount), absl::StrCat(i),
                std::string(random() % 300, 'x'));
  }
  const auto got = me.Take(Previous(me), kMessages);
  ASSERT_EQ(got.size(), kMessages);
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_EQ(got[i].header, absl::StrCat(i));
    ASSERT_EQ(got[i].channel, static_cast<Channel>(i % kChannelCount));
  }
}

void EverySizeArrivesWhole(Peer& me) {
  std::vector<std::pair<size_t, size_t>> sizes;  // header, payload
  for (size_t payload : {0, 1, 8, 15, 16, 17, 100, 4095, 4096, 8192, 65535, 65536, 65537, 262144, 1048575,
                         1048577, 5 * 1048576 + 3, 64 << 20}) {
    sizes.push_back({payload % 64, payload});
  }
  for (size_t header : {0, 1, 65536, 1 << 20}) sizes.push_back({header, 3});
  sizes.push_back({1 << 20, 1 << 20});
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto [header, payload] = sizes[i];
    const bool huge = payload > (16 << 20);  // these only from rank 0, to keep the rung short
    if (!huge || me.rank() == 0) {
      me.MustSend(Next(me), Channel::kKv, PatternBytes(header, 2 * i + 1),
                  PatternBytes(payload, i + 1000 * me.rank()));
    }
    if (huge && Previous(me) != 0) continue;
    const auto got = me.Take(Previous(me), 1);
    ASSERT_EQ(got.size(), 1u) << "size " << payload;
    ASSERT_TRUE(got[0].header == PatternBytes(header, 2 * i + 1)) << "header of " << header << " bytes";
    ASSERT_TRUE(got[0].payload == PatternBytes(payload, i + 1000 * Previous(me)))
        << "payload of " << payload << " bytes";
    const bool aligned = payload == 0 || reinterpret_cast<uintptr_t>(got[0].payload.data()) % 16 == 0;
    ASSERT_TRUE(aligned) << "payload of " << payload << " bytes";
  }
}

void AllToAll(Peer& me) {
  constexpr int kRounds = 60;
  const auto bytes = [](int from, int to, int round) {
    return (from * 7919 + to * 104729 + round * 1299709) % 40000;
  };
  for (int round = 0; round < kRounds; ++round) {
    for (int to = 0; to < me.size(); ++to) {
      me.MustSend(to, Channel::kState, absl::StrCat(round),
                  PatternBytes(bytes(me.rank(), to, round), round * 64 + me.rank()));
    }
  }
  for (int from = 0; from < me.size(); ++from) {
    const auto got = me.Take(from, kRounds);
    ASSERT_EQ(got.size(), kRounds);
    for (int round = 0; round < kRounds; ++round) {
      ASSERT_EQ(got[round].header, absl::StrCat(round));
      ASSERT_TRUE(got[round].payload == PatternBytes(bytes(from, me.rank(), round), round * 64 + from))
          << from << " " << round;
    }
  }
}

void CountersAreExact(Peer& me) {
  const TrafficCounters before = me.transport().counters();
  const int barriers_before = me.barrier_messages_sent();
  std::array<uint64_t, kChannelCount> payload{};
  uint64_t headers = 0, messages = 0;
  for (int i = 0; i < 40; ++i) {
    const Channel channel = static_cast<Channel>(i % kChannelCount);
    const size_t bytes = size_t{1} << (i % 20);
    for (int to = 0; to < me.size(); ++to) {
      me.MustSend(to, channel, "header", std::string(bytes, 'p'));
      if (to == me.rank()) continue;  // not on the wire
      payload[i % kChannelCount] += bytes;
      headers += 6;
      ++messages;
    }
  }
  for (int from = 0; from < me.size(); ++from) me.Take(from, 40);
  me.Barrier();  // everyone has all of mine
  const uint64_t all_messages = before.messages + messages + me.barrier_messages_sent() - barriers_before;
  me.WaitUntil(
      [&] { return me.transport().counters().messages >= all_messages; });  // but for the barrier's, perhaps
  const TrafficCounters after = me.transport().counters();
  for (int c = 0; c < kChannelCount; ++c) {
    EXPECT_EQ(after.payload_bytes[c] - before.payload_bytes[c], payload[c]) << "channel " << c;
  }
  EXPECT_EQ(after.messages, all_messages);
  EXPECT_GE(after.framing_bytes - before.framing_bytes, headers);
}

void ManyThreadsSend(Peer& me) {
  constexpr int kThreads = 4, kEach = 300;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&me, t] {
      for (int i = 0; i < kEach; ++i)
        me.MustSend(Next(me), Channel::kQuery, absl::StrCat(t, " ", i), std::string(i, 'q'));
    });
  }
  const auto got = me.Take(Previous(me), kThreads * kEach);
  for (auto& thread : threads) thread.join();
  ASSERT_EQ(got.size(), kThreads * kEach);
  std::vector<int> next(kThreads, 0);
  for (const Message& message : got) {
    const int t = message.header[0] - '0';
    ASSERT_EQ(message.header, absl::StrCat(t, " ", next[t]));
    ASSERT_EQ(message.payload.size(), next[t]++);
  }
}

void WakeEndsAPoll(Peer& me) {
  me.Barrier();
  me.StopPolling();
  const absl::Time start = absl::Now();  // before the thread is there: Wake comes 30 ms after it or later
  std::thread waker([&me] {
    absl::SleepFor(absl::Milliseconds(30));
    me.transport().Wake();
  });
  // Late barrier messages of others may end some Polls before Wake does.
  while (absl::Now() - start < absl::Milliseconds(30)) me.transport().Poll(me, kLongerThanTheTest);
  waker.join();
  me.transport().Wake();  // before the Poll: it returns at once
  me.transport().Poll(me, kLongerThanTheTest);
  me.StartPolling();
}

void SlowReader(Peer& me) {
  // Everybody floods rank 0 and rank 0 floods everybody, while rank 0 does not poll for a while: far more
  // than any window.
  constexpr int kMessages = 24;
  constexpr size_t kBytes = 1 << 20;
  if (me.size() == 1) return;
  me.Barrier();
  for (int to = 0; to < me.size(); ++to) {
    if (to == me.rank() || (to != 0 && me.rank() != 0)) continue;
    for (int i = 0; i < kMessages; ++i)
      me.MustSend(to, Channel::kKv, absl::StrCat(i), PatternBytes(kBytes, i));
  }
  if (me.rank() == 0) {
    me.StopPolling();
    absl::SleepFor(absl::Milliseconds(200));
    me.StartPolling();
  }
  for (int from = 0; from < me.size(); ++from) {
    if (from == me.rank() || (from != 0 && me.rank() != 0)) continue;
    const auto got = me.Take(from, kMessages);
    ASSERT_EQ(got.size(), kMessages);
    for (int i = 0; i < kMessages; ++i) ASSERT_TRUE(got[i].payload == PatternBytes(kBytes, i)) << i;
  }
}

void AStreamKeepsFlowing(Peer& me) {
  // More than a window, in one direction, to a reader that does nothing but read: a sender that slept through
  // a credit would stand still.
  constexpr int kMessages = 200;
  for (int i = 0; i < kMessages; ++i) me.MustSend(Next(me), Channel::kKv, "", std::string(65536, 's'));
  EXPECT_EQ(me.Take(Previous(me), kMessages).size(), kMessages);
}

void BadSendsAreRefused(Peer& me) {
  const auto send = [&](int to, size_t header_bytes) {
    return me.transport().Send(to, {Channel::kControl, std::string(header_bytes, 'h'), ""});
  };
  EXPECT_EQ(send(-1, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(send(me.size(), 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(send(Next(me), kMessageHeaderBytesMax + 1).code(), absl::StatusCode::kInvalidArgument);
  me.MustSend(Next(me), Channel::kControl, "the first to arrive", "");
  EXPECT_EQ(me.TakeOne(Previous(me)).header, "the first to arrive");
}

void GoodbyeAndClose(Peer& me) {
  me.Barrier();
  const int leaver = me.size() - 1;
  if (me.rank() == leaver) {
    for (int to = 0; to < leaver; ++to)
      me.MustSend(to, Channel::kState, "last words", PatternBytes(3 << 20, to));
  } else {
    ASSERT_TRUE(me.WaitUntil([&] { return !me.downs(leaver).empty(); }));
    EXPECT_TRUE(me.downs(leaver)[0].ok()) << me.downs(leaver)[0];
    ASSERT_EQ(me.waiting(leaver), 1u) << "the goodbye comes after the last message";
    EXPECT_TRUE(me.TakeOne(leaver).payload == PatternBytes(3 << 20, me.rank()));
    EXPECT_EQ(me.transport().Send(leaver, {}).code(), absl::StatusCode::kUnavailable);
    me.Barrier(leaver);  // the others go on
    me.MustSend(0, Channel::kControl, "still here", "");
    if (me.rank() == 0) {
      for (int from = 0; from < leaver; ++from) me.Take(from, 1);
    }
    me.Barrier(leaver);
    EXPECT_EQ(me.downs(leaver).size(), 1u);
  }
  me.StopPolling();
  me.transport().Close(kLongerThanTheTest);  // nobody is stuck, so Close need not use up its deadline
  EXPECT_EQ(me.transport().Send(me.rank(), {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(me.transport().Send(Next(me), {}).code(), absl::StatusCode::kFailedPrecondition);
  me.transport().Close(kLongerThanTheTest);  // again: nothing
}

}  // namespace

const std::vector<Rung>& Ladder() {
  static const auto& ladder = *new std::vector<Rung>{
      {"Rung01SelfSend", SelfSend},
      {"Rung02OrderIsKept", OrderIsKept},
      {"Rung03EverySizeArrivesWhole", EverySizeArrivesWhole},
      {"Rung04AllToAll", AllToAll},
      {"Rung05CountersAreExact", CountersAreExact},
      {"Rung06ManyThreadsSend", ManyThreadsSend},
      {"Rung07WakeEndsAPoll", WakeEndsAPoll},
      {"Rung08SlowReader", SlowReader},
      {"Rung09AStreamKeepsFlowing", AStreamKeepsFlowing},
      {"Rung10BadSendsAreRefused", BadSendsAreRefused},
      {"Rung11GoodbyeAndClose", GoodbyeAndClose},
  };
  return ladder;
}

std::string PatternBytes(size_t bytes, uint64_t seed) {
  std::string out(bytes, '\0');
  uint64_t word = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i < bytes; i += sizeof(word)) {
    word = word * 6364136223846793005 + 1442695040888963407;
    std::memcpy(out.data() + i, &word, std::min(sizeof(word), bytes - i));
  }
  return out;
}

void OnThreads(const std::vector<Transport*>& transports, absl::FunctionRef<void(Peer&)> climb) {
  std::vector<std::unique_ptr<Peer>> peers;
  for (Transport* transport : transports) peers.push_back(std::make_unique<Peer>(*transport));
  std::vector<std::thread> threads;
  for (auto& peer : peers) threads.emplace_back([&peer, climb] { climb(*peer); });
  for (auto& thread : threads) thread.join();
}

Peer::Peer(Transport& transport, Polling polling)
    : transport_(transport),
      inbox_(transport.size()),
      downs_(transport.size()),
      ups_(transport.size()),
      barriers_(transport.size()) {
  if (polling == Polling::kThread) StartPolling();
}

Peer::~Peer() { StopPolling(); }

void Peer::StartPolling() {
  stop_ = false;
  poller_ = std::thread([this] {
    while (!stop_) transport_.Poll(*this, kLongerThanTheTest);  // a wake-up that is lost fails it
  });
}

void Peer::StopPolling() {
  if (!poller_.joinable()) return;
  stop_ = true;
  transport_.Wake();
  poller_.join();
}

size_t Peer::waiting(int from) const {
  std::lock_guard lock(mutex_);
  return inbox_[from].size();
}

int Peer::ups(int peer) const {
  std::lock_guard lock(mutex_);
  return ups_[peer];
}

std::vector<absl::Status> Peer::downs(int peer) const {
  std::lock_guard lock(mutex_);
  return downs_[peer];
}

void Peer::MustSend(int to, Channel channel, std::string header, std::string payload) {
  const absl::Status status = transport_.Send(to, {channel, std::move(header), std::move(payload)});
  EXPECT_TRUE(status.ok()) << "rank " << rank() << " to " << to << ": " << status;
}

bool Peer::WaitUntil(absl::FunctionRef<bool()> done, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::unique_lock lock(mutex_);
  while (!done()) {
    if (absl::Now() > deadline) {
      ADD_FAILURE() << "rank " << rank() << " of " << size() << " waited " << timeout << " in vain";
      return false;
    }
    if (poller_.joinable()) {
      changed_.wait_for(lock, std::chrono::milliseconds(100));
    } else {
      lock.unlock();
      transport_.Poll(*this, absl::Milliseconds(20));
      lock.lock();
    }
  }
  return true;
}

std::vector<Message> Peer::Take(int from, size_t count) {
  WaitUntil([&] { return inbox_[from].size() >= count; });
  std::lock_guard lock(mutex_);
  std::vector<Message> out;
  while (!inbox_[from].empty() && out.size() < count) {
    out.push_back(std::move(inbox_[from].front()));
    inbox_[from].pop_front();
  }
  return out;
}

Message Peer::TakeOne(int from) {
  std::vector<Message> got = Take(from, 1);
  return got.empty() ? Message{} : std::move(got[0]);
}

void Peer::Barrier(int ranks) {
  if (ranks == 0) ranks = size();
  ++barriers_passed_;
  for (int to = 0; to < ranks; ++to) {
    if (to == rank()) continue;
    MustSend(to, Channel::kControl, kBarrierHeader, "");
    ++barrier_messages_sent_;
  }
  WaitUntil([&] {
    for (int from = 0; from < ranks; ++from) {
      if (from != rank() && barriers_[from] < barriers_passed_) return false;
    }
    return true;
  });
}

void Peer::OnMessage(int from, Message message) {
  std::lock_guard lock(mutex_);
  if (message.header == kBarrierHeader && message.channel == Channel::kControl) {
    ++barriers_[from];
  } else {
    inbox_[from].push_back(std::move(message));
  }
  changed_.notify_all();
}

void Peer::OnPeerUp(int peer) {
  std::lock_guard lock(mutex_);
  ++ups_[peer];
  changed_.notify_all();
}

void Peer::OnPeerDown(int peer, const absl::Status& why) {
  std::lock_guard lock(mutex_);
  downs_[peer].push_back(why);
  changed_.notify_all();
}

}  // namespace lombard::test
