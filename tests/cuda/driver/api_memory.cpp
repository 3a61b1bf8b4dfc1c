// The driver's interface: device memory, page-locked memory, copies, fills.

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "capture.h"
#include "memory.h"
#include "settings.h"
#include "state.h"

using namespace emulator;

namespace {

std::atomic<unsigned long long> bytes_to_host;

void drain_all() {
    for (Stream* stream : open_streams()) stream->drain();
}

/// Checks handles and ranges, then does what the stream is to do.
template <class Body>
CUresult on_stream(const char* function, void* handle, Body body) {
    return call(function, CONTEXT, [=] {
        Stream* stream = stream_of(handle);
        return stream ? body(*stream) : CUDA_ERROR_INVALID_HANDLE;
    });
}

bool is_wrong(CUdeviceptr address, size_t bytes, const char* what) {
    if (!bytes || is_device_memory(address, bytes)) return false;
    // Host memory that the device sees can be named, too.
    if (is_page_locked(reinterpret_cast<void*>(address), bytes)) return false;
    explain(std::string(what) + " of " + std::to_string(bytes) + " bytes at " + describe(reinterpret_cast<void*>(address)));
    return true;
}

CUresult to_device(Stream& stream, CUdeviceptr to, const void* from, size_t bytes) {
    if (is_wrong(to, bytes, "copy to the device")) return CUDA_ERROR_INVALID_VALUE;
    void* address = reinterpret_cast<void*>(to);
    // What is not page-locked is read at the call, except that a graph reads it when it runs.
    if (is_page_locked(from, bytes) || captures(stream))
        return submit(stream, [=] { memcpy(address, from, bytes); });
    auto first = static_cast<const char*>(from);
    auto kept = std::make_shared<std::vector<char>>(first, first + bytes);
    return submit(stream, [=] { memcpy(address, kept->data(), bytes); });
}

CUresult to_host(Stream& stream, void* to, CUdeviceptr from, size_t bytes) {
    if (is_wrong(from, bytes, "copy to the host")) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = submit(stream, [=] {
        memcpy(to, reinterpret_cast<void*>(from), bytes);
        bytes_to_host += bytes;
    });
    if (result || captures(stream) || is_page_locked(to, bytes)) return result;
    stream.drain();
    return sticky_error();
}

CUresult on_device(Stream& stream, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (is_wrong(to, bytes, "copy to the device") || is_wrong(from, bytes, "copy from the device"))
        return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=] { memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
}

template <class T>
CUresult fill(Stream& stream, CUdeviceptr to, T value, size_t count) {
    if (to % sizeof(T) || is_wrong(to, count * sizeof(T), "fill")) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=] {
        T* first = reinterpret_cast<T*>(to);
        for (size_t at = 0; at < count; at++) first[at] = value;
    });
}

/// The same on the legacy stream, waited for.
template <class Body>
CUresult waited_for(const char* function, Body body) {
    return call(function, CONTEXT | NO_CAPTURE, [=] {
        Stream& stream = *stream_of(nullptr);
        CUresult result = body(stream);
        if (result) return result;
        stream.drain();
        return sticky_error();
    });
}

}  // namespace

DRIVER_API CUresult cuMemGetInfo_v2(size_t* available, size_t* total) {
    return call("cuMemGetInfo_v2", CONTEXT, [=] {
        *available = free_memory();
        *total = settings().memory;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    return call("cuMemAlloc_v2", CONTEXT | NO_CAPTURE, [=] { return allocate(*address, bytes); });
}

DRIVER_API CUresult cuMemFree_v2(CUdeviceptr address) {
    return call("cuMemFree_v2", CONTEXT | NO_CAPTURE | GIVES_BACK, [=] {
        if (!address) return CUDA_SUCCESS;
        drain_all();
        return release(address);
    });
}

DRIVER_API CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, void* stream) {
    return on_stream("cuMemAllocAsync", stream, [=](Stream& stream) {
        if (captures(stream)) return CUDA_ERROR_NOT_SUPPORTED;
        return allocate(*address, bytes);
    });
}

DRIVER_API CUresult cuMemFreeAsync(CUdeviceptr address, void* handle) {
    return call("cuMemFreeAsync", CONTEXT | GIVES_BACK, [=] {
        Stream* stream = stream_of(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (captures(*stream)) return CUDA_ERROR_NOT_SUPPORTED;
        if (!is_device_memory(address, 1)) return CUDA_ERROR_INVALID_VALUE;
        stream->add([=] { release(address); }, true);
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    return call("cuMemHostAlloc", CONTEXT | NO_CAPTURE, [=] { return allocate_host(*address, bytes); });
}

DRIVER_API CUresult cuMemFreeHost(void* address) {
    return call("cuMemFreeHost", CONTEXT | NO_CAPTURE | GIVES_BACK, [=] {
        drain_all();
        return release_host(address);
    });
}

DRIVER_API CUresult cuMemHostRegister_v2(void* address, size_t bytes, unsigned flags) {
    return call("cuMemHostRegister_v2", CONTEXT | NO_CAPTURE, [=] { return lock_pages(address, bytes, flags); });
}

DRIVER_API CUresult cuMemHostUnregister(void* address) {
    return call("cuMemHostUnregister", CONTEXT | NO_CAPTURE | GIVES_BACK, [=] {
        drain_all();
        return unlock_pages(address);
    });
}

DRIVER_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* host, unsigned) {
    return call("cuMemHostGetDevicePointer_v2", CONTEXT, [=] {
        if (!is_page_locked(host, 1)) return CUDA_ERROR_INVALID_VALUE;
        *device = CUdeviceptr(host);
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    return on_stream("cuMemcpyHtoDAsync_v2", stream, [=](Stream& stream) { return to_device(stream, to, from, bytes); });
}
DRIVER_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    return on_stream("cuMemcpyDtoHAsync_v2", stream, [=](Stream& stream) { return to_host(stream, to, from, bytes); });
}
DRIVER_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    return on_stream("cuMemcpyDtoDAsync_v2", stream, [=](Stream& stream) { return on_device(stream, to, from, bytes); });
}
DRIVER_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* stream) {
    return on_stream("cuMemsetD8Async", stream, [=](Stream& stream) { return fill(stream, to, value, count); });
}
DRIVER_API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, void* stream) {
    return on_stream("cuMemsetD16Async", stream, [=](Stream& stream) { return fill(stream, to, value, count); });
}
DRIVER_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* stream) {
    return on_stream("cuMemsetD32Async", stream, [=](Stream& stream) { return fill(stream, to, value, count); });
}

DRIVER_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return waited_for("cuMemcpyHtoD_v2", [=](Stream& stream) { return to_device(stream, to, from, bytes); });
}
DRIVER_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return waited_for("cuMemcpyDtoH_v2", [=](Stream& stream) { return to_host(stream, to, from, bytes); });
}
DRIVER_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return waited_for("cuMemcpyDtoD_v2", [=](Stream& stream) { return on_device(stream, to, from, bytes); });
}
DRIVER_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return waited_for("cuMemsetD8_v2", [=](Stream& stream) { return fill(stream, to, value, count); });
}

EMULATOR_API unsigned long long emulator_bytes_to_host() { return bytes_to_host; }
