// The secret that the ranks of a job share. It never leaves the process: a rank proves that it has it by the
// HMAC-SHA256 of a text that the other one chose a part of. It keeps strangers out of a job; what ranks then
// tell each other is neither encrypted nor signed.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lombard {

class ClusterKey {
 public:
  ClusterKey() = default;  // none: everybody has that
  // The file's bytes, without the ends of lines at their end. kNotFound: no such file. kFailedPrecondition:
  // others than its owner may read it, or it is shorter than kKeyBytesMin.
  static absl::StatusOr<ClusterKey> Load(const std::string& path);
  static constexpr size_t kKeyBytesMin = 16;
  explicit ClusterKey(std::string secret);  // for tests

  bool empty() const { return secret_.empty(); }
  // Eight hexadecimal digits that tell keys apart and do not tell the key; "none" without one.
  const std::string& id() const { return id_; }
  // In hexadecimal digits. `role`: of the one who proves, so that no proof can be sent back.
  std::string Prove(absl::string_view role, absl::string_view text) const;
  bool Verify(absl::string_view role, absl::string_view text,
              absl::string_view proof) const;  // in constant time

 private:
  std::string secret_, id_ = "none";
};

// 32 random bytes in hexadecimal digits.
std::string MakeNonce();

}  // namespace lombard
