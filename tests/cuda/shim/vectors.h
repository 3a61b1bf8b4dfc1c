// Vector types, aligned as on the device.
#pragma once

#define EMU_VECTORS(scalar, name)                                                                                     \
    struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                                                      \
    struct alignas(sizeof(scalar) == 8 ? 16 : 4 * sizeof(scalar)) name##4 { scalar x, y, z, w; };                     \
    static inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                                       \
    static inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

EMU_VECTORS(signed char, char)
EMU_VECTORS(unsigned char, uchar)
EMU_VECTORS(short, short)
EMU_VECTORS(unsigned short, ushort)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned int, uint)
EMU_VECTORS(float, float)
EMU_VECTORS(long long, longlong)
EMU_VECTORS(unsigned long long, ulonglong)

#undef EMU_VECTORS
