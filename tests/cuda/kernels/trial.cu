// Kernels by which the emulator's own tests see that it computes what a device would.
#include "device.cuh"

extern "C" __global__ void add(const float* a, const float* b, float* sum, int count) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) sum[at] = a[at] + b[at];
}

/// One row a block; its length is that of the dynamic shared memory.
extern "C" __global__ void rms_norm(const float* rows, const float* weights, u16* out, int count, float epsilon) {
    __shared__ float partial[32];
    DYNAMIC_SHARED(float, row);
    const float* in = rows + static_cast<u64>(blockIdx.x) * count;
    float sum = 0;
    for (int at = threadIdx.x; at < count; at += blockDim.x) {
        row[at] = in[at];
        sum += in[at] * in[at];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : 0.f);
    float scale = rsqrtf(sum / count + epsilon);
    for (int at = threadIdx.x; at < count; at += blockDim.x)
        out[static_cast<u64>(blockIdx.x) * count + at] = f32_to_bf16(row[at] * scale * weights[at]);
}

/// c = a b^T for 16 rows of a and 8 of b, each of `depth` bf16: one warp, the next 16 columns on their way meanwhile.
extern "C" __global__ void __launch_bounds__(32) matmul_tile(const u16* a, const u16* b, float* c, int depth) {
    __shared__ __align__(16) u16 tile_a[2][16 * 16];
    __shared__ __align__(16) u16 tile_b[2][8 * 16];
    int lane = threadIdx.x;
    float sum[4] = {};
    auto fetch = [&](int half, int column) {
        int row = lane / 2, part = lane % 2 * 8;
        cp_async16(&tile_a[half][row * 16 + part], a + row * depth + column + part);
        if (row < 8) cp_async16(&tile_b[half][row * 16 + part], b + row * depth + column + part);
        cp_async_commit();
    };
    fetch(0, 0);
    for (int column = 0, half = 0; column < depth; column += 16, half ^= 1) {
        if (column + 16 < depth) {
            fetch(half ^ 1, column + 16);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncwarp();
        u32 left[4], right[2];
        ldmatrix_x4(left, &tile_a[half][lane % 16 * 16 + lane / 16 * 8]);
        ldmatrix_x2(right, &tile_b[half][lane % 8 * 16 + lane / 8 % 2 * 8]);
        mma_bf16(sum, left, right);
        __syncwarp();
    }
    int row = lane / 4, column = lane % 4 * 2;
    c[row * 8 + column] = sum[0];
    c[row * 8 + column + 1] = sum[1];
    c[(row + 8) * 8 + column] = sum[2];
    c[(row + 8) * 8 + column + 1] = sum[3];
}

/// Says that it runs, waits for the host's number, and answers with its double.
extern "C" __global__ void answer_host(u32* running, const u32* number, u32* answer) {
    if (threadIdx.x) return;
    store_release_system(running, 1);
    u32 value;
    while (!(value = load_acquire_system(number))) __nanosleep(200);
    store_release_system(answer, 2 * value);
}

/// Adds the number of each block's threads, in the order in which blocks come to an end.
extern "C" __global__ void count_blocks(u32* ended, u32* order) {
    __syncthreads();
    if (threadIdx.x == 0) order[atomicAdd(ended, 1u)] = blockIdx.x;
}
