#pragma once

namespace lombard {

int FreePort();  // of 127.0.0.1, free now

}  // namespace lombard
