// Goal: flags become the options they say; a wrong command line is a usage error (exit code 2) that names
// flag and value.
#include "runtime/config/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"

namespace lombard {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// `line` is split at blanks; the program's name is put before it.
Command Parse(const std::string& line) {
  std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  words.insert(words.begin(), "lombard");
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  argv.push_back(nullptr);
  return ParseCommandLine(static_cast<int>(words.size()), argv.data(), "1.2.3");
}

constexpr char kGenerate[] = "generate --model m --input i --output o ";

GenerateOptions Generate(const std::string& flags) {
  const Command command = Parse(kGenerate + flags);
  if (const auto* exit = std::get_if<ExitRequest>(&command)) {
    ADD_FAILURE() << exit->text;
    return {};
  }
  return std::get<GenerateOptions>(command);
}

TEST(Options, GenerateHasItsDefaults) {
  const GenerateOptions o = Generate("");
  EXPECT_EQ(o.worker.model_dir, "m");
  EXPECT_EQ(o.input, "i");
  EXPECT_EQ(o.output, "o");
  EXPECT_EQ(o.max_tokens, 16);
  EXPECT_EQ(o.temperature, 0);
  EXPECT_EQ(o.seed, std::nullopt);
  EXPECT_FALSE(o.resume);
  EXPECT_EQ(o.report_dir, "");
  EXPECT_EQ(o.worker.block_tokens, 32);
  EXPECT_EQ(o.worker.threads, std::nullopt);
  EXPECT_EQ(o.worker.policy, std::nullopt);
  EXPECT_EQ(o.worker.device, std::nullopt);
  EXPECT_EQ(o.worker.gpu_memory_utilization, 0.9);
  EXPECT_TRUE(o.worker.cuda_graphs);
  EXPECT_TRUE(o.worker.gpu_exchange);
  EXPECT_EQ(o.worker.gpu_direct, std::nullopt);
  EXPECT_EQ(o.worker.in_process, 0);
  EXPECT_TRUE(o.worker.kv.tokens.empty() && o.worker.kv.bytes.empty());
}

TEST(Options, GenerateReadsEveryFlag) {
  const GenerateOptions o = Generate(
      "--cluster c.yaml --kv-tokens 1024,2048 --threads 3 --max-model-len 9000 --block-tokens 16 --policy "
      "none --isa avx2 "
      "--device cuda --gpu-memory-utilization 0.5 --load-format dummy --cuda-graphs off --gpu-direct off "
      "--gpu-exchange "
      "transport "
      "--max-batch-tokens 128 --max-batch-size 8 --in-process 2 --ucx-profile tcp+shm --prefix-cache off "
      "--heartbeat 50ms "
      "--dead-after 2s "
      "--claim-after 1s --start-timeout 1m --verbose --max-tokens 100 --temperature 0.7 --seed "
      "18446744073709551615 --resume "
      "--report=r");
  EXPECT_EQ(o.worker.cluster_file, "c.yaml");
  EXPECT_THAT(o.worker.kv.tokens, ElementsAre(1024, 2048));
  EXPECT_EQ(o.worker.threads, 3);
  EXPECT_EQ(o.worker.max_model_len, 9000);
  EXPECT_EQ(o.worker.block_tokens, 16);
  EXPECT_EQ(o.worker.policy, Policy::kNone);
  EXPECT_EQ(o.worker.isa, "avx2");
  EXPECT_EQ(o.worker.device, DeviceWish::kCuda);
  EXPECT_EQ(o.worker.gpu_memory_utilization, 0.5);
  EXPECT_TRUE(o.worker.dummy_weights);
  EXPECT_FALSE(o.worker.cuda_graphs);
  EXPECT_FALSE(o.worker.gpu_exchange);
  EXPECT_EQ(o.worker.gpu_direct, false);
  EXPECT_EQ(o.worker.max_batch_tokens, 128);
  EXPECT_EQ(o.worker.max_batch_size, 8);
  EXPECT_EQ(o.worker.in_process, 2);
  EXPECT_EQ(o.worker.ucx_profile, "tcp+shm");
  EXPECT_FALSE(o.worker.prefix_cache);
  EXPECT_EQ(o.worker.heartbeat, absl::Milliseconds(50));
  EXPECT_EQ(o.worker.dead_after, absl::Seconds(2));
  EXPECT_EQ(o.worker.claim_after, absl::Seconds(1));
  EXPECT_EQ(o.worker.start_timeout, absl::Minutes(1));
  EXPECT_TRUE(o.worker.verbose);
  EXPECT_EQ(o.max_tokens, 100);
  EXPECT_EQ(o.temperature, 0.7);
  EXPECT_EQ(o.seed, ~uint64_t{0});
  EXPECT_TRUE(o.resume);
  EXPECT_EQ(o.report_dir, "r");
  EXPECT_THAT(Generate("--kv-bytes 64MiB,1GiB").worker.kv.bytes, ElementsAre(64u << 20, 1u << 30));
  const GenerateOptions place = Generate("--rank 1 --size 4 --rendezvous node0:7000");
  EXPECT_EQ(place.worker.rank, 1);
  EXPECT_EQ(place.worker.size, 4);
  EXPECT_EQ(place.worker.rendezvous, "node0:7000");
}

TEST(Options, TheLastOfARepeatedFlagCounts) {
  EXPECT_EQ(Generate("--seed 1 --seed 2").seed, 2);
  EXPECT_THAT(Generate("--kv-tokens 5 --kv-tokens 6,7").worker.kv.tokens, ElementsAre(6, 7));
}

TEST(Options, TheOtherCommandsAreRead) {
  const auto create = std::get<ModelCreateOptions>(Parse("model create --preset tiny --output d --seed 5"));
  EXPECT_EQ(create.preset, "tiny");
  EXPECT_EQ(create.output, "d");
  EXPECT_EQ(create.seed, 5);
  EXPECT_EQ(std::get<ModelInspectOptions>(Parse("model inspect some/dir")).dir, "some/dir");
  EXPECT_EQ(std::get<ModelTokenizeOptions>(Parse("model tokenize some/dir")).dir, "some/dir");
  EXPECT_TRUE(std::holds_alternative<DoctorOptions>(Parse("doctor")));
}

TEST(Options, HelpAndVersionAreAnsweredEverywhere) {
  struct Case {
    const char* line;
    const char* mentions;
  };
  for (const Case& c : {Case{"--help", "generate"},
                        {"-h", "generate"},
                        {"generate --help", "--kv-tokens"},
                        {"model --help", "inspect"},
                        {"model create --help", "--preset"},
                        {"model inspect --help", "DIR"},
                        {"model tokenize --help", "JSON"},
                        {"doctor --help", "doctor"},
                        {"--version", "lombard 1.2.3"},
                        {"generate --model m --help", "--input"}}) {
    const Command command = Parse(c.line);
    ASSERT_TRUE(std::holds_alternative<ExitRequest>(command)) << c.line;
    EXPECT_EQ(std::get<ExitRequest>(command).code, 0) << c.line;
    EXPECT_THAT(std::get<ExitRequest>(command).text, HasSubstr(c.mentions)) << c.line;
  }
}

TEST(Options, EveryWrongLineIsAUsageErrorThatNamesFlagAndValue) {
  struct Case {
    std::string line;
    std::vector<const char*> mentions;
  };
  const std::string g = kGenerate;
  const Case cases[] = {
      {"", {"lombard: ", "command", "generate"}},
      {"frobnicate", {"'frobnicate'", "generate"}},
      {"frobnicate --model m", {"'frobnicate'", "generate"}},
      {"--frobnicate", {"'--frobnicate'"}},
      {"model", {"lombard model", "command", "inspect"}},
      {"model melt", {"'melt'", "inspect"}},
      {"model inspect", {"lombard model inspect", "dir"}},
      {"model inspect a b", {"'b'"}},
      {"model create --output d", {"--preset"}},
      {"doctor now", {"'now'"}},
      {"generate", {"lombard generate: ", "required", "--help"}},
      {"generate --model m --input i", {"--output"}},
      {g + "--frobnicate 5", {"unknown flag '--frobnicate'"}},
      {g + "--frobnicate=5", {"unknown flag '--frobnicate'"}},
      {g + "--max-token 5", {"unknown flag '--max-token'"}},
      {g + "extra", {"'extra'"}},
      {g + "--max-tokens", {"--max-tokens"}},
      {g + "--max-tokens many", {"--max-tokens", "'many'", "between 1 and"}},
      {g + "--max-tokens 0", {"--max-tokens", "'0'"}},
      {g + "--max-tokens -5", {"--max-tokens", "'-5'"}},
      {g + "--max-tokens 5.5", {"--max-tokens", "'5.5'"}},
      {g + "--temperature hot", {"--temperature", "'hot'"}},
      {g + "--temperature -1", {"--temperature", "'-1'"}},
      {g + "--temperature nan", {"--temperature", "'nan'"}},
      {g + "--seed -1", {"--seed", "'-1'"}},
      {g + "--seed 18446744073709551616", {"--seed", "'18446744073709551616'"}},
      {g + "--device gpu", {"--device", "'gpu'", "cuda"}},
      {g + "--gpu-memory-utilization 1.5", {"--gpu-memory-utilization", "'1.5'"}},
      {g + "--gpu-memory-utilization nan", {"--gpu-memory-utilization", "'nan'"}},
      {g + "--cuda-graphs yes", {"--cuda-graphs", "'yes'"}},
      {g + "--gpu-exchange nvlink", {"--gpu-exchange", "'nvlink'", "transport"}},
      {g + "--gpu-direct rdma", {"--gpu-direct", "'rdma'", "auto"}},
      {g + "--load-format gguf", {"--load-format", "'gguf'"}},
      {g + "--kv-tokens 5,", {"--kv-tokens", "''"}},
      {g + "--kv-tokens 64KiB", {"--kv-tokens", "'64KiB'"}},
      {g + "--kv-tokens 0", {"--kv-tokens", "'0'"}},
      {g + "--kv-bytes 64MoB", {"--kv-bytes", "'64MoB'"}},
      {g + "--kv-bytes 64MiB,0", {"--kv-bytes", "without memory"}},
      {g + "--kv-bytes 5 --kv-tokens 5", {"--kv-tokens", "--kv-bytes"}},
      {g + "--in-process 4 --kv-tokens 5,6", {"--kv-tokens", "2 values", "4 ranks"}},
      {g + "--in-process 0", {"--in-process", "'0'"}},
      {g + "--threads two", {"--threads", "'two'"}},
      {g + "--block-tokens 4096", {"--block-tokens", "'4096'", "1024"}},
      {g + "--policy generous", {"--policy", "'generous'", "greedy"}},
      {g + "--policy static", {"--policy", "'static'", "not in this version", "none, greedy"}},
      {g + "--isa sse9", {"--isa", "'sse9'", "avx2"}},
      {g + "--rank 1", {"--rank", "--size"}},
      {g + "--rank 4 --size 4 --rendezvous h:1", {"--rank 4", "--size 4"}},
      {g + "--rank 1 --size 4", {"--rendezvous"}},
      {g + "--join", {"--rendezvous"}},
      {g + "--join --rendezvous h:1 --size 2", {"--join", "--size"}},
      {g + "--join --rendezvous h:1 --rank 0", {"--rank 0"}},
      {g + "--rank 0 --size 4 --rendezvous h:1 --size-max 2", {"--size-max 2", "--size 4"}},
      {g + "--rank 0 --size 2 --rendezvous h", {"'h'", "host:port"}},
      {g + "--rank 0 --size 2 --rendezvous h:99999", {"'h:99999'"}},
      {g + "--in-process 2 --rank 0 --size 1", {"--in-process", "--rank"}},
      {g + "--dead-after soon", {"--dead-after", "'soon'"}},
      {g + "--dead-after 50ms", {"--dead-after", "--heartbeat"}},
      {g + "--heartbeat 0s", {"--heartbeat", "'0s'"}},
  };
  for (const Case& c : cases) {
    const Command command = Parse(c.line);
    ASSERT_TRUE(std::holds_alternative<ExitRequest>(command)) << c.line;
    const ExitRequest& exit = std::get<ExitRequest>(command);
    EXPECT_EQ(exit.code, 2) << c.line;
    for (const char* mention : c.mentions) EXPECT_THAT(exit.text, HasSubstr(mention)) << c.line;
    EXPECT_EQ(exit.text.back(), '\n');
  }
}

}  // namespace
}  // namespace lombard
