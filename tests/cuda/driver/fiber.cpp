#include "fiber.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>

namespace emulator {

constexpr size_t STACK_BYTES = 64 << 10;

#ifdef EMULATOR_OWN_SWITCH

// Keeps what the calling convention asks a function to keep, swaps stacks, and returns on the other one.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

void switch_context(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }

#else

void switch_context(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

#endif

Stack::Stack() {
    static std::atomic<unsigned> made{0};
    skew = (made++ * 320) % 4096 & ~size_t(15);
    void* mapped = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(mapped, sysconf(_SC_PAGESIZE), PROT_NONE)) {
        perror("emulated CUDA: no stack for a thread of a block");
        abort();
    }
    base = static_cast<char*>(mapped);
}

void Stack::enter_at(void (*entry)()) {
#ifdef EMULATOR_OWN_SWITCH
    // From the top: no caller to return to, the entry that the switch returns to, six registers. At a function's entry
    // the stack is 8 bytes off a multiple of 16.
    void** top = reinterpret_cast<void**>(base + STACK_BYTES - skew);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int registers = 0; registers < 6; registers++) *--top = nullptr;
    context.stack_pointer = top;
#else
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = base;
    context.context.uc_stack.ss_size = STACK_BYTES - skew;
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
#endif
}

bool Stack::contains(const void* address) const { return address >= base && address < base + STACK_BYTES; }

}  // namespace emulator
