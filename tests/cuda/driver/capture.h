// Graphs: what streams captured, in the order in which it was issued.
#pragma once

#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "stream.h"

namespace emulator {

enum CaptureMode : int { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };

/// Of each stream, how many of its operations are known to come before.
using Clock = std::map<Stream*, u64>;

struct Capture {
    CaptureMode mode;
    std::thread::id thread;
    Stream* origin;
    std::vector<Operation> operations;
    /// Of each stream that takes part, what comes before its next operation.
    std::map<Stream*, Clock> streams;
    /// What came before an event when it was recorded.
    std::map<Event*, Clock> events;
    bool is_invalid = false;
};

struct Graph {
    std::shared_ptr<const std::vector<Operation>> operations;
};

/// Runs the operation on the stream, or adds it to the graph that the stream captures.
CUresult submit(Stream& stream, Operation operation);
CUresult begin_capture(Stream& stream, CaptureMode mode);
CUresult end_capture(Stream& stream, Graph*& graph);
/// 0 does not capture, 1 does, 2 did until something broke it.
int capture_status(Stream& stream);
bool captures(Stream& stream);
/// For what must not be called on a stream that captures: ends its capture.
CUresult refuse_in_capture(Stream& stream);

CUresult record_event(Event& event, Stream& stream);
CUresult wait_for_event(Stream& stream, Event& event);
/// Whether the event was last recorded in a capture.
bool is_captured(Event& event);

/// Whether this thread must not allocate, wait and the like, because a capture would not notice: that ends the capture.
bool breaks_capture();

}  // namespace emulator
