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

}  // namespace

std::string EncodeQuery(const QueryHeader& header, const std::vector<QueryItem>& items) {
  QueryHeader counted = header;
  counted.item_count = static_cast<uint32_t>(items.size());
  std::string out = Encode(WireKind::kQuery, counted);
  for (const QueryItem& item : items) PutFields(out, item);
  return out;
}
std::string EncodeState(const StateHeader& header, absl::string_view text) {
  return Encode(WireKind::kState, header, text);
}
std::string EncodeKv(WireKind kind, const KvHeader& header) { return Encode(kind, header); }
std::string EncodeKvAck(const KvAckHeader& header, absl::string_view text) {
  return Encode(WireKind::kKvAck, header, text);
}

absl::StatusOr<WireKind> PeekKind(absl::string_view bytes) {
  if (bytes.empty() || bytes[0] < 1 || bytes[0] > 6)
    return absl::InvalidArgumentError("unknown kind of data message");
  return static_cast<WireKind>(bytes[0]);
}

absl::Status DecodeQuery(absl::string_view bytes, QueryHeader* header, std::vector<QueryItem>* items) {
  Reader reader(bytes);
  reader.Kind(WireKind::kQuery);
  GetFields(reader, header);
  if (uint64_t{header->item_count} * kQueryItemBytes > bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("query header names ", header->item_count, " items in ", bytes.size(), " bytes"));
  }
  items->resize(header->item_count);
  for (QueryItem& item : *items) GetFields(reader, &item);
  return reader.Done("query");
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

}  // namespace lombard
