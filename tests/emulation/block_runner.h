// Runs one block of an emulated kernel: its threads are fibers that take turns at barriers and warp
// instructions, in an order drawn from a seed, and nowhere else. So a result that depends on who comes first
// without a barrier between shows in some order, and a thread that never comes shows as a deadlock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <source_location>
#include <string>
#include <vector>

#include "tests/emulation/cuda_types.h"
#include "tests/emulation/fiber.h"

namespace lombard::emulation {

using Place = std::source_location;

// Which runnable thread goes next. kForward is close to what hardware does; kBackward and kRandom are what it
// may do.
enum class Order : uint8_t { kForward, kBackward, kRandom };

struct AsyncCopy {
  void* shared;
  const void* global;
  uint32_t bytes;
  bool valid;
  uint32_t group;
};

// What kernels ask of the thread that they are (cuda_emulation.h).
struct Thread {
  enum class State : uint8_t { kRunnable, kAtBarrier, kInWarp, kExited };
  uint3 thread_index, block_index;
  dim3 block_dim, grid_dim;
  int linear = 0, lane = 0, warp = 0;

  Fiber fiber;
  State state = State::kRunnable;
  // What it waits in.
  Place place;
  const char* operation = "";
  uint32_t mask = 0;
  void* operand = nullptr;
  // Its asynchronous copies, and how many groups it has ended.
  std::vector<AsyncCopy> copies;
  uint32_t groups = 0;
};

// What a warp instruction does to the operands of the lanes in `mask`; each may be written. Of a barrier:
// `mask` is the number of operands, those of threads that have ended are null.
using Combine = void (*)(void* const operands[], uint32_t mask);

class BlockRunner {
 public:
  BlockRunner(std::string kernel, dim3 grid, dim3 block, uint32_t dynamic_shared_bytes);
  ~BlockRunner();

  // Empty, or what went wrong: kernel, block, thread, place. The runner is of no use afterwards.
  std::string Run(uint3 block_index, uint64_t seed, const std::function<void()>& body);

  static BlockRunner* Current();  // of the block that the calling code runs in; nullptr outside
  Thread& thread() { return *current_; }

  // The following are called by the block's threads.
  void Barrier(const char* operation, Place place, void* operand = nullptr, Combine combine = nullptr);
  void Warp(const char* operation, uint32_t mask, void* operand, Combine combine, Place place);
  void* SharedArray(const void* tag, size_t bytes);
  void* DynamicShared() { return dynamic_.get(); }
  bool IsShared(const void* p, size_t bytes) const;
  [[noreturn]] void Fault(const char* what, Place place);  // ends the block

 private:
  struct Array {
    const void* tag;
    size_t bytes;
    std::unique_ptr<char[]> memory;
    bool live;
  };
  static void Entry(void* thread);
  Thread* Pick();
  void MakeRunnable(Thread& thread);
  void Leave();
  void ReleaseBarrierIfComplete();
  std::string DescribeDeadlock() const;
  std::string Where(const Thread& thread) const;

  const std::string kernel_;
  const dim3 grid_, block_;
  const uint32_t dynamic_bytes_;
  std::vector<Thread> threads_;
  std::vector<Thread*> runnable_;
  std::vector<void*> operands_;
  std::vector<Array> arrays_;
  std::unique_ptr<char[]> dynamic_;
  const std::function<void()>* body_ = nullptr;
  Thread* current_ = nullptr;
  Combine barrier_combine_ = nullptr;
  int alive_ = 0, at_barrier_ = 0;
  std::mt19937_64 random_;
  Order order_ = Order::kForward;
  std::string fault_;
};

}  // namespace lombard::emulation
