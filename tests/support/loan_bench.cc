#include "tests/support/loan_bench.h"

#include <atomic>

#include "base/check.h"
#include "base/status.h"
#include "tests/support/cluster_run.h"

namespace lombard {
namespace {

template <typename Key>
void RunDue(std::multimap<Key, std::function<void()>>& actions, const Key& now) {
  while (!actions.empty() && actions.begin()->first <= now) {
    const std::function<void()> action = std::move(actions.begin()->second);
    actions.erase(actions.begin());
    action();
  }
}

}  // namespace

class LoanBench::Pump : public TransportHandler {
 public:
  Pump(Transport* transport, RemoteClient* client, RemoteService* service)
      : transport_(transport), client_(client), service_(service), thread_([this] {
          while (!stop_) transport_->Poll(*this, absl::Milliseconds(5));
        }) {}
  ~Pump() override {
    stop_ = true;
    transport_->Wake();
    thread_.join();
  }
  void OnMessage(int from, Message message) override {
    if (ForService(*PeekKind(message.header))) return service_->Enqueue(from, std::move(message));
    client_->OnMessage(from, std::move(message));
    ++answers_;
  }
  uint64_t answers() const { return answers_; }
  void OnPeerDown(int, const absl::Status&) override {}

 private:
  Transport* transport_;
  RemoteClient* client_;
  RemoteService* service_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> answers_{0};
  std::thread thread_;
};

LoanBench::LoanBench(const Settings& settings, const Model* model, const Tokenizer* tokenizer)
    : block_tokens_(settings.engine.block_tokens),
      kv_is_fast_(settings.kv_is_fast),
      ranks_(settings.kv_blocks.size()) {
  const ModelConfig& config = model->config();
  const int size = static_cast<int>(settings.kv_blocks.size());
  const KvLayout layout{.dtype = config.dtype,
                        .kv_heads = config.kv_heads,
                        .head_dim = config.head_dim,
                        .block_tokens = static_cast<int>(block_tokens_)};
  transports_ = MakeLoopbackTransports(size);
  EngineOptions engine = settings.engine;
  engine.cluster_blocks = 0;
  engine.poison_freed = true;
  for (int i = 0; i < size; ++i) {
    Rank& rank = ranks_[i];
    auto storage = KvStorage::Create(layout, config.layers, settings.kv_blocks[i]);
    CHECK_OK(storage.status());
    rank.storage = *std::move(storage);
    for (uint32_t b = 0; b < settings.kv_blocks[i]; ++b) rank.storage->Poison(BlockId{b});
    rank.pool = std::make_unique<KvPool>(settings.kv_blocks[i],
                                         [storage = rank.storage.get()](BlockId id) { storage->Poison(id); });
    rank.rmanager = std::make_unique<RManager>(
        RManagerOptions{.self = InstanceId(i), .instances = size, .reserve = 0, .lent_max = 1},
        rank.pool.get());
    engine.cluster_blocks += settings.kv_blocks[i];
  }
  client_ = std::make_unique<RemoteClient>(RemoteClient::Options{.on_transfer = {}}, config.q_heads,
                                           transports_[0].get(), ranks_[0].storage.get());
  const CpuContext cpu{DetectIsa(), nullptr};
  machine_ = std::make_unique<CpuMachine>(model, cpu, ranks_[0].storage.get(), client_.get());
  engine_ = std::make_unique<Engine>(engine, DescribeForEngine(*model, layout), tokenizer,
                                     ranks_[0].pool.get(), ranks_[0].rmanager.get(), machine_.get());
  gmanager_ = std::make_unique<GManager>(GManagerOptions{.instances = size});
  for (int i = 0; i < size; ++i) {
    Rank& rank = ranks_[i];
    const RManager* ledger = rank.rmanager.get();
    rank.attention = std::make_unique<CpuSpanAttention>(ShapeOf(config), cpu, rank.storage.get());
    rank.service = std::make_unique<RemoteService>(
        RemoteService::Options{.q_heads = config.q_heads, .isa = cpu.isa}, rank.storage.get(),
        rank.attention.get(), transports_[i].get(),
        [ledger](int, LoanId loan, uint64_t epoch,
                 bool) -> absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> {
          const std::shared_ptr<const LoanSlots> slots = ledger->hosted()->Find(loan, epoch);
          if (slots == nullptr) return absl::NotFoundError("no such loan");
          return std::shared_ptr<const std::vector<BlockId>>(slots, &slots->blocks);
        });
    rank.serving = std::thread([service = rank.service.get()] { service->Serve(); });
    rank.pump =
        std::make_unique<Pump>(transports_[i].get(), i == 0 ? client_.get() : nullptr, rank.service.get());
  }
  Exchange();
}

LoanBench::~LoanBench() {
  for (Rank& rank : ranks_) {
    rank.pump.reset();
    rank.service->Stop();
    rank.serving.join();
  }
}

void LoanBench::Submit(std::vector<int32_t> prompt, uint32_t max_tokens) {
  SequenceRequest request{.id = {.arrival_us = results_.size() + 1, .number = results_.size()},
                          .prompt = std::move(prompt),
                          .sampling = Greedy(max_tokens)};
  request.sampling.logprobs = 2;
  results_.emplace_back();
  engine_->Submit(std::move(request), now_);
}

void LoanBench::At(uint64_t rows, std::function<void()> action) { actions_.emplace(rows, std::move(action)); }

void LoanBench::After(absl::Duration time, std::function<void()> action) {
  timed_actions_.emplace(now_ + time, std::move(action));
}

void LoanBench::Lose(int creditor, bool told) {
  ranks_[creditor].rmanager->PeerLost(0, now_);
  if (told) ranks_[0].rmanager->PeerLost(creditor, now_);
}

void LoanBench::Move(uint64_t request, uint32_t blocks, int creditor) {
  messages::ControlMessage advice;
  advice.set_incarnation(1);
  advice.mutable_move_kv()->set_plan_id(1u << 20);  // newer than gManager's
  advice.mutable_move_kv()->mutable_request()->set_arrival_us(request + 1);
  advice.mutable_move_kv()->mutable_request()->set_number(request);
  advice.mutable_move_kv()->set_blocks(blocks);
  advice.mutable_move_kv()->set_to(static_cast<uint32_t>(creditor));
  ranks_[0].rmanager->Handle(0, advice, now_);
}

void LoanBench::TakeHome(int creditor, absl::Duration within) {
  for (const auto& [id, loan] : ranks_[0].rmanager->borrowed()) {
    if (loan.creditor == InstanceId(creditor)) engine_->TakeHome(id, now_ + within, now_);
  }
}

void LoanBench::SetLending(int creditor, bool on) {
  Rank& rank = ranks_[creditor];
  if (on) {
    rank.pool->ReleaseAll(std::exchange(rank.kept, {}));
  } else {
    rank.kept = *rank.pool->Allocate(rank.pool->free_count());
  }
}

void LoanBench::Exchange() {
  for (bool quiet = false; !quiet;) {
    quiet = true;
    std::vector<std::pair<int, Outgoing>> sent;
    gmanager_->Tick(now_);
    for (Outgoing& out : gmanager_->TakeOutgoing()) sent.emplace_back(0, std::move(out));
    for (int i = 0; i < static_cast<int>(ranks_.size()); ++i) {
      ranks_[i].rmanager->Tick(now_);
      for (Outgoing& out : ranks_[i].rmanager->TakeOutgoing()) sent.emplace_back(i, std::move(out));
    }
    for (auto& [from, out] : sent) {
      quiet = false;
      if (ForGlobalManager(out.message)) {
        gmanager_->Handle(from, out.message, now_);
      } else {
        ranks_[out.to].rmanager->Handle(from, out.message, now_);
      }
    }
  }
}

void LoanBench::Step() {
  Exchange();
  for (const RManager::Event& event : ranks_[0].rmanager->TakeEvents()) engine_->HandleEvent(event, now_);
  const StepWork* work = engine_->Begin(now_);
  // Steps of a tiny model leave the others no time: KV may be on its way.
  std::this_thread::sleep_for(std::chrono::microseconds(work == nullptr ? 100 : 20));
  // Whatever the debtor sends is answered.
  while (kv_is_fast_ && ranks_[0].pump->answers() < transports_[0]->counters().messages)
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  if (work != nullptr) {
    const StepReport report = engine_->Finish(machine_->Run(*work), now_);
    rows_ += report.rows, keys_read_ += report.keys_read;
  }
  for (const RemoteFailure& failure : client_->TakeFailures()) {
    if (failure.loan.has_value()) ++refused_loans_;
    Lose(failure.creditor, /*told=*/true);  // whatever it was: both begin anew
  }
  for (SequenceOutput& output : engine_->TakeOutputs()) {
    Result& result = results_[output.id.number];
    if (output.token.has_value()) {
      result.tokens.push_back(*output.token);
      result.logprobs.push_back(output.logprob);
      result.gaps.push_back(output.top_logprobs[0].second - output.top_logprobs[1].second);
    }
    result.finished |= output.finished;
    if (!output.error.ok()) result.error = output.error;
  }
}

void LoanBench::Check() {
  error_.Update(engine_->CheckInvariants());
  for (const Rank& rank : ranks_) error_.Update(rank.rmanager->CheckInvariants());
}

bool LoanBench::Run() {
  constexpr int kStepsMax = 100000;
  int steps = 0;
  for (; !engine_->idle() && steps < kStepsMax && error_.ok(); ++steps) {
    RunDue(actions_, rows_);
    RunDue(timed_actions_, now_);
    Step();
    Check();
    now_ += absl::Milliseconds(1);
  }
  if (steps == kStepsMax) error_.Update(absl::DeadlineExceededError("not done"));
  for (int i = 0; i < 100; ++i, now_ += absl::Milliseconds(50)) Exchange();  // repayments
  const KvPool& pool = *ranks_[0].pool;
  if (pool.used_count() != 0)
    error_.Update(absl::InternalError(absl::StrCat(pool.used_count(), " blocks are still in use at home")));
  for (Rank& rank : ranks_) {
    if (rank.rmanager->counters().lent != 0) error_.Update(absl::InternalError("something is still lent"));
  }
  return error_.ok();
}

}  // namespace lombard
