// Convolution and its gradients by tiles, with the transforms of winograd.h, where that takes less time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "blocks.h"
#include "lanes.h"
#include "threads.h"
#include "winograd.h"

namespace fedrecon {
namespace winograd {

// The images of one operand.
template <class T>
struct Images {
  T* data;
  int64_t ny, nx, features;
  T* at(int64_t image, int64_t y, int64_t x) const { return data + ((image * ny + y) * nx + x) * features; }
};

// Tiles of all images, in the order of memory.
struct Tiles {
  int64_t images, rows, columns;
  int64_t count() const { return images * rows * columns; }
};

// Reads S x S pixels from (y, x) of an image, zero outside, transforms them to side x side and stores them `plane`
// numbers apart, for all features.
template <class T, int S, class Transform>
inline void read_tile(const Images<const T>& in, int64_t image, int64_t y, int64_t x, T* out, int64_t plane) {
  using Vec = RealLanes<T>;
  const int64_t low_y = std::max<int64_t>(0, -y), high_y = std::min<int64_t>(S, in.ny - y);
  const int64_t low_x = std::max<int64_t>(0, -x), high_x = std::min<int64_t>(S, in.nx - x);
  const bool whole = low_y == 0 && low_x == 0 && high_y == S && high_x == S;
  const T* corner = in.data + ((image * in.ny + y) * in.nx + x) * in.features;
  for (int64_t f = 0; f < in.features; f += lanes) {
    Vec rows[S][side];
    for (int i = 0; i < S; ++i) {
      Vec d[S];
      const T* row = corner + i * in.nx * in.features + f;
      if (whole) {
        FEDRECON_UNROLL
        for (int j = 0; j < S; ++j) std::memcpy(d + j, row + j * in.features, sizeof(Vec));
      } else {
        for (int j = 0; j < S; ++j) {
          d[j] = Vec{};
          if (i >= low_y && i < high_y && j >= low_x && j < high_x)
            std::memcpy(d + j, row + j * in.features, sizeof(Vec));
        }
      }
      Transform()(d, 1, rows[i]);
    }
    FEDRECON_UNROLL
    for (int j = 0; j < side; ++j) {
      Vec column[side];
      Transform()(&rows[0][j], side, column);
      FEDRECON_UNROLL
      for (int i = 0; i < side; ++i) std::memcpy(out + (i * side + j) * plane + f, column + i, sizeof(Vec));
    }
  }
}

// Transformed windows (side x side, in, out) of one kernel; its numbers for tap and c begin at `row(tap, c)`.
template <class T, int K, class Row>
void transform_windows(const Workers& workers, int64_t in, int64_t out, const Row& row, T* u) {
  using Vec = RealLanes<T>;
  workers.each(in, [&](int64_t c) {
    for (int64_t f = 0; f < out; f += lanes) {
      Vec columns[side][K];
      for (int j = 0; j < K; ++j) {
        Vec g[K], column[side];
        for (int i = 0; i < K; ++i) std::memcpy(g + i, row(i * K + j, c) + f, sizeof(Vec));
        window<K>(g, 1, column);
        for (int i = 0; i < side; ++i) columns[i][j] = column[i];
      }
      for (int i = 0; i < side; ++i) {
        Vec values[side];
        window<K>(columns[i], 1, values);
        for (int j = 0; j < side; ++j) std::memcpy(u + ((i * side + j) * in + c) * out + f, values + j, sizeof(Vec));
      }
    }
  });
}

template <class T>
struct Tiling {
  Tiles tiles;
  int64_t low_y, low_x;  // the input of tile 0 begins at (-low_y, -low_x)
  int64_t block;         // tiles at once

  template <class Body>  // body(number in the block, image, tile row, tile column)
  void each(int64_t first, int64_t count, const Body& body) const {
    int64_t x = first % tiles.columns, y = first / tiles.columns % tiles.rows,
            image = first / tiles.columns / tiles.rows;
    for (int64_t i = 0; i < count; ++i) {
      body(i, image, y, x);
      if (++x == tiles.columns) {
        x = 0;
        if (++y == tiles.rows) y = 0, ++image;
      }
    }
  }
};

// Planes of transforms are set apart by a cache line, or all would compete for one place in the cache.
template <class T>
constexpr int64_t apart = 64 / sizeof(T);

// Output images (all of one t) from input images and transformed windows.
template <class T, int K>
void convolve_block(const Tiling<T>& tiling, const std::vector<Features>& features, const Images<const T>& in,
                    const T* u, const Images<T>& out, int64_t block) {
  constexpr int M = side + 1 - K;
  using Vec = RealLanes<T>;
  const int64_t first = block * tiling.block, count = std::min(tiling.block, tiling.tiles.count() - first);
  const int64_t plane = tiling.block * in.features + apart<T>;
  const Scratch memory(sizeof(T) * points * plane);
  T* v = memory.as<T>();
  tiling.each(first, count, [&](int64_t i, int64_t image, int64_t y, int64_t x) {
    read_tile<T, side, Input>(in, image, y * M - tiling.low_y, x * M - tiling.low_x, v + i * in.features, plane);
  });
  const int64_t wide = 2 * widest / sizeof(T), sums_plane = tiling.block * wide + apart<T>;
  const Scratch more(sizeof(T) * points * sums_plane);
  T* m = more.as<T>();
  for (const Features& f : features) {
    const int64_t width = f.vectors * f.bytes / sizeof(T);
    for (int64_t point = 0; point < points; ++point)
      products<T>(f,
                  {in.features, v + point * plane, in.features, 1, u + point * in.features * out.features + f.first,
                   out.features, m + point * sums_plane, width, false},
                  count);
    tiling.each(first, count, [&](int64_t i, int64_t image, int64_t tile_y, int64_t tile_x) {
      const int64_t high_y = std::min<int64_t>(M, out.ny - tile_y * M),
                    high_x = std::min<int64_t>(M, out.nx - tile_x * M);
      for (int64_t part = 0; part < width; part += lanes) {
        Vec rows[side][M];
        FEDRECON_UNROLL
        for (int k = 0; k < side; ++k) {
          Vec values[side];
          FEDRECON_UNROLL
          for (int l = 0; l < side; ++l)
            std::memcpy(values + l, m + (k * side + l) * sums_plane + i * width + part, sizeof(Vec));
          output<M>(values, 1, rows[k]);
        }
        for (int l = 0; l < high_x; ++l) {
          Vec column[M];
          output<M>(&rows[0][l], M, column);
          for (int k = 0; k < high_y; ++k)
            std::memcpy(out.at(image, tile_y * M + k, tile_x * M + l) + f.first + part, column + k, sizeof(Vec));
        }
      }
    });
  }
}

// Adds to (or sets) transformed gradients (side x side, in, out) the products of a block of tiles.
template <class T, int K>
void gradient_block(const Tiling<T>& tiling, const std::vector<Features>& features, const Images<const T>& in,
                    const Images<const T>& out, int64_t block, T* du, bool add) {
  constexpr int M = side + 1 - K;
  const int64_t first = block * tiling.block, count = std::min(tiling.block, tiling.tiles.count() - first);
  const int64_t plane = tiling.block * in.features + apart<T>, out_plane = tiling.block * out.features + apart<T>;
  const Scratch memory(sizeof(T) * points * (plane + out_plane));
  T *v = memory.as<T>(), *w = v + points * plane;
  tiling.each(first, count, [&](int64_t i, int64_t image, int64_t y, int64_t x) {
    read_tile<T, side, Input>(in, image, y * M - tiling.low_y, x * M - tiling.low_x, v + i * in.features, plane);
    read_tile<T, M, OutputTranspose<M>>(out, image, y * M, x * M, w + i * out.features, out_plane);
  });
  for (int64_t point = 0; point < points; ++point)
    for (const Features& f : features)
      products<T>(f,
                  {count, v + point * plane, 1, in.features, w + point * out_plane + f.first, out.features,
                   du + point * in.features * out.features + f.first, out.features, add},
                  in.features);
}

// The gradient (K, K, in, out) from the transformed ones.
template <class T, int K>
void gradient_windows(const Workers& workers, int64_t in, int64_t out, const T* du, T* gradient) {
  using Vec = RealLanes<T>;
  workers.each(in, [&](int64_t c) {
    for (int64_t f = 0; f < out; f += lanes) {
      Vec rows[side][K];
      for (int i = 0; i < side; ++i) {
        Vec values[side];
        for (int j = 0; j < side; ++j) std::memcpy(values + j, du + ((i * side + j) * in + c) * out + f, sizeof(Vec));
        window_transpose<K>(values, 1, rows[i]);
      }
      for (int j = 0; j < K; ++j) {
        Vec column[K];
        window_transpose<K>(&rows[0][j], K, column);
        for (int i = 0; i < K; ++i) std::memcpy(gradient + ((i * K + j) * in + c) * out + f, column + i, sizeof(Vec));
      }
    }
  });
}

}  // namespace winograd

// True if tiles take less time for `images` of ny x nx output pixels; depends on one problem of the batch alone.
inline bool by_tiles(const Window& w, int64_t images, int64_t ny, int64_t nx, Pair steps) {
  if (w.ny != w.nx || (w.ny != 3 && w.ny != 5) || steps.y != 1 || steps.x != 1) return false;
  if (w.in % winograd::lanes || w.out % winograd::lanes) return false;
  const int64_t tiles = images * over(ny, 7 - w.ny) * over(nx, 7 - w.ny);
  // In multiplications: a transform costs about as much as `transform` of them for a number of the result.
  constexpr double transform = 4, windows = 12;
  const double products = double(tiles) * winograd::points * w.in * w.out;
  const double transforms = transform * winograd::points * (double(tiles) * (w.in + w.out) + windows * w.in * w.out);
  return products + transforms < 0.9 * double(images) * ny * nx * w.size();
}

template <class T>
winograd::Tiling<T> tiling(const Shape& out, int64_t window, int64_t features) {
  const int64_t step = 7 - window;
  const int64_t fitting = (int64_t{160} << 10) / (winograd::points * features * sizeof(T));
  return {{out.images, over(out.ny, step), over(out.nx, step)},
          0,
          0,
          std::min<int64_t>(48, std::max<int64_t>(12, fitting / 12 * 12))};
}

// The sums of `run` for windows (t or 1, taps, in, out), at all pixels, reversed if `flipped`.
template <class T, int K>
void run_tiles(const Workers& pool, int64_t batch, const Shape& in, bool own_in, const T* x, const T* weights,
               bool own_weights, bool flipped, Pair pads, const Shape& out, T* y) {
  winograd::Tiling<T> t = tiling<T>(out, K, in.features);
  t.low_y = pads.y, t.low_x = pads.x;
  const int64_t blocks = over(t.tiles.count(), t.block), size = in.features * out.features;
  const std::vector<Features> features = split<T>(out.features, 2);
  const Workers workers = batch * t.tiles.count() * winograd::points * size < alone ? Workers(1, nullptr) : pool;
  const Scratch memory(sizeof(T) * winograd::points * size);
  T* u = memory.as<T>();
  for (int64_t b = 0; b < batch; ++b) {
    const T* own = weights + (own_weights ? b * K * K * size : 0);
    if (b == 0 || own_weights)
      winograd::transform_windows<T, K>(
          workers, in.features, out.features,
          [&](int64_t tap, int64_t c) {
            return own + ((flipped ? K * K - 1 - tap : tap) * in.features + c) * out.features;
          },
          u);
    const winograd::Images<const T> from = {x + (own_in ? b * in.size() : 0), in.ny, in.nx, in.features};
    const winograd::Images<T> to = {y + b * out.size(), out.ny, out.nx, out.features};
    workers.each(blocks, [&](int64_t block) { winograd::convolve_block<T, K>(t, features, from, u, to, block); });
  }
}

template <class T, int K>
void kernel_gradient_tiles(const Workers& pool, const Window& w, const Shape& in, bool own_in, const T* x,
                           const Shape& out, bool own_out, const T* y, int64_t cotangents, Pair pads, T* result) {
  winograd::Tiling<T> t = tiling<T>(out, K, w.in + w.out);
  t.low_y = pads.y, t.low_x = pads.x;
  const int64_t blocks = over(t.tiles.count(), t.block), size = winograd::points * w.in * w.out;
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>({16, blocks, t.tiles.count() / 128}));
  const std::vector<Features> features = split<T>(w.out, 2);
  const Workers workers = w.batch * cotangents * t.tiles.count() * size < alone ? Workers(1, nullptr) : pool;
  const Scratch memory(sizeof(T) * parts * size);
  T* du = memory.as<T>();
  for (int64_t problem = 0; problem < w.batch * cotangents; ++problem) {
    const winograd::Images<const T> from = {x + (own_in ? problem / cotangents * in.size() : 0), in.ny, in.nx, w.in};
    const winograd::Images<const T> to = {y + (own_out ? problem : problem % cotangents) * out.size(), out.ny, out.nx,
                                          w.out};
    workers.each(parts, [&](int64_t part) {
      const int64_t first = blocks * part / parts, last = blocks * (part + 1) / parts;
      for (int64_t block = first; block < last; ++block)
        winograd::gradient_block<T, K>(t, features, from, to, block, du + part * size, block > first);
    });
    const int64_t piece = 4096;
    if (parts > 1)
      workers.each(over(size, piece), [&](int64_t task) {
        for (int64_t k = 1; k < parts; ++k)
          for (int64_t i = task * piece; i < std::min(size, (task + 1) * piece); ++i) du[i] += du[k * size + i];
      });
    winograd::gradient_windows<T, K>(workers, w.in, w.out, du, result + problem * w.size());
  }
}

}  // namespace fedrecon
