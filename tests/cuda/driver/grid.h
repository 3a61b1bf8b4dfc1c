// A launch: all blocks of a grid, one after the other, on the thread that calls.
#pragma once

#include <vector>

#include "module.h"

namespace emulator {

struct Launch {
    const EmuKernel* kernel;
    dim3 grid, block;
    unsigned dynamic_shared;
    /// The arguments' bytes, copied when it was launched, and where each begins.
    std::vector<char> bytes;
    std::vector<size_t> offsets;
};

/// Runs it; an error of a kernel is one that stays.
void run(const Launch& launch);

/// Makes faults of kernels errors of the device. Called once, before any kernel runs.
void catch_faults();

}  // namespace emulator
