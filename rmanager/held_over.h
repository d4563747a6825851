// Blocks that lost debtors had borrowed here, kept for a while so that their requests' new homes can adopt
// them (fabric/messages/protocol.h, A DEBTOR LOST). To the pool they are free: it takes them back before
// anything else when memory is wanted.
//
// Step thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "base/planted_bug.h"
#include "kvpool/kv_pool.h"
#include "rmanager/loans.h"

namespace lombard {

class HeldOver final : public BlockCache {
 public:
  struct Block {
    SlotContent content;
    BlockId id{};
  };
  HeldOver(KvPool* pool, PlantedBug bug) : pool_(pool), bug_(bug) { pool->set_held_over(this); }
  ~HeldOver() override { pool_->set_held_over(nullptr); }
  HeldOver(const HeldOver&) = delete;
  HeldOver& operator=(const HeldOver&) = delete;

  // Takes over the pool's references to the blocks.
  void Keep(RequestId request, std::vector<Block> blocks, absl::Time until);
  // At most `limit` blocks of the request that hold what `names` says, by block of the sequence, each of them
  // once; the caller has the references now. The request's other blocks are freed.
  std::vector<Block> Adopt(RequestId request, absl::Span<const uint64_t> names, size_t limit);
  void Tick(absl::Time now);  // frees what is over
  absl::Time NextDeadline() const;
  void Clear() { Evict(unread_blocks()); }

  uint32_t unread_blocks() const override;
  uint32_t Evict(uint32_t count) override;

  std::vector<BlockId> blocks() const;  // for whoever audits them

 private:
  struct Span {
    RequestId request;
    std::vector<Block> blocks;
    absl::Time until;
  };
  KvPool* const pool_;
  const PlantedBug bug_;
  std::vector<Span> spans_;  // in the order they came
};

}  // namespace lombard
