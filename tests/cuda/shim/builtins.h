// What every device compiler knows without a header, for one thread: bits, arithmetic, atomics, fences.
#pragma once

template <class To, class From>
static inline To emu_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

static inline float __uint_as_float(unsigned bits) { return emu_bits<float>(bits); }
static inline float __int_as_float(int bits) { return emu_bits<float>(bits); }
static inline unsigned __float_as_uint(float value) { return emu_bits<unsigned>(value); }
static inline int __float_as_int(float value) { return emu_bits<int>(value); }

static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int __clz(int value) { return value ? __builtin_clz(value) : 32; }
static inline unsigned __brev(unsigned value) {
    unsigned result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (value >> bit & 1) << (31 - bit);
    return result;
}

/// Four bytes out of eight, each named by the low three bits of a nibble; the fourth spreads the sign.
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    unsigned long long both = (unsigned long long)high << 32 | low;
    unsigned result = 0;
    for (int at = 0; at < 4; at++) {
        unsigned nibble = selector >> 4 * at & 15, byte = both >> 8 * (nibble & 7) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * at;
    }
    return result;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}

template <class Operation>
static inline unsigned emu_each_byte(unsigned a, unsigned b, Operation operation) {
    unsigned result = 0;
    for (int at = 0; at < 4; at++) result |= (unsigned)(unsigned char)operation(a >> 8 * at, b >> 8 * at) << 8 * at;
    return result;
}
static inline unsigned __vadd4(unsigned a, unsigned b) {
    return emu_each_byte(a, b, [](unsigned x, unsigned y) { return x + y; });
}
static inline unsigned __vsub4(unsigned a, unsigned b) {
    return emu_each_byte(a, b, [](unsigned x, unsigned y) { return x - y; });
}
static inline unsigned __vsubss4(unsigned a, unsigned b) {
    return emu_each_byte(a, b, [](unsigned x, unsigned y) {
        int difference = (signed char)x - (signed char)y;
        return difference < -128 ? -128 : difference > 127 ? 127 : difference;
    });
}

static inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
static inline int __float2int_rn(float value) { return (int)std::nearbyintf(value); }
static inline int __float2int_rz(float value) { return (int)value; }
static inline float __int2float_rn(int value) { return (float)value; }
static inline float __saturatef(float value) { return value > 0 ? value < 1 ? value : 1 : 0; }
static inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
static inline float __frcp_rn(float value) { return 1.0f / value; }
static inline float __fsqrt_rn(float value) { return std::sqrt(value); }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fdividef(float a, float b) { return a / b; }
// The C library declares these names itself.
#define __expf(value) expf(value)
#define __exp2f(value) exp2f(value)
#define __logf(value) logf(value)
#define __log2f(value) log2f(value)
#define __sinf(value) sinf(value)
#define __cosf(value) cosf(value)
#define __powf(base, exponent) powf(base, exponent)
#define __trap() emu_trap("__trap()")

#define EMU_MIN_MAX(type)                                                                                             \
    static inline type min(type a, type b) { return b < a ? b : a; }                                                  \
    static inline type max(type a, type b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
// As on the device, a number rather than NaN.
static inline float min(float a, float b) { return std::fmin(a, b); }
static inline float max(float a, float b) { return std::fmax(a, b); }

template <class T>
static inline T __ldg(const T* address) { return *address; }
template <class T>
static inline T __ldcs(const T* address) { return *address; }
template <class T>
static inline T __ldcg(const T* address) { return *address; }
template <class T>
static inline void __stcs(T* address, T value) { *address = value; }

template <class T, class Change>
static inline T emu_atomic(T* address, Change change) {
    T old, changed;
    __atomic_load(address, &old, __ATOMIC_SEQ_CST);
    do changed = change(old);
    while (!__atomic_compare_exchange(address, &old, &changed, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}
template <class T>
static inline T atomicAdd(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return T(old + value); });
}
template <class T>
static inline T atomicSub(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return T(old - value); });
}
template <class T>
static inline T atomicMax(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
static inline T atomicMin(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
static inline T atomicExch(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T) { return value; });
}
template <class T>
static inline T atomicOr(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return T(old | value); });
}
template <class T>
static inline T atomicAnd(T* address, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return T(old & value); });
}
/// Counts up to `last`, then starts again at 0.
static inline unsigned atomicInc(unsigned* address, unsigned last) {
    return emu_atomic(address, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
template <class T>
static inline T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
    return emu_atomic(address, [=](T old) { return old == expected ? T(value) : old; });
}

static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __nanosleep(unsigned) { emu_yield(); }
