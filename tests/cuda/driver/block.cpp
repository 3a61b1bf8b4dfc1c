#include "block.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "state.h"

extern "C" {
#define EMU_DEFINED __attribute__((visibility("default"))) __thread __attribute__((tls_model("initial-exec")))
EMU_DEFINED EmuThread* emu_thread;
EMU_DEFINED dim3 emu_block_index;
EMU_DEFINED dim3 emu_block_shape;
EMU_DEFINED dim3 emu_grid_shape;
EMU_DEFINED char* emu_dynamic_shared;
}

namespace emulator {

namespace {

thread_local Block* block __attribute__((tls_model("initial-exec")));

void arrange(std::vector<unsigned>& places, Order order, u64& random) {
    std::iota(places.begin(), places.end(), 0u);
    if (order == Order::BACKWARD) std::reverse(places.begin(), places.end());
    if (order != Order::SEEDED) return;
    for (size_t left = places.size(); left > 1; left--) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(places[left - 1], places[(random >> 33) % left]);
    }
}

bool can_run(const Thread& thread) {
    return !thread.is_done && (!thread.waits_for || *thread.waits_for != thread.seen);
}

}  // namespace

Block*& running_block() { return block; }

Block::Block() = default;

void Block::prepare(dim3 new_shape, Order new_order, u64 new_seed) {
    bool is_same = shape.x == new_shape.x && shape.y == new_shape.y && shape.z == new_shape.z && order == new_order &&
                   seed == new_seed && count;
    if (is_same) return;
    shape = new_shape, order = new_order, seed = new_seed;
    count = shape.x * shape.y * shape.z;
    warp_count = (count + 31) / 32;
    if (threads.size() < count) threads.resize(count);
    while (warps.size() < warp_count) warps.push_back(std::make_unique<Warp>());

    u64 random = seed * 0x9E3779B97F4A7C15ull + 1;
    std::vector<unsigned> lanes(count < 32 ? count : 32);
    warp_order.resize(warp_count), warp_place.resize(warp_count);
    arrange(warp_order, order, random);
    arrange(lanes, count > 32 && count % 32 ? Order::FORWARD : order, random);
    unsigned lane_place[32] = {};
    for (unsigned at = 0; at < warp_count; at++) warp_place[warp_order[at]] = at;
    for (unsigned at = 0; at < lanes.size(); at++) lane_order[at] = lanes[at], lane_place[lanes[at]] = at;

    for (unsigned warp = 0; warp < warp_count; warp++) warps[warp]->size = std::min(32u, count - warp * 32);
    for (unsigned index = 0; index < count; index++) {
        Thread& thread = threads[index];
        thread.index = index, thread.lane = index % 32, thread.warp = index / 32;
        thread.thread = {index % shape.x, index / shape.x % shape.y, index / (shape.x * shape.y)};
        thread.place = u16(lane_place[thread.lane]);
    }
}

std::string Block::run(void (*new_invoke)(void* const*), void* const* new_parameters) {
    invoke = new_invoke, parameters = new_parameters;
    running = count;
    at_barrier = 0, counting = 0;
    failure.clear();
    for (unsigned warp = 0; warp < warp_count; warp++) {
        auto& meetings = warps[warp]->meetings;
        if (meetings.empty()) {
            meetings.reserve(32);
            meetings.emplace_back().mask = ~0u;
        }
        for (Meeting& at : meetings) at.arrived = 0;
    }
    for (unsigned index = 0; index < count; index++) {
        Thread& thread = threads[index];
        thread.is_done = false, thread.waits_for = nullptr, thread.stack = nullptr;
        if (thread.group) thread.copies.clear(), thread.group = 0;
    }
    Thread& first = threads[warp_order[0] * 32 + lane_order[0]];
    first.stack = take_stack();
    emu_thread = &first;
    switch_context(outside, first.stack->context);
    if (failure.empty() && running) failure = stuck();
    if (!failure.empty()) abandon();
    return failure;
}

bool Block::is_on_stack(const void* address) const {
    for (const auto& stack : stacks)
        if (stack->contains(address)) return true;
    return false;
}

void Block::abandon() {
    idle.clear();
    for (auto& stack : stacks) {
        stack->enter_at(enter);
        idle.push_back(stack.get());
    }
}

std::string Block::stuck() const {
    unsigned waiting = 0;
    while (threads[waiting].is_done) waiting++;
    return std::to_string(running) + " of " + std::to_string(count) + " threads wait at a barrier or an instruction of "
           "the warp that others never reach (one is thread " + std::to_string(waiting) + "); " +
           std::to_string(count - running) + " have ended";
}

void Block::enter() {
    // The stack is used again for the next thread.
    for (;;) {
        block->invoke(block->parameters);
        block->end();
    }
}

Thread& Block::current() { return *static_cast<Thread*>(emu_thread); }

Stack* Block::take_stack() {
    if (idle.empty()) {
        stacks.push_back(std::make_unique<Stack>());
        stacks.back()->enter_at(enter);
        return stacks.back().get();
    }
    Stack* stack = idle.back();
    idle.pop_back();
    return stack;
}

/// The next that can run, those of the same warp first.
Thread* Block::next_after(const Thread& thread) {
    unsigned first = thread.warp * 32, size = warps[thread.warp]->size, at = thread.place;
    for (unsigned looked = 0; looked < size; looked++) {
        if (++at == size) at = 0;
        Thread& other = threads[first + lane_order[at]];
        if (can_run(other)) return &other;
    }
    unsigned warp_at = warp_place[thread.warp];
    for (unsigned looked = 1; looked < warp_count; looked++) {
        if (++warp_at == warp_count) warp_at = 0;
        unsigned warp = warp_order[warp_at];
        for (unsigned place = 0; place < warps[warp]->size; place++) {
            Thread& other = threads[warp * 32 + lane_order[place]];
            if (can_run(other)) return &other;
        }
    }
    return nullptr;
}

void Block::pass() {
    Thread& from = current();
    Thread* to = next_after(from);
    if (to == &from) return;
    emu_thread = to;
    if (!to) return switch_context(from.stack->context, outside);
    if (!to->stack) to->stack = take_stack();
    switch_context(from.stack->context, to->stack->context);
}

void Block::end() {
    Thread& from = current();
    from.is_done = true;
    running--;
    Stack* stack = from.stack;
    from.stack = nullptr;
    Thread* to = next_after(from);
    emu_thread = to;
    if (to && !to->stack) {
        to->stack = stack;
        return;
    }
    idle.push_back(stack);
    switch_context(stack->context, to ? to->stack->context : outside);
}

void Block::wait(const u64& changes) {
    Thread& thread = current();
    thread.waits_for = &changes;
    thread.seen = changes;
    pass();
    thread.waits_for = nullptr;
}

void Block::wait_block() {
    if (++at_barrier < count) return wait(barriers);
    at_barrier = 0;
    barriers++;
}

int Block::count_block(int predicate) {
    counting += predicate;
    if (at_barrier + 1 == count) counted = counting, counting = 0;
    wait_block();
    return counted;
}

/// The meeting of a mask's lanes, which all have to be there for the same.
Meeting& Block::meeting(Warp& warp, u32 mask, Meeting::Kind kind) {
    Meeting* at = &warp.meetings[0];
    u32 all = warp.size == 32 ? ~0u : (1u << warp.size) - 1;
    if (mask != ~0u && mask != all) {
        if (!(mask >> current().lane & 1)) fail("a lane is not in the mask that it gives");
        at = nullptr;
        for (Meeting& other : warp.meetings)
            if (other.mask == mask) at = &other;
        if (!at) {
            if (warp.meetings.size() == warp.meetings.capacity()) fail("lanes of a warp meet in too many groups");
            at = &warp.meetings.emplace_back();
            at->mask = mask;
        }
    }
    if (!at->arrived) at->kind = kind;
    if (at->kind != kind) fail("lanes of a warp wait for each other at different instructions");
    return *at;
}

bool Block::is_last(Warp& warp, Meeting& at) {
    u32 needed = at.mask == ~0u ? warp.size : u32(__builtin_popcount(at.mask));
    if (++at.arrived < needed) return false;
    at.arrived = 0;
    at.half ^= 1;
    at.times++;
    return true;
}

void Block::meet(u32 mask) {
    Warp& warp = *warps[emu_thread->warp];
    Meeting& at = meeting(warp, mask, Meeting::BARRIER);
    if (!is_last(warp, at)) wait(at.times);
}

const u64* Block::exchange(u64 value, u32 mask) {
    Warp& warp = *warps[emu_thread->warp];
    Meeting& at = meeting(warp, mask, Meeting::EXCHANGE);
    u64* values = at.values[at.half];
    values[emu_thread->lane] = value;
    if (!is_last(warp, at)) wait(at.times);
    return values;
}

u64 Block::reduce(u64 value, EmuReduction reduction) {
    Warp& warp = *warps[emu_thread->warp];
    if (warp.size < 32) fail("a reduction over the whole warp in a warp that is not full");
    Meeting& at = meeting(warp, ~0u, Meeting::REDUCTION);
    unsigned half = at.half;
    at.values[half][emu_thread->lane] = value;
    if (is_last(warp, at)) at.results[half] = reduction(at.values[half]);
    else wait(at.times);
    return at.results[half];
}

EmuLane Block::instruct(const EmuLane& in, EmuInstruction instruction) {
    Warp& warp = *warps[emu_thread->warp];
    if (warp.size < 32) fail("an instruction of the whole warp in a warp that is not full");
    Meeting& at = meeting(warp, ~0u, Meeting::INSTRUCTION);
    unsigned half = at.half, lane = emu_thread->lane;
    warp.brought[half][lane] = in;
    if (is_last(warp, at)) instruction(warp.brought[half], warp.taken[half]);
    else wait(at.times);
    return warp.taken[half][lane];
}

void Block::yield() {
    static thread_local unsigned spins;
    // What is waited for may come from another thread of the machine.
    if (++spins % 64 == 0) std::this_thread::yield();
    // The device ends kernels of a context that is lost.
    if (sticky_error()) fail("the context is lost");
    pass();
}

void Block::fail(const std::string& reason) {
    Thread& thread = current();
    failure = "thread " + std::to_string(thread.index) + ": " + reason;
    switch_context(thread.stack->context, outside);
    __builtin_unreachable();
}

}  // namespace emulator

using emulator::block;

EMULATOR_API void emu_block_barrier() { block->wait_block(); }
EMULATOR_API int emu_block_count(int predicate) { return block->count_block(predicate); }
EMULATOR_API void emu_warp_barrier(unsigned mask) { block->meet(mask); }
EMULATOR_API const unsigned long long* emu_warp_exchange(unsigned long long value, unsigned mask) {
    return block->exchange(value, mask);
}
EMULATOR_API unsigned long long emu_warp_reduce(unsigned long long value, EmuReduction reduction) {
    return block->reduce(value, reduction);
}
EMULATOR_API EmuLane emu_warp_instruction(const EmuLane& in, EmuInstruction instruction) {
    return block->instruct(in, instruction);
}
EMULATOR_API void emu_yield() { block->yield(); }
EMULATOR_API void emu_trap(const char* reason) { block->fail(reason); }

// Copies. A group's number grows by one at each commit.

EMULATOR_API void emu_copy_async(void* to, const void* from, unsigned bytes, unsigned filled) {
    auto& thread = *static_cast<emulator::Thread*>(emu_thread);
    if (!thread.group) thread.group = 1;
    thread.copies.push_back({to, from, bytes, filled, thread.group});
    memset(to, 0xff, bytes);
}
EMULATOR_API void emu_copy_commit() {
    auto& thread = *static_cast<emulator::Thread*>(emu_thread);
    thread.group = thread.group ? thread.group + 1 : 2;
}
EMULATOR_API void emu_copy_wait(unsigned newest) {
    auto& thread = *static_cast<emulator::Thread*>(emu_thread);
    auto& copies = thread.copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].group + newest < thread.group; done++) {
        const auto& copy = copies[done];
        memcpy(copy.to, copy.from, copy.filled);
        memset(static_cast<char*>(copy.to) + copy.filled, 0, copy.bytes - copy.filled);
    }
    copies.erase(copies.begin(), copies.begin() + long(done));
}
