// Stacks that the threads of a block run on, and the switch between them.
#pragma once

#include <cstddef>

// The switch of the C library is several times slower, but there for every processor.
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_OWN_SWITCH
#else
#include <ucontext.h>
#endif

namespace emulator {

/// Where something that was switched away from continues.
struct Context {
#ifdef EMULATOR_OWN_SWITCH
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
};

/// Saves where this runs in `from` and continues at `to`.
void switch_context(Context& from, Context& to);

/// A stack with a page below it that cannot be touched. Kept mapped for as long as the process lives.
class Stack {
public:
    Stack();
    Stack(const Stack&) = delete;
    /// Makes the stack call `entry`, which does not return, when it is switched to.
    void enter_at(void (*entry)());
    bool contains(const void* address) const;

    Context context;

private:
    char* base;
    /// Stacks whose addresses differ by a power of two would share cache lines: each begins a little further down.
    size_t skew;
};

}  // namespace emulator
