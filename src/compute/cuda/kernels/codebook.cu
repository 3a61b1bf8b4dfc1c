// Matrices of indices of codebooks.
#include "matrix.cuh"

extern "C" __global__ void __launch_bounds__(256) matvec_iq2_xxs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ2_XXS, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq2_xxs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ2_XXS, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq2_xxs(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ2_XXS>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq2_xxs(Matrix m, const u32* tokens, float* x) { embed<IQ2_XXS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq2_xs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ2_XS, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq2_xs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ2_XS, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq2_xs(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ2_XS>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq2_xs(Matrix m, const u32* tokens, float* x) { embed<IQ2_XS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq2_s(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ2_S, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq2_s(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ2_S, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq2_s(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ2_S>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq2_s(Matrix m, const u32* tokens, float* x) { embed<IQ2_S>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq3_xxs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ3_XXS, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq3_xxs(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ3_XXS, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq3_xxs(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ3_XXS>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq3_xxs(Matrix m, const u32* tokens, float* x) { embed<IQ3_XXS>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq3_s(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ3_S, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq3_s(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ3_S, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq3_s(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ3_S>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq3_s(Matrix m, const u32* tokens, float* x) { embed<IQ3_S>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq1_s(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ1_S, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq1_s(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ1_S, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq1_s(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ1_S>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq1_s(Matrix m, const u32* tokens, float* x) { embed<IQ1_S>(m, tokens, x); }

extern "C" __global__ void __launch_bounds__(256) matvec_iq1_m(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ1_M, 1>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) matmul_iq1_m(Matrix m, const float* x, float* y, int batch, int adds) { matmul<IQ1_M, 4>(m, x, y, batch, adds); }
extern "C" __global__ void __launch_bounds__(256) visit_iq1_m(Matrix m, const u32* experts, int shared_by, const float* x, float* y) { visit<IQ1_M>(m, experts, shared_by, x, y); }
extern "C" __global__ void __launch_bounds__(256) embed_iq1_m(Matrix m, const u32* tokens, float* x) { embed<IQ1_M>(m, tokens, x); }
