// What kernels compiled as C++ and the emulated driver know of each other.
#pragma once

#include <cstddef>

struct dim3 {
    unsigned x, y, z;
};

/// A thread of the block that runs.
struct EmuThread {
    dim3 thread;
    /// In the warp, of the block, and counted over all dimensions.
    unsigned lane, warp, index;
};

/// What a lane brings to an instruction of the whole warp, and what it takes away.
struct EmuLane {
    unsigned words[8];
};

/// Computes an instruction of the whole warp from what its 32 lanes brought.
using EmuInstruction = void (*)(const EmuLane* in, EmuLane* out);

/// Computes one number for all lanes from what the 32 brought.
using EmuReduction = unsigned long long (*)(const unsigned long long* values);

struct EmuParameter {
    unsigned bytes;
    bool is_pointer;
};

struct EmuKernel {
    const char* name;
    /// Calls the kernel with its parameters, each behind a pointer.
    void (*invoke)(void* const* parameters);
    const EmuParameter* parameters;
    unsigned parameter_count;
    /// The file it is from.
    const char* source;
};

// Initial-exec: kernels read these at every turn. Shared memory is thread-local too, but of the kernels' library, since
// what is initial-exec must fit into the little room that the loader keeps.
#define EMU_THREAD_LOCAL extern __thread __attribute__((tls_model("initial-exec")))

extern "C" {
EMU_THREAD_LOCAL EmuThread* emu_thread;
EMU_THREAD_LOCAL dim3 emu_block_index;
EMU_THREAD_LOCAL dim3 emu_block_shape;
EMU_THREAD_LOCAL dim3 emu_grid_shape;
/// Dynamic shared memory of the block, unset at its start; behind it is a page that cannot be touched.
EMU_THREAD_LOCAL char* emu_dynamic_shared;

/// Waits for all threads of the block.
void emu_block_barrier();
/// Waits for all threads of the block; how many of them gave something but 0.
int emu_block_count(int predicate);
/// Waits for the lanes of the mask.
void emu_warp_barrier(unsigned mask);
/// Waits for the lanes of the mask; what each of the 32 gave. Valid until the lane's next exchange.
const unsigned long long* emu_warp_exchange(unsigned long long value, unsigned mask);
/// Waits for all 32 lanes, of which the last computes.
EmuLane emu_warp_instruction(const EmuLane& in, EmuInstruction instruction);
/// The same for one number.
unsigned long long emu_warp_reduce(unsigned long long value, EmuReduction reduction);
/// Copies when the thread waits for it, not before; until then `to` is unset. What is behind `filled` becomes 0.
void emu_copy_async(void* to, const void* from, unsigned bytes, unsigned filled);
void emu_copy_commit();
/// Waits for all groups of copies but the newest ones.
void emu_copy_wait(unsigned newest);
/// Lets other threads of the block, and other threads of the machine, run.
void emu_yield();
/// Ends the kernel with an error.
[[noreturn]] void emu_trap(const char* reason);
/// Called for each kernel when its library is loaded.
void emu_register(const EmuKernel* kernel);
}
