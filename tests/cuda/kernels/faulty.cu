// Kernels that are wrong, each in its way, for the emulator to find.
#include "device.cuh"

/// Reads what others wrote without waiting for them: 256 threads.
extern "C" __global__ void missing_barrier(float* out) {
    __shared__ float values[256];
    values[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = values[255 - threadIdx.x];
}

/// Half of the block never comes.
extern "C" __global__ void divergent_barrier(float* out) {
    if (threadIdx.x < blockDim.x / 2) __syncthreads();
    out[threadIdx.x] = 1;
}

/// Lanes of one warp wait for each other at different instructions.
extern "C" __global__ void divergent_lanes(float* out) {
    float value = threadIdx.x;
    if (threadIdx.x % 2)
        value = __shfl_xor_sync(~0u, value, 1);
    else
        __syncwarp();
    out[threadIdx.x] = value;
}

/// Writes the number of floats that it is told to.
extern "C" __global__ void fill(float* out, int count) {
    for (int at = threadIdx.x; at < count; at += blockDim.x) out[at] = 1;
}

/// The same in dynamic shared memory.
extern "C" __global__ void fill_shared(float* out, int count) {
    DYNAMIC_SHARED(float, values);
    for (int at = threadIdx.x; at < count; at += blockDim.x) values[at] = 1;
    __syncthreads();
    out[threadIdx.x] = values[0];
}

/// Copies shared memory, static and dynamic, that was never set: 64 floats.
extern "C" __global__ void unset_shared(float* out) {
    __shared__ float fixed[32];
    DYNAMIC_SHARED(float, dynamic);
    out[threadIdx.x] = fixed[threadIdx.x];
    out[threadIdx.x + 32] = dynamic[threadIdx.x];
    __syncthreads();
    fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
}

/// Reads the target of a copy that it does not wait for, then waits.
extern "C" __global__ void early_read(const float* in, float* out) {
    __shared__ __align__(16) float copied[4];
    cp_async16(copied, in);
    cp_async_commit();
    out[0] = copied[0];
    cp_async_wait<0>();
    out[1] = copied[1];
}

/// A vector at an address that is aligned for its elements only.
extern "C" __global__ void misaligned(const float* in, float* out) {
    float4 value = *reinterpret_cast<const float4*>(in + 1);
    out[threadIdx.x] = value.x + value.y + value.z + value.w;
}

extern "C" __global__ void out_of_bounds(float* out, int at) {
    __shared__ float values[8];
    if (threadIdx.x == 0) values[at] = 1;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x % 8];
}

extern "C" __global__ void trap(float* out) {
    out[threadIdx.x] = 1;
    if (threadIdx.x == 3) __trap();
}

/// Waits for a number that the host writes, without an end.
extern "C" __global__ void wait_for_host(const u32* number, u32* out) {
    while (!load_acquire_system(number)) __nanosleep(100);
    out[threadIdx.x] = 1;
}
