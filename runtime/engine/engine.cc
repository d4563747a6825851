#include "runtime/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"
#include "base/status.h"
#include "runtime/engine/engine_internal.h"
#include "runtime/engine/sampler.h"

namespace lombard {
namespace {

AttentionShape ShapeOf(const ModelConfig& config) {
  return {.q_heads = config.q_heads,
          .scale = 1 / std::sqrt(static_cast<float>(config.head_dim)),
          .layer_windows = config.layer_windows};
}

// The widest window, or 0 when some layer attends to everything.
int WidestWindow(const std::vector<int>& windows) {
  int widest = 0;
  for (int window : windows) {
    if (window == 0) return 0;
    widest = std::max(widest, window);
  }
  return widest;
}

}  // namespace

Engine::Engine(const EngineOptions& options, const Model* model, const Tokenizer* tokenizer,
               const CpuContext& context, KvPool* pool, const KvStorage* storage, RManager* rmanager,
               RemoteClient* client)
    : options_(options),
      model_(model),
      tokenizer_(tokenizer),
      pool_(pool),
      storage_(storage),
      rmanager_(rmanager),
      client_(client),
      transformer_(model, context),
      shape_(ShapeOf(model->config())),
      attention_(shape_, context, storage, client),
      window_max_(WidestWindow(model->config().layer_windows)) {
  const std::vector<int>& windows = model->config().layer_windows;
  has_windows_ = std::any_of(windows.begin(), windows.end(), [](int window) { return window > 0; });
  // Where every layer forgets, there is no prefix to keep.
  if (!options_.prefix_cache || window_max_ > 0) return;
  prefixes_ = std::make_unique<PrefixTree>(
      pool_, PrefixSpace{.model_fingerprint = model->fingerprint(),
                         .kv_format = std::string(DTypeName(storage->layout().dtype)),
                         .block_tokens = options_.block_tokens});
  pool_->set_cache(prefixes_.get());
}

Engine::~Engine() {
  if (prefixes_ != nullptr) pool_->set_cache(nullptr);
}

void Engine::Submit(SequenceRequest request, absl::Time now) {
  auto sequence = std::make_unique<Sequence>(std::move(request), options_.block_tokens, tokenizer_,
                                             model_->config().eos_token_ids);
  const uint64_t wanted = sequence->tokens_max();
  const uint64_t cluster = uint64_t{options_.cluster_blocks} * options_.block_tokens;
  absl::Status refusal;
  if (sequence->tokens.empty()) {
    refusal = absl::InvalidArgumentError("the prompt has no tokens");
  } else if (wanted > options_.max_model_len) {
    refusal = absl::InvalidArgumentError(absl::StrCat(
        "the prompt of ", sequence->prompt_size(), " tokens and max_tokens of ",
        sequence->request.sampling.max_tokens, " make ", wanted, " tokens; the context limit is ",
        options_.max_model_len, " tokens: shorten the prompt or lower max_tokens"));
  } else if (BlocksFor(wanted) > options_.cluster_blocks) {
    refusal = absl::ResourceExhaustedError(absl::StrCat(
        "the prompt of ", sequence->prompt_size(), " tokens and max_tokens of ",
        sequence->request.sampling.max_tokens, " make ", wanted, " tokens; the cluster's KV memory holds ",
        cluster, " tokens for one request: add ranks, raise --kv-tokens, or shorten the request"));
  }
  if (!refusal.ok()) return Finish(*sequence, "error", refusal, now);
  const auto at = std::lower_bound(waiting_.begin(), waiting_.end(), sequence->id(),
                                   [](const SequencePtr& s, const RequestId& id) { return s->id() < id; });
  waiting_.insert(at, std::move(sequence));
  ReportLoad();
}

std::vector<SequenceOutput> Engine::TakeOutputs() { return std::exchange(outputs_, {}); }

absl::StatusOr<StepReport> Engine::Step(absl::Time now) {
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(FlipStoredBlocks());
  Admit(now);
  const std::vector<Row> rows = Schedule(now);
  RETURN_IF_ERROR(std::exchange(pending_error_, absl::OkStatus()));
  ReportLoad();
  if (rows.empty()) return StepReport{};

  ++step_;
  for (const Row& row : rows) row.sequence->table.Extend(row.sequence->computed + row.tokens);
  const AttentionPlan plan = BuildPlan(rows);
  StepInput input;
  for (const Row& row : rows) {
    const Sequence& s = *row.sequence;
    for (uint32_t i = 0; i < row.tokens; ++i) {
      input.tokens.push_back(s.tokens[s.computed + i]);
      input.positions.push_back(static_cast<int32_t>(s.computed + i));
    }
    if (row.samples()) input.logit_rows.push_back(static_cast<int32_t>(input.tokens.size()) - 1);
  }
  const std::vector<StepExport> exports = PlanExports(rows);
  attention_.Begin(step_, &plan, [&](int layer) {
    for (const StepExport& part : exports) RETURN_IF_ERROR(SendLayer(part, layer));
    return absl::OkStatus();
  });
  std::vector<float> logits;
  const absl::Status computed = transformer_.Forward(
      input,
      [this](int layer, float* q, const float* k, const float* v, float* out) {
        return attention_.Attend(layer, q, k, v, out);
      },
      &logits);
  if (!computed.ok()) {
    for (const StepExport& part : exports) client_->ForgetTransfer(part.transfer);
    return computed;
  }
  for (const StepExport& part : exports) {
    auto& queue = part.sequence->exports;
    if (queue.empty() || queue.back().transfer != part.transfer)
      queue.push_back({.transfer = part.transfer, .blocks = 0});
    queue.back().blocks += static_cast<uint32_t>(part.blocks.size());
  }

  StepReport report{.rows = plan.rows(),
                    .sequences = static_cast<int>(rows.size()),
                    .remote = attention_.has_remote(),
                    .attention = attention_.timing(),
                    .keys_read = attention_.keys_read()};
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  MeasureRates(rows, report);
  Commit(rows, logits, now);
  return report;
}

std::vector<Engine::Row> Engine::Schedule(absl::Time now) {
  std::vector<Row> rows;
  uint32_t budget = options_.max_batch_tokens;
  // Decodes first: they are short and someone waits for each. Preemption inside MakeRoom may erase sequences,
  // younger ones only.
  for (const bool decode : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0 && rows.size() < options_.max_batch_size; ++i) {
      Sequence& s = *running_[i];
      const uint32_t remaining = static_cast<uint32_t>(s.tokens.size()) - s.computed;
      if (s.phase != SequencePhase::kRunning || (remaining == 1) != decode) continue;
      const uint32_t tokens = MakeRoom(s, std::min(remaining, budget), now);
      // A preempted sequence may have been given rows already: they go with its memory.
      std::erase_if(rows, [&](const Row& row) {
        const bool gone = Find(row.id) == nullptr || row.sequence->phase != SequencePhase::kRunning;
        if (gone) budget += row.tokens;
        return gone;
      });
      if (tokens == 0) continue;
      rows.push_back({.sequence = &s, .id = s.id(), .tokens = std::min(tokens, budget)});
      budget -= rows.back().tokens;
    }
  }
  return rows;
}

AttentionPlan Engine::BuildPlan(const std::vector<Row>& rows) const {
  AttentionPlan plan;
  const uint32_t block_tokens = options_.block_tokens;
  for (const Row& row : rows) {
    const Sequence& s = *row.sequence;
    const BlockTable& table = s.table;
    SequenceRows part{.first_row = plan.rows(),
                      .rows = static_cast<int>(row.tokens),
                      .first_position = static_cast<int>(s.computed)};
    for (const LoanRun& run : table.runs()) {
      if (run.used == 0) continue;
      part.spans.push_back(LentSpan{.loan = run.loan,
                                    .epoch = run.epoch,
                                    .creditor = static_cast<int>(Value(run.creditor)),
                                    .first_slot = run.first_slot,
                                    .first_position = static_cast<int>(run.first_block * block_tokens),
                                    .token_count = static_cast<int>(run.used * block_tokens)});
    }
    const uint32_t first_local = table.first_local() * block_tokens, end = s.computed + row.tokens;
    LocalSpan local{.first_position = static_cast<int>(first_local),
                    .token_count = static_cast<int>(end - first_local)};
    for (uint32_t block = table.first_local(); block < BlocksFor(end); ++block)
      local.blocks.push_back(table.LocalBlock(block));
    part.spans.push_back(std::move(local));
    for (uint32_t position = s.computed; position < end; ++position) {
      plan.new_kv.push_back(
          {table.LocalBlock(position / block_tokens), static_cast<int>(position % block_tokens)});
    }
    plan.sequences.push_back(std::move(part));
  }
  if (prefixes_ != nullptr && !has_windows_) ShareSpans(rows, &plan);
  return plan;
}

void Engine::Commit(const std::vector<Row>& rows, std::vector<float>& logits, absl::Time now) {
  const size_t vocabulary = model_->config().vocab_size;
  size_t logit_row = 0;
  for (const Row& row : rows) {
    Sequence& s = *row.sequence;
    const bool samples = row.samples();
    s.computed += row.tokens;
    if (window_max_ > 0 && s.exports.empty()) {
      std::vector<LoanId> repaid;
      const int visible = AttentionShape::FirstVisible(static_cast<int>(s.computed), window_max_);
      pool_->ReleaseAll(s.table.DropBefore(static_cast<uint32_t>(visible) / options_.block_tokens, &repaid));
      for (LoanId loan : repaid) rmanager_->Repay(loan, now);
    }
    ShareFullBlocks(s, now);
    if (!samples) continue;
    const absl::Span<float> scores = absl::MakeSpan(logits).subspan(logit_row++ * vocabulary, vocabulary);
    const absl::Span<const int32_t> tokens = s.tokens;
    const SampledToken sampled =
        Sample(scores, s.request.sampling, tokens.first(s.prompt_size()), tokens.subspan(s.prompt_size()),
               s.request.sample_index, model_->config().eos_token_ids);
    if (sampled.id < 0) {
      Finish(s, "error", absl::InternalError(absl::StrCat("no finite logit at position ", s.computed)), now);
      continue;
    }
    s.tokens.push_back(sampled.id);
    outputs_.push_back(
        {.id = s.id(), .token = sampled.id, .logprob = sampled.logprob, .top_logprobs = sampled.top});
    if (const auto reason = s.stop.Push(sampled.id); reason.has_value())
      Finish(s, *reason, absl::OkStatus(), now);
  }
  std::erase_if(running_, [](const SequencePtr& s) { return s->finished; });
}

void Engine::Finish(Sequence& sequence, std::string reason, absl::Status error, absl::Time now) {
  outputs_.push_back({.id = sequence.id(),
                      .finished = true,
                      .finish_reason = std::move(reason),
                      .text = sequence.stop.text(),
                      .error = std::move(error)});
  sequence.finished = true;
  ReleaseMemory(sequence, now);
}

Sequence* Engine::Find(const RequestId& id) {
  for (const SequencePtr& s : running_) {
    if (s->id() == id) return s.get();
  }
  return nullptr;
}

absl::Status Engine::CheckInvariants() const {
  RETURN_IF_ERROR(pool_->CheckInvariants());
  RETURN_IF_ERROR(rmanager_->CheckInvariants());
  if (prefixes_ != nullptr) RETURN_IF_ERROR(prefixes_->CheckInvariants());
  for (const auto* list : {&waiting_, &running_}) {
    for (const SequencePtr& s : *list)
      RETURN_IF_ERROR(Annotate(s->table.CheckInvariants(), ToString(s->id())));
  }
  return absl::OkStatus();
}

}  // namespace lombard
