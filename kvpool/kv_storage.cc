#include "kvpool/kv_storage.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {

absl::StatusOr<std::unique_ptr<KvStorage>> KvStorage::Create(const KvLayout& layout, int layers,
                                                             uint32_t block_count) {
  CHECK_GT(layers, 0);
  CHECK_GT(layout.block_bytes(), 0);
  // One spare byte keeps an empty budget mappable.
  const size_t bytes = static_cast<size_t>(BlockBytes(layout, layers)) * block_count + 1;
  void* base =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot map ", FormatBytes(bytes), " for ", block_count,
                                                     " KV blocks: ", std::strerror(errno),
                                                     "; lower --kv-tokens or --kv-bytes"));
  }
  madvise(base, bytes, MADV_HUGEPAGE);  // advice only: without huge pages everything works, a little slower
  return std::unique_ptr<KvStorage>(
      new KvStorage(layout, layers, block_count, static_cast<std::byte*>(base), bytes));
}

KvStorage::~KvStorage() { munmap(base_, bytes_); }

absl::Status KvStorage::AppendTo(int layer, absl::Span<const BlockId> blocks, std::string* bytes) const {
  const size_t block_bytes = static_cast<size_t>(layout().block_bytes());
  bytes->reserve(bytes->size() + 2 * block_bytes * blocks.size());
  for (const BlockId block : blocks) {
    bytes->append(reinterpret_cast<const char*>(k(layer, block)), block_bytes);
    bytes->append(reinterpret_cast<const char*>(v(layer, block)), block_bytes);
  }
  return absl::OkStatus();
}

absl::Status KvStorage::Write(int layer, absl::Span<const BlockId> blocks, absl::string_view bytes) const {
  const size_t block_bytes = static_cast<size_t>(layout().block_bytes());
  CHECK_EQ(bytes.size(), 2 * block_bytes * blocks.size());
  const char* from = bytes.data();
  for (const BlockId block : blocks) {
    std::memcpy(k(layer, block), from, block_bytes);
    std::memcpy(v(layer, block), from + block_bytes, block_bytes);
    from += 2 * block_bytes;
  }
  return absl::OkStatus();
}

void KvStorage::Poison(BlockId id) const {
  // All bits set is a quiet NaN in fp32, fp16 and bf16.
  for (int layer = 0; layer < layers(); ++layer) {
    std::memset(k(layer, id), 0xff, static_cast<size_t>(layout().block_bytes()));
    std::memset(v(layer, id), 0xff, static_cast<size_t>(layout().block_bytes()));
  }
}

void KvStorage::Copy(BlockId from, BlockId to) const {
  const size_t bytes = static_cast<size_t>(layout().block_bytes());
  for (int layer = 0; layer < layers(); ++layer) {
    std::memcpy(k(layer, to), k(layer, from), bytes);
    std::memcpy(v(layer, to), v(layer, from), bytes);
  }
}

}  // namespace lombard
