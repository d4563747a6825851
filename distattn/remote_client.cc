#include "distattn/remote_client.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "distattn/kv_payload.h"
#include "distattn/wire.h"

namespace lombard {
namespace {

constexpr int kRowsPerItemMax = 64;  // see kQueryBytesMax

void AppendConverted(DType dtype, const float* values, size_t count, std::string* out) {
  const size_t offset = out->size();
  out->resize(offset + count * DTypeBytes(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(out->data() + offset, values, count * sizeof(float));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    const uint16_t bits = dtype == DType::kBF16 ? BF16FromFloat(values[i]) : F16FromFloat(values[i]);
    std::memcpy(out->data() + offset + 2 * i, &bits, sizeof(bits));
  }
}

// The creditor answers, but holds no such loan (RemoteService::BlocksOfLoan).
bool NamesALoan(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

RemoteClient::RemoteClient(const Options& options, int q_heads, Transport* transport, const KvBytes* storage)
    : options_(options), q_heads_(q_heads), transport_(transport), storage_(storage) {}

absl::Status RemoteClient::Post(uint64_t step, int layer, int window, absl::Span<const RemoteItem> items) {
  const KvLayout& layout = storage_->layout();
  const size_t row_floats = static_cast<size_t>(q_heads_) * layout.head_dim;
  const size_t row_bytes = row_floats * DTypeBytes(layout.dtype);

  // Slices by creditor, in item order.
  std::vector<Part> parts;
  std::map<int, size_t> open;  // creditor -> part still being filled
  std::vector<size_t> part_bytes;
  for (const RemoteItem& item : items) {
    for (int row = 0; row < item.rows; row += kRowsPerItemMax) {
      RemoteItem slice = item;
      slice.rows = std::min(kRowsPerItemMax, item.rows - row);
      slice.first_query_position += row;
      slice.q += static_cast<size_t>(row) * row_floats;
      const size_t first = static_cast<size_t>(row) * q_heads_,
                   count = static_cast<size_t>(slice.rows) * q_heads_;
      slice.state = {item.state.acc.subspan(first * layout.head_dim, count * layout.head_dim),
                     item.state.max.subspan(first, count), item.state.sum.subspan(first, count)};
      auto [it, inserted] = open.try_emplace(item.creditor, parts.size());
      if (!inserted && part_bytes[it->second] + slice.rows * row_bytes > kQueryBytesMax) {
        it->second = parts.size(), inserted = true;
      }
      if (inserted) parts.push_back({.creditor = item.creditor, .items = {}}), part_bytes.push_back(0);
      parts[it->second].items.push_back(slice);
      part_bytes[it->second] += slice.rows * row_bytes;
    }
    if (layer == 0) attended_tokens_ += static_cast<uint64_t>(item.token_count) * item.rows;
  }

  std::vector<std::pair<int, Message>> messages;
  uint64_t exchange;
  {
    std::lock_guard lock(mutex_);
    CHECK_EQ(parts_missing_, 0u) << "Post before Wait";
    exchange = ++exchange_;
    parts_ = parts;
    parts_missing_ = parts_.size();
    failure_ = aborted_;
    for (const Part& part : parts_) {
      const auto it = down_.find(part.creditor);
      if (it == down_.end()) continue;
      failure_ = it->second;
      NoteLocked(part.creditor, {}, failure_);
    }
    if (!failure_.ok()) {
      parts_missing_ = 0;
      return failure_;
    }
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    Message message{.channel = Channel::kQuery};
    std::vector<QueryItem> wire_items;
    message.payload.reserve(part_bytes[i]);
    for (const RemoteItem& item : parts[i].items) {
      wire_items.push_back({.loan = Value(item.loan),
                            .epoch = item.epoch,
                            .first_slot = item.first_slot,
                            .rows = static_cast<uint32_t>(item.rows),
                            .first_query_position = item.first_query_position,
                            .first_position = item.first_position,
                            .token_count = item.token_count,
                            .window = window});
      AppendConverted(layout.dtype, item.q, item.rows * row_floats, &message.payload);
    }
    message.header = EncodeQuery({.incarnation = Value(options_.incarnation),
                                  .exchange = exchange,
                                  .part = static_cast<uint32_t>(i),
                                  .step = step,
                                  .layer = static_cast<uint32_t>(layer),
                                  .compact = options_.compact_states},
                                 wire_items);
    if (absl::Status sent = transport_->Send(parts[i].creditor, std::move(message)); !sent.ok()) {
      std::lock_guard lock(mutex_);
      parts_missing_ = 0;
      ++exchange_;  // what was sent already is answered to nobody
      sent = Annotate(sent, absl::StrCat("query to rank ", parts[i].creditor));
      NoteLocked(parts[i].creditor, {}, sent);
      return sent;
    }
  }
  return absl::OkStatus();
}

absl::Status RemoteClient::Wait() {
  std::unique_lock lock(mutex_);
  const auto over = [this] { return parts_missing_ == 0 || !failure_.ok(); };
  bool done = over();
  if (!done && options_.on_wait) options_.on_wait(true);
  const bool waited = !done;
  for (size_t missing = parts_missing_ + 1; !done && parts_missing_ < missing;) {
    missing = parts_missing_;
    done = changed_.wait_for(lock, absl::ToChronoMilliseconds(options_.reply_deadline), [&] {
      return over() || parts_missing_ < missing;
    }) && over();
  }
  if (waited && options_.on_wait) options_.on_wait(false);
  absl::Status status = failure_;
  if (!done) {
    for (const Part& part : parts_) {
      if (part.arrived) continue;
      status =
          absl::DeadlineExceededError(absl::StrCat("rank ", part.creditor, " did not answer a query within ",
                                                   absl::FormatDuration(options_.reply_deadline)));
      NoteLocked(part.creditor, {}, status);
    }
  }
  parts_missing_ = 0;
  parts_.clear();
  if (!status.ok()) ++exchange_;
  return status;
}

bool RemoteClient::OpenLocked(const KvSlots& slots) {
  OpenTransfer& transfer = transfers_[slots.transfer];
  transfer.creditor = slots.creditor, transfer.loan = slots.loan;
  transfer.deadline = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(options_.reply_deadline);
  if (const auto it = down_.find(slots.creditor); it != down_.end()) FailLocked(transfer, it->second);
  if (!transfer.state.status.ok()) return false;
  ++transfer.state.sent;
  return true;
}

// What one message takes each.
std::vector<KvSlots> RemoteClient::PartsOf(const KvSlots& slots) const {
  const size_t at_once =
      std::max<size_t>(1, kKvBytesMax / (2 * static_cast<size_t>(storage_->layout().block_bytes())));
  std::vector<KvSlots> parts;
  for (size_t first = 0; first < slots.blocks.size(); first += at_once) {
    const auto blocks = absl::MakeConstSpan(slots.blocks).subspan(first, at_once);
    KvSlots part = slots;
    part.first_slot += static_cast<uint32_t>(first);
    part.blocks.assign(blocks.begin(), blocks.end());
    parts.push_back(std::move(part));
  }
  return parts;
}

void RemoteClient::SendKv(const KvSend& send, int layer) {
  for (const KvSend& part : PartsOf(send)) {
    {
      std::lock_guard lock(mutex_);
      if (!OpenLocked(part)) return;
    }
    Message message{.channel = Channel::kKv, .header = EncodeKv(WireKind::kKvWrite, HeaderOf(part, layer))};
    if (const absl::Status read =
            PackKv(*storage_, layer, part.blocks, transport_->device_payload_max(part.creditor), &message);
        !read.ok()) {
      std::lock_guard lock(mutex_);
      return FailLocked(transfers_[part.transfer], read, part.loan);
    }
    SendPart(part, std::move(message));
  }
}

void RemoteClient::FetchKv(const KvFetch& fetch, int layer) {
  for (const KvFetch& part : PartsOf(fetch)) {
    {
      std::lock_guard lock(mutex_);
      if (!OpenLocked(part)) return;
      if (layer == 0) transfers_[part.transfer].fetches.push_back(part);
    }
    SendPart(part, {.channel = Channel::kKv, .header = EncodeKv(WireKind::kKvRead, HeaderOf(part, layer))});
  }
}

void RemoteClient::SendPart(const KvSlots& slots, Message message) {
  const absl::Status sent = transport_->Send(slots.creditor, std::move(message));
  if (sent.ok()) return;
  std::lock_guard lock(mutex_);
  FailLocked(transfers_[slots.transfer], Annotate(sent, absl::StrCat("KV of rank ", slots.creditor)));
}

KvHeader RemoteClient::HeaderOf(const KvSlots& slots, int layer) const {
  return {.incarnation = Value(options_.incarnation),
          .transfer = slots.transfer,
          .loan = Value(slots.loan),
          .epoch = slots.epoch,
          .layer = static_cast<uint32_t>(layer),
          .first_slot = slots.first_slot,
          .slot_count = static_cast<uint32_t>(slots.blocks.size())};
}

KvTransfer RemoteClient::transfer(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto it = transfers_.find(id);
  if (it == transfers_.end()) return {};
  OpenTransfer& transfer = it->second;
  if (!transfer.state.done() && std::chrono::steady_clock::now() > transfer.deadline) {
    FailLocked(transfer, absl::DeadlineExceededError(
                             absl::StrCat("rank ", transfer.creditor, " did not store KV within ",
                                          absl::FormatDuration(options_.reply_deadline))));
  }
  return transfer.state;
}

void RemoteClient::ForgetTransfer(uint64_t id) {
  std::lock_guard lock(mutex_);
  transfers_.erase(id);
}

std::vector<RemoteFailure> RemoteClient::TakeFailures() {
  std::lock_guard lock(mutex_);
  std::vector<RemoteFailure> failures;
  for (const auto& [who, status] : std::exchange(failures_, {}))
    failures.push_back({.creditor = who.first, .loan = who.second, .status = status});
  return failures;
}

void RemoteClient::NoteLocked(int creditor, std::optional<LoanId> loan, const absl::Status& status) {
  failures_.try_emplace({creditor, loan}, status);
}

void RemoteClient::FailLocked(OpenTransfer& transfer, const absl::Status& status,
                              std::optional<LoanId> loan) {
  if (!transfer.state.status.ok()) return;
  transfer.state.status = status;
  NoteLocked(transfer.creditor, loan, status);
}

void RemoteClient::OnKvLocked(int from, const Message& message) {
  KvAckHeader ack;
  KvHeader data;
  std::string text;
  const bool acked = DecodeKvAck(message.header, &ack, &text).ok();
  const bool valid = acked || DecodeKv(WireKind::kKvData, message.header, &data).ok();
  const auto it = transfers_.find(acked ? ack.transfer : data.transfer);
  if (!valid || it == transfers_.end() || it->second.creditor != from) {
    ++stale_messages_;
    return;
  }
  OpenTransfer& transfer = it->second;
  ++transfer.state.stored;
  if (!acked) {
    if (absl::Status stored = StoreLocked(transfer, data, message); !stored.ok())
      FailLocked(transfer, stored);
  } else if (ack.code != 0) {
    const absl::Status refused(static_cast<absl::StatusCode>(ack.code),
                               absl::StrCat("rank ", from, ": ", text));
    FailLocked(transfer, refused, NamesALoan(refused) ? std::optional<LoanId>(transfer.loan) : std::nullopt);
  }
  if (options_.on_transfer) options_.on_transfer();
}

absl::Status RemoteClient::StoreLocked(const OpenTransfer& transfer, const KvHeader& header,
                                       const Message& message) {
  const size_t block_bytes = static_cast<size_t>(storage_->layout().block_bytes());
  const auto asked =
      std::find_if(transfer.fetches.begin(), transfer.fetches.end(), [&](const KvFetch& fetch) {
        return fetch.first_slot == header.first_slot && fetch.blocks.size() == header.slot_count;
      });
  if (asked == transfer.fetches.end() || header.layer >= static_cast<uint32_t>(storage_->layers()) ||
      PayloadBytes(message) != asked->blocks.size() * 2 * block_bytes) {
    return absl::InternalError(absl::StrCat(
        "rank ", transfer.creditor, " sent KV of slots ", header.first_slot, " + ", header.slot_count,
        ", layer ", header.layer, ", in ", PayloadBytes(message), " bytes, which was not asked for"));
  }
  return StoreKv(*storage_, static_cast<int>(header.layer), asked->blocks, message);
}

void RemoteClient::OnMessage(int from, Message message) {
  std::lock_guard lock(mutex_);
  if (message.channel == Channel::kKv) return OnKvLocked(from, message);
  StateHeader header;
  std::string text;
  if (!DecodeState(message.header, &header, &text).ok() || header.exchange != exchange_ ||
      header.part >= parts_.size() || parts_[header.part].creditor != from || parts_[header.part].arrived) {
    ++stale_messages_;
    return;
  }
  Part& part = parts_[header.part];
  absl::Status status = header.code == 0
                            ? UnpackLocked(message, part)
                            : absl::Status(static_cast<absl::StatusCode>(header.code),
                                           absl::StrCat("rank ", from, " refused a query: ", text));
  part.arrived = true;
  if (!status.ok()) {
    const bool one_loan = header.code != 0 && NamesALoan(status) && header.refused_item < part.items.size();
    NoteLocked(from, one_loan ? std::optional<LoanId>(part.items[header.refused_item].loan) : std::nullopt,
               status);
    if (failure_.ok()) failure_ = status;
  }
  --parts_missing_;
  if (parts_missing_ == 0 || !failure_.ok()) changed_.notify_all();
}

absl::Status RemoteClient::UnpackLocked(const Message& message, const Part& part) const {
  const KvLayout& layout = storage_->layout();
  const DType acc_dtype = options_.compact_states ? layout.dtype : DType::kF32;
  size_t expected = 0;
  for (const RemoteItem& item : part.items)
    expected += item.state.acc.size() * DTypeBytes(acc_dtype) + item.state.max.size() * 8;
  if (expected != message.payload.size()) {
    return absl::InternalError(absl::StrCat("rank ", part.creditor, " answered ", message.payload.size(),
                                            " bytes of state, expected ", expected));
  }
  const char* at = message.payload.data();
  for (const RemoteItem& item : part.items) {
    const size_t rows = item.state.max.size();
    const char* acc = at;
    at += item.state.acc.size() * DTypeBytes(acc_dtype);
    std::memcpy(item.state.max.data(), at, rows * sizeof(float));
    std::memcpy(item.state.sum.data(), at + rows * sizeof(float), rows * sizeof(float));
    at += 2 * rows * sizeof(float);
    if (!options_.compact_states) {
      std::memcpy(item.state.acc.data(), acc, item.state.acc.size() * sizeof(float));
      continue;
    }
    for (size_t row = 0; row < rows; ++row) {
      for (int i = 0; i < layout.head_dim; ++i) {
        const size_t index = row * layout.head_dim + i;
        item.state.acc[index] = LoadFloat(acc_dtype, acc, index) * item.state.sum[row];
      }
    }
  }
  return absl::OkStatus();
}

void RemoteClient::OnPeerDown(int peer, const absl::Status& why) {
  std::lock_guard lock(mutex_);
  const absl::Status down = absl::UnavailableError(
      absl::StrCat("rank ", peer, " is gone: ", why.ok() ? "it left the job" : why.message()));
  down_[peer] = down;
  FailPeerLocked(peer, down);
}

void RemoteClient::OnPeerLost(int peer, const absl::Status& why) {
  std::lock_guard lock(mutex_);
  FailPeerLocked(peer, why);
}

void RemoteClient::FailPeerLocked(int peer, const absl::Status& down) {
  const bool awaited = std::any_of(parts_.begin(), parts_.end(),
                                   [&](const Part& part) { return part.creditor == peer && !part.arrived; });
  if (awaited) NoteLocked(peer, {}, down);
  if (awaited && failure_.ok()) failure_ = down;
  for (auto& [id, transfer] : transfers_) {
    if (transfer.creditor == peer && !transfer.state.done()) FailLocked(transfer, down);
  }
  changed_.notify_all();
  if (options_.on_transfer) options_.on_transfer();
}

void RemoteClient::OnPeerUp(int peer) {
  std::lock_guard lock(mutex_);
  down_.erase(peer);
}

void RemoteClient::Abort(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (aborted_.ok()) aborted_ = why;
  if (failure_.ok()) failure_ = why;
  changed_.notify_all();
}

uint64_t RemoteClient::stale_messages() const {
  std::lock_guard lock(mutex_);
  return stale_messages_;
}

}  // namespace lombard
