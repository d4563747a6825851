#include "distattn/remote_service.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "distattn/kv_payload.h"
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

// How often the end of an exchange under way is looked for, at least.
constexpr std::chrono::microseconds kLook(200);

bool IsOf(WireKind kind, const Message& message) {
  const absl::StatusOr<WireKind> is = PeekKind(message.header);
  return is.ok() && *is == kind;
}

}  // namespace

RemoteService::RemoteService(const Options& options, const KvBytes* storage, SpanAttention* attention,
                             Transport* transport, BlocksOfLoan blocks_of_loan, AnnouncedExchanges* exchanges)
    : options_(options),
      storage_(storage),
      attention_(attention),
      transport_(transport),
      blocks_of_loan_(std::move(blocks_of_loan)),
      exchanges_(exchanges),
      budget_(kAttentionShare * options.guard) {}

void RemoteService::Enqueue(int from, Message message) {
  {
    std::lock_guard lock(mutex_);
    if (submits_ && IsOf(WireKind::kAnnounce, message)) return AnswerBusy(from, message);
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
                      [](const auto& entry) { return !IsOf(WireKind::kQuery, entry.second); });
}

void RemoteService::Serve() {
  for (;;) {
    int from;
    Message message;
    const bool exchanges = exchanges_ != nullptr && exchanges_->under_way();
    if (exchanges) exchanges_->EndIfOver();
    {
      std::unique_lock lock(mutex_);
      if (exchanges) budget_.Attended(exchanges_->TakeSeconds());
      Queue::iterator next;
      const auto ready = [&] { return stop_ || (next = NextLocked()) != queue_.end(); };
      if (!exchanges) {
        arrived_.wait(lock, ready);
      } else if (!arrived_.wait_for(lock, kLook, ready)) {
        continue;
      }
      if (stop_) break;
      from = next->first;
      message = std::move(next->second);
      queue_.erase(next);
    }
    const double begin = ThreadCpuSeconds();
    const bool moves = message.channel == Channel::kKv;
    if (moves) {
      Send(from, MoveKv(from, message));
    } else if (IsOf(WireKind::kPairOpen, message)) {
      OpenPair(from, message);
    } else if (IsOf(WireKind::kAnnounce, message)) {
      OnAnnouncement(from, message);
    } else {
      Attend(from, std::move(message));
    }
    const double seconds = ThreadCpuSeconds() - begin;
    std::lock_guard lock(mutex_);
    moves ? budget_.Moved(seconds) : budget_.Attended(seconds);
  }
  if (exchanges_ != nullptr) exchanges_->Stop();
}

void RemoteService::OpenPair(int from, const Message& message) {
  if (exchanges_ != nullptr) return exchanges_->exchanger().OnPairOpen(from, message);
  PairMessage asked;
  if (!DecodePair(WireKind::kPairOpen, message.header, &asked).ok()) return;
  Send(from, {.channel = Channel::kState,
              .header = EncodePair(WireKind::kPairOpened,
                                   {.incarnation = Value(options_.incarnation),
                                    .serial = asked.serial,
                                    .from_creditor = 1,
                                    .code = static_cast<uint32_t>(absl::StatusCode::kUnimplemented),
                                    .text = absl::StrCat("rank ", transport_->rank(),
                                                         " has no GPU that exchanges over NCCL")})});
}

void RemoteService::AnswerBusy(int from, const Message& announcement) const {
  AnnounceHeader header;
  std::vector<QueryItem> items;
  if (!DecodeAnnounce(announcement.header, &header, &items).ok()) return;
  exchanges_->exchanger().Answer({from, header.serial}, AnnouncementAnswer::kBusy);
}

void RemoteService::OnAnnouncement(int from, const Message& message) {
  AnnounceHeader header;
  Slice slice{.from = from, .message = {}};
  if (exchanges_ == nullptr || !DecodeAnnounce(message.header, &header, &slice.items).ok()) return;
  uint64_t rows = 0;
  for (const QueryItem& item : slice.items) rows += item.rows;
  if (rows > AnnouncedRowsMax(options_.q_heads, storage_->layout())) return AnswerBusy(from, message);
  const absl::Status read = ReadItems(slice);
  const Announcement announcement{{from, header.serial}, header.step, std::move(slice.items)};
  exchanges_->EndIfOver();
  bool may_attend;
  {
    std::lock_guard lock(mutex_);
    budget_.Attended(exchanges_->TakeSeconds());
    may_attend = budget_.MayAttend();
  }
  const auto promised = [this] {  // the lane is taken: nobody else need wait for that answer
    std::lock_guard lock(mutex_);
    submits_ = true;
    std::erase_if(queue_, [this](const auto& entry) {
      const bool announces = IsOf(WireKind::kAnnounce, entry.second);
      if (announces) AnswerBusy(entry.first, entry.second);
      return announces;
    });
  };
  if (!exchanges_->OnAnnouncement(announcement, {read, slice.queries, std::move(slice.held)}, may_attend,
                                  promised))
    return;
  const auto layers = static_cast<uint64_t>(storage_->layers());
  std::lock_guard lock(mutex_);
  submits_ = false;
  counters_.queries += layers * static_cast<uint64_t>(slice.rows);
  counters_.products += layers * exchanges_->counts().products;
  counters_.keys += layers * exchanges_->counts().keys;
  CountLocked(slice, header.step);
}

void RemoteService::Send(int to, Message answer) {
  // The debtor may be gone by now; then nobody waits for the answer.
  transport_->Send(to, std::move(answer)).IgnoreError();
}

void RemoteService::Attend(int from, Message message) {
  std::vector<Slice> slices;
  slices.push_back({.from = from, .message = std::move(message)});
  if (const absl::Status read = Read(slices[0]); !read.ok()) {
    slices[0].held.clear();
    return Refuse(slices[0], read);
  }
  for (Slice& more : TakeAlong(slices[0])) slices.push_back(std::move(more));

  std::vector<SpanQuery> queries;
  std::string rows_of_all;
  int rows = 0;
  for (const Slice& slice : slices) {
    queries.insert(queries.end(), slice.queries.begin(), slice.queries.end());
    if (slices.size() > 1) rows_of_all += slice.message.payload;
    rows += slice.rows;
  }
  const size_t state_floats = static_cast<size_t>(options_.q_heads) * (storage_->layout().head_dim + 2);
  std::vector<float> states(rows * state_floats);
  const absl::Status attended =
      attention_->Attend(static_cast<int>(slices[0].header.layer), queries,
                         slices.size() > 1 ? rows_of_all : slices[0].message.payload, absl::MakeSpan(states));
  for (Slice& slice : slices) slice.held.clear();  // before anybody can repay because of the answer
  if (!attended.ok()) {
    for (const Slice& slice : slices) Refuse(slice, attended);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    counters_.queries += rows;
    counters_.products += attention_->counts().products;
    counters_.keys += attention_->counts().keys;
    for (const Slice& slice : slices) CountLocked(slice, slice.header.step);
  }
  absl::Span<float> left = absl::MakeSpan(states);
  for (const Slice& slice : slices) Send(slice.from, StateOf(slice, &left));
}

void RemoteService::CountLocked(const Slice& slice, uint64_t step) {
  const auto [last, inserted] = last_step_.try_emplace(slice.from, step);
  if (inserted || last->second != step) ++counters_.steps;
  last->second = step;
}

absl::Status RemoteService::Read(Slice& slice) const {
  RETURN_IF_ERROR(DecodeQuery(slice.message.header, &slice.header, &slice.items));
  const KvLayout& layout = storage_->layout();
  if (slice.header.layer >= static_cast<uint32_t>(storage_->layers())) {
    return absl::InvalidArgumentError(
        absl::StrCat("query for layer ", slice.header.layer, " of ", storage_->layers()));
  }
  // Sizes first: the payload must be exactly the rows that the header names.
  const size_t row_bytes = static_cast<size_t>(options_.q_heads) * layout.head_dim * DTypeBytes(layout.dtype);
  size_t rows = 0;
  for (const QueryItem& item : slice.items) rows += item.rows;
  if (rows > slice.message.payload.size() || rows * row_bytes != slice.message.payload.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("query of ", rows, " rows in ", slice.message.payload.size(), " bytes"));
  }
  return ReadItems(slice);
}

absl::Status RemoteService::ReadItems(Slice& slice) const {
  const KvLayout& layout = storage_->layout();
  for (const QueryItem& item : slice.items) {
    slice.refused_item = static_cast<uint32_t>(slice.held.size());
    ASSIGN_OR_RETURN(auto blocks,
                     blocks_of_loan_(slice.from, LoanId{item.loan}, item.epoch, /*writes=*/false));
    RETURN_IF_ERROR(CheckItem(item, blocks->size(), layout.block_tokens));
    const size_t count = (item.token_count + layout.block_tokens - 1) / layout.block_tokens;
    slice.queries.push_back({.blocks = absl::MakeConstSpan(*blocks).subspan(item.first_slot, count),
                             .rows = static_cast<int>(item.rows),
                             .first_query_position = item.first_query_position,
                             .first_position = item.first_position,
                             .token_count = item.token_count,
                             .window = item.window});
    slice.rows += static_cast<int>(item.rows);
    slice.held.push_back(std::move(blocks));
  }
  return absl::OkStatus();
}

std::vector<RemoteService::Slice> RemoteService::TakeAlong(const Slice& slice) {
  std::set<int32_t> prefixes;  // of so many tokens; in loans of prefixes they lie from slot 0 on
  for (const QueryItem& item : slice.items) {
    if (item.first_slot == 0 && item.first_position == 0) prefixes.insert(item.token_count);
  }
  if (prefixes.empty()) return {};
  const auto may_join = [&](const Message& message) {  // by its header alone
    QueryHeader header;
    std::vector<QueryItem> items;
    return message.channel == Channel::kQuery && DecodeQuery(message.header, &header, &items).ok() &&
           header.layer == slice.header.layer &&
           std::any_of(items.begin(), items.end(), [&](const QueryItem& item) {
             return item.first_slot == 0 && item.first_position == 0 && prefixes.contains(item.token_count);
           });
  };
  const auto products = [&](absl::Span<const SpanQuery> queries) {
    return GroupReaders(queries, storage_->layout().block_tokens).size();
  };
  const size_t products_alone = products(slice.queries);
  std::vector<Slice> taken;
  size_t bytes = slice.message.payload.size();
  std::lock_guard lock(mutex_);
  for (auto entry = queue_.begin(); entry != queue_.end();) {
    const size_t more_bytes = entry->second.payload.size();
    if (bytes + more_bytes > kQueryBytesMax || !may_join(entry->second)) {
      ++entry;
      continue;
    }
    Slice more{.from = entry->first, .message = std::move(entry->second)};
    bool joins = Read(more).ok();
    if (joins) {
      std::vector<SpanQuery> all = slice.queries;
      all.insert(all.end(), more.queries.begin(), more.queries.end());
      joins = products(all) < products_alone + products(more.queries);
    }
    if (!joins) {
      entry->second = std::move(more.message);
      ++entry;
      continue;
    }
    taken.push_back(std::move(more));
    bytes += more_bytes;
    entry = queue_.erase(entry);
  }
  return taken;
}

Message RemoteService::StateOf(const Slice& slice, absl::Span<float>* states) const {
  const KvLayout& layout = storage_->layout();
  const int q_heads = options_.q_heads;
  const size_t row_floats = static_cast<size_t>(q_heads) * layout.head_dim;
  const absl::Span<float> own = states->first(slice.rows * (row_floats + 2 * q_heads));
  states->remove_prefix(own.size());
  Message answer{.channel = Channel::kState};
  answer.header = EncodeState({.incarnation = Value(options_.incarnation),
                               .exchange = slice.header.exchange,
                               .part = slice.header.part},
                              {});
  if (slice.header.compact == 0) {
    answer.payload.assign(reinterpret_cast<const char*>(own.data()), own.size() * sizeof(float));
    return answer;
  }
  float* at = own.data();
  for (const SpanQuery& item : slice.queries) {
    float *const acc = at, *const max = acc + item.rows * row_floats, *const sum = max + item.rows * q_heads;
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
  return answer;
}

void RemoteService::Refuse(const Slice& slice, const absl::Status& why) {
  {
    std::lock_guard lock(mutex_);
    ++counters_.refused;
  }
  // What was read of the header names the exchange.
  Send(slice.from, {.channel = Channel::kState,
                    .header = EncodeState({.incarnation = Value(options_.incarnation),
                                           .exchange = slice.header.exchange,
                                           .part = slice.header.part,
                                           .code = static_cast<uint32_t>(why.code()),
                                           .refused_item = slice.refused_item},
                                          why.message())});
}

Message RemoteService::MoveKv(int from, const Message& message) {
  const absl::StatusOr<WireKind> kind = PeekKind(message.header);
  const bool read = kind.ok() && *kind == WireKind::kKvRead;
  KvHeader header;
  absl::Status status = DecodeKv(read ? WireKind::kKvRead : WireKind::kKvWrite, message.header, &header);
  Message answer{.channel = Channel::kKv};
  if (status.ok()) status = read ? Load(from, header, &answer) : Store(from, header, message);
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

absl::Status RemoteService::Store(int from, const KvHeader& header, const Message& message) {
  ASSIGN_OR_RETURN(const auto blocks, BlocksOf(from, header, /*writes=*/true));
  const size_t block_bytes = static_cast<size_t>(storage_->layout().block_bytes());
  if (PayloadBytes(message) != uint64_t{header.slot_count} * 2 * block_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV of ", header.slot_count, " slots in ", PayloadBytes(message), " bytes"));
  }
  RETURN_IF_ERROR(StoreKv(*storage_, static_cast<int>(header.layer),
                          absl::MakeConstSpan(*blocks).subspan(header.first_slot, header.slot_count),
                          message));
  std::lock_guard lock(mutex_);
  counters_.blocks_written += header.slot_count;
  if (message.device_payload) counters_.blocks_direct += header.slot_count;
  return absl::OkStatus();
}

absl::Status RemoteService::Load(int from, const KvHeader& header, Message* data) {
  ASSIGN_OR_RETURN(const auto blocks, BlocksOf(from, header, /*writes=*/false));
  KvHeader answer = header;
  answer.incarnation = Value(options_.incarnation);
  data->header = EncodeKv(WireKind::kKvData, answer);
  RETURN_IF_ERROR(PackKv(*storage_, static_cast<int>(header.layer),
                         absl::MakeConstSpan(*blocks).subspan(header.first_slot, header.slot_count),
                         transport_->device_payload_max(from), data));
  std::lock_guard lock(mutex_);
  counters_.blocks_read += header.slot_count;
  if (data->device_payload) counters_.blocks_direct += header.slot_count;
  return absl::OkStatus();
}

}  // namespace lombard
