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
        if (m.scale_cols % 8 == 0) {
            float scale = scales[8 * g / m.scale_cols];
            for (int j = 0; j < 8; j++) w[j] *= scale;
        } else {
            for (int j = 0; j < 8; j++) {
                int col = 8 * g + j;
                if (col < m.cols) w[j] *= scales[col / m.scale_cols];
            }
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

// What becomes of a product `W x`: see `Output` of `compute/cuda/matrix.rs`.
struct Output {
    // `[batch, rows]`
    float* y;
    // Laid out as `y`: the product is multiplied by silu of it; null without.
    const float* gate;
    // Of each row of the batch: the product is multiplied by sigmoid of it; null without.
    const float* factor;
    // Whether it is added to what is there.
    int adds;
};

// Sums of the products of row `row` with R rows of activations, of which `count` are there.
template <class T, int R>
__device__ __forceinline__ void products(const Matrix& m, int row, const float* x, int count, float* sums) {
    int lane = threadIdx.x % 32, groups = (m.cols + 7) / 8;
    for (int g = lane; g < groups; g += 32) {
        float w[8], a[8];
        weights8<T>(m, row, g, w);
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (r < count) {
                activations8<T>(x + (u64)r * m.cols, m.cols, g, a);
                for (int j = 0; j < 8; j++) sums[r] += w[j] * a[j];
            }
        }
    }
}

// Writes output `row` of the `rows` that row `of` of the batch has.
__device__ __forceinline__ void finish(const Output& out, float product, u64 of, int rows, int row) {
    u64 at = of * rows + row;
    if (out.gate) product *= silu(out.gate[at]);
    if (out.factor) product *= sigmoid(out.factor[of]);
    out.y[at] = out.adds ? out.y[at] + product : product;
}

// Each of N sums over the warp, in the lane of its number.
template <int N> __device__ __forceinline__ float warp_sums(const float* sums) {
    float own = 0.f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float sum = warp_sum(sums[i]);
        if (threadIdx.x % 32 == i) own = sum;
    }
    return own;
}

// The row of a matrix that a warp computes with, of the blocks of a grid.
__device__ __forceinline__ int own_row() { return blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }

// The n-th of equal matrices.
__device__ __forceinline__ Matrix nth(Matrix m, int n) {
    m.values += n * m.next_values;
    if (m.scales) m.scales += n * m.next_scales;
    return m;
}

// `W x[i]` for the R rows of `x` from `blockIdx.y * R` on, `[batch, cols]`. A warp computes one output of each.
template <class T, int R>
__device__ __forceinline__ void matmul(const Matrix& m, const float* x, const Output& out, int batch) {
    int row = own_row();
    if (row >= m.rows) return;
    int first = blockIdx.y * R;
    float sums[R];
#pragma unroll
    for (int r = 0; r < R; r++) sums[r] = 0.f;
    products<T, R>(m, row, x + (u64)first * m.cols, batch - first, sums);
    float sum = warp_sums<R>(sums);
    int r = threadIdx.x % 32;
    if (r < min(R, batch - first)) finish(out, sum, first + r, m.rows, row);
}

// `W_s x[v / top_k]` for visit v = `blockIdx.y` of the expert in slot s = `slots[v]`; nothing where that is negative.
template <class T>
__device__ __forceinline__ void visit(const Matrix& m, const int* slots, int top_k, const float* x, const Output& out) {
    int v = blockIdx.y, row = own_row(), slot = slots[v];
    if (slot < 0 || row >= m.rows) return;
    float sum = 0.f;
    products<T, 1>(nth(m, slot), row, x + (u64)(v / top_k) * m.cols, 1, &sum);
    sum = warp_sum(sum);
    u64 at = (u64)v * m.rows + row;
    if (out.gate) sum *= silu(out.gate[at]);
    if (threadIdx.x % 32 == 0) out.y[at] = sum;
}

// `y[i] += sum over k of weights[i, k] W_s x[i, k]` for row i = `blockIdx.y` and slots s = `slots[i, k]` that are not
// negative.
template <class T>
__device__ __forceinline__ void gather(const Matrix& m, const int* slots, const float* weights, int top_k, const float* x, float* y) {
    int row = own_row();
    if (row >= m.rows) return;
    float total = 0.f;
#pragma unroll 1
    for (int k = 0; k < top_k; k++) {
        int v = blockIdx.y * top_k + k, slot = slots[v];
        if (slot < 0) continue;
        float sum = 0.f;
        products<T, 1>(nth(m, slot), row, x + (u64)v * m.cols, 1, &sum);
        total += weights[v] * sum;
    }
    total = warp_sum(total);
    if (threadIdx.x % 32 == 0) y[(u64)blockIdx.y * m.rows + row] += total;
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
