// Products with stored matrices, `[rows, cols]`.
#pragma once
#include "blocks.cuh"

// A matrix, or the first of equal ones: see `Matrix` of `compute/cuda/matrix.rs`.
struct Matrix {
    const u8* values;
    // One for `scale_rows` rows and `scale_cols` columns; null without.
    const float* scales;
    // The codebook of its type; null without.
    const u32* table;
    // Bytes from a row to the next; a multiple of 16 where elements are stored one by one.
    u64 stride;
    // Bytes from the values, and elements from the scales, of a matrix to those of the next.
    u64 next_values, next_scales;
    int rows, cols, scale_rows, scale_cols;
};

// Elements 8 g to 8 g + 7 of a row; what lies past the last column is zero.
template <class T> __device__ __forceinline__ void weights8(const Matrix& m, int row, int g, float* w) {
    const u8* p = m.values + row * m.stride;
    if (T::LEN == 1) {
        T::eight(p, g, m.table, w);
    } else {
        const int per_block = T::LEN < 8 ? 1 : T::LEN / 8;
        T::eight(p + (u64)(g / per_block) * T::BYTES, g % per_block, m.table, w);
    }
    // Blocks have scales of their own.
    if (T::LEN == 1 && m.scales) {
        const float* scales = m.scales + (u64)(row / m.scale_rows) * ((m.cols + m.scale_cols - 1) / m.scale_cols);
        for (int j = 0; j < 8; j++) {
            int col = 8 * g + j;
            if (col < m.cols) w[j] *= scales[col / m.scale_cols];
        }
    }
}

// Activations 8 g to 8 g + 7 of a row of `cols`, zero past the last.
template <class T> __device__ __forceinline__ void activations8(const float* x, int cols, int g, float* out) {
    // Whole blocks are whole eights.
    if (T::LEN > 1 || cols % 8 == 0) {
        float4 a = ((const float4*)x)[2 * g], b = ((const float4*)x)[2 * g + 1];
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else {
        for (int j = 0; j < 8; j++) out[j] = 8 * g + j < cols ? x[8 * g + j] : 0.f;
    }
}

// `y[i] = W x[i]`, or `y[i] += W x[i]`, for the R rows of `x` from `blockIdx.y * R` on. A warp computes one output of
// each; both are dense, `[batch, cols]` and `[batch, rows]`.
template <class T, int R>
__device__ __forceinline__ void matmul(const Matrix& m, const float* x, float* y, int batch, int adds) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= m.rows) return;
    int first = blockIdx.y * R, groups = (m.cols + 7) / 8;
    float sums[R];
#pragma unroll
    for (int r = 0; r < R; r++) sums[r] = 0.f;
    for (int g = lane; g < groups; g += 32) {
        float w[8], a[8];
        weights8<T>(m, row, g, w);
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (first + r < batch) {
                activations8<T>(x + (u64)(first + r) * m.cols, m.cols, g, a);
                for (int j = 0; j < 8; j++) sums[r] += w[j] * a[j];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        if (first + r < batch) {
            float sum = warp_sum(sums[r]);
            float* out = y + (u64)(first + r) * m.rows + row;
            if (lane == 0) *out = adds ? *out + sum : sum;
        }
    }
}

// `y[v] = W_e x[v / shared_by]` for visit v = `blockIdx.y` of expert e = `experts[v]`; without experts all are of the
// one matrix.
template <class T>
__device__ __forceinline__ void visit(Matrix m, const u32* experts, int shared_by, const float* x, float* y) {
    u64 expert = experts[blockIdx.y];
    m.values += expert * m.next_values;
    if (m.scales) m.scales += expert * m.next_scales;
    matmul<T, 1>(m, x + (u64)(blockIdx.y / shared_by) * m.cols - (u64)blockIdx.y * m.cols, y, gridDim.y, 0);
}

// `x[i] = table[tokens[i]]`, one block for each i.
template <class T> __device__ __forceinline__ void embed(const Matrix& m, const u32* tokens, float* x) {
    int row = tokens[blockIdx.x];
    float* out = x + (u64)blockIdx.x * m.cols;
    for (int g = threadIdx.x; g < (m.cols + 7) / 8; g += blockDim.x) {
        float w[8];
        weights8<T>(m, row, g, w);
        for (int j = 0; j < 8; j++) {
            if (8 * g + j < m.cols) out[8 * g + j] = w[j];
        }
    }
}
