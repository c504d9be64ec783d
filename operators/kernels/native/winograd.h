// Transforms for convolution by windows of 3 x 3 or 5 x 5 with fewer multiplications: Winograd (1980), Lavin and Gray
// (2016).
//
// A tile of 6 x 6 pixels of the input and a window give M x M pixels of the output, M = 7 - window, by 36 products of
// their transforms, instead of M^2 window^2. Transforms evaluate polynomials at six points and interpolate there: in
// one dimension, with input d and window g, the output is `output(input(d) * window(g))`, and the gradient in g the
// transpose of that.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "blocks.h"
#include "lanes.h"

namespace fedrecon {
namespace winograd {

constexpr int side = 6, points = side * side, lanes = 8;

template <class Vec>
using Number = std::remove_reference_t<decltype(std::declval<Vec&>()[0])>;

// The points other than zero and infinity, +-a and +-b: exact in binary, and kinder to rounding than whole numbers.
template <class T>
struct At {
  static constexpr T a = T(0.75), b = T(1.5), aa = a * a, bb = b * b;
  // Denominators of the interpolation.
  static constexpr T zero = 1 / (aa * bb), near = 1 / (2 * aa * (aa - bb)), far = 1 / (2 * bb * (bb - aa));
};

// One-dimensional transforms, of vectors that lie `step` apart.

template <class Vec>
inline void input(const Vec* d, int step, Vec* v) {
  using P = At<Number<Vec>>;
  const Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Vec even = d4 - P::bb * d2, odd = P::a * (d3 - P::bb * d1);
  const Vec even2 = d4 - P::aa * d2, odd2 = P::b * (d3 - P::aa * d1);
  v[0] = d4 - (P::aa + P::bb) * d2 + P::aa * P::bb * d0;
  v[1] = even + odd;
  v[2] = even - odd;
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  v[5] = d5 - (P::aa + P::bb) * d3 + P::aa * P::bb * d1;
}

// The values of a window of K numbers at the points, over the denominators of the interpolation.
template <int K, class Vec>
inline void window(const Vec* g, int step, Vec* u) {
  using P = At<Number<Vec>>;
  Vec even = g[0], odd = P::a * g[step], even2 = g[0], odd2 = P::b * g[step];
  Number<Vec> power = P::a, power2 = P::b;
  for (int k = 2; k < K; ++k) {
    power *= P::a, power2 *= P::b;
    (k % 2 ? odd : even) += power * g[k * step];
    (k % 2 ? odd2 : even2) += power2 * g[k * step];
  }
  u[0] = P::zero * g[0];
  u[1] = P::near * (even + odd);
  u[2] = P::near * (even - odd);
  u[3] = P::far * (even2 + odd2);
  u[4] = P::far * (even2 - odd2);
  u[5] = g[(K - 1) * step];
}

template <int K, class Vec>
inline void window_transpose(const Vec* u, int step, Vec* g) {
  using P = At<Number<Vec>>;
  const Vec even = P::near * (u[step] + u[2 * step]), odd = P::near * (u[step] - u[2 * step]);
  const Vec even2 = P::far * (u[3 * step] + u[4 * step]), odd2 = P::far * (u[3 * step] - u[4 * step]);
  Number<Vec> power = 1, power2 = 1;
  for (int k = 0; k < K; ++k, power *= P::a, power2 *= P::b)
    g[k] = k % 2 ? power * odd + power2 * odd2 : power * even + power2 * even2;
  g[0] += P::zero * u[0];
  g[K - 1] += u[5 * step];
}

template <int M, class Vec>
inline void output(const Vec* m, int step, Vec* y) {
  using P = At<Number<Vec>>;
  const Vec even = m[step] + m[2 * step], odd = m[step] - m[2 * step];
  const Vec even2 = m[3 * step] + m[4 * step], odd2 = m[3 * step] - m[4 * step];
  y[0] = m[0] + even + even2;
  y[1] = P::a * odd + P::b * odd2;
  if constexpr (M == 4) {
    y[2] = P::aa * even + P::bb * even2;
    y[3] = P::a * P::aa * odd + P::b * P::bb * odd2;
  }
  y[M - 1] += m[5 * step];
}

template <int M, class Vec>
inline void output_transpose(const Vec* y, int step, Vec* w) {
  using P = At<Number<Vec>>;
  Vec even = y[0], odd = P::a * y[step], even2 = y[0], odd2 = P::b * y[step];
  if constexpr (M == 4) {
    even += P::aa * y[2 * step], even2 += P::bb * y[2 * step];
    odd += P::a * P::aa * y[3 * step], odd2 += P::b * P::bb * y[3 * step];
  }
  w[0] = y[0];
  w[1] = even + odd;
  w[2] = even - odd;
  w[3] = even2 + odd2;
  w[4] = even2 - odd2;
  w[5] = y[(M - 1) * step];
}

struct Input {
  template <class Vec>
  void operator()(const Vec* d, int step, Vec* v) const {
    input(d, step, v);
  }
};
template <int M>
struct OutputTranspose {
  template <class Vec>
  void operator()(const Vec* y, int step, Vec* w) const {
    output_transpose<M>(y, step, w);
  }
};

// out[p * out_row + f] (+)= sum over k of x[p * x_row + k * x_step] * y[k * y_row + f] for p < count <= P.
template <class T>
struct Product {
  int64_t depth;
  const T* x;
  int64_t x_row, x_step;
  const T* y;
  int64_t y_row;
  T* out;
  int64_t out_row;
  bool add;
};

template <class T, int bytes, int vectors, int P>
void product(const Product<T>& m) {
  using Vec = typename Vector<T, bytes>::type;
  constexpr int width = bytes / sizeof(T);
  Vec sum[P][vectors] = {};
  const T *x = m.x, *y = m.y;
  for (int64_t k = 0; k < m.depth; ++k, x += m.x_step, y += m.y_row) {
    Vec own[vectors];
    for (int v = 0; v < vectors; ++v) std::memcpy(own + v, y + v * width, sizeof(Vec));
    FEDRECON_UNROLL
    for (int p = 0; p < P; ++p) {
      FEDRECON_UNROLL
      for (int v = 0; v < vectors; ++v) sum[p][v] += x[p * m.x_row] * own[v];
    }
  }
  T* out = m.out;
  FEDRECON_UNROLL
  for (int p = 0; p < P; ++p, out += m.out_row) {
    FEDRECON_UNROLL
    for (int v = 0; v < vectors; ++v) {
      if (m.add) {
        Vec before;
        std::memcpy(&before, out + v * width, sizeof before);
        sum[p][v] += before;
      }
      std::memcpy(out + v * width, &sum[p][v], sizeof(Vec));
    }
  }
}

template <class T, int bytes, int vectors, int P>
void products(Product<T> m, int64_t rows) {
  for (; rows >= P; rows -= P, m.x += P * m.x_row, m.out += P * m.out_row) product<T, bytes, vectors, P>(m);
  if constexpr (P > 1)
    if (rows > 0) products<T, bytes, vectors, P / 2>(m, rows);
}

template <class T>
void products(const Features& f, const Product<T>& m, int64_t rows) {
  if (f.bytes == widest) {
    if (f.vectors == 2) return products<T, widest, 2, sums / 2>(m, rows);
    return products<T, widest, 1, sums>(m, rows);
  }
  if constexpr (widest > 32) return products<T, 32, 1, sums>(m, rows);
}

}  // namespace winograd
}  // namespace fedrecon
