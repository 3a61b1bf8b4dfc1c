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

// Most of the greatest logits of a row: as `TOP_LOGITS` of `compute/logits.rs`.
static const int TOP_LOGITS = 8;
// Logits that a block reduces, and its threads: as `SPAN` and `THREADS` of `compute/cuda/top.rs`.
static const int TOP_SPAN = 2048;
static const int TOP_THREADS = 256;

// A logit and its id as one number, greater for what comes first: NaN, then the greatest, the lower id on a tie. Neither 0 nor
// the greatest number there is.
__device__ __forceinline__ u64 key_of(float logit, u32 id) {
    // Both zeros are one.
    u32 bits = __float_as_uint(logit + 0.f);
    u32 order = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)(logit == logit ? order : 0xfffffffeu) << 32 | (u32)~id;
}
__device__ __forceinline__ float logit_of(u64 key) {
    u32 order = (u32)(key >> 32);
    return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

// The greatest `TOP_LOGITS` of `count` keys that differ unless they are 0, the greatest first; zeros where there are fewer.
// Returns the first. `partial` is shared.
__device__ __forceinline__ u64 best_keys(const u64* keys, int count, u64 (*partial)[TOP_THREADS / 32], u64* best) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u64 first = 0, last = ~0ull;
#pragma unroll 1
    for (int n = 0; n < TOP_LOGITS; n++) {
        u64 greatest = 0;
#pragma unroll 4
        for (int i = threadIdx.x; i < count; i += TOP_THREADS) {
            u64 key = keys[i];
            if (key < last) greatest = max(greatest, key);
        }
        for (int with = 16; with; with >>= 1) greatest = max(greatest, __shfl_xor_sync(~0u, greatest, with));
        // Two by turns: a warp may still read those of the round before.
        if (lane == 0) partial[n % 2][warp] = greatest;
        __syncthreads();
        for (int other = 0; other < TOP_THREADS / 32; other++) greatest = max(greatest, partial[n % 2][other]);
        last = greatest;
        if (n == 0) first = greatest;
        if (threadIdx.x == 0) best[n] = greatest;
    }
    return first;
}

// Of each row of `logits`, `[rows, vocab]`, and each `TOP_SPAN` of its columns: the greatest keys, `[rows, blocks, TOP_LOGITS]`,
// and the sum of the exponentials relative to the greatest, `[rows, blocks]`. Logits whose bit in `allowed` is 0 count as
// negative infinity. A block for each span of each row.
extern "C" __global__ void __launch_bounds__(256) top_logits(const float* logits, const u32* allowed, u64* keys, float* sums, int vocab) {
    __shared__ u64 own[TOP_SPAN], partial[2][TOP_THREADS / 32];
    __shared__ float partial_sums[32];
    const float none = __uint_as_float(0xff800000u);
    int start = blockIdx.x * TOP_SPAN, count = min(TOP_SPAN, vocab - start);
    u64 place = (u64)blockIdx.y * gridDim.x + blockIdx.x;
    logits += (u64)blockIdx.y * vocab + start;
    for (int i = threadIdx.x; i < count; i += TOP_THREADS) {
        u32 id = start + i;
        own[i] = key_of(allowed[id / 32] >> id % 32 & 1 ? logits[i] : none, id);
    }
    __syncthreads();
    float greatest = logit_of(best_keys(own, count, partial, keys + place * TOP_LOGITS)), sum = 0.f;
    for (int i = threadIdx.x; i < count; i += TOP_THREADS) {
        float logit = logit_of(own[i]);
        if (logit > none) sum += expf(logit - greatest);
    }
    sum = block_sum(sum, partial_sums);
    if (threadIdx.x == 0) sums[place] = sum;
}

// Puts those of `blocks` spans together: for each row the greatest keys, and the bits of the logarithm of the sum of the
// exponentials of all its logits, `[rows, TOP_LOGITS + 1]`. A block for each row.
extern "C" __global__ void __launch_bounds__(256) merge_logits(const u64* keys, const float* sums, u64* found, int blocks) {
    __shared__ u64 partial[2][TOP_THREADS / 32];
    __shared__ float partial_sums[32];
    keys += (u64)blockIdx.x * blocks * TOP_LOGITS;
    sums += (u64)blockIdx.x * blocks;
    found += (u64)blockIdx.x * (TOP_LOGITS + 1);
    float greatest = logit_of(best_keys(keys, blocks * TOP_LOGITS, partial, found)), sum = 0.f;
    for (int i = threadIdx.x; i < blocks; i += TOP_THREADS) {
        // One that has nothing that can be chosen has no greatest.
        if (sums[i] != 0.f) sum += sums[i] * expf(logit_of(keys[(u64)i * TOP_LOGITS]) - greatest);
    }
    sum = block_sum(sum, partial_sums);
    if (threadIdx.x == 0) found[TOP_LOGITS] = __float_as_uint(greatest + logf(sum));
}
