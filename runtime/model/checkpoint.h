// The safetensors files of a model directory, mapped, as one table of named tensors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "runtime/model/mapped_file.h"
#include "runtime/model/safetensors.h"

namespace lombard {

struct StoredTensor {
  const MappedFile* file;
  TensorInfo info;
  const std::byte* data() const { return file->bytes().data() + info.begin; }
};

// Immutable and thread-safe; owns the mappings that its tensors point into.
class Checkpoint {
 public:
  // model.safetensors, or else the shards of model.safetensors.index.json. An index may name tensors that its
  // shards do not hold, or shards that are not there, as long as nobody asks for them. kNotFound: neither
  // file, with what to do.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_dir);

  const StoredTensor* Find(absl::string_view name) const;  // nullptr: not there
  // "not in DIR/model.safetensors", or where the index says it should be and why it is not.
  absl::Status Missing(absl::string_view name) const;
  const std::vector<std::unique_ptr<MappedFile>>& files() const { return files_; }
  size_t tensor_count() const { return tensors_.size(); }
  int64_t tensor_bytes() const { return tensor_bytes_; }
  const absl::flat_hash_map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  absl::Status AddFile(const std::string& path);
  absl::Status AddShards(const std::string& model_dir, const std::string& index_path);

  std::string where_;  // the single file, or the index
  std::vector<std::unique_ptr<MappedFile>> files_;
  absl::flat_hash_map<std::string, StoredTensor> tensors_;
  absl::flat_hash_map<std::string, std::string> metadata_;        // of all files
  absl::flat_hash_map<std::string, std::string> index_;           // tensor -> shard, as the index has it
  absl::flat_hash_map<std::string, absl::Status> absent_shards_;  // shard -> why it could not be opened
  int64_t tensor_bytes_ = 0;
};

}  // namespace lombard
