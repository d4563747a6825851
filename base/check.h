// CHECK: for our own mistakes only, also in release builds. What a file, flag or peer does wrong is a Status.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace lombard::internal {

// Prints the failure and aborts when destroyed; collects what is streamed into it.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* text) {
    out_ << file << ":" << line << ": CHECK failed: " << text << " ";
  }
  [[noreturn]] ~CheckFailure() {
    std::fprintf(stderr, "%s\n", out_.str().c_str());
    std::fflush(stderr);
    std::abort();
  }
  std::ostream& stream() { return out_; }

 private:
  std::ostringstream out_;
};

}  // namespace lombard::internal

#define CHECK(condition)      \
  if (condition) [[likely]] { \
  } else                      \
    ::lombard::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
#define LOMBARD_CHECK_OP(a, op, b)                                                    \
  if ((a)op(b)) [[likely]] {                                                          \
  } else                                                                              \
    ::lombard::internal::CheckFailure(__FILE__, __LINE__, #a " " #op " " #b).stream() \
        << "(" << (a) << " against " << (b) << ") "
#define CHECK_EQ(a, b) LOMBARD_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) LOMBARD_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) LOMBARD_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) LOMBARD_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) LOMBARD_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) LOMBARD_CHECK_OP(a, >=, b)
#define CHECK_OK(expr)                                                     \
  if (const auto& check_status_ = (expr); check_status_.ok()) [[likely]] { \
  } else                                                                   \
    ::lombard::internal::CheckFailure(__FILE__, __LINE__, #expr).stream() << check_status_
