// Matrices of integers and small floats in blocks that share scales.
#include "group.cuh"

extern "C" __global__ void __launch_bounds__(256) matvec_q4_0(Matrix m, const float* x, Output out, int batch) { matmul<Q4_0, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_0(Matrix m, const float* x, Output out, int batch) { matmul<Q4_0, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q4_0(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q4_0>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q4_0(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q4_0>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q4_0(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q4_0>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_0(Matrix m, const u32* tokens, float* x) { embed<Q4_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q4_1(Matrix m, const float* x, Output out, int batch) { matmul<Q4_1, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_1(Matrix m, const float* x, Output out, int batch) { matmul<Q4_1, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q4_1(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q4_1>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q4_1(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q4_1>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q4_1(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q4_1>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_1(Matrix m, const u32* tokens, float* x) { embed<Q4_1>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q5_0(Matrix m, const float* x, Output out, int batch) { matmul<Q5_0, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_0(Matrix m, const float* x, Output out, int batch) { matmul<Q5_0, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q5_0(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q5_0>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q5_0(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q5_0>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q5_0(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q5_0>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_0(Matrix m, const u32* tokens, float* x) { embed<Q5_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q5_1(Matrix m, const float* x, Output out, int batch) { matmul<Q5_1, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_1(Matrix m, const float* x, Output out, int batch) { matmul<Q5_1, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q5_1(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q5_1>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q5_1(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q5_1>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q5_1(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q5_1>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_1(Matrix m, const u32* tokens, float* x) { embed<Q5_1>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q8_0(Matrix m, const float* x, Output out, int batch) { matmul<Q8_0, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q8_0(Matrix m, const float* x, Output out, int batch) { matmul<Q8_0, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q8_0(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q8_0>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q8_0(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q8_0>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q8_0(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q8_0>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q8_0(Matrix m, const u32* tokens, float* x) { embed<Q8_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q2_k(Matrix m, const float* x, Output out, int batch) { matmul<Q2_K, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q2_k(Matrix m, const float* x, Output out, int batch) { matmul<Q2_K, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q2_k(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q2_K>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q2_k(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q2_K>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q2_k(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q2_K>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q2_k(Matrix m, const u32* tokens, float* x) { embed<Q2_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q3_k(Matrix m, const float* x, Output out, int batch) { matmul<Q3_K, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q3_k(Matrix m, const float* x, Output out, int batch) { matmul<Q3_K, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q3_k(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q3_K>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q3_k(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q3_K>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q3_k(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q3_K>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q3_k(Matrix m, const u32* tokens, float* x) { embed<Q3_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q4_k(Matrix m, const float* x, Output out, int batch) { matmul<Q4_K, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_k(Matrix m, const float* x, Output out, int batch) { matmul<Q4_K, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q4_k(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q4_K>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q4_k(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q4_K>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q4_k(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q4_K>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_k(Matrix m, const u32* tokens, float* x) { embed<Q4_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q5_k(Matrix m, const float* x, Output out, int batch) { matmul<Q5_K, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_k(Matrix m, const float* x, Output out, int batch) { matmul<Q5_K, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q5_k(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q5_K>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q5_k(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q5_K>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q5_k(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q5_K>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_k(Matrix m, const u32* tokens, float* x) { embed<Q5_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q6_k(Matrix m, const float* x, Output out, int batch) { matmul<Q6_K, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_q6_k(Matrix m, const float* x, Output out, int batch) { matmul<Q6_K, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_q6_k(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<Q6_K>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_q6_k(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<Q6_K>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_q6_k(Matrix m, Rows rows, Input x, Output out, int splits) { group<Q6_K>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_q6_k(Matrix m, const u32* tokens, float* x) { embed<Q6_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_mxfp4(Matrix m, const float* x, Output out, int batch) { matmul<MXFP4, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_mxfp4(Matrix m, const float* x, Output out, int batch) { matmul<MXFP4, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_mxfp4(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<MXFP4>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_mxfp4(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<MXFP4>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_mxfp4(Matrix m, Rows rows, Input x, Output out, int splits) { group<MXFP4>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_mxfp4(Matrix m, const u32* tokens, float* x) { embed<MXFP4>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_nvfp4(Matrix m, const float* x, Output out, int batch) { matmul<NVFP4, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_nvfp4(Matrix m, const float* x, Output out, int batch) { matmul<NVFP4, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_nvfp4(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<NVFP4>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_nvfp4(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<NVFP4>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_nvfp4(Matrix m, Rows rows, Input x, Output out, int splits) { group<NVFP4>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_nvfp4(Matrix m, const u32* tokens, float* x) { embed<NVFP4>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq4_nl(Matrix m, const float* x, Output out, int batch) { matmul<IQ4_NL, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq4_nl(Matrix m, const float* x, Output out, int batch) { matmul<IQ4_NL, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq4_nl(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ4_NL>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq4_nl(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ4_NL>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq4_nl(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ4_NL>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq4_nl(Matrix m, const u32* tokens, float* x) { embed<IQ4_NL>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq4_xs(Matrix m, const float* x, Output out, int batch) { matmul<IQ4_XS, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq4_xs(Matrix m, const float* x, Output out, int batch) { matmul<IQ4_XS, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_iq4_xs(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<IQ4_XS>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_iq4_xs(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<IQ4_XS>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_iq4_xs(Matrix m, Rows rows, Input x, Output out, int splits) { group<IQ4_XS>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_iq4_xs(Matrix m, const u32* tokens, float* x) { embed<IQ4_XS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_tq1_0(Matrix m, const float* x, Output out, int batch) { matmul<TQ1_0, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_tq1_0(Matrix m, const float* x, Output out, int batch) { matmul<TQ1_0, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_tq1_0(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<TQ1_0>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_tq1_0(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<TQ1_0>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_tq1_0(Matrix m, Rows rows, Input x, Output out, int splits) { group<TQ1_0>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_tq1_0(Matrix m, const u32* tokens, float* x) { embed<TQ1_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_tq2_0(Matrix m, const float* x, Output out, int batch) { matmul<TQ2_0, 1>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) matmul_tq2_0(Matrix m, const float* x, Output out, int batch) { matmul<TQ2_0, 4>(m, x, out, batch); }
extern "C" __global__ void __launch_bounds__(256) visit_tq2_0(Matrix m, const int* slots, int top_k, const float* x, Output out) { visit<TQ2_0>(m, slots, top_k, x, out); }
extern "C" __global__ void __launch_bounds__(256, 4) gather_tq2_0(Matrix m, const int* slots, const float* weights, int top_k, const float* x, float* y) { gather<TQ2_0>(m, slots, weights, top_k, x, y); }
extern "C" __global__ void __launch_bounds__(256, 2) group_tq2_0(Matrix m, Rows rows, Input x, Output out, int splits) { group<TQ2_0>(m, rows, x, out, splits); }
extern "C" __global__ void __launch_bounds__(256) embed_tq2_0(Matrix m, const u32* tokens, float* x) { embed<TQ2_0>(m, tokens, x); }
