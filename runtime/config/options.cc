#include "runtime/config/options.h"

#include <CLI/CLI.hpp>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {
namespace {

constexpr uint32_t kUint32Max = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kInProcessMax =
    256;  // workers of one process; each has three threads and a pool of its own

// Adds flags whose values are parsed here, so that every error names flag, value and range in the same way. A
// flag given twice counts by its last value, as GNU programs do.
class Flags {
 public:
  explicit Flags(CLI::App* app) : app_(app) {
    app_->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }

  // `parse`: text -> StatusOr of something assignable to *out.
  template <typename Out, typename Parse>
  CLI::Option* Value(const std::string& name, const std::string& value_name, Out* out, Parse parse,
                     const std::string& help) {
    const auto set = [name, out, parse](const std::string& text) {
      auto value = parse(text);
      if (!value.ok()) throw CLI::ValidationError(name, std::string(value.status().message()));
      *out = *std::move(value);
    };
    return app_->add_option_function<std::string>(name, set, help)->type_name(value_name);
  }

  CLI::Option* Text(const std::string& name, const std::string& value_name, std::string* out,
                    const std::string& help) {
    return Value(
        name, value_name, out,
        [](const std::string& text) -> absl::StatusOr<std::string> {
          if (text.empty()) return absl::InvalidArgumentError("the value is empty");
          return text;
        },
        help);
  }

  template <typename Out>
  CLI::Option* Whole(const std::string& name, Out* out, uint64_t min, uint64_t max, const std::string& help) {
    return Value(
        name, "N", out, [min, max](const std::string& text) { return ParseWhole(text, min, max); }, help);
  }

  CLI::Option* Period(const std::string& name, absl::Duration* out, const std::string& help) {
    const auto parse = [](const std::string& text) -> absl::StatusOr<absl::Duration> {
      ASSIGN_OR_RETURN(const absl::Duration duration, ParseDuration(text));
      if (duration >= absl::Milliseconds(1) && duration <= absl::Hours(24)) return duration;
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not between 1ms and 24h"));
    };
    return Value(name, "TIME", out, parse, absl::StrCat(help, " [", absl::FormatDuration(*out), "]"));
  }

  static absl::StatusOr<uint64_t> ParseWhole(const std::string& text, uint64_t min, uint64_t max) {
    uint64_t value;
    // SimpleAtoi would also take blanks around the digits and a sign.
    if (!text.empty() && text.find_first_not_of("0123456789") == text.npos &&
        absl::SimpleAtoi(text, &value) && value >= min && value <= max) {
      return value;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a whole number between ", min, " and ", max));
  }

 private:
  CLI::App* app_;
};

absl::StatusOr<double> ParseTemperature(const std::string& text) {
  double value;
  if (absl::SimpleAtod(text, &value) && value >= 0 && value <= 100) return value;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a number between 0 and 100"));
}

absl::StatusOr<double> ParseRate(const std::string& text) {
  double value;
  if (absl::SimpleAtod(text, &value) && value > 0 && value <= 1e6) return value;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a number between 0 and 1000000"));
}

// "N" or "N,N,...": each parsed by `parse`, none 0.
template <typename Parse>
absl::StatusOr<std::vector<uint64_t>> ParseList(const std::string& text, Parse parse) {
  std::vector<uint64_t> values;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(const uint64_t value, parse(std::string(item)));
    if (value == 0)
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' leaves a rank without memory"));
    values.push_back(value);
  }
  return values;
}

absl::StatusOr<std::vector<uint64_t>> ParseTokenList(const std::string& text) {
  return ParseList(text,
                   [](const std::string& item) { return Flags::ParseWhole(item, 1, uint64_t{1} << 48); });
}
absl::StatusOr<std::vector<uint64_t>> ParseByteList(const std::string& text) {
  return ParseList(text, [](const std::string& item) { return ParseBytes(item); });
}

absl::StatusOr<Policy> ParsePolicy(const std::string& text) {
  const std::optional<Policy> policy = PolicyFromName(text);
  if (policy == Policy::kNone || policy == Policy::kGreedy) return *policy;
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is ", policy ? "not in this version, which knows" : "none of", " none, greedy"));
}

absl::StatusOr<std::string> ParseIsaName(const std::string& text) {
  for (const char* name : {"base", "avx2", "avx512", "avx512_bf16", "amx"}) {
    if (text == name) return text;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is none of base, avx2, avx512, avx512_bf16, amx"));
}

absl::StatusOr<DeviceWish> ParseDevice(const std::string& text) {
  if (text == "cpu") return DeviceWish::kCpu;
  if (text == "cuda") return DeviceWish::kCuda;
  if (text == "auto") return DeviceWish::kAuto;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is none of cpu, cuda, auto"));
}

absl::StatusOr<bool> ParseLoadFormat(const std::string& text) {
  if (text == "auto" || text == "dummy") return text == "dummy";
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is none of auto, dummy"));
}

absl::StatusOr<bool> ParseGpuExchange(const std::string& text) {
  if (text == "auto" || text == "transport") return text == "auto";
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is none of auto, transport"));
}

absl::StatusOr<double> ParseShare(const std::string& text) {
  double value;
  if (absl::SimpleAtod(text, &value) && value > 0 && value <= 1) return value;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a number above 0 and up to 1"));
}

absl::StatusOr<bool> ParseOnOff(const std::string& text) {
  if (text == "on" || text == "off") return text == "on";
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is neither on nor off"));
}

absl::StatusOr<std::optional<bool>> ParseGpuDirect(const std::string& text) {
  if (text == "auto") return std::nullopt;
  if (text == "on" || text == "off") return text == "on";
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is none of auto, on, off"));
}

// A rank's place without MPI: host:port.
absl::StatusOr<std::string> ParseRendezvous(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon != text.npos && colon > 0 && Flags::ParseWhole(text.substr(colon + 1), 1, 65535).ok())
    return text;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not host:port"));
}

void AddWorkerFlags(CLI::App* app, WorkerOptions* o) {
  Flags flags(app);
  flags.Text("--model", "DIR", &o->model_dir, "Hugging Face directory of the model")->required();
  flags.Text("--cluster", "FILE", &o->cluster_file, "cluster file (YAML); flags win over it");
  auto* tokens =
      flags.Value("--kv-tokens", "N[,N...]", &o->kv.tokens, ParseTokenList,
                  "KV budget in tokens, one value for every rank or one per rank; rounded down to blocks "
                  "[half of the free memory divided by the ranks of the host]");
  auto* bytes = flags.Value("--kv-bytes", "SIZE[,SIZE...]", &o->kv.bytes, ParseByteList,
                            "the same in bytes, such as 64MiB");
  tokens->excludes(bytes);
  flags.Whole("--threads", &o->threads, 1, kThreadsMax,
              "threads per rank [cores of the host divided by its ranks]");
  flags.Whole("--max-model-len", &o->max_model_len, 1, kUint32Max,
              "longest sequence in tokens [the model's max_position_embeddings]");
  flags.Whole("--block-tokens", &o->block_tokens, 1, 1024, "tokens of a KV block [32]");
  flags.Value("--policy", "NAME", &o->policy, ParsePolicy,
              "who lends to whom: none, greedy [cluster file, then greedy]");
  flags.Value("--isa", "NAME", &o->isa, ParseIsaName,
              "instruction set: base, avx2, avx512, avx512_bf16, amx [the best there is]");
  flags.Whole("--max-batch-tokens", &o->max_batch_tokens, 1, 1 << 20,
              "tokens computed in one step: decodes, then prefill chunks [512]");
  flags.Whole("--max-batch-size", &o->max_batch_size, 1, 1 << 16, "sequences in one step [256]");
  flags.Value("--prefix-cache", "on|off", &o->prefix_cache, ParseOnOff,
              "keep KV of prompts and reuse it for equal beginnings [on]");
  flags.Value("--device", "NAME", &o->device, ParseDevice,
              "what computes: cpu, cuda, auto (a GPU where there is one) [cluster file, then cpu]");
  flags.Value("--gpu-memory-utilization", "SHARE", &o->gpu_memory_utilization, ParseShare,
              "of a GPU's free memory: what weights, steps and KV may fill together [0.9]");
  flags.Value("--cuda-graphs", "on|off", &o->cuda_graphs, ParseOnOff,
              "on a GPU, launch decode steps as graphs [on]");
  flags.Value("--gpu-exchange", "NAME", &o->gpu_exchange, ParseGpuExchange,
              "attention over loans between GPUs: auto (over NCCL where both ends can), transport [auto]");
  flags.Value(
      "--gpu-direct", "NAME", &o->gpu_direct, ParseGpuDirect,
      "KV that moves between GPUs stays out of host memory (GPUDirect): auto (where it can), on (or the "
      "start fails), off [auto]");
  flags.Value("--load-format", "NAME", &o->dummy_weights, ParseLoadFormat,
              "auto: the model's weights; dummy: random ones, made on the GPU, for benchmarks [auto]");
  flags.Whole("--in-process", &o->in_process, 1, kInProcessMax,
              "run N workers in this process, without MPI and UCX");
  flags.Text("--ucx-profile", "NAME", &o->ucx_profile,
             "how UCX is used: tcp, tcp+shm, rendezvous [by UCX version and devices]");
  flags.Whole("--rank", &o->rank, 0, kRanksMax - 1,
              "this process's rank, for a start without mpirun and srun");
  flags.Whole("--size", &o->size, 1, kRanksMax, "number of ranks, with --rank");
  flags.Value("--rendezvous", "HOST:PORT", &o->rendezvous, ParseRendezvous,
              "where rank 0 listens: for ranks started with --rank and --size, and for those that --join");
  app->add_flag("--join", o->join,
                "join the running job at --rendezvous, as --rank or as any rank that is free");
  flags.Whole("--size-max", &o->size_max, 1, kRanksMax,
              "ranks that may have joined in the end [those that start]");
  flags.Text("--cluster-key-file", "FILE", &o->cluster_key_file,
             "the secret that all ranks share; needed where rank 0 listens for other hosts");
  flags.Text("--bind", "ADDRESS", &o->bind, "where rank 0 listens [the host of --rendezvous]");
  flags.Period("--drain-wait", &o->drain_wait,
               "for a worker told to leave (SIGTERM), until it leaves anyway");
  flags.Period("--heartbeat", &o->heartbeat, "between two reports of a worker to the global manager");
  flags.Period("--dead-after", &o->dead_after, "silence after which a rank counts as lost");
  flags.Period("--claim-after", &o->claim_after,
               "wait after which a refused request is given memory before younger ones");
  flags.Period("--recovery-wait", &o->recovery_wait,
               "for a worker, when the memory that is left after a loss is too small for a request");
  flags.Period("--start-timeout", &o->start_timeout, "until all ranks have met");
  app->add_flag("--verbose", o->verbose, "say more on standard error");
}

// What several flags together make wrong; empty when nothing.
std::string CheckTogether(const WorkerOptions& o) {
  if (o.join) {
    if (o.rendezvous.empty()) return "--join needs --rendezvous HOST:PORT";
    if (o.size || o.in_process > 0 || o.size_max > 0)
      return "--join excludes --size, --size-max and --in-process";
    if (o.rank && *o.rank == 0) return "--join --rank 0: rank 0 is the one that is joined";
  } else if (o.rank.has_value() != o.size.has_value()) {
    return "--rank and --size need each other";
  }
  if (o.rank && o.size && *o.rank >= *o.size)
    return absl::StrCat("--rank ", *o.rank, " is not below --size ", *o.size);
  if (o.rank && o.size && o.rendezvous.empty() && *o.size > 1)
    return "--rank and --size need --rendezvous HOST:PORT";
  if (o.size && o.size_max > 0 && o.size_max < *o.size)
    return absl::StrCat("--size-max ", o.size_max, " is below --size ", *o.size);
  if (o.rank && o.in_process > 0) return "--in-process and --rank exclude each other";
  const uint64_t ranks = o.in_process > 0 ? o.in_process : o.size.value_or(0);
  for (const auto& [name, count] :
       {std::pair{"--kv-tokens", o.kv.tokens.size()}, {"--kv-bytes", o.kv.bytes.size()}}) {
    if (ranks > 0 && count > 1 && count != ranks) {
      return absl::StrCat(name, " lists ", count, " values for ", ranks,
                          " ranks; give one for all or one for each");
    }
  }
  if (o.dead_after <= o.heartbeat) {
    return absl::StrCat("--dead-after ", absl::FormatDuration(o.dead_after),
                        " must be longer than --heartbeat ", absl::FormatDuration(o.heartbeat));
  }
  return "";
}

CLI::App* AddGenerate(CLI::App* root, GenerateOptions* o) {
  CLI::App* app = root->add_subcommand("generate", "answer the prompts of a file");
  Flags flags(app);
  flags.Text("--input", "FILE", &o->input, "JSON lines: {\"prompt\": ...} or the OpenAI batch form")
      ->required();
  flags.Text("--output", "FILE", &o->output, "JSON lines, one for each input line, in the same order")
      ->required();
  AddWorkerFlags(app, &o->worker);
  flags.Whole("--max-tokens", &o->max_tokens, 1, std::numeric_limits<int32_t>::max(),
              "for lines that do not say [16]");
  flags.Value("--temperature", "T", &o->temperature, ParseTemperature,
              "for lines that do not say; 0 is greedy [0]");
  flags.Whole("--seed", &o->seed, 0, std::numeric_limits<uint64_t>::max(),
              "for lines that do not say [drawn from the line number]");
  flags.Value("--rate", "R", &o->rate, ParseRate, "requests given to the ranks per second [all at once]");
  app->add_flag("--resume", o->resume, "keep what --output holds and do the rest");
  flags.Text("--report", "DIR", &o->report_dir, "write DIR/report.json");
  return app;
}

// Remembers the subcommand that was chosen.
struct Parser {
  CLI::App app{"Lombard: LLM inference on several ranks that lend each other KV memory", "lombard"};
  GenerateOptions generate;
  ModelCreateOptions create;
  ModelInspectOptions inspect;
  ModelTokenizeOptions tokenize;
  CLI::App *generate_app, *model_app, *create_app, *inspect_app, *tokenize_app, *doctor_app;

  explicit Parser(absl::string_view version) {
    app.set_version_flag("--version", absl::StrCat("lombard ", version));
    app.require_subcommand(1);
    generate_app = AddGenerate(&app, &generate);
    model_app = app.add_subcommand("model", "make and look at model directories");
    model_app->require_subcommand(1);

    create_app = model_app->add_subcommand("create", "write random weights of a named shape, for load tests");
    Flags flags(create_app);
    flags.Text("--preset", "NAME", &create.preset, "the shape, such as tiny or llama-3.2-1b")->required();
    flags.Text("--output", "DIR", &create.output, "the directory to write")->required();
    flags.Whole("--seed", &create.seed, 0, std::numeric_limits<uint64_t>::max(), "of the random weights [0]");

    inspect_app = model_app->add_subcommand("inspect", "print shape, bytes and KV bytes per token");
    Flags(inspect_app).Text("dir", "DIR", &inspect.dir, "model directory")->required();
    tokenize_app = model_app->add_subcommand(
        "tokenize",
        "read text from standard input, print its token ids as a JSON array, without special tokens");
    Flags(tokenize_app).Text("dir", "DIR", &tokenize.dir, "directory with tokenizer.json")->required();

    doctor_app = app.add_subcommand("doctor", "look at this host and say what a run would meet");
  }
};

std::string CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return absl::StrJoin(names, ", ");
}

// "lombard model create" for the deepest subcommand that was reached.
const CLI::App* Reached(const CLI::App* app, std::string* name) {
  *name = "lombard";
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    absl::StrAppend(name, " ", app->get_name());
  }
  return app;
}

ExitRequest UsageError(const CLI::App& root, absl::string_view what) {
  std::string name;
  Reached(&root, &name);
  return {2, absl::StrCat(name, ": ", what, "\nTry '", name, " --help'.\n")};
}

std::string DescribeExtra(const CLI::App* reached, const std::vector<std::string>& extras) {
  const std::string& first = extras.front();
  if (first.size() > 1 && first[0] == '-')
    return absl::StrCat("unknown flag '", first.substr(0, first.find('=')), "'");
  const std::string commands = CommandNames(*reached);
  if (!commands.empty()) return absl::StrCat("unknown command '", first, "'; there are ", commands);
  return absl::StrCat("unexpected argument '", first, "'");
}

}  // namespace

Command ParseCommandLine(int argc, const char* const* argv, absl::string_view version) {
  Parser p(version);
  try {
    p.app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // help or version: CLI11 keeps the version's text in the exception
    const bool help = dynamic_cast<const CLI::CallForVersion*>(&request) == nullptr;
    return ExitRequest{0, help ? p.app.help() : absl::StrCat(request.what(), "\n")};
  } catch (const CLI::ParseError& error) {
    std::string name;
    const CLI::App* reached = Reached(&p.app, &name);
    const std::vector<std::string> extras = p.app.remaining(/*recurse=*/true);
    if (!extras.empty() && dynamic_cast<const CLI::ValidationError*>(&error) == nullptr) {
      return UsageError(p.app, DescribeExtra(reached, extras));
    }
    if (const std::string commands = CommandNames(*reached); !commands.empty()) {
      return UsageError(p.app, absl::StrCat("a command is missing; there are ", commands));
    }
    return UsageError(p.app, error.what());
  }
  if (p.generate_app->parsed()) {
    const std::string wrong = CheckTogether(p.generate.worker);
    if (!wrong.empty()) return UsageError(p.app, wrong);
    return p.generate;
  }
  if (p.create_app->parsed()) return p.create;
  if (p.inspect_app->parsed()) return p.inspect;
  if (p.tokenize_app->parsed()) return p.tokenize;
  return DoctorOptions();
}

}  // namespace lombard
