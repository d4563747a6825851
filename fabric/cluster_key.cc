#include "fabric/cluster_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status.h"

namespace lombard {
namespace {

constexpr size_t kNonceBytes = 32;

}  // namespace

ClusterKey::ClusterKey(std::string secret) : secret_(std::move(secret)) {
  id_ = Prove("id", "").substr(0, 8);
}

absl::StatusOr<ClusterKey> ClusterKey::Load(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "--cluster-key-file %s has mode %03o: others than its owner can reach it; chmod 600 %s", path,
        info.st_mode & 0777, path));
  }
  absl::StatusOr<std::string> secret = ReadWholeFile(path);
  if (!secret.ok()) return Annotate(secret.status(), "--cluster-key-file");
  while (!secret->empty() && (secret->back() == '\n' || secret->back() == '\r')) secret->pop_back();
  if (secret->size() < kKeyBytesMin) {
    return absl::FailedPreconditionError(
        absl::StrCat("--cluster-key-file ", path, " holds ", secret->size(), " bytes, at least ",
                     kKeyBytesMin, " are needed; head -c 32 /dev/urandom | base64 > ", path));
  }
  return ClusterKey(*std::move(secret));
}

std::string ClusterKey::Prove(absl::string_view role, absl::string_view text) const {
  const std::string message = absl::StrCat("lombard ", role, "\n", text);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  CHECK(HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()),
             reinterpret_cast<const unsigned char*>(message.data()), message.size(), digest,
             &length) != nullptr);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), length});
}

bool ClusterKey::Verify(absl::string_view role, absl::string_view text, absl::string_view proof) const {
  const std::string right = Prove(role, text);
  return proof.size() == right.size() && CRYPTO_memcmp(proof.data(), right.data(), right.size()) == 0;
}

std::string MakeNonce() {
  unsigned char bytes[kNonceBytes];
  CHECK_EQ(RAND_bytes(bytes, kNonceBytes), 1);
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes), kNonceBytes});
}

}  // namespace lombard
