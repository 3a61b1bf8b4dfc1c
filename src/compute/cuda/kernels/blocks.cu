// Matrices of integers and small floats in blocks that share scales.
#include "matrix.cuh"

extern "C" __global__ void __launch_bounds__(256) matvec_q4_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q4_0, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q4_0, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q4_0(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q4_0>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_0(Matrix m, const u32* tokens, float* x) { embed<Q4_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q4_1(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q4_1, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_1(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q4_1, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q4_1(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q4_1>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_1(Matrix m, const u32* tokens, float* x) { embed<Q4_1>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q5_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q5_0, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q5_0, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q5_0(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q5_0>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_0(Matrix m, const u32* tokens, float* x) { embed<Q5_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q5_1(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q5_1, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_1(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q5_1, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q5_1(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q5_1>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_1(Matrix m, const u32* tokens, float* x) { embed<Q5_1>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q8_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q8_0, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q8_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q8_0, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q8_0(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q8_0>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q8_0(Matrix m, const u32* tokens, float* x) { embed<Q8_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q2_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q2_K, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q2_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q2_K, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q2_k(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q2_K>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q2_k(Matrix m, const u32* tokens, float* x) { embed<Q2_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q3_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q3_K, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q3_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q3_K, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q3_k(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q3_K>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q3_k(Matrix m, const u32* tokens, float* x) { embed<Q3_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q4_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q4_K, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q4_K, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q4_k(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q4_K>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_k(Matrix m, const u32* tokens, float* x) { embed<Q4_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q5_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q5_K, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q5_K, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q5_k(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q5_K>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_k(Matrix m, const u32* tokens, float* x) { embed<Q5_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_q6_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q6_K, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_q6_k(Matrix m, const float* x, float* y, int batch, int adds) { matmul<Q6_K, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_q6_k(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<Q6_K>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_q6_k(Matrix m, const u32* tokens, float* x) { embed<Q6_K>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_mxfp4(Matrix m, const float* x, float* y, int batch, int adds) { matmul<MXFP4, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_mxfp4(Matrix m, const float* x, float* y, int batch, int adds) { matmul<MXFP4, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_mxfp4(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<MXFP4>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_mxfp4(Matrix m, const u32* tokens, float* x) { embed<MXFP4>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_nvfp4(Matrix m, const float* x, float* y, int batch, int adds) { matmul<NVFP4, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_nvfp4(Matrix m, const float* x, float* y, int batch, int adds) { matmul<NVFP4, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_nvfp4(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<NVFP4>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_nvfp4(Matrix m, const u32* tokens, float* x) { embed<NVFP4>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq4_nl(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ4_NL, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq4_nl(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ4_NL, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq4_nl(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ4_NL>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq4_nl(Matrix m, const u32* tokens, float* x) { embed<IQ4_NL>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq4_xs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ4_XS, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq4_xs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ4_XS, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq4_xs(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ4_XS>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq4_xs(Matrix m, const u32* tokens, float* x) { embed<IQ4_XS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_tq1_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<TQ1_0, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_tq1_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<TQ1_0, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_tq1_0(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<TQ1_0>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_tq1_0(Matrix m, const u32* tokens, float* x) { embed<TQ1_0>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_tq2_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<TQ2_0, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_tq2_0(Matrix m, const float* x, float* y, int batch, int adds) { matmul<TQ2_0, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_tq2_0(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<TQ2_0>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_tq2_0(Matrix m, const u32* tokens, float* x) { embed<TQ2_0>(m, tokens, x); }
