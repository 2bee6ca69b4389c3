// Turns what the processor or the compiler's checks catch in a kernel into an
// error of the launch.
#pragma once

namespace emulator {

// Before the first kernel of this OS thread; later calls return at once.
void catch_faults();

}  // namespace emulator
