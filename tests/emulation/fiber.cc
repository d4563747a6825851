#include "tests/emulation/fiber.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves the registers that a call preserves and the stack pointer in *save, loads those of `load`.
extern "C" void LombardSwitchStacks(void** save, void* load);
asm(R"(
.text
.globl LombardSwitchStacks
.type LombardSwitchStacks, @function
LombardSwitchStacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size LombardSwitchStacks, .-LombardSwitchStacks
)");
#endif

namespace lombard::emulation {
namespace {

thread_local Fiber* starting = nullptr;  // told to Trampoline, which has no argument

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kUsable = 256 << 10;
#else
constexpr size_t kUsable = 64 << 10;
#endif
constexpr size_t kGuard = 4096;

}  // namespace

void Fiber::Start(void* stack, size_t stack_bytes, void (*entry)(void*), void* argument) {
  entry_ = entry, argument_ = argument;
  stack_ = static_cast<char*>(stack), stack_bytes_ = stack_bytes;
  fake_inside_ = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // of a fiber that was abandoned
#endif
#if defined(__x86_64__)
  // As if Trampoline's first instruction were to be returned to: 6 registers, its address, and a null where
  // its caller's would be, so that the stack is aligned as after a call.
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes_);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Trampoline);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  inside_ = top;
#else
  CHECK_EQ(getcontext(&inside_), 0);
  inside_.uc_stack.ss_sp = stack;
  inside_.uc_stack.ss_size = stack_bytes;
  inside_.uc_link = nullptr;
  makecontext(&inside_, &Trampoline, 0);
#endif
}

void Fiber::Enter() {
  starting = this;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_outside_, stack_, stack_bytes_);
#endif
#if defined(__x86_64__)
  LombardSwitchStacks(&outside_, inside_);
#else
  swapcontext(&outside_, &inside_);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_outside_, nullptr, nullptr);
#endif
}

void Fiber::Leave([[maybe_unused]] bool last) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_inside_, outer_stack_, outer_bytes_);
#endif
#if defined(__x86_64__)
  LombardSwitchStacks(&inside_, outside_);
#else
  swapcontext(&inside_, &outside_);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_inside_, &outer_stack_, &outer_bytes_);
#endif
}

void Fiber::Trampoline() {
  Fiber* const fiber = starting;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &fiber->outer_stack_, &fiber->outer_bytes_);
#endif
  fiber->entry_(fiber->argument_);
  CHECK(false) << "a fiber's entry returned";
}

size_t FiberStackBytes() { return kUsable; }
size_t FiberStackStride() { return kUsable + kGuard; }

char* FiberStacks(int count) {
  struct Pool {
    char* memory = nullptr;
    int count = 0;
    ~Pool() { Drop(); }
    void Drop() {
      if (memory == nullptr) return;
#ifdef __SANITIZE_ADDRESS__
      __asan_unpoison_memory_region(memory, FiberStackStride() * count);  // for whoever is mapped here next
#endif
      munmap(memory, FiberStackStride() * count);
      memory = nullptr;
    }
  };
  thread_local Pool pool;
  if (pool.count < count) {
    pool.Drop();
    pool.count = std::max(count, 256);
    void* const memory = mmap(nullptr, FiberStackStride() * pool.count, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED) << "no memory for " << pool.count << " stacks";
    pool.memory = static_cast<char*>(memory);
    for (int i = 0; i < pool.count; ++i)
      CHECK_EQ(mprotect(pool.memory + FiberStackStride() * i, kGuard, PROT_NONE), 0);
  }
  return pool.memory + kGuard;
}

}  // namespace lombard::emulation
