// Every test program's main: GoogleTest's own, except that a program of which nothing ran exits with 77,
// which ctest reports as skipped, that one of which something ran says what did not and why, and that a skip
// without a reason fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int kNothingRan = 77;  // SKIP_RETURN_CODE in cmake/lombard.cmake

class SkipListener : public testing::EmptyTestEventListener {
 public:
  int ran() const { return ran_; }
  bool unexplained() const { return unexplained_; }
  const std::vector<std::string>& skipped() const { return skipped_; }

 private:
  void OnTestStart(const testing::TestInfo&) override { reason_.clear(); }
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (!part.skipped()) return;
    const std::string message = part.message();
    reason_ = message.substr(0, message.find('\n'));  // behind it: traces
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    if (!test.result()->Skipped()) {
      ++ran_;
      return;
    }
    unexplained_ |= reason_.empty();
    skipped_.push_back(std::string(test.test_suite_name()) + "." + test.name() + ": " + reason_);
  }

  int ran_ = 0;
  bool unexplained_ = false;
  std::string reason_;
  std::vector<std::string> skipped_;  // "Suite.Case: reason"
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  auto* const listener = new SkipListener;
  testing::UnitTest::GetInstance()->listeners().Append(listener);  // takes it over
  const int status = RUN_ALL_TESTS();
  if (status != 0 || GTEST_FLAG_GET(list_tests)) return status;
  if (!listener->skipped().empty()) {
    std::cout << listener->skipped().size() << " skipped, " << listener->ran() << " ran:\n";
    for (const std::string& line : listener->skipped()) std::cout << "  " << line << "\n";
  }
  if (listener->unexplained()) {
    std::cout << "A skip must say why.\n";
    return 1;
  }
  if (listener->ran() > 0) return 0;
  std::cout << "No test case ran: the program counts as skipped.\n";
  return kNothingRan;
}
