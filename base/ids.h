// Identifiers. Each is a type of its own, so that a block number never slips in as a token number.
#pragma once

#include <compare>
#include <cstdint>
#include <ostream>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace lombard {

enum class BlockId : uint32_t {};     // a KV block of one worker's pool
enum class InstanceId : uint32_t {};  // a model replica; with one rank per instance equal to the rank
enum class LoanId : uint64_t {};  // unique in the job: (creditor instance << 40) | counter of that creditor
enum class Incarnation : uint64_t {};  // of a worker process; grows at each restart

// A sequence being generated: unique in the job, and ordered by arrival. Who is smaller is older and never
// yields to a younger one.
struct RequestId {
  uint64_t arrival_us = 0;  // microseconds on the front door's clock
  uint64_t number = 0;      // breaks ties
  auto operator<=>(const RequestId&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const RequestId& id) {
    return H::combine(std::move(h), id.arrival_us, id.number);
  }
};

template <typename Id>
requires std::is_enum_v<Id>
constexpr auto Value(Id id) { return static_cast<std::underlying_type_t<Id>>(id); }

inline std::string ToString(const RequestId& id) { return absl::StrCat("request ", id.number); }
inline std::ostream& operator<<(std::ostream& out, const RequestId& id) { return out << ToString(id); }

}  // namespace lombard
