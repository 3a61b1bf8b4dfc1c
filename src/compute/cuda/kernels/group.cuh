// Products of many rows of activations with a matrix, or with that of the expert which each of them visits: each weight is
// read once for a tile of rows.
#pragma once
#include "matrix.cuh"

// Warps of a block: as `WARPS` of `compute/cuda/matrix.rs`.
static const int WARPS = 8;

// Rows of activations: see `Input` of `compute/cuda/matrix.rs`.
struct Input {
    // `[rows, cols]`
    const float* rows;
    // The same in f16, as `pack_rows` leaves them.
    const uint4* packed;
    // Of each row: what sums of its packed elements are multiplied by.
    const float* scales;
};

// Which rows of the input are multiplied, and with which matrix.
struct Rows {
    // `{s, first, count, -}` for each tile: `count` visits from place `first` of the order on, of the expert in place s; some
    // may have none. Null where all `batch` rows are multiplied with one matrix.
    const int4* tiles;
    // Visits by expert. Rows of the output are visits; visit v is of row `v / divisor` of the input.
    const u32* order;
    int divisor, batch;
};

__device__ __forceinline__ int4 own_tile(const Rows& rows) {
    if (rows.tiles) return rows.tiles[blockIdx.y];
    int first = blockIdx.y * TILE_ROWS;
    int4 tile = {0, first, min(TILE_ROWS, rows.batch - first), 0};
    return tile;
}

// The visit at a place of the order.
__device__ __forceinline__ u32 visit_at(const Rows& rows, int place) { return rows.order ? rows.order[place] : (u32)place; }

// By f32 arithmetic. A warp computes an output of each row of a tile (`blockIdx.y`), four rows at a time.
template <class T> __device__ __forceinline__ void group_exact(const Matrix& m, const Rows& rows, const Input& x, const Output& out) {
    int row = own_row();
    int4 tile = own_tile(rows);
    if (row >= m.rows || tile.z == 0) return;
    Matrix own = nth(m, tile.x);
    int groups = (m.cols + 7) / 8;
#pragma unroll 1
    for (int first = 0; first < tile.z; first += 4) {
        const float* from[4];
        float sums[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            from[r] = x.rows + (u64)(visit_at(rows, tile.y + min(first + r, tile.z - 1)) / rows.divisor) * m.cols;
            sums[r] = 0.f;
        }
        for (int g = threadIdx.x % 32; g < groups; g += 32) {
            float w[8], a[8];
            weights8<T>(own, row, g, w);
#pragma unroll
            for (int r = 0; r < 4; r++) {
                activations8<T>(from[r], m.cols, g, a);
                for (int j = 0; j < 8; j++) sums[r] += w[j] * a[j];
            }
        }
        float sum = warp_sums<4>(sums);
        int r = threadIdx.x % 32;
        if (r < min(4, tile.z - first)) finish(out, sum, visit_at(rows, tile.y + first + r), m.rows, row);
    }
}

// Whether f16 has all digits of the weights of a type.
template <class T> struct FitsF16 { static const bool VALUE = false; };
template <> struct FitsF16<F16> { static const bool VALUE = true; };
template <> struct FitsF16<BF16> { static const bool VALUE = true; };
template <> struct FitsF16<MXFP4> { static const bool VALUE = true; };
template <> struct FitsF16<NVFP4> { static const bool VALUE = true; };

// Rows of weights, and of activations, that an instruction of tensor cores multiplies.
static const int MMA_WEIGHTS = 16, MMA_ROWS = 8;
// Of a tile.
static const int MMAS = TILE_ROWS / MMA_ROWS;
// Columns that a warp takes at a time.
static const int CHUNK = 64;

// On tensor cores. A number is the sum of two in f16, see `split_f16`; products of second ones are left out: they are too
// small to matter. A warp computes 16 outputs (those of 16 rows of weights) of each row of a tile
// (`blockIdx.y`): `splits` warps of a block, a power of two, share the columns of the same outputs, in chunks of 64 in turn.
//
// An operand of the instruction has 16 columns. Which ones is free as long as weights and activations agree: of 32 columns
// lane l has eight l % 4, of which the first four elements are its columns of one instruction, two in the first half and two
// in the second, and the others those of another. So each lane loads whole eights.
//
// Weights of more than 65504 are infinite.
template <class T> __device__ __forceinline__ void group(const Matrix& m, const Rows& rows, const Input& x, const Output& out, int splits) {
    // Sums of each warp: of each fragment the elements of all lanes.
    __shared__ float sums[WARPS][4 * MMAS][32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int4 tile = own_tile(rows);
    if (tile.z == 0) return;
    Matrix own = nth(m, tile.x);
    int outputs = MMA_WEIGHTS * WARPS / splits, first_row = blockIdx.x * outputs;
    int row = first_row + MMA_WEIGHTS * (warp / splits) + g;
    int chunks = (m.cols + CHUNK - 1) / CHUNK, eights = (m.cols + 7) / 8;
    // Where the lane's rows of activations begin.
    u32 at[MMAS];
    float acc[MMAS][4];
#pragma unroll
    for (int n = 0; n < MMAS; n++) {
        int place = tile.y + min(MMA_ROWS * n + g, tile.z - 1);
        at[n] = visit_at(rows, place) / rows.divisor * (CHUNK / 4 * chunks);
        for (int i = 0; i < 4; i++) acc[n][i] = 0.f;
    }
    // All rows of weights behind the last one are that.
    int low = min(row, m.rows - 1), high = min(row + 8, m.rows - 1);
#pragma unroll 1
    for (int chunk = row - g < m.rows ? warp % splits : chunks; chunk < chunks; chunk += splits) {
#pragma unroll 1
        for (int eight = CHUNK / 8 * chunk + t; eight < CHUNK / 8 * (chunk + 1); eight += 4) {
            uint4 b[MMAS], b_rest[MMAS];
#pragma unroll
            for (int n = 0; n < MMAS; n++) {
                // A whole warp does so or does not.
                if (MMA_ROWS * n < tile.z) {
                    b[n] = x.packed[at[n] + 2 * eight - t];
                    b_rest[n] = x.packed[at[n] + 2 * eight - t + 4];
                }
            }
            float w[2][8];
            if (T::LEN >= CHUNK || eight < eights) {
                weights8<T>(own, low, eight, w[0]);
                weights8<T>(own, high, eight, w[1]);
            } else {
                for (int j = 0; j < 8; j++) w[0][j] = w[1][j] = 0.f;
            }
            u32 a[2][4], a_rest[2][4];
#pragma unroll
            for (int i = 0; i < 8; i++) split_f16(w[i % 2][i / 2 * 2], w[i % 2][i / 2 * 2 + 1], a[i / 4][i % 4], a_rest[i / 4][i % 4]);
#pragma unroll
            for (int n = 0; n < MMAS; n++) {
                if (MMA_ROWS * n < tile.z) {
                    mma_eight(acc[n], a, b[n]);
                    mma_eight(acc[n], a, b_rest[n]);
                    if (!FitsF16<T>::VALUE) mma_eight(acc[n], a_rest, b[n]);
                }
            }
        }
    }
#pragma unroll
    for (int n = 0; n < MMAS; n++) {
        for (int i = 0; i < 4; i++) sums[warp][4 * n + i][lane] = acc[n][i];
    }
    __syncthreads();
    // A thread has an output of some of the rows.
    int own_output = threadIdx.x % outputs, r = own_output % MMA_WEIGHTS, of = own_output / MMA_WEIGHTS * splits;
    if (first_row + own_output >= m.rows) return;
    for (int v = threadIdx.x / outputs; v < tile.z; v += blockDim.x / outputs) {
        int fragment = v / MMA_ROWS * 4 + r / 8 * 2 + v % 2, holder = r % 8 * 4 + v % MMA_ROWS / 2;
        float sum = 0.f;
        for (int s = 0; s < splits; s++) sum += sums[of + s][fragment][holder];
        u32 visit = visit_at(rows, tile.y + v);
        finish(out, sum * x.scales[visit / rows.divisor], visit, m.rows, first_row + own_output);
    }
}
