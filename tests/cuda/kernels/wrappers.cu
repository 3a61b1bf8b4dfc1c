// Each wrapper of inline PTX alone, for comparison with scalars: one warp, and every lane's operands and results as they
// are.
#include "device.cuh"

/// Of a lane: a in words 0 to 3, b in 4 and 5; d before and after in its four words.
template <class T>
__device__ __forceinline__ void load_operands(const u32* operands, u32 (&a)[4], u32 (&b)[2], const T* sums, T (&d)[4]) {
    for (int at = 0; at < 4; at++) {
        a[at] = operands[threadIdx.x * 6 + at];
        d[at] = sums[threadIdx.x * 4 + at];
    }
    for (int at = 0; at < 2; at++) b[at] = operands[threadIdx.x * 6 + 4 + at];
}

extern "C" __global__ void __launch_bounds__(32) wrap_mma_bf16(const u32* operands, float* sums) {
    u32 a[4], b[2];
    float d[4];
    load_operands(operands, a, b, sums, d);
    mma_bf16(d, a, b);
    for (int at = 0; at < 4; at++) sums[threadIdx.x * 4 + at] = d[at];
}
extern "C" __global__ void __launch_bounds__(32) wrap_mma_f16(const u32* operands, float* sums) {
    u32 a[4], b[2];
    float d[4];
    load_operands(operands, a, b, sums, d);
    mma_f16(d, a, b);
    for (int at = 0; at < 4; at++) sums[threadIdx.x * 4 + at] = d[at];
}
extern "C" __global__ void __launch_bounds__(32) wrap_mma_i8(const u32* operands, int* sums) {
    u32 a[4], b[2];
    int d[4];
    load_operands(operands, a, b, sums, d);
    mma_i8(d, a, b);
    for (int at = 0; at < 4; at++) sums[threadIdx.x * 4 + at] = d[at];
}

/// Of each lane 14 words: x1, x2 and x4, then the same transposed. Row i of the four matrices is at 8 i of the input.
extern "C" __global__ void __launch_bounds__(32) wrap_ldmatrix(const u16* matrices, u32* out) {
    __shared__ __align__(16) u16 rows[4 * 8 * 8];
    for (int at = threadIdx.x; at < 4 * 8 * 8; at += 32) rows[at] = matrices[at];
    __syncwarp();
    const u16* row = rows + threadIdx.x * 8;
    u32 one[1], two[2], four[4];
    u32* to = out + threadIdx.x * 14;
    ldmatrix_x1(one, row);
    ldmatrix_x2(two, row);
    ldmatrix_x4(four, row);
    to[0] = one[0];
    for (int at = 0; at < 2; at++) to[1 + at] = two[at];
    for (int at = 0; at < 4; at++) to[3 + at] = four[at];
    ldmatrix_x1_trans(one, row);
    ldmatrix_x2_trans(two, row);
    ldmatrix_x4_trans(four, row);
    to[7] = one[0];
    for (int at = 0; at < 2; at++) to[8 + at] = two[at];
    for (int at = 0; at < 4; at++) to[10 + at] = four[at];
}

/// Every lane copies 44 bytes: 16, 16 or nothing in the odd lanes, 8, 4, in two groups.
extern "C" __global__ void __launch_bounds__(32) wrap_cp_async(const u32* in, u32* out) {
    __shared__ __align__(16) u32 copied[32 * 12];
    const u32* from = in + threadIdx.x * 12;
    u32* to = copied + threadIdx.x * 12;
    cp_async16(to, from);
    cp_async16_or_zero(to + 4, from + 4, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async8(to + 8, from + 8);
    cp_async4(to + 10, from + 10);
    cp_async_commit();
    cp_async_wait<1>();
    __syncwarp();
    const u32* other = copied + (threadIdx.x ^ 1) * 12;
    for (int at = 0; at < 8; at++) out[threadIdx.x * 11 + at] = other[at];
    cp_async_wait<0>();
    __syncwarp();
    for (int at = 8; at < 11; at++) out[threadIdx.x * 11 + at] = other[at];
}

/// All f16 and bf16 as f32, and what those become as the other and back: 65,536 threads.
extern "C" __global__ void wrap_widen(float* from_f16, float* from_bf16) {
    u32 bits = blockIdx.x * blockDim.x + threadIdx.x;
    from_f16[bits] = f16_to_f32(bits);
    from_bf16[bits] = bf16_to_f32(bits);
}
extern "C" __global__ void wrap_e4m3(float* out) { out[threadIdx.x] = e4m3_to_f32(threadIdx.x); }
extern "C" __global__ void wrap_narrow(const float* in, u16* to_f16, u16* to_bf16, u32* pairs_f16, u32* pairs_bf16) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    float value = in[at], next = in[at ^ 1];
    to_f16[at] = f32_to_f16(value);
    to_bf16[at] = f32_to_bf16(value);
    pairs_f16[at] = pack_f16(value, next);
    pairs_bf16[at] = pack_bf16(value, next);
}
/// Four results of each thread: sum, difference, product, and the product added to the third.
extern "C" __global__ void wrap_f16x2(const u32* a, const u32* b, const u32* c, u32* out) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    out[at * 4] = f16x2_add(a[at], b[at]);
    out[at * 4 + 1] = f16x2_sub(a[at], b[at]);
    out[at * 4 + 2] = f16x2_mul(a[at], b[at]);
    out[at * 4 + 3] = f16x2_fma(a[at], b[at], c[at]);
}

/// What lanes get of each other: one warp, 16 words of each lane.
extern "C" __global__ void __launch_bounds__(32) wrap_lanes(const u32* in, u32* out) {
    u32 value = in[threadIdx.x], *to = out + threadIdx.x * 16;
    to[0] = __shfl_sync(~0u, value, 5);
    to[1] = __shfl_sync(~0u, value, 9, 8);
    to[2] = __shfl_xor_sync(~0u, value, 9);
    to[3] = __shfl_xor_sync(~0u, value, 12, 8);
    to[4] = __shfl_up_sync(~0u, value, 3);
    to[5] = __shfl_up_sync(~0u, value, 3, 4);
    to[6] = __shfl_down_sync(~0u, value, 3);
    to[7] = __shfl_down_sync(~0u, value, 3, 16);
    to[8] = __ballot_sync(~0u, value % 3 == 0);
    to[9] = __reduce_add_sync(~0u, value);
    to[10] = __reduce_max_sync(~0u, value);
    to[11] = static_cast<u32>(dp4a(static_cast<int>(value), static_cast<int>(value * 0x01030507u), -3));
    to[12] = __byte_perm(value, ~value, 0x8f53);
    to[13] = __any_sync(~0u, value == in[7]) + 2 * __all_sync(~0u, value != in[7]);
    // Halves of the warp apart.
    u32 mask = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
    to[14] = threadIdx.x < 16 ? __shfl_xor_sync(mask, value, 1) : __reduce_min_sync(mask, value);
    to[15] = static_cast<u32>(__float_as_int(exp2_fast(static_cast<float>(value % 64) - 32.f)));
}
