// Gated DeltaNet between its projections.
#include "common.cuh"

// Elements of the widest key for each lane of a warp.
static const int PER_LANE = 8;

// See `Delta` of `compute/cuda/delta.rs`.
struct Delta {
    int key_heads, value_heads, key_dim, value_dim;
    // Taps of the convolution.
    int taps;
    // Whether value head j uses key head `j % key_heads`, not `j / (value_heads / key_heads)`.
    int tiled;
    float eps;
    int rows;
};

__device__ __forceinline__ int channels_of(const Delta& s) { return 2 * s.key_heads * s.key_dim + s.value_heads * s.value_dim; }

// From projected rows grouped by key head, `[q | k | v R | z R]` each, to `[q of all heads | k of all heads | v of all
// heads]` and z. A thread for each column (`x`) of each row (`y`).
extern "C" __global__ void __launch_bounds__(256) ungroup(Delta s, const float* grouped, float* channels, float* z) {
    int values = s.value_heads / s.key_heads * s.value_dim, group = 2 * s.key_dim + 2 * values;
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= s.key_heads * group) return;
    int head = col / group, at = col % group, keys = s.key_heads * s.key_dim;
    float v = grouped[(u64)blockIdx.y * s.key_heads * group + col];
    float* out = channels + (u64)blockIdx.y * channels_of(s);
    if (at < s.key_dim) {
        out[head * s.key_dim + at] = v;
    } else if (at < 2 * s.key_dim) {
        out[keys + head * s.key_dim + at - s.key_dim] = v;
    } else if (at < 2 * s.key_dim + values) {
        out[2 * keys + head * values + at - 2 * s.key_dim] = v;
    } else {
        z[(u64)blockIdx.y * s.value_heads * s.value_dim + head * values + at - 2 * s.key_dim - values] = v;
    }
}

// Channel `c` of input `i` of the convolution: what was before the first row counts first.
__device__ __forceinline__ float conv_input(const Delta& s, const float* past, const float* rows, int i, int c) {
    int channels = channels_of(s), before = s.taps - 1;
    return i < before ? past[(u64)i * channels + c] : rows[(u64)(i - before) * channels + c];
}

// Causal depthwise convolution and SiLU. A thread for each channel (`x`) of each row (`y`).
extern "C" __global__ void __launch_bounds__(256) convolve(Delta s, const float* past, const float* rows, const float* kernel, float* out) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, channels = channels_of(s), row = blockIdx.y;
    if (c >= channels) return;
    float sum = 0.f;
    for (int tap = 0; tap < s.taps; tap++) sum += kernel[tap * channels + c] * conv_input(s, past, rows, row + tap, c);
    out[(u64)row * channels + c] = silu(sum);
}

// The state of the convolution after `at` rows. A thread for each channel (`x`) of each input (`y`).
extern "C" __global__ void __launch_bounds__(256) conv_state(Delta s, const float* past, const float* rows, float* out, int at) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, channels = channels_of(s);
    if (c < channels) out[(u64)blockIdx.y * channels + c] = conv_input(s, past, rows, at + blockIdx.y, c);
}

// `[channels | ba]` of rows `first` on, as they are saved. A thread for each column (`x`) of each row (`y`).
template <class T> __device__ __forceinline__ void trace(const Delta& s, const float* channels, const float* ba, T* out, int first) {
    int col = blockIdx.x * blockDim.x + threadIdx.x, row = first + blockIdx.y, width = channels_of(s), heads = 2 * s.value_heads;
    if (col >= width + heads) return;
    float v = col < width ? channels[(u64)row * width + col] : ba[(u64)row * heads + col - width];
    store(out + (u64)blockIdx.y * (width + heads) + col, v);
}

extern "C" __global__ void __launch_bounds__(256) trace_f32(Delta s, const float* channels, const float* ba, float* out, int first) { trace(s, channels, ba, out, first); }
extern "C" __global__ void __launch_bounds__(256) trace_f16(Delta s, const float* channels, const float* ba, u16* out, int first) { trace(s, channels, ba, out, first); }

// The other way round, from row 0 on.
template <class T> __device__ __forceinline__ void untrace(const Delta& s, const T* from, float* channels, float* ba) {
    int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, width = channels_of(s), heads = 2 * s.value_heads;
    if (col >= width + heads) return;
    float v = load(from + (u64)row * (width + heads) + col);
    if (col < width) {
        channels[(u64)row * width + col] = v;
    } else {
        ba[(u64)row * heads + col - width] = v;
    }
}

extern "C" __global__ void __launch_bounds__(256) untrace_f32(Delta s, const float* from, float* channels, float* ba) { untrace(s, from, channels, ba); }
extern "C" __global__ void __launch_bounds__(256) untrace_f16(Delta s, const u16* from, float* channels, float* ba) { untrace(s, from, channels, ba); }

// Normalises the queries and keys among convolved channels, in place; queries are scaled too. A warp for each head of
// queries, then of keys (`x`), of each row (`y`).
extern "C" __global__ void __launch_bounds__(32) normalize(Delta s, float* channels) {
    float* x = channels + (u64)blockIdx.y * channels_of(s) + (u64)blockIdx.x * s.key_dim;
    float sum = 0.f;
    for (int i = threadIdx.x; i < s.key_dim; i += 32) sum += x[i] * x[i];
    float factor = rsqrtf(warp_sum(sum) + 1e-6f);
    if (blockIdx.x < s.key_heads) factor *= rsqrtf((float)s.key_dim);
    for (int i = threadIdx.x; i < s.key_dim; i += 32) x[i] *= factor;
}

// From `[b of all heads | a of all heads]` to beta and the decay itself, in place. A thread for each of all heads.
extern "C" __global__ void __launch_bounds__(256) gates(Delta s, float* ba, const float* decay, const float* dt_bias) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.rows * s.value_heads) return;
    int head = i % s.value_heads;
    float* row = ba + (u64)(i / s.value_heads) * 2 * s.value_heads;
    row[head] = sigmoid(row[head]);
    row[s.value_heads + head] = expf(decay[head] * softplus(row[s.value_heads + head] + dt_bias[head]));
}

// The recurrence over rows `first` to `end`, from state `before` to `after`, `[value_heads, value_dim, key_dim]` each, which
// may be one. A warp for each column of a head's state: `blockIdx.y` is the head. `out` is `[rows, value_heads, value_dim]`.
extern "C" __global__ void __launch_bounds__(128) delta_rule(Delta s, const float* channels, const float* gates, const float* before, float* after, float* out, int first, int end) {
    int col = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
    if (col >= s.value_dim) return;
    int key_head = s.tiled ? head % s.key_heads : head / (s.value_heads / s.key_heads);
    int width = channels_of(s), keys = s.key_heads * s.key_dim;
    u64 own = ((u64)head * s.value_dim + col) * s.key_dim;
    float state[PER_LANE];
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) state[j] = lane + 32 * j < s.key_dim ? before[own + lane + 32 * j] : 0.f;
    for (int row = first; row < end; row++) {
        const float* q = channels + (u64)row * width + key_head * s.key_dim;
        const float* k = q + keys;
        float v = channels[(u64)row * width + 2 * keys + head * s.value_dim + col];
        float beta = gates[(u64)row * 2 * s.value_heads + head], decay = gates[((u64)row * 2 + 1) * s.value_heads + head];
        float key[PER_LANE], sum = 0.f;
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) {
            key[j] = lane + 32 * j < s.key_dim ? k[lane + 32 * j] : 0.f;
            sum += state[j] * key[j];
        }
        float delta = (v - decay * warp_sum(sum)) * beta;
        sum = 0.f;
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) {
            state[j] = decay * state[j] + key[j] * delta;
            if (lane + 32 * j < s.key_dim) sum += state[j] * q[lane + 32 * j];
        }
        sum = warp_sum(sum);
        if (lane == 0) out[((u64)row * s.value_heads + head) * s.value_dim + col] = sum;
    }
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) {
        if (lane + 32 * j < s.key_dim) after[own + lane + 32 * j] = state[j];
    }
}

// `out = norm(out) * silu(z)`, a warp for each head (`x`) of each row (`y`).
extern "C" __global__ void __launch_bounds__(32) gated_norm(Delta s, float* out, const float* z, const float* weight) {
    u64 own = ((u64)blockIdx.y * s.value_heads + blockIdx.x) * s.value_dim;
    float sum = 0.f;
    for (int i = threadIdx.x; i < s.value_dim; i += 32) sum += out[own + i] * out[own + i];
    float factor = rsqrtf(warp_sum(sum) / (float)s.value_dim + s.eps);
    for (int i = threadIdx.x; i < s.value_dim; i += 32) out[own + i] = out[own + i] * factor * weight[i] * silu(z[own + i]);
}
