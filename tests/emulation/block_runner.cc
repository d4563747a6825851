#include "tests/emulation/block_runner.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace lombard::emulation {
namespace {

thread_local BlockRunner* current_block = nullptr;

constexpr size_t kCanaryBytes = 64;  // behind shared arrays; the address sanitizer sees more than they do
constexpr uint8_t kRubbish = 0xff;   // NaN in every floating type, -1 in every integer

std::unique_ptr<char[]> NewShared(size_t bytes) {
  std::unique_ptr<char[]> memory(new char[bytes + kCanaryBytes]);
  return memory;
}
void FillRubbish(char* memory, size_t bytes) { std::memset(memory, kRubbish, bytes + kCanaryBytes); }
bool CanaryIsWhole(const char* memory, size_t bytes) {
  return std::all_of(memory + bytes, memory + bytes + kCanaryBytes,
                     [](char c) { return static_cast<uint8_t>(c) == kRubbish; });
}

bool SamePlace(const Place& a, const Place& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string Text(const Place& place) {
  const char* const slash = std::strrchr(place.file_name(), '/');
  return absl::StrCat(slash == nullptr ? place.file_name() : slash + 1, ":", place.line());
}

std::string Text(const uint3& v) { return absl::StrFormat("(%u, %u, %u)", v.x, v.y, v.z); }

}  // namespace

BlockRunner::BlockRunner(std::string kernel, dim3 grid, dim3 block, uint32_t dynamic_shared_bytes)
    : kernel_(std::move(kernel)),
      grid_(grid),
      block_(block),
      dynamic_bytes_(dynamic_shared_bytes),
      threads_(size_t{block.x} * block.y * block.z),
      operands_(threads_.size()),
      dynamic_(NewShared(dynamic_shared_bytes)) {
  for (size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    const unsigned n = static_cast<unsigned>(i);
    thread.thread_index = {n % block.x, n / block.x % block.y, n / block.x / block.y};
    thread.block_dim = block, thread.grid_dim = grid;
    thread.linear = static_cast<int>(i), thread.lane = thread.linear % 32, thread.warp = thread.linear / 32;
  }
}

BlockRunner::~BlockRunner() = default;

BlockRunner* BlockRunner::Current() { return current_block; }

void BlockRunner::Entry(void* argument) {
  BlockRunner* const runner = current_block;
  (*runner->body_)();
  Thread* const thread = static_cast<Thread*>(argument);
  thread->state = Thread::State::kExited;
  --runner->alive_;
  runner->ReleaseBarrierIfComplete();
  thread->fiber.Leave(/*last=*/true);
}

std::string BlockRunner::Run(uint3 block_index, uint64_t seed, const std::function<void()>& body) {
  random_.seed(seed);
  order_ = static_cast<Order>(random_() % 3);
  body_ = &body;
  alive_ = static_cast<int>(threads_.size()), at_barrier_ = 0;
  for (Array& array : arrays_) array.live = false;
  FillRubbish(dynamic_.get(), dynamic_bytes_);
  char* const stacks = FiberStacks(alive_);
  runnable_.clear();
  for (Thread& thread : threads_) {
    thread.block_index = block_index;
    thread.copies.clear(), thread.groups = 0;
    thread.fiber.Start(stacks + FiberStackStride() * thread.linear, FiberStackBytes(), &Entry, &thread);
    MakeRunnable(thread);
  }
  BlockRunner* const outer = std::exchange(current_block, this);
  while (alive_ > 0 && fault_.empty()) {
    current_ = Pick();
    if (current_ == nullptr) {
      fault_ = DescribeDeadlock();
      break;
    }
    current_->fiber.Enter();
  }
  current_ = nullptr;
  current_block = outer;
  if (fault_.empty()) {
    bool whole = CanaryIsWhole(dynamic_.get(), dynamic_bytes_);
    for (const Array& array : arrays_) whole &= !array.live || CanaryIsWhole(array.memory.get(), array.bytes);
    if (!whole) fault_ = absl::StrCat(kernel_, ", block ", Text(block_index), ": wrote behind shared memory");
  }
  return fault_;
}

Thread* BlockRunner::Pick() {
  if (runnable_.empty()) return nullptr;
  size_t at = 0;  // threads are entered as they become runnable: lowest first
  if (order_ == Order::kBackward) at = runnable_.size() - 1;
  if (order_ == Order::kRandom) at = random_() % runnable_.size();
  Thread* const thread = runnable_[at];
  if (order_ == Order::kRandom) {
    runnable_[at] = runnable_.back();
    runnable_.pop_back();
  } else {
    runnable_.erase(runnable_.begin() + static_cast<ptrdiff_t>(at));
  }
  return thread;
}

void BlockRunner::MakeRunnable(Thread& thread) {
  thread.state = Thread::State::kRunnable;
  runnable_.push_back(&thread);
}

void BlockRunner::Leave() { current_->fiber.Leave(); }

void BlockRunner::Barrier(const char* operation, Place place, void* operand, Combine combine) {
  Thread& thread = *current_;
  thread.state = Thread::State::kAtBarrier;
  thread.operation = operation, thread.place = place, thread.mask = 0, thread.operand = operand;
  barrier_combine_ = combine;
  ++at_barrier_;
  ReleaseBarrierIfComplete();
  Leave();
}

void BlockRunner::ReleaseBarrierIfComplete() {
  if (at_barrier_ == 0 || at_barrier_ != alive_) return;
  const Thread* first = nullptr;
  for (const Thread& thread : threads_) {
    if (thread.state != Thread::State::kAtBarrier) continue;
    if (first == nullptr) first = &thread;
    if (!SamePlace(first->place, thread.place)) return;  // a deadlock, as soon as nobody else can run
  }
  // A vote.
  if (barrier_combine_ != nullptr) {
    for (size_t i = 0; i < threads_.size(); ++i)
      operands_[i] = threads_[i].state == Thread::State::kAtBarrier ? threads_[i].operand : nullptr;
    barrier_combine_(operands_.data(), static_cast<uint32_t>(operands_.size()));
  }
  at_barrier_ = 0;
  for (Thread& thread : threads_)
    if (thread.state == Thread::State::kAtBarrier) MakeRunnable(thread);
}

void BlockRunner::Warp(const char* operation, uint32_t mask, void* operand, Combine combine, Place place) {
  Thread& self = *current_;
  if ((mask >> self.lane & 1) == 0) Fault("the lane is not in the mask that it names", place);
  self.state = Thread::State::kInWarp;
  self.operation = operation, self.place = place, self.mask = mask, self.operand = operand;
  void* operands[32] = {};
  Thread* const warp = &threads_[static_cast<size_t>(self.warp) * 32];
  const size_t lanes = std::min<size_t>(32, threads_.size() - static_cast<size_t>(self.warp) * 32);
  for (size_t lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    // A lane that does not exist never comes.
    if (lane >= lanes || warp[lane].state != Thread::State::kInWarp || warp[lane].mask != mask ||
        std::strcmp(warp[lane].operation, operation) != 0 || !SamePlace(warp[lane].place, place)) {
      Leave();
      return;  // the last one has combined
    }
    operands[lane] = warp[lane].operand;
  }
  combine(operands, mask);
  // All go on in the order drawn, this one too.
  for (size_t lane = 0; lane < lanes; ++lane)
    if (mask >> lane & 1) MakeRunnable(warp[lane]);
  Leave();
}

void* BlockRunner::SharedArray(const void* tag, size_t bytes) {
  auto found = std::find_if(arrays_.begin(), arrays_.end(), [&](const Array& a) { return a.tag == tag; });
  if (found == arrays_.end()) {
    arrays_.push_back({tag, bytes, NewShared(bytes), false});
    found = arrays_.end() - 1;
  }
  if (!found->live) FillRubbish(found->memory.get(), bytes);
  found->live = true;
  return found->memory.get();
}

bool BlockRunner::IsShared(const void* p, size_t bytes) const {
  const char* const at = static_cast<const char*>(p);
  const auto inside = [&](const char* memory, size_t size) {
    return at >= memory && at + bytes <= memory + size;
  };
  return inside(dynamic_.get(), dynamic_bytes_) ||
         std::any_of(arrays_.begin(), arrays_.end(),
                     [&](const Array& a) { return a.live && inside(a.memory.get(), a.bytes); });
}

void BlockRunner::Fault(const char* what, Place place) {
  fault_ = absl::StrCat(Where(*current_), " at ", Text(place), ": ", what);
  current_->fiber.Leave(/*last=*/true);
  CHECK(false) << "a faulty thread was entered again";
  __builtin_unreachable();
}

std::string BlockRunner::Where(const Thread& thread) const {
  return absl::StrCat(kernel_, ", block ", Text(thread.block_index), ", thread ", Text(thread.thread_index));
}

// Everybody waits. Says for whom: the threads of each place, by their first and count.
std::string BlockRunner::DescribeDeadlock() const {
  std::string text = absl::StrCat("deadlock in ", kernel_, ", block ", Text(threads_[0].block_index), ":");
  std::vector<const Thread*> firsts;
  int exited = 0;
  for (const Thread& thread : threads_) {
    if (thread.state == Thread::State::kExited) {
      ++exited;
      continue;
    }
    const bool known = std::any_of(firsts.begin(), firsts.end(), [&](const Thread* first) {
      return SamePlace(first->place, thread.place) && first->operation == thread.operation &&
             first->mask == thread.mask;
    });
    if (known) continue;
    firsts.push_back(&thread);
    const auto count = std::count_if(threads_.begin(), threads_.end(), [&](const Thread& other) {
      return other.state != Thread::State::kExited && SamePlace(other.place, thread.place) &&
             other.operation == thread.operation && other.mask == thread.mask;
    });
    absl::StrAppend(&text, " ", count, " threads from ", Text(thread.thread_index), " wait in ",
                    thread.operation, " at ", Text(thread.place));
    if (thread.state == Thread::State::kInWarp) absl::StrAppendFormat(&text, " for lanes %08x", thread.mask);
    absl::StrAppend(&text, ";");
  }
  return absl::StrCat(text, " ", exited, " have ended");
}

}  // namespace lombard::emulation
