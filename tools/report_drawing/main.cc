// report_drawing FILE: draws a report.json. For launch/demo.
#include <fstream>
#include <iostream>
#include <sstream>

#include "tools/report_drawing/draw.h"

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::cerr << "usage: report_drawing REPORT.json\n";
    return 2;
  }
  std::ifstream in(argv[1]);
  std::ostringstream text;
  text << in.rdbuf();
  const auto drawing = in ? lombard::DrawReport(text.str()) : absl::NotFoundError("it cannot be read");
  if (!drawing.ok()) {
    std::cerr << "report_drawing: " << argv[1] << ": " << drawing.status().message() << "\n";
    return 1;
  }
  std::cout << *drawing;
  return 0;
}
