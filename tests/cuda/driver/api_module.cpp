// The driver's interface: modules, functions, launches.

#include <cstdio>
#include <cstring>
#include <memory>

#include "capture.h"
#include "grid.h"
#include "module.h"
#include "state.h"

using namespace emulator;

namespace {

// Options of cuModuleLoadDataEx.
constexpr int ERROR_LOG = 5, ERROR_LOG_BYTES = 6;
// Attributes of functions.
constexpr int MAX_THREADS = 0, STATIC_SHARED = 1, REGISTERS = 4, MAX_DYNAMIC_SHARED = 8, CARVEOUT = 9;

struct Log {
    char* text = nullptr;
    size_t room = 0;
};

CUresult load(void** handle, const void* image, Log log) {
    if (!image) return CUDA_ERROR_INVALID_VALUE;
    Module* module = nullptr;
    std::string why;
    CUresult result = load_module(module, static_cast<const char*>(image), why);
    if (log.text && log.room) snprintf(log.text, log.room, "%s", why.c_str());
    if (result) explain(why);
    else *handle = module;
    return result;
}

CUresult refuse(const Function& function, const std::string& why, CUresult code = CUDA_ERROR_INVALID_VALUE) {
    explain(std::string("launch of ") + function.kernel->name + ": " + why);
    return code;
}

CUresult launch(const Function& function, dim3 grid, dim3 block, unsigned dynamic_shared, Stream& stream, void** arguments) {
    u64 threads = u64(block.x) * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || !threads) return refuse(function, "an empty grid or block");
    if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) return refuse(function, "more blocks than a grid can have");
    if (block.x > 1024 || block.y > 1024 || block.z > 64 || threads > 1024)
        return refuse(function, "more threads than a block can have");
    if (function.max_threads && threads > function.max_threads)
        return refuse(function, std::to_string(threads) + " threads, its launch bounds say " + std::to_string(function.max_threads));
    if (dynamic_shared > function.max_dynamic_shared)
        return refuse(function, std::to_string(dynamic_shared) + " bytes of dynamic shared memory, " +
                                    std::to_string(function.max_dynamic_shared) + " are allowed");
    Launch made = {function.kernel, grid, block, dynamic_shared, {}, {}};
    for (unsigned at = 0; at < function.kernel->parameter_count; at++) {
        if (!arguments || !arguments[at]) return refuse(function, "an argument is missing");
        size_t offset = (made.bytes.size() + 15) / 16 * 16, bytes = function.kernel->parameters[at].bytes;
        made.bytes.resize(offset + bytes);
        made.offsets.push_back(offset);
        memcpy(&made.bytes[offset], arguments[at], bytes);
    }
    auto shared = std::make_shared<const Launch>(std::move(made));
    return submit(stream, [shared] { run(*shared); });
}

}  // namespace

DRIVER_API CUresult cuModuleLoadData(void** module, const void* image) {
    return call("cuModuleLoadData", CONTEXT | NO_CAPTURE, [=] { return load(module, image, {}); });
}

DRIVER_API CUresult cuModuleLoadDataEx(void** module, const void* image, unsigned count, int* options, void** values) {
    return call("cuModuleLoadDataEx", CONTEXT | NO_CAPTURE, [=] {
        Log log;
        for (unsigned at = 0; at < count; at++) {
            if (options[at] == ERROR_LOG) log.text = static_cast<char*>(values[at]);
            if (options[at] == ERROR_LOG_BYTES) log.room = u32(reinterpret_cast<size_t>(values[at]));
        }
        return load(module, image, log);
    });
}

DRIVER_API CUresult cuModuleUnload(void* module) {
    return call("cuModuleUnload", CONTEXT | NO_CAPTURE | GIVES_BACK, [=] {
        if (!module) return CUDA_ERROR_INVALID_HANDLE;
        // Functions stay: a launch may still be on its way.
        delete static_cast<Module*>(module);
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuModuleGetFunction(void** function, void* module, const char* name) {
    return call("cuModuleGetFunction", CONTEXT, [=] {
        if (!module) return CUDA_ERROR_INVALID_HANDLE;
        const auto& functions = static_cast<Module*>(module)->functions;
        auto found = functions.find(name);
        if (found == functions.end()) return CUDA_ERROR_NOT_FOUND;
        *function = found->second;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuFuncGetAttribute(int* value, int attribute, void* handle) {
    return call("cuFuncGetAttribute", CONTEXT, [=] {
        auto function = static_cast<Function*>(handle);
        if (!function) return CUDA_ERROR_INVALID_HANDLE;
        switch (attribute) {
            case MAX_THREADS: *value = function->max_threads ? int(function->max_threads) : 1024; break;
            case STATIC_SHARED: *value = int(function->static_shared); break;
            case REGISTERS: *value = 32; break;
            case MAX_DYNAMIC_SHARED: *value = int(function->max_dynamic_shared); break;
            default: *value = 0;
        }
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuFuncSetAttribute(void* handle, int attribute, int value) {
    return call("cuFuncSetAttribute", CONTEXT, [=] {
        auto function = static_cast<Function*>(handle);
        if (!function) return CUDA_ERROR_INVALID_HANDLE;
        if (attribute == CARVEOUT) return CUDA_SUCCESS;
        if (attribute != MAX_DYNAMIC_SHARED || value < 0) return CUDA_ERROR_INVALID_VALUE;
        if (unsigned(value) + function->static_shared > shared_bytes_max())
            return refuse(*function, std::to_string(value) + " bytes of dynamic shared memory on a device whose blocks have " +
                                         std::to_string(shared_bytes_max()) + " at most");
        function->max_dynamic_shared = unsigned(value);
        return CUDA_SUCCESS;
    });
}

static CUresult occupancy(const char* function, int* blocks, int threads, size_t dynamic_shared) {
    return call(function, CONTEXT, [=] {
        if (threads <= 0) return CUDA_ERROR_INVALID_VALUE;
        int by_threads = 1536 / threads, by_shared = int((shared_bytes_max() + 1024) / (dynamic_shared + 1024));
        *blocks = by_threads < by_shared ? by_threads : by_shared;
        return CUDA_SUCCESS;
    });
}
DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t dynamic_shared) {
    return occupancy("cuOccupancyMaxActiveBlocksPerMultiprocessor", blocks, threads, dynamic_shared);
}
DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void*, int threads,
                                                                         size_t dynamic_shared, unsigned) {
    return occupancy("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", blocks, threads, dynamic_shared);
}

DRIVER_API CUresult cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                   unsigned block_y, unsigned block_z, unsigned dynamic_shared, void* stream_handle,
                                   void** arguments, void** extra) {
    return call("cuLaunchKernel", CONTEXT, [=] {
        auto function = static_cast<Function*>(handle);
        Stream* stream = stream_of(stream_handle);
        if (!function || !stream) return CUDA_ERROR_INVALID_HANDLE;
        if (extra) return refuse(*function, "arguments in one buffer are not emulated", CUDA_ERROR_NOT_SUPPORTED);
        return launch(*function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic_shared, *stream, arguments);
    });
}
