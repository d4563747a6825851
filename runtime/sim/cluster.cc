#include "runtime/sim/cluster.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "runtime/model/byte_tokenizer.h"
#include "runtime/sim/describe.h"
#include "runtime/sim/process.h"

namespace lombard::sim {
namespace {

constexpr absl::Duration kPingPeriod = absl::Milliseconds(100), kDeadAfter = absl::Seconds(1);
constexpr absl::Duration kJoinWait = absl::Seconds(1);
constexpr absl::Duration kReplyDeadline = absl::Seconds(1), kLease = absl::Seconds(5);
constexpr absl::Duration kRecallDeadline = absl::Milliseconds(2100);
constexpr CreditorGuard::Options kGuard{
    .window = absl::Milliseconds(100), .after = absl::Milliseconds(300), .again = absl::Seconds(1)};
// After the last fault. A request may need a few claims, recalls and retries; what is still open then is
// stuck.
constexpr absl::Duration kPatience = absl::Seconds(300);
constexpr uint64_t kEventsMax = 20'000'000;

std::optional<PrefixSpace> PrefixesOf(const Scenario& scenario) {
  if (!scenario.prefix_cache) return std::nullopt;
  return PrefixSpace{.model_fingerprint = 1, .kv_format = "symbolic", .block_tokens = scenario.block_tokens};
}

Router::Instance SizeOf(const Scenario& scenario, uint32_t blocks) {
  const uint32_t lendable = LendableBlocksMax(blocks, scenario.reserve, scenario.lent_max);
  return {.capacity = uint64_t{blocks} * scenario.block_tokens,
          .lendable = uint64_t{lendable} * scenario.block_tokens};
}

// By instance; 0: nobody there at the start.
std::vector<uint32_t> FirstPools(const Scenario& scenario) {
  std::vector<uint32_t> pools = scenario.pools;
  std::fill(pools.begin() + scenario.expected, pools.end(), 0);
  return pools;
}

std::vector<Router::Instance> RouterInstances(const Scenario& scenario) {
  std::vector<Router::Instance> instances;
  for (uint32_t blocks : FirstPools(scenario)) instances.push_back(SizeOf(scenario, blocks));
  return instances;
}

GManagerOptions ManagerOptions(const Scenario& scenario) {
  return {.instances = static_cast<int>(scenario.pools.size()),
          .expected = scenario.expected,
          .kv_blocks = FirstPools(scenario),
          .plan = {.block_tokens = scenario.block_tokens, .request_blocks_min = 3},
          .cost = {.layers = 4,
                   .wire = {.query_bytes = scenario.row_keys},
                   .kv_bytes = 1,
                   .profile = {.weights_seconds = 4e-4, .row_seconds = 1e-6, .token_seconds = 1e-5}},
          .dead_after = kDeadAfter,
          .join_wait = kJoinWait,
          .bug = scenario.bug};
}

}  // namespace

ClusterSim::ClusterSim(Scenario scenario, std::function<void(const std::string&)> trace)
    : scenario_(std::move(scenario)),
      trace_(std::move(trace)),
      random_(scenario_.seed ^ 0x5eed),
      gmanager_(ManagerOptions(scenario_)),
      dispatcher_(RouterInstances(scenario_),
                  {.recovery_wait = absl::Hours(10),
                   .prefixes = PrefixesOf(scenario_),
                   .size_of = [this](uint32_t blocks) { return SizeOf(scenario_, blocks); },
                   .bug = scenario_.bug}) {
  const ByteTokenizerFiles files = ByteTokenizer(Presets()[0]);
  auto tokenizer = Tokenizer::Parse(files.tokenizer_json, "simulation");
  CHECK_OK(tokenizer.status());
  tokenizer_ = *std::move(tokenizer);
  const int size = static_cast<int>(scenario_.pools.size());
  network_ = std::make_unique<Network>(
      Network::Options{.size = size, .duplicate = scenario_.duplicate}, &events_, &random_,
      Network::Handlers{[this](int from, int to, const Payload& p) { Deliver(from, to, p); },
                        [this](int at, int peer) { OnDown(at, peer); }});
  processes_.resize(static_cast<size_t>(size));
  for (int rank = 0; rank < scenario_.expected; ++rank)
    StartProcess(rank, Incarnation{1}, next_process_++, scenario_.pools[static_cast<size_t>(rank)]);
  ManagerLoop();
  for (const SimRequest& request : scenario_.requests) {
    const RequestId id{static_cast<uint64_t>(absl::ToUnixMicros(request.arrival)), request.number};
    requests_.Add(id, request);
    events_.At(request.arrival, [this, id, &request] {
      SequenceRequest sequence{.id = id, .prompt = request.prompt, .cache_salt = request.salt};
      sequence.sampling.max_tokens = request.max_tokens;
      sequence.sampling.temperature = 0;
      sequence.sampling.ignore_eos = true;
      Trace([&] {
        return absl::StrCat("arrives: ", ToString(id), ", ", request.prompt.size(), " + ", request.max_tokens,
                            " tokens");
      });
      std::optional<InstanceId> home;
      if (request.home >= 0) home = InstanceId(request.home);
      dispatcher_.Submit(std::move(sequence), events_.now(), home);
      AfterManager();
    });
  }
  for (const Fault& fault : scenario_.faults) events_.At(fault.at, [this, fault] { Apply(fault); });
}

ClusterSim::~ClusterSim() = default;

// ------------------------------------------------------------------------------------------- processes

void ClusterSim::StartProcess(int rank, Incarnation incarnation, uint64_t number, uint32_t blocks) {
  CHECK(processes_[static_cast<size_t>(rank)] == nullptr);
  auto process = std::make_unique<Process>(Process{.rank = rank, .budget = ServiceBudget(scenario_.guard)});
  process->number = number;
  process->blocks = blocks;
  process->machine = std::make_unique<SymbolicMachine>(
      scenario_.block_tokens, blocks,
      SymbolicMachine::Hooks{
          .send = [this, rank](int to, Payload payload) { network_->Send(rank, to, std::move(payload)); },
          .expected = [this, rank](
                          const RequestId& id,
                          uint32_t position) { return requests_.CellOf(id, SamplerOf(rank), position); },
          .violation = [this,
                        rank](const std::string& what) { Violate(absl::StrCat("rank ", rank, ": ", what)); },
          .origin = [this](const RequestId& id) { return requests_.OriginOf(id); },
          .sampler = [this, rank] { return SamplerOf(rank); }});
  SymbolicMachine* machine = process->machine.get();
  process->pool = std::make_unique<KvPool>(blocks, [machine](BlockId id) { machine->Poison(id); });
  CreditorGuard::Options guard = kGuard;
  guard.guard = scenario_.guard;
  process->rmanager =
      std::make_unique<RManager>(RManagerOptions{.self = InstanceId(rank),
                                                 .instances = static_cast<int>(processes_.size()),
                                                 .incarnation = incarnation,
                                                 .process = number,
                                                 .kv_blocks = KnownPools(),
                                                 .reserve = scenario_.reserve,
                                                 .lent_max = scenario_.lent_max,
                                                 .heartbeat_period = kPingPeriod,
                                                 .lease = kLease,
                                                 .reply_deadline = kReplyDeadline,
                                                 .retry = absl::Milliseconds(300),
                                                 .recall_after = scenario_.recall_after,
                                                 .recall_deadline = kRecallDeadline,
                                                 .adopt_within = absl::Seconds(5),
                                                 .guard = guard,
                                                 .bug = scenario_.bug},
                                 process->pool.get());
  uint64_t reachable = 0;
  for (size_t i = 0; i < scenario_.pools.size(); ++i) {
    reachable += static_cast<int>(i) == rank
                     ? blocks
                     : LendableBlocksMax(scenario_.pools[i], scenario_.reserve, scenario_.lent_max);
  }
  process->engine =
      std::make_unique<Engine>(EngineOptions{.block_tokens = scenario_.block_tokens,
                                             .max_batch_tokens = 48,
                                             .max_batch_size = 8,
                                             .headroom_tokens = 2 * scenario_.block_tokens,
                                             .max_model_len = 1u << 20,
                                             .cluster_blocks = static_cast<uint32_t>(reachable),
                                             .decode_move_tokens = scenario_.block_tokens,
                                             .prefix_cache = scenario_.prefix_cache,
                                             .sharing = SharingCost::OfReading(8),
                                             .remote_prefix_min = scenario_.block_tokens,
                                             .poison_freed = true,
                                             .self = InstanceId(rank),
                                             .bug = scenario_.bug},
                               EngineModel{.layer_windows = {0},
                                           .vocab_size = kVocabulary,
                                           .eos_token_ids = {},
                                           .fingerprint = 1,
                                           .kv_format = "symbolic",
                                           .row_keys = scenario_.row_keys},
                               tokenizer_.get(), process->pool.get(), process->rmanager.get(), machine);
  process->instance =
      std::make_unique<Instance>(incarnation, /*front_door=*/0, process->pool.get(), process->rmanager.get(),
                                 process->engine.get(), scenario_.bug);
  Trace([&] { return absl::StrCat("rank ", rank, ": process ", number, " starts"); });
  processes_[static_cast<size_t>(rank)] = std::move(process);
  PingLoop(rank, number);
  StepLoop(rank, number);
}

Sampler ClusterSim::SamplerOf(int rank) const {
  return {rank, Value(processes_[static_cast<size_t>(rank)]->instance->incarnation())};
}

void ClusterSim::EndProcess(int rank) {
  std::unique_ptr<Process>& process = processes_[static_cast<size_t>(rank)];
  if (process == nullptr) return;
  Trace([&] { return absl::StrCat("rank ", rank, ": process ", process->number, " is gone"); });
  const RManager::Counters c = process->rmanager->counters();
  stats_.loans += c.granted, stats_.recalled += c.recalled, stats_.overdue += c.overdue,
      stats_.lost += c.lost, stats_.guard_recalls += c.guard_recalls, stats_.prefixes += c.prefixes_granted;
  stats_.copied += process->engine->prefixes_copied();
  stats_.awaited += process->engine->prefixes_awaited();
  stats_.copies_advised += process->engine->copies_advised();
  stats_.prefixes_lent += process->engine->prefixes_lent();
  stats_.fenced += process->instance->fenced_count(), stats_.preemptions += process->engine->preemptions();
  stats_.adopted_tokens += process->engine->recovery_stats().adopted_tokens;
  loans_.CreditorGone(*process->rmanager);
  process.reset();
  network_->End(rank);
}

void ClusterSim::ForProcess(int rank, uint64_t number, std::function<void(Process&)> what) {
  Process* process = processes_[static_cast<size_t>(rank)].get();
  if (process == nullptr || process->number != number) return;
  if (process->stopped) {
    process->stalled.push_back(std::move(what));
  } else {
    what(*process);
  }
}

void ClusterSim::PingLoop(int rank, uint64_t number) {
  ForProcess(rank, number, [this, rank, number](Process& process) {
    auto ping = std::make_shared<messages::ControlMessage>();
    ping->set_incarnation(Value(process.instance->incarnation()));
    ping->mutable_ping()->set_process(number);
    network_->Send(rank, 0, Control(std::move(ping)));
    events_.After(kPingPeriod, [this, rank, number] { PingLoop(rank, number); });
  });
}

void ClusterSim::StepLoop(int rank, uint64_t number) {
  ForProcess(rank, number, [this, rank, number](Process& process) {
    const absl::Time now = events_.now();
    for (int peer : std::exchange(process.down, {})) process.instance->PeerUnreachable(peer, now);
    for (const auto& [from, message] : std::exchange(process.inbox, {})) {
      process.audit.OnMessage(from, *message);
      CHECK_OK(process.instance->Handle(from, *message, now));
    }
    process.instance->OnFailures(process.machine->TakeFailures(), now);
    process.rmanager->SetService(process.budget.totals().own, process.budget.totals().starved);
    process.instance->Tick(now);
    if (GoneForGood(process)) return;
    const auto [owner, is_new] = owners_.try_emplace(SamplerOf(rank), number);
    if (owner->second != number)
      Violate(absl::StrCat("rank ", rank, ": two processes have incarnation ", owner->first.incarnation));
    std::erase_if(process.served, [](const auto& slots) { return slots.expired(); });
    const StepWork* work = process.instance->left() ? nullptr : process.instance->BeginStep(now);
    SendAll(rank, process.instance->TakeOutgoing());
    verdict_.Update(loans_.CreditorStepped(rank, *process.rmanager, process.instance->incarnation(),
                                           kRecallDeadline, process.recall_end, now, &process.audit));
    verdict_.Update(CheckProcess(process));
    verdict_.Update(CheckDraining(process));
    verdict_.Update(Annotate(AuditTables(*process.rmanager, *process.engine), absl::StrCat("rank ", rank)));
    if (work == nullptr) {
      process.budget.OwnIdle();
      process.guard.Idle();
      TryServe(process);
      events_.After(random_.Between(absl::Milliseconds(1), scenario_.step_max),
                    [this, rank, number] { StepLoop(rank, number); });
      return;
    }
    process.stepping = true, process.computed = false;
    const uint64_t step = ++process.step;
    Trace([&] { return absl::StrCat("rank ", rank, ": step ", step, ": ", DescribeWork(*work)); });
    process.own = random_.Between(absl::Milliseconds(1), scenario_.step_max);
    process.stolen = absl::ZeroDuration();
    process.machine->Start(work, absl::ToDoubleSeconds(process.own));
    process.budget.OwnBegins();
    Compute(process, process.own);
  });
}

void ClusterSim::Compute(Process& process, absl::Duration seconds) {
  events_.After(seconds, [this, rank = process.rank, number = process.number] {
    ForProcess(rank, number, [this](Process& p) {
      if (p.stolen > absl::ZeroDuration()) return Compute(p, std::exchange(p.stolen, {}));
      p.computed = true;
      p.heard = events_.now();
      p.budget.OwnWaits(true);
      TryFinishStep(p);
      if (p.stepping) WaitForCreditors(p), TryServe(p);
    });
  });
}

void ClusterSim::WaitForCreditors(Process& process) {
  events_.At(process.heard + kReplyDeadline,
             [this, rank = process.rank, number = process.number, step = process.step] {
               ForProcess(rank, number, [this, step](Process& p) {
                 if (!p.stepping || p.step != step) return;
                 if (events_.now() < p.heard + kReplyDeadline) return WaitForCreditors(p);
                 p.machine->GiveUp();
                 TryFinishStep(p);
               });
             });
}

void ClusterSim::TryFinishStep(Process& process) {
  if (!process.stepping || !process.computed || !process.machine->ready()) return;
  process.stepping = false;
  absl::StatusOr<StepResult> result = process.machine->Finish();
  stats_.abandoned_steps += !result.ok();
  Trace([&] {
    return absl::StrCat("rank ", process.rank, ": step ", process.step,
                        result.ok() ? " commits" : " is abandoned");
  });
  const bool held = !process.queries.empty();
  process.budget.OwnWaits(false);
  process.budget.OwnEnds(absl::ToDoubleSeconds(process.own), held && !process.budget.MayAttend());
  verdict_.Update(Annotate(process.guard.StepEnded(absl::ToDoubleSeconds(process.own), scenario_.guard),
                           absl::StrCat("rank ", process.rank)));
  TryServe(process);
  const StepReport report = process.instance->FinishStep(std::move(result), events_.now());
  stats_.steps += report.rows > 0, stats_.remote_steps += report.remote;
  process.instance->OnFailures(process.machine->TakeFailures(), events_.now());
  SendAll(process.rank, process.instance->TakeOutgoing());
  verdict_.Update(CheckProcess(process));
  events_.After(absl::Microseconds(100),
                [this, rank = process.rank, number = process.number] { StepLoop(rank, number); });
}

// ---------------------------------------------------------------------------------------------- faults

void ClusterSim::Apply(const Fault& fault) {
  Trace([&] { return absl::StrCat("FAULT: ", Describe(fault)); });
  const int size = static_cast<int>(processes_.size());
  const auto cut = [&](int from, int to) {
    network_->Cut(from, to);
    events_.After(fault.lasts, [this, from, to, breaks = fault.breaks] {
      network_->Heal(from, to);
      if (breaks) network_->Break(from, to);
    });
  };
  switch (fault.kind) {
    case Fault::Kind::kKill: {
      const Process* process = processes_[static_cast<size_t>(fault.a)].get();
      if (process == nullptr) return;
      ComeLater(fault.lasts, InstanceId(fault.a), process->blocks);
      return EndProcess(fault.a);
    }
    case Fault::Kind::kDrain:
      return TellToLeave(fault);
    case Fault::Kind::kJoin:
      return Come({}, kPoolOfComers);
    case Fault::Kind::kStop: {
      Process* process = processes_[static_cast<size_t>(fault.a)].get();
      if (process == nullptr || process->stopped) return;
      process->stopped = true;
      events_.After(fault.lasts, [this, rank = fault.a, number = process->number] {
        Process* p = processes_[static_cast<size_t>(rank)].get();
        if (p == nullptr || p->number != number) return;
        p->stopped = false;
        for (auto& what : std::exchange(p->stalled, {})) {
          ForProcess(rank, number, std::move(what));
        }
      });
      return;
    }
    case Fault::Kind::kCutBoth:
      cut(fault.b, fault.a);
      [[fallthrough]];
    case Fault::Kind::kCut:
      return cut(fault.a, fault.b);
    case Fault::Kind::kIsolate:
      for (int peer = 0; peer < size; ++peer) {
        if (peer != fault.a) cut(fault.a, peer), cut(peer, fault.a);
      }
      return;
    case Fault::Kind::kBreak:
      return network_->Break(fault.a, fault.b);
    case Fault::Kind::kSlow:
      network_->SetDelay(fault.a, fault.b, absl::Milliseconds(50));
      events_.After(fault.lasts,
                    [this, fault] { network_->SetDelay(fault.a, fault.b, absl::Milliseconds(2)); });
      return;
  }
}

// ------------------------------------------------------------------------------- manager and front door

void ClusterSim::ManagerLoop() {
  gmanager_.Tick(events_.now());
  dispatcher_.Tick(events_.now());
  AfterManager();
  events_.After(absl::Milliseconds(20), [this] { ManagerLoop(); });
}

void ClusterSim::AfterManager() {
  TakeOutputs();
  for (int rank : dispatcher_.TakeBroken()) gmanager_.ConnectionLost(rank, events_.now());
  SendAll(0, gmanager_.TakeOutgoing());
  const Membership& members = gmanager_.membership();
  if (members.number() != members_seen_) {
    members_seen_ = members.number();
    Trace([&] { return DescribeMembers(members); });
    dispatcher_.OnMembers(members.members(), events_.now());
  }
  std::vector<Outgoing> outgoing = dispatcher_.TakeOutgoing();
  for (const Outgoing& out : outgoing) {
    if (!out.message.has_submit()) continue;
    const messages::SubmitSequence& submit = out.message.submit();
    if (gmanager_.membership().members()[static_cast<size_t>(out.to)].state != Membership::State::kAlive)
      Violate(absl::StrCat("rank ", out.to, ", which leaves or has left, is given a request"));
    verdict_.Update(requests_.Given({submit.arrival_us(), submit.number()},
                                    {.rank = out.to, .incarnation = submit.to_incarnation()}));
  }
  SendAll(0, std::move(outgoing));
  TakeOutputs();
}

void ClusterSim::TakeOutputs() {
  for (const SequenceOutput& output : dispatcher_.TakeOutputs()) {
    stats_.tokens += output.token.has_value();
    if (const absl::Status status = requests_.Delivered(output); !status.ok())
      Violate(std::string(status.message()));
    if (output.finished) Trace([&] { return absl::StrCat("done: ", ToString(output.id)); });
  }
}

// ----------------------------------------------------------------------------------------------- oracle

void ClusterSim::Violate(const std::string& what) {
  Trace([&] { return absl::StrCat("VIOLATION: ", what); });
  verdict_.Update(absl::InternalError(what));
}

absl::Status ClusterSim::CheckProcess(const Process& process) const {
  const auto check = [&]() -> absl::Status {
    RETURN_IF_ERROR(process.engine->CheckInvariants());
    RETURN_IF_ERROR(AuditBlocks(*process.pool, *process.rmanager, *process.engine, process.served));
    for (const auto& [id, loan] : process.rmanager->borrowed()) {
      const Process* creditor = processes_[Value(loan.creditor)].get();
      RETURN_IF_ERROR(loans_.CheckInUse(loan, creditor == nullptr ? nullptr : creditor->rmanager.get()));
      RETURN_IF_ERROR(process.audit.CheckInUse(loan));
    }
    RETURN_IF_ERROR(CheckCache(process));
    return CheckKv(process);
  };
  return Annotate(check(), absl::StrCat("rank ", process.rank));
}

// Each stored token's KV lies where the table says.
absl::Status ClusterSim::CheckKv(const Process& process) const {
  const uint32_t block_tokens = scenario_.block_tokens;
  const Sampler sampler = SamplerOf(process.rank);
  for (const auto& [id, table] : process.engine->tables()) {
    for (uint32_t block = table->first_block(); block < table->end_block(); ++block) {
      const BlockPlace& place = table->place(block);
      const Cell* cells = nullptr;
      if (place.local()) {
        cells = process.machine->Look(place.block);
      } else if (place.state == BlockPlace::State::kLent) {
        const TableLoan& loan = table->loan(place.loan);
        const Process* creditor = processes_[Value(loan.creditor)].get();
        const auto slots =
            creditor == nullptr ? nullptr : creditor->rmanager->hosted()->Find(loan.id, loan.epoch);
        if (slots == nullptr || slots->loan.debtor != InstanceId(process.rank)) continue;
        if (place.slot >= slots->blocks.size())
          return absl::InternalError(absl::StrCat(ToString(id), " uses a slot that its loan has not"));
        cells = creditor->machine->Look(slots->blocks[place.slot]);
      } else {
        continue;
      }
      const uint32_t stored = place.state == BlockPlace::State::kOpen ? place.stored : block_tokens;
      for (uint32_t i = 0; i < stored; ++i) {
        const uint32_t position = block * block_tokens + i;
        if (cells[i] == requests_.CellOf(id, sampler, position)) continue;
        return absl::InternalError(absl::StrCat(ToString(id), ": position ", position, " does not lie ",
                                                place.local() ? "at home" : "at its creditor",
                                                ", where the table says"));
      }
    }
  }
  return absl::OkStatus();
}

// What the cache has, computed here or copied from elsewhere, is the KV of its tokens under one of the salts.
absl::Status ClusterSim::CheckCache(const Process& process) const {
  if (process.engine->prefixes() == nullptr) return absl::OkStatus();
  std::map<PrefixNodeId, Cell> ends;
  for (const PrefixNodeView& node : process.engine->prefixes()->Nodes()) {  // parents before children
    const auto cell = [&](size_t i) {
      return process.machine->Look(node.blocks[i / scenario_.block_tokens])[i % scenario_.block_tokens];
    };
    std::vector<Cell> before;
    if (node.parent != PrefixNodeId{}) {
      before = {ends.at(node.parent)};
    } else {
      for (const SimRequest& request : scenario_.requests) before.push_back(requests_.OriginOf(request.salt));
    }
    const bool begins = std::any_of(before.begin(), before.end(), [&](Cell origin) {
      return NextCell(origin, node.token_ids[0]) == cell(0);
    });
    bool goes_on = begins;
    for (size_t i = 1; i < node.token_ids.size() && goes_on; ++i)
      goes_on = NextCell(cell(i - 1), node.token_ids[i]) == cell(i);
    if (!goes_on)
      return absl::InternalError(
          absl::StrCat("the cache has other KV than that of its tokens at block ", node.first_block));
    ends[node.id] = cell(node.token_ids.size() - 1);
  }
  return absl::OkStatus();
}

absl::Status ClusterSim::CheckSettled() const {
  if (coming_ > 0) return absl::InternalError("a process is not let in");
  for (const auto& process : processes_) {
    if (process == nullptr) continue;  // vacant, or left
    const RManager::Counters c = process->rmanager->counters();
    if (process->pool->used_count() != 0 || c.lent + c.prefix_lent != 0 || c.borrowed != 0 ||
        !process->engine->idle()) {
      return absl::InternalError(absl::StrCat(
          "rank ", process->rank, " does not come to rest: ", process->pool->used_count(), " blocks in use, ",
          c.lent, " lent, ", c.borrowed, " borrowed, ", process->engine->running_count(), " running, ",
          process->engine->waiting_count(), " waiting"));
    }
    if (!process->rmanager->settled())
      return absl::InternalError(absl::StrCat("rank ", process->rank, " still borrows or repays"));
    const InstanceId instance{static_cast<uint32_t>(process->rank)};
    if (!gmanager_.membership().IsAlive(instance, process->instance->incarnation()))
      return absl::InternalError(absl::StrCat("rank ", process->rank, " lives, and belongs no more"));
    if (c.malformed != 0)
      return absl::InternalError(
          absl::StrCat("rank ", process->rank, " got ", c.malformed, " malformed messages"));
  }
  return absl::OkStatus();
}

std::string ClusterSim::DescribeOpen() const {
  std::string text = requests_.DescribeOpen();
  for (const auto& process : processes_) {
    if (process == nullptr) continue;
    absl::StrAppend(&text, "; rank ", process->rank, ": ", process->engine->running_count(), " running, ",
                    process->engine->waiting_count(), " waiting, ", process->pool->free_count(), " of ",
                    process->pool->total_count(), " blocks free, ", process->rmanager->counters().lent,
                    " lent");
  }
  return text;
}

absl::Status ClusterSim::Run() {
  const auto stop = [this] { return !verdict_.ok() || events_.ran() > kEventsMax; };
  events_.RunUntil(absl::UnixEpoch() + scenario_.length, stop);
  network_->HealAll();
  const absl::Time end = events_.now() + kPatience;
  while (!stop() && !requests_.AllDone() && events_.now() < end)
    events_.RunUntil(events_.now() + absl::Milliseconds(200), stop);
  if (verdict_.ok() && !requests_.AllDone()) {
    Violate(absl::StrCat("still open ", absl::FormatDuration(kPatience), " after the last fault, or ",
                         kEventsMax, " events:", DescribeOpen()));
  }
  // Who was stopped goes on, leases run out, copies arrive, repayments are confirmed.
  absl::Time last_fault = events_.now();
  for (const Fault& fault : scenario_.faults) last_fault = std::max(last_fault, fault.at + fault.lasts);
  events_.RunUntil(last_fault + kLease + 2 * kReplyDeadline, stop);
  if (verdict_.ok()) verdict_.Update(CheckSettled());
  for (const auto& process : processes_) {
    if (process != nullptr) EndProcess(process->rank);
  }
  stats_.events = events_.ran();
  stats_.replayed = dispatcher_.counters().replayed;
  stats_.handed_back = dispatcher_.counters().handed_back;
  return verdict_.ok()
             ? verdict_
             : Annotate(verdict_, absl::StrCat("seed ", scenario_.seed, ", at ",
                                               absl::FormatDuration(events_.now() - absl::UnixEpoch())));
}

}  // namespace lombard::sim
