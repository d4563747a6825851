// Encodes and decodes JSON strings, one a line, for compare.py: {"ids", "ids_special", "text",
// "text_skipped", "stream"}.
//   tokenizer_lines tokenizer.json < strings > results
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"
#include "runtime/model/tokenizer/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenizer_lines tokenizer.json < strings\n";
    return 2;
  }
  const auto json = lombard::ReadWholeFile(argv[1]);
  if (!json.ok()) {
    std::cerr << json.status() << "\n";
    return 1;
  }
  const auto tokenizer = lombard::Tokenizer::Parse(*json, argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    const std::string text = nlohmann::json::parse(line);
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, false);
    const std::vector<int32_t> special = (*tokenizer)->Encode(text, true);
    std::string stream;
    lombard::StreamDecoder decoder(**tokenizer, false);
    for (const int32_t id : special) stream += decoder.Push(id);
    stream += decoder.Finish();
    const nlohmann::json result = {{"ids", ids},
                                   {"ids_special", special},
                                   {"text", (*tokenizer)->Decode(special, false)},
                                   {"text_skipped", (*tokenizer)->Decode(special, true)},
                                   {"stream", stream}};
    std::cout << result.dump() << "\n";
  }
  return 0;
}
