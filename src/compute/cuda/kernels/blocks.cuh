// The weight types: from stored bytes to f32, eight consecutive elements at a time. Layouts are those of
// `format/blocks`. `LEN` elements take `BYTES`; `eight(p, i, table, out)` writes elements 8 i to 8 i + 7 of the block
// at `p`. `table` is the codebook of the types that have one.
#pragma once
#include "common.cuh"

// Eight bytes, by loads of at most ALIGN bytes.
struct Bytes8 {
    u32 low, high;
    __device__ __forceinline__ u32 operator[](int i) const { return (i < 4 ? low >> (8 * i) : high >> (8 * i - 32)) & 255; }
};

template <int ALIGN> __device__ __forceinline__ u32 word(const u8* p) {
    if (ALIGN >= 4) return *(const u32*)p;
    if (ALIGN == 2) return ((const u16*)p)[0] | (u32)((const u16*)p)[1] << 16;
    return p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24;
}

template <int ALIGN> __device__ __forceinline__ Bytes8 bytes8(const u8* p) {
    return Bytes8{word<ALIGN>(p), word<ALIGN>(p + 4)};
}

__device__ __forceinline__ u32 half_word(const u8* p) { return *(const u16*)p; }
__device__ __forceinline__ float half_at(const u8* p) { return f16_to_f32(*(const u16*)p); }
__device__ __forceinline__ u32 nibble(const u8* p, int i) { return p[i / 2] >> (i % 2 * 4) & 15; }

// Half the value of an E8M0 exponent: the scale that goes with doubled E2M1 values.
__device__ __forceinline__ float e8m0_halved(u32 e) { return __uint_as_float(e < 2 ? 0x200000u << e : (e - 1) << 23); }

// The bits of E4M3 without its sign are those of 2^-8 of its value in binary16, subnormal numbers included.
__device__ __forceinline__ float e4m3_scaled(u32 bits) { return f16_to_f32((u16)((bits & 127) << 7)); }

static __constant__ signed char E2M1_DOUBLED[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static __constant__ signed char IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static __constant__ u8 IQ2_VALUES[4] = {8, 25, 43, 0};
static __constant__ u8 IQ3_XXS_VALUES[8] = {4, 12, 20, 28, 36, 44, 52, 62};

#define EIGHT static __device__ __forceinline__ void eight(const u8* p, int i, const u32* table, float* out)

// Types that are stored one by one. `p` is the row, and whole eights of it can be read.
struct F32 {
    static const int LEN = 1, BYTES = 4;
    EIGHT {
        for (int j = 0; j < 8; j++) out[j] = ((const float*)p)[8 * i + j];
    }
};

struct F16 {
    static const int LEN = 1, BYTES = 2;
    EIGHT {
        uint4 v = ((const uint4*)p)[i];
        u32 w[4] = {v.x, v.y, v.z, v.w};
        for (int j = 0; j < 8; j++) out[j] = f16_to_f32((u16)(w[j / 2] >> (16 * (j % 2))));
    }
};

struct BF16 {
    static const int LEN = 1, BYTES = 2;
    EIGHT {
        uint4 v = ((const uint4*)p)[i];
        u32 w[4] = {v.x, v.y, v.z, v.w};
        for (int j = 0; j < 8; j++) out[j] = bf16_to_f32((u16)(w[j / 2] >> (16 * (j % 2))));
    }
};

struct F8E4M3 {
    static const int LEN = 1, BYTES = 1;
    EIGHT {
        Bytes8 v = bytes8<4>(p + 8 * i);
        for (int j = 0; j < 8; j++) out[j] = e4m3_to_f32((u8)v[j]);
    }
};

struct Q8_0 {
    static const int LEN = 32, BYTES = 34;
    EIGHT {
        float d = half_at(p);
        Bytes8 q = bytes8<2>(p + 2 + 8 * i);
        for (int j = 0; j < 8; j++) out[j] = d * (float)(signed char)q[j];
    }
};

struct Q4_0 {
    static const int LEN = 32, BYTES = 18;
    EIGHT {
        float d = half_at(p);
        Bytes8 q = bytes8<2>(p + 2 + i % 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = d * ((float)(q[j] >> (i / 2 * 4) & 15) - 8.f);
    }
};

struct Q4_1 {
    static const int LEN = 32, BYTES = 20;
    EIGHT {
        float d = half_at(p), m = half_at(p + 2);
        Bytes8 q = bytes8<4>(p + 4 + i % 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = d * (float)(q[j] >> (i / 2 * 4) & 15) + m;
    }
};

struct Q5_0 {
    static const int LEN = 32, BYTES = 22;
    EIGHT {
        float d = half_at(p);
        u32 high = p[2 + i];
        Bytes8 q = bytes8<2>(p + 6 + i % 2 * 8);
        for (int j = 0; j < 8; j++) {
            out[j] = d * ((float)((q[j] >> (i / 2 * 4) & 15) | (high >> j & 1) << 4) - 16.f);
        }
    }
};

struct Q5_1 {
    static const int LEN = 32, BYTES = 24;
    EIGHT {
        float d = half_at(p), m = half_at(p + 2);
        u32 high = p[4 + i];
        Bytes8 q = bytes8<4>(p + 8 + i % 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = d * (float)((q[j] >> (i / 2 * 4) & 15) | (high >> j & 1) << 4) + m;
    }
};

struct MXFP4 {
    static const int LEN = 32, BYTES = 17;
    EIGHT {
        float d = e8m0_halved(p[0]);
        Bytes8 q = bytes8<1>(p + 1 + i % 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = d * (float)E2M1_DOUBLED[q[j] >> (i / 2 * 4) & 15];
    }
};

struct NVFP4 {
    static const int LEN = 64, BYTES = 36;
    EIGHT {
        u32 s = p[i / 2];
        float d = s == 127 ? 0.f : e4m3_scaled(s) * 128.f;
        Bytes8 q = bytes8<4>(p + 4 + i / 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = d * (float)E2M1_DOUBLED[q[j] >> (i % 2 * 4) & 15];
    }
};

struct IQ4_NL {
    static const int LEN = 32, BYTES = 18;
    EIGHT {
        float d = half_at(p);
        Bytes8 q = bytes8<2>(p + 2 + i % 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = d * (float)IQ4_VALUES[q[j] >> (i / 2 * 4) & 15];
    }
};

// Eight of 64 bytes of pairs of bits: each byte of a half has one of each of its four parts.
__device__ __forceinline__ Bytes8 two_bits(const u8* p, int i) {
    Bytes8 q = bytes8<2>(p + i / 16 * 32 + i % 4 * 8);
    int shift = i % 16 / 4 * 2;
    return Bytes8{q.low >> shift & 0x03030303, q.high >> shift & 0x03030303};
}

// Eight of 128 bytes of nibbles, of which 32 have the low and high ones of 64 elements.
__device__ __forceinline__ Bytes8 k_nibbles(const u8* p, int i) {
    Bytes8 q = bytes8<4>(p + i / 8 * 32 + i % 4 * 8);
    int shift = i % 8 / 4 * 4;
    return Bytes8{q.low >> shift & 0x0f0f0f0f, q.high >> shift & 0x0f0f0f0f};
}

struct Q2_K {
    static const int LEN = 256, BYTES = 84;
    EIGHT {
        u32 s = p[i / 2];
        float scale = half_at(p + 80) * (float)(s & 15), min = half_at(p + 82) * (float)(s >> 4);
        Bytes8 q = two_bits(p + 16, i);
        for (int j = 0; j < 8; j++) out[j] = scale * (float)q[j] - min;
    }
};

struct Q3_K {
    static const int LEN = 256, BYTES = 110;
    EIGHT {
        int s = i / 2;
        u32 low = p[96 + s % 8] >> (s / 8 * 4), high = p[104 + s % 4] >> (s / 4 * 2);
        float scale = half_at(p + 108) * ((float)((low & 15) | (high & 3) << 4) - 32.f);
        Bytes8 q = two_bits(p + 32, i), mask = bytes8<2>(p + i % 4 * 8);
        for (int j = 0; j < 8; j++) out[j] = scale * ((float)(q[j] | (mask[j] >> (i / 4) & 1) << 2) - 4.f);
    }
};

// Scale and minimum of sub-block `i` from the 12 packed bytes of Q4_K and Q5_K.
__device__ __forceinline__ void scale_min(const u8* p, int i, float& scale, float& min) {
    float d = half_at(p), dmin = half_at(p + 2);
    const u8* packed = p + 4;
    u32 s, m;
    if (i < 4) {
        s = packed[i] & 63;
        m = packed[i + 4] & 63;
    } else {
        s = (packed[i + 4] & 15) | packed[i - 4] >> 6 << 4;
        m = packed[i + 4] >> 4 | packed[i] >> 6 << 4;
    }
    scale = d * (float)s;
    min = dmin * (float)m;
}

struct Q4_K {
    static const int LEN = 256, BYTES = 144;
    EIGHT {
        float scale, min;
        scale_min(p, i / 4, scale, min);
        Bytes8 q = k_nibbles(p + 16, i);
        for (int j = 0; j < 8; j++) out[j] = scale * (float)q[j] - min;
    }
};

struct Q5_K {
    static const int LEN = 256, BYTES = 176;
    EIGHT {
        float scale, min;
        scale_min(p, i / 4, scale, min);
        Bytes8 q = k_nibbles(p + 48, i), high = bytes8<4>(p + 16 + i % 4 * 8);
        for (int j = 0; j < 8; j++) out[j] = scale * (float)(q[j] | (high[j] >> (i / 4) & 1) << 4) - min;
    }
};

struct Q6_K {
    static const int LEN = 256, BYTES = 210;
    EIGHT {
        int half = i / 16, within = i % 16;
        Bytes8 q = bytes8<2>(p + half * 64 + within % 8 * 8), high = bytes8<2>(p + 128 + half * 32 + within % 4 * 8);
        float scale = half_at(p + 208) * (float)(signed char)p[192 + i / 2];
        for (int j = 0; j < 8; j++) {
            u32 bits = (q[j] >> (within / 8 * 4) & 15) | (high[j] >> (within / 4 * 2) & 3) << 4;
            out[j] = scale * ((float)bits - 32.f);
        }
    }
};

struct IQ4_XS {
    static const int LEN = 256, BYTES = 136;
    EIGHT {
        int s = i / 4, within = i % 4;
        u32 bits = nibble(p + 4, s) | (half_word(p + 2) >> (2 * s) & 3) << 4;
        float scale = half_at(p) * ((float)bits - 32.f);
        Bytes8 q = bytes8<4>(p + 8 + s * 16 + within % 2 * 8);
        for (int j = 0; j < 8; j++) out[j] = scale * (float)IQ4_VALUES[q[j] >> (within / 2 * 4) & 15];
    }
};

// Eight sign bits from the lowest seven: an even number is set.
__device__ __forceinline__ u32 even_signs(u32 bits) {
    bits &= 127;
    return bits | (__popc(bits) & 1) << 7;
}

// Number `j` of the eight in an entry of a codebook.
__device__ __forceinline__ u32 number(u32 entry, int j) { return entry >> (8 * (j % 4) + 4 * (j / 4)) & 15; }

__device__ __forceinline__ void iq2(u32 entry, u32 signs, float scale, float* out) {
    for (int j = 0; j < 8; j++) {
        float v = scale * (float)IQ2_VALUES[number(entry, j) & 3];
        out[j] = signs >> j & 1 ? -v : v;
    }
}

struct IQ2_XXS {
    static const int LEN = 256, BYTES = 66;
    EIGHT {
        const u8* part = p + 2 + i / 4 * 8;
        u32 signs = word<2>(part + 4);
        float scale = half_at(p) * (0.5f + (float)(signs >> 28)) * 0.25f;
        iq2(table[part[i % 4]], even_signs(signs >> (i % 4 * 7)), scale, out);
    }
};

struct IQ2_XS {
    static const int LEN = 256, BYTES = 74;
    EIGHT {
        u32 stored = half_word(p + 2 + 2 * i);
        float scale = half_at(p) * (0.5f + (float)nibble(p + 66, i / 2)) * 0.25f;
        iq2(table[stored & 511], even_signs(stored >> 9), scale, out);
    }
};

struct IQ2_S {
    static const int LEN = 256, BYTES = 82;
    EIGHT {
        u32 high = p[66 + i / 4] >> (i % 4 * 2) & 3;
        float scale = half_at(p) * (0.5f + (float)nibble(p + 74, i / 2)) * 0.25f;
        iq2(table[p[2 + i] | high << 8], p[34 + i], scale, out);
    }
};

struct IQ3_XXS {
    static const int LEN = 256, BYTES = 98;
    EIGHT {
        u32 stored = word<2>(p + 66 + i / 4 * 4), signs = even_signs(stored >> (i % 4 * 7));
        float scale = half_at(p) * (0.5f + (float)(stored >> 28)) * 0.5f;
        for (int j = 0; j < 8; j++) {
            u32 entry = table[p[2 + 2 * i + j / 4]];
            float v = scale * (float)IQ3_XXS_VALUES[entry >> (j % 4 * 8) & 7];
            out[j] = signs >> j & 1 ? -v : v;
        }
    }
};

struct IQ3_S {
    static const int LEN = 256, BYTES = 110;
    EIGHT {
        float scale = half_at(p) * (float)(1 + 2 * nibble(p + 106, i / 4));
        u32 signs = p[74 + i];
        for (int j = 0; j < 8; j++) {
            int n = 2 * i + j / 4;
            u32 entry = table[p[2 + n] | (p[66 + n / 8] >> (n % 8) & 1) << 8];
            float v = scale * (float)(1 + 2 * (entry >> (j % 4 * 8) & 7));
            out[j] = signs >> j & 1 ? -v : v;
        }
    }
};

__device__ __forceinline__ void iq1(u32 entry, u32 is_down, float scale, float* out) {
    float delta = is_down ? -0.125f : 0.125f;
    for (int j = 0; j < 8; j++) out[j] = scale * ((float)number(entry, j) - 1.f + delta);
}

struct IQ1_S {
    static const int LEN = 256, BYTES = 50;
    EIGHT {
        u32 high = half_word(p + 34 + i / 4 * 2);
        float scale = half_at(p) * (float)(2 * (high >> 12 & 7) + 1);
        iq1(table[p[2 + i] | (high >> (3 * (i % 4)) & 7) << 8], high >> 15, scale, out);
    }
};

struct IQ1_M {
    static const int LEN = 256, BYTES = 56;
    EIGHT {
        u32 bits = 0;
        for (int j = 0; j < 4; j++) bits |= half_word(p + 48 + 2 * j) >> 12 << (4 * j);
        u32 high = nibble(p + 32, i), stored = half_word(p + 48 + i / 8 * 2);
        float scale = f16_to_f32((u16)bits) * (float)(2 * (stored >> (i / 2 % 4 * 3) & 7) + 1);
        iq1(table[p[i] | (high & 7) << 8], high >> 3, scale, out);
    }
};

struct TQ1_0 {
    static const int LEN = 256, BYTES = 54;
    EIGHT {
        float d = half_at(p + 52);
        for (int half = 0; half < 8; half += 4) {
            int e = 8 * i + half;
            // Which digit, and of which bytes.
            int digit = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
            const u8* bytes = p + (e < 160 ? e % 32 : e < 240 ? 32 + e % 16 : 48);
            u32 power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
            // A byte is the fraction of 256 that the digits make in base 3, rounded up.
            for (int j = 0; j < 4; j++) out[half + j] = d * ((float)((bytes[j] * power & 255) * 3 >> 8) - 1.f);
        }
    }
};

struct TQ2_0 {
    static const int LEN = 256, BYTES = 66;
    EIGHT {
        float d = half_at(p + 64);
        Bytes8 q = two_bits(p, i);
        for (int j = 0; j < 8; j++) out[j] = d * ((float)q[j] - 1.f);
    }
};
