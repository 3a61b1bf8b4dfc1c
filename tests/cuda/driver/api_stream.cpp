// The driver's interface: streams, events, graphs.

#include "capture.h"
#include "state.h"

using namespace emulator;

namespace {

/// The flag of streams that do not wait for the legacy one.
constexpr unsigned NON_BLOCKING = 1;

template <class Body>
CUresult with_stream(const char* function, unsigned needs, void* handle, Body body) {
    return call(function, needs, [=] {
        Stream* stream = stream_of(handle);
        return stream ? body(*stream) : CUDA_ERROR_INVALID_HANDLE;
    });
}

CUresult create_stream(void** handle, unsigned flags) {
    if (flags != NON_BLOCKING) {
        explain("streams that wait for the legacy one are not emulated: make them non-blocking");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    *handle = open_stream();
    return CUDA_SUCCESS;
}

/// Waits for what was recorded, or says why it cannot.
template <class Body>
CUresult with_event(const char* function, unsigned needs, void* handle, Body body) {
    return call(function, needs, [=] {
        auto event = static_cast<Event*>(handle);
        return event ? body(*event) : CUDA_ERROR_INVALID_HANDLE;
    });
}

}  // namespace

DRIVER_API CUresult cuStreamCreate(void** handle, unsigned flags) {
    return call("cuStreamCreate", CONTEXT, [=] { return create_stream(handle, flags); });
}

DRIVER_API CUresult cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
    return call("cuStreamCreateWithPriority", CONTEXT, [=] { return create_stream(handle, flags); });
}

DRIVER_API CUresult cuStreamDestroy_v2(void* handle) {
    return with_stream("cuStreamDestroy_v2", CONTEXT | GIVES_BACK, handle, [=](Stream& stream) {
        return handle ? close_stream(&stream) : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API CUresult cuStreamSynchronize(void* handle) {
    return with_stream("cuStreamSynchronize", CONTEXT, handle, [](Stream& stream) {
        if (CUresult refused = refuse_in_capture(stream)) return refused;
        stream.drain();
        return sticky_error();
    });
}

DRIVER_API CUresult cuStreamQuery(void* handle) {
    return with_stream("cuStreamQuery", CONTEXT, handle, [](Stream& stream) {
        if (CUresult refused = refuse_in_capture(stream)) return refused;
        return stream.is_idle() ? sticky_error() : CUDA_ERROR_NOT_READY;
    });
}

DRIVER_API CUresult cuStreamWaitEvent(void* handle, void* event, unsigned) {
    return with_stream("cuStreamWaitEvent", CONTEXT, handle, [=](Stream& stream) {
        return event ? wait_for_event(stream, *static_cast<Event*>(event)) : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API CUresult cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    return with_stream("cuLaunchHostFunc", CONTEXT, handle,
                       [=](Stream& stream) { return submit(stream, [=] { function(data); }); });
}

DRIVER_API CUresult cuEventCreate(void** event, unsigned) {
    return call("cuEventCreate", CONTEXT, [=] {
        *event = new Event;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuEventDestroy_v2(void* event) {
    return with_event("cuEventDestroy_v2", CONTEXT | GIVES_BACK, event, [](Event& event) {
        delete &event;
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuEventRecord(void* event, void* handle) {
    return with_event("cuEventRecord", CONTEXT, event, [=](Event& event) {
        Stream* stream = stream_of(handle);
        return stream ? record_event(event, *stream) : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API CUresult cuEventQuery(void* event) {
    return with_event("cuEventQuery", CONTEXT | NO_CAPTURE, event, [](Event& event) {
        if (is_captured(event)) return CUDA_ERROR_CAPTURED_EVENT;
        return event.is_complete() ? sticky_error() : CUDA_ERROR_NOT_READY;
    });
}

DRIVER_API CUresult cuEventSynchronize(void* event) {
    return with_event("cuEventSynchronize", CONTEXT | NO_CAPTURE, event, [](Event& event) {
        if (is_captured(event)) return CUDA_ERROR_CAPTURED_EVENT;
        event.waiting()();
        return sticky_error();
    });
}

DRIVER_API CUresult cuEventElapsedTime(float* ms, void* from, void* to) {
    return with_event("cuEventElapsedTime", CONTEXT, from, [=](Event& from) {
        if (!to) return CUDA_ERROR_INVALID_HANDLE;
        CUresult result = Event::between(from, *static_cast<Event*>(to), *ms);
        return result ? result : sticky_error();
    });
}

DRIVER_API CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
    return with_stream("cuStreamBeginCapture_v2", CONTEXT, handle, [=](Stream& stream) {
        if (!handle) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
        return begin_capture(stream, CaptureMode(mode));
    });
}

DRIVER_API CUresult cuStreamEndCapture(void* handle, void** graph) {
    return with_stream("cuStreamEndCapture", CONTEXT, handle, [=](Stream& stream) {
        Graph* made = nullptr;
        CUresult result = end_capture(stream, made);
        *graph = made;
        return result;
    });
}

DRIVER_API CUresult cuStreamIsCapturing(void* handle, int* status) {
    return with_stream("cuStreamIsCapturing", CONTEXT, handle, [=](Stream& stream) {
        *status = capture_status(stream);
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return call("cuGraphInstantiateWithFlags", CONTEXT, [=] {
        if (!graph) return CUDA_ERROR_INVALID_VALUE;
        *executable = new Graph(*static_cast<Graph*>(graph));
        return CUDA_SUCCESS;
    });
}

DRIVER_API CUresult cuGraphUpload(void* executable, void* handle) {
    return with_stream("cuGraphUpload", CONTEXT, handle,
                       [=](Stream&) { return executable ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}

DRIVER_API CUresult cuGraphLaunch(void* executable, void* handle) {
    return with_stream("cuGraphLaunch", CONTEXT, handle, [=](Stream& stream) {
        if (!executable) return CUDA_ERROR_INVALID_VALUE;
        auto operations = static_cast<Graph*>(executable)->operations;
        return submit(stream, [=] {
            for (const Operation& operation : *operations)
                if (!sticky_error()) operation();
        });
    });
}

DRIVER_API CUresult cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
    return call("cuGraphGetNodes", CONTEXT, [=] {
        if (!graph) return CUDA_ERROR_INVALID_VALUE;
        if (nodes) return CUDA_ERROR_NOT_SUPPORTED;
        *count = static_cast<Graph*>(graph)->operations->size();
        return CUDA_SUCCESS;
    });
}

static CUresult destroy_graph(const char* function, void* graph) {
    return call(function, CONTEXT | GIVES_BACK, [=] {
        if (!graph) return CUDA_ERROR_INVALID_VALUE;
        delete static_cast<Graph*>(graph);
        return CUDA_SUCCESS;
    });
}
DRIVER_API CUresult cuGraphExecDestroy(void* executable) { return destroy_graph("cuGraphExecDestroy", executable); }
DRIVER_API CUresult cuGraphDestroy(void* graph) { return destroy_graph("cuGraphDestroy", graph); }
