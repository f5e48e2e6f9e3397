// Causal attention with grouped queries for the trainer: float32, head size 32, AVX-512, forward and backward.
//
// PyTorch's CPU kernel spends most of its time around heads as small as 32; this one keeps whole tiles in
// registers. One work item is one key/value head of one row of the batch with its GROUP query heads. Two
// neighbouring positions x GROUP heads = M queries go through the keys together, so each key is loaded once
// for M queries. All scores of M queries fit the cache (M x length floats), hence no running softmax.
// Shapes, contiguous: q, o [items][GROUP][t][D]; k, v [items][t][D]; lse [items][GROUP][t].
#include <immintrin.h>

#include <cmath>
#include <vector>

namespace {
constexpr int D = 32, GROUP = 4, M = 2 * GROUP;

// e^x for x <= 0: 2^round(x / ln 2) times a polynomial of degree 6 on the rest.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 y = _mm512_set1_ps(1.0f / 720);
  for (float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, n);
}

// out[D][stride] = in[t][D] transposed; the tail up to `stride` is zero.
void transpose(const float* in, float* out, int t, int stride) {
  for (int d = 0; d < D; d++)
    for (int j = 0; j < stride; j++) out[d * stride + j] = j < t ? in[j * D + d] : 0.0f;
}

// s[m][j] = rows[m] . in[j] for all j below `count` (a multiple of 32), from the transposed input.
inline void products(const float* const* rows, const float* transposed, float* s, int count, int stride) {
  for (int j = 0; j < count; j += 32) {
    __m512 a[M], b[M];
    for (int m = 0; m < M; m++) a[m] = b[m] = _mm512_setzero_ps();
    for (int d = 0; d < D; d++) {
      const __m512 x = _mm512_loadu_ps(transposed + d * stride + j), y = _mm512_loadu_ps(transposed + d * stride + j + 16);
      for (int m = 0; m < M; m++) {
        const __m512 q = _mm512_set1_ps(rows[m][d]);
        a[m] = _mm512_fmadd_ps(q, x, a[m]);
        b[m] = _mm512_fmadd_ps(q, y, b[m]);
      }
    }
    for (int m = 0; m < M; m++) {
      _mm512_storeu_ps(s + m * stride + j, a[m]);
      _mm512_storeu_ps(s + m * stride + j + 16, b[m]);
    }
  }
}

// out[m] = sum over j of w[m][j] * in[j].
inline void weighted(const float* w, const float* in, float* const* out, int count, int stride) {
  __m512 a[M], b[M];
  for (int m = 0; m < M; m++) a[m] = b[m] = _mm512_setzero_ps();
  for (int j = 0; j < count; j++) {
    const __m512 x = _mm512_loadu_ps(in + j * D), y = _mm512_loadu_ps(in + j * D + 16);
    for (int m = 0; m < M; m++) {
      const __m512 p = _mm512_set1_ps(w[m * stride + j]);
      a[m] = _mm512_fmadd_ps(p, x, a[m]);
      b[m] = _mm512_fmadd_ps(p, y, b[m]);
    }
  }
  for (int m = 0; m < M; m++)
    if (out[m]) {
      _mm512_storeu_ps(out[m], a[m]);
      _mm512_storeu_ps(out[m] + 16, b[m]);
    }
}

// out[j] += sum over m of w[m][j] * rows[m].
inline void spread(const float* w, const float* const* rows, float* out, int count, int stride) {
  __m512 a[M], b[M];
  for (int m = 0; m < M; m++) {
    a[m] = _mm512_loadu_ps(rows[m]);
    b[m] = _mm512_loadu_ps(rows[m] + 16);
  }
  for (int j = 0; j < count; j++) {
    __m512 x = _mm512_loadu_ps(out + j * D), y = _mm512_loadu_ps(out + j * D + 16);
    for (int m = 0; m < M; m++) {
      const __m512 p = _mm512_set1_ps(w[m * stride + j]);
      x = _mm512_fmadd_ps(p, a[m], x);
      y = _mm512_fmadd_ps(p, b[m], y);
    }
    _mm512_storeu_ps(out + j * D, x);
    _mm512_storeu_ps(out + j * D + 16, y);
  }
}
}  // namespace

extern "C" void forward(const float* q, const float* k, const float* v, float* o, float* lse, int items, int t) {
  const float scale = 1.0f / std::sqrt(float(D));
  const int stride = (t + 31) / 32 * 32;
#pragma omp parallel
  {
    std::vector<float> kt(size_t(D) * stride), s(size_t(M) * stride);
#pragma omp for schedule(dynamic)
    for (int n = 0; n < items; n++) {
      const size_t head = size_t(t) * D, base = n * GROUP * head;
      const float* values = v + n * head;
      transpose(k + n * head, kt.data(), t, stride);
      for (int i = 0; i < t; i += 2) {
        const float* rows[M];
        float* out[M];
        const int last = i + 1 < t ? i + 1 : i, count = (last / 32 + 1) * 32;
        for (int m = 0; m < M; m++) {
          const int at = m < GROUP ? i : last;
          rows[m] = q + base + (m % GROUP) * head + size_t(at) * D;
          out[m] = m >= GROUP && last == i ? nullptr : o + base + (m % GROUP) * head + size_t(at) * D;
        }
        products(rows, kt.data(), s.data(), count, stride);
        for (int m = 0; m < M; m++) {
          float* x = s.data() + m * stride;
          const int at = m < GROUP ? i : last;
          for (int j = at + 1; j < count; j++) x[j] = -1e30f;
          __m512 top = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps();
          for (int j = 0; j < count; j += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(x + j));
          const float peak = _mm512_reduce_max_ps(top) * scale;
          for (int j = 0; j < count; j += 16) {
            const __m512 y = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(x + j), _mm512_set1_ps(scale), _mm512_set1_ps(peak)));
            sum = _mm512_add_ps(sum, y);
            _mm512_storeu_ps(x + j, y);
          }
          for (int j = at + 1; j < count; j++) x[j] = 0.0f;
          const float total = _mm512_reduce_add_ps(sum);
          const __m512 inverse = _mm512_set1_ps(1.0f / total);
          for (int j = 0; j < count; j += 16) _mm512_storeu_ps(x + j, _mm512_mul_ps(_mm512_loadu_ps(x + j), inverse));
          lse[(size_t(n) * GROUP + m % GROUP) * t + at] = peak + std::log(total);
        }
        weighted(s.data(), values, out, last + 1, stride);
      }
    }
  }
}

// Gradients of q, k and v from that of o; dk and dv must come in as zeros.
extern "C" void backward(const float* q, const float* k, const float* v, const float* o, const float* lse, const float* go, float* dq, float* dk,
                         float* dv, int items, int t) {
  const float scale = 1.0f / std::sqrt(float(D));
  const int stride = (t + 31) / 32 * 32;
#pragma omp parallel
  {
    std::vector<float> kt(size_t(D) * stride), vt(size_t(D) * stride), p(size_t(M) * stride), g(size_t(M) * stride);
#pragma omp for schedule(dynamic)
    for (int n = 0; n < items; n++) {
      const size_t head = size_t(t) * D, base = n * GROUP * head;
      transpose(k + n * head, kt.data(), t, stride);
      transpose(v + n * head, vt.data(), t, stride);
      for (int i = 0; i < t; i += 2) {
        const float *rows[M], *grads[M];
        float* out[M];
        const int last = i + 1 < t ? i + 1 : i, count = (last / 32 + 1) * 32;
        for (int m = 0; m < M; m++) {
          const size_t at = base + (m % GROUP) * head + size_t(m < GROUP ? i : last) * D;
          rows[m] = q + at;
          grads[m] = go + at;
          out[m] = m >= GROUP && last == i ? nullptr : dq + at;
        }
        products(rows, kt.data(), p.data(), count, stride);
        products(grads, vt.data(), g.data(), count, stride);
        for (int m = 0; m < M; m++) {
          float *x = p.data() + m * stride, *y = g.data() + m * stride;
          const int at = m < GROUP ? i : last;
          const float* result = o + base + (m % GROUP) * head + size_t(at) * D;
          float dot = 0;
          for (int d = 0; d < D; d++) dot += result[d] * grads[m][d];
          const __m512 shift = _mm512_set1_ps(lse[(size_t(n) * GROUP + m % GROUP) * t + at]), mean = _mm512_set1_ps(dot);
          for (int j = 0; j < count; j += 16) {
            const __m512 w = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(x + j), _mm512_set1_ps(scale), shift));
            _mm512_storeu_ps(x + j, w);
            _mm512_storeu_ps(y + j, _mm512_mul_ps(_mm512_mul_ps(w, _mm512_set1_ps(scale)), _mm512_sub_ps(_mm512_loadu_ps(y + j), mean)));
          }
          // Masked places, and the twin of an odd last position, must add nothing to any gradient.
          for (int j = out[m] ? at + 1 : 0; j < count; j++) x[j] = y[j] = 0.0f;
        }
        weighted(g.data(), k + n * head, out, last + 1, stride);
        spread(g.data(), rows, dk + n * head, last + 1, stride);
        spread(p.data(), grads, dv + n * head, last + 1, stride);
      }
    }
  }
}
