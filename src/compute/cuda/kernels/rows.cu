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

// Rows for tensor cores: multiplied by a power of two that takes the greatest of a row to 2^14 or more, below 2^15, of which
// `scales` are the inverses. Of each 32 columns, up to a multiple of 64 with zeros, there are all in f16, then in f16 what
// those were rounded by. A warp for each row: of
// those of tile `blockIdx.y`, `{-, first, count, -}` in their order, or of all where there are no tiles.
extern "C" __global__ void __launch_bounds__(256) pack_rows(const float* x, const int4* tiles, const u32* order, u16* packed, float* scales, int rows, int cols) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    int4 tile = {0, 0, rows, 0};
    if (tiles) tile = tiles[blockIdx.y];
    if (row >= tile.z) return;
    if (tiles) row = order[tile.y + row];
    x += (u64)row * cols;
    float greatest = 0.f;
    for (int i = lane; i < cols; i += 32) greatest = fmaxf(greatest, fabsf(x[i]));
    // Exponents as they are stored, biased by 127; what is infinite or no number stays so.
    u32 exponent = min(max(__float_as_uint(warp_max(greatest)) >> 23, 15u), 254u);
    float factor = __uint_as_float((127 + 14 + 127 - exponent) << 23);
    int stride = (cols + 63) / 64 * 64;
    packed += (u64)row * 2 * stride;
    for (int i = lane; i < stride; i += 32) {
        float value = i < cols ? x[i] * factor : 0.f;
        u16 rounded = f32_to_f16(value);
        packed[2 * i - lane] = rounded;
        packed[2 * i - lane + 32] = f32_to_f16(value - f16_to_f32(rounded));
    }
    if (lane == 0) scales[row] = __uint_as_float((exponent - 14) << 23);
}
