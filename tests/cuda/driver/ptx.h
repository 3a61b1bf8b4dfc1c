// What the text of PTX says of its kernels.
#pragma once

#include <string>
#include <vector>

namespace emulator {

struct PtxEntry {
    std::string name;
    /// Bytes of each parameter.
    std::vector<unsigned> parameters;
    /// Bytes of shared memory that it always has.
    unsigned static_shared = 0;
    /// The most threads a block may have, or 0 where it does not say.
    unsigned max_threads = 0;
};

struct Ptx {
    /// 8.0 is 80.
    int version = 0;
    int target = 0;
    /// `sm_90a`: for this device alone.
    bool is_for_one_device = false;
    std::vector<PtxEntry> entries;
    /// Why it is not PTX, or empty.
    std::string invalid;
};

Ptx parse_ptx(const std::string& text);

/// The oldest driver that takes a version of PTX, as `.version` 8.0 is taken from 12000 on.
int driver_for_ptx(int version);

}  // namespace emulator
