// What kernels may name beyond the language: short types, number formats, and the instructions that have no built-in
// function. No toolkit header is needed.
//
// Inline PTX stands in this file only. Each wrapper of it has a twin in C++, which takes its place where kernels are
// compiled for the host.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __CUDACC_RTC__

/// Declares `type* name`, the dynamic shared memory of the block; aligned to 128 bytes.
#define DYNAMIC_SHARED(type, name)                                                                                     \
    extern __shared__ __align__(128) u8 dynamic_shared[];                                                              \
    type* name = reinterpret_cast<type*>(dynamic_shared)

// Number formats. f16 and bf16 are their bits. Conversions to them round to nearest, ties to even.

__device__ __forceinline__ float f16_to_f32(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ u16 f32_to_f16(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ __forceinline__ u16 f32_to_bf16(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
/// Two numbers in f16, `low` in the low half.
__device__ __forceinline__ u32 pack_f16(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
/// Two numbers in bf16, `low` in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Arithmetic on pairs of f16.

__device__ __forceinline__ u32 f16x2_add(u32 a, u32 b) {
    u32 sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}
__device__ __forceinline__ u32 f16x2_sub(u32 a, u32 b) {
    u32 difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
__device__ __forceinline__ u32 f16x2_mul(u32 a, u32 b) {
    u32 product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}
/// `a * b + c`, rounded once.
__device__ __forceinline__ u32 f16x2_fma(u32 a, u32 b, u32 c) {
    u32 sum;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}

/// `sum` and the products of four signed bytes.
__device__ __forceinline__ int dp4a(int a, int b, int sum) {
    int result;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
}

/// 2 to the power of `value`, with an error of 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
}

// Memory.

/// Reads what no kernel writes meanwhile and what is not read again soon: weights. 4, 8 or 16 bytes, so aligned.
template <class T>
__device__ __forceinline__ T load_once(const T* address) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "4, 8 or 16 bytes");
    union {
        T value;
        u32 words[sizeof(T) / 4];
    } read;
    u32* words = read.words;
    if constexpr (sizeof(T) == 4)
        asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(words[0]) : "l"(address));
    else if constexpr (sizeof(T) == 8)
        asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                     : "=r"(words[0]), "=r"(words[1])
                     : "l"(address));
    else
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                     : "l"(address));
    return read.value;
}
__device__ __forceinline__ void prefetch_l2(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}
/// Reads a word that the host or another kernel writes, and everything written before it.
__device__ __forceinline__ u32 load_acquire_system(const u32* address) {
    u32 value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
/// Writes a word for the host or another kernel, after everything written before.
__device__ __forceinline__ void store_release_system(u32* address, u32 value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ u32 shared_address(const void* address) {
    return static_cast<u32>(__cvta_generic_to_shared(address));
}

// Copies from global to shared memory beside the thread's work. A group is what was issued since the last commit.

/// 16 bytes, aligned to 16 on both sides.
__device__ __forceinline__ void cp_async16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
/// 16 bytes, or zeros: then nothing is read, but `from` must be an address of the buffer all the same.
__device__ __forceinline__ void cp_async16_or_zero(void* to, const void* from, bool is_valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(is_valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void cp_async8(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void cp_async4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for the thread's own copies, but for the newest `Groups` groups. Others see them after a barrier.
template <int Groups>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

// Reductions over the whole warp; every lane gets the result.

__device__ __forceinline__ float warp_sum(float value) {
    for (int with = 16; with; with >>= 1) value += __shfl_xor_sync(~0u, value, with);
    return value;
}
__device__ __forceinline__ float warp_max(float value) {
    for (int with = 16; with; with >>= 1) value = fmaxf(value, __shfl_xor_sync(~0u, value, with));
    return value;
}

// Tensor cores. Every lane of the warp takes part.

// 8 x 8 matrices of 16-bit elements from shared memory. Lanes 8i to 8i + 7 name the rows of matrix i, 16 bytes each and
// so aligned. Lane l gets of each matrix row l / 4, columns l % 4 * 2 and the next; transposed, rows are columns.

__device__ __forceinline__ void ldmatrix_x1(u32 (&to)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(to[0])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(u32 (&to)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x1_trans(u32 (&to)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(to[0])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(u32 (&to)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// `d += a b`: d is 16 x 8, a 16 x k by rows, b k x 8 by columns; k is 16 for 16-bit elements and 32 for bytes. With
// g = lane / 4 and t = lane % 4, lane holds of d rows g, g, g + 8, g + 8 at columns 2t, 2t + 1, 2t, 2t + 1; a word of a
// is neighbouring columns: row g, g + 8, g, g + 8, the first two of the first half of k, the others of the second; of b
// column g, first and second half of k. PTX ISA, "Matrix Fragments for mma.m16n8k16" and "m16n8k32".

/// bf16, f32 accumulation.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// f16, f32 accumulation.
__device__ __forceinline__ void mma_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// Signed bytes, exact.
__device__ __forceinline__ void mma_i8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

__device__ __forceinline__ float bf16_to_f32(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }

/// Of E4M3, which has 448 as its largest number, no infinities, and NaN where all seven bits are set.
__device__ __forceinline__ float e4m3_to_f32(u8 bits) {
    if ((bits & 0x7f) == 0x7f) return __uint_as_float(0x7fffffffu);
    // The exponent of f32 is biased by 120 more; the product is right for subnormal numbers, too.
    u32 shifted = static_cast<u32>(bits & 0x80) << 24 | static_cast<u32>(bits & 0x7f) << 20;
    return __uint_as_float(shifted) * 1.329227995784916e36f;
}
