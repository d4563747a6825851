#include "tests/support/run_program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/check.h"

namespace lombard {
namespace {

// Through files without names: no pipe can fill up while nobody reads it.
std::FILE* Scratch(const std::string& content = "") {
  std::FILE* file = std::tmpfile();
  CHECK(file != nullptr);
  CHECK_EQ(std::fwrite(content.data(), 1, content.size(), file), content.size());
  std::rewind(file);
  return file;
}

std::string Content(std::FILE* file) {
  std::rewind(file);
  std::string text;
  char buffer[4096];
  while (const size_t got = std::fread(buffer, 1, sizeof(buffer), file)) text.append(buffer, got);
  std::fclose(file);
  return text;
}

}  // namespace

ProgramResult RunProgram(const std::vector<std::string>& argv, const std::string& input,
                         const std::map<std::string, std::string>& environment) {
  CHECK(!argv.empty());
  std::FILE* in = Scratch(input);
  std::FILE* out = Scratch();
  std::FILE* err = Scratch();
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    dup2(fileno(in), STDIN_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    execvp(words[0], words.data());
    _exit(127);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  std::fclose(in);
  ProgramResult result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = Content(out);
  result.err = Content(err);
  return result;
}

}  // namespace lombard
