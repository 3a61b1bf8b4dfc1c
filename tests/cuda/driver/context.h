// The primary context of the device: the only one there is.
#pragma once

#include "results.h"

namespace emulator {

/// Another holder of the context, which is made for the first.
void* retain_context();
/// When the last holder is gone, so is the context, with all streams and memory, and with the error that it had.
CUresult release_context();
bool has_context();

/// Makes a context the current one of this thread; null for none.
CUresult set_current(void* context);
void* current_context();
/// Whether this thread has a context that is still there.
CUresult check_context();

}  // namespace emulator
