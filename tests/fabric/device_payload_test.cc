// Payloads in device memory, over every transport that takes them. Host memory stands for the GPUs': what UCX
// does with it between a rendezvous' two ends is the same but for how the bytes are reached.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/device/device_slots.h"
#include "fabric/loopback_transport.h"
#include "tests/fabric/transport_ladder.h"
#if LOMBARD_UCX
#include "fabric/ucx/gpu_direct.h"
#include "fabric/ucx/ucx_transport.h"
#endif

namespace lombard {
namespace {

using test::PatternBytes;
using test::Peer;

constexpr size_t kSlotBytes = 300000;
constexpr int kSlots = 3;

std::shared_ptr<DeviceSlots> MakeSlots(size_t slot_bytes = kSlotBytes) {
  const std::shared_ptr<std::byte[]> memory(new std::byte[slot_bytes * kSlots]);
  return DeviceSlots::Create({.memory = std::shared_ptr<std::byte>(memory, memory.get()),
                              .slot_bytes = slot_bytes,
                              .count = kSlots,
                              .on_host = true});
}

TEST(DeviceSlotsTest, ASlotComesBackWithTheLastWhoHoldsIt) {
  std::shared_ptr<DeviceSlots> slots = MakeSlots(100);
  EXPECT_FALSE(slots->Take(101));
  std::vector<DeviceBytes> taken;
  for (int i = 0; i < kSlots; ++i) {
    taken.push_back(slots->Take(100));
    ASSERT_TRUE(taken.back());
    std::memset(taken.back().data.get(), i, 100);
  }
  for (int i = 0; i < kSlots; ++i) EXPECT_EQ(static_cast<int>(taken[i].data.get()[99]), i) << "they overlap";
  EXPECT_FALSE(slots->Take(1));
  DeviceBytes other = taken[0];
  taken.clear();
  EXPECT_EQ(slots->free_count(), kSlots - 1);
  slots.reset();  // the piece keeps its memory
  std::memset(other.data.get(), 1, 100);
}

// What makes a connected job of transports.
struct Backend {
  const char* name;
  std::vector<std::unique_ptr<Transport>> (*make)(int size);
};

#if LOMBARD_UCX
std::vector<std::unique_ptr<Transport>> MakeUcxOver(const char* tls, int size) {
  UcxProfile profile = *ChooseUcxProfile(InspectUcxHost(/*single_host=*/true), "rendezvous");
  profile.config.push_back({"TLS", tls});
  profile.config.push_back({"NET_DEVICES", "lo"});
  std::vector<std::unique_ptr<UcxTransport>> made;
  std::vector<std::string> addresses;
  for (int i = 0; i < size; ++i) {
    made.push_back(*UcxTransport::Create(profile));
    addresses.push_back(made[i]->address());
  }
  std::vector<std::unique_ptr<Transport>> transports;
  for (int i = 0; i < size; ++i) {
    EXPECT_TRUE(made[i]->Connect(i, addresses).ok());
    transports.push_back(std::move(made[i]));
  }
  return transports;
}
std::vector<std::unique_ptr<Transport>> MakeUcx(int size) {
  return MakeUcxOver("self,posix,sysv,cma,tcp", size);
}
std::vector<std::unique_ptr<Transport>> MakeUcxTcp(int size) { return MakeUcxOver("self,tcp", size); }
#endif

class DevicePayload : public testing::TestWithParam<Backend> {};
constexpr Backend kBackends[] = {{"Loopback", [](int size) { return MakeLoopbackTransports(size); }},
#if LOMBARD_UCX
                                 {"Ucx", MakeUcx},
                                 {"UcxTcp", MakeUcxTcp}
#endif
};
INSTANTIATE_TEST_SUITE_P(, DevicePayload, testing::ValuesIn(kBackends),
                         [](const auto& info) { return std::string(info.param.name); });

std::string BytesOf(const Message& message) {
  if (!message.device_payload) return message.payload;
  EXPECT_TRUE(message.payload.empty());
  return std::string(reinterpret_cast<const char*>(message.device_payload.data.get()),
                     message.device_payload.bytes);
}

// Both send to both, device payloads among others and of all sizes. Where the sender has no slot left it
// sends from host memory, where the reader has none the payload comes there.
TEST_P(DevicePayload, ArriveWholeAndInOrderAmongOthers) {
  const auto transports = GetParam().make(2);
  std::vector<std::shared_ptr<DeviceSlots>> slots = {MakeSlots(), MakeSlots()};
  std::atomic<int> sent_direct{0}, came_direct{0};
  std::vector<Transport*> raw;
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(transports[rank]->device_payload_max(1 - rank), 0u) << "before slots are there";
    const absl::Status used = transports[rank]->UseDeviceSlots(slots[rank], /*insist=*/false);
    ASSERT_TRUE(used.ok()) << used;
    raw.push_back(transports[rank].get());
  }
  test::OnThreads(raw, [&](Peer& me) {
    constexpr int kMessages = 300;
    const int other = 1 - me.rank();
    me.Barrier();  // both have slots
    ASSERT_EQ(me.transport().device_payload_max(other), kSlotBytes);
    std::mt19937_64 random(me.rank() + 1);
    SCOPED_TRACE(testing::Message() << "seed " << me.rank() + 1);
    uint64_t bytes_sent = 0;
    const uint64_t before = me.transport().counters().payload_bytes[static_cast<int>(Channel::kKv)];
    for (int i = 0; i < kMessages; ++i) {
      const size_t bytes = 1 + random() % (i % 3 == 0 ? 200 : kSlotBytes);
      const std::string pattern = PatternBytes(bytes, static_cast<uint64_t>(i));
      Message message{
          .channel = Channel::kKv, .header = absl::StrCat(i), .payload = {}, .device_payload = {}};
      if (i % 2 == 0) message.device_payload = slots[me.rank()]->Take(bytes);
      if (message.device_payload) {
        std::memcpy(message.device_payload.data.get(), pattern.data(), bytes);
        ++sent_direct;
      } else {
        message.payload = pattern;
      }
      const absl::Status sent = me.transport().Send(other, std::move(message));
      ASSERT_TRUE(sent.ok()) << sent;
      bytes_sent += bytes;
      if (i % 5 != 4) continue;
      for (Message& got : me.Take(other, 5)) {
        const int number = std::stoi(got.header);
        came_direct += got.device_payload ? 1 : 0;
        const std::string there = BytesOf(got);
        ASSERT_TRUE(there == PatternBytes(there.size(), static_cast<uint64_t>(number))) << number;
      }
    }
    me.Barrier();
    EXPECT_EQ(me.transport().counters().payload_bytes[static_cast<int>(Channel::kKv)] - before, bytes_sent);
  });
  EXPECT_GT(sent_direct.load(), 100);
  EXPECT_GT(came_direct.load(), 100);
  for (const auto& of_rank : slots) EXPECT_EQ(of_rank->free_count(), kSlots) << "a slot did not come back";
}

TEST_P(DevicePayload, OnesThatAreTooLargeAreRefused) {
  const auto transports = GetParam().make(2);
  const auto slots = MakeSlots();
  Message message{.channel = Channel::kKv, .header = "h", .payload = {}, .device_payload = slots->Take(100)};
  EXPECT_EQ(transports[0]->Send(1, message).code(), absl::StatusCode::kInvalidArgument) << "no slots in use";
  for (const auto& transport : transports) {
    ASSERT_TRUE(transport->UseDeviceSlots(MakeSlots(), false).ok());
  }
  message.device_payload.bytes = kSlotBytes + 1;
  EXPECT_EQ(transports[0]->Send(1, message).code(), absl::StatusCode::kInvalidArgument);
  message.device_payload.bytes = 100;
  message.header = std::string(kDevicePayloadHeaderBytesMax + 1, 'h');
  EXPECT_EQ(transports[0]->Send(1, message).code(), absl::StatusCode::kInvalidArgument);
  message.header = "h", message.payload = "p";
  EXPECT_EQ(transports[0]->Send(1, message).code(), absl::StatusCode::kInvalidArgument);
}

#if LOMBARD_UCX

TEST(GpuDirectTest, EagerProfilesHaveNone) {
  const auto transport = UcxTransport::Create(*ChooseUcxProfile(InspectUcxHost(true), "tcp"));
  ASSERT_TRUE(transport.ok()) << transport.status();
  const absl::Status used = (*transport)->UseDeviceSlots(MakeSlots(), /*insist=*/true);
  EXPECT_EQ(used.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(used.message()), testing::HasSubstr("profile tcp"));
}

// The reader keeps all of its slots: what comes then lies in host memory.
TEST(GpuDirectTest, WithoutAFreeSlotAtTheReaderThePayloadComesInHostMemory) {
  const auto transports = MakeUcx(2);
  const auto mine = MakeSlots(), its = MakeSlots();
  ASSERT_TRUE(transports[0]->UseDeviceSlots(mine, false).ok());
  Peer sender(*transports[0]), reader(*transports[1]);
  for (const bool has_slots : {false, true}) {
    if (has_slots) {
      ASSERT_TRUE(transports[1]->UseDeviceSlots(its, false).ok());
    }
    std::vector<Message> kept;
    for (int i = 0; i < kSlots + 2; ++i) {
      Message message{.channel = Channel::kKv, .header = "h", .payload = {}, .device_payload = {}};
      sender.WaitUntil([&] {
        message.device_payload = mine->Take(100);
        return static_cast<bool>(message.device_payload);
      });
      std::memset(message.device_payload.data.get(), 7, 100);
      ASSERT_TRUE(transports[0]->Send(1, std::move(message)).ok());
      kept.push_back(reader.TakeOne(0));
      EXPECT_EQ(static_cast<bool>(kept.back().device_payload), has_slots && i < kSlots) << i;
      EXPECT_TRUE(BytesOf(kept.back()) == std::string(100, 7)) << i;
    }
  }
}

// A peer that is gone in the middle: its connection breaks, and what was on its way gives its slots back.
TEST(GpuDirectTest, APeerThatIsGoneHoldsNoSlots) {
  auto transports = MakeUcxTcp(2);
  const auto mine = MakeSlots(), its = MakeSlots();
  ASSERT_TRUE(transports[0]->UseDeviceSlots(mine, false).ok());
  ASSERT_TRUE(transports[1]->UseDeviceSlots(its, false).ok());
  {
    Peer sender(*transports[0]);
    {
      Peer reader(*transports[1]);
      sender.MustSend(1, Channel::kControl, "connected", "");
      reader.TakeOne(0);
    }
    for (int i = 0; i < kSlots; ++i) {  // nobody reads them
      ASSERT_TRUE(transports[0]
                      ->Send(1, {.channel = Channel::kKv,
                                 .header = "h",
                                 .payload = {},
                                 .device_payload = mine->Take(kSlotBytes)})
                      .ok());
    }
    transports[1].reset();
    EXPECT_TRUE(sender.WaitUntil([&] { return !sender.downs(1).empty(); }));
    EXPECT_TRUE(sender.WaitUntil([&] { return mine->free_count() == kSlots; }));
  }
}

TEST(GpuDirectTest, WhatIsMissingIsSaid) {
  GpuDirectHost host{.ucx_version = "1.16.0",
                     .ucx_moves_cuda = true,
                     .ucx_knows_dma_buf = true,
                     .gpu_gives_dma_buf = true,
                     .has_peer_memory_module = false};
  EXPECT_TRUE(CheckGpuDirect(host, false).ok());
  host.gpu_gives_dma_buf = false;
  const absl::Status no_way = CheckGpuDirect(host, false);
  EXPECT_EQ(no_way.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_way.message()), testing::HasSubstr("nvidia_peermem"));
  EXPECT_TRUE(CheckGpuDirect(host, /*insist=*/true).ok());
  host.has_peer_memory_module = true;
  EXPECT_TRUE(CheckGpuDirect(host, false).ok());
  host = {.ucx_version = "1.12.0", .ucx_moves_cuda = true, .gpu_gives_dma_buf = true};
  EXPECT_FALSE(CheckGpuDirect(host, false).ok()) << "this UCX does not know dma-buf";
  host.ucx_moves_cuda = false;
  EXPECT_THAT(std::string(CheckGpuDirect(host, true).message()), testing::HasSubstr("UCX 1.12.0"));
}

TEST(GpuDirectTest, TheKernelModuleIsFoundUnderEachOfItsNames) {
  namespace fs = std::filesystem;
  std::string root = testing::TempDir() + "/gpu_direct_XXXXXX";
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  for (const char* folder :
       {"/sys/module/nvidia_peermem", "/sys/module/nv_peer_mem", "/sys/kernel/mm/memory_peers/nv_mem"}) {
    EXPECT_FALSE(HasPeerMemoryModule(root));
    fs::create_directories(root + folder);
    EXPECT_FALSE(HasPeerMemoryModule(root));
    std::ofstream(root + folder + "/version") << "580.65";
    EXPECT_TRUE(HasPeerMemoryModule(root)) << folder;
    fs::remove_all(root + "/sys");
  }
  fs::remove_all(root);
}

#endif

}  // namespace
}  // namespace lombard
