#include "capture.h"

#include <algorithm>

#include "state.h"

namespace emulator {

namespace {

std::mutex guard;
std::vector<std::shared_ptr<Capture>>& active() {
    static auto& all = *new std::vector<std::shared_ptr<Capture>>;
    return all;
}

void merge(Clock& into, const Clock& from) {
    for (const auto& [stream, time] : from) into[stream] = std::max(into[stream], time);
}

u64 time_of(const Clock& clock, Stream* stream) {
    auto found = clock.find(stream);
    return found == clock.end() ? 0 : found->second;
}

CUresult invalidate(Capture& capture, CUresult result) {
    capture.is_invalid = true;
    return result;
}

}  // namespace

CUresult submit(Stream& stream, Operation operation) {
    {
        std::lock_guard<std::mutex> lock(guard);
        if (Capture* capture = stream.capture.get()) {
            if (capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            capture->operations.push_back(std::move(operation));
            capture->streams[&stream][&stream]++;
            return CUDA_SUCCESS;
        }
    }
    stream.add(std::move(operation));
    return CUDA_SUCCESS;
}

CUresult begin_capture(Stream& stream, CaptureMode mode) {
    std::lock_guard<std::mutex> lock(guard);
    if (stream.capture) return CUDA_ERROR_INVALID_VALUE;
    auto capture = std::make_shared<Capture>();
    capture->mode = mode, capture->thread = std::this_thread::get_id(), capture->origin = &stream;
    capture->streams[&stream];
    stream.capture = capture;
    active().push_back(capture);
    return CUDA_SUCCESS;
}

CUresult end_capture(Stream& stream, Graph*& graph) {
    std::lock_guard<std::mutex> lock(guard);
    graph = nullptr;
    std::shared_ptr<Capture> capture = stream.capture;
    if (!capture) return CUDA_ERROR_INVALID_VALUE;
    if (capture->mode != CAPTURE_RELAXED && capture->thread != std::this_thread::get_id())
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    if (capture->origin != &stream) return invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);

    CUresult result = capture->is_invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    const Clock& before_end = capture->streams[&stream];
    for (auto& [member, clock] : capture->streams) {
        if (!result && time_of(before_end, member) < time_of(clock, member)) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        member->capture = nullptr;
    }
    active().erase(std::find(active().begin(), active().end(), capture));
    if (!result) graph = new Graph{std::make_shared<const std::vector<Operation>>(std::move(capture->operations))};
    return result;
}

int capture_status(Stream& stream) {
    std::lock_guard<std::mutex> lock(guard);
    return !stream.capture ? 0 : stream.capture->is_invalid ? 2 : 1;
}

bool captures(Stream& stream) { return capture_status(stream) != 0; }

CUresult refuse_in_capture(Stream& stream) {
    std::lock_guard<std::mutex> lock(guard);
    if (!stream.capture) return CUDA_SUCCESS;
    if (stream.capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    explain("a call that a stream cannot capture");
    return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

CUresult record_event(Event& event, Stream& stream) {
    {
        std::lock_guard<std::mutex> lock(guard);
        if (Capture* capture = stream.capture.get()) {
            if (capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            event.capture = stream.capture;
            event.is_captured = true;
            capture->events[&event] = capture->streams[&stream];
            return CUDA_SUCCESS;
        }
        event.is_captured = false;
    }
    event.record(stream);
    return CUDA_SUCCESS;
}

CUresult wait_for_event(Stream& stream, Event& event) {
    {
        std::lock_guard<std::mutex> lock(guard);
        std::shared_ptr<Capture> from = event.is_captured ? event.capture.lock() : nullptr;
        bool is_over = !from || std::find(active().begin(), active().end(), from) == active().end();
        if (event.is_captured && is_over) return CUDA_ERROR_CAPTURED_EVENT;
        Capture* capture = stream.capture.get();
        if (capture && capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        // A capture knows nothing of what is outside it.
        if (capture && !from) return invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        if (capture && capture != from.get()) {
            invalidate(*from, CUDA_ERROR_STREAM_CAPTURE_MERGE);
            return invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        if (from) {
            if (from->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            stream.capture = from;
            merge(from->streams[&stream], from->events[&event]);
            return CUDA_SUCCESS;
        }
    }
    stream.add(event.waiting(), true);
    return CUDA_SUCCESS;
}

bool is_captured(Event& event) {
    std::lock_guard<std::mutex> lock(guard);
    return event.is_captured;
}

bool breaks_capture() {
    std::lock_guard<std::mutex> lock(guard);
    bool breaks = false;
    for (const auto& capture : active()) {
        bool is_own = capture->thread == std::this_thread::get_id();
        if (capture->mode == CAPTURE_RELAXED || (capture->mode == CAPTURE_THREAD_LOCAL && !is_own)) continue;
        capture->is_invalid = true;
        breaks = true;
    }
    return breaks;
}

}  // namespace emulator
