#include "runtime/engine/engine.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "runtime/engine/engine_internal.h"
#include "runtime/engine/sampler.h"

namespace lombard {
namespace {

// The widest window, or 0 when some layer attends to everything.
int WidestWindow(const std::vector<int>& windows) {
  int widest = 0;
  for (int window : windows) {
    if (window == 0) return 0;
    widest = std::max(widest, window);
  }
  return widest;
}

// A block behind those in `spans`, for rows that see the tokens before `end`.
void AppendBlock(const BlockTable& table, uint32_t block, uint32_t end, std::vector<AttentionSpan>* spans) {
  const BlockPlace& place = table.place(block);
  const uint32_t position = block * table.block_tokens();
  const int tokens = static_cast<int>(std::min(end - position, table.block_tokens()));
  if (place.local()) {
    auto* last = spans->empty() ? nullptr : std::get_if<LocalSpan>(&spans->back());
    if (last == nullptr) {
      last = &std::get<LocalSpan>(
          spans->emplace_back(LocalSpan{.blocks = {}, .first_position = static_cast<int>(position)}));
    }
    last->blocks.push_back(place.block);
    last->token_count += tokens;
    return;
  }
  CHECK(place.lent());
  auto* last = spans->empty() ? nullptr : std::get_if<LentSpan>(&spans->back());
  const bool goes_on = last != nullptr && last->loan == place.loan &&
                       last->first_slot + last->token_count / table.block_tokens() == place.slot;
  if (!goes_on) {
    const TableLoan& loan = table.loan(place.loan);
    last =
        &std::get<LentSpan>(spans->emplace_back(LentSpan{.loan = loan.id,
                                                         .epoch = loan.epoch,
                                                         .creditor = static_cast<int>(Value(loan.creditor)),
                                                         .first_slot = place.slot,
                                                         .first_position = static_cast<int>(position)}));
  }
  last->token_count += tokens;
}

}  // namespace

Engine::Engine(const EngineOptions& options, EngineModel model, const Tokenizer* tokenizer, KvPool* pool,
               RManager* rmanager, KvMover* mover)
    : options_(options),
      cluster_blocks_(options.cluster_blocks),
      model_(std::move(model)),
      tokenizer_(tokenizer),
      pool_(pool),
      rmanager_(rmanager),
      mover_(mover),
      window_max_(WidestWindow(model_.layer_windows)) {
  const std::vector<int>& windows = model_.layer_windows;
  has_windows_ = std::any_of(windows.begin(), windows.end(), [](int window) { return window > 0; });
  // Where every layer forgets, there is no prefix to keep.
  if (!options_.prefix_cache || window_max_ > 0) return;
  prefixes_ = std::make_unique<PrefixTree>(pool_, PrefixSpace{.model_fingerprint = model_.fingerprint,
                                                              .kv_format = model_.kv_format,
                                                              .block_tokens = options_.block_tokens});
  pool_->set_cache(prefixes_.get());
  rmanager_->SetPrefixes(prefixes_.get(), [this](absl::string_view salt, absl::Span<const int32_t> tokens) {
    return Computes(salt, tokens);
  });
}

Engine::~Engine() {
  if (prefixes_ == nullptr) return;
  pool_->set_cache(nullptr);
  rmanager_->SetPrefixes(nullptr);
}

void Engine::Submit(SequenceRequest request, absl::Time now) {
  auto sequence =
      std::make_unique<Sequence>(std::move(request), options_.block_tokens, tokenizer_, model_.eos_token_ids);
  const uint64_t wanted = sequence->tokens_max();
  const uint64_t cluster = uint64_t{cluster_blocks_} * options_.block_tokens;
  absl::Status refusal;
  if (sequence->tokens.empty()) {
    refusal = absl::InvalidArgumentError("the prompt has no tokens");
  } else if (wanted > options_.max_model_len) {
    refusal = absl::InvalidArgumentError(absl::StrCat(
        "the prompt of ", sequence->prompt_size(), " tokens and max_tokens of ",
        sequence->request.sampling.max_tokens, " make ", wanted, " tokens; the context limit is ",
        options_.max_model_len, " tokens: shorten the prompt or lower max_tokens"));
  } else if (BlocksFor(wanted) > cluster_blocks_) {
    refusal = absl::ResourceExhaustedError(absl::StrCat(
        "the prompt of ", sequence->prompt_size(), " tokens and max_tokens of ",
        sequence->request.sampling.max_tokens, " make ", wanted, " tokens; the cluster's KV memory holds ",
        cluster, " tokens for one request: add ranks, raise --kv-tokens, or shorten the request"));
  }
  if (!refusal.ok()) return End(*sequence, "error", refusal, now);
  for (int32_t token : sequence->request.output) {
    sequence->tokens.push_back(token);
    if (const auto reason = sequence->stop.Push(token); reason.has_value())
      return End(*sequence, *reason, absl::OkStatus(), now);
  }
  // All but the last token had been computed elsewhere.
  sequence->recovers = sequence->request.lost_home.has_value();
  if (sequence->recovers) sequence->reached = static_cast<uint32_t>(sequence->tokens.size()) - 1;
  const auto at = std::lower_bound(waiting_.begin(), waiting_.end(), sequence->id(),
                                   [](const SequencePtr& s, const RequestId& id) { return s->id() < id; });
  waiting_.insert(at, std::move(sequence));
  ReportLoad();
}

bool Engine::Knows(const RequestId& id) const {
  const auto is = [&](const SequencePtr& s) { return s->id() == id; };
  return std::any_of(waiting_.begin(), waiting_.end(), is) ||
         std::any_of(running_.begin(), running_.end(), is);
}

std::vector<RequestId> Engine::requests(bool running) const {
  std::vector<RequestId> ids;
  for (const SequencePtr& s : running ? running_ : waiting_) ids.push_back(s->id());
  return ids;
}

void Engine::Cancel(const RequestId& id, absl::Time now) {
  for (Sequences* list : {&waiting_, &running_}) {
    std::erase_if(*list, [&](const SequencePtr& s) {
      if (s->id() != id) return false;
      ReleaseMemory(*s, now);
      return true;
    });
  }
  std::erase_if(outputs_, [&](const SequenceOutput& output) { return output.id == id; });
  ReportLoad();
}

void Engine::CancelAll(absl::Time now) {
  for (const SequencePtr& s : running_) ReleaseMemory(*s, now);
  running_.clear();
  waiting_.clear();
  outputs_.clear();
}

std::vector<SequenceOutput> Engine::TakeOutputs() { return std::exchange(outputs_, {}); }

const StepWork* Engine::Begin(absl::Time now) {
  CHECK(rows_.empty()) << "Begin before Finish";
  FlipStoredBlocks();
  FlipMovedPrefix(now);
  BringLoansHome(now);
  BringPrefixesHome(now);
  Admit(now);
  FinishAdoptions(now);
  rows_ = Schedule(now);
  if (rows_.empty()) hot_.clear();
  ReportLoad();
  if (rows_.empty()) return nullptr;

  for (const Row& row : rows_) row.sequence->table.Open(row.tokens);
  work_ = {.step = work_.step + 1, .input = BuildInput(), .plan = BuildPlan()};
  for (const Row& row : rows_) work_.requests.push_back(row.id);
  PlanExports();
  return &work_;
}

StepReport Engine::Finish(absl::StatusOr<StepResult> result, absl::Time now) {
  CHECK(!rows_.empty()) << "Finish before Begin";
  StepReport report;
  if (result.ok()) {
    report = {.rows = work_.plan.rows(),
              .sequences = static_cast<int>(rows_.size()),
              .remote = result->remote,
              .attention = result->attention,
              .keys_read = result->keys_read,
              .seconds = result->seconds};
    MeasureRates(report);
    Commit(*result, now);
  } else {
    ++recovery_.abandoned_steps;
    for (const KvSend& send : work_.sends) mover_->ForgetTransfer(send.transfer);
    for (const Row& row : rows_) row.sequence->table.Abandon();
  }
  rows_.clear();
  return report;
}

StepInput Engine::BuildInput() const {
  StepInput input;
  for (const Row& row : rows_) {
    const Sequence& s = *row.sequence;
    for (uint32_t i = 0; i < row.tokens; ++i) {
      input.tokens.push_back(s.tokens[s.computed() + i]);
      input.positions.push_back(static_cast<int32_t>(s.computed() + i));
    }
    if (!row.samples()) continue;
    const absl::Span<const int32_t> tokens = s.tokens;
    input.logit_rows.push_back(static_cast<int32_t>(input.tokens.size()) - 1);
    input.sampling.push_back({.params = &s.request.sampling,
                              .prompt = tokens.first(s.prompt_size()),
                              .output = tokens.subspan(s.prompt_size()),
                              .sample_index = s.request.sample_index});
  }
  return input;
}

std::vector<Engine::Row> Engine::Schedule(absl::Time now) {
  std::vector<Row> rows;
  uint32_t budget = options_.max_batch_tokens;
  // Decodes first: they are short and someone waits for each. Preemption inside MakeRoom may erase sequences,
  // younger ones only.
  for (const bool decode : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0 && rows.size() < options_.max_batch_size; ++i) {
      Sequence& s = *running_[i];
      const uint32_t end = std::min(static_cast<uint32_t>(s.tokens.size()), s.table.gap_end());
      const uint32_t remaining = end - s.computed();
      if (s.phase != SequencePhase::kRunning || (remaining == 1) != decode) continue;
      const uint32_t tokens = MakeRoom(s, std::min(remaining, budget), now);
      // A preempted sequence may have been given rows already: they go with its memory.
      std::erase_if(rows, [&](const Row& row) {
        const bool gone = Find(row.id) == nullptr || row.sequence->phase != SequencePhase::kRunning;
        if (gone) budget += row.tokens;
        return gone;
      });
      if (tokens == 0) continue;
      rows.push_back({.sequence = &s, .id = s.id(), .tokens = std::min(tokens, budget), .exports = {}});
      budget -= rows.back().tokens;
    }
  }
  return rows;
}

AttentionPlan Engine::BuildPlan() const {
  AttentionPlan plan;
  const uint32_t block_tokens = options_.block_tokens;
  for (const Row& row : rows_) {
    const BlockTable& table = row.sequence->table;
    const uint32_t end = table.computed() + row.tokens;
    SequenceRows part{.first_row = plan.rows(),
                      .rows = static_cast<int>(row.tokens),
                      .first_position = static_cast<int>(table.computed())};
    for (uint32_t block = table.first_block(); block < BlocksFor(end); ++block)
      AppendBlock(table, block, end, &part.spans);
    for (uint32_t position = table.computed(); position < end; ++position) {
      plan.new_kv.push_back(
          {table.LocalBlock(position / block_tokens), static_cast<int>(position % block_tokens)});
    }
    plan.sequences.push_back(std::move(part));
  }
  if (prefixes_ != nullptr && !has_windows_) ShareSpans(&plan);
  return plan;
}

// The token of logit row `row`: the machine's, or drawn here from the next of its logits.
SampledToken Engine::SampledAt(size_t row, StepResult& result, size_t* logits_used) const {
  if (row < result.sampled.size() && result.sampled[row].has_value()) return *std::move(result.sampled[row]);
  const size_t vocabulary = model_.vocab_size;
  const RowSampling& s = work_.input.sampling[row];
  const absl::Span<float> logits =
      absl::MakeSpan(result.logits).subspan((*logits_used)++ * vocabulary, vocabulary);
  return Sample(logits, *s.params, s.prompt, s.output, s.sample_index, model_.eos_token_ids);
}

void Engine::Commit(StepResult& result, absl::Time now) {
  size_t logit_row = 0, logits_used = 0;
  CountPrefixRows();
  for (Row& row : rows_) {
    Sequence& s = *row.sequence;
    const bool samples = row.samples();
    const uint32_t end = s.computed() + row.tokens;
    recovery_.recomputed_tokens += std::min(row.tokens, s.reached - std::min(s.reached, s.computed()));
    s.reached = std::max(s.reached, end);
    s.table.Store(row.tokens);
    for (BlockExport& part : row.exports) Depart(s, std::move(part));
    if (window_max_ > 0 && s.exports.empty()) {
      std::vector<LoanId> repaid;
      const int visible = AttentionShape::FirstVisible(static_cast<int>(s.computed()), window_max_);
      pool_->ReleaseAll(s.table.DropBefore(static_cast<uint32_t>(visible) / options_.block_tokens, &repaid));
      for (LoanId loan : repaid) rmanager_->Repay(loan, now);
    }
    ShareFullBlocks(s, now);
    if (!samples) continue;
    const SampledToken sampled = SampledAt(logit_row++, result, &logits_used);
    if (sampled.id < 0) {
      End(s, "error", absl::InternalError(absl::StrCat("no finite logit at position ", s.computed())), now);
      continue;
    }
    s.tokens.push_back(sampled.id);
    outputs_.push_back({.id = s.id(),
                        .token = sampled.id,
                        .index = s.output_size() - 1,
                        .recovered = std::exchange(s.recovers, false),
                        .logprob = sampled.logprob,
                        .top_logprobs = sampled.top});
    if (const auto reason = s.stop.Push(sampled.id); reason.has_value())
      End(s, *reason, absl::OkStatus(), now);
  }
  std::erase_if(running_, [](const SequencePtr& s) { return s->finished; });
}

void Engine::End(Sequence& sequence, std::string reason, absl::Status error, absl::Time now) {
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

std::vector<std::pair<RequestId, const BlockTable*>> Engine::tables() const {
  std::vector<std::pair<RequestId, const BlockTable*>> tables;
  for (const auto* list : {&waiting_, &running_}) {
    for (const SequencePtr& s : *list) tables.emplace_back(s->id(), &s->table);
  }
  return tables;
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
