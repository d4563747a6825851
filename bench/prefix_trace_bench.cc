// Hit ratio of the prefix tree on a trace of prompts that names their 512-token blocks by hash ids, through
// pool and tree only, at several pool sizes.
//
//   prefix_trace_bench [TRACE [BLOCK_TOKENS]]   default: the Mooncake conversation trace, 32 tokens
//
// Requests come in the order of the trace, one at a time; a request finds what it can, takes blocks for the
// rest of its prompt (evicting when the pool is full), leaves its full blocks to the tree and is gone.
// Outputs are not replayed: the trace does not say which of the next prompt's ids they became. A prompt is
// never used to its last token, which must be computed. Ideal: an unbounded cache of the trace's own blocks,
// in which all leading ids that any earlier prompt had are hits. Times are CPU time of this thread.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/status.h"
#include "kvpool/prefix_tree.h"

namespace lombard {
namespace {

constexpr const char* kTrace = "../shared/data/traces/mooncake_conversation_first_half.jsonl";
constexpr uint64_t kIdTokens = 512;

struct Prompt {
  absl::Time arrival;
  uint64_t tokens = 0;
  std::vector<uint64_t> ids;
};

std::vector<Prompt> Parse(const std::string& text) {
  std::vector<Prompt> prompts;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    CHECK(row.is_object()) << "line " << prompts.size() + 1;
    prompts.push_back({.arrival = absl::FromUnixMillis(row["timestamp"].get<int64_t>()),
                       .tokens = row["input_length"].get<uint64_t>(),
                       .ids = row["hash_ids"].get<std::vector<uint64_t>>()});
    CHECK_LE(prompts.back().tokens, prompts.back().ids.size() * kIdTokens);
  }
  return prompts;
}

// Token i of the text that an id stands for: the same wherever the id occurs, and unlike any other id's.
std::vector<int32_t> TokensOf(const Prompt& prompt) {
  std::vector<int32_t> tokens(prompt.tokens);
  for (uint64_t i = 0; i < prompt.tokens; ++i) {
    tokens[i] = static_cast<int32_t>(
        HashBlock(prompt.ids[i / kIdTokens], {static_cast<int32_t>(i % kIdTokens)}) & 0x7fffffff);
  }
  return tokens;
}

uint64_t IdealHits(const std::vector<Prompt>& prompts) {
  std::set<uint64_t> seen;
  uint64_t hits = 0;
  for (const Prompt& prompt : prompts) {
    size_t leading = 0;
    while (leading < prompt.ids.size() && seen.count(prompt.ids[leading]) > 0) ++leading;
    hits += std::min<uint64_t>(leading * kIdTokens, prompt.tokens);
    seen.insert(prompt.ids.begin(), prompt.ids.end());
  }
  return hits;
}

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Result {
  PrefixStats stats;
  uint32_t blocks = 0, nodes = 0, refused = 0;
  double us_mean = 0, us_max = 0;  // per request
};

Result Replay(const std::vector<Prompt>& prompts, uint32_t block_tokens, uint32_t pool_blocks) {
  KvPool pool(pool_blocks);
  PrefixTree tree(&pool, {.model_fingerprint = 1, .kv_format = "bf16", .block_tokens = block_tokens});
  Result result;
  for (const Prompt& prompt : prompts) {
    const std::vector<int32_t> tokens = TokensOf(prompt);
    const double start = CpuSeconds();
    const PrefixMatch match = tree.Match("", tokens);
    const PrefixReader reader =
        tree.Pin(match, std::min<uint64_t>(match.tokens, tokens.size() - 1), prompt.arrival);
    const uint32_t cached = tree.BlocksRead(reader);
    const auto needed = static_cast<uint32_t>((tokens.size() + block_tokens - 1) / block_tokens) - cached;
    if (needed > pool.free_count()) tree.Evict(needed - pool.free_count());
    const auto blocks = pool.Allocate(needed);
    if (!blocks.ok()) {  // larger than the pool
      tree.Abandon(reader);
      ++result.refused;
      continue;
    }
    const size_t full = tokens.size() / block_tokens - cached;
    tree.Extend(reader, absl::MakeConstSpan(tokens).subspan(cached * block_tokens, full * block_tokens),
                absl::MakeConstSpan(*blocks).first(full), prompt.arrival);
    tree.Unpin(reader, prompt.arrival);
    pool.ReleaseAll(*blocks);
    const double us = (CpuSeconds() - start) * 1e6;
    result.us_mean += us / static_cast<double>(prompts.size());
    result.us_max = std::max(result.us_max, us);
  }
  CHECK_OK(tree.CheckInvariants());
  CHECK_OK(pool.CheckInvariants());
  CHECK_EQ(pool.used_count(), tree.block_count());
  result.stats = tree.stats();
  result.blocks = tree.block_count();
  result.nodes = tree.node_count();
  return result;
}

int Main(const std::string& path, uint32_t block_tokens) {
  const auto text = ReadWholeFile(path);
  if (!text.ok()) {
    std::fprintf(stderr, "prefix_trace_bench: %s; nothing to measure\n", text.status().ToString().c_str());
    return 0;
  }
  const std::vector<Prompt> prompts = Parse(*text);
  uint64_t tokens = 0;
  for (const Prompt& prompt : prompts) tokens += prompt.tokens;
  const double ideal = static_cast<double>(IdealHits(prompts)) / static_cast<double>(tokens);
  std::printf("# %s: %zu prompts, %llu tokens, blocks of %u; ideal %.4f by token\n", path.c_str(),
              prompts.size(), static_cast<unsigned long long>(tokens), block_tokens, ideal);
  std::printf(
      "| pool (tokens) | hit ratio | of ideal | copied tokens | evicted blocks | blocks at end | nodes "
      "| refused | us per request, mean (max) |\n|---|---|---|---|---|---|---|---|---|\n");
  for (const uint64_t pool_tokens : {uint64_t{1} << 20, uint64_t{1} << 22, uint64_t{1} << 24, tokens}) {
    // Unbounded: room for every prompt without any hit.
    const uint64_t blocks = pool_tokens / block_tokens + (pool_tokens == tokens ? prompts.size() : 0);
    const Result result = Replay(prompts, block_tokens, static_cast<uint32_t>(blocks));
    const double ratio =
        static_cast<double>(result.stats.hit_tokens) / static_cast<double>(result.stats.queried_tokens);
    std::printf("| %s | %.4f | %.3f | %llu | %llu | %u | %u | %u | %.0f (%.0f) |\n",
                pool_tokens == tokens ? "unbounded" : absl::StrCat(pool_tokens >> 20, " Mi").c_str(), ratio,
                ratio / ideal, static_cast<unsigned long long>(result.stats.copied_tokens),
                static_cast<unsigned long long>(result.stats.evicted_blocks), result.blocks, result.nodes,
                result.refused, result.us_mean, result.us_max);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  const long block_tokens = argc > 2 ? std::atol(argv[2]) : 32;
  if (block_tokens < 1 || block_tokens > 4096) {
    std::fprintf(stderr, "prefix_trace_bench: BLOCK_TOKENS %s is not in 1..4096\n", argv[2]);
    return 2;
  }
  return lombard::Main(argc > 1 ? argv[1] : lombard::kTrace, static_cast<uint32_t>(block_tokens));
}
