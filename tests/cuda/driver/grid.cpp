#include "grid.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <numeric>
#include <sys/mman.h>
#include <unistd.h>

#include "block.h"
#include "memory.h"
#include "state.h"

extern "C" void* __tls_get_addr(void*);

namespace emulator {

namespace {

/// Of what a block cannot have more.
constexpr size_t DYNAMIC_BYTES = 256 << 10;
/// Static shared memory of a library up to this is unset before each block, above it before each launch.
constexpr size_t UNSET_FOR_BLOCK_BYTES = 32 << 10;
constexpr size_t ALIGNMENT = 128;
constexpr char CANARY = 0x5a;
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

/// Shared memory that a library's kernels declare: thread-local to the machine's thread.
struct StaticShared {
    void* address = nullptr;
    size_t bytes = 0;
};

/// What a thread of the machine needs to run kernels.
struct Machine {
    Block block;
    char* dynamic_end;
    sigjmp_buf on_fault;
    volatile bool is_running = false;
    int signal = 0;
    void* address = nullptr;

    Machine() {
        size_t page = size_t(sysconf(_SC_PAGESIZE));
        void* mapped = mmap(nullptr, DYNAMIC_BYTES + page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        stack_t alternative = {};
        alternative.ss_size = 64 << 10;
        alternative.ss_sp = malloc(alternative.ss_size);
        dynamic_end = static_cast<char*>(mapped) + DYNAMIC_BYTES;
        if (mapped == MAP_FAILED || mprotect(dynamic_end, page, PROT_NONE) || sigaltstack(&alternative, nullptr)) {
            perror("emulated CUDA: no memory to run kernels");
            abort();
        }
    }
};

thread_local Machine* machine __attribute__((tls_model("initial-exec"))) = nullptr;

struct sigaction before[sizeof SIGNALS / sizeof *SIGNALS];

void on_signal(int signal, siginfo_t* info, void*) {
    if (machine && machine->is_running) {
        machine->signal = signal;
        machine->address = info->si_addr;
        siglongjmp(machine->on_fault, 1);
    }
    // Not of a kernel: what was there before sees it when the instruction runs again.
    for (size_t at = 0; at < sizeof SIGNALS / sizeof *SIGNALS; at++)
        if (SIGNALS[at] == signal) sigaction(signal, &before[at], nullptr);
}

StaticShared static_shared_of(const void* code) {
    struct Search {
        const char* code;
        StaticShared found;
    } search = {static_cast<const char*>(code), {}};
    auto look = [](dl_phdr_info* library, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        bool is_it = false;
        size_t bytes = 0;
        for (int at = 0; at < library->dlpi_phnum; at++) {
            const auto& part = library->dlpi_phdr[at];
            auto start = reinterpret_cast<const char*>(library->dlpi_addr + part.p_vaddr);
            if (part.p_type == PT_LOAD && search.code >= start && search.code < start + part.p_memsz) is_it = true;
            if (part.p_type == PT_TLS) bytes = part.p_memsz;
        }
        if (is_it && bytes) {
            size_t index[2] = {library->dlpi_tls_modid, 0};
            search.found = {__tls_get_addr(index), bytes};
        }
        return int(is_it);
    };
    dl_iterate_phdr(look, &search);
    return search.found;
}

/// Blocks in an order of the settings: the `at`-th of `count`.
u64 block_at(u64 at, u64 count, Order order, u64 seed) {
    if (order == Order::BACKWARD) return count - 1 - at;
    if (order == Order::FORWARD) return at;
    u64 stride = (seed * 2654435761ull + 1) % count;
    while (std::gcd(stride, count) != 1) stride = (stride + 1) % count;
    return (at % count * stride + seed) % count;
}

/// An argument that is an address of neither device memory nor page-locked memory.
std::string wrong_pointer(const Launch& launch) {
    for (unsigned at = 0; at < launch.kernel->parameter_count; at++) {
        if (!launch.kernel->parameters[at].is_pointer) continue;
        void* address;
        memcpy(&address, &launch.bytes[launch.offsets[at]], sizeof address);
        if (address && !is_visible_to_device(address)) return "argument " + std::to_string(at) + ": " + describe(address);
    }
    return "";
}

std::string where(const Launch& launch, const Machine& here) {
    const char* address = static_cast<const char*>(here.address);
    if (here.block.is_on_stack(address)) return "the stack of a thread is used up (64 KiB)";
    if (address >= here.dynamic_end && address < here.dynamic_end + 4096)
        return std::to_string(address - here.dynamic_end) + " bytes or more behind " +
               std::to_string(launch.dynamic_shared) + " bytes of dynamic shared memory";
    return describe(address);
}

CUresult fault(const Launch& launch, const Machine& here, std::string& why) {
    switch (here.signal) {
        case SIGILL:
            why = "a misaligned access, or an index that is not of its array";
            return CUDA_ERROR_MISALIGNED_ADDRESS;
        case SIGFPE:
            why = "a division of integers by zero";
            return CUDA_ERROR_LAUNCH_FAILED;
        default:
            why = "illegal address: " + where(launch, here);
            return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
}

std::string run_blocks(const Launch& launch, Machine& here) {
    std::vector<char> bytes = launch.bytes;
    std::vector<void*> parameters;
    for (size_t offset : launch.offsets) parameters.push_back(&bytes[offset]);
    if (parameters.empty()) parameters.push_back(nullptr);

    const Settings& set = settings();
    bool is_poisoned = set.is_poisoned;
    StaticShared shared = static_shared_of(reinterpret_cast<const void*>(launch.kernel->invoke));
    size_t padded = (launch.dynamic_shared + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *dynamic = here.dynamic_end - padded, *behind = dynamic + launch.dynamic_shared;

    here.block.prepare(launch.block, set.order, set.seed);
    running_block() = &here.block;
    emu_block_shape = launch.block, emu_grid_shape = launch.grid;
    emu_dynamic_shared = dynamic;
    if (is_poisoned && shared.bytes > UNSET_FOR_BLOCK_BYTES) memset(shared.address, 0xff, shared.bytes);
    u64 blocks = u64(launch.grid.x) * launch.grid.y * launch.grid.z;
    for (u64 at = 0; at < blocks; at++) {
        u64 number = block_at(at, blocks, set.order, set.seed);
        emu_block_index = {unsigned(number % launch.grid.x), unsigned(number / launch.grid.x % launch.grid.y),
                           unsigned(number / launch.grid.x / launch.grid.y)};
        if (is_poisoned && shared.bytes <= UNSET_FOR_BLOCK_BYTES) memset(shared.address, 0xff, shared.bytes);
        if (is_poisoned) memset(dynamic, 0xff, launch.dynamic_shared);
        memset(behind, CANARY, here.dynamic_end - behind);
        std::string why = here.block.run(launch.kernel->invoke, parameters.data());
        for (const char* at = behind; why.empty() && at < here.dynamic_end; at++)
            if (*at != CANARY) why = "wrote behind " + std::to_string(launch.dynamic_shared) + " bytes of dynamic shared memory";
        if (!why.empty())
            return "block (" + std::to_string(emu_block_index.x) + ", " + std::to_string(emu_block_index.y) + ", " +
                   std::to_string(emu_block_index.z) + "): " + why;
    }
    return "";
}

}  // namespace

void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    for (size_t at = 0; at < sizeof SIGNALS / sizeof *SIGNALS; at++) sigaction(SIGNALS[at], &action, &before[at]);
}

/// Whether the blocks ran to an end, good or bad, rather than into a signal.
__attribute__((noinline)) static bool attempt(const Launch& launch, Machine& here, std::string& why) {
    if (sigsetjmp(here.on_fault, 0)) return false;
    here.is_running = true;
    why = run_blocks(launch, here);
    return true;
}

void run(const Launch& launch) {
    const std::string name = launch.kernel->name;
    if (CUresult code = begin_kernel(name))
        return lose_context(code, "kernel " + name + ": injected error " + std::to_string(code));
    std::string why = wrong_pointer(launch);
    if (!why.empty()) return lose_context(CUDA_ERROR_ILLEGAL_ADDRESS, "kernel " + name + ": illegal address: " + why);
    if (!machine) machine = new Machine;
    CUresult code = CUDA_ERROR_LAUNCH_FAILED;
    bool is_over = attempt(launch, *machine, why);
    machine->is_running = false;
    if (!is_over) {
        machine->block.abandon();
        code = fault(launch, *machine, why);
    }
    if (!why.empty()) lose_context(code, "kernel " + name + ": " + why);
}

}  // namespace emulator
