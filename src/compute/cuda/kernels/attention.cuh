// Attention, and the KV cache. A block of the cache holds for each layer and KV head the keys, then the values of KV_BLOCK
// positions, `[KV_BLOCK, head_dim]` each.
#pragma once
#include "common.cuh"

// As `KV_BLOCK` of `compute`.
static const int KV_BLOCK = 64;

// See `Attention` of `compute/cuda/attention.rs`.
struct Attention {
    int heads, kv_heads, head_dim, rotary_dim;
    // Of a head among the projected queries: head_dim, or twice that with gates.
    int query_width;
    float eps;
    // Which of the layers of the cache.
    int layer, unused;
    // Position of the first row.
    const int* start;
    // Elements of a block of the cache.
    u64 block_len;
};

template <class K> __device__ __forceinline__ K* cached(const Attention& s, K* cache, const u32* blocks, int position, int kv_head, int is_value) {
    K* block = cache + blocks[position / KV_BLOCK] * s.block_len;
    u64 head = ((u64)s.layer * s.kv_heads + kv_head) * 2 + is_value;
    return block + (head * KV_BLOCK + position % KV_BLOCK) * s.head_dim;
}
