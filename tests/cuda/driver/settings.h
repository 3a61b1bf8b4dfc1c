// What is pretended: read from the environment, EMULATED_CUDA_ and the name in capitals.
#pragma once

#include <string>
#include <vector>

#include "results.h"

namespace emulator {

enum class Order { FORWARD, BACKWARD, SEEDED };

/// The `first`-th call of `function`, or execution of a kernel, counted from 1, fails with `code`.
struct Fault {
    bool is_kernel = false;
    /// `*` stands for any kernel.
    std::string name;
    u64 first = 1;
    /// All from the first on, not that one alone.
    bool is_lasting = false;
    int code = CUDA_ERROR_UNKNOWN;
};

/// At the `call`-th call of `function` another process takes bytes of device memory, or gives them back.
struct Neighbour {
    long long bytes = 0;
    std::string function;
    u64 call = 1;
};

struct Settings {
    /// As the driver numbers itself: 12020 is 12.2.
    int driver = 12020;
    int devices = 1;
    /// Compute capability, 86 is 8.6.
    int capability = 86;
    std::string name = "Emulated GPU";
    /// Bytes of device memory.
    u64 memory = u64(8) << 30;
    /// What other processes have of it from the start.
    u64 taken = 0;
    /// What a context takes of it.
    u64 context = 0;
    std::vector<Neighbour> neighbours;
    /// Bytes of host memory that can be page-locked.
    u64 page_lock = ~u64(0);
    /// Device memory, and shared memory of blocks, is NaN until it is set.
    bool is_poisoned = true;
    /// In which threads, warps and blocks run.
    Order order = Order::FORWARD;
    u64 seed = 0;
    /// Microseconds by which operations of streams are late.
    u32 late_us = 0;
    /// Only those of the stream that was made as the n-th, from 1; of all if 0.
    u32 late_stream = 0;
    /// A file that gets a line for each call and each kernel that ran.
    std::string trace;
    std::vector<Fault> faults;
    /// Libraries of kernels.
    std::vector<std::string> kernels;
};

/// Of this process. Read once; what is invalid ends the process with a message.
Settings& settings();

/// Changes a setting by the name of its variable, without the prefix, or says what is wrong with it.
std::string change_setting(const std::string& name, const std::string& value);

}  // namespace emulator
