// What threads do together: barriers, votes, shuffles, reductions.
#pragma once

#define __syncthreads() emu_block_barrier()
static inline int __syncthreads_count(int predicate) { return emu_block_count(predicate != 0); }
static inline int __syncthreads_or(int predicate) { return emu_block_count(predicate != 0) > 0; }
static inline int __syncthreads_and(int predicate) { return emu_block_count(predicate == 0) == 0; }
static inline void __syncwarp(unsigned mask = ~0u) { emu_warp_barrier(mask); }

template <class T>
static inline unsigned long long emu_widen(T value) {
    static_assert(sizeof(T) <= 8);
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T>
static inline T emu_narrow(unsigned long long bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    unsigned lane = emu_thread->lane;
    return emu_narrow<T>(emu_warp_exchange(emu_widen(value), mask)[(lane & ~(width - 1)) | (from & (width - 1))]);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    unsigned lane = emu_thread->lane, other = lane ^ with;
    const unsigned long long* all = emu_warp_exchange(emu_widen(value), mask);
    // A lane may read one of an earlier part of the warp, not one of a later.
    return emu_narrow<T>(all[other < (lane & ~(width - 1)) + width ? other & 31 : lane]);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    unsigned lane = emu_thread->lane;
    const unsigned long long* all = emu_warp_exchange(emu_widen(value), mask);
    return emu_narrow<T>(all[(lane & (width - 1)) + by < (unsigned)width ? lane + by : lane]);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    unsigned lane = emu_thread->lane;
    const unsigned long long* all = emu_warp_exchange(emu_widen(value), mask);
    return emu_narrow<T>(all[(lane & (width - 1)) >= by ? lane - by : lane]);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned long long* all = emu_warp_exchange(predicate != 0, mask);
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && all[lane]) result |= 1u << lane;
    return result;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value) {
    const unsigned long long* all = emu_warp_exchange(emu_widen(value), mask);
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && all[lane] == all[emu_thread->lane]) result |= 1u << lane;
    return result;
}

template <class T, class Reduction>
static inline T emu_reduce(unsigned mask, T value, Reduction reduction) {
    const unsigned long long* all = emu_warp_exchange(emu_widen(value), mask);
    bool is_first = true;
    T result = value;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        T other = emu_narrow<T>(all[lane]);
        result = is_first ? other : reduction(result, other);
        is_first = false;
    }
    return result;
}
#define EMU_REDUCTIONS(type)                                                                                          \
    static inline type __reduce_add_sync(unsigned mask, type value) {                                                 \
        return emu_reduce(mask, value, [](type a, type b) { return type(a + b); });                                   \
    }                                                                                                                 \
    static inline type __reduce_min_sync(unsigned mask, type value) {                                                 \
        return emu_reduce(mask, value, [](type a, type b) { return b < a ? b : a; });                                 \
    }                                                                                                                 \
    static inline type __reduce_max_sync(unsigned mask, type value) {                                                 \
        return emu_reduce(mask, value, [](type a, type b) { return a < b ? b : a; });                                 \
    }
EMU_REDUCTIONS(int)
EMU_REDUCTIONS(unsigned)
#undef EMU_REDUCTIONS
static inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    return emu_reduce(mask, value, [](unsigned a, unsigned b) { return a | b; });
}
static inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
    return emu_reduce(mask, value, [](unsigned a, unsigned b) { return a & b; });
}
