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

// The key head of a value head.
__device__ __forceinline__ int key_head_of(const Delta& s, int head) { return s.tiled ? head % s.key_heads : head / (s.value_heads / s.key_heads); }

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
    int key_head = key_head_of(s, head), width = channels_of(s), keys = s.key_heads * s.key_dim;
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

// The same in chunks of rows. With S the state before a chunk, G_i the product of the decays of its rows up to i, and D_ij that
// of rows behind j up to i, its rows add `k_j u_j^T` to the state, where
//   u_i = beta_i (v_i - G_i S^T k_i - sum_{j<i} D_ij (k_i . k_j) u_j),
//   o_i = G_i S^T q_i + sum_{j<=i} D_ij (q_i . k_j) u_j, and after it
//   S = G_last S + sum_j D_last,j k_j u_j^T.
// The sums over u_j are a triangular system of which each chunk has the inverse. No element of that is above 1: with keys of
// length 1 and beta up to 1 no row makes a state larger. See arXiv:2406.06484 and, for the decays, arXiv:2412.06464.

// Rows of a chunk: as many as an instruction of tensor cores takes of each operand.
static const int CHUNK = 16;
// Widest key in chunks.
static const int KEYS = 128;
// What queries are multiplied by, since they are small: f16 then has more digits of what their elements were rounded by.
static const float QUERY_SCALE = 64.f;

// What the value heads of a key head share in a chunk; rows behind the last one are 0.
struct ChunkKeys {
    // Keys, then scaled queries: of each row the elements, rounded, then what they were rounded by, see `split_f16`.
    u16 rows[2][CHUNK][2 * KEYS];
};

// What a value head has in a chunk.
struct ChunkHead {
    // What makes u_i of `v_j - G_j S^T k_j` (row i, column j), then `D_ij (q_i . k_j)` of scaled queries; in pairs, as above.
    u16 squares[2][CHUNK][2 * CHUNK];
    // Of each row: G_i, then D_last,i.
    float decays[2][CHUNK];
};

__device__ __forceinline__ void store_pair(u16* row, int col, float v) {
    row[col] = f32_to_f16(v);
    row[CHUNK + col] = f32_to_f16(v - f16_to_f32(row[col]));
}

// Whatever of rows `first` to `end` does not depend on the state. A block for each chunk (`x`) of each value head (`y`), with a
// thread for each pair of rows.
extern "C" __global__ void __launch_bounds__(256) delta_chunks(Delta s, const float* channels, const float* gates, ChunkKeys* keys, ChunkHead* heads, int first, int end) {
    // Keys, then scaled queries; what follows a row keeps rows in different banks.
    __shared__ __align__(16) float rows[2][CHUNK][KEYS + 4];
    __shared__ float lower[CHUNK][CHUNK], decay[CHUNK], beta[CHUNK];
    int chunk = blockIdx.x, head = blockIdx.y, key_head = key_head_of(s, head), width = channels_of(s);
    int from = first + CHUNK * chunk, count = min(CHUNK, end - from);
    ChunkKeys& shared_by = keys[(u64)chunk * s.key_heads + key_head];
    ChunkHead& own = heads[(u64)chunk * s.value_heads + head];
    bool is_first = s.tiled ? head < s.key_heads : head % (s.value_heads / s.key_heads) == 0;
    for (int at = 2 * threadIdx.x; at < 2 * CHUNK * KEYS; at += 2 * blockDim.x) {
        int of = at / (CHUNK * KEYS), row = at / KEYS % CHUNK, col = at % KEYS;
        const float* x = channels + (u64)(from + row) * width + ((1 - of) * s.key_heads + key_head) * s.key_dim;
        float low = row < count && col < s.key_dim ? x[col] : 0.f, high = row < count && col + 1 < s.key_dim ? x[col + 1] : 0.f;
        if (of == 1) low *= QUERY_SCALE, high *= QUERY_SCALE;
        *(float2*)&rows[of][row][col] = make_float2(low, high);
        u16* pairs = shared_by.rows[of][row];
        if (is_first) split_f16(low, high, *(u32*)(pairs + col), *(u32*)(pairs + KEYS + col));
    }
    if (threadIdx.x < CHUNK) {
        int row = threadIdx.x;
        const float* x = gates + (u64)(from + row) * 2 * s.value_heads + head;
        beta[row] = row < count ? x[0] : 0.f;
        decay[row] = row < count ? x[s.value_heads] : 1.f;
    }
    __syncthreads();
    int i = threadIdx.x / CHUNK, j = threadIdx.x % CHUNK;
    float key = 0.f, query = 0.f, between = 1.f;
#pragma unroll 4
    for (int col = 0; col < KEYS; col += 4) {
        float4 k = *(float4*)&rows[0][i][col], q = *(float4*)&rows[1][i][col], with = *(float4*)&rows[0][j][col];
        key += k.x * with.x + k.y * with.y + k.z * with.z + k.w * with.w;
        query += q.x * with.x + q.y * with.y + q.z * with.z + q.w * with.w;
    }
    for (int row = j + 1; row <= i; row++) between *= decay[row];
    lower[i][j] = j < i ? beta[i] * between * key : 0.f;
    store_pair(own.squares[1][i], j, j <= i ? between * query : 0.f);
    if (i == CHUNK - 1) own.decays[1][j] = between;
    if (j == 0) own.decays[0][i] = between * decay[0];
    __syncthreads();
    if (i > 0) return;
    // Column j of the inverse.
    float column[CHUNK];
#pragma unroll
    for (int row = 0; row < CHUNK; row++) {
        column[row] = row == j ? 1.f : 0.f;
#pragma unroll
        for (int before = 0; before < row; before++) column[row] -= lower[row][before] * column[before];
        store_pair(own.squares[0][row], j, column[row] * beta[j]);
    }
}

// Copies what chunk `chunk` is computed with to shared memory.
__device__ __forceinline__ void stage(const Delta& s, const ChunkKeys* keys, const ChunkHead* heads, int chunk, int head, u16 (&pairs)[2][CHUNK][2 * KEYS + 8], u16 (&squares)[2][CHUNK][2 * CHUNK + 8], float (&decays)[2][CHUNK]) {
    const ChunkKeys& shared_by = keys[(u64)chunk * s.key_heads + key_head_of(s, head)];
    const ChunkHead& own = heads[(u64)chunk * s.value_heads + head];
    for (int at = 8 * threadIdx.x; at < 4 * CHUNK * KEYS; at += 8 * blockDim.x) {
        int of = at / (2 * CHUNK * KEYS), row = at / (2 * KEYS) % CHUNK, col = at % (2 * KEYS);
        cp_async16(&pairs[of][row][col], &shared_by.rows[of][row][col]);
    }
    for (int at = 8 * threadIdx.x; at < 4 * CHUNK * CHUNK; at += 8 * blockDim.x) {
        int of = at / (2 * CHUNK * CHUNK), row = at / (2 * CHUNK) % CHUNK, col = at % (2 * CHUNK);
        cp_async16(&squares[of][row][col], &own.squares[of][row][col]);
    }
    for (int at = 4 * threadIdx.x; at < 2 * CHUNK; at += 4 * blockDim.x) cp_async16(&decays[at / CHUNK][at % CHUNK], &own.decays[at / CHUNK][at % CHUNK]);
    cp_async_commit();
}

// An operand of 16 columns in pairs, of two neighbouring results of 8 columns: a lane holds the same elements of both.
__device__ __forceinline__ void operand(const float (&low)[4], const float (&high)[4], const float (&scale)[2], u32 (&pair)[4], u32 (&rest)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float(&d)[4] = i < 2 ? low : high;
        split_f16(d[i % 2 * 2] * scale[i % 2], d[i % 2 * 2 + 1] * scale[i % 2], pair[i], rest[i]);
    }
}

// Adds to two neighbouring results of 8 columns the product of pairs, but for that of what both were rounded by. `b` has what
// `ldmatrix_x4` gives: words of the first, then of the second result.
__device__ __forceinline__ void mma_pairs(float (&low)[4], float (&high)[4], const u32 (&a)[4], const u32 (&a_rest)[4], const u32 (&b)[4], const u32 (&b_rest)[4]) {
    u32 first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]}, first_rest[2] = {b_rest[0], b_rest[1]}, second_rest[2] = {b_rest[2], b_rest[3]};
    mma_f16(low, a, first);
    mma_f16(high, a, second);
    mma_f16(low, a, first_rest);
    mma_f16(high, a, second_rest);
    mma_f16(low, a_rest, first);
    mma_f16(high, a_rest, second);
}

// The recurrence as `delta_rule` has it, with keys of up to 128 elements, from what `delta_chunks` has left of the same rows.
// A warp for 16 columns of a head's state: `blockIdx.y` is the head.
//
// Everything is transposed: a column of the state is a row of what tensor cores multiply, which a warp keeps in registers as
// results, and so are rows of a chunk where they are columns; results of one product are the operand of the next. As an operand
// each row has a scale, a power of two, so that its elements, and those of the chunk's values, are within f16.
extern "C" __global__ void __launch_bounds__(128) delta_chunked(Delta s, const float* channels, const ChunkKeys* keys, const ChunkHead* heads, const float* before, float* after, float* out, int first, int end) {
    // Of this chunk and the next, in turn; what follows a row keeps rows in different banks.
    __shared__ __align__(16) u16 pairs[2][2][CHUNK][2 * KEYS + 8], squares[2][2][CHUNK][2 * CHUNK + 8];
    __shared__ __align__(16) float decays[2][2][CHUNK];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, head = blockIdx.y;
    // A lane has columns `column` and `column + 8` of the state.
    int column = CHUNK * (blockIdx.x * (blockDim.x / 32) + warp) + g;
    int width = channels_of(s), values = 2 * s.key_heads * s.key_dim + head * s.value_dim;
    // Where a lane reads what it gives to `ldmatrix`: rows are columns of the operand, or, transposed, its rows.
    int line = lane / 16 * 8 + lane % 8, part = lane / 8 % 2 * 8;
    int line_across = lane / 8 % 2 * 8 + lane % 8, part_across = lane / 16 * 8;
    float state[KEYS / 8][4];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int col = column + i / 2 * 8, k = 8 * n + 2 * t + i % 2;
            state[n][i] = col < s.value_dim && k < s.key_dim ? before[((u64)head * s.value_dim + col) * s.key_dim + k] : 0.f;
        }
    }
    int chunks = (end - first + CHUNK - 1) / CHUNK;
    float value[2][4], ahead[2][4];
    auto read = [&](int chunk) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = first + CHUNK * chunk + 8 * n + 2 * t + i % 2, col = column + i / 2 * 8;
                ahead[n][i] = row < end && col < s.value_dim ? channels[(u64)row * width + values + col] : 0.f;
            }
        }
    };
    stage(s, keys, heads, 0, head, pairs[0], squares[0], decays[0]);
    read(0);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; chunk++) {
        int at = chunk % 2;
        cp_async_wait<0>();
        __syncthreads();
        float greatest[2] = {1e-30f, 1e-30f}, up[2], down[2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int n = 0; n < 2; n++) value[n][i] = ahead[n][i], greatest[i / 2] = fmaxf(greatest[i / 2], fabsf(value[n][i]));
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) greatest[i / 2] = fmaxf(greatest[i / 2], fabsf(state[n][i]));
        }
        if (chunk + 1 < chunks) {
            stage(s, keys, heads, chunk + 1, head, pairs[1 - at], squares[1 - at], decays[1 - at]);
            read(chunk + 1);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int with = 1; with < 4; with *= 2) greatest[i] = fmaxf(greatest[i], __shfl_xor_sync(~0u, greatest[i], with));
            // Up to 2^8, so that products with 128 elements of a key, and what the rows of a chunk add, are below 2^13.
            u32 exponent = __float_as_uint(greatest[i]) & 0x7f800000u;
            up[i] = __uint_as_float(((254u + 7u) << 23) - exponent);
            down[i] = __uint_as_float(exponent - (7u << 23));
        }
        // `S^T k`, and `S^T q`, of the chunk's rows: row `8 n + 2 t + i % 2` is in element i of fragment n.
        float past[2][4], mixed[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) past[0][i] = past[1][i] = mixed[0][i] = mixed[1][i] = 0.f;
        u32 a[4], a_rest[4], b[4], b_rest[4];
#pragma unroll
        for (int k = 0; k < KEYS; k += 16) {
            operand(state[k / 8], state[k / 8 + 1], up, a, a_rest);
            ldmatrix_x4(b, &pairs[at][0][line][k + part]);
            ldmatrix_x4(b_rest, &pairs[at][0][line][KEYS + k + part]);
            mma_pairs(past[0], past[1], a, a_rest, b, b_rest);
            ldmatrix_x4(b, &pairs[at][1][line][k + part]);
            ldmatrix_x4(b_rest, &pairs[at][1][line][KEYS + k + part]);
            mma_pairs(mixed[0], mixed[1], a, a_rest, b, b_rest);
        }
        float update[2][4], one[2] = {1.f, 1.f};
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float until = decays[at][0][8 * n + 2 * t + i % 2];
                past[n][i] = value[n][i] * up[i / 2] - until * past[n][i];
                mixed[n][i] *= until;
                update[n][i] = 0.f;
            }
        }
        operand(past[0], past[1], one, a, a_rest);
        ldmatrix_x4(b, &squares[at][0][line][part]);
        ldmatrix_x4(b_rest, &squares[at][0][line][CHUNK + part]);
        mma_pairs(update[0], update[1], a, a_rest, b, b_rest);
        operand(update[0], update[1], one, a, a_rest);
        ldmatrix_x4(b, &squares[at][1][line][part]);
        ldmatrix_x4(b_rest, &squares[at][1][line][CHUNK + part]);
        mma_pairs(mixed[0], mixed[1], a, a_rest, b, b_rest);
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int own = 8 * n + 2 * t + i % 2, row = first + CHUNK * chunk + own, col = column + i / 2 * 8;
                if (row < end && col < s.value_dim) out[((u64)row * s.value_heads + head) * s.value_dim + col] = mixed[n][i] * (down[i / 2] / QUERY_SCALE);
                update[n][i] *= decays[at][1][own];
            }
        }
        operand(update[0], update[1], one, a, a_rest);
        float last = decays[at][0][CHUNK - 1];
#pragma unroll
        for (int k = 0; k < KEYS; k += 16) {
            float(&low)[4] = state[k / 8], (&high)[4] = state[k / 8 + 1];
#pragma unroll
            for (int i = 0; i < 4; i++) low[i] *= last * up[i / 2], high[i] *= last * up[i / 2];
            ldmatrix_x4_trans(b, &pairs[at][0][line_across][k + part_across]);
            ldmatrix_x4_trans(b_rest, &pairs[at][0][line_across][KEYS + k + part_across]);
            mma_pairs(low, high, a, a_rest, b, b_rest);
#pragma unroll
            for (int i = 0; i < 4; i++) low[i] *= down[i / 2], high[i] *= down[i / 2];
        }
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int col = column + i / 2 * 8, k = 8 * n + 2 * t + i % 2;
            if (col < s.value_dim && k < s.key_dim) after[((u64)head * s.value_dim + col) * s.key_dim + k] = state[n][i];
        }
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
