// Runs a fuzz entry as an ordinary test: its corpus, and random mutations of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace lombard {

// The files of tests/fuzz/corpus/`name`, in the order of their names.
inline std::vector<std::string> FuzzCorpus(const std::string& name) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator("tests/fuzz/corpus/" + name)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> texts;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return texts;
}

// Random edits of `text`: bytes changed, inserted, removed, pieces copied, the end cut off.
inline std::string Mutate(std::string text, std::mt19937_64& rng) {
  for (int edits = 1 + rng() % 4; edits > 0; --edits) {
    const size_t at = text.empty() ? 0 : rng() % text.size();
    switch (rng() % 6) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(rng());
        break;
      case 1:
        text.insert(at, 1, static_cast<char>(rng()));
        break;
      case 2:
        if (!text.empty()) text.erase(at, 1 + rng() % 8);
        break;
      case 3:
        text.insert(at, text.substr(text.empty() ? 0 : rng() % text.size(), rng() % 32));
        break;
      case 4:
        text.resize(at);
        break;
      default:  // characters that mean something to the parsers here
        text.insert(at, 1, "{}[]\":,-0eE.\\\n #&*!|>'%"[rng() % 24]);
    }
  }
  return text;
}

// Calls `entry` (an LLVMFuzzerTestOneInput) with each text and with `rounds` mutations of each. Crashes and
// CHECKs fail the test; the caller puts the seed into its trace.
template <typename Entry>
void RunFuzzCorpus(Entry entry, const std::vector<std::string>& corpus, int rounds, uint64_t seed) {
  std::mt19937_64 rng(seed);
  for (const std::string& text : corpus) {
    entry(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    std::string mutated = text;
    for (int round = 0; round < rounds; ++round) {
      mutated = Mutate(round % 8 == 0 ? text : std::move(mutated), rng);
      entry(reinterpret_cast<const uint8_t*>(mutated.data()), mutated.size());
    }
  }
}

}  // namespace lombard
