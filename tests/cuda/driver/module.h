// Modules: the committed PTX, whose kernels run as the C++ that the same source was compiled to.
#pragma once

#include <map>
#include <string>

#include "ptx.h"
#include "results.h"
#include "runtime.h"

namespace emulator {

struct Function {
    const EmuKernel* kernel;
    unsigned static_shared;
    unsigned max_threads;
    /// The most bytes of dynamic shared memory that a launch may ask for.
    unsigned max_dynamic_shared;
};

struct Module {
    std::map<std::string, Function*> functions;
};

/// Checks the text against driver, device and host kernels; says why it is refused.
CUresult load_module(Module*& module, const char* text, std::string& why);

/// Loads libraries of kernels, once.
void load_kernels();
void register_kernel(const EmuKernel* kernel);

/// Bytes of shared memory that a block may have: without asking, and at most.
constexpr unsigned SHARED_BYTES = 48 << 10;
unsigned shared_bytes_max();

}  // namespace emulator
