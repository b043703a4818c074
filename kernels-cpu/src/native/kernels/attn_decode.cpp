// attn_decode: attention of sequences that have one new token, over keys and values where they lie in the paged cache.
// Source: Milakov and Gimelshein 2018 (online softmax), tile by tile; Kwon et al. 2023, section 4.1 (paging).
// Everything in float32, one rounding at the store.
//
// An item of work is some heads of one sequence, so a result's bits depend on its own sequence alone. A long sequence
// with few heads does not fill many cores.
#include "../kernels.h"
#include "../parallel.h"
#include "../vec_math.h"

namespace aphrodite::APHRODITE_ISA {
namespace {

// One thread takes about 0.06 ns an element of keys and values in cache, and what memory takes outside.
constexpr std::int64_t kParallelWork = 131072;

constexpr std::int64_t kTile = 64;   // tokens whose scores are held at once
constexpr std::int64_t kAhead = 4;   // tokens that are fetched before they are needed
constexpr std::int64_t kHeads = 16;  // query heads of one pass over the tokens, fewer where they are wide:
constexpr std::int64_t kFloats = 8 * kMaxHeadDim;  // of all their queries, so that a small stack will do

// Query heads that go over the tokens together: `group` of them for each of some heads of keys, side by side in memory.
struct Pass {
  std::int64_t kv_heads, group;
  float q[kFloats];    // scaled; a row is head_dim long
  float acc[kFloats];  // values weighted so far; a row is value_dim long
  float weights[kHeads * kTile];    // of the tile
  float max[kHeads], sum[kHeads];
};

// Rows of a tile's tokens for the first head of a pass. Those past the last token are fetched only, and repeat it.
template <class X>
struct Rows {
  const X* keys[kTile + kAhead];
  const X* values[kTile + kAhead];
};

// All lanes, or the first n.
template <class T>
inline Vec load_some(const T* p) {
  return load(p);
}
template <class T>
inline Vec load_some(const T* p, std::int64_t n) {
  return load_first(p, n);
}
inline void store_some(float* p, Vec x) { store(p, x); }
inline void store_some(float* p, Vec x, std::int64_t n) { store_first(p, x, n); }

template <int n>
struct Heads {
  static constexpr int value = n;
};

inline void load_row(float* to, const void* from, std::int64_t offset, std::int64_t n, float scale, DType dtype) {
  const auto copy = [&](auto* x) {
    x += offset;
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(x + i) * splat(scale));
    if (i < n) store_first(to + i, load_first(x + i, n - i) * splat(scale), n - i);
  };
  switch (dtype) {
    case DType::f32: return copy(static_cast<const float*>(from));
    case DType::f16: return copy(static_cast<const F16*>(from));
    case DType::bf16: return copy(static_cast<const BF16*>(from));
  }
}

inline void store_row(void* to, std::int64_t offset, const float* x, std::int64_t n, float scale, DType dtype) {
  const auto copy = [&](auto* out) {
    out += offset;
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * splat(scale));
    if (i < n) store_first(out + i, load_first(x + i, n - i) * splat(scale), n - i);
  };
  switch (dtype) {
    case DType::f32: return copy(static_cast<float*>(to));
    case DType::f16: return copy(static_cast<F16*>(to));
    case DType::bf16: return copy(static_cast<BF16*>(to));
  }
}

template <class X>
inline void prefetch(const X* row, std::int64_t n) {
  const char* const bytes = reinterpret_cast<const char*>(row);
  for (std::int64_t i = 0; i < n * static_cast<std::int64_t>(sizeof(X)); i += 64) __builtin_prefetch(bytes + i);
}

// Scores of `heads` queries against `tokens` keys.
template <int heads, int tokens, class X>
inline void dots(float* scores, const float* q, const X* const* keys, std::int64_t offset, std::int64_t dim) {
  Vec sums[heads][tokens];
  for (int h = 0; h < heads; ++h)
    for (int t = 0; t < tokens; ++t) sums[h][t] = splat(0.0f);
  const auto add = [&](std::int64_t i, auto... width) {
    Vec k[tokens];
    for (int t = 0; t < tokens; ++t) k[t] = load_some(keys[t] + offset + i, width...);
    for (int h = 0; h < heads; ++h) {
      const Vec x = load_some(q + h * dim + i, width...);
      for (int t = 0; t < tokens; ++t) sums[h][t] = fma(k[t], x, sums[h][t]);
    }
  };
  std::int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) add(i);
  if (i < dim) add(i, dim - i);
  for (int h = 0; h < heads; ++h)
    for (int t = 0; t < tokens; ++t) scores[h * kTile + t] = sum(sums[h][t]);
}

template <int heads, class X>
inline void scores_of(float* scores, const float* q, const X* const* keys, std::int64_t offset, std::int64_t dim,
                      std::int64_t num) {
  constexpr int together = 4 / heads;
  std::int64_t t = 0;
  for (; t + together <= num; t += together) dots<heads, together>(scores + t, q, keys + t, offset, dim);
  for (; t < num; ++t) dots<heads, 1>(scores + t, q, keys + t, offset, dim);
}

// acc[h] += weights[h][t] * values[t], for `heads` query heads and `vecs` vectors of columns from `at` on. With a
// width, the one vector holds so many.
template <int heads, int vecs, class X, class... Width>
inline void mix(float* acc, const float* weights, const X* const* values, std::int64_t offset, std::int64_t dim,
                std::int64_t num, std::int64_t at, Width... width) {
  Vec sums[heads][vecs];
  for (int h = 0; h < heads; ++h)
    for (int j = 0; j < vecs; ++j) sums[h][j] = load_some(acc + h * dim + at + j * kLanes, width...);
  for (std::int64_t t = 0; t < num; ++t) {
    Vec v[vecs];
    for (int j = 0; j < vecs; ++j) v[j] = load_some(values[t] + offset + at + j * kLanes, width...);
    for (int h = 0; h < heads; ++h) {
      const Vec weight = splat(weights[h * kTile + t]);
      for (int j = 0; j < vecs; ++j) sums[h][j] = fma(weight, v[j], sums[h][j]);
    }
  }
  for (int h = 0; h < heads; ++h)
    for (int j = 0; j < vecs; ++j) store_some(acc + h * dim + at + j * kLanes, sums[h][j], width...);
}

template <int heads, class X>
inline void mix_all(float* acc, const float* weights, const X* const* values, std::int64_t offset, std::int64_t dim,
                    std::int64_t num) {
  constexpr int vecs = 4 / heads;
  std::int64_t at = 0;
  for (; at + vecs * kLanes <= dim; at += vecs * kLanes)
    mix<heads, vecs>(acc, weights, values, offset, dim, num, at);
  for (; at + kLanes <= dim; at += kLanes) mix<heads, 1>(acc, weights, values, offset, dim, num, at);
  if (at < dim) mix<heads, 1>(acc, weights, values, offset, dim, num, at, dim - at);
}

// body(first head, heads) over a group, in fours, twos and ones.
template <class Body>
inline void in_parts(std::int64_t group, const Body& body) {
  std::int64_t h = 0;
  for (; h + 4 <= group; h += 4) body(h, Heads<4>{});
  if (h + 2 <= group) body(h, Heads<2>{}), h += 2;
  if (h < group) body(h, Heads<1>{});
}

// Scores of a tile become weights under the greatest score so far; what was summed under a lesser one is scaled.
inline void weigh(Pass& pass, std::int64_t h, std::int64_t value_dim) {
  float* const scores = pass.weights + h * kTile;
  Vec most = load(scores);
  for (std::int64_t t = kLanes; t < kTile; t += kLanes) {
    const Vec s = load(scores + t);
    most = max_to(s, most);
  }
  float lanes[kLanes], max = pass.max[h];
  store(lanes, most);
  for (float lane : lanes) max = lane > max ? lane : max;
  if (max != pass.max[h]) {
    float scale[kLanes];
    store(scale, exp_of_negative(splat(pass.max[h] - max)));
    pass.sum[h] *= scale[0];
    float* const acc = pass.acc + h * value_dim;
    for (std::int64_t i = 0; i < value_dim; ++i) acc[i] *= scale[0];
    pass.max[h] = max;
  }
  Vec total = splat(0.0f);
  for (std::int64_t t = 0; t < kTile; t += kLanes) {
    const Vec weight = exp_of_negative(load(scores + t) - splat(max));
    total = total + weight;
    store(scores + t, weight);
  }
  pass.sum[h] += sum(total);
}

template <class X>
void tile(const AttnDecode& a, Pass& pass, const Rows<X>& rows, std::int64_t num) {
  constexpr std::int64_t together = 4;
  for (std::int64_t t = 0; t < num; t += together) {
    const std::int64_t n = num - t < together ? num - t : together;
    for (std::int64_t j = 0; j < pass.kv_heads; ++j) {
      for (std::int64_t i = t; i < t + n; ++i) {
        prefetch(rows.keys[i + kAhead] + j * a.k_head_stride, a.head_dim);
        prefetch(rows.values[i] + j * a.v_head_stride, a.value_dim);
      }
      in_parts(pass.group, [&](std::int64_t first, auto heads) {
        const std::int64_t h = j * pass.group + first;
        scores_of<heads.value>(pass.weights + h * kTile + t, pass.q + h * a.head_dim, rows.keys + t,
                               j * a.k_head_stride, a.head_dim, n);
      });
    }
  }
  for (std::int64_t h = 0; h < pass.kv_heads * pass.group; ++h) {
    float* const scores = pass.weights + h * kTile;
    for (std::int64_t t = num; t < kTile; ++t) scores[t] = 0.0f;
    if (a.softcap > 0.0f)
      for (std::int64_t t = 0; t < num; t += kLanes)
        store(scores + t, tanh(load(scores + t) * splat(1.0f / a.softcap)) * splat(a.softcap));
    for (std::int64_t t = num; t < kTile; ++t) scores[t] = -__builtin_inff();
    weigh(pass, h, a.value_dim);
  }
  for (std::int64_t j = 0; j < pass.kv_heads; ++j)
    in_parts(pass.group, [&](std::int64_t first, auto heads) {
      const std::int64_t h = j * pass.group + first;
      mix_all<heads.value>(pass.acc + h * a.value_dim, pass.weights + h * kTile, rows.values, j * a.v_head_stride,
                           a.value_dim, num);
    });
}

// One sequence, query heads `first` to `first + kv_heads * group`, of which each `group` share a head of keys.
template <class X>
void attend(const AttnDecode& a, std::int64_t seq, std::int64_t first, std::int64_t kv_heads, std::int64_t group) {
  Pass pass;
  pass.kv_heads = kv_heads;
  pass.group = group;
  const std::int64_t heads = kv_heads * group, kv_head = first / a.group;
  const std::int64_t token = a.cu_q[seq], length = a.seq_lens[seq];
  for (std::int64_t h = 0; h < heads; ++h) {
    load_row(pass.q + h * a.head_dim, a.q, token * a.q_stride + (first + h) * a.q_head_stride, a.head_dim, a.scale,
             a.dtype);
    pass.max[h] = -__builtin_inff();
    pass.sum[h] = 0.0f;
  }
  for (std::int64_t i = 0; i < heads * a.value_dim; ++i) pass.acc[i] = 0.0f;

  const std::int32_t* const table = a.tables + seq * a.table_stride;
  const X* const k = static_cast<const X*>(a.k) + kv_head * a.k_head_stride;
  const X* const v = static_cast<const X*>(a.v) + kv_head * a.v_head_stride;
  Rows<X> rows;
  for (std::int64_t at = a.window > 0 && a.window < length ? length - a.window : 0; at < length; at += kTile) {
    const std::int64_t num = length - at < kTile ? length - at : kTile;
    std::int64_t column = at / a.block_size, offset = at % a.block_size;
    for (std::int64_t t = 0; t < num + kAhead; ++t) {
      const std::int64_t block = table[column];
      rows.keys[t] = k + block * a.k_block_stride + offset * a.k_token_stride;
      rows.values[t] = v + block * a.v_block_stride + offset * a.v_token_stride;
      if (at + t + 1 < length && ++offset == a.block_size) ++column, offset = 0;
    }
    tile(a, pass, rows, num);
  }

  for (std::int64_t h = 0; h < heads; ++h) {
    float max = pass.max[h], total = pass.sum[h], scale = 1.0f;
    if (a.sinks) {
      const float sink = a.sinks[first + h];
      if (sink > max) {
        scale = __builtin_expf(max - sink);
        total = total * scale + 1.0f;
        max = sink;
      } else {
        total += __builtin_expf(sink - max);
      }
    }
    store_row(a.out, token * a.out_stride + (first + h) * a.out_head_stride, pass.acc + h * a.value_dim, a.value_dim,
              scale / total, a.dtype);
    if (a.lse) a.lse[token * a.lse_stride + first + h] = max + __builtin_logf(total);
  }
}

template <class X>
void run(const AttnDecode& a) {
  std::int64_t tokens = 0, singles = 0;
  for (std::int64_t seq = 0; seq < a.num_seqs; ++seq)
    if (a.cu_q[seq + 1] - a.cu_q[seq] == 1) tokens += a.seq_lens[seq], ++singles;
  const int threads = num_threads(tokens * a.kv_heads * (a.head_dim + a.value_dim), kParallelWork);
  // As many heads as a pass takes, or fewer where there would not be work for all threads.
  const std::int64_t widest = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
  const std::int64_t most = kFloats / widest < kHeads ? kFloats / widest : kHeads;
  const std::int64_t group = a.group < most ? a.group : most;
  std::int64_t kv_heads = most / group;
  while (kv_heads > 1 && singles * (a.kv_heads / kv_heads) < 2 * threads) --kv_heads;
  const std::int64_t across = (a.kv_heads + kv_heads - 1) / kv_heads, within = (a.group + group - 1) / group;
  parallel_each(a.num_seqs * across * within, threads, [&](std::int64_t item) {
    const std::int64_t seq = item / (across * within), part = item / within % across, piece = item % within;
    if (a.cu_q[seq + 1] - a.cu_q[seq] != 1) return;
    const std::int64_t first = part * kv_heads * a.group + piece * group;
    const std::int64_t left = a.kv_heads - part * kv_heads, rest = a.group - piece * group;
    attend<X>(a, seq, first, left < kv_heads ? left : kv_heads, rest < group ? rest : group);
  });
}

}  // namespace

void attn_decode(const AttnDecode& a) {
  switch (a.cache_dtype) {
    case DType::f32: return run<float>(a);
    case DType::f16: return run<F16>(a);
    case DType::bf16: return run<BF16>(a);
  }
}

}  // namespace aphrodite::APHRODITE_ISA
