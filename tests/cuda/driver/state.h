// What all calls have in common: counting, injected faults, the error that stays, the trace.
#pragma once

#include <string>

#include "results.h"

namespace emulator {

/// The error that all calls return since the context is lost, or 0.
CUresult sticky_error();

/// What must hold before a call does anything. Bits.
enum Needs : unsigned {
    NOTHING = 0,
    INITIALIZED = 1,
    CONTEXT = 2,
    /// Refused, and ends the capture, while this thread captures (or any, in the global mode).
    NO_CAPTURE = 4,
    /// Knows nothing of an error that stays.
    IGNORES_ERRORS = 8,
    /// Gives something back, also after an error that stays, which it then returns all the same.
    GIVES_BACK = 16,
};

/// Counts the call, makes other processes take memory, and says whether it fails before it does anything.
CUresult begin_call(const char* function, unsigned needs);
/// Traces the call and returns the result.
CUresult end_call(const char* function, CUresult result);

/// A call of the driver's interface.
template <class Body>
CUresult call(const char* function, unsigned needs, Body body) {
    CUresult result = begin_call(function, needs);
    if (result == CUDA_SUCCESS) result = body();
    if (result == CUDA_SUCCESS && needs & GIVES_BACK) result = sticky_error();
    return end_call(function, result);
}

/// Says why on stderr; from then on the context is lost.
void lose_context(CUresult error, const std::string& why);
/// As if no context had been lost.
void forget_errors();
/// Keeps a reason, for tests to read, and says it on stderr.
void explain(const std::string& why);
std::string last_explanation();

/// Counts the execution of a kernel; the code with which it is to fail, or 0.
CUresult begin_kernel(const std::string& name);
u64 calls_of(const std::string& function);
u64 executions_of(const std::string& kernel);

/// A line of the trace, if there is one.
void trace(const std::string& line);

bool& is_initialized();

}  // namespace emulator
