// Attention of many rows on tensor cores, over a KV cache in f16.
#pragma once
#include "attention.cuh"

// Query vectors of a tile: as `TILE` of `compute/cuda/attention.rs`.
static const int QUERIES = 32;

// A word of eight elements.
__device__ __forceinline__ u32 word_of(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Softmax attention of a tile (`blockIdx.x`) of the query vectors of a KV head (`blockIdx.y`): the heads that share it of the
// first row, then those of the second and so on. Each is over all positions up to its row's own, of which split `blockIdx.z`
// does its share of blocks of the cache. Heads are of whole eights of elements, and at most 64 for each of the WIDE warps of a
// block. Outputs are those of `attend`.
//
// Queries and weights are pairs of f16, see `split_f16`; keys and values have no more digits. The warps share the positions of
// a block where scores are computed, then the queries where those become weights, then the columns of values.
template <int WIDE>
__device__ __forceinline__ void attend_tile(const Attention& s, const float* queries, const u16* cache, const u32* blocks, float* out, float* partial, int rows) {
    const int WIDTH = 64 * WIDE;
    // First the rounded elements of a vector, then what they were rounded by; what follows keeps rows in different banks.
    __shared__ __align__(16) u16 query[QUERIES][2 * WIDTH + 32];
    // Scores of a block of the cache, which become weights: 64 rounded ones, then what they were rounded by.
    __shared__ __align__(16) float scores[QUERIES][KV_BLOCK + 8];
    __shared__ float greatest[QUERIES], total[QUERIES], factor[QUERIES];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int kv_head = blockIdx.y, splits = gridDim.z, split = blockIdx.z;
    int shared_by = s.heads / s.kv_heads, vectors = rows * shared_by, first = blockIdx.x * QUERIES;
    float scale = rsqrtf((float)s.head_dim);
#pragma unroll 1
    for (int q = warp; q < QUERIES; q += WIDE) {
        // All vectors behind the last one are that.
        int vector = min(first + q, vectors - 1);
        const float* own = queries + ((u64)(vector / shared_by) * s.heads + kv_head * shared_by + vector % shared_by) * s.query_width;
        for (int i = 2 * lane; i < WIDTH; i += 64) {
            float low = i < s.head_dim ? own[i] * scale : 0.f, high = i < s.head_dim ? own[i + 1] * scale : 0.f;
            split_f16(low, high, *(u32*)&query[q][i], *(u32*)&query[q][WIDTH + i]);
        }
        if (lane == 0) greatest[q] = -3e38f, total[q] = 0.f;
    }
    __syncthreads();
    int start = *s.start, len = start + min(first + QUERIES - 1, vectors - 1) / shared_by + 1;
    int count = (len + KV_BLOCK - 1) / KV_BLOCK, share = (count + splits - 1) / splits;
    int end = min(count, (split + 1) * share);
    // Of queries 16 m to 16 m + 15, columns 8 c + n of the warp's 64 for each column c of fragment n.
    float acc[2][8][4];
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
            for (int i = 0; i < 4; i++) acc[m][n][i] = 0.f;
        }
    }
#pragma unroll 1
    for (int block = split * share; block < end; block++) {
        const u16* keys = cached(s, cache, blocks, KV_BLOCK * block, kv_head, 0);
#pragma unroll 1
        for (int n = warp; n < KV_BLOCK / 8; n += WIDE) {
            float d[2][4];
            for (int i = 0; i < 4; i++) d[0][i] = d[1][i] = 0.f;
#pragma unroll 2
            for (int i = 8 * t; i < WIDTH; i += 32) {
                uint4 b = {0, 0, 0, 0};
                if (i < s.head_dim) b = *(const uint4*)(keys + (8 * n + g) * s.head_dim + i);
#pragma unroll
                for (int m = 0; m < 2; m++) {
#pragma unroll
                    for (int rest = 0; rest < 2; rest++) {
                        uint4 low = *(const uint4*)&query[16 * m + g][WIDTH * rest + i];
                        uint4 high = *(const uint4*)&query[16 * m + g + 8][WIDTH * rest + i];
                        u32 a[2][4] = {{low.x, high.x, low.y, high.y}, {low.z, high.z, low.w, high.w}};
                        mma_eight(d[m], a, b);
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < 2; m++) {
                *(float2*)&scores[16 * m + g][8 * n + 2 * t] = make_float2(d[m][0], d[m][1]);
                *(float2*)&scores[16 * m + g + 8][8 * n + 2 * t] = make_float2(d[m][2], d[m][3]);
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int q = warp; q < QUERIES; q += WIDE) {
            // Positions of the block up to that of the query's row.
            int seen = start + min(first + q, vectors - 1) / shared_by + 1 - KV_BLOCK * block;
            float a = 2 * lane < seen ? scores[q][2 * lane] : -3e38f, b = 2 * lane + 1 < seen ? scores[q][2 * lane + 1] : -3e38f;
            float before = greatest[q], now = fmaxf(before, warp_max(fmaxf(a, b)));
            a = 2 * lane < seen ? expf(a - now) : 0.f;
            b = 2 * lane + 1 < seen ? expf(b - now) : 0.f;
            float sum = warp_sum(a + b);
            u32* weights = (u32*)scores[q];
            split_f16(a, b, weights[lane], weights[KV_BLOCK / 2 + lane]);
            if (lane == 0) {
                float by = expf(before - now);
                greatest[q] = now, factor[q] = by, total[q] = total[q] * by + sum;
            }
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float low = factor[16 * m + g], high = factor[16 * m + g + 8];
#pragma unroll
            for (int n = 0; n < 8; n++) acc[m][n][0] *= low, acc[m][n][1] *= low, acc[m][n][2] *= high, acc[m][n][3] *= high;
        }
        int column = 64 * warp + 8 * g;
        const u16* values = cached(s, cache, blocks, KV_BLOCK * block, kv_head, 1) + column;
#pragma unroll 1
        for (int p = 4 * t; p < KV_BLOCK; p += 16) {
            // A lane has four positions, two in the first and two in the second half of the instruction's.
            uint4 v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint4 none = {0, 0, 0, 0};
                v[i] = none;
                if (column < s.head_dim && KV_BLOCK * block + p + i < len) v[i] = *(const uint4*)(values + (p + i) * s.head_dim);
            }
            u32 a[2][2][4];
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
                for (int rest = 0; rest < 2; rest++) {
                    uint2 low = *(const uint2*)((const u16*)scores[16 * m + g] + KV_BLOCK * rest + p);
                    uint2 high = *(const uint2*)((const u16*)scores[16 * m + g + 8] + KV_BLOCK * rest + p);
                    a[m][rest][0] = low.x, a[m][rest][1] = high.x, a[m][rest][2] = low.y, a[m][rest][3] = high.y;
                }
            }
#pragma unroll
            for (int n = 0; n < 8; n++) {
                u32 halves = n % 2 ? 0x7632 : 0x5410;
                u32 b[2] = {__byte_perm(word_of(v[0], n / 2), word_of(v[1], n / 2), halves), __byte_perm(word_of(v[2], n / 2), word_of(v[3], n / 2), halves)};
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma_f16(acc[m][n], a[m][0], b);
                    mma_f16(acc[m][n], a[m][1], b);
                }
            }
        }
        __syncthreads();
    }
    int width = splits == 1 ? s.head_dim : s.head_dim + 2;
#pragma unroll
    for (int part = 0; part < 4; part++) {
        int q = 8 * part + g, vector = first + q;
        if (vector >= vectors) continue;
        u64 head = (u64)(vector / shared_by) * s.heads + kv_head * shared_by + vector % shared_by;
        float* to = splits == 1 ? out + head * width : partial + (head * splits + split) * width;
        float by = splits == 1 ? 1.f / total[q] : 1.f;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int column = 64 * warp + 8 * (2 * t + c);
            if (column < s.head_dim) {
#pragma unroll
                for (int n = 0; n < 8; n++) to[column + n] = acc[part / 2][n][part % 2 * 2 + c] * by;
            }
        }
        if (splits > 1 && warp == 0 && t == 0) to[s.head_dim] = greatest[q], to[s.head_dim + 1] = total[q];
    }
    if (splits > 1 || s.query_width == s.head_dim) return;
    __syncthreads();
    for (int i = threadIdx.x; i < QUERIES * s.head_dim; i += blockDim.x) {
        int vector = first + i / s.head_dim, column = i % s.head_dim;
        if (vector >= vectors) break;
        u64 head = (u64)(vector / shared_by) * s.heads + kv_head * shared_by + vector % shared_by;
        out[head * s.head_dim + column] *= sigmoid(queries[head * s.query_width + s.head_dim + column]);
    }
}
