// Attention between its projections.
#include "attend_tile.cuh"

// Elements of the widest head for each lane of a warp.
static const int PER_LANE = 8;
// Most warps that share the positions of a head.
static const int WARPS = 8;

// Adds biases to queries, keys and values, norms and rotates queries and keys, and stores keys and values. A warp for
// each head (those of queries, then of keys, then of values) of each row. Biases and norms may be null. `angles` are
// `[rows, rotary_dim / 2]` of cosine and sine.
template <class K>
__device__ __forceinline__ void place(const Attention& s, float* queries, float* keys, float* values, const float* query_bias, const float* key_bias, const float* value_bias, const float* query_norm, const float* key_norm, const float2* angles, K* cache, const u32* blocks) {
    int head = blockIdx.x, row = blockIdx.y, lane = threadIdx.x;
    int is_query = head < s.heads, is_key = !is_query && head < s.heads + s.kv_heads;
    int kv_head = is_query ? 0 : (head - s.heads) % s.kv_heads;
    int width = is_query ? s.query_width : s.head_dim;
    u64 own = is_query ? (u64)head * width : (u64)kv_head * width;
    float* x = is_query ? queries + (u64)row * s.heads * width : (is_key ? keys : values) + (u64)row * s.kv_heads * width;
    x += own;
    const float* bias = is_query ? query_bias : is_key ? key_bias : value_bias;
    const float* norm = is_query ? query_norm : is_key ? key_norm : 0;
    if (bias) {
        for (int i = lane; i < width; i += 32) x[i] += bias[own + i];
    }
    if (norm) {
        float sum = 0.f;
        for (int i = lane; i < s.head_dim; i += 32) sum += x[i] * x[i];
        float factor = rsqrtf(warp_sum(sum) / (float)s.head_dim + s.eps);
        for (int i = lane; i < s.head_dim; i += 32) x[i] *= factor * norm[i];
    }
    __syncwarp();
    if (is_query || is_key) {
        int pairs = s.rotary_dim / 2;
        for (int i = lane; i < pairs; i += 32) {
            float2 angle = angles[row * pairs + i];
            float a = x[i], b = x[i + pairs];
            x[i] = a * angle.x - b * angle.y;
            x[i + pairs] = b * angle.x + a * angle.y;
        }
        __syncwarp();
    }
    if (!is_query) {
        K* to = cached(s, cache, blocks, *s.start + row, kv_head, !is_key);
        for (int i = lane; i < s.head_dim; i += 32) store(to + i, x[i]);
    }
}

extern "C" __global__ void __launch_bounds__(32) place_f32(Attention s, float* queries, float* keys, float* values, const float* query_bias, const float* key_bias, const float* value_bias, const float* query_norm, const float* key_norm, const float2* angles, float* cache, const u32* blocks) { place(s, queries, keys, values, query_bias, key_bias, value_bias, query_norm, key_norm, angles, cache, blocks); }
extern "C" __global__ void __launch_bounds__(32) place_f16(Attention s, float* queries, float* keys, float* values, const float* query_bias, const float* key_bias, const float* value_bias, const float* query_norm, const float* key_norm, const float2* angles, u16* cache, const u32* blocks) { place(s, queries, keys, values, query_bias, key_bias, value_bias, query_norm, key_norm, angles, cache, blocks); }

// A dot product of `n` elements.
__device__ __forceinline__ float dot(const float* a, const float* b, int n) {
    float sum = 0.f;
    if (n % 4 == 0) {
#pragma unroll 2
        for (int i = 0; i < n; i += 4) {
            float4 v = *(const float4*)(b + i);
            sum += a[i] * v.x + a[i + 1] * v.y + a[i + 2] * v.z + a[i + 3] * v.w;
        }
    } else {
        for (int i = 0; i < n; i++) sum += a[i] * b[i];
    }
    return sum;
}

__device__ __forceinline__ float dot(const float* a, const u16* b, int n) {
    float sum = 0.f;
    if (n % 8 == 0) {
#pragma unroll 1
        for (int i = 0; i < n; i += 8) {
            uint4 v = *(const uint4*)(b + i);
            u32 w[4] = {v.x, v.y, v.z, v.w};
            for (int j = 0; j < 8; j++) sum += a[i + j] * f16_to_f32((u16)(w[j / 2] >> (16 * (j % 2))));
        }
    } else {
        for (int i = 0; i < n; i++) sum += a[i] * f16_to_f32(b[i]);
    }
    return sum;
}

// Softmax attention of a query head (`blockIdx.x`) of a row (`blockIdx.y`) over all positions up to its own, of which
// split `blockIdx.z` does its share. The warps of the block take 32 positions in turn: a lane scores one position, then
// holds elements of the sum over all. With one split `out` is `[rows, heads, head_dim]`, gated where there are gates;
// else `partial` is `[rows, heads, splits, head_dim + 2]`: the sum, the greatest score and the sum of exponentials.
template <class K>
__device__ __forceinline__ void attend(const Attention& s, const float* queries, const K* cache, const u32* blocks, float* out, float* partial) {
    __shared__ __align__(16) float query[32 * PER_LANE];
    __shared__ float weights[WARPS][32];
    __shared__ float greatest[WARPS], total[WARPS], sums[WARPS][32 * PER_LANE];
    int head = blockIdx.x, row = blockIdx.y, splits = gridDim.z, split = blockIdx.z;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    int kv_head = head / (s.heads / s.kv_heads);
    int len = *s.start + row + 1, chunks = (len + 31) / 32, share = (chunks + splits - 1) / splits;
    int end = min(chunks, (split + 1) * share);
    const float* own = queries + ((u64)row * s.heads + head) * s.query_width;
    for (int i = threadIdx.x; i < s.head_dim; i += blockDim.x) query[i] = own[i] * rsqrtf((float)s.head_dim);
    __syncthreads();
    float most = -3e38f, sum = 0.f, acc[PER_LANE];
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) acc[j] = 0.f;
    for (int chunk = split * share + warp; chunk < end; chunk += warps) {
        int first = chunk * 32, count = min(32, len - first);
        float score = -3e38f;
        if (lane < count) score = dot(query, cached(s, cache, blocks, first + lane, kv_head, 0), s.head_dim);
        float now = fmaxf(most, warp_max(score));
        float weight = lane < count ? expf(score - now) : 0.f, before = expf(most - now);
        sum = sum * before + warp_sum(weight);
        most = now;
        weights[warp][lane] = weight;
        __syncwarp();
        const K* values = cached(s, cache, blocks, first, kv_head, 1);
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) {
            int i = lane + 32 * j;
            if (i < s.head_dim) {
                float a = acc[j] * before;
                for (int p = 0; p < count; p++) a += weights[warp][p] * load(values + p * s.head_dim + i);
                acc[j] = a;
            }
        }
        __syncwarp();
    }
    if (lane == 0) greatest[warp] = most, total[warp] = sum;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) sums[warp][lane + 32 * j] = acc[j];
    __syncthreads();
    most = -3e38f, sum = 0.f;
    for (int w = 0; w < warps; w++) most = fmaxf(most, greatest[w]);
    for (int w = 0; w < warps; w++) sum += total[w] * expf(greatest[w] - most);
    float* part = partial + (((u64)row * s.heads + head) * splits + split) * (s.head_dim + 2);
    for (int i = threadIdx.x; i < s.head_dim; i += blockDim.x) {
        float value = 0.f;
        for (int w = 0; w < warps; w++) value += sums[w][i] * expf(greatest[w] - most);
        if (splits == 1) {
            value /= sum;
            if (s.query_width > s.head_dim) value *= sigmoid(own[s.head_dim + i]);
            out[((u64)row * s.heads + head) * s.head_dim + i] = value;
        } else {
            part[i] = value;
        }
    }
    if (splits > 1 && threadIdx.x == 0) part[s.head_dim] = most, part[s.head_dim + 1] = sum;
}

extern "C" __global__ void __launch_bounds__(256) attend_f32(Attention s, const float* queries, const float* cache, const u32* blocks, float* out, float* partial) { attend(s, queries, cache, blocks, out, partial); }
extern "C" __global__ void __launch_bounds__(256) attend_f16(Attention s, const float* queries, const u16* cache, const u32* blocks, float* out, float* partial) { attend(s, queries, cache, blocks, out, partial); }

// From the partial sums of `splits` splits to the outputs of the heads, as `attend` writes them where there is one. A
// block for each head of each row.
extern "C" __global__ void __launch_bounds__(256) attend_merge(Attention s, const float* queries, const float* partial, float* out, int splits) {
    int width = s.head_dim + 2;
    u64 head = (u64)blockIdx.y * s.heads + blockIdx.x;
    const float* parts = partial + head * splits * width;
    const float* own = queries + head * s.query_width;
    float most = -3e38f, sum = 0.f;
    for (int p = 0; p < splits; p++) most = fmaxf(most, parts[p * width + s.head_dim]);
    for (int p = 0; p < splits; p++) sum += parts[p * width + s.head_dim + 1] * expf(parts[p * width + s.head_dim] - most);
    for (int i = threadIdx.x; i < s.head_dim; i += blockDim.x) {
        float value = 0.f;
        for (int p = 0; p < splits; p++) value += parts[p * width + i] * expf(parts[p * width + s.head_dim] - most);
        value /= sum;
        if (s.query_width > s.head_dim) value *= sigmoid(own[s.head_dim + i]);
        out[head * s.head_dim + i] = value;
    }
}

extern "C" __global__ void __launch_bounds__(32) attend_tile_64(Attention s, const float* queries, const u16* cache, const u32* blocks, float* out, float* partial, int rows) { attend_tile<1>(s, queries, cache, blocks, out, partial, rows); }
extern "C" __global__ void __launch_bounds__(64) attend_tile_128(Attention s, const float* queries, const u16* cache, const u32* blocks, float* out, float* partial, int rows) { attend_tile<2>(s, queries, cache, blocks, out, partial, rows); }
extern "C" __global__ void __launch_bounds__(128) attend_tile_256(Attention s, const float* queries, const u16* cache, const u32* blocks, float* out, float* partial, int rows) { attend_tile<4>(s, queries, cache, blocks, out, partial, rows); }
