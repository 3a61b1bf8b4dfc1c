// Streams, which are threads with a queue, and events.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "results.h"

namespace emulator {

using Operation = std::function<void()>;

struct Capture;

class Stream {
public:
    explicit Stream(unsigned number);
    /// Runs the operation after all that were added before; also where an error stays, if `always`.
    void add(Operation operation, bool always = false);
    /// Waits until everything added so far has run.
    void drain();
    bool is_idle();
    /// Ends the thread after what was added.
    void close();

    /// What it records to, instead of running it. Guarded by the lock of captures.
    std::shared_ptr<Capture> capture;

private:
    struct Entry {
        Operation operation;
        bool always;
    };
    void run();
    void be_late();

    const unsigned number;
    std::mutex guard;
    std::condition_variable changed;
    std::deque<Entry> queue;
    u64 added = 0, done = 0;
    bool is_closed = false;
    u64 random;
};

/// All that are open. `nullptr` and the two special handles are one stream.
Stream* open_stream();
CUresult close_stream(Stream* stream);
/// Waits for all, and closes them.
void close_all_streams();
/// The stream of a handle, or null where there is none such.
Stream* stream_of(void* handle);
std::vector<Stream*> open_streams();

class Event {
public:
    /// The event completes when the stream is where it is now.
    void record(Stream& stream);
    /// What waits for the last record so far.
    Operation waiting();
    bool is_complete();
    /// Milliseconds between the last records of two, or why there are none.
    static CUresult between(Event& from, Event& to, float& ms);

    /// The capture in which it was recorded last, if it was. Guarded by the lock of captures.
    std::weak_ptr<Capture> capture;
    bool is_captured = false;

private:
    struct State {
        std::mutex guard;
        std::condition_variable changed;
        u64 recorded = 0, completed = 0;
        std::chrono::steady_clock::time_point at;
    };
    std::shared_ptr<State> state = std::make_shared<State>();
};

}  // namespace emulator
