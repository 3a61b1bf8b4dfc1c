// Mixture of experts: which experts a row visits.
#include "common.cuh"

// The `top_k` greatest of each row of logits, `[rows, experts]`, which become probabilities: their indices, slots and
// weights, `[rows, top_k]`. The slot of an expert is `table[expert]`, negative where it has none; without a table it is its
// index. Of equal experts the first counts. A warp for each row.
extern "C" __global__ void __launch_bounds__(32) route(float* logits, const int* table, u32* chosen, int* slots, float* weights, int experts, int top_k, int normalize) {
    int lane = threadIdx.x;
    float* p = logits + (u64)blockIdx.x * experts;
    chosen += (u64)blockIdx.x * top_k;
    slots += (u64)blockIdx.x * top_k;
    weights += (u64)blockIdx.x * top_k;
    float most = -3e38f, sum = 0.f;
    for (int e = lane; e < experts; e += 32) most = fmaxf(most, p[e]);
    most = warp_max(most);
    for (int e = lane; e < experts; e += 32) {
        p[e] = expf(p[e] - most);
        sum += p[e];
    }
    sum = warp_sum(sum);
    for (int e = lane; e < experts; e += 32) p[e] /= sum;
    float total = 0.f;
    for (int k = 0; k < top_k; k++) {
        float best = -1.f;
        int at = experts;
        for (int e = lane; e < experts; e += 32) {
            if (p[e] > best) best = p[e], at = e;
        }
        for (int m = 16; m; m >>= 1) {
            float other = __shfl_xor_sync(~0u, best, m);
            int other_at = __shfl_xor_sync(~0u, at, m);
            if (other > best || (other == best && other_at < at)) best = other, at = other_at;
        }
        // What is no number at all is greater than nothing.
        if (at >= experts) at = k, best = __uint_as_float(0x7fc00000);
        total += best;
        if (at % 32 == lane) p[at] = -1.f;
        if (lane == 0) chosen[k] = at, slots[k] = table ? table[at] : at, weights[k] = best;
    }
    __syncwarp();
    if (normalize) {
        for (int k = lane; k < top_k; k += 32) weights[k] /= total;
    }
}

// Threads of the block that sorts visits, and neighbouring slots of each: as many slots as `EXPERTS_MAX` of
// `compute/cuda/grouping.rs`.
static const int SORTING_THREADS = 256, SLOTS_OF_THREAD = 4;

// Puts visits of the same slot together: `slots[v]` is that of visit v, negative ones are left out, and `order` has those of slot
// 0, then those of slot 1 and so on. Each of the tiles is `{slot, first, count, -}`: `count` visits of a slot, at most TILE_ROWS,
// from place `first` of the order on; those of the `tile_count` tiles that are not needed have none. One block.
extern "C" __global__ void __launch_bounds__(SORTING_THREADS) sort_visits(const int* slots, u32* order, int4* tiles, int visits, int tile_count) {
    // How many visits each slot has, then where the next one of them belongs; and what all threads up to each have.
    __shared__ int next[SORTING_THREADS * SLOTS_OF_THREAD], ends[SORTING_THREADS], tile_ends[SORTING_THREADS];
    int thread = threadIdx.x, first_slot = thread * SLOTS_OF_THREAD;
    for (int j = 0; j < SLOTS_OF_THREAD; j++) next[first_slot + j] = 0;
    __syncthreads();
    for (int v = thread; v < visits; v += SORTING_THREADS) {
        if (slots[v] >= 0) atomicAdd(&next[slots[v]], 1);
    }
    __syncthreads();
    int own = 0, own_tiles = 0;
    for (int j = 0; j < SLOTS_OF_THREAD; j++) {
        int count = next[first_slot + j];
        own += count, own_tiles += (count + TILE_ROWS - 1) / TILE_ROWS;
    }
    ends[thread] = own, tile_ends[thread] = own_tiles;
    __syncthreads();
    for (int step = 1; step < SORTING_THREADS; step *= 2) {
        int before = thread >= step ? ends[thread - step] : 0, tiles_before = thread >= step ? tile_ends[thread - step] : 0;
        __syncthreads();
        ends[thread] += before, tile_ends[thread] += tiles_before;
        __syncthreads();
    }
    int first = ends[thread] - own, at = tile_ends[thread] - own_tiles;
    for (int j = 0; j < SLOTS_OF_THREAD; j++) {
        int slot = first_slot + j, count = next[slot];
        for (int n = 0; n < count; n += TILE_ROWS) {
            int4 tile = {slot, first + n, min(TILE_ROWS, count - n), 0};
            tiles[at++] = tile;
        }
        next[slot] = first;
        first += count;
    }
    for (int n = tile_ends[SORTING_THREADS - 1] + thread; n < tile_count; n += SORTING_THREADS) {
        int4 none = {0, 0, 0, 0};
        tiles[n] = none;
    }
    __syncthreads();
    for (int v = thread; v < visits; v += SORTING_THREADS) {
        if (slots[v] >= 0) order[atomicAdd(&next[slots[v]], 1)] = v;
    }
}

// `x[i] += sum over k of weights[i, k] outputs[i, k]` for rows of `width`; visits of a negative place are left out, where
// there are `places`. A thread for each column (`x`) of each row (`y`).
extern "C" __global__ void __launch_bounds__(256) combine(const float* outputs, const float* weights, const int* places, float* x, int top_k, int width) {
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= width) return;
    float total = 0.f;
    for (int k = 0; k < top_k; k++) {
        int v = blockIdx.y * top_k + k;
        if (places && places[v] < 0) continue;
        total += weights[v] * outputs[(u64)v * width + col];
    }
    x[(u64)blockIdx.y * width + col] += total;
}

// Brings what the host needs to compute with experts to memory of the host that is mapped, and then says so by the number
// of the message, which is counted on the device. One block.
extern "C" __global__ void __launch_bounds__(256) publish(const float* normed, const u32* chosen, const float* weights, float* to_normed, u32* to_chosen, float* to_weights, int values, int visits, u32* flag, u32* number) {
    for (int i = threadIdx.x; i < values; i += blockDim.x) to_normed[i] = normed[i];
    for (int i = threadIdx.x; i < visits; i += blockDim.x) to_chosen[i] = chosen[i], to_weights[i] = weights[i];
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) store_release_system(flag, ++*number);
}
