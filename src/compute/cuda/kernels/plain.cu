// Matrices of elements that are stored one by one.
#include "matrix.cuh"

extern "C" __global__ void __launch_bounds__(256) matvec_f32(Matrix m, const float* x, float* y, int batch, int adds) { matmul<F32, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_f32(Matrix m, const float* x, float* y, int batch, int adds) { matmul<F32, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_f32(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<F32>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_f32(Matrix m, const u32* tokens, float* x) { embed<F32>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_f16(Matrix m, const float* x, float* y, int batch, int adds) { matmul<F16, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_f16(Matrix m, const float* x, float* y, int batch, int adds) { matmul<F16, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_f16(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<F16>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_f16(Matrix m, const u32* tokens, float* x) { embed<F16>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_bf16(Matrix m, const float* x, float* y, int batch, int adds) { matmul<BF16, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_bf16(Matrix m, const float* x, float* y, int batch, int adds) { matmul<BF16, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_bf16(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<BF16>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_bf16(Matrix m, const u32* tokens, float* x) { embed<BF16>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_f8_e4m3(Matrix m, const float* x, float* y, int batch, int adds) { matmul<F8E4M3, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_f8_e4m3(Matrix m, const float* x, float* y, int batch, int adds) { matmul<F8E4M3, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_f8_e4m3(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<F8E4M3>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_f8_e4m3(Matrix m, const u32* tokens, float* x) { embed<F8E4M3>(m, tokens, x); }
