// The driver's interface: initialisation, devices, contexts, texts of errors; and what only tests call.

#include <cstdio>
#include <cstring>
#include <string>

#include "context.h"
#include "grid.h"
#include "memory.h"
#include "module.h"
#include "settings.h"
#include "state.h"
#include "stream.h"

using namespace emulator;

namespace {

/// Attributes by their numbers in the interface. What the table does not have is 0.
int attribute(int number) {
    const Settings& set = settings();
    switch (number) {
        case 1: return 1024;                     // threads in a block
        case 2: case 3: return 1024;             // ... in x and y
        case 4: return 64;                       // ... in z
        case 5: return 2147483647;               // blocks in x
        case 6: case 7: return 65535;            // ... in y and z
        case 8: return int(SHARED_BYTES);        // shared memory of a block, without asking
        case 10: return 32;                      // lanes of a warp
        case 12: return 65536;                   // registers of a block
        case 13: return 1600000;                 // clock, kHz
        case 15: case 41: return 1;              // copies beside kernels; unified addresses
        case 16: return 48;                      // multiprocessors
        case 19: return 1;                       // maps host memory
        case 31: return 1;                       // kernels beside each other
        case 36: return 7000000;                 // clock of the memory, kHz
        case 37: return 256;                     // width of the memory's bus, bits
        case 38: return 4 << 20;                 // level-2 cache, bytes
        case 39: return 1536;                    // threads on a multiprocessor
        case 40: return 2;                       // copy engines
        case 75: return set.capability / 10;
        case 76: return set.capability % 10;
        case 78: return 1;                       // priorities of streams
        case 81: return int(shared_bytes_max()) + 1024;  // shared memory of a multiprocessor
        case 82: return 65536;                   // registers of a multiprocessor
        case 91: return 1;                       // registered memory by the host's own address
        case 97: return int(shared_bytes_max());  // shared memory of a block, asked for
        case 99: return 1;                       // registers host memory
        case 115: return 1;                      // memory pools
        default: return 0;
    }
}

bool is_device(CUdevice device) { return device >= 0 && device < settings().devices; }

const char* name_of(int code) {
    switch (code) {
        case CUDA_SUCCESS: return "CUDA_SUCCESS";
        case CUDA_ERROR_INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
        case CUDA_ERROR_OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
        case CUDA_ERROR_NOT_INITIALIZED: return "CUDA_ERROR_NOT_INITIALIZED";
        case CUDA_ERROR_NO_DEVICE: return "CUDA_ERROR_NO_DEVICE";
        case CUDA_ERROR_INVALID_DEVICE: return "CUDA_ERROR_INVALID_DEVICE";
        case CUDA_ERROR_INVALID_IMAGE: return "CUDA_ERROR_INVALID_IMAGE";
        case CUDA_ERROR_INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
        case CUDA_ERROR_NO_BINARY_FOR_GPU: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
        case CUDA_ERROR_INVALID_PTX: return "CUDA_ERROR_INVALID_PTX";
        case CUDA_ERROR_UNSUPPORTED_PTX_VERSION: return "CUDA_ERROR_UNSUPPORTED_PTX_VERSION";
        case CUDA_ERROR_INVALID_HANDLE: return "CUDA_ERROR_INVALID_HANDLE";
        case CUDA_ERROR_NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
        case CUDA_ERROR_NOT_READY: return "CUDA_ERROR_NOT_READY";
        case CUDA_ERROR_ILLEGAL_ADDRESS: return "CUDA_ERROR_ILLEGAL_ADDRESS";
        case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
        case CUDA_ERROR_CONTEXT_IS_DESTROYED: return "CUDA_ERROR_CONTEXT_IS_DESTROYED";
        case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: return "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED";
        case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED: return "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED";
        case CUDA_ERROR_MISALIGNED_ADDRESS: return "CUDA_ERROR_MISALIGNED_ADDRESS";
        case CUDA_ERROR_LAUNCH_FAILED: return "CUDA_ERROR_LAUNCH_FAILED";
        case CUDA_ERROR_NOT_SUPPORTED: return "CUDA_ERROR_NOT_SUPPORTED";
        case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
        case CUDA_ERROR_STREAM_CAPTURE_UNJOINED: return "CUDA_ERROR_STREAM_CAPTURE_UNJOINED";
        case CUDA_ERROR_STREAM_CAPTURE_ISOLATION: return "CUDA_ERROR_STREAM_CAPTURE_ISOLATION";
        case CUDA_ERROR_UNKNOWN: return "CUDA_ERROR_UNKNOWN";
        default: return nullptr;
    }
}

}  // namespace

DRIVER_API CUresult cuInit(unsigned) {
    return call("cuInit", NOTHING, [] {
        if (settings().devices == 0) return CUDA_ERROR_NO_DEVICE;
        if (is_initialized()) return CUDA_SUCCESS;
        load_kernels();
        catch_faults();
        is_initialized() = true;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDriverGetVersion(int* version) {
    return call("cuDriverGetVersion", IGNORES_ERRORS, [=] {
        *version = settings().driver;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDeviceGetCount(int* count) {
    return call("cuDeviceGetCount", INITIALIZED, [=] {
        *count = settings().devices;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDeviceGet(CUdevice* device, int number) {
    return call("cuDeviceGet", INITIALIZED, [=] {
        if (!is_device(number)) return CUDA_ERROR_INVALID_DEVICE;
        *device = number;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDeviceGetName(char* name, int room, CUdevice device) {
    return call("cuDeviceGetName", INITIALIZED, [=] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        snprintf(name, size_t(room), "%s", settings().name.c_str());
        return CUDA_SUCCESS;
    });
}

static CUresult device_uuid(const char* function, void* bytes, CUdevice device) {
    return call(function, INITIALIZED, [=] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        memset(bytes, 0x46 + device, 16);
        return CUDA_SUCCESS;
    });
}
DRIVER_API CUresult cuDeviceGetUuid(void* bytes, CUdevice device) { return device_uuid("cuDeviceGetUuid", bytes, device); }
DRIVER_API CUresult cuDeviceGetUuid_v2(void* bytes, CUdevice device) {
    return device_uuid("cuDeviceGetUuid_v2", bytes, device);
}

DRIVER_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    return call("cuDeviceTotalMem_v2", INITIALIZED, [=] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        *bytes = settings().memory;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDeviceGetAttribute(int* value, int number, CUdevice device) {
    return call("cuDeviceGetAttribute", INITIALIZED, [=] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        *value = attribute(number);
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDeviceGetPCIBusId(char* text, int room, CUdevice device) {
    return call("cuDeviceGetPCIBusId", INITIALIZED, [=] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        snprintf(text, size_t(room), "0000:%02x:00.0", device + 1);
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDevicePrimaryCtxRetain(void** context, CUdevice device) {
    return call("cuDevicePrimaryCtxRetain", INITIALIZED, [=] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        if (device != 0) {
            explain("only device 0 has a context here");
            return CUDA_ERROR_NOT_SUPPORTED;
        }
        *context = retain_context();
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
    return call("cuDevicePrimaryCtxRelease_v2", INITIALIZED | IGNORES_ERRORS, [] { return release_context(); });
}

DRIVER_API CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* is_active) {
    return call("cuDevicePrimaryCtxGetState", INITIALIZED | IGNORES_ERRORS, [=] {
        *flags = 0;
        *is_active = has_context();
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuCtxGetCurrent(void** context) {
    return call("cuCtxGetCurrent", INITIALIZED | IGNORES_ERRORS, [=] {
        *context = current_context();
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuCtxSetCurrent(void* context) {
    return call("cuCtxSetCurrent", INITIALIZED | IGNORES_ERRORS, [=] { return set_current(context); });
}

DRIVER_API CUresult cuCtxGetDevice(CUdevice* device) {
    return call("cuCtxGetDevice", CONTEXT, [=] {
        *device = 0;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuCtxSetFlags(unsigned) {
    return call("cuCtxSetFlags", CONTEXT, [] { return CUDA_SUCCESS; });
}

DRIVER_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call("cuCtxGetStreamPriorityRange", CONTEXT, [=] {
        *least = 0;
        *greatest = -5;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuCtxSynchronize() {
    return call("cuCtxSynchronize", CONTEXT | NO_CAPTURE, [] {
        for (Stream* stream : open_streams()) stream->drain();
        return sticky_error();
    });
}

DRIVER_API CUresult cuGetErrorName(CUresult code, const char** text) {
    const char* name = name_of(code);
    static thread_local char other[40];
    snprintf(other, sizeof other, "CUDA_ERROR_%d", int(code));
    *text = name ? name : other;
    return CUDA_SUCCESS;
}

DRIVER_API CUresult cuGetErrorString(CUresult code, const char** text) {
    static thread_local char sentence[80];
    const char* name = name_of(code);
    snprintf(sentence, sizeof sentence, "emulated error %d%s%s", int(code), name ? ", " : "", name ? name : "");
    *text = sentence;
    return CUDA_SUCCESS;
}

EMULATOR_API const char* emulator_set(const char* name, const char* value) {
    static thread_local std::string why;
    why = change_setting(name, value);
    return why.empty() ? nullptr : why.c_str();
}
EMULATOR_API unsigned long long emulator_calls(const char* function) { return calls_of(function); }
EMULATOR_API unsigned long long emulator_executions(const char* kernel) { return executions_of(kernel); }
EMULATOR_API unsigned long long emulator_peak_memory() { return peak_memory(); }
EMULATOR_API const char* emulator_explanation() {
    static thread_local std::string text;
    text = last_explanation();
    return text.c_str();
}
EMULATOR_API void emulator_forget_errors() { forget_errors(); }
