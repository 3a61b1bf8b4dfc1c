// Twins of what `device.cuh` does with inline PTX. Semantics: PTX ISA.
#pragma once

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emu_dynamic_shared)

static inline float f16_to_f32(unsigned short bits) {
    unsigned sign = (unsigned)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // The exponent of f32 is biased by 112 more; the product is right for subnormal numbers, too.
    return __uint_as_float(sign | rest << 13) * 0x1p112f;
}
static inline unsigned short f32_to_f16(float value) {
    unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return 0x7fff;
    // 65520 and more round to infinity.
    if (rest >= 0x477ff000) return sign | 0x7c00;
    // Below the smallest normal number the hardware rounds where f16 ends: 24 binary places.
    if (rest < 0x38800000)
        return sign | (__float_as_uint(__uint_as_float(rest) + 0.5f) - __float_as_uint(0.5f));
    rest += 0xfff + (rest >> 13 & 1);
    return sign | ((rest >> 13) - (112 << 10));
}
static inline unsigned short f32_to_bf16(float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static inline unsigned pack_f16(float low, float high) { return (unsigned)f32_to_f16(high) << 16 | f32_to_f16(low); }
static inline unsigned pack_bf16(float low, float high) {
    return (unsigned)f32_to_bf16(high) << 16 | f32_to_bf16(low);
}

template <class Operation>
static inline unsigned emu_each_f16(unsigned a, unsigned b, unsigned c, Operation operation) {
    unsigned result = 0;
    for (int at = 0; at < 32; at += 16)
        result |= (unsigned)f32_to_f16(operation(f16_to_f32(a >> at), f16_to_f32(b >> at), f16_to_f32(c >> at))) << at;
    return result;
}
// Sums and products of f16 in f32 round as they would if they were rounded once (f32 has more than twice the digits).
static inline unsigned f16x2_add(unsigned a, unsigned b) {
    return emu_each_f16(a, b, 0, [](float x, float y, float) { return x + y; });
}
static inline unsigned f16x2_sub(unsigned a, unsigned b) {
    return emu_each_f16(a, b, 0, [](float x, float y, float) { return x - y; });
}
static inline unsigned f16x2_mul(unsigned a, unsigned b) {
    return emu_each_f16(a, b, 0, [](float x, float y, float) { return x * y; });
}
/// Rounds to f16 what f64 holds exactly.
static inline float emu_round_to_odd(double exact) {
    float near = (float)exact;
    if ((double)near == exact || std::isnan(near) || std::isinf(near)) return near;
    // Towards zero, with the last bit set: no tie is made where there was none.
    unsigned bits = __float_as_uint(near);
    if (std::fabs((double)near) > std::fabs(exact)) bits--;
    return __uint_as_float(bits | 1);
}
static inline unsigned f16x2_fma(unsigned a, unsigned b, unsigned c) {
    return emu_each_f16(a, b, c, [](float x, float y, float z) { return emu_round_to_odd((double)x * y + z); });
}
static inline int dp4a(int a, int b, int sum) {
    for (int at = 0; at < 32; at += 8) sum += (signed char)(a >> at) * (signed char)(b >> at);
    return sum;
}
static inline float exp2_fast(float value) { return std::exp2(value); }

template <class T>
static inline T load_once(const T* address) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "4, 8 or 16 bytes");
    if ((size_t)address % sizeof(T)) emu_trap("load_once: the address is not aligned");
    return *address;
}
static inline void prefetch_l2(const void*) {}
static inline unsigned load_acquire_system(const unsigned* address) { return __atomic_load_n(address, __ATOMIC_ACQUIRE); }
static inline void store_release_system(unsigned* address, unsigned value) {
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
}

static inline void emu_copy_aligned(void* to, const void* from, unsigned bytes, unsigned filled) {
    if (((size_t)to | (size_t)from) % bytes) emu_trap("cp.async: an address is not aligned");
    emu_copy_async(to, from, bytes, filled);
}
static inline void cp_async16(void* to, const void* from) { emu_copy_aligned(to, from, 16, 16); }
static inline void cp_async16_or_zero(void* to, const void* from, bool is_valid) {
    emu_copy_aligned(to, from, 16, is_valid ? 16 : 0);
}
static inline void cp_async8(void* to, const void* from) { emu_copy_aligned(to, from, 8, 8); }
static inline void cp_async4(void* to, const void* from) { emu_copy_aligned(to, from, 4, 4); }
static inline void cp_async_commit() { emu_copy_commit(); }
template <int Groups>
static inline void cp_async_wait() { emu_copy_wait(Groups); }

/// In the order in which lanes of a device do it, by halves of the warp: one meeting of the lanes instead of five.
template <float (*Reduce)(float, float)>
static inline unsigned long long emu_halve(const unsigned long long* brought) {
    float values[32];
    for (int lane = 0; lane < 32; lane++) values[lane] = __uint_as_float((unsigned)brought[lane]);
    for (int with = 16; with; with >>= 1)
        for (int lane = 0; lane < with; lane++) values[lane] = Reduce(values[lane], values[lane + with]);
    return __float_as_uint(values[0]);
}
static inline float emu_add(float a, float b) { return a + b; }
static inline float emu_max(float a, float b) { return std::fmax(a, b); }
static inline float warp_sum(float value) {
    return __uint_as_float((unsigned)emu_warp_reduce(__float_as_uint(value), emu_halve<emu_add>));
}
static inline float warp_max(float value) {
    return __uint_as_float((unsigned)emu_warp_reduce(__float_as_uint(value), emu_halve<emu_max>));
}

/// Lanes bring the address of a row, in two words.
template <int Count, bool IsTransposed>
static inline void emu_load_matrices(const EmuLane* in, EmuLane* out) {
    const unsigned short* rows[8 * Count];
    for (int row = 0; row < 8 * Count; row++) std::memcpy(&rows[row], in[row].words, sizeof rows[row]);
    for (int lane = 0; lane < 32; lane++)
        for (int matrix = 0; matrix < Count; matrix++) {
            auto element = [&](int at) -> unsigned {
                int line = lane / 4, column = lane % 4 * 2 + at;
                return IsTransposed ? rows[matrix * 8 + column][line] : rows[matrix * 8 + line][column];
            };
            out[lane].words[matrix] = element(1) << 16 | element(0);
        }
}
template <int Count, bool IsTransposed>
static inline void emu_ldmatrix(unsigned (&to)[Count], const void* row) {
    if (emu_thread->lane < 8 * Count && (size_t)row % 16) emu_trap("ldmatrix: a row is not aligned to 16 bytes");
    EmuLane address = {};
    std::memcpy(address.words, &row, sizeof row);
    EmuLane loaded = emu_warp_instruction(address, emu_load_matrices<Count, IsTransposed>);
    std::memcpy(to, loaded.words, sizeof to);
}
static inline void ldmatrix_x1(unsigned (&to)[1], const void* row) { emu_ldmatrix<1, false>(to, row); }
static inline void ldmatrix_x2(unsigned (&to)[2], const void* row) { emu_ldmatrix<2, false>(to, row); }
static inline void ldmatrix_x4(unsigned (&to)[4], const void* row) { emu_ldmatrix<4, false>(to, row); }
static inline void ldmatrix_x1_trans(unsigned (&to)[1], const void* row) { emu_ldmatrix<1, true>(to, row); }
static inline void ldmatrix_x2_trans(unsigned (&to)[2], const void* row) { emu_ldmatrix<2, true>(to, row); }
static inline void ldmatrix_x4_trans(unsigned (&to)[4], const void* row) { emu_ldmatrix<4, true>(to, row); }

/// m16n8k16 with f32 sums. Lane 4 g + t brings a in words 0 to 3, b in 4 and 5, and takes d away.
template <float (*Widen)(unsigned short)>
static inline void emu_mma_16(const EmuLane* in, EmuLane* out) {
    float a[16][16], b[8][16];
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; half++) {
            int column = 2 * t + half;
            auto element = [&](int word) { return Widen((unsigned short)(in[lane].words[word] >> 16 * half)); };
            a[g][column] = element(0);
            a[g + 8][column] = element(1);
            a[g][column + 8] = element(2);
            a[g + 8][column + 8] = element(3);
            b[g][column] = element(4);
            b[g][column + 8] = element(5);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int at = 0; at < 4; at++) {
            int row = lane / 4 + at / 2 * 8, column = lane % 4 * 2 + at % 2;
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
            out[lane].words[at] = __float_as_uint(sum);
        }
}
/// m16n8k32 of signed bytes.
static inline void emu_mma_i8(const EmuLane* in, EmuLane* out) {
    int a[16][32], b[8][32];
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int byte = 0; byte < 4; byte++) {
            int column = 4 * t + byte;
            auto element = [&](int word) { return (signed char)(in[lane].words[word] >> 8 * byte); };
            a[g][column] = element(0);
            a[g + 8][column] = element(1);
            a[g][column + 16] = element(2);
            a[g + 8][column + 16] = element(3);
            b[g][column] = element(4);
            b[g][column + 16] = element(5);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int at = 0; at < 4; at++) {
            int row = lane / 4 + at / 2 * 8, column = lane % 4 * 2 + at % 2, sum = 0;
            for (int k = 0; k < 32; k++) sum += a[row][k] * b[column][k];
            out[lane].words[at] = (unsigned)sum;
        }
}
static inline EmuLane emu_mma(const unsigned (&a)[4], const unsigned (&b)[2], EmuInstruction instruction) {
    return emu_warp_instruction({{a[0], a[1], a[2], a[3], b[0], b[1]}}, instruction);
}
static inline float emu_widen_bf16(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }
static inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    EmuLane sum = emu_mma(a, b, emu_mma_16<emu_widen_bf16>);
    for (int at = 0; at < 4; at++) d[at] += __uint_as_float(sum.words[at]);
}
static inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    EmuLane sum = emu_mma(a, b, emu_mma_16<f16_to_f32>);
    for (int at = 0; at < 4; at++) d[at] += __uint_as_float(sum.words[at]);
}
static inline void mma_i8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    EmuLane sum = emu_mma(a, b, emu_mma_i8);
    for (int at = 0; at < 4; at++) d[at] += (int)sum.words[at];
}
