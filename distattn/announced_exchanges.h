// The creditor's service of exchanges between GPUs (fabric/collectives.h): decides on announcements, submits
// what it has promised, and finds that it has ended.
//
// Service thread. While an exchange is under way that thread goes on serving others, and looks now and then
// whether the streams have passed (EndIfOver): it must not wait for a debtor's step, which may wait for it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "distattn/announced_attention.h"
#include "distattn/gpu_exchanger.h"

namespace lombard {

// Rows that one announcement may have, as many as a message with queries: a creditor's slice.
inline uint64_t AnnouncedRowsMax(int q_heads, const KvLayout& layout) {
  return kQueryBytesMax / (static_cast<uint64_t>(q_heads) * layout.head_dim * DTypeBytes(layout.dtype));
}

class AnnouncedExchanges {
 public:
  // Both borrowed.
  AnnouncedExchanges(GpuExchanger* exchanger, AnnouncedAttention* attention)
      : exchanger_(*exchanger), attention_(*attention) {}

  GpuExchanger& exchanger() { return exchanger_; }

  // What an announcement's items read.
  struct Reads {
    absl::Status status;  // not OK: some item's loan is not held here
    absl::Span<const SpanQuery> queries;
    std::vector<std::shared_ptr<const std::vector<BlockId>>> held;  // the queries' blocks stay meanwhile
  };
  // After EndIfOver. may_attend: the guard allows it. True: it was promised, and all is submitted; `promised`
  // is called before that, which may have to wait for the debtor (fabric/collectives.h).
  bool OnAnnouncement(const Announcement& announcement, Reads reads, bool may_attend,
                      absl::FunctionRef<void()> promised);
  bool under_way() const { return under_way_; }
  void EndIfOver();
  double TakeSeconds() { return std::exchange(seconds_, 0); }  // the GPU's, for those that have ended
  // Ends what is under way; still under_way() if the GPU hangs (GpuExchanger::hung).
  void Stop();
  SpanAttention::Counts counts() const { return attention_.counts(); }  // of the last one, in a layer

 private:
  void End();

  GpuExchanger& exchanger_;
  AnnouncedAttention& attention_;
  bool under_way_ = false;
  LoanPair pair_;
  uint64_t state_bytes_ = 0;
  double seconds_ = 0;
  std::vector<std::shared_ptr<const std::vector<BlockId>>> held_;
};

}  // namespace lombard
