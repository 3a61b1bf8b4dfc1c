// The driver's interface: what is there, and refuses. Names that driver 535 does not have are left out, so that what
// calls one fails here as it would there.

#include "state.h"

using namespace emulator;

static CUresult refuse(const char* function) {
    return call(function, NOTHING, [=] {
        explain(std::string(function) + " is not emulated");
        return CUDA_ERROR_NOT_SUPPORTED;
    });
}

#define UNSUPPORTED(function) DRIVER_API CUresult function() { return refuse(#function); }
#include "unsupported.inc"
