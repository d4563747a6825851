#include "distattn/wire.h"

#include <bit>
#include <cstring>

#include "base/status.h"

namespace lombard {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the wire is little-endian; byte swaps would go into Put and Get");

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void Put(std::string& out, const std::string& text) {
  Put(out, static_cast<uint32_t>(text.size()));
  out += text;
}

// Reads in order; once short, everything after is short.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  template <typename T>
  Reader& Get(T* value) {
    if (bytes_.size() < sizeof(T)) {
      short_ = true;
      return *this;
    }
    std::memcpy(value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return *this;
  }
  Reader& Get(std::string* text) {
    uint32_t size = 0;
    Get(&size);
    if (size > bytes_.size()) {
      short_ = true;
      return *this;
    }
    text->assign(bytes_.data(), size);
    bytes_.remove_prefix(size);
    return *this;
  }
  Reader& Kind(WireKind expected) {
    uint8_t kind = 0;
    Get(&kind);
    if (kind != static_cast<uint8_t>(expected)) short_ = true;
    return *this;
  }
  std::string Rest() {
    std::string rest(bytes_);
    bytes_ = {};
    return rest;
  }
  absl::Status Done(absl::string_view what) const {
    if (!short_ && bytes_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "malformed ", what, " header: ", short_ ? "too short or of another kind" : "bytes left over"));
  }

 private:
  absl::string_view bytes_;
  bool short_ = false;
};

// One list of fields for both directions.
template <typename Visitor>
void Fields(QueryHeader& h, Visitor&& v) {
  v(h.incarnation), v(h.exchange), v(h.part), v(h.step), v(h.layer), v(h.compact), v(h.item_count);
}
template <typename Visitor>
void Fields(QueryItem& i, Visitor&& v) {
  v(i.loan), v(i.epoch), v(i.first_slot), v(i.rows), v(i.first_query_position), v(i.first_position),
      v(i.token_count), v(i.window);
}
template <typename Visitor>
void Fields(StateHeader& h, Visitor&& v) {
  v(h.incarnation), v(h.exchange), v(h.part), v(h.code), v(h.refused_item);
}
template <typename Visitor>
void Fields(KvHeader& h, Visitor&& v) {
  v(h.incarnation), v(h.transfer), v(h.loan), v(h.epoch), v(h.layer), v(h.first_slot), v(h.slot_count);
}
template <typename Visitor>
void Fields(KvAckHeader& h, Visitor&& v) {
  v(h.incarnation), v(h.transfer), v(h.code);
}

template <typename Visitor>
void Fields(PairMessage& m, Visitor&& v) {
  v(m.incarnation), v(m.serial), v(m.from_creditor), v(m.code), v(m.key), v(m.text), v(m.host), v(m.pci);
}
template <typename Visitor>
void Fields(AnnounceHeader& h, Visitor&& v) {
  v(h.incarnation), v(h.serial), v(h.step), v(h.item_count);
}
template <typename Visitor>
void Fields(AnnounceAnswerHeader& h, Visitor&& v) {
  v(h.incarnation), v(h.serial), v(h.answer);
}

template <typename T>
void PutFields(std::string& out, T value) {
  Fields(value, [&out](auto& field) { Put(out, field); });
}
template <typename T>
void GetFields(Reader& reader, T* value) {
  Fields(*value, [&reader](auto& field) { reader.Get(&field); });
}

template <typename T>
std::string Encode(WireKind kind, const T& header, absl::string_view text = {}) {
  std::string out;
  Put(out, static_cast<uint8_t>(kind));
  PutFields(out, header);
  out.append(text.data(), text.size());
  return out;
}

constexpr size_t kQueryItemBytes = 8 + 8 + 6 * 4;

// Headers that end with items: `header` counts them.
template <typename T>
std::string EncodeItems(WireKind kind, T header, const std::vector<QueryItem>& items) {
  header.item_count = static_cast<uint32_t>(items.size());
  std::string out = Encode(kind, header);
  for (const QueryItem& item : items) PutFields(out, item);
  return out;
}
template <typename T>
absl::Status DecodeItems(WireKind kind, absl::string_view what, absl::string_view bytes, T* header,
                         std::vector<QueryItem>* items) {
  Reader reader(bytes);
  reader.Kind(kind);
  GetFields(reader, header);
  if (uint64_t{header->item_count} * kQueryItemBytes > bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " header names ", header->item_count, " items in ", bytes.size(), " bytes"));
  }
  items->resize(header->item_count);
  for (QueryItem& item : *items) GetFields(reader, &item);
  return reader.Done(what);
}

}  // namespace

std::string EncodeQuery(const QueryHeader& header, const std::vector<QueryItem>& items) {
  return EncodeItems(WireKind::kQuery, header, items);
}
std::string EncodeState(const StateHeader& header, absl::string_view text) {
  return Encode(WireKind::kState, header, text);
}
std::string EncodeKv(WireKind kind, const KvHeader& header) { return Encode(kind, header); }
std::string EncodeKvAck(const KvAckHeader& header, absl::string_view text) {
  return Encode(WireKind::kKvAck, header, text);
}
std::string EncodePair(WireKind kind, const PairMessage& message) { return Encode(kind, message); }
std::string EncodeAnnounce(const AnnounceHeader& header, const std::vector<QueryItem>& items) {
  return EncodeItems(WireKind::kAnnounce, header, items);
}
std::string EncodeAnnounceAnswer(const AnnounceAnswerHeader& header) {
  return Encode(WireKind::kAnnounceAnswer, header);
}

absl::StatusOr<WireKind> PeekKind(absl::string_view bytes) {
  if (bytes.empty() || bytes[0] < 1 || bytes[0] > 11)
    return absl::InvalidArgumentError("unknown kind of data message");
  return static_cast<WireKind>(bytes[0]);
}

absl::Status DecodeQuery(absl::string_view bytes, QueryHeader* header, std::vector<QueryItem>* items) {
  return DecodeItems(WireKind::kQuery, "query", bytes, header, items);
}

absl::Status DecodeState(absl::string_view bytes, StateHeader* header, std::string* text) {
  Reader reader(bytes);
  reader.Kind(WireKind::kState);
  GetFields(reader, header);
  *text = reader.Rest();
  return reader.Done("state");
}

absl::Status DecodeKv(WireKind kind, absl::string_view bytes, KvHeader* header) {
  Reader reader(bytes);
  reader.Kind(kind);
  GetFields(reader, header);
  return reader.Done("KV");
}

absl::Status DecodeKvAck(absl::string_view bytes, KvAckHeader* header, std::string* text) {
  Reader reader(bytes);
  reader.Kind(WireKind::kKvAck);
  GetFields(reader, header);
  *text = reader.Rest();
  return reader.Done("KV ack");
}

absl::Status DecodePair(WireKind kind, absl::string_view bytes, PairMessage* message) {
  Reader reader(bytes);
  reader.Kind(kind);
  GetFields(reader, message);
  return reader.Done("pair");
}

absl::Status DecodeAnnounce(absl::string_view bytes, AnnounceHeader* header, std::vector<QueryItem>* items) {
  return DecodeItems(WireKind::kAnnounce, "announcement", bytes, header, items);
}

absl::Status DecodeAnnounceAnswer(absl::string_view bytes, AnnounceAnswerHeader* header) {
  Reader reader(bytes);
  reader.Kind(WireKind::kAnnounceAnswer);
  GetFields(reader, header);
  return reader.Done("answer");
}

}  // namespace lombard
