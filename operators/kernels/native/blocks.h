// Blocks of a convolution whose sums stay in registers, and the rearrangements that feed them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"
#include "registers.h"

namespace fedrecon {

// Vectors of sums that stay in registers; the others hold operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int sums = 24;
#else
constexpr int sums = 12;
#endif
constexpr int widest = register_bytes;
constexpr int narrowest = 16;
constexpr int64_t slack = 64;  // numbers behind an array that a block may read and leave unused

template <class T, int bytes>
struct Vector {
  typedef T type __attribute__((vector_size(bytes)));
};

// `vectors` neighboring vectors of output features, from `first`.
struct Features {
  int64_t first;
  int bytes, vectors;
};

// One tap of a window: where its input begins in the planes, and its row in the table of weights.
struct Tap {
  int64_t input, weight;
};

constexpr int64_t alone = 1 << 20;  // multiplications below which other threads would come too late

inline int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t modulo(int64_t a, int64_t b) { return (a % b + b) % b; }

template <class T>
int64_t padded(int64_t features) {
  constexpr int64_t lanes = narrowest / sizeof(T);
  return over(features, lanes) * lanes;
}

// Blocks of at most `most_vectors` of the widest vectors that cover all features, the narrowest last.
template <class T>
std::vector<Features> split(int64_t features, int most_vectors) {
  std::vector<Features> blocks;
  int64_t first = 0;
  for (int vectors = most_vectors, bytes = widest; first < padded<T>(features);) {
    const int64_t size = vectors * bytes / sizeof(T);
    if (first + size <= padded<T>(features)) {
      blocks.push_back({first, bytes, vectors});
      first += size;
    } else if (vectors > 1) {
      vectors /= 2;
    } else {
      bytes /= 2;
    }
  }
  return blocks;
}

// Images.
struct Shape {
  int64_t images, ny, nx, features;
  int64_t row() const { return nx * features; }
  int64_t size() const { return images * ny * nx * features; }
};

struct Pair {
  int64_t y, x;
};

// Kernels.
struct Window {
  int64_t batch, ny, nx, in, out;
  int64_t taps() const { return ny * nx; }
  int64_t size() const { return taps() * in * out; }
};

// Loops below are unrolled whole, so that sums are registers.
#define FEDRECON_UNROLL _Pragma("GCC unroll 32")

template <class T, int bytes>
inline void store_some(T* out, typename Vector<T, bytes>::type v, int64_t count) {
  constexpr int lanes = bytes / sizeof(T);
  if (count >= lanes) {
    std::memcpy(out, &v, sizeof v);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = v[i];
  }
}

// out[p * step + f] = sum over taps and channels of planes[tap + channel * pitch + p] * weights[tap + channel][f]
// at `count` <= P neighboring pixels p.
template <class T>
struct Gather {
  const Tap *taps, *end;
  const T* planes;
  int64_t pitch, channels;
  const T* weights;
  int64_t row;  // of the table of weights
  T* out;
  int64_t step;
  int64_t features;  // to be stored
};

template <class T, int bytes, int vectors, int P>
void gather(const Gather<T>& a, int64_t count) {
  using Register = typename Vector<T, bytes>::type;
  constexpr int lanes = bytes / sizeof(T);
  Register sum[P][vectors] = {};
  for (const Tap* tap = a.taps; tap != a.end; ++tap) {
    const T *x = a.planes + tap->input, *w = a.weights + tap->weight * a.row;
    for (int64_t c = 0; c < a.channels; ++c, x += a.pitch, w += a.row) {
      Register weight[vectors];
      for (int v = 0; v < vectors; ++v) std::memcpy(weight + v, w + v * lanes, sizeof(Register));
      FEDRECON_UNROLL
      for (int p = 0; p < P; ++p) {
        FEDRECON_UNROLL
        for (int v = 0; v < vectors; ++v) sum[p][v] += x[p] * weight[v];
      }
    }
  }
  T* out = a.out;
  FEDRECON_UNROLL
  for (int p = 0; p < P; ++p, out += a.step) {
    if (p >= count) return;
    FEDRECON_UNROLL
    for (int v = 0; v < vectors; ++v) store_some<T, bytes>(out + v * lanes, sum[p][v], a.features - v * lanes);
  }
}

// out[j * row + f] (+)= sum over images, rows and pixels of x[j] * y[f], for `count` <= P neighboring j.
template <class T>
struct Outer {
  int64_t images, rows, pixels;
  const T* x;
  int64_t x_image, x_row, x_pixel;
  const T* y;
  int64_t y_image, y_row, y_pixel;
  T* out;
  int64_t row, features;
  bool add;
};

template <class T, int bytes, int vectors, int P>
void outer(const Outer<T>& a, int64_t count) {
  using Register = typename Vector<T, bytes>::type;
  constexpr int lanes = bytes / sizeof(T);
  Register sum[P][vectors] = {};
  for (int64_t i = 0; i < a.images; ++i)
    for (int64_t r = 0; r < a.rows; ++r) {
      const T *x = a.x + i * a.x_image + r * a.x_row, *y = a.y + i * a.y_image + r * a.y_row;
      for (int64_t p = 0; p < a.pixels; ++p, x += a.x_pixel, y += a.y_pixel) {
        Register own[vectors];
        for (int v = 0; v < vectors; ++v) std::memcpy(own + v, y + v * lanes, sizeof(Register));
        FEDRECON_UNROLL
        for (int j = 0; j < P; ++j) {
          FEDRECON_UNROLL
          for (int v = 0; v < vectors; ++v) sum[j][v] += x[j] * own[v];
        }
      }
    }
  T* out = a.out;
  FEDRECON_UNROLL
  for (int j = 0; j < P; ++j, out += a.row) {
    if (j >= count) return;
    FEDRECON_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const int64_t valid = a.features - v * lanes;
      if (a.add) {
        T before[lanes] = {};
        std::memcpy(before, out + v * lanes, sizeof(T) * std::max<int64_t>(0, std::min<int64_t>(lanes, valid)));
        Register old;
        std::memcpy(&old, before, sizeof old);
        sum[j][v] += old;
      }
      store_some<T, bytes>(out + v * lanes, sum[j][v], valid);
    }
  }
}

// The smallest block that holds `count`.
constexpr int below(int size) { return size > 12 ? size - 4 : size > 4 ? size - 2 : size - 1; }

template <int bytes, int vectors, int P, class T>
void smallest(const Gather<T>& a, int64_t count) {
  if constexpr (P > 1)
    if (count <= below(P)) return smallest<bytes, vectors, below(P)>(a, count);
  gather<T, bytes, vectors, P>(a, count);
}
template <int bytes, int vectors, int P, class T>
void smallest(const Outer<T>& a, int64_t count) {
  if constexpr (P > 1)
    if (count <= below(P)) return smallest<bytes, vectors, below(P)>(a, count);
  outer<T, bytes, vectors, P>(a, count);
}

// At most sums / f.vectors of `count`.
template <class Arguments>
void apply(const Features& f, const Arguments& a, int64_t count) {
  if (f.bytes == widest) {
    if (f.vectors == 4) return smallest<widest, 4, sums / 4>(a, count);
    if (f.vectors == 2) return smallest<widest, 2, sums / 2>(a, count);
    return smallest<widest, 1, sums>(a, count);
  }
  if constexpr (widest > 32)
    if (f.bytes == 32) return smallest<32, 1, sums>(a, count);
  if constexpr (widest > narrowest) smallest<narrowest, 1, sums>(a, count);
}

// out[c * pitch + i] = row[(first + i * step) * channels + c] for i < count; zero where that is outside of the row.
template <class T>
void planes_of_row(const T* row, int64_t pixels, int64_t channels, int64_t first, int64_t step, int64_t count, T* out,
                   int64_t pitch) {
  auto upwards = [&](int64_t from) { return from > 0 ? (from + step - 1) / step : 0; };
  const int64_t low = std::min(count, upwards(-first)), high = std::max(low, std::min(count, upwards(pixels - first)));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < low; ++i) out[c * pitch + i] = 0;
    for (int64_t i = high; i < count; ++i) out[c * pitch + i] = 0;
  }
  if (channels == 1 && step == 1) {
    if (high > low) std::memcpy(out + low, row + first + low, sizeof(T) * (high - low));
    return;
  }
  if (channels < 8 || high - low < 8) {
    for (int64_t i = low; i < high; ++i)
      for (int64_t c = 0; c < channels; ++c) out[c * pitch + i] = row[(first + i * step) * channels + c];
    return;
  }
  // The last squares overlap those before.
  for (int64_t i = low; i < high; i += 8)
    for (int64_t c = 0; c < channels; c += 8) {
      const int64_t j = std::min(i, high - 8), d = std::min(c, channels - 8);
      RealLanes<T> square[8];
      for (int k = 0; k < 8; ++k)
        std::memcpy(square + k, row + (first + (j + k) * step) * channels + d, sizeof(RealLanes<T>));
      transpose_half<T>(square);
      for (int k = 0; k < 8; ++k) std::memcpy(out + (d + k) * pitch + j, square + k, sizeof(RealLanes<T>));
    }
}

}  // namespace fedrecon
