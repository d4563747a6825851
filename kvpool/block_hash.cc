#include "kvpool/block_hash.h"

namespace lombard {
namespace {

// One step of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Add(uint64_t state, absl::string_view text) {
  state = Mix(state ^ text.size());
  for (const char c : text) state = Mix(state ^ static_cast<unsigned char>(c));
  return state;
}

}  // namespace

uint64_t HashEmptyPrefix(const PrefixSpace& space, absl::string_view salt) {
  return Add(Add(Mix(Mix(space.model_fingerprint) ^ space.block_tokens), space.kv_format), salt);
}

uint64_t HashBlock(uint64_t before, absl::Span<const int32_t> tokens) {
  uint64_t state = before;
  for (const int32_t token : tokens) state = Mix(state ^ static_cast<uint32_t>(token));
  return state;
}

std::vector<uint64_t> HashFullBlocks(const PrefixSpace& space, absl::string_view salt,
                                     absl::Span<const int32_t> tokens) {
  std::vector<uint64_t> hashes;
  uint64_t hash = HashEmptyPrefix(space, salt);
  for (; tokens.size() >= space.block_tokens; tokens.remove_prefix(space.block_tokens))
    hashes.push_back(hash = HashBlock(hash, tokens.first(space.block_tokens)));
  return hashes;
}

}  // namespace lombard
