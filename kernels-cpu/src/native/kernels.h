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

// Strides are in elements, from row to row; within a row elements are contiguous. Pointers need only the
// alignment of their element. Work is rows * width.

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

#define APHRODITE_KERNELS(KERNEL) \
  KERNEL(rms_norm, RmsNorm)       \
  KERNEL(act_mul, ActMul)

// The kernels of one instruction set.
struct Kernels {
#define APHRODITE_MEMBER(name, Args) void (*name)(const Args&);
  APHRODITE_KERNELS(APHRODITE_MEMBER)
#undef APHRODITE_MEMBER
};

}  // namespace aphrodite
