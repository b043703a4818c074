// The Python module: kernels over raw addresses and plain numbers.
//
// A call checks the dtype and kind codes and nothing else; whoever binds a kernel to its buffers checks the rest
// once. Adding a kernel: a function below that fills its argument struct, and its def_kernel line.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdlib>
#include <stdexcept>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "dispatch.h"

namespace py = pybind11;

namespace aphrodite {
namespace {

const Isa* active = nullptr;  // set once, when the module is loaded

struct Code {
  const char* name;
  int value;
};
constexpr Code kDTypes[] = {
    {"f32", static_cast<int>(DType::f32)},
    {"f16", static_cast<int>(DType::f16)},
    {"bf16", static_cast<int>(DType::bf16)},
};
constexpr Code kKinds[] = {
    {"silu", static_cast<int>(ActKind::silu)},
    {"gelu_erf", static_cast<int>(ActKind::gelu_erf)},
    {"gelu_tanh", static_cast<int>(ActKind::gelu_tanh)},
    {"swiglu_oai", static_cast<int>(ActKind::swiglu_oai)},
};

template <class Enum, std::size_t n>
Enum checked(const char* what, const Code (&codes)[n], int value) {
  for (const Code& code : codes)
    if (code.value == value) return static_cast<Enum>(value);
  std::string legal;
  for (const Code& code : codes)
    legal += (legal.empty() ? "" : ", ") + std::to_string(code.value) + " (" + code.name + ")";
  throw std::invalid_argument(std::string(what) + " must be one of " + legal + ", got " + std::to_string(value));
}

template <std::size_t n>
py::dict by_name(const Code (&codes)[n]) {
  py::dict result;
  for (const Code& code : codes) result[code.name] = code.value;
  return result;
}

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Taking the interpreter lock back from a busy Python thread may cost its switch interval (5 ms), so only calls that
// may last over 50 us release it. The estimate is for one thread: there may be no more. `element_ps` is the
// kernel's slowest dtype and kind with AVX2, in picoseconds an element (see the kernel's file).
template <class Args>
void call(void (*kernel)(const Args&), const Args& args, std::int64_t elements, std::int64_t element_ps) {
  constexpr std::int64_t long_ps = 50'000'000;
  if (elements < long_ps / (element_ps * active->slowness)) return kernel(args);
  py::gil_scoped_release unlocked;
  kernel(args);
}

void rms_norm(std::uintptr_t out, std::uintptr_t x, std::uintptr_t w, std::int64_t rows, std::int64_t width,
              std::int64_t out_stride, std::int64_t x_stride, float eps, float offset, int dtype) {
  call(active->kernels.rms_norm, RmsNorm{at<void>(out), at<const void>(x), at<const void>(w), rows, width, out_stride,
                                         x_stride, eps, offset, checked<DType>("dtype", kDTypes, dtype)},
       rows * width, 270);
}

void act_mul(std::uintptr_t out, std::uintptr_t x, std::int64_t rows, std::int64_t width, std::int64_t out_stride,
             std::int64_t x_stride, int kind, int dtype) {
  call(active->kernels.act_mul,
       ActMul{at<void>(out), at<const void>(x), rows, width, out_stride, x_stride,
              checked<ActKind>("kind", kKinds, kind), checked<DType>("dtype", kDTypes, dtype)},
       rows * width, 1000);
}

void attn_decode(std::uintptr_t out, std::uintptr_t lse, std::uintptr_t q, std::uintptr_t k, std::uintptr_t v,
                 std::uintptr_t tables, std::uintptr_t seq_lens, std::uintptr_t cu_q, std::uintptr_t sinks,
                 std::int64_t num_seqs, std::int64_t kv_heads, std::int64_t group, std::int64_t head_dim,
                 std::int64_t value_dim, std::int64_t block_size, std::array<std::int64_t, 2> out_strides,
                 std::int64_t lse_stride, std::array<std::int64_t, 2> q_strides, std::array<std::int64_t, 3> k_strides,
                 std::array<std::int64_t, 3> v_strides, std::int64_t table_stride, std::int64_t window, float scale,
                 float softcap, int dtype, int cache_dtype) {
  if (head_dim > kMaxHeadDim || value_dim > kMaxHeadDim)
    throw std::invalid_argument("head_dim and value_dim must be at most " + std::to_string(kMaxHeadDim) + ", got " +
                                std::to_string(head_dim) + " and " + std::to_string(value_dim));
  const AttnDecode args{at<void>(out), at<float>(lse), at<const void>(q), at<const void>(k), at<const void>(v),
                        at<const std::int32_t>(tables), at<const std::int32_t>(seq_lens), at<const std::int32_t>(cu_q),
                        at<const float>(sinks), num_seqs, kv_heads, group, head_dim, value_dim, block_size,
                        out_strides[0], out_strides[1], lse_stride, q_strides[0], q_strides[1], k_strides[0],
                        k_strides[1], k_strides[2], v_strides[0], v_strides[1], v_strides[2], table_stride, window,
                        scale, softcap, checked<DType>("dtype", kDTypes, dtype),
                        checked<DType>("cache_dtype", kDTypes, cache_dtype)};
  std::int64_t tokens = 0;
  for (std::int64_t seq = 0; seq < num_seqs; ++seq) tokens += args.seq_lens[seq];
  call(active->kernels.attn_decode, args, tokens * kv_heads * group * (head_dim + value_dim), 300);
}

constexpr const char* kNumThreadsDoc = "Threads that a large call made now by this thread would use.";

constexpr const char* kRmsNormDoc = R"(Root-mean-square normalisation of each row, times a weight.

out[t,:] = x[t,:] * rsqrt(mean(x[t,:]^2) + eps) * (w + offset)

out, x      addresses of [rows, width]; out may be x (with the same stride), else they must not overlap
w           address of [width]
out_stride, x_stride   elements from one row to the next; within a row elements are contiguous
eps         added to the mean of squares
offset      0, or 1 for weights stored as their difference from 1
dtype       DTYPES[...] of out, x and w; arithmetic is float32, rounded once to nearest even
rows = 0 or width = 0 is a no-op. A row's bits depend on that row alone.
Raises ValueError for an unknown dtype. Nothing else is checked: wrong addresses or sizes corrupt memory.
Source: Zhang and Sennrich 2019, equation 4.)";

constexpr const char* kActMulDoc = R"(Gated activation: out = act(gate) * up.

out         address of [rows, width]; must not overlap x
x           address of [rows, 2 * width]: gate = x[:, :width], up = x[:, width:]
out_stride, x_stride   elements from one row to the next; within a row elements are contiguous
kind        KINDS[...]: silu; gelu_erf; gelu_tanh; swiglu_oai, which is g * sigmoid(1.702 g) * (u + 1)
            with g = min(gate, 7) and u = clamp(up, -7, 7)
dtype       DTYPES[...] of out and x; arithmetic is float32, rounded once to nearest even
act(-inf) is 0, its limit; NaN stays NaN. rows = 0 or width = 0 is a no-op. Each element depends on its gate and up
alone.
Raises ValueError for an unknown kind or dtype. Nothing else is checked: wrong addresses or sizes corrupt memory.
Sources: Shazeer 2020 (GLU variants); Hendrycks and Gimpel 2016 (GELU); the gpt-oss model code (swiglu_oai).)";

constexpr const char* kAttnDecodeDoc = R"(Attention over the paged cache, of those sequences that have one new token; others are left as they are.

out[t,h,:] = sum_j softmax_j(scale * q[t,h] . k[j, h // group]) v[j, h // group], j over the sequence's tokens

out, q      addresses of [tokens, kv_heads * group, value_dim or head_dim]; dtype; `out_strides`, `q_strides`: of
            tokens and of heads
lse         address of [tokens, kv_heads * group] f32, or 0: natural log of the sum of exponentials, sinks included
k, v        addresses of [blocks, block_size, kv_heads, head_dim or value_dim]; cache_dtype; `k_strides`,
            `v_strides`: of blocks, of tokens and of heads
tables      address of [num_seqs, n] i32: the blocks of each sequence; entries that hold no token in sight are not read
seq_lens    address of [num_seqs] i32, the new token included
cu_q        address of [num_seqs + 1] i32: a sequence's new tokens are cu_q[s] to cu_q[s + 1] of q and out
sinks       address of [kv_heads * group] f32, or 0: a logit a head that takes weight and gives nothing
window      with w > 0 a token sees itself and the w - 1 before it
softcap     with c > 0 scores become c tanh(score / c)
Arithmetic is float32, rounded once to nearest even. A sequence's bits depend on that sequence alone.
Raises ValueError for an unknown dtype and for heads of over 1024. Nothing else is checked: wrong addresses or sizes
corrupt memory.
Sources: Milakov and Gimelshein 2018 (online softmax); Kwon et al. 2023, section 4.1 (paged caches).)";

}  // namespace
}  // namespace aphrodite

PYBIND11_MODULE(_native, m) {
  using namespace aphrodite;
  try {
    active = &choose_isa(std::getenv("APHRODITE_CPU_ISA"));
  } catch (const std::invalid_argument& error) {
    throw py::import_error(error.what());
  }

  m.attr("__version__") = APHRODITE_VERSION;
  m.attr("DTYPES") = by_name(kDTypes);
  m.attr("KINDS") = by_name(kKinds);
#ifdef _OPENMP
  m.attr("OPENMP") = true;
  m.def("num_threads", [] { return omp_get_max_threads(); }, kNumThreadsDoc);
#else
  m.attr("OPENMP") = false;
  m.def("num_threads", [] { return 1; }, kNumThreadsDoc);
#endif
  m.def("isa", [] { return active->name; }, "The instruction set in use.");

  py::list names;
  const auto def_kernel = [&](const char* name, auto function, const char* doc, auto... args) {
    m.def(name, function, doc, py::arg(args)...);
    names.append(name);
  };
  def_kernel("rms_norm", rms_norm, kRmsNormDoc, "out", "x", "w", "rows", "width", "out_stride", "x_stride", "eps",
             "offset", "dtype");
  def_kernel("act_mul", act_mul, kActMulDoc, "out", "x", "rows", "width", "out_stride", "x_stride", "kind", "dtype");
  def_kernel("attn_decode", attn_decode, kAttnDecodeDoc, "out", "lse", "q", "k", "v", "tables", "seq_lens", "cu_q",
             "sinks", "num_seqs", "kv_heads", "group", "head_dim", "value_dim", "block_size", "out_strides",
             "lse_stride", "q_strides", "k_strides", "v_strides", "table_stride", "window", "scale", "softcap", "dtype",
             "cache_dtype");
  m.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  m.attr("KERNELS") = py::frozenset(names);
}
