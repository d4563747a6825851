#include "distattn/gpu_step_exchange.h"

#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status.h"
#include "distattn/announced_exchanges.h"

namespace lombard {

absl::StatusOr<std::unique_ptr<GpuStepExchange>> GpuStepExchange::Create(GpuExchanger* exchanger, int q_heads,
                                                                         const KvLayout& layout, int layers,
                                                                         GpuStream* main) {
  ASSIGN_OR_RETURN(GpuStream side, GpuStream::Create(main->device(), /*priority=*/-1));
  return std::unique_ptr<GpuStepExchange>(
      new GpuStepExchange(exchanger, q_heads, layout, layers, main, std::move(side)));
}

GpuStepExchange::~GpuStepExchange() {
  if (running()) End().IgnoreError();
}

absl::Status GpuStepExchange::PlaceParts(const std::map<int, int>& rows_of) {
  const uint64_t query_row = row_elements() * DTypeBytes(layout_.dtype),
                 state_row = (row_elements() + 2 * static_cast<uint64_t>(q_heads_)) * sizeof(float);
  uint64_t bytes = 0;
  for (const auto& [creditor, rows] : rows_of) bytes += rows * (query_row + state_row) + 32;
  if (bytes > memory_.bytes()) {
    memory_.Reset();
    ASSIGN_OR_RETURN(memory_, DeviceMemory::Create(main_.device(), bytes + bytes / 2));
  }
  parts_.clear();
  char* at = memory_.data<char>();
  for (const auto& [creditor, rows] : rows_of) {
    GpuExchangePart& part = parts_.emplace_back(GpuExchangePart{.other = creditor});
    part.states = at, part.state_bytes = rows * state_row;
    at += (part.state_bytes + 15) / 16 * 16;
    part.query = at, part.query_bytes = rows * query_row;
    at += (part.query_bytes + 15) / 16 * 16;
  }
  return absl::OkStatus();
}

absl::Status GpuStepExchange::Begin(uint64_t step, std::vector<LentRows>* spans) {
  CHECK(!running());
  std::map<int, GpuExchanger::Wish> wish_of;
  std::map<int, int> rows_of;
  for (const LentRows& lent : *spans) {
    GpuExchanger::Wish& wish = wish_of[lent.span.creditor];
    wish.creditor = lent.span.creditor;
    wish.items.push_back({.loan = Value(lent.span.loan),
                          .epoch = lent.span.epoch,
                          .first_slot = lent.span.first_slot,
                          .rows = static_cast<uint32_t>(lent.rows),
                          .first_query_position = lent.first_query_position,
                          .first_position = lent.span.first_position,
                          .token_count = lent.span.token_count});
    rows_of[lent.span.creditor] += lent.rows;
  }
  std::vector<GpuExchanger::Wish> wishes;
  for (auto& [creditor, wish] : wish_of) {
    if (static_cast<uint64_t>(rows_of[creditor]) > AnnouncedRowsMax(q_heads_, layout_)) {
      rows_of.erase(creditor);
    } else {
      wishes.push_back(std::move(wish));
    }
  }
  if (wishes.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(PlaceParts(rows_of));  // before anybody says yes
  const std::set<int> accepted = exchanger_.Ask(step, wishes);
  if (accepted.empty()) return absl::OkStatus();
  std::erase_if(parts_, [&](const GpuExchangePart& part) { return !accepted.contains(part.other); });
  runs_.clear();
  for (size_t i = 0; i < parts_.size(); ++i) {
    int rows = 0;
    for (LentRows& lent : *spans) {
      if (lent.span.creditor != parts_[i].other) continue;
      lent.announced = true;
      if (!runs_.empty() && runs_.back().part == i &&
          runs_.back().first_row + runs_.back().rows == lent.first_row &&
          runs_.back().first_state + runs_.back().rows == lent.first_state) {
        runs_.back().rows += lent.rows;
      } else {
        runs_.push_back({i, rows, lent.rows, lent.first_row, lent.first_state});
      }
      rows += lent.rows;
    }
  }
  absl::StatusOr<GpuDebtorExchange> exchange =
      GpuDebtorExchange::Create(&exchanger_.collectives(), exchanger_.rank(), layers_, parts_, &side_);
  if (!exchange.ok()) {
    for (const int creditor : accepted) exchanger_.ClosePair({exchanger_.rank(), creditor});
    exchanger_.EndRunning(0);
    return exchange.status();
  }
  exchange_.emplace(*std::move(exchange));
  return absl::OkStatus();
}

absl::Status GpuStepExchange::Send(const void* q) {
  const uint64_t row_bytes = row_elements() * DTypeBytes(layout_.dtype);
  for (const Run& run : runs_) {
    RETURN_IF_ERROR(main_.Copy(static_cast<char*>(parts_[run.part].query) + run.part_row * row_bytes,
                               static_cast<const char*>(q) + run.first_row * row_bytes,
                               run.rows * row_bytes));
  }
  return exchange_->Begin(main_);
}

absl::Status GpuStepExchange::Receive(float* acc, float* max, float* sum) {
  RETURN_IF_ERROR(exchange_->End(main_));
  const uint64_t head_dim = layout_.head_dim, heads = static_cast<uint64_t>(q_heads_);
  for (const Run& run : runs_) {
    const GpuExchangePart& part = parts_[run.part];
    const uint64_t all = part.state_bytes / sizeof(float) / (head_dim + 2);  // rows times heads of the part
    const uint64_t from = run.part_row * heads, to = run.first_state * heads, count = run.rows * heads;
    const float* const part_acc = static_cast<const float*>(part.states);
    const float *const part_max = part_acc + all * head_dim, *const part_sum = part_max + all;
    RETURN_IF_ERROR(
        main_.Copy(acc + to * head_dim, part_acc + from * head_dim, count * head_dim * sizeof(float)));
    RETURN_IF_ERROR(main_.Copy(max + to, part_max + from, count * sizeof(float)));
    RETURN_IF_ERROR(main_.Copy(sum + to, part_sum + from, count * sizeof(float)));
  }
  return absl::OkStatus();
}

absl::Status GpuStepExchange::Wait(GpuEvent& event) {
  return exchanger_.Await([&] { return event.IsDone(); });
}

absl::Status GpuStepExchange::End() {
  absl::Status status = exchange_->KeepPromise(main_);
  if (!status.ok()) {  // the device has failed: nobody else should wait for it
    for (const GpuExchangePart& part : parts_) exchanger_.ClosePair({exchanger_.rank(), part.other});
  }
  status.Update(exchanger_.Await([&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const bool side, side_.IsDone());
    ASSIGN_OR_RETURN(const bool main, main_.IsDone());
    return side && main;
  }));
  exchange_.reset();
  uint64_t query_bytes = 0;
  for (const GpuExchangePart& part : parts_) query_bytes += part.query_bytes * layers_;
  const std::set<int> lost = exchanger_.EndRunning(query_bytes);
  RETURN_IF_ERROR(status);
  if (lost.empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("an exchange with the GPUs of ranks ", absl::StrJoin(lost, ", "),
                                             " was cut off; the step runs again"));
}

}  // namespace lombard
