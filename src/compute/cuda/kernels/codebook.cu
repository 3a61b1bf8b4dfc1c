// Matrices of indices of codebooks.
#include "group.cuh"

extern "C" __global__ void __launch_bounds__(256) matvec_iq2_xxs(Matrix m, const float* x, Output out, int batch) { matmul<IQ2_XXS, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq2_xxs(Matrix m, const float* x, Output out, int batch) { matmul<IQ2_XXS, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq2_xxs(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ2_XXS>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq2_xxs(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ2_XXS>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq2_xxs(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ2_XXS>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq2_xxs(Matrix m, const u32* tokens, float* x) { embed<IQ2_XXS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq2_xs(Matrix m, const float* x, Output out, int batch) { matmul<IQ2_XS, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq2_xs(Matrix m, const float* x, Output out, int batch) { matmul<IQ2_XS, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq2_xs(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ2_XS>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq2_xs(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ2_XS>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq2_xs(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ2_XS>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq2_xs(Matrix m, const u32* tokens, float* x) { embed<IQ2_XS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq2_s(Matrix m, const float* x, Output out, int batch) { matmul<IQ2_S, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq2_s(Matrix m, const float* x, Output out, int batch) { matmul<IQ2_S, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq2_s(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ2_S>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq2_s(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ2_S>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq2_s(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ2_S>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq2_s(Matrix m, const u32* tokens, float* x) { embed<IQ2_S>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq3_xxs(Matrix m, const float* x, Output out, int batch) { matmul<IQ3_XXS, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq3_xxs(Matrix m, const float* x, Output out, int batch) { matmul<IQ3_XXS, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq3_xxs(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ3_XXS>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq3_xxs(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ3_XXS>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq3_xxs(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ3_XXS>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq3_xxs(Matrix m, const u32* tokens, float* x) { embed<IQ3_XXS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq3_s(Matrix m, const float* x, Output out, int batch) { matmul<IQ3_S, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq3_s(Matrix m, const float* x, Output out, int batch) { matmul<IQ3_S, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq3_s(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ3_S>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq3_s(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ3_S>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq3_s(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ3_S>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq3_s(Matrix m, const u32* tokens, float* x) { embed<IQ3_S>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq1_s(Matrix m, const float* x, Output out, int batch) { matmul<IQ1_S, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq1_s(Matrix m, const float* x, Output out, int batch) { matmul<IQ1_S, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq1_s(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ1_S>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq1_s(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ1_S>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq1_s(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ1_S>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq1_s(Matrix m, const u32* tokens, float* x) { embed<IQ1_S>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq1_m(Matrix m, const float* x, Output out, int batch) { matmul<IQ1_M, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq1_m(Matrix m, const float* x, Output out, int batch) { matmul<IQ1_M, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq1_m(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ1_M>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq1_m(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ1_M>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq1_m(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ1_M>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq1_m(Matrix m, const u32* tokens, float* x) { embed<IQ1_M>(m, tokens, x); }
