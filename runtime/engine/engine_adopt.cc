// Requests whose home was lost: what creditors hold over of them is adopted, the rest computed again
// (fabric/messages/protocol.h, A DEBTOR LOST). And the other side of it: creditors are told what they hold.
#include <algorithm>

#include "kvpool/block_hash.h"
#include "runtime/engine/engine_internal.h"

namespace lombard {

absl::Span<const uint64_t> Engine::Names(Sequence& s, uint32_t blocks) const {
  const size_t block_tokens = options_.block_tokens;
  const absl::Span<const int32_t> tokens = s.tokens;
  while (s.names.size() < blocks) {
    const uint64_t before = s.names.empty() ? HashEmptyPrefix({.model_fingerprint = model_.fingerprint,
                                                               .kv_format = model_.kv_format,
                                                               .block_tokens = options_.block_tokens},
                                                              s.request.cache_salt)
                                            : s.names.back();
    s.names.push_back(HashBlock(before, tokens.subspan(s.names.size() * block_tokens, block_tokens)));
  }
  return absl::MakeConstSpan(s.names).first(blocks);
}

void Engine::TellStored(Sequence& s, const BlockExport& part) const {
  std::vector<SlotContent> contents;
  for (const BlockTable::Transit& t : part.blocks)
    contents.push_back({.block = t.block, .name = Names(s, t.block + 1)[t.block]});
  rmanager_->TellStored(part.blocks[0].loan, part.blocks[0].slot, contents);
}

bool Engine::StartAdoption(Sequence& s, absl::Time now) {
  const LostHome lost = *std::exchange(s.request.lost_home, std::nullopt);
  // The last token is computed in any case: its logits are wanted.
  const auto blocks = static_cast<uint32_t>((s.tokens.size() - 1) / options_.block_tokens);
  if (blocks == 0) return false;
  const absl::Span<const uint64_t> names = Names(s, blocks);
  for (const HeldOver::Block& block : rmanager_->AdoptOwn(s.id(), names)) {
    if (!s.table.AddAdoptedLocal(block.content.block, block.id)) pool_->Release(block.id);
  }
  for (uint64_t ticket : rmanager_->Adopt(s.id(), lost, {names.begin(), names.end()}, now))
    s.adoptions.insert(ticket);
  if (s.adoptions.empty() && s.table.end_block() == 0) return false;
  s.phase = SequencePhase::kAdopting;
  return true;
}

void Engine::Adopt(Sequence& s, const Borrowed& borrowed, absl::Time now) {
  const Loan& loan = borrowed.loans[0];
  if (!rmanager_->borrowed().contains(loan.id)) return;  // lost meanwhile
  if (s.table.AddAdopted(loan.id, loan.epoch, loan.creditor, borrowed.adopted) > 0) return;
  s.table.EndLoan(loan.id);
  rmanager_->Repay(loan.id, now);
}

// Everyone has answered: with the rest of its memory it runs, without it holds nothing.
void Engine::FinishAdoptions(absl::Time now) {
  std::vector<Sequence*> ready;
  for (const SequencePtr& s : running_) {
    if (s->phase == SequencePhase::kAdopting && s->adoptions.empty()) ready.push_back(s.get());
  }
  for (Sequence* s : ready) {
    const uint64_t tokens = std::min<uint64_t>(s->tokens.size() + options_.headroom_tokens, s->tokens_max());
    const uint32_t adopted = s->table.local_blocks() + s->table.lent_blocks();
    if (adopted > 0 && TakeMemory(*s, BlocksFor(tokens) - adopted, /*patient=*/false, now)) {
      recovery_.adopted_tokens += uint64_t{adopted} * options_.block_tokens;
      continue;
    }
    ReleaseMemory(*s, now);
    if (adopted > 0) Block(*s, BlocksFor(tokens), now);
    BackToWaiting(*s);
  }
}

}  // namespace lombard
