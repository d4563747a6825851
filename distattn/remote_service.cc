#include "distattn/remote_service.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "distattn/wire.h"
#include "kernels/elementwise.h"

namespace lombard {
namespace {

// Of the guard's share, what attention itself may take. The rest is for what is not measured: receiving and
// sending messages, switching threads, shared caches. With all of it the own time per token grew by 5.1 %
// for a guard of 5 % (bench/guard_bench, 30 layers, a query for each; AMD Zen 4).
constexpr double kAttentionShare = 0.75;

// Checks of what a peer sent, before any of it is used as an index or a size.
absl::Status CheckItem(const QueryItem& item, size_t loan_slots, int block_tokens) {
  const int64_t end_slot =
      int64_t{item.first_slot} + (int64_t{item.token_count} + block_tokens - 1) / block_tokens;
  if (item.rows < 1 || item.token_count < 1 || item.first_position < 0 || item.window < 0 ||
      item.first_query_position < item.first_position || end_slot > static_cast<int64_t>(loan_slots)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "query of ", item.rows, " rows at position ", item.first_query_position, " over ", item.token_count,
        " tokens from slot ", item.first_slot, " of a loan of ", loan_slots, " blocks"));
  }
  return absl::OkStatus();
}

}  // namespace

RemoteService::RemoteService(const Options& options, const KvBytes* storage, SpanAttention* attention,
                             Transport* transport, BlocksOfLoan blocks_of_loan)
    : options_(options),
      storage_(storage),
      attention_(attention),
      transport_(transport),
      blocks_of_loan_(std::move(blocks_of_loan)),
      budget_(kAttentionShare * options.guard) {}

void RemoteService::Enqueue(int from, Message message) {
  {
    std::lock_guard lock(mutex_);
    queue_.emplace_back(from, std::move(message));
  }
  arrived_.notify_one();
}

void RemoteService::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  arrived_.notify_all();
}

RemoteService::Counters RemoteService::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

void RemoteService::OwnBegins() {
  std::lock_guard lock(mutex_);
  budget_.OwnBegins();
}

void RemoteService::OwnWaits(bool waits) {
  std::lock_guard lock(mutex_);
  budget_.OwnWaits(waits);
  WakeLocked();
}

void RemoteService::OwnEnds(double cpu_seconds) {
  std::lock_guard lock(mutex_);
  budget_.OwnEnds(cpu_seconds, !queue_.empty() && NextLocked() == queue_.end());
  WakeLocked();
}

void RemoteService::OwnIdle() {
  std::lock_guard lock(mutex_);
  budget_.OwnIdle();
  WakeLocked();
}

// The own step calls this in every layer: nobody is woken for nothing.
void RemoteService::WakeLocked() {
  if (!queue_.empty() && NextLocked() != queue_.end()) arrived_.notify_one();
}

ServiceTotals RemoteService::totals() const {
  std::lock_guard lock(mutex_);
  return budget_.totals();
}

RemoteService::Queue::iterator RemoteService::NextLocked() {
  if (budget_.MayAttend()) return queue_.begin();
  return std::find_if(queue_.begin(), queue_.end(),
                      [](const auto& entry) { return entry.second.channel == Channel::kKv; });
}

void RemoteService::Serve() {
  for (;;) {
    int from;
    Message message;
    {
      std::unique_lock lock(mutex_);
      Queue::iterator next;
      arrived_.wait(lock, [&] { return stop_ || (next = NextLocked()) != queue_.end(); });
      if (stop_) return;
      from = next->first;
      message = std::move(next->second);
      queue_.erase(next);
    }
    const double begin = ThreadCpuSeconds();
    const bool moves = message.channel == Channel::kKv;
    Message answer;
    if (message.channel == Channel::kKv) {
      answer = MoveKv(from, message);
    } else {
      uint32_t refused_item = 0;
      absl::StatusOr<Message> state = Attend(from, message, &refused_item);
      if (state.ok()) {
        answer = *std::move(state);
      } else {
        QueryHeader header;
        std::vector<QueryItem> items;
        DecodeQuery(message.header, &header, &items).IgnoreError();  // what was read of it names the exchange
        answer.channel = Channel::kState;
        answer.header = EncodeState({.incarnation = Value(options_.incarnation),
                                     .exchange = header.exchange,
                                     .part = header.part,
                                     .code = static_cast<uint32_t>(state.status().code()),
                                     .refused_item = refused_item},
                                    state.status().message());
        std::lock_guard lock(mutex_);
        ++counters_.refused;
      }
    }
    // The debtor may be gone by now; then nobody waits for the answer.
    transport_->Send(from, std::move(answer)).IgnoreError();
    const double seconds = ThreadCpuSeconds() - begin;
    std::lock_guard lock(mutex_);
    moves ? budget_.Moved(seconds) : budget_.Attended(seconds);
  }
}

absl::StatusOr<Message> RemoteService::Attend(int from, const Message& query, uint32_t* refused_item) {
  QueryHeader header;
  std::vector<QueryItem> wire_items;
  RETURN_IF_ERROR(DecodeQuery(query.header, &header, &wire_items));
  const KvLayout& layout = storage_->layout();
  const int q_heads = options_.q_heads;
  if (header.layer >= static_cast<uint32_t>(storage_->layers())) {
    return absl::InvalidArgumentError(
        absl::StrCat("query for layer ", header.layer, " of ", storage_->layers()));
  }
  // Sizes first: the payload must be exactly the rows that the header names.
  const size_t row_floats = static_cast<size_t>(q_heads) * layout.head_dim;
  size_t rows = 0;
  for (const QueryItem& item : wire_items) rows += item.rows;
  if (rows > query.payload.size() || rows * row_floats * DTypeBytes(layout.dtype) != query.payload.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("query of ", rows, " rows in ", query.payload.size(), " bytes"));
  }

  std::vector<std::shared_ptr<const std::vector<BlockId>>>
      held;  // keeps the blocks from being freed meanwhile
  std::vector<SpanQuery> queries;
  for (const QueryItem& item : wire_items) {
    *refused_item = static_cast<uint32_t>(held.size());
    ASSIGN_OR_RETURN(auto blocks, blocks_of_loan_(from, LoanId{item.loan}, item.epoch, /*writes=*/false));
    RETURN_IF_ERROR(CheckItem(item, blocks->size(), layout.block_tokens));
    const size_t count = (item.token_count + layout.block_tokens - 1) / layout.block_tokens;
    queries.push_back({.blocks = absl::MakeConstSpan(*blocks).subspan(item.first_slot, count),
                       .rows = static_cast<int>(item.rows),
                       .first_query_position = item.first_query_position,
                       .first_position = item.first_position,
                       .token_count = item.token_count,
                       .window = item.window});
    held.push_back(std::move(blocks));
  }

  std::vector<float> state(rows * (row_floats + 2 * q_heads));
  RETURN_IF_ERROR(
      attention_->Attend(static_cast<int>(header.layer), queries, query.payload, absl::MakeSpan(state)));

  Message answer{.channel = Channel::kState};
  answer.header = EncodeState(
      {.incarnation = Value(options_.incarnation), .exchange = header.exchange, .part = header.part}, {});
  if (header.compact == 0) {
    answer.payload.assign(reinterpret_cast<const char*>(state.data()), state.size() * sizeof(float));
  } else {
    float* at = state.data();
    for (const SpanQuery& item : queries) {
      float *const acc = at, *const max = acc + item.rows * row_floats,
                   *const sum = max + item.rows * q_heads;
      at = sum + item.rows * q_heads;
      for (int r = 0; r < item.rows * q_heads; ++r) {
        const float scale = sum[r] > 0 ? 1 / sum[r] : 0;
        for (int d = 0; d < layout.head_dim; ++d) acc[r * layout.head_dim + d] *= scale;
      }
      const size_t offset = answer.payload.size(), values = item.rows * row_floats,
                   scalars = 2 * item.rows * q_heads;
      answer.payload.resize(offset + values * DTypeBytes(layout.dtype) + scalars * sizeof(float));
      ConvertFromF32({options_.isa, nullptr}, acc, layout.dtype, answer.payload.data() + offset,
                     static_cast<int64_t>(values));
      std::memcpy(answer.payload.data() + offset + values * DTypeBytes(layout.dtype), max,
                  scalars * sizeof(float));
    }
  }
  std::lock_guard lock(mutex_);
  counters_.queries += rows;
  counters_.keys += attention_->keys_read();
  const auto [last, inserted] = last_step_.try_emplace(from, header.step);
  if (inserted || last->second != header.step) ++counters_.steps;
  last->second = header.step;
  return answer;
}

Message RemoteService::MoveKv(int from, const Message& message) {
  const absl::StatusOr<WireKind> kind = PeekKind(message.header);
  const bool read = kind.ok() && *kind == WireKind::kKvRead;
  KvHeader header;
  absl::Status status = DecodeKv(read ? WireKind::kKvRead : WireKind::kKvWrite, message.header, &header);
  Message answer{.channel = Channel::kKv};
  if (status.ok()) status = read ? Load(from, header, &answer) : Store(from, header, message.payload);
  if (read && status.ok()) return answer;
  answer.header = EncodeKvAck({.incarnation = Value(options_.incarnation),
                               .transfer = header.transfer,
                               .code = static_cast<uint32_t>(status.code())},
                              status.message());
  if (!status.ok()) {
    std::lock_guard lock(mutex_);
    ++counters_.refused;
  }
  return answer;
}

absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> RemoteService::BlocksOf(int from,
                                                                                    const KvHeader& header,
                                                                                    bool writes) const {
  ASSIGN_OR_RETURN(auto blocks, blocks_of_loan_(from, LoanId{header.loan}, header.epoch, writes));
  if (header.layer >= static_cast<uint32_t>(storage_->layers()) ||
      uint64_t{header.first_slot} + header.slot_count > blocks->size()) {
    return absl::InvalidArgumentError(absl::StrCat("KV of slots ", header.first_slot, " + ",
                                                   header.slot_count, " of a loan of ", blocks->size(),
                                                   " blocks, layer ", header.layer));
  }
  return blocks;
}

absl::Status RemoteService::Store(int from, const KvHeader& header, absl::string_view payload) {
  ASSIGN_OR_RETURN(const auto blocks, BlocksOf(from, header, /*writes=*/true));
  const size_t block_bytes = static_cast<size_t>(storage_->layout().block_bytes());
  if (payload.size() != uint64_t{header.slot_count} * 2 * block_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV of ", header.slot_count, " slots in ", payload.size(), " bytes"));
  }
  RETURN_IF_ERROR(storage_->Write(static_cast<int>(header.layer),
                                  absl::MakeConstSpan(*blocks).subspan(header.first_slot, header.slot_count),
                                  payload));
  std::lock_guard lock(mutex_);
  counters_.blocks_written += header.slot_count;
  return absl::OkStatus();
}

absl::Status RemoteService::Load(int from, const KvHeader& header, Message* data) {
  ASSIGN_OR_RETURN(const auto blocks, BlocksOf(from, header, /*writes=*/false));
  KvHeader answer = header;
  answer.incarnation = Value(options_.incarnation);
  data->header = EncodeKv(WireKind::kKvData, answer);
  RETURN_IF_ERROR(storage_->AppendTo(
      static_cast<int>(header.layer),
      absl::MakeConstSpan(*blocks).subspan(header.first_slot, header.slot_count), &data->payload));
  std::lock_guard lock(mutex_);
  counters_.blocks_read += header.slot_count;
  return absl::OkStatus();
}

}  // namespace lombard
