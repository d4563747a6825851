#include "kvpool/gpu_kv_storage.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/device/gpu_info.h"
#include "base/status.h"

namespace lombard {
namespace {

constexpr uint64_t kHalfBytes = 2 << 20;  // a guess: copies this long hide what starting one costs

// A guess: a message's worth (distattn/wire.h), and enough of them to keep a link busy while others are
// written and read.
constexpr uint64_t kSlotBytes = 4 << 20;
constexpr int kSlots = 16;

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
  std::vector<Half> halves;
  for (int i = 0; i < 2; ++i) {
    ASSIGN_OR_RETURN(PinnedMemory pinned, PinnedMemory::Create(device, std::max(kHalfBytes, pair)));
    ASSIGN_OR_RETURN(GpuEvent passed, GpuEvent::Create(device));
    halves.push_back({std::move(pinned), std::move(passed)});
  }
  ASSIGN_OR_RETURN(GpuStream stream, GpuStream::Create(device));
  return std::unique_ptr<GpuKvStorage>(
      new GpuKvStorage(layout, layers, block_count, std::move(memory), std::move(halves), std::move(stream)));
}

absl::Status GpuKvStorage::InTurns(absl::Span<const BlockId> blocks,
                                   absl::FunctionRef<absl::Status(Half&, absl::Span<const BlockId>)> begin,
                                   absl::FunctionRef<void(const Half&, size_t blocks)> end) const {
  RETURN_IF_ERROR(failure_);
  const size_t at_once = halves_[0].memory.bytes() / (2 * static_cast<size_t>(layout().block_bytes()));
  size_t begun[2] = {};  // blocks in each half
  absl::Status status;
  for (int turn = 0; status.ok() && (!blocks.empty() || begun[0] + begun[1] > 0); turn = 1 - turn) {
    Half& half = halves_[turn];
    if (begun[turn] > 0) {
      status = half.passed.Synchronize();
      if (!status.ok()) break;
      end(half, std::exchange(begun[turn], 0));
    }
    if (blocks.empty()) continue;
    const absl::Span<const BlockId> some = blocks.subspan(0, at_once);
    blocks.remove_prefix(some.size());
    begun[turn] = some.size();
    status = begin(half, some);
    if (status.ok()) status = stream_.Record(half.passed);
  }
  if (!status.ok()) stream_.Synchronize().IgnoreError();  // the halves are used again
  return status;
}

absl::Status GpuKvStorage::AppendTo(int layer, absl::Span<const BlockId> blocks, std::string* bytes) const {
  const size_t block_bytes = static_cast<size_t>(layout().block_bytes());
  std::lock_guard lock(mutex_);
  bytes->reserve(bytes->size() + 2 * block_bytes * blocks.size());
  return InTurns(
      blocks,
      [&](Half& half, absl::Span<const BlockId> some) {
        char* to = half.memory.data<char>();
        for (const BlockId block : some) {
          RETURN_IF_ERROR(stream_.Copy(to, k(layer, block), block_bytes));
          RETURN_IF_ERROR(stream_.Copy(to + block_bytes, v(layer, block), block_bytes));
          to += 2 * block_bytes;
        }
        return absl::OkStatus();
      },
      [&](const Half& half, size_t count) {
        bytes->append(half.memory.data<char>(), 2 * block_bytes * count);
      });
}

absl::Status GpuKvStorage::Write(int layer, absl::Span<const BlockId> blocks, absl::string_view bytes) const {
  const size_t block_bytes = static_cast<size_t>(layout().block_bytes());
  CHECK_EQ(bytes.size(), 2 * block_bytes * blocks.size());
  std::lock_guard lock(mutex_);
  return InTurns(
      blocks,
      [&](Half& half, absl::Span<const BlockId> some) {
        const char* from = half.memory.data<char>();
        std::memcpy(half.memory.data(), bytes.data(), 2 * block_bytes * some.size());
        bytes.remove_prefix(2 * block_bytes * some.size());
        for (const BlockId block : some) {
          RETURN_IF_ERROR(stream_.Copy(k(layer, block), from, block_bytes));
          RETURN_IF_ERROR(stream_.Copy(v(layer, block), from + block_bytes, block_bytes));
          from += 2 * block_bytes;
        }
        return absl::OkStatus();
      },
      [](const Half&, size_t) {});
}

absl::StatusOr<std::shared_ptr<DeviceSlots>> GpuKvStorage::MakeSlots() {
  const int device = stream_.device();
  ASSIGN_OR_RETURN(DeviceMemory made, DeviceMemory::Create(device, kSlots * kSlotBytes));
  const auto memory = std::make_shared<DeviceMemory>(std::move(made));
  GpuInfo info;
  for (const GpuInfo& gpu : FindGpus().gpus) {
    if (gpu.device == device) info = gpu;
  }
  auto slots = DeviceSlots::Create({.memory = std::shared_ptr<std::byte>(memory, memory->data<std::byte>()),
                                    .slot_bytes = kSlotBytes,
                                    .count = kSlots,
                                    .on_host = info.on_host,
                                    .dma_buf = info.dma_buf,
                                    // An error shows at the next call that names the device.
                                    .make_current = [device] { MakeGpuCurrent(device).IgnoreError(); }});
  slots_ = slots;
  return slots;
}

absl::Status GpuKvStorage::CopyPiece(int layer, absl::Span<const BlockId> blocks, std::byte* piece,
                                     bool to_piece) const {
  const uint64_t block_bytes = static_cast<uint64_t>(layout().block_bytes());
  absl::Status status;
  for (const BlockId block : blocks) {
    for (std::byte* const slab : {k(layer, block), v(layer, block)}) {
      status.Update(to_piece ? stream_.Copy(piece, slab, block_bytes)
                             : stream_.Copy(slab, piece, block_bytes));
      piece += block_bytes;
    }
  }
  status.Update(stream_.Synchronize());  // in any case: the piece is used again
  return status;
}

absl::StatusOr<DeviceBytes> GpuKvStorage::Gather(int layer, absl::Span<const BlockId> blocks) const {
  DeviceBytes bytes;
  if (const auto slots = slots_.lock(); slots != nullptr)
    bytes = slots->Take(2 * static_cast<size_t>(layout().block_bytes()) * blocks.size());
  if (!bytes) return bytes;
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(failure_);
  RETURN_IF_ERROR(CopyPiece(layer, blocks, bytes.data.get(), /*to_piece=*/true));
  return bytes;
}

absl::Status GpuKvStorage::Scatter(int layer, absl::Span<const BlockId> blocks,
                                   const DeviceBytes& bytes) const {
  CHECK_EQ(bytes.bytes, 2 * static_cast<size_t>(layout().block_bytes()) * blocks.size());
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(failure_);
  // What a network device wrote before the host learned of it is seen by work that is enqueued from here on.
  return CopyPiece(layer, blocks, bytes.data.get(), /*to_piece=*/false);
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
