#pragma once

namespace lombard {

// Free now, and not given to another test that runs at the same time.
int FreePort();

}  // namespace lombard
