// A call stack that can be left and entered again, for threads of an emulated block. Everything of a fiber
// runs on the operating system thread that enters it. Knows the address sanitizer.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace lombard::emulation {

class Fiber {
 public:
  // Makes this fiber run entry(argument) on `stack` at the next Enter. Whatever it did before is forgotten:
  // its destructors never run. entry must not return; it Leaves for the last time instead.
  void Start(void* stack, size_t stack_bytes, void (*entry)(void*), void* argument);
  void Enter();                   // runs the fiber until it leaves; from outside
  void Leave(bool last = false);  // back to where Enter was called; from inside

 private:
  static void Trampoline();

  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
#if defined(__x86_64__)
  void* inside_ = nullptr;  // stack pointers of the side that is not running
  void* outside_ = nullptr;
#else
  ucontext_t inside_, outside_;
#endif
  // For the address sanitizer.
  char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  void *fake_inside_ = nullptr, *fake_outside_ = nullptr;
  const void* outer_stack_ = nullptr;
  size_t outer_bytes_ = 0;
};

// Stacks for up to `count` fibers of the calling thread, each with an unreadable page below. Kept for later
// calls.
char* FiberStacks(int count);
size_t FiberStackBytes();   // that a fiber may use
size_t FiberStackStride();  // between two

}  // namespace lombard::emulation
