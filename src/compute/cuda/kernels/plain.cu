// Matrices of elements that are stored one by one.
#include "group.cuh"

extern "C" __global__ void __launch_bounds__(256) matvec_f32(Matrix m, const float* x, Output out, int batch) { matmul<F32, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_f32(Matrix m, const float* x, Output out, int batch) { matmul<F32, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_f32(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<F32>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_f32(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<F32>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_f32(Matrix m, Rows rows, Input x, Output out, int splits) { group_exact<F32>(m, rows, x, out); }
extern "C" __global__ void __launch_bounds__(256) embed_f32(Matrix m, const u32* tokens, float* x) { embed<F32>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_f16(Matrix m, const float* x, Output out, int batch) { matmul<F16, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_f16(Matrix m, const float* x, Output out, int batch) { matmul<F16, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_f16(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<F16>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_f16(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<F16>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_f16(Matrix m, Rows rows, Input x, Output out, int splits) { group<F16>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_f16(Matrix m, const u32* tokens, float* x) { embed<F16>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_bf16(Matrix m, const float* x, Output out, int batch) { matmul<BF16, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_bf16(Matrix m, const float* x, Output out, int batch) { matmul<BF16, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_bf16(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<BF16>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_bf16(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<BF16>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_bf16(Matrix m, Rows rows, Input x, Output out, int splits) { group<BF16>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_bf16(Matrix m, const u32* tokens, float* x) { embed<BF16>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_f8_e4m3(Matrix m, const float* x, Output out, int batch) { matmul<F8E4M3, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_f8_e4m3(Matrix m, const float* x, Output out, int batch) { matmul<F8E4M3, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_f8_e4m3(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<F8E4M3>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_f8_e4m3(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<F8E4M3>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_f8_e4m3(Matrix m, Rows rows, Input x, Output out, int splits) { group<F8E4M3>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_f8_e4m3(Matrix m, const u32* tokens, float* x) { embed<F8E4M3>(m, tokens, x); }
