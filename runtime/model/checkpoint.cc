#include "runtime/model/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "runtime/model/json_file.h"

namespace lombard {
namespace {

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// Says what the directory has instead: the usual mistakes are a half download, or weights in another format.
absl::Status NothingToLoad(const std::string& model_dir) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model_dir, error)) {
    const std::string name = entry.path().filename().string();
    for (const char* ending : {".safetensors", ".bin", ".pth", ".pt", ".gguf"}) {
      if (absl::EndsWith(name, ending)) found.push_back(name);
    }
  }
  std::sort(found.begin(), found.end());
  if (found.size() > 5) found.resize(5), found.push_back("...");
  return absl::NotFoundError(
      absl::StrCat(model_dir, ": expected model.safetensors or model.safetensors.index.json, found ",
                   found.empty() ? "no weights at all" : absl::StrJoin(found, ", "),
                   "; download the safetensors form of the checkpoint"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& model_dir) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  const std::string single = model_dir + "/model.safetensors", index = single + ".index.json";
  if (Exists(single)) {
    checkpoint->where_ = single;
    RETURN_IF_ERROR(checkpoint->AddFile(single));
  } else if (Exists(index)) {
    checkpoint->where_ = index;
    RETURN_IF_ERROR(checkpoint->AddShards(model_dir, index));
  } else {
    return NothingToLoad(model_dir);
  }
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensors(file->bytes(), file->bytes().size(), path));
  for (TensorInfo& info : header.tensors) {
    tensor_bytes_ += info.end - info.begin;
    const std::string name = info.name;
    const auto [place, inserted] = tensors_.try_emplace(name, StoredTensor{file.get(), std::move(info)});
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", name, " is also in ", place->second.file->path()));
    }
  }
  metadata_.insert(header.metadata.begin(), header.metadata.end());
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShards(const std::string& model_dir, const std::string& index_path) {
  ASSIGN_OR_RETURN(const auto file, JsonFile::Read(index_path));
  const auto map = file->fields().Find("weight_map");
  simdjson::dom::object entries;
  if (!map) return file->fields().Missing("weight_map");
  if (map->get(entries) != simdjson::SUCCESS) return file->fields().Wrong("weight_map", "an object", *map);
  std::set<std::string> shards;
  for (const auto [key, value] : entries) {
    std::string_view shard;
    // A shard is a plain file name: an index must not reach outside its directory.
    if (value.get(shard) != simdjson::SUCCESS || shard.empty() || shard.find('/') != shard.npos ||
        shard == "..") {
      return file->fields().Wrong(absl::StrCat("weight_map: ", std::string(key)).c_str(),
                                  "the name of a file in the same directory", value);
    }
    index_[std::string(key)] = std::string(shard);
    shards.emplace(shard);
  }
  for (const std::string& shard : shards) {
    const absl::Status status = AddFile(model_dir + "/" + shard);
    if (absl::IsNotFound(status)) {
      absent_shards_[shard] = status;
    } else if (!status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

const StoredTensor* Checkpoint::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

absl::Status Checkpoint::Missing(absl::string_view name) const {
  const auto shard = index_.find(name);
  if (shard == index_.end())
    return absl::NotFoundError(absl::StrCat(where_, ": tensor ", name, " is missing"));
  const auto absent = absent_shards_.find(shard->second);
  if (absent != absent_shards_.end())
    return Annotate(absent->second, absl::StrCat(where_, ": tensor ", name));
  return absl::NotFoundError(
      absl::StrCat(where_, ": tensor ", name, " is missing: ", shard->second, " does not hold it"));
}

}  // namespace lombard
