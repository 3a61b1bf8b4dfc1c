// Included before each kernel file: makes its text C++ for the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <math.h>
#include <stdlib.h>
#include <type_traits>

#include "runtime.h"

#define FIMD_EMULATED

// Kernels are found in the preprocessed text by this mark.
#ifdef EMU_SCAN
#define __global__ emu_global_function
#else
#define __global__
#endif
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// A block runs on one thread of the machine.
#define __shared__ thread_local

#define threadIdx (emu_thread->thread)
#define blockIdx emu_block_index
#define blockDim emu_block_shape
#define gridDim emu_grid_shape
#define warpSize 32

#include "vectors.h"
#include "builtins.h"
#include "warp.h"
#include "device_twins.h"
