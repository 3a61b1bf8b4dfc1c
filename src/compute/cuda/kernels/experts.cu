// Mixture of experts: which experts a row visits, and the sum of what they return.
#include "common.cuh"

// The `top_k` greatest of each row of logits, `[rows, experts]`, which become probabilities: their indices and weights,
// `[rows, top_k]`. Of equal ones the first counts. A warp for each row.
extern "C" __global__ void __launch_bounds__(32) route(float* logits, u32* chosen, float* weights, int experts, int top_k, int normalize) {
    int lane = threadIdx.x;
    float* p = logits + (u64)blockIdx.x * experts;
    chosen += (u64)blockIdx.x * top_k;
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
        if (lane == 0) chosen[k] = at, weights[k] = best;
    }
    __syncwarp();
    if (normalize) {
        for (int k = lane; k < top_k; k += 32) weights[k] /= total;
    }
}

// `x[i] += sum over k of weights[i, k] y[i, k]`; `y` is `[rows, top_k, width]`.
extern "C" __global__ void __launch_bounds__(256) combine(float* x, const float* y, const float* weights, int top_k, int width) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    float sum = 0.f;
    for (int k = 0; k < top_k; k++) {
        u64 v = (u64)blockIdx.y * top_k + k;
        sum += weights[v] * y[v * width + i];
    }
    x[(u64)blockIdx.y * width + i] += sum;
}
