#include "kvpool/gpu_kv_storage.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/status.h"

namespace lombard {
namespace {

constexpr uint64_t kStagingBytes = 4 << 20;  // a guess: copies this long hide what starting one costs

}  // namespace

absl::StatusOr<std::unique_ptr<GpuKvStorage>> GpuKvStorage::Create(int device, const KvLayout& layout,
                                                                   int layers, uint32_t block_count) {
  CHECK_GT(layers, 0);
  CHECK_GT(layout.block_bytes(), 0);
  const auto created = [](auto made) {
    if (!made.ok())
      return decltype(made)(Annotate(made.status(),
                                     "KV memory (lower --kv-tokens, --kv-bytes or "
                                     "--gpu-memory-utilization)"));
    return made;
  };
  const uint64_t bytes = static_cast<uint64_t>(BlockBytes(layout, layers)) * block_count;
  ASSIGN_OR_RETURN(DeviceMemory memory, created(DeviceMemory::Create(device, std::max<uint64_t>(bytes, 1))));
  const uint64_t pair = 2 * static_cast<uint64_t>(layout.block_bytes());
  ASSIGN_OR_RETURN(PinnedMemory staging, PinnedMemory::Create(device, std::max(kStagingBytes, pair)));
  ASSIGN_OR_RETURN(GpuStream stream, GpuStream::Create(device));
  return std::unique_ptr<GpuKvStorage>(new GpuKvStorage(layout, layers, block_count, std::move(memory),
                                                        std::move(staging), std::move(stream)));
}

absl::Status GpuKvStorage::AppendTo(int layer, absl::Span<const BlockId> blocks, std::string* bytes) const {
  const size_t block_bytes = static_cast<size_t>(layout().block_bytes());
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(failure_);
  bytes->reserve(bytes->size() + 2 * block_bytes * blocks.size());
  for (size_t first = 0; first < blocks.size(); first += BlocksAtOnce()) {
    char* to = staging_.data<char>();
    for (const BlockId block : blocks.subspan(first, BlocksAtOnce())) {
      RETURN_IF_ERROR(stream_.Copy(to, k(layer, block), block_bytes));
      RETURN_IF_ERROR(stream_.Copy(to + block_bytes, v(layer, block), block_bytes));
      to += 2 * block_bytes;
    }
    RETURN_IF_ERROR(stream_.Synchronize());
    bytes->append(staging_.data<char>(), to);
  }
  return absl::OkStatus();
}

absl::Status GpuKvStorage::Write(int layer, absl::Span<const BlockId> blocks, absl::string_view bytes) const {
  const size_t block_bytes = static_cast<size_t>(layout().block_bytes());
  CHECK_EQ(bytes.size(), 2 * block_bytes * blocks.size());
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(failure_);
  for (size_t first = 0; first < blocks.size(); first += BlocksAtOnce()) {
    const absl::Span<const BlockId> some = blocks.subspan(first, BlocksAtOnce());
    std::memcpy(staging_.data(), bytes.data() + 2 * block_bytes * first, 2 * block_bytes * some.size());
    const char* from = staging_.data<char>();
    for (const BlockId block : some) {
      RETURN_IF_ERROR(stream_.Copy(k(layer, block), from, block_bytes));
      RETURN_IF_ERROR(stream_.Copy(v(layer, block), from + block_bytes, block_bytes));
      from += 2 * block_bytes;
    }
    RETURN_IF_ERROR(stream_.Synchronize());
  }
  return absl::OkStatus();
}

void GpuKvStorage::Poison(BlockId id) const {
  const uint64_t block_bytes = static_cast<uint64_t>(layout().block_bytes());
  std::lock_guard lock(mutex_);
  // All bits set is a quiet NaN in fp32, fp16 and bf16.
  for (int layer = 0; layer < layers(); ++layer) {
    failure_.Update(stream_.Fill(k(layer, id), 0xff, block_bytes));
    failure_.Update(stream_.Fill(v(layer, id), 0xff, block_bytes));
  }
  failure_.Update(stream_.Synchronize());
}

void GpuKvStorage::Copy(BlockId from, BlockId to) const {
  const uint64_t block_bytes = static_cast<uint64_t>(layout().block_bytes());
  std::lock_guard lock(mutex_);
  for (int layer = 0; layer < layers(); ++layer) {
    failure_.Update(stream_.Copy(k(layer, to), k(layer, from), block_bytes));
    failure_.Update(stream_.Copy(v(layer, to), v(layer, from), block_bytes));
  }
  failure_.Update(stream_.Synchronize());
}

}  // namespace lombard
