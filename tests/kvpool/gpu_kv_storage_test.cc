// KV in a GPU's memory behaves as in the host's: the same calls on both, and the same bytes afterwards.
#include "kvpool/gpu_kv_storage.h"

#include <gtest/gtest.h>

#include <random>

#include "base/device/gpu_info.h"
#include "kvpool/kv_storage.h"

namespace lombard {
namespace {

TEST(GpuKvStorageTest, HoldsWhatHostMemoryWouldHold) {
  const GpuSearch found = FindGpus();
  if (found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
  constexpr uint64_t kSeed = 20261128;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  // 512 KiB a block, so that ten of them pass through the staging memory in several turns.
  const KvLayout layout{.dtype = DType::kBF16, .kv_heads = 8, .head_dim = 128, .block_tokens = 256};
  constexpr int kLayers = 2;
  constexpr uint32_t kBlocks = 12;
  const auto gpu = GpuKvStorage::Create(found.gpus[0].device, layout, kLayers, kBlocks);
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  const auto host = KvStorage::Create(layout, kLayers, kBlocks);
  ASSERT_TRUE(host.ok()) << host.status();
  const std::vector<const KvBytes*> both = {gpu->get(), host->get()};

  std::vector<BlockId> some;
  for (uint32_t i = 0; i < 10; ++i) some.push_back(BlockId{(7 * i + 3) % kBlocks});
  for (int layer = 0; layer < kLayers; ++layer) {
    std::string bytes(2 * static_cast<size_t>(layout.block_bytes()) * some.size(), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    for (const KvBytes* storage : both) ASSERT_TRUE(storage->Write(layer, some, bytes).ok());
  }
  for (const KvBytes* storage : both) {
    storage->Copy(some[0], some[4]);
    storage->Poison(some[2]);
  }
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const size_t count : {0, 1, 2, 3, 4, 10}) {
      const absl::Span<const BlockId> first = absl::MakeConstSpan(some).first(count);
      std::vector<std::string> bytes(2, "before");
      for (size_t i = 0; i < both.size(); ++i) ASSERT_TRUE(both[i]->AppendTo(layer, first, &bytes[i]).ok());
      EXPECT_TRUE(bytes[0] == bytes[1]) << count << " blocks, layer " << layer;
      EXPECT_EQ(bytes[0].size(), 6 + 2 * static_cast<size_t>(layout.block_bytes()) * count);
    }
  }
}

// Through a piece of device memory, from one storage to another, the bytes are those of AppendTo.
TEST(GpuKvStorageTest, APieceOfDeviceMemoryHoldsTheSameBytes) {
  const GpuSearch found = FindGpus();
  if (found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
  const int device = found.gpus[0].device;
  constexpr uint64_t kSeed = 20261129;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const KvLayout layout{.dtype = DType::kF16, .kv_heads = 2, .head_dim = 64, .block_tokens = 16};
  const auto from = GpuKvStorage::Create(device, layout, 2, 8),
             to = GpuKvStorage::Create(device, layout, 2, 8);
  ASSERT_TRUE(from.ok() && to.ok());
  const std::vector<BlockId> out = {BlockId{5}, BlockId{0}, BlockId{7}},
                             in = {BlockId{1}, BlockId{2}, BlockId{6}};
  const size_t bytes = 2 * static_cast<size_t>(layout.block_bytes()) * out.size();
  const auto none = (*from)->Gather(0, out);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(*none) << "no slots were made";

  auto slots = (*from)->MakeSlots();
  ASSERT_TRUE(slots.ok()) << slots.status();
  for (int layer = 0; layer < 2; ++layer) {
    std::string written(bytes, '\0'), before = "", after = "";
    for (char& byte : written) byte = static_cast<char>(random());
    ASSERT_TRUE((*from)->Write(layer, out, written).ok());
    const auto piece = (*from)->Gather(layer, out);
    ASSERT_TRUE(piece.ok()) << piece.status();
    ASSERT_TRUE(*piece);
    EXPECT_EQ(piece->bytes, bytes);
    (*from)->Poison(out[1]);  // the piece is a copy
    ASSERT_TRUE((*to)->Scatter(layer, in, *piece).ok());
    ASSERT_TRUE((*to)->AppendTo(layer, in, &after).ok());
    EXPECT_TRUE(after == written) << "layer " << layer;
  }
  std::vector<DeviceBytes> taken;
  while (DeviceBytes slot = (*slots)->Take(1)) taken.push_back(slot);
  const auto all_taken = (*from)->Gather(0, out);
  ASSERT_TRUE(all_taken.ok()) << all_taken.status();
  EXPECT_FALSE(*all_taken);
  taken.clear();
  slots->reset();
  const auto let_go = (*from)->Gather(0, out);
  ASSERT_TRUE(let_go.ok()) << let_go.status();
  EXPECT_FALSE(*let_go) << "nobody has the slots any more";
}

}  // namespace
}  // namespace lombard
