// What kernels of every kind use.
#pragma once
#include "device.cuh"

// Most rows of a tile: as `TILE_ROWS` of `compute/cuda/tiles.rs`.
static const int TILE_ROWS = 32;

// Sum over a block of whole warps, in every thread. `partial` is shared and has a place for each warp.
__device__ __forceinline__ float block_sum(float v, float* partial) {
    v = warp_sum(v);
    int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    if (warps == 1) return v;
    if (lane == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : 0.f);
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

__device__ __forceinline__ float silu(float x) { return x / (1.f + expf(-x)); }

// ln(1 + exp(x)), without overflow.
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }

// Two numbers in f16, and what they were rounded by: together 22 binary digits of each, or what is above 2^-25.
__device__ __forceinline__ void split_f16(float low, float high, u32& pair, u32& rest) {
    pair = pack_f16(low, high);
    rest = pack_f16(low - f16_to_f32((u16)pair), high - f16_to_f32((u16)(pair >> 16)));
}

// Adds products on tensor cores of which each lane has eight columns: four of each of two instructions, two in the first
// and two in the second half of its columns.
__device__ __forceinline__ void mma_eight(float (&d)[4], const u32 (&a)[2][4], uint4 b) {
    u32 first[2] = {b.x, b.y}, second[2] = {b.z, b.w};
    mma_f16(d, a[0], first);
    mma_f16(d, a[1], second);
}

// 16-bit numbers are IEEE 754 binary16; what lies outside its range becomes its greatest number.
__device__ __forceinline__ void store(float* p, float v) { *p = v; }
__device__ __forceinline__ void store(u16* p, float v) { *p = f32_to_f16(fminf(fmaxf(v, -65504.f), 65504.f)); }
__device__ __forceinline__ float load(const float* p) { return *p; }
__device__ __forceinline__ float load(const u16* p) { return f16_to_f32(*p); }
