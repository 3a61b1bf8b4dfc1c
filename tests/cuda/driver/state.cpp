#include "state.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <unistd.h>

#include "capture.h"
#include "context.h"
#include "memory.h"
#include "settings.h"

namespace emulator {

namespace {

std::mutex guard;
std::map<std::string, u64>& counts() {
    static auto& all = *new std::map<std::string, u64>;
    return all;
}
std::map<std::string, u64>& kernel_counts() {
    static auto& all = *new std::map<std::string, u64>;
    return all;
}
std::string& explanation() {
    static auto& text = *new std::string;
    return text;
}
std::atomic<int> lost{0};

/// Errors after which a context is of no more use.
bool stays(int code) { return (code >= 700 && code <= 702) || code == 710 || (code >= 714 && code <= 719) || code == 999; }

/// The code of the fault that strikes here, or 0.
int strikes(bool is_kernel, const std::string& name, u64 time, u64 time_of_any) {
    for (const Fault& fault : settings().faults) {
        if (fault.is_kernel != is_kernel) continue;
        bool is_any = fault.name == "*";
        if (!is_any && fault.name != name) continue;
        u64 at = is_any ? time_of_any : time;
        if (at == fault.first || (fault.is_lasting && at > fault.first)) return fault.code;
    }
    return 0;
}

}  // namespace

CUresult begin_call(const char* function, unsigned needs) {
    int code = 0;
    {
        std::lock_guard<std::mutex> lock(guard);
        u64 time = ++counts()[function];
        for (const Neighbour& neighbour : settings().neighbours)
            if (neighbour.function == function && neighbour.call == time) take_memory(neighbour.bytes);
        code = strikes(false, function, time, time);
    }
    if (code) {
        if (stays(code)) lose_context(CUresult(code), std::string(function) + ": injected error " + std::to_string(code));
        return CUresult(code);
    }
    if (needs & (INITIALIZED | CONTEXT) && !is_initialized()) return CUDA_ERROR_NOT_INITIALIZED;
    if (needs & CONTEXT)
        if (CUresult wrong = check_context()) return wrong;
    if (!(needs & (IGNORES_ERRORS | GIVES_BACK)) && sticky_error()) return sticky_error();
    if (needs & NO_CAPTURE && breaks_capture()) {
        explain(std::string(function) + " while a stream captures");
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult end_call(const char* function, CUresult result) {
    trace(std::string(function) + " = " + std::to_string(result));
    return result;
}

CUresult sticky_error() { return CUresult(lost.load()); }

void lose_context(CUresult error, const std::string& why) {
    explain(why);
    int none = 0;
    lost.compare_exchange_strong(none, error);
}

void forget_errors() { lost = 0; }

void explain(const std::string& why) {
    fprintf(stderr, "emulated CUDA: %s\n", why.c_str());
    std::lock_guard<std::mutex> lock(guard);
    explanation() = why;
}

std::string last_explanation() {
    std::lock_guard<std::mutex> lock(guard);
    return explanation();
}

CUresult begin_kernel(const std::string& name) {
    int code = 0;
    {
        std::lock_guard<std::mutex> lock(guard);
        u64 time = ++kernel_counts()[name], time_of_any = ++kernel_counts()["*"];
        code = strikes(true, name, time, time_of_any);
    }
    trace("kernel:" + name);
    return CUresult(code);
}

u64 calls_of(const std::string& function) {
    std::lock_guard<std::mutex> lock(guard);
    auto found = counts().find(function);
    return found == counts().end() ? 0 : found->second;
}

u64 executions_of(const std::string& kernel) {
    std::lock_guard<std::mutex> lock(guard);
    auto found = kernel_counts().find(kernel);
    return found == kernel_counts().end() ? 0 : found->second;
}

bool& is_initialized() {
    static bool is = false;
    return is;
}

void trace(const std::string& line) {
    const std::string& path = settings().trace;
    if (path.empty()) return;
    static int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    std::string text = line + "\n";
    if (write(file, text.data(), text.size()) != ssize_t(text.size())) {
        perror("emulated CUDA: the trace cannot be written");
        abort();
    }
}

}  // namespace emulator
