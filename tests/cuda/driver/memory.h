// Device memory, which is memory of this process between pages that cannot be touched, and page-locked host memory.
#pragma once

#include <string>

#include "results.h"

namespace emulator {

CUresult allocate(CUdeviceptr& address, u64 bytes);
CUresult release(CUdeviceptr address);
/// Whether all of it is of one allocation.
bool is_device_memory(CUdeviceptr address, u64 bytes);
/// Whether a kernel may be given the address: of device memory or of page-locked memory.
bool is_visible_to_device(const void* address);
/// Where an address is, for people: "12 bytes behind an allocation of 400 bytes".
std::string describe(const void* address);

/// Bytes that can be allocated.
u64 free_memory();
/// Another process takes bytes, or gives them back; no more than there are.
void take_memory(long long bytes);
/// What the driver itself needs once there is a context.
void take_for_context(bool is_taken);
/// Gives all back, of the device and of the host, and unlocks what was locked.
void release_all();
/// The most that was allocated at a time.
u64 peak_memory();

CUresult allocate_host(void*& address, u64 bytes);
CUresult release_host(void* address);
/// Page-locks memory that is there.
CUresult lock_pages(void* address, u64 bytes, unsigned flags);
CUresult unlock_pages(void* address);
bool is_page_locked(const void* address, u64 bytes);

}  // namespace emulator
