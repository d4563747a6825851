// The program: reads the command line, runs one command, ends with the exit code of the contract: 0 ok, 2 the
// command line alone is wrong, 1 everything else.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "absl/time/clock.h"
#include "runtime/cli/generate.h"
#include "runtime/cli/model_commands.h"
#include "runtime/cli/process_exit.h"
#include "runtime/config/options.h"
#include "runtime/doctor/doctor.h"

namespace lombard {
namespace {

int Conclude(const absl::Status& status, bool speaks = SpeaksForAll()) {
  if (status.ok()) return 0;
  if (speaks) std::cerr << "lombard: " << status.message() << std::endl;
  return 1;
}

// A command that concerns files alone: one rank of a job does it.
template <typename Command>
int RunOnce(Command command) {
  return SpeaksForAll() ? Conclude(command()) : 0;
}

int Run(const ExitRequest& request) {
  if (SpeaksForAll()) {
    (request.code == 0 ? std::cout : std::cerr) << request.text << std::flush;
  } else if (request.code != 0) {
    absl::SleepFor(absl::Milliseconds(300));  // mpirun ends all ranks after the first: let rank 0 say why
  }
  return request.code;
}
int Run(const ModelCreateOptions& options) {
  if (const auto wrong = CheckModelCreate(options)) return Run(*wrong);
  return RunOnce([&] { return RunModelCreate(options, std::cout); });
}
int Run(const ModelInspectOptions& options) {
  return RunOnce([&] { return RunModelInspect(options, std::cout); });
}
int Run(const ModelTokenizeOptions& options) {
  return RunOnce([&] { return RunModelTokenize(options, std::cout); });
}
int Run(const DoctorOptions&) { return RunDoctor(std::cout); }

int Run(const GenerateOptions& options) {
  const RunOutcome outcome = RunGenerate(options, LOMBARD_VERSION);
  const int code = Conclude(outcome.status, outcome.speaks);
  if (outcome.must_exit_hard) {
    if (outcome.launched) RecordExit(code);
    _exit(code);  // finalizing MPI towards dead ranks hangs
  }
  return code;
}

int Main(int argc, char** argv) {
  const Command command = ParseCommandLine(argc, argv, LOMBARD_VERSION);
  int code = std::visit([](const auto& options) { return Run(options); }, command);
  std::cout.flush();
  if (!std::cout && code == 0) code = Conclude(absl::DataLossError("cannot write to standard output"));
  RecordExit(code);
  return code;
}

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) { return lombard::Main(argc, argv); }
