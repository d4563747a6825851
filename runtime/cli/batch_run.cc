#include "runtime/cli/batch_run.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "runtime/generate/progress.h"
#include "runtime/generate/report.h"
#include "runtime/generate/tree_order.h"

namespace lombard {
namespace {

constexpr absl::Duration kDrainDeadline =
    absl::Seconds(60);  // for loans to be given back after the last token

// A request whose samples are under way.
struct OpenRequest {
  size_t index = 0;
  uint32_t prompt_tokens = 0;
  std::vector<SequenceResult> samples;  // by sample index; number == 0: not finished
  size_t missing = 0;
};

RequestError ErrorOf(const absl::Status& status) {
  const bool theirs = status.code() == absl::StatusCode::kInvalidArgument ||
                      status.code() == absl::StatusCode::kResourceExhausted;
  return {.type = theirs ? "invalid_request_error" : "server_error",
          .message = std::string(status.message())};
}

struct Samples {  // of the report's distributions, seconds
  Distribution ttft, tpot, itl, e2e;
  uint64_t prompt_tokens = 0, output_tokens = 0;
};

GenerateResult Collect(const OpenRequest& open, bool logprobs, Samples* samples) {
  GenerateResult result{
      .error = std::nullopt, .logprobs = logprobs, .samples = {}, .prompt_tokens = open.prompt_tokens};
  double submitted = open.samples[0].submitted_s, first = 0, last = 0, finished = 0;
  size_t tokens = 0;
  for (const SequenceResult& s : open.samples) {
    if (!s.error.ok()) {
      result.error = ErrorOf(s.error);
      return result;
    }
    SampleResult sample{.text = s.text,
                        .token_ids = s.token_ids,
                        .finish_reason = s.finish_reason,
                        .token_logprobs = {},
                        .top_logprobs = {}};
    if (logprobs) sample.token_logprobs = s.logprobs, sample.top_logprobs = s.top_logprobs;
    result.samples.push_back(std::move(sample));
    submitted = std::min(submitted, s.submitted_s);
    finished = std::max(finished, s.finished_s);
    tokens += s.token_s.size();
    if (s.token_s.empty()) continue;
    first = first == 0 ? s.token_s.front() : std::min(first, s.token_s.front());
    last = std::max(last, s.token_s.back());
    for (size_t i = 1; i < s.token_s.size(); ++i) samples->itl.Add(s.token_s[i] - s.token_s[i - 1]);
    if (s.token_s.size() > 1)
      samples->tpot.Add((s.token_s.back() - s.token_s.front()) / (s.token_s.size() - 1));
  }
  const size_t per_sample = open.samples[0].token_s.size();
  result.ttft_s = first - submitted;
  result.tpot_s = per_sample > 1
                      ? (open.samples[0].token_s.back() - open.samples[0].token_s.front()) / (per_sample - 1)
                      : 0;
  result.e2e_s = finished - submitted;
  samples->ttft.Add(result.ttft_s);
  samples->e2e.Add(result.e2e_s);
  samples->prompt_tokens += open.prompt_tokens;
  samples->output_tokens += tokens;
  return result;
}

Report MakeReport(size_t requests, const Samples& samples, double seconds,
                  const std::vector<messages::WorkerReport>& workers, const Job& job) {
  Report report{.requests = requests};
  report.tokens.prompt = samples.prompt_tokens;
  report.tokens.output = samples.output_tokens;
  report.output_tokens_per_s = seconds > 0 ? samples.output_tokens / seconds : 0;
  report.ttft_s = samples.ttft.percentiles();
  report.tpot_s = samples.tpot.percentiles();
  report.itl_s = samples.itl.percentiles();
  report.e2e_s = samples.e2e.percentiles();
  const Dispatcher::Counters dispatched = job.dispatch_counters();
  report.recovery.requests_replayed = dispatched.replayed;
  report.recovery.stale_tokens = dispatched.stale_tokens;
  report.recovery.replayed_tokens = dispatched.replayed_tokens;
  const Job::Pauses pauses = job.pauses();
  report.recovery.pause_s = PercentilesOf(pauses.affected);
  report.recovery.others_pause_s = PercentilesOf(pauses.others);
  report.recovery.requests_handed_back = dispatched.handed_back;
  report.recovery.ranks_joined = job.joined_count();
  report.recovery.ranks_left = job.left_count();
  for (const TimelineEntry& entry : job.timeline())
    report.timeline.push_back(
        {entry.start_s, entry.seconds, entry.tokens, entry.workers, entry.kv_used, entry.kv_lent});
  for (const messages::WorkerReport& w : workers) {
    report.steps += w.steps();
    report.remote_steps += w.remote_steps();
    report.remote_tokens_attended += w.remote_tokens_attended();
    const auto bytes = [&](Channel channel) -> uint64_t {
      const int i = static_cast<int>(channel);
      return i < w.payload_bytes_size() ? w.payload_bytes(i) : 0;
    };
    report.wire_bytes.query += bytes(Channel::kQuery);
    report.wire_bytes.state += bytes(Channel::kState);
    report.wire_bytes.kv += bytes(Channel::kKv);
    report.wire_bytes.control += bytes(Channel::kControl);
    report.wire_bytes.framing += w.framing_bytes();
    RankReport rank;
    rank.kv_tokens = {w.kv_capacity(), w.kv_used_max(), w.kv_lent_max(), w.kv_borrowed_max()};
    rank.served_steps = w.served_steps();
    report.ranks.push_back(rank);
    report.prefix_cache.queried += w.prefix_queried();
    report.prefix_cache.hit += w.prefix_hit();
    report.prefix_cache.evicted += w.prefix_evicted();
    report.loans.granted += w.loans_granted();
    report.loans.refused += w.loans_refused();
    report.loans.repaid += w.loans_repaid();
    report.loans.lost += w.loans_lost();
    report.loans.recalled += w.loans_recalled();
    report.gpu_exchanges.done += w.gpu_exchanges();
    report.gpu_exchanges.refused += w.gpu_exchanges_refused();
    report.gpu_exchanges.pairs_closed += w.gpu_pairs_closed();
    report.recovery.lost_tokens += w.lost_tokens();
    report.recovery.recomputed_tokens += w.recomputed_tokens();
    report.recovery.abandoned_steps += w.abandoned_steps();
    report.recovery.fenced += w.fenced();
    report.recovery.adopted_tokens += w.adopted_tokens();
    report.recovery.stale_messages += w.stale_messages();
  }
  for (int rank : job.lost_ranks()) {
    report.ranks[rank].lost = true;
    ++report.recovery.ranks_lost;
  }
  return report;
}

// The error is the request's own, or its line's.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const GenerateRequest& request, const Tokenizer& tokenizer,
                                                  int vocab_size) {
  if (request.error.has_value()) return absl::InvalidArgumentError(request.error->message);
  const auto* text = std::get_if<std::string>(&request.prompt);
  std::vector<int32_t> prompt = text != nullptr ? tokenizer.Encode(*text, request.add_special_tokens)
                                                : std::get<std::vector<int32_t>>(request.prompt);
  for (int32_t id : prompt) {
    if (id >= 0 && id < vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat("line ", request.line, ": prompt token ", id,
                                                   " is not in the vocabulary of ", vocab_size));
  }
  return prompt;
}

void PrintSummary(const Report& report, double seconds) {
  absl::FPrintF(stderr, "%d requests, %d prompt and %d output tokens in %.2f s: %.1f output tokens/s\n",
                report.requests, report.tokens.prompt, report.tokens.output, seconds,
                report.output_tokens_per_s);
  if (report.prefix_cache.hit > 0) {
    absl::FPrintF(stderr, "prefix cache: %d of %d prompt tokens were there already\n",
                  report.prefix_cache.hit, report.prefix_cache.queried);
  }
  for (size_t i = 0; i < report.ranks.size() && report.ranks.size() > 1; ++i) {
    const auto& kv = report.ranks[i].kv_tokens;
    absl::FPrintF(stderr,
                  "rank %d: KV tokens %d, used at most %d, lent at most %d, borrowed at most %d; attended "
                  "for others in %d steps\n",
                  i, kv.capacity, kv.used_max, kv.lent_max, kv.borrowed_max, report.ranks[i].served_steps);
  }
  if (report.recovery.ranks_lost + report.recovery.lost_tokens + report.recovery.requests_replayed > 0) {
    absl::FPrintF(
        stderr,
        "%d ranks lost: %d requests replayed elsewhere, %d tokens of KV lost with loans, %d computed "
        "again\n",
        report.recovery.ranks_lost, report.recovery.requests_replayed, report.recovery.lost_tokens,
        report.recovery.recomputed_tokens);
  }
  if (report.remote_steps > 0) {
    absl::FPrintF(stderr, "%d of %d steps attended remotely; %d loans, all given back: %s\n",
                  report.remote_steps, report.steps, report.loans.granted,
                  report.loans.granted == report.loans.repaid + report.loans.lost ? "yes" : "no");
  }
}

}  // namespace

absl::StatusOr<BatchFiles> OpenBatchFiles(const GenerateOptions& options) {
  RequestDefaults defaults{.sampling = {}, .seed = options.seed};
  defaults.sampling.max_tokens = options.max_tokens;
  defaults.sampling.temperature = options.temperature;
  BatchFiles files;
  ASSIGN_OR_RETURN(files.requests, ReadRequestFile(options.input, defaults));
  RETURN_IF_ERROR(CheckDifferentFiles(options.input, options.output));
  ASSIGN_OR_RETURN(files.output, OutputFile::Create(options.output, options.resume, files.requests));
  return files;
}

absl::Status RunBatch(const GenerateOptions& options, const Tokenizer& tokenizer, int vocab_size,
                      BatchFiles& files, Job& job) {
  const MonotonicClock clock;
  const absl::Time start = clock.Now();
  std::map<uint64_t, std::pair<size_t, size_t>> place;  // sequence number -> (request index, sample)
  std::map<size_t, OpenRequest> open;
  Samples samples;
  size_t answered = 0, asked = 0;

  std::vector<std::vector<int32_t>> prompts;
  std::vector<size_t> indices;  // of the prompts' requests
  for (size_t i = 0; i < files.requests.size(); ++i) {
    if (files.output->done(i)) continue;
    ++asked;
    absl::StatusOr<std::vector<int32_t>> prompt = EncodePrompt(files.requests[i], tokenizer, vocab_size);
    if (prompt.ok()) {
      prompts.push_back(*std::move(prompt)), indices.push_back(i);
      continue;
    }
    const RequestError error =
        files.requests[i].error.value_or(RequestError{.message = std::string(prompt.status().message())});
    RETURN_IF_ERROR(files.output->Put(i, {.error = error}));
    ++answered;
  }
  std::vector<size_t> order = TreeOrder(prompts, options.worker.block_tokens);
  if (options.rate > 0) std::iota(order.begin(), order.end(), size_t{0});  // arrivals, not a batch
  const auto submit = [&](size_t at) -> absl::Status {
    const size_t i = indices[at];
    const GenerateRequest& request = files.requests[i];
    const size_t n = static_cast<size_t>(request.sampling.n);
    open[i] = {.index = i,
               .prompt_tokens = static_cast<uint32_t>(prompts[at].size()),
               .samples = std::vector<SequenceResult>(n),
               .missing = n};
    for (size_t sample = 0; sample < n; ++sample) {
      ASSIGN_OR_RETURN(const uint64_t number, job.Submit(prompts[at], request.sampling,
                                                         static_cast<uint32_t>(sample), request.cache_salt));
      place[number] = {i, sample};
    }
    prompts[at] = {};
    return absl::OkStatus();
  };
  const auto due = [&](size_t nth) {
    return options.rate > 0 ? start + absl::Seconds(static_cast<double>(nth) / options.rate) : start;
  };
  size_t submitted = 0;

  ProgressLine line(stderr);
  while ((!open.empty() || submitted < order.size()) && !job.interrupted()) {
    while (submitted < order.size() && clock.Now() >= due(submitted))
      RETURN_IF_ERROR(submit(order[submitted++]));
    absl::Duration wait = absl::Milliseconds(100);
    if (submitted < order.size()) wait = std::clamp(due(submitted) - clock.Now(), absl::ZeroDuration(), wait);
    if (open.empty()) absl::SleepFor(wait);
    ASSIGN_OR_RETURN(std::vector<SequenceResult> finished, job.Wait(wait));
    for (SequenceResult& result : finished) {
      const auto [index, sample] = place.at(result.number);
      place.erase(result.number);
      OpenRequest& request = open.at(index);
      request.samples[sample] = std::move(result);
      if (--request.missing > 0) continue;
      const GenerateResult collected =
          Collect(request, files.requests[index].sampling.logprobs.has_value(), &samples);
      line.Clear();
      RETURN_IF_ERROR(files.output->Put(index, collected));
      open.erase(index);
      ++answered;
    }
    if (!line.visible()) continue;
    const JobProgress progress = job.progress();
    ProgressState state{
        .requests_done = answered,
        .requests_total = asked,
        .tokens_per_s = progress.tokens / std::max(1e-3, absl::ToDoubleSeconds(clock.Now() - start)),
        .ranks = {}};
    for (size_t rank = 0; rank < progress.kv_used.size(); ++rank) {
      state.ranks.push_back({.used_tokens = progress.kv_used[rank],
                             .capacity_tokens = job.capacity_tokens(static_cast<int>(rank))});
      state.tokens_lent += progress.kv_lent[rank];
    }
    line.Update(state, clock.Now());
  }
  line.Clear();
  const double seconds = absl::ToDoubleSeconds(clock.Now() - start);
  const bool stopped = answered < asked;
  if (stopped) {
    job.CancelAll();
    files.output->Close().IgnoreError();  // it lacks lines, and we know
  } else {
    RETURN_IF_ERROR(files.output->Close());
  }
  ASSIGN_OR_RETURN(const std::vector<messages::WorkerReport> workers, job.End(kDrainDeadline));
  const Report report = MakeReport(asked, samples, seconds, workers, job);
  if (!options.report_dir.empty()) RETURN_IF_ERROR(WriteReport(report, options.report_dir));
  PrintSummary(report, seconds);
  if (!stopped) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat("stopped by SIGTERM with ", files.output->lines(), " of ",
                                           files.requests.size(),
                                           " lines written; the same command with --resume does the rest"));
}

}  // namespace lombard
