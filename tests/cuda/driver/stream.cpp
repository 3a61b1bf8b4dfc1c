#include "stream.h"

#include <algorithm>
#include <thread>
#include <unistd.h>

#include "settings.h"
#include "state.h"

namespace emulator {

namespace {

std::mutex guard;
std::vector<Stream*>& all_streams() {
    static auto& all = *new std::vector<Stream*>;
    return all;
}
unsigned made = 0;
Stream* legacy = nullptr;

/// Handles of the streams that need no making: legacy, and one for each thread, which is not emulated.
bool is_legacy(void* handle) { return !handle || handle == reinterpret_cast<void*>(1); }

}  // namespace

Stream::Stream(unsigned number) : number(number), random(settings().seed ^ number * 0x9E3779B97F4A7C15ull) {
    // It outlives what it serves: a kernel may wait for the host when the process ends.
    std::thread([this] { run(); }).detach();
}

void Stream::add(Operation operation, bool always) {
    std::lock_guard<std::mutex> lock(guard);
    queue.push_back({std::move(operation), always});
    added++;
    changed.notify_all();
}

void Stream::drain() {
    std::unique_lock<std::mutex> lock(guard);
    u64 until = added;
    changed.wait(lock, [&] { return done >= until; });
}

bool Stream::is_idle() {
    std::lock_guard<std::mutex> lock(guard);
    return done == added;
}

void Stream::close() {
    std::lock_guard<std::mutex> lock(guard);
    is_closed = true;
    changed.notify_all();
}

void Stream::run() {
    std::unique_lock<std::mutex> lock(guard);
    for (;;) {
        changed.wait(lock, [&] { return is_closed || !queue.empty(); });
        if (queue.empty()) break;
        Entry entry = std::move(queue.front());
        queue.pop_front();
        lock.unlock();
        be_late();
        if (entry.always || !sticky_error()) entry.operation();
        // What it holds goes before the host may go on.
        entry.operation = nullptr;
        lock.lock();
        done++;
        changed.notify_all();
    }
    // The object stays: another thread may still be about to wait for it.
}

/// By the time that is set; where the order is seeded, by anything up to twice that.
void Stream::be_late() {
    const Settings& set = settings();
    if (!set.late_us || (set.late_stream && set.late_stream != number)) return;
    u32 us = set.late_us;
    if (set.order == Order::SEEDED) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        us = u32((random >> 33) % (2 * u64(set.late_us) + 1));
    }
    usleep(us);
}

Stream* open_stream() {
    std::lock_guard<std::mutex> lock(guard);
    auto* stream = new Stream(++made);
    all_streams().push_back(stream);
    return stream;
}

CUresult close_stream(Stream* stream) {
    std::lock_guard<std::mutex> lock(guard);
    auto& all = all_streams();
    all.erase(std::remove(all.begin(), all.end(), stream), all.end());
    stream->close();
    return CUDA_SUCCESS;
}

void close_all_streams() {
    for (Stream* stream : open_streams()) {
        stream->drain();
        if (stream != legacy) close_stream(stream);
    }
}

Stream* stream_of(void* handle) {
    std::lock_guard<std::mutex> lock(guard);
    auto& all = all_streams();
    if (is_legacy(handle)) {
        if (!legacy) all.push_back(legacy = new Stream(0));
        return legacy;
    }
    auto found = std::find(all.begin(), all.end(), static_cast<Stream*>(handle));
    return found == all.end() ? nullptr : *found;
}

std::vector<Stream*> open_streams() {
    std::lock_guard<std::mutex> lock(guard);
    return all_streams();
}

void Event::record(Stream& stream) {
    auto shared = state;
    u64 time;
    {
        std::lock_guard<std::mutex> lock(shared->guard);
        time = ++shared->recorded;
    }
    auto complete = [shared, time] {
        std::lock_guard<std::mutex> lock(shared->guard);
        shared->completed = std::max(shared->completed, time);
        shared->at = std::chrono::steady_clock::now();
        shared->changed.notify_all();
    };
    stream.add(complete, true);
}

Operation Event::waiting() {
    auto shared = state;
    std::lock_guard<std::mutex> lock(shared->guard);
    u64 time = shared->recorded;
    return [shared, time] {
        std::unique_lock<std::mutex> lock(shared->guard);
        shared->changed.wait(lock, [&] { return shared->completed >= time; });
    };
}

bool Event::is_complete() {
    std::lock_guard<std::mutex> lock(state->guard);
    return state->completed >= state->recorded;
}

CUresult Event::between(Event& from, Event& to, float& ms) {
    std::chrono::steady_clock::time_point times[2];
    Event* events[2] = {&from, &to};
    for (int at = 0; at < 2; at++) {
        std::lock_guard<std::mutex> lock(events[at]->state->guard);
        if (!events[at]->state->recorded) return CUDA_ERROR_INVALID_HANDLE;
        if (events[at]->state->completed < events[at]->state->recorded) return CUDA_ERROR_NOT_READY;
        times[at] = events[at]->state->at;
    }
    ms = std::chrono::duration<float, std::milli>(times[1] - times[0]).count();
    return CUDA_SUCCESS;
}

}  // namespace emulator
