#include "runtime/worker/worker.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/status.h"
#include "runtime/engine/cpu_compute.h"
#include "runtime/engine/cpu_machine.h"
#include "runtime/worker/convert.h"

namespace lombard {
namespace {

constexpr absl::Duration kIdleWaitMax =
    absl::Milliseconds(50);  // of a loop with nothing to do; deadlines come earlier
constexpr absl::Duration kGuestWait = absl::Milliseconds(5);  // with somebody at the door
constexpr absl::Duration kPollWait = absl::Milliseconds(20);
constexpr absl::Duration kCloseDeadline = absl::Seconds(3);
constexpr absl::Duration kLeaveWait = absl::Seconds(1);            // for rank 0's Leave
constexpr absl::Duration kSharingBudget = absl::Milliseconds(50);  // of a start

Message ControlBytes(const messages::ControlMessage& message) {
  Message bytes{.channel = Channel::kControl};
  message.SerializeToString(&bytes.payload);
  return bytes;
}

}  // namespace

uint32_t ReachableBlocks(const WorkerSettings& settings, int rank) {
  uint64_t blocks = settings.kv_blocks[rank];
  for (size_t i = 0; settings.engine.lending && i < settings.kv_blocks.size(); ++i) {
    if (static_cast<int>(i) != rank)
      blocks += LendableBlocksMax(settings.kv_blocks[i], settings.reserve, settings.lent_max);
  }
  return static_cast<uint32_t>(blocks);
}

Worker::Worker(const WorkerSettings& settings, Transport* transport, const Clock* clock,
               FrontDoor* front_door)
    : settings_(settings),
      transport_(transport),
      clock_(clock),
      front_door_(front_door),
      liveness_(transport->rank(), transport->size(), settings.heartbeat, settings.dead_after),
      incarnation_(Value(settings.incarnation)) {}

Worker::~Worker() {
  if (progress_thread_.joinable()) {
    Fail(absl::CancelledError("worker destroyed while running"));
    Join().IgnoreError();
  }
  for (std::thread* thread : {&step_thread_, &service_thread_}) {
    if (thread->joinable()) thread->join();
  }
}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(const WorkerSettings& settings, const Model* model,
                                                       const Tokenizer* tokenizer, Transport* transport,
                                                       const Clock* clock, FrontDoor* front_door) {
  auto worker = std::unique_ptr<Worker>(new Worker(settings, transport, clock, front_door));
  const ModelConfig& config = model->config();
  const int rank = transport->rank(), size = transport->size();
  CHECK_EQ(settings.kv_blocks.size(), static_cast<size_t>(size));
  const uint32_t blocks = settings.kv_blocks[rank];

  const KvLayout layout{.dtype = config.dtype,
                        .kv_heads = config.kv_heads,
                        .head_dim = config.head_dim,
                        .block_tokens = static_cast<int>(settings.engine.block_tokens)};
  if (settings.compute) {
    ASSIGN_OR_RETURN(worker->compute_, settings.compute(model, layout, blocks));
  } else {
    ASSIGN_OR_RETURN(worker->compute_, MakeCpuCompute(model, layout, blocks, settings.isa, settings.threads,
                                                      settings.service_threads));
  }
  const KvBytes* storage = worker->compute_->storage();
  worker->pool_ = std::make_unique<KvPool>(
      blocks, settings.poison ? std::function<void(BlockId)>([storage](BlockId id) { storage->Poison(id); })
                              : nullptr);
  if (settings.poison) {
    for (uint32_t i = 0; i < blocks; ++i) storage->Poison(BlockId{i});
  }

  worker->rmanager_ =
      std::make_unique<RManager>(RManagerOptions{.self = InstanceId(rank),
                                                 .instances = size,
                                                 .incarnation = settings.incarnation,
                                                 .process = settings.process,
                                                 .kv_blocks = settings.kv_blocks,
                                                 .reserve = settings.reserve,
                                                 .lent_max = settings.engine.lending ? settings.lent_max : 0,
                                                 .heartbeat_period = settings.heartbeat,
                                                 .lease = 3 * settings.reply_deadline,
                                                 .reply_deadline = settings.reply_deadline,
                                                 .recall_deadline = 3 * settings.reply_deadline,
                                                 .guard = {.guard = settings.guard}},
                                 worker->pool_.get());
  Worker* self = worker.get();
  worker->client_ = std::make_unique<RemoteClient>(
      RemoteClient::Options{.incarnation = settings.incarnation,
                            .reply_deadline = settings.reply_deadline,
                            .compact_states = settings.compact_states,
                            .on_wait = [self](bool waits) { self->service_->OwnWaits(waits); },
                            .on_transfer = [self] { self->step_inbox_.Notify(); }},
      config.q_heads, transport, storage);
  EngineOptions engine = settings.engine;
  engine.self = InstanceId(rank);
  engine.cluster_blocks = ReachableBlocks(settings, rank);
  engine.lending = engine.lending && size > 1;
  engine.poison_freed = settings.poison;
  if (settings.sharing.has_value()) {
    engine.sharing = *settings.sharing;
  } else if (engine.prefix_cache) {
    engine.sharing = worker->compute_->MeasureSharing(kSharingBudget);
  }
  worker->sharing_ = engine.sharing;
  if (engine.lending) {
    RETURN_IF_ERROR(worker->UseGpuDirect());
    if (GpuExchangeEnd end = worker->compute_->MakeExchangeEnd(rank, clock); end.collectives != nullptr) {
      worker->exchanger_ = std::make_unique<GpuExchanger>(
          GpuExchanger::Options{.incarnation = settings.incarnation,
                                .place = end.place,
                                .answer_wait = settings.gpu_answer_wait,
                                .exchange_wait = settings.reply_deadline,
                                .hang_wait = settings.gpu_hang_wait,
                                .on_hang = [self](const absl::Status& why) { self->Fail(why); }},
          std::move(end.collectives), transport, clock);
      worker->exchanges_ = std::make_unique<AnnouncedExchanges>(worker->exchanger_.get(),
                                                                worker->compute_->announced_attention());
    }
  }
  ASSIGN_OR_RETURN(worker->machine_,
                   worker->compute_->MakeMachine(worker->client_.get(), worker->exchanger_.get()));
  worker->engine_ =
      std::make_unique<Engine>(engine, DescribeForEngine(*model, layout), tokenizer, worker->pool_.get(),
                               worker->rmanager_.get(), worker->machine_.get());
  worker->instance_ = std::make_unique<Instance>(settings.incarnation, /*front_door=*/0, worker->pool_.get(),
                                                 worker->rmanager_.get(), worker->engine_.get());
  const RManager* ledger = worker->rmanager_.get();
  worker->service_ = std::make_unique<RemoteService>(
      RemoteService::Options{.incarnation = settings.incarnation,
                             .q_heads = config.q_heads,
                             .isa = settings.isa,
                             .guard = settings.guard},
      storage, worker->compute_->span_attention(), transport,
      [ledger](int debtor, LoanId loan, uint64_t epoch,
               bool writes) -> absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> {
        const std::shared_ptr<const LoanSlots> slots = ledger->hosted()->Find(loan, epoch);
        if (slots == nullptr || slots->loan.debtor != InstanceId(debtor)) {
          return absl::NotFoundError(
              absl::StrCat("loan ", Value(loan), " of epoch ", epoch, " is not held here for rank ", debtor));
        }
        if (writes && slots->loan.prefix) {
          return absl::InvalidArgumentError(
              absl::StrCat("rank ", debtor, " writes to loan ", Value(loan), ", a prefix that others read"));
        }
        return std::shared_ptr<const std::vector<BlockId>>(slots, &slots->blocks);
      },
      worker->exchanges_.get());
  if (rank == 0) {
    GManagerOptions gmanager = settings.gmanager;
    gmanager.dead_after = settings.dead_after;
    const double row = static_cast<double>(config.q_heads) * config.head_dim;
    gmanager.cost.layers = static_cast<uint32_t>(config.layers);
    gmanager.cost.wire = {.query_bytes = row * DTypeBytes(config.dtype),
                          .state_bytes = row * 4 + config.q_heads * 8};
    gmanager.cost.kv_bytes =
        2.0 * layout.kv_heads * layout.head_dim * static_cast<double>(DTypeBytes(layout.dtype));
    worker->gmanager_ = std::make_unique<GManager>(gmanager);
  }
  return worker;
}

void Worker::Start() {
  liveness_.Start(clock_->Now());
  progress_thread_ = std::thread([this] { ProgressLoop(); });
  const auto end = [this](bool& ended) {
    std::lock_guard lock(ended_mutex_);
    ended = true;
    ended_.notify_all();
  };
  service_thread_ = std::thread([this, end] {
    service_->Serve();
    end(service_ended_);
  });
  step_thread_ = std::thread([this, end] {
    StepLoop();
    end(step_ended_);
  });
  if (gmanager_ != nullptr) manager_thread_ = std::thread([this] { ManagerLoop(); });
}

absl::Status Worker::Join() {
  JoinInTime(step_thread_, step_ended_);
  if (manager_thread_.joinable()) manager_thread_.join();
  service_->Stop();
  JoinInTime(service_thread_, service_ended_);
  transport_->Wake();
  if (progress_thread_.joinable()) progress_thread_.join();
  std::lock_guard lock(failure_mutex_);
  if (exchanger_ != nullptr) failure_.Update(exchanger_->hung());
  return failure_;
}

// A thread that has to do with a GPU may wait for it for ever; then it is left alone.
void Worker::JoinInTime(std::thread& thread, const bool& ended) {
  if (!thread.joinable()) return;
  if (exchanger_ != nullptr) {
    const absl::Duration wait = 2 * settings_.gpu_hang_wait;
    std::unique_lock lock(ended_mutex_);
    ended_.wait(lock, [&] { return ended || leaving_.load(); });
    if (!ended_.wait_for(lock, absl::ToChronoMilliseconds(wait), [&] { return ended; })) {
      std::lock_guard failure_lock(failure_mutex_);
      if (failure_.ok()) {
        failure_ = absl::DeadlineExceededError(absl::StrCat("a thread of rank ", transport_->rank(),
                                                            " has not ended in ", absl::FormatDuration(wait),
                                                            ": its GPU hangs"));
      }
      return;
    }
  }
  thread.join();
}

bool Worker::hangs() const {
  return step_thread_.joinable() || service_thread_.joinable() ||
         (exchanger_ != nullptr && !exchanger_->hung().ok());
}

void Worker::Fail(const absl::Status& why) {
  {
    std::lock_guard lock(failure_mutex_);
    if (leaving_.load() || !failure_.ok())
      return;  // the first failure is the cause; after Leave everyone may go
    failure_ = why;
  }
  messages::ControlMessage message;
  message.mutable_failed()->set_reason(std::string(why.message()));
  for (int peer = 0; peer < transport_->size(); ++peer) {
    if (peer != transport_->rank()) SendControl(peer, message).IgnoreError();
  }
  if (front_door_ != nullptr) front_door_->OnJobFailed(why);
  Abort(why);
  SetLeaving();
}

// Nobody waits for other workers any more.
void Worker::Abort(const absl::Status& why) {
  client_->Abort(why);
  if (exchanger_ != nullptr) exchanger_->Abort();
}

// The worker no longer counts on what it waits for from the peer.
void Worker::PeerGone(int peer, const absl::Status& why) {
  client_->OnPeerDown(peer, why);
  if (exchanger_ != nullptr) exchanger_->OnPeerLost(peer);
}

// Rank 0 may be there for the others: they are told nothing.
void Worker::Part(const absl::Status& why) {
  parted_.store(true);
  if (!why.ok()) Abort(why);
  {
    std::lock_guard lock(failure_mutex_);
    if (!leaving_.load() && failure_.ok()) failure_ = why;
  }
  SetLeaving();
}

void Worker::Drain(absl::Duration wait) {
  CHECK_NE(transport_->rank(), 0);
  drain_wait_us_.store(absl::ToInt64Microseconds(wait));
  drains_asked_.fetch_add(1);
  step_inbox_.Notify();
}

absl::Status Worker::UseGpuDirect() {
  if (settings_.gpu_direct == false) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<DeviceSlots>> slots = compute_->MakeDeviceSlots();
  if (slots.ok() && *slots == nullptr) return absl::OkStatus();  // the CPUs
  const bool insist = settings_.gpu_direct.has_value();
  absl::Status used = slots.status();
  if (used.ok()) used = transport_->UseDeviceSlots(*slots, insist);
  if (insist) RETURN_IF_ERROR(Annotate(used, "--gpu-direct on"));
  kv_path_ = used.ok() ? "KV moves between ranks without host memory in between (GPUDirect)"
                       : absl::StrCat("KV moves between ranks through pinned host memory: ", used.message());
  return absl::OkStatus();
}

void Worker::SetLeaving() {
  {
    std::lock_guard lock(ended_mutex_);
    leaving_.store(true);
    ended_.notify_all();
  }
  step_inbox_.Notify();
  manager_inbox_.Notify();
  transport_->Wake();
}

absl::Status Worker::SendControl(int to, const messages::ControlMessage& message) {
  messages::ControlMessage stamped = message;
  stamped.set_incarnation(incarnation_.load());
  return transport_->Send(to, ControlBytes(stamped));
}

void Worker::SendOutgoing(std::vector<Outgoing> outgoing) {
  for (const Outgoing& o : outgoing)
    transport_->Send(o.to, ControlBytes(o.message)).IgnoreError();  // a lost peer is reported by Poll
}

// ---------------------------------------------------------------- progress thread

void Worker::ProgressLoop() {
  while (!leaving_.load()) {
    transport_->Poll(*this, std::min(kPollWait, settings_.heartbeat));
    if (exchanger_ != nullptr) exchanger_->Watch();
    const absl::Time now = clock_->Now();
    if (liveness_.RankZeroSilent(now)) {
      Part(absl::UnavailableError("rank 0 has been silent for too long (--dead-after)"));
    }
    const std::vector<int> due = liveness_.PingsDue(now);
    if (due.empty()) continue;
    messages::ControlMessage ping;
    ping.mutable_ping()->set_process(settings_.process);
    for (int peer : due) SendControl(peer, ping).IgnoreError();
    for (int peer : liveness_.TakeSilent(now)) {
      lost_someone_.store(true);
      PeerGone(peer, absl::UnavailableError("it has been silent for too long (--dead-after)"));
      step_inbox_.Put(peer, std::nullopt);
    }
  }
  transport_->Close(kCloseDeadline);
}

void Worker::OnMessage(int from, Message message) {
  if (liveness_.Heard(from, clock_->Now())) client_->OnPeerUp(from);
  switch (message.channel) {
    case Channel::kQuery:
    case Channel::kState:
    case Channel::kKv: {
      const absl::StatusOr<WireKind> kind = PeekKind(message.header);
      if (!kind.ok()) return;
      if (ForService(*kind)) {
        service_->Enqueue(from, std::move(message));
      } else if (!ForExchanger(*kind)) {
        client_->OnMessage(from, std::move(message));
      } else if (exchanger_ != nullptr) {
        exchanger_->OnMessage(from, message);
      }
      return;
    }
    case Channel::kControl: {
      messages::ControlMessage control;
      if (control.ParseFromString(message.payload)) HandleControl(from, std::move(control));
      return;
    }
  }
}

void Worker::HandleControl(int from, messages::ControlMessage message) {
  using Body = messages::ControlMessage;
  switch (message.body_case()) {
    case Body::kHeartbeat:
    case Body::kMoveKvDone:
    case Body::kPing:
    case Body::kLeft:
      if (gmanager_ != nullptr) manager_inbox_.Put(from, std::move(message));
      return;
    case Body::kTokens:
      if (front_door_ != nullptr) front_door_->OnTokens(from, message.incarnation(), message.tokens());
      return;
    case Body::kHandBack:
      if (front_door_ != nullptr) front_door_->OnHandBack(from, message.incarnation(), message.hand_back());
      return;
    case Body::kReport:
      if (front_door_ != nullptr) front_door_->OnReport(from, message.report());
      return;
    case Body::kFailed:
      if (const auto lost = lost_.find(from); lost != lost_.end() && message.incarnation() <= lost->second)
        return;
      Fail(absl::UnavailableError(message.failed().reason()));
      return;
    case Body::kLeave:
      SetLeaving();
      return;
    case Body::BODY_NOT_SET:
      return;
    case Body::kHeartbeatAck:
      FollowLosses(message.heartbeat_ack().view());
      return step_inbox_.Put(from, std::move(message));
    case Body::kClusterView:
      FollowLosses(message.cluster_view());
      return step_inbox_.Put(from, std::move(message));
    default:
      step_inbox_.Put(from, std::move(message));
  }
}

// The step thread may be waiting for one that hangs.
void Worker::FollowLosses(const messages::ClusterView& view) {
  for (const messages::Member& member : view.members()) {
    uint64_t& known = lost_[member.instance()];
    if (member.state() != messages::MEMBER_LOST || member.incarnation() <= known) continue;
    known = member.incarnation();
    const int peer = static_cast<int>(member.instance());
    client_->OnPeerLost(peer, absl::UnavailableError(absl::StrCat("rank ", peer, " was declared lost")));
    if (exchanger_ != nullptr) exchanger_->OnPeerLost(peer);
  }
}

void Worker::OnPeerDown(int peer, const absl::Status& why) {
  liveness_.Down(peer, true, clock_->Now());
  PeerGone(peer, why);
  // Who was told to leave goes, in any order; this worker's own Leave may still be on its way.
  if (leaving_.load() || (why.ok() && reported_.load())) return;
  const absl::string_view reason = why.ok() ? "it left before the job was done" : why.message();
  // A connection that broke is made again, or rank 0's silence tells.
  if (peer == 0 && !absl::IsUnavailable(why))
    return Part(absl::UnavailableError(absl::StrCat("rank 0 is lost: ", reason)));
  lost_someone_.store(true);
  step_inbox_.Put(peer, std::nullopt);
  if (gmanager_ != nullptr) manager_inbox_.Put(peer, std::nullopt);
}

void Worker::OnPeerUp(int peer) {
  liveness_.Down(peer, false, clock_->Now());
  client_->OnPeerUp(peer);
}

// ---------------------------------------------------------------- step thread

void Worker::StepLoop() {
  absl::Duration wait = absl::ZeroDuration();
  while (!leaving_.load()) {
    for (const Inbox::Item& item : step_inbox_.Take(wait)) {
      const absl::Time now = clock_->Now();
      if (!item.message.has_value()) {
        instance_->PeerUnreachable(item.from, now);
      } else if (item.message->has_drain()) {
        draining_ = true;
      } else if (const absl::Status handled = instance_->Handle(item.from, *item.message, now);
                 !handled.ok()) {
        Fail(Annotate(handled, "request from the front door"));
      }
    }
    absl::Time now = clock_->Now();
    const ServiceTotals served = service_->totals();
    rmanager_->SetService(served.own, served.starved);
    for (; drains_ < drains_asked_.load(); ++drains_)
      instance_->Drain(absl::Microseconds(drain_wait_us_.load()), now);
    instance_->Tick(now);
    if (instance_->ousted()) {
      return Part(absl::UnavailableError(absl::StrCat("this process was silent for too long, and rank ",
                                                      transport_->rank(), " belongs to another one now")));
    }
    incarnation_.store(Value(instance_->incarnation()));
    if (rmanager_->knows_of_losses() || instance_->fenced_count() > 0) lost_someone_.store(true);
    SendOutgoing(instance_->TakeOutgoing());
    const StepReport step = Step(now);
    now = clock_->Now();
    instance_->OnFailures(client_->TakeFailures(), now);
    if (const absl::Status broken = machine_->broken(); !broken.ok()) Fail(broken);
    if (leaving_.load()) return;
    if (step.rows > 0) {
      report_.set_steps(report_.steps() + 1);
      report_.set_remote_steps(report_.remote_steps() + (step.remote ? 1 : 0));
      report_.set_keys_read(report_.keys_read() + step.keys_read);
      report_.set_busy_seconds(report_.busy_seconds() + step.seconds);
    }
    SendOutgoing(instance_->TakeOutgoing());
    if (draining_ && !reported_.load() && instance_->quiet()) SendReport();
    if (instance_->left()) GoOnDraining(now);
    wait = step.rows > 0 ? absl::ZeroDuration()
                         : std::clamp(instance_->NextDeadline() - now, absl::Milliseconds(1), kIdleWaitMax);
  }
}

// It has said Left: Leave ends it, or, should that not come, time.
void Worker::GoOnDraining(absl::Time now) {
  if (left_since_.has_value()) {
    if (now - *left_since_ > kLeaveWait) Part(absl::OkStatus());
    return;
  }
  left_since_ = now;
  if (!reported_.load()) SendReport();
  const RManager::Counters loans = rmanager_->counters();
  const uint32_t lent = loans.lent + loans.prefix_lent;
  absl::Status cut_short;
  if (instance_->cut_off()) {
    cut_short = absl::UnavailableError("was silent for too long while it drained, and is lost to the others");
  } else if (lent > 0) {
    cut_short = absl::DeadlineExceededError(absl::StrCat("left with ", lent,
                                                         " blocks still lent, which their debtors "
                                                         "compute again: a longer --drain-wait moves them"));
  }
  std::lock_guard lock(failure_mutex_);
  if (failure_.ok()) failure_ = cut_short;
}

StepReport Worker::Step(absl::Time now) {
  if (instance_->left()) return {};
  const StepWork* work = instance_->BeginStep(now);
  if (work == nullptr) {
    service_->OwnIdle();
    return {};
  }
  service_->OwnBegins();
  const double begin = ThreadCpuSeconds();
  absl::StatusOr<StepResult> result = machine_->Run(*work);
  service_->OwnEnds(ThreadCpuSeconds() - begin);
  return instance_->FinishStep(std::move(result), clock_->Now());
}

void Worker::SendReport() {
  reported_.store(true);
  const uint64_t block_tokens = settings_.engine.block_tokens;
  const RManager::Counters loans = rmanager_->counters();
  const GpuExchanger::Counters exchanged =
      exchanger_ != nullptr ? exchanger_->counters() : GpuExchanger::Counters{};
  report_.set_remote_tokens_attended(client_->attended_tokens() + exchanged.attended_tokens);
  report_.set_served_steps(service_->counters().steps);
  TrafficCounters traffic = transport_->counters();
  traffic.payload_bytes[static_cast<int>(Channel::kQuery)] += exchanged.query_bytes;
  traffic.payload_bytes[static_cast<int>(Channel::kState)] += exchanged.state_bytes;
  report_.set_gpu_exchanges(exchanged.exchanges);
  report_.set_gpu_exchanges_refused(exchanged.not_accepted);
  report_.set_gpu_pairs_closed(exchanged.pairs_closed);
  for (uint64_t bytes : traffic.payload_bytes) report_.add_payload_bytes(bytes);
  report_.set_framing_bytes(traffic.framing_bytes);
  report_.set_kv_capacity(pool_->total_count() * block_tokens);
  report_.set_kv_used_max(pool_->used_max() * block_tokens);
  report_.set_kv_lent_max(loans.lent_max * block_tokens);
  report_.set_kv_borrowed_max(loans.borrowed_max * block_tokens);
  report_.set_loans_granted(loans.granted);
  report_.set_loans_refused(loans.refused);
  report_.set_loans_repaid(loans.repaid);
  report_.set_loans_lost(loans.lost);
  report_.set_loans_recalled(loans.recalled);
  const RecoveryStats& recovery = engine_->recovery_stats();
  report_.set_recomputed_tokens(recovery.recomputed_tokens);
  report_.set_lost_tokens(recovery.blocks_lost * block_tokens);
  report_.set_abandoned_steps(recovery.abandoned_steps);
  report_.set_fenced(instance_->fenced_count());
  report_.set_stale_messages(loans.stale + service_->counters().refused + client_->stale_messages());
  report_.set_adopted_tokens(recovery.adopted_tokens);
  report_.set_preemptions(engine_->preemptions());
  const PrefixStats prefixes = engine_->prefix_stats();
  report_.set_prefix_queried(prefixes.queried_tokens);
  report_.set_prefix_hit(prefixes.hit_tokens);
  report_.set_prefix_evicted(prefixes.evicted_blocks * block_tokens);
  report_.set_prefixes_lent(loans.prefixes_granted);
  report_.set_prefixes_copied(engine_->prefixes_copied());
  messages::ControlMessage message;
  *message.mutable_report() = report_;
  SendControl(0, message).IgnoreError();
}

absl::Status Worker::CheckInvariants() const { return engine_->CheckInvariants(); }

// ---------------------------------------------------------------- manager thread

void Worker::ManagerLoop() {
  uint64_t members = 0;  // number of the list that the front door knows
  bool guests = false;
  while (!leaving_.load()) {
    const absl::Duration wait = std::clamp(gmanager_->NextDeadline() - clock_->Now(), absl::Milliseconds(1),
                                           guests ? kGuestWait : kIdleWaitMax);
    for (const Inbox::Item& item : manager_inbox_.Take(wait)) {
      if (item.message.has_value()) {
        gmanager_->Handle(item.from, *item.message, clock_->Now());
      } else {
        gmanager_->ConnectionLost(item.from, clock_->Now());
      }
    }
    gmanager_->Tick(clock_->Now());
    if (front_door_ != nullptr) {
      guests = front_door_->OnDoor(gmanager_.get(), clock_->Now());
      for (int rank : front_door_->OnTick()) gmanager_->ConnectionLost(rank, clock_->Now());
      SendOutgoing(gmanager_->TakeOutgoing());  // who gets a request knows by then who belongs
      const Membership& membership = gmanager_->membership();
      if (std::exchange(members, membership.number()) != membership.number()) {
        for (const Membership::Member& m : membership.members()) {
          if (m.granted || m.state == Membership::State::kLost || m.state == Membership::State::kLeft)
            lost_someone_.store(true);
        }
        front_door_->OnMembers(membership.members());
      }
    }
    SendOutgoing(gmanager_->TakeOutgoing());
  }
}

}  // namespace lombard
