// Goal: KV that is lent and fetched back has the same bytes whichever way it goes: from GPU to GPU in device
// memory, or through the host's where an end is a CPU or no slot is free. Method: client and service of two
// ranks over the loopback transport, and blocks that need several messages.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "base/device/gpu_info.h"
#include "distattn/kv_payload.h"
#include "distattn/remote_client.h"
#include "distattn/remote_service.h"
#include "fabric/loopback_transport.h"
#include "kvpool/gpu_kv_storage.h"
#include "kvpool/kv_storage.h"

namespace lombard {
namespace {

constexpr int kLayers = 2;
constexpr uint32_t kBlocks = 12, kLent = 10;
// 1 MiB a block in each layer: a message takes four.
constexpr KvLayout kLayout{.dtype = DType::kBF16, .kv_heads = 8, .head_dim = 128, .block_tokens = 256};
constexpr size_t kPairBytes = 2 * 8 * 128 * 256 * 2;

// [debtor, creditor] compute on a GPU
class GpuKvPayloadTest : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  struct ToClient : TransportHandler {
    explicit ToClient(RemoteClient* c) : client(c) {}
    void OnMessage(int from, Message message) override { client->OnMessage(from, std::move(message)); }
    void OnPeerDown(int, const absl::Status&) override {}
    RemoteClient* client;
  };
  struct ToService : TransportHandler {
    explicit ToService(RemoteService* s) : service(s) {}
    void OnMessage(int from, Message message) override { service->Enqueue(from, std::move(message)); }
    void OnPeerDown(int, const absl::Status&) override {}
    RemoteService* service;
  };

  void SetUp() override {
    const auto [debtor, creditor] = GetParam();
    const GpuSearch found = FindGpus();
    if ((debtor || creditor) && found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
    transports_ = MakeLoopbackTransports(2);
    for (const bool on_gpu : {debtor, creditor}) {
      const size_t rank = storages_.size();
      if (!on_gpu) {
        storages_.push_back(*KvStorage::Create(kLayout, kLayers, kBlocks));
        continue;
      }
      auto storage = GpuKvStorage::Create(found.gpus[0].device, kLayout, kLayers, kBlocks);
      ASSERT_TRUE(storage.ok()) << storage.status();
      auto slots = (*storage)->MakeSlots();
      ASSERT_TRUE(slots.ok()) << slots.status();
      ASSERT_TRUE(transports_[rank]->UseDeviceSlots(*slots, false).ok());
      slots_.push_back(*slots);
      storages_.push_back(*std::move(storage));
    }
    client_ = std::make_unique<RemoteClient>(RemoteClient::Options{.on_transfer = {}}, /*q_heads=*/8,
                                             transports_[0].get(), storages_[0].get());
    service_ = std::make_unique<RemoteService>(RemoteService::Options{.q_heads = 8}, storages_[1].get(),
                                               /*attention=*/nullptr, transports_[1].get(),
                                               [](int, LoanId, uint64_t, bool) {
                                                 std::vector<BlockId> hosted;
                                                 for (uint32_t slot = 0; slot < kLent + 1; ++slot)
                                                   hosted.push_back(BlockId{kBlocks - 1 - slot});
                                                 return std::make_shared<const std::vector<BlockId>>(hosted);
                                               });
    serving_ = std::thread([this] { service_->Serve(); });
  }
  void TearDown() override { EndService(); }
  void EndService() {
    if (service_ != nullptr) service_->Stop();
    if (serving_.joinable()) serving_.join();
  }

  void Finish(uint64_t transfer) {
    ToClient client(client_.get());
    ToService service(service_.get());
    while (!client_->transfer(transfer).done()) {
      transports_[1]->Poll(service, absl::Milliseconds(1));
      transports_[0]->Poll(client, absl::Milliseconds(1));
    }
    EXPECT_TRUE(client_->transfer(transfer).status.ok()) << client_->transfer(transfer).status;
  }

  std::vector<std::unique_ptr<Transport>> transports_;
  std::vector<std::unique_ptr<KvBytes>> storages_;
  std::vector<std::shared_ptr<DeviceSlots>> slots_;
  std::unique_ptr<RemoteClient> client_;
  std::unique_ptr<RemoteService> service_;
  std::thread serving_;
};

INSTANTIATE_TEST_SUITE_P(, GpuKvPayloadTest, testing::Combine(testing::Bool(), testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "Gpu" : "Cpu") + "Borrows" +
                                  (std::get<1>(info.param) ? "FromGpu" : "FromCpu");
                         });

TEST_P(GpuKvPayloadTest, WhatIsLentComesBackAsItWas) {
  constexpr uint64_t kSeed = 20261130;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  KvSlots lent{.transfer = 1, .creditor = 1, .loan = LoanId{1}, .first_slot = 1, .blocks = {}};
  for (uint32_t i = 0; i < kLent; ++i) lent.blocks.push_back(BlockId{(5 * i + 2) % kBlocks});
  std::vector<std::string> written(kLayers);
  for (int layer = 0; layer < kLayers; ++layer) {
    for (size_t i = 0; i < kLent * kPairBytes; i += 8) {
      const uint64_t word = random();
      written[layer].append(reinterpret_cast<const char*>(&word), 8);
    }
    ASSERT_TRUE(storages_[0]->Write(layer, lent.blocks, written[layer]).ok());
  }
  uint64_t rounds = 0;
  // In the second round others hold all slots but one.
  for (const bool slots_are_few : {false, true}) {
    ++rounds;
    std::vector<DeviceBytes> taken;
    for (const auto& slots : slots_) {
      while (slots_are_few && slots->free_count() > 1) taken.push_back(slots->Take(1));
    }
    lent.transfer = 2 * rounds;
    for (int layer = 0; layer < kLayers; ++layer) client_->SendKv(lent, layer);
    EXPECT_EQ(client_->transfer(lent.transfer).sent, kLayers * 3u) << "parts of 4, 4 and 2 blocks";
    Finish(lent.transfer);
    for (const BlockId block : lent.blocks) storages_[0]->Poison(block);
    lent.transfer = 2 * rounds + 1;
    for (int layer = 0; layer < kLayers; ++layer) client_->FetchKv(lent, layer);
    Finish(lent.transfer);
    for (int layer = 0; layer < kLayers; ++layer) {
      std::string back;
      ASSERT_TRUE(storages_[0]->AppendTo(layer, lent.blocks, &back).ok());
      EXPECT_TRUE(back == written[layer]) << "layer " << layer;
    }
  }
  EndService();  // it lets go of its last message after the answer
  const RemoteService::Counters counters = service_->counters();
  EXPECT_EQ(counters.blocks_written, rounds * kLayers * kLent);
  EXPECT_EQ(counters.blocks_read, rounds * kLayers * kLent);
  const uint64_t all = counters.blocks_written + counters.blocks_read;
  if (std::get<0>(GetParam()) && std::get<1>(GetParam())) {
    EXPECT_GE(counters.blocks_direct, all / 2) << "with slots enough, all";
    EXPECT_LT(counters.blocks_direct, all) << "with one slot, not all";
  } else {
    EXPECT_EQ(counters.blocks_direct, 0u);
  }
  for (const auto& slots : slots_) EXPECT_EQ(slots->free_count(), 16);
}

}  // namespace
}  // namespace lombard
