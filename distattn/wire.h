// The data plane's messages, byte by byte. All integers little-endian, fields packed in the order given.
//
//   Query (Channel::kQuery), debtor -> creditor: some rows of one layer against spans of loans that the
//   creditor hosts.
//     header:  QueryHeader, then item_count times QueryItem
//     payload: per item in order, q [rows, q_heads, head_dim] in the KV dtype: n_q * d * p bytes a row
//   State (Channel::kState), creditor -> debtor: the answer, items in the query's order.
//     header:  StateHeader
//     payload: per item acc [rows, q_heads, head_dim], max [rows, q_heads], sum [rows, q_heads], fp32:
//              n_q * (4d + 8) bytes a row
//              compact form: acc / sum in the KV dtype instead of acc: n_q * (dp + 8) bytes a row
//     A refusal (code != 0) has no payload; header is followed by a text.
//   KvWrite (Channel::kKv), debtor -> creditor: one layer of consecutive slots of a loan.
//     header:  KvHeader;  payload: per slot the K block, then the V block
//   KvRead (Channel::kKv), debtor -> creditor: asks for one layer of consecutive slots of a loan.
//     header:  KvHeader;  no payload
//   KvData (Channel::kKv), creditor -> debtor: the answer to a KvRead.
//     header:  KvHeader, as asked;  payload: per slot the K block, then the V block
//   KvAck (Channel::kKv), creditor -> debtor: the bytes of one KvWrite are stored (code 0), or a KvWrite or
//   KvRead is refused.
//     header:  KvAckHeader, then a text when refused; no payload
//
// Between ranks whose GPUs exchange without the host (fabric/collectives.h):
//
//   PairOpen (Channel::kQuery), debtor -> creditor: wants to connect with this key; PairOpened
//   (Channel::kState), the answer: the creditor has begun to (code 0), or will not, and why. The debtor
//   connects when it has the answer. PairClosed (the sender's channel), either way: the sender has aborted
//   the pair.
//     PairMessage; no payload
//   Announce (Channel::kQuery), debtor -> creditor: one step's rows against spans of loans, the same in all
//   layers; queries and states go from GPU to GPU.
//     AnnounceHeader, then item_count times QueryItem, whose windows are the layers' own; no payload
//   AnnounceAnswer (Channel::kState), creditor -> debtor (distattn/announcement.h).
//     AnnounceAnswerHeader; no payload
//
// Every message carries the sender's incarnation, every loan its epoch; what is stale is refused, never
// answered from reused memory. `exchange` names one Post of one debtor and is echoed, so late answers are
// recognised and dropped.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lombard {

enum class WireKind : uint8_t {
  kQuery = 1,
  kState = 2,
  kKvWrite = 3,
  kKvAck = 4,
  kKvRead = 5,
  kKvData = 6,
  kPairOpen = 7,
  kPairOpened = 8,
  kPairClosed = 9,
  kAnnounce = 10,
  kAnnounceAnswer = 11
};
// Meant for the creditor's half (RemoteService).
constexpr bool ForService(WireKind kind) {
  return kind == WireKind::kQuery || kind == WireKind::kKvWrite || kind == WireKind::kKvRead ||
         kind == WireKind::kPairOpen || kind == WireKind::kAnnounce;
}
// For GpuExchanger; what is neither here nor above are answers for RemoteClient.
constexpr bool ForExchanger(WireKind kind) {
  return kind == WireKind::kPairOpened || kind == WireKind::kPairClosed || kind == WireKind::kAnnounceAnswer;
}

struct QueryHeader {
  uint64_t incarnation = 0;
  uint64_t exchange = 0;
  uint32_t part = 0;  // of the exchange: a large one travels in several messages
  uint64_t step = 0;
  uint32_t layer = 0;
  uint8_t compact = 0;  // answer in the compact form
  uint32_t item_count = 0;
};

struct QueryItem {
  uint64_t loan = 0;
  uint64_t epoch = 0;
  uint32_t first_slot = 0;
  uint32_t rows = 0;
  int32_t first_query_position = 0;  // rows are at consecutive positions
  int32_t first_position = 0;        // of the span's first key
  int32_t token_count = 0;
  int32_t window = 0;
};

struct StateHeader {
  uint64_t incarnation = 0;
  uint64_t exchange = 0;
  uint32_t part = 0;
  uint32_t code = 0;  // absl::StatusCode; not 0: refused
  uint32_t refused_item =
      0;  // of the query, whose loan is not held here; when code is kNotFound or kFailedPrecondition
};

struct KvHeader {
  uint64_t incarnation = 0;
  uint64_t transfer = 0;  // echoed
  uint64_t loan = 0;
  uint64_t epoch = 0;
  uint32_t layer = 0;
  uint32_t first_slot = 0;
  uint32_t slot_count = 0;
};

struct KvAckHeader {
  uint64_t incarnation = 0;
  uint64_t transfer = 0;
  uint32_t code = 0;
};

struct PairMessage {
  uint64_t incarnation = 0;
  uint64_t serial = 0;        // drawn by the debtor for each PairOpen, echoed
  uint8_t from_creditor = 0;  // otherwise from the debtor
  uint32_t code = 0;          // absl::StatusCode; not 0: refused, and `text` says why
  std::string key, text;      // key: PairOpen's
  std::string host, pci;      // of the sender's GPU; not PairClosed's
};

struct AnnounceHeader {
  uint64_t incarnation = 0;
  uint64_t serial = 0;  // of the exchange; its starter is the debtor
  uint64_t step = 0;
  uint32_t item_count = 0;
};

struct AnnounceAnswerHeader {
  uint64_t incarnation = 0;
  uint64_t serial = 0;  // of the exchange
  uint8_t answer = 0;   // AnnouncementAnswer (distattn/announcement.h)
};

// A message has no more bytes of query rows, so that the creditor's other debtors do not wait long for it. A
// guess: 64 rows of 32 heads x 64 in bf16 are 256 KiB out and 528 KiB back.
constexpr size_t kQueryBytesMax = 512 << 10;
// Nor more of KV, but for a block that is larger: queries behind it wait, and GPUDirect has slots of this
// size. A guess: at 10 Gbit/s it takes 3.4 ms.
constexpr size_t kKvBytesMax = 4 << 20;

std::string EncodeQuery(const QueryHeader& header, const std::vector<QueryItem>& items);
std::string EncodeState(const StateHeader& header, absl::string_view text);
std::string EncodeKv(WireKind kind, const KvHeader& header);  // kKvWrite, kKvRead or kKvData
std::string EncodeKvAck(const KvAckHeader& header, absl::string_view text);
std::string EncodePair(WireKind kind, const PairMessage& message);  // kPairOpen, kPairOpened, kPairClosed
std::string EncodeAnnounce(const AnnounceHeader& header, const std::vector<QueryItem>& items);
std::string EncodeAnnounceAnswer(const AnnounceAnswerHeader& header);

// What a peer sent is input: kInvalidArgument when it is short, long, or of another kind.
absl::StatusOr<WireKind> PeekKind(absl::string_view bytes);
absl::Status DecodeQuery(absl::string_view bytes, QueryHeader* header, std::vector<QueryItem>* items);
absl::Status DecodeState(absl::string_view bytes, StateHeader* header, std::string* text);
absl::Status DecodeKv(WireKind kind, absl::string_view bytes, KvHeader* header);
absl::Status DecodeKvAck(absl::string_view bytes, KvAckHeader* header, std::string* text);
absl::Status DecodePair(WireKind kind, absl::string_view bytes, PairMessage* message);
absl::Status DecodeAnnounce(absl::string_view bytes, AnnounceHeader* header, std::vector<QueryItem>* items);
absl::Status DecodeAnnounceAnswer(absl::string_view bytes, AnnounceAnswerHeader* header);

}  // namespace lombard
