#include "context.h"

#include <mutex>

#include "memory.h"
#include "state.h"
#include "stream.h"

namespace emulator {

namespace {

std::mutex guard;
unsigned holders = 0;
/// One after the other, each with a handle of its own.
char* primary = nullptr;

thread_local void* current = nullptr;

}  // namespace

void* retain_context() {
    std::lock_guard<std::mutex> lock(guard);
    if (holders++ == 0) {
        primary = new char;
        take_for_context(true);
    }
    return primary;
}

CUresult release_context() {
    std::lock_guard<std::mutex> lock(guard);
    if (holders == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--holders > 0) return CUDA_SUCCESS;
    close_all_streams();
    release_all();
    take_for_context(false);
    forget_errors();
    return CUDA_SUCCESS;
}

bool has_context() {
    std::lock_guard<std::mutex> lock(guard);
    return holders > 0;
}

CUresult set_current(void* context) {
    std::lock_guard<std::mutex> lock(guard);
    if (context && (!holders || context != primary)) return CUDA_ERROR_INVALID_CONTEXT;
    current = context;
    return CUDA_SUCCESS;
}

void* current_context() { return current; }

CUresult check_context() {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    std::lock_guard<std::mutex> lock(guard);
    return holders && current == primary ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

}  // namespace emulator
