// Operations on rows of activations.
#include "common.cuh"

// `out = x * rsqrt(mean(x^2) + eps) * w`, a block for each row of `width`.
extern "C" __global__ void __launch_bounds__(256) rms_norm(const float* x, const float* w, float* out, int width, float eps) {
    __shared__ float partial[32];
    const float* row = x + (u64)blockIdx.x * width;
    float sum = 0.f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += row[i] * row[i];
    float factor = rsqrtf(block_sum(sum, partial) / (float)width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[(u64)blockIdx.x * width + i] = row[i] * factor * w[i];
}

// `x += y`.
extern "C" __global__ void __launch_bounds__(256) add(float* x, const float* y, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] += y[i];
}

// f32 to 16 bits.
extern "C" __global__ void __launch_bounds__(256) pack(const float* from, u16* to, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) store(to + i, from[i]);
}

// 16 bits to f32.
extern "C" __global__ void __launch_bounds__(256) unpack(const u16* from, float* to, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = load(from + i);
}
