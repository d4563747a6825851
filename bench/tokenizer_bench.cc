// Tokenizer speed: MB of text per second, encoding and decoding, and the time to load a tokenizer.json.
// Needs the shared data set; without it there is nothing to measure.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "runtime/model/tokenizer/tokenizer.h"

namespace lombard {
namespace {

constexpr char kTokenizers[] = "../shared/data/tokenizers/";
constexpr char kTexts[] = "../shared/data/texts/";
constexpr size_t kTextBytes = 1'000'000;

std::string FirstMegabyte(const std::string& file) {
  const auto text = ReadWholeFile(absl::StrCat(kTexts, file));
  CHECK_OK(text.status());
  return text->substr(0, kTextBytes);
}

// A megabyte that no pre-tokenizer and no unjoinable pair cuts.
std::string OneWord() {
  std::mt19937_64 rng(1);
  std::string word;
  for (size_t i = 0; i < kTextBytes; ++i) word.push_back("etaoinshr"[rng() % 9]);
  return word;
}

void Encode(benchmark::State& state, const std::string& name, const std::string& text) {
  const auto tokenizer = Tokenizer::Load(absl::StrCat(kTokenizers, name));
  CHECK_OK(tokenizer.status());
  size_t tokens = 0;
  for (auto _ : state) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, false);
    tokens = ids.size();
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
  state.counters["tokens"] = static_cast<double>(tokens);
}

void DecodeStream(benchmark::State& state, const std::string& name, const std::string& text) {
  const auto tokenizer = Tokenizer::Load(absl::StrCat(kTokenizers, name));
  CHECK_OK(tokenizer.status());
  const std::vector<int32_t> ids = (*tokenizer)->Encode(text, false);
  for (auto _ : state) {
    StreamDecoder stream(**tokenizer, true);
    for (const int32_t id : ids) benchmark::DoNotOptimize(stream.Push(id));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(ids.size()));
}

void Load(benchmark::State& state, const std::string& name) {
  for (auto _ : state) CHECK_OK(Tokenizer::Load(absl::StrCat(kTokenizers, name)).status());
}

void Register() {
  for (const std::string name : {"gpt2", "llama3", "qwen2", "mistral-v1"}) {
    for (const std::string file : {"moby_dick.txt", "tang_poems_zh.txt"}) {
      benchmark::RegisterBenchmark(absl::StrCat("Encode/", name, "/", file).c_str(), Encode, name,
                                   FirstMegabyte(file))
          ->Unit(benchmark::kMillisecond);
    }
    benchmark::RegisterBenchmark(absl::StrCat("Encode/", name, "/one_word").c_str(), Encode, name, OneWord())
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(absl::StrCat("DecodeStream/", name).c_str(), DecodeStream, name,
                                 FirstMegabyte("moby_dick.txt"))
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(absl::StrCat("Load/", name).c_str(), Load, name)
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  if (!lombard::ReadWholeFile(absl::StrCat(lombard::kTexts, "moby_dick.txt")).ok()) {
    std::fprintf(stderr, "tokenizer_bench: no ../shared/data/texts here, nothing to measure\n");
    return 0;
  }
  lombard::Register();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
