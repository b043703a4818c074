// What every kernel takes, and the one list of kernels.
//
// A new kernel is: its argument struct and its line in APHRODITE_KERNELS here, one file in kernels/ (named in
// CMakeLists.txt too), one function in binding.cpp, one stub in _native.pyi.
#pragma once

#include <cstdint>

namespace aphrodite {

// Codes of the Python DTYPES and KINDS; a code is never given a new meaning.
enum class DType : int { f32 = 0, f16 = 1, bf16 = 2 };
enum class ActKind : int { silu = 0, gelu_erf = 1, gelu_tanh = 2, swiglu_oai = 3 };

// Strides are in elements; the innermost dimension is contiguous. Pointers need only the alignment of their element.

struct RmsNorm {
  void* out;      // [rows, width]; may be x
  const void* x;  // [rows, width]
  const void* w;  // [width]
  std::int64_t rows, width, out_stride, x_stride;
  float eps, offset;
  DType dtype;  // of out, x and w
};

struct ActMul {
  void* out;      // [rows, width]
  const void* x;  // [rows, 2 * width], gate | up
  std::int64_t rows, width, out_stride, x_stride;
  ActKind kind;
  DType dtype;  // of out and x
};

constexpr std::int64_t kMaxHeadDim = 1024;  // of keys and of values

struct AttnDecode {
  void* out;                      // [tokens, kv_heads * group, value_dim]
  float* lse;                     // [tokens, kv_heads * group], or null
  const void* q;                  // [tokens, kv_heads * group, head_dim]
  const void* k;                  // [blocks, block_size, kv_heads, head_dim]
  const void* v;                  // [blocks, block_size, kv_heads, value_dim]
  const std::int32_t* tables;     // [num_seqs, blocks of a sequence]
  const std::int32_t* seq_lens;   // [num_seqs]
  const std::int32_t* cu_q;       // [num_seqs + 1]
  const float* sinks;             // [kv_heads * group], or null
  std::int64_t num_seqs, kv_heads, group, head_dim, value_dim, block_size;
  std::int64_t out_stride, out_head_stride, lse_stride, q_stride, q_head_stride;
  std::int64_t k_block_stride, k_token_stride, k_head_stride, v_block_stride, v_token_stride, v_head_stride;
  std::int64_t table_stride;
  std::int64_t window;  // 0: none
  float scale, softcap;  // 0: none
  DType dtype;           // of out and q
  DType cache_dtype;     // of k and v
};

#define APHRODITE_KERNELS(KERNEL) \
  KERNEL(rms_norm, RmsNorm)       \
  KERNEL(act_mul, ActMul)         \
  KERNEL(attn_decode, AttnDecode)

// The kernels of one instruction set.
struct Kernels {
#define APHRODITE_MEMBER(name, Args) void (*name)(const Args&);
  APHRODITE_KERNELS(APHRODITE_MEMBER)
#undef APHRODITE_MEMBER
};

}  // namespace aphrodite
