#include "memory.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

#include "settings.h"
#include "state.h"

namespace emulator {

namespace {

/// To what the driver rounds an allocation, and aligns it.
constexpr u64 GRANULE = 512;
/// What unset memory is mapped from, again and again.
constexpr u64 POISON_BYTES = u64(16) << 20;
/// Allocations are in this many bytes of addresses between their guards.
constexpr unsigned READ_ONLY_FLAG = 8;

struct Allocation {
    u64 bytes;
    char* mapped;
    u64 mapped_bytes;
};

struct HostMemory {
    u64 bytes;
    bool is_ours;
};

struct Memory {
    std::mutex guard;
    std::map<u64, Allocation> device;
    std::map<u64, HostMemory> host;
    u64 used = 0, peak = 0, locked = 0;
    u64 taken = settings().taken, for_context = 0;
};

Memory& memory() {
    static auto& all = *new Memory;
    return all;
}

u64 page() {
    static const u64 bytes = u64(sysconf(_SC_PAGESIZE));
    return bytes;
}
/// What an allocation takes.
u64 counted(u64 bytes) { return (bytes + GRANULE - 1) / GRANULE * GRANULE; }
u64 to_pages(u64 bytes) { return (bytes + page() - 1) / page() * page(); }

/// A file of bytes 0xff, which as f32, f16, bf16 and E4M3 are NaN.
int poison_file() {
    static int file = [] {
        int made = memfd_create("unset device memory", MFD_CLOEXEC);
        void* bytes = MAP_FAILED;
        if (made >= 0 && !ftruncate(made, POISON_BYTES))
            bytes = mmap(nullptr, POISON_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0);
        if (bytes == MAP_FAILED) {
            perror("emulated CUDA: no memory to stand for what is unset");
            abort();
        }
        memset(bytes, 0xff, POISON_BYTES);
        munmap(bytes, POISON_BYTES);
        return made;
    }();
    return file;
}

/// Makes pages usable that were reserved. Those of large allocations take no memory until they are written.
bool open_pages(char* at, u64 bytes) {
    if (!settings().is_poisoned) return !mprotect(at, bytes, PROT_READ | PROT_WRITE);
    for (u64 done = 0; done < bytes; done += POISON_BYTES) {
        u64 part = std::min(bytes - done, POISON_BYTES);
        int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
        if (mmap(at + done, part, PROT_READ | PROT_WRITE, flags, poison_file(), 0) == MAP_FAILED) return false;
    }
    return true;
}

template <class Map>
typename Map::iterator at_or_before(Map& map, u64 address) {
    auto found = map.upper_bound(address);
    return found == map.begin() ? map.end() : --found;
}

template <class Map>
bool is_within(Map& map, u64 address, u64 bytes) {
    auto found = at_or_before(map, address);
    return found != map.end() && address + bytes <= found->first + found->second.bytes;
}

/// Unmaps an allocation.
CUresult close_pages(Memory& all, std::map<u64, Allocation>::iterator found) {
    const Allocation& gone = found->second;
    all.used -= counted(gone.bytes);
    trace("device memory: " + std::to_string(all.used));
    // The addresses stay reserved: what uses them later is found.
    void* reserved = mmap(gone.mapped, gone.mapped_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    all.device.erase(found);
    return reserved == MAP_FAILED ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}

void close_host(Memory& all, std::map<u64, HostMemory>::iterator found) {
    if (found->second.is_ours) munmap(reinterpret_cast<void*>(found->first), to_pages(found->second.bytes));
    all.locked -= found->second.bytes;
    all.host.erase(found);
}

u64 free_locked(Memory& all) {
    u64 total = settings().memory, gone = all.used + all.taken + all.for_context;
    return gone > total ? 0 : total - gone;
}

/// Whether a range is mapped, and can be written where it has to be.
bool can_be_locked(u64 from, u64 to, bool is_read_only) {
    FILE* maps = fopen("/proc/self/maps", "r");
    if (!maps) return false;
    char line[4352];
    u64 reached = from;
    while (reached < to && fgets(line, sizeof line, maps)) {
        u64 start, end;
        char access[5];
        if (sscanf(line, "%llx-%llx %4s", &start, &end, access) != 3 || end <= reached) continue;
        if (start > reached || access[0] != 'r' || (!is_read_only && access[1] != 'w')) break;
        reached = end;
    }
    fclose(maps);
    return reached >= to;
}

}  // namespace

CUresult allocate(CUdeviceptr& address, u64 bytes) {
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    if (bytes > settings().memory || counted(bytes) > free_locked(all)) return CUDA_ERROR_OUT_OF_MEMORY;
    u64 body = to_pages(bytes), mapped_bytes = body + 2 * page();
    void* mapped = mmap(nullptr, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    char* first = static_cast<char*>(mapped) + page();
    if (!open_pages(first, body)) {
        munmap(mapped, mapped_bytes);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    // As close to the guard behind it as its alignment lets it.
    address = u64(first) + (body - bytes) / 256 * 256;
    all.device[address] = {bytes, static_cast<char*>(mapped), mapped_bytes};
    all.used += counted(bytes);
    all.peak = std::max(all.peak, all.used);
    trace("device memory: " + std::to_string(all.used));
    return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr address) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    auto found = all.device.find(address);
    if (found == all.device.end()) return CUDA_ERROR_INVALID_VALUE;
    return close_pages(all, found);
}

void release_all() {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    while (!all.device.empty()) close_pages(all, all.device.begin());
    while (!all.host.empty()) close_host(all, all.host.begin());
}

bool is_device_memory(CUdeviceptr address, u64 bytes) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    return is_within(all.device, address, bytes);
}

bool is_visible_to_device(const void* address) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    // Just behind the end is where an empty part begins.
    return is_within(all.device, u64(address), 0) || is_within(all.host, u64(address), 0);
}

std::string describe(const void* pointer) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    u64 address = u64(pointer);
    char text[160];
    auto found = at_or_before(all.device, address);
    auto next = all.device.upper_bound(address);
    u64 behind = found == all.device.end() ? ~u64(0) : address - found->first;
    u64 before = next == all.device.end() ? ~u64(0) : next->first - address;
    if (behind != ~u64(0) && behind < found->second.bytes)
        snprintf(text, sizeof text, "byte %llu of an allocation of %llu bytes", behind, found->second.bytes);
    else if (behind != ~u64(0) && behind - found->second.bytes < page() && behind - found->second.bytes <= before)
        snprintf(text, sizeof text, "%llu bytes behind an allocation of %llu bytes", behind - found->second.bytes,
                 found->second.bytes);
    else if (before <= page())
        snprintf(text, sizeof text, "%llu bytes before an allocation of %llu bytes", before, next->second.bytes);
    else
        snprintf(text, sizeof text, "address %p, which is of no allocation", pointer);
    return text;
}

u64 free_memory() {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    return free_locked(all);
}

void take_memory(long long bytes) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    if (bytes >= 0) all.taken += std::min(u64(bytes), free_locked(all));
    else all.taken -= std::min(u64(-bytes), all.taken);
}

void take_for_context(bool is_taken) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    all.for_context = is_taken ? settings().context : 0;
}

u64 peak_memory() {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    return all.peak;
}

CUresult allocate_host(void*& address, u64 bytes) {
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    u64 limit = settings().page_lock;
    if (bytes > limit || all.locked > limit - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    void* mapped = mmap(nullptr, to_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    address = mapped;
    all.host[u64(mapped)] = {bytes, true};
    all.locked += bytes;
    return CUDA_SUCCESS;
}

CUresult release_host(void* address) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    auto found = all.host.find(u64(address));
    if (found == all.host.end() || !found->second.is_ours) return CUDA_ERROR_INVALID_VALUE;
    close_host(all, found);
    return CUDA_SUCCESS;
}

CUresult lock_pages(void* address, u64 bytes, unsigned flags) {
    if (!address || !bytes) return CUDA_ERROR_INVALID_VALUE;
    u64 from = u64(address), to = from + bytes;
    if (!can_be_locked(from / page() * page(), to_pages(to), flags & READ_ONLY_FLAG)) {
        explain("cuMemHostRegister_v2: memory that is not mapped, or cannot be written");
        return CUDA_ERROR_INVALID_VALUE;
    }
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    // Pages cannot be locked twice.
    auto last = at_or_before(all.host, to_pages(to) - 1);
    if (last != all.host.end() && last->first + last->second.bytes > from / page() * page())
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    u64 limit = settings().page_lock;
    if (bytes > limit || all.locked > limit - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    all.host[from] = {bytes, false};
    all.locked += bytes;
    return CUDA_SUCCESS;
}

CUresult unlock_pages(void* address) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    auto found = all.host.find(u64(address));
    if (found == all.host.end() || found->second.is_ours) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    close_host(all, found);
    return CUDA_SUCCESS;
}

bool is_page_locked(const void* address, u64 bytes) {
    Memory& all = memory();
    std::lock_guard<std::mutex> lock(all.guard);
    return is_within(all.host, u64(address), bytes);
}

}  // namespace emulator
