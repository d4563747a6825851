// Service threads read the hosted loans while the step thread lends, is repaid and uses the freed blocks
// itself. Method: the step thread writes a mark into each block that it takes for itself and wipes it before
// it gives the block back; a reader must never see a mark in a loan it holds. Under thread sanitizer this
// also shows that no further synchronisation is needed.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "rmanager/lent_ledger.h"

namespace lombard {
namespace {

TEST(HostedThreadsTest, ABlockIsNeverReusedWhileAReaderHoldsItsLoan) {
  constexpr uint32_t kBlocks = 32;
  constexpr InstanceId kDebtor{1};
  KvPool pool(kBlocks);
  LentLedger ledger({.self = InstanceId{0}, .incarnation = Incarnation{1}, .lease = absl::Seconds(1)}, &pool);
  std::array<int, kBlocks> marks{};  // plain memory, like KV bytes
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> reads{0}, wrong{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!stop) {
        const std::shared_ptr<const HostedLoans> hosted = ledger.hosted();
        for (const auto& [id, slots] : hosted->loans) {
          for (BlockId block : slots->blocks) wrong += marks[Value(block)];
          ++reads;
        }
      }
    });
  }
  uint64_t ticket = 0;
  const absl::Time now = absl::UnixEpoch();
  std::vector<Loan> active;
  while (reads < 20000 && ticket < 2000000) {
    ++ticket;
    if (const std::optional<Loan> loan =
            ledger.Reserve(kDebtor, ticket, {1, ticket}, 1 + ticket % 7, UINT32_MAX, now)) {
      ASSERT_TRUE(ledger.Activate(kDebtor, loan->id, loan->epoch));
      active.push_back(*loan);
    }
    if (active.size() > 4 || ledger.lendable() < 8) {
      if (!active.empty()) {
        ledger.Repay(kDebtor, active.front().id, active.front().epoch);
        active.erase(active.begin());
      }
      ledger.Tick(now);
      const std::vector<BlockId> own = *pool.Allocate(pool.free_count());
      for (BlockId block : own) marks[Value(block)] = 1;
      std::atomic_signal_fence(std::memory_order_seq_cst);  // both stores stay
      for (BlockId block : own) marks[Value(block)] = 0;
      pool.ReleaseAll(own);
    }
    if (ticket % 64 == 0) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(reads, 20000);
  for (const Loan& loan : active) ledger.Repay(kDebtor, loan.id, loan.epoch);
  ledger.Tick(now);
  EXPECT_EQ(pool.free_count(), kBlocks);
}

}  // namespace
}  // namespace lombard
