// A block of a grid: its threads as fibers of one thread of the machine, and what they wait for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "results.h"
#include "runtime.h"
#include "settings.h"

namespace emulator {

/// A thread of a block. It takes a stack when it starts and gives it back, still warm, when it ends. What a switch looks
/// at comes first, in one line of the cache.
struct alignas(64) Thread : EmuThread {
    /// Its place in the order of its warp.
    u16 place = 0;
    bool is_done = true;
    Stack* stack = nullptr;
    /// Waits until this no longer has the value that it had.
    const u64* waits_for = nullptr;
    u64 seen = 0;

    struct Copy {
        void* to;
        const void* from;
        unsigned bytes, filled, group;
    };
    /// Asynchronous copies that it has not waited for, oldest first.
    std::vector<Copy> copies;
    /// The group that its next copy is of.
    unsigned group = 0;
};

/// Where lanes of one mask meet.
struct Meeting {
    enum Kind : u8 { BARRIER, EXCHANGE, REDUCTION, INSTRUCTION };
    u32 mask = 0;
    u32 arrived = 0;
    Kind kind = BARRIER;
    /// Which of two halves the next exchange uses: lanes that have not yet read the last one are not overtaken.
    unsigned half = 0;
    u64 times = 0;
    u64 values[2][32];
    u64 results[2];
};

struct Warp {
    u32 size = 0;
    /// The first is of all lanes.
    std::vector<Meeting> meetings;
    EmuLane brought[2][32], taken[2][32];
};

/// Runs one block after the other of a launch. Each thread of the machine that runs kernels has one.
class Block {
public:
    Block();
    /// Fits it to a launch.
    void prepare(dim3 shape, Order order, u64 seed);
    /// Runs all threads; says what went wrong, or nothing.
    std::string run(void (*invoke)(void* const*), void* const* parameters);
    /// Whether an address is of a stack of a thread.
    bool is_on_stack(const void* address) const;
    /// After the threads were left without an end.
    void abandon();

    // For the running thread.
    void wait_block();
    int count_block(int predicate);
    void meet(u32 mask);
    const u64* exchange(u64 value, u32 mask);
    u64 reduce(u64 value, EmuReduction reduction);
    EmuLane instruct(const EmuLane& in, EmuInstruction instruction);
    void yield();
    [[noreturn]] void fail(const std::string& reason);

private:
    static void enter();
    Thread& current();
    Stack* take_stack();
    Thread* next_after(const Thread& thread);
    void pass();
    void end();
    void wait(const u64& changes);
    Meeting& meeting(Warp& warp, u32 mask, Meeting::Kind kind);
    bool is_last(Warp& warp, Meeting& at);
    std::string stuck() const;

    std::vector<Thread> threads;
    std::vector<std::unique_ptr<Warp>> warps;
    unsigned count = 0, warp_count = 0, running = 0;
    dim3 shape = {0, 0, 0};
    Order order = Order::FORWARD;
    u64 seed = 0;
    /// Warps and lanes in the order in which they run; a warp that is not full has its lanes forward.
    std::vector<unsigned> warp_order, warp_place;
    unsigned lane_order[32];

    std::vector<std::unique_ptr<Stack>> stacks;
    std::vector<Stack*> idle;
    Context outside;
    void (*invoke)(void* const*) = nullptr;
    void* const* parameters = nullptr;
    std::string failure;

    u64 barriers = 0;
    unsigned at_barrier = 0;
    int counting = 0, counted = 0;
};

/// Of the running thread of the machine, while it runs a kernel.
Block*& running_block();

}  // namespace emulator
