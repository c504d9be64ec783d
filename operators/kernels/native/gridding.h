// Interpolation from the oversampled grid to samples, and its transpose.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace fedrecon {

// Axes are (z, y, x); an axis that does not exist has one pixel, one cell and one tap.
template <class T>
struct Geometry {
  int64_t pixels[3] = {1, 1, 1}, cells[3] = {1, 1, 1};
  int taps[3] = {1, 1, 1};
  const T* scale[3];
  int ndim, width, degree, sign;
  bool conjugate;
  ComplexLanes<T> coefficients[32];  // of u^p, a tap per lane
  ComplexLanes<T> repeated[32];      // the same once per axis, where all axes fit: from lanes 0 and 8, or 0, 5 and 10
};

// A grid row holds `row` vectors: one per cell, lanes being planes, or one per eight cells of a single plane.
// The cells of the first taps are repeated behind the last one.
template <class T>
struct Grid {
  const Geometry<T>& geometry;
  bool planes;
  int64_t columns, row;  // vectors of cells proper, and with the repeated ones
  ComplexLanes<T>* data;

  Grid(const Geometry<T>& g, bool planes)
      : geometry(g), planes(planes), columns(planes ? g.cells[2] : (g.cells[2] + 7) / 8), data(nullptr) {
    row = planes ? g.cells[2] + g.taps[2] - 1 : (g.cells[2] - 1) / 8 + blocks();
  }
  int blocks() const { return (geometry.taps[2] + 6) / 8 + 1; }
  int64_t rows() const { return geometry.cells[0] * geometry.cells[1]; }
  size_t bytes() const { return rows() * row * sizeof(ComplexLanes<T>); }
  ComplexLanes<T>* at(int64_t z, int64_t y) const { return data + (z * geometry.cells[1] + y) * row; }

  T* cell(ComplexLanes<T>* line, int64_t x) const { return reinterpret_cast<T*>(line + x / 8) + x % 8; }

  // Repeats the first cells of a row behind its last.
  void repeat(ComplexLanes<T>* line) const {
    const int64_t n = geometry.cells[2], extra = geometry.taps[2] - 1;
    if (planes) {
      for (int64_t i = 0; i < extra; ++i) line[n + i] = line[i];
      return;
    }
    // Lanes behind are read with weight zero: they must not hold what memory happens to hold.
    for (int64_t i = 0; i < 8 * row - n; ++i)
      for (int part = 0; part < 16; part += 8) cell(line, n + i)[part] = i < extra ? cell(line, i)[part] : 0;
  }

  // Eight cells of the one plane: from real parts and imaginary parts to pairs, and back.
  void interleave(ComplexLanes<T>* line) const {
    for (int64_t i = 0; i < row; ++i) line[i] = interleaved<T>(line[i]);
  }
  void separate(ComplexLanes<T>* line) const {
    for (int64_t i = 0; i < row; ++i) line[i] = deinterleaved<T>(line[i]);
  }

  // Adds what is behind the last cell to the first.
  void fold(ComplexLanes<T>* line) const {
    const int64_t n = geometry.cells[2], extra = geometry.taps[2] - 1;
    for (int64_t i = 0; i < extra; ++i) {
      if (planes) {
        line[i] += line[n + i];
      } else {
        cell(line, i)[0] += cell(line, n + i)[0];
        cell(line, i)[8] += cell(line, n + i)[8];
      }
    }
  }
};

// First cells and kernel positions of up to eight points, by axis (z, y, x).
template <class T>
struct Located {
  int first[3][8] = {};
  T u[3][8] = {};

  inline void locate(const Geometry<T>& g, const T* points, int64_t count) {
    for (int axis = 3 - g.ndim; axis < 3; ++axis) {
      T k[8] = {};
      const T* coordinate = points + axis - (3 - g.ndim);
      for (int i = 0; i < count; ++i) k[i] = coordinate[i * g.ndim];
      const int cells = static_cast<int>(g.cells[axis]);
      const T n = static_cast<T>(cells), half = static_cast<T>(0.5) * g.width;
      for (int i = 0; i < 8; ++i) {
        const T x = k[i] - std::nearbyint(k[i]), base = std::floor(x * n);
        // Fused, so that the product is not rounded before its integer part is taken off.
        const T offset = std::fma(x, n, -base) - half, begin = std::floor(offset) + 1;
        u[axis][i] = 2 * (begin - offset) - 1;
        // Not a number: cell 0, and weights that are not numbers either.
        const T cell = base + begin;
        int index = cell == cell ? static_cast<int>(cell) : 0;
        index += index < 0 ? cells : 0;
        first[axis][i] = index - (index >= cells ? cells : 0);
      }
    }
  }
};

template <class T>
inline ComplexLanes<T> tap_weights(const Geometry<T>& g, T u) {
  ComplexLanes<T> w = g.coefficients[g.degree];
  for (int p = g.degree - 1; p >= 0; --p) w = w * u + g.coefficients[p];
  return w;
}

// body(row, tap along y) for all rows of a plane, then end(tap along z), for all planes a point meets.
template <class T, class Body, class End>
inline void each_row_of(const Grid<T>& grid, const Located<T>& at, int point, int64_t column, Body&& body, End&& end) {
  const Geometry<T>& g = grid.geometry;
  const int rows = g.taps[1], top = at.first[1][point];
  const int before_wrap = std::min<int>(rows, static_cast<int>(g.cells[1]) - top);
  for (int i = 0; i < g.taps[0]; ++i) {
    int64_t z = at.first[0][point] + i;
    if (z >= g.cells[0]) z -= g.cells[0];
    ComplexLanes<T>* plane = grid.at(z, 0) + column;
    ComplexLanes<T>* line = plane + top * grid.row;
    for (int j = 0; j < before_wrap; ++j, line += grid.row) body(line, i, j);
    line = plane;
    for (int j = before_wrap; j < rows; ++j, line += grid.row) body(line, i, j);
    end(i);
  }
}

// Weights of all axes; those of an axis that does not exist are one.
template <class T>
struct Weights {
  alignas(64) T z[17], y[16];
  ComplexLanes<T> x;

  Weights(const Geometry<T>& g, const Located<T>& at, int point) {
    if (g.ndim == 3 && g.width <= 5) {
      of_volume(g, at, point);
    } else if (g.ndim == 2 && g.width <= 8) {
      of_image(g, at, point);
    } else {
      x = tap_weights(g, at.u[2][point]);
      z[0] = y[0] = 1;
      if (g.ndim > 1) store<T>(y, tap_weights(g, at.u[1][point]));
      if (g.ndim > 2) store<T>(z, tap_weights(g, at.u[0][point]));
    }
  }

 private:
  // All axes share the lanes of one polynomial.
  static ComplexLanes<T> together(const Geometry<T>& g, ComplexLanes<T> u) {
    ComplexLanes<T> w = g.repeated[g.degree];
    for (int p = g.degree - 1; p >= 0; --p) w = w * u + g.repeated[p];
    return w;
  }

  void of_image(const Geometry<T>& g, const Located<T>& at, int point) {
    const ComplexLanes<T> w = together(g, joined<T>(RealLanes<T>{} + at.u[2][point], RealLanes<T>{} + at.u[1][point]));
    const RealLanes<T> along_y = imag<T>(w);
    z[0] = 1;
    std::memcpy(y, &along_y, sizeof along_y);
    x = joined<T>(real<T>(w), RealLanes<T>{});
  }

  void of_volume(const Geometry<T>& g, const Located<T>& at, int point) {
    alignas(64) static const T of[3][16] = {
        {1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1}};
    const ComplexLanes<T> on_x = load<T>(of[0]), on_y = load<T>(of[1]), on_z = load<T>(of[2]);
    const ComplexLanes<T> w = together(g, on_x * at.u[2][point] + on_y * at.u[1][point] + on_z * at.u[0][point]);
    alignas(64) T all[16];
    store<T>(all, w);
    for (int i = 0; i < 5; ++i) y[i] = all[5 + i], z[i] = all[10 + i];
    x = w * on_x;
  }
};

// Eight planes at once: W taps along x, or up to sixteen (of weight zero beyond the width) where W is 0.
template <class T, int W>
inline ComplexLanes<T> gather_planes(const Grid<T>& grid, const Located<T>& at, int point) {
  constexpr int most = W ? W : 16;
  const int taps = W ? W : grid.geometry.width;
  const Weights<T> w(grid.geometry, at, point);
  ComplexLanes<T> x[most], total = {}, plane = {};
  for (int i = 0; i < most; ++i) x[i] = ComplexLanes<T>{} + w.x[i];
  each_row_of(
      grid, at, point, at.first[2][point],
      [&](const ComplexLanes<T>* line, int, int j) {
        ComplexLanes<T> part = line[0] * x[0];
        for (int i = 1; i < taps; ++i) part += line[i] * x[i];
        plane += part * w.y[j];
      },
      [&](int i) {
        total += plane * w.z[i];
        plane = ComplexLanes<T>{};
      });
  return total;
}

template <class T, int W>
inline void spread_planes(const Grid<T>& grid, const Located<T>& at, int point, ComplexLanes<T> value) {
  constexpr int most = W ? W : 16;
  const int taps = W ? W : grid.geometry.width;
  const Weights<T> w(grid.geometry, at, point);
  ComplexLanes<T> x[most];
  for (int i = 0; i < most; ++i) x[i] = ComplexLanes<T>{} + w.x[i];
  each_row_of(
      grid, at, point, at.first[2][point],
      [&](ComplexLanes<T>* line, int i, int j) {
        const ComplexLanes<T> part = value * (w.z[i] * w.y[j]);
        for (int k = 0; k < taps; ++k) line[k] += part * x[k];
      },
      [](int) {});
}

// Every weight twice: for the real and the imaginary part of its cell.
template <class T>
inline void in_pairs(const ComplexLanes<T>& w, ComplexLanes<T>* x) {
  const RealLanes<T> low = real<T>(w), high = imag<T>(w);
  x[0] = interleaved<T>(joined<T>(low, low));
  x[1] = interleaved<T>(joined<T>(high, high));
}

// The taps of a row, whose cells lie interleaved (Grid::interleave), as B unaligned vectors.
template <class T, int B>
inline void gather_cells(const Grid<T>& grid, const Located<T>& at, int point, T* out) {
  const Weights<T> w(grid.geometry, at, point);
  ComplexLanes<T> x[2], total[B] = {}, plane[B] = {}, sums = {};
  in_pairs<T>(w.x, x);
  const int first = at.first[2][point];
  each_row_of(
      grid, at, point, 0,
      [&](const ComplexLanes<T>* line, int, int j) {
        const T* cells = reinterpret_cast<const T*>(line) + 2 * first;
        for (int b = 0; b < B; ++b) plane[b] += load<T>(cells + 16 * b) * w.y[j];
      },
      [&](int i) {
        for (int b = 0; b < B; ++b) total[b] += plane[b] * w.z[i], plane[b] = ComplexLanes<T>{};
      });
  for (int b = 0; b < B; ++b) sums += total[b] * x[b];
  sum_pairs<T>(sums, out);
}

template <class T, int B>
inline void spread_cells(const Grid<T>& grid, const Located<T>& at, int point, const T* value) {
  const Weights<T> w(grid.geometry, at, point);
  ComplexLanes<T> x[2];
  in_pairs<T>(w.x, x);
  const ComplexLanes<T> pair = joined<T>(RealLanes<T>{} + value[0], RealLanes<T>{} + value[1]);
  const ComplexLanes<T> pairs = interleaved<T>(pair);
  ComplexLanes<T> plane[B];
  for (int b = 0; b < B; ++b) x[b] *= pairs, plane[b] = x[b] * w.z[0];
  const int first = at.first[2][point];
  each_row_of(
      grid, at, point, 0,
      [&](ComplexLanes<T>* line, int, int j) {
        T* cells = reinterpret_cast<T*>(line) + 2 * first;
        for (int b = 0; b < B; ++b) store<T>(cells + 16 * b, load<T>(cells + 16 * b) + plane[b] * w.y[j]);
      },
      [&](int i) {
        for (int b = 0; b < B; ++b) plane[b] = x[b] * w.z[i + 1];
      });
}

// The same for a width known to the compiler: W rows of W cells of every plane, in no more registers than that takes.
template <class T, int W>
struct Patch {
  using Register = typename ComplexLanes<T>::Register;
  static constexpr int lanes = ComplexLanes<T>::lanes, registers = (2 * W + lanes - 1) / lanes;
  T* corner;      // first cell of the first row of plane 0
  int64_t plane;  // numbers from plane to plane
  int64_t row[W];
  int z, planes, cells_z;

  Patch(const Grid<T>& grid, const Located<T>& at, int point)
      : corner(reinterpret_cast<T*>(grid.data) + 2 * at.first[2][point]),
        plane(grid.geometry.cells[1] * grid.row * 16),
        z(at.first[0][point]),
        planes(grid.geometry.taps[0]),
        cells_z(static_cast<int>(grid.geometry.cells[0])) {
    const int cells = static_cast<int>(grid.geometry.cells[1]), top = at.first[1][point];
    for (int j = 0; j < W; ++j) row[j] = (top + j < cells ? top + j : top + j - cells) * grid.row * 16;
  }
  T* at_plane(int i) const { return corner + (z + i < cells_z ? z + i : z + i - cells_z) * plane; }

  static Register read(const T* p) {
    Register r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static void write(T* p, Register r) { std::memcpy(p, &r, sizeof r); }
};

template <class T, int W>
inline void gather_patch(const Grid<T>& grid, const Located<T>& at, int point, T* out) {
  using P = Patch<T, W>;
  const Weights<T> w(grid.geometry, at, point);
  const P patch(grid, at, point);
  typename P::Register total[P::registers] = {};
  for (int i = 0; i < patch.planes; ++i) {
    const T* plane = patch.at_plane(i);
    typename P::Register sum[P::registers] = {};
#pragma GCC unroll 8
    for (int j = 0; j < W; ++j)
#pragma GCC unroll 8
      for (int r = 0; r < P::registers; ++r) sum[r] += P::read(plane + patch.row[j] + P::lanes * r) * w.y[j];
#pragma GCC unroll 8
    for (int r = 0; r < P::registers; ++r) total[r] += sum[r] * w.z[i];
  }
  ComplexLanes<T> x[2], sums = {};
  in_pairs<T>(w.x, x);
#pragma GCC unroll 8
  for (int r = 0; r < P::registers; ++r) sums.part[r] = total[r] * x[0].part[r];
  sum_pairs<T>(sums, out);
}

template <class T, int W>
inline void spread_patch(const Grid<T>& grid, const Located<T>& at, int point, const T* value) {
  using P = Patch<T, W>;
  const Weights<T> w(grid.geometry, at, point);
  const P patch(grid, at, point);
  const ComplexLanes<T> pair = joined<T>(RealLanes<T>{} + value[0], RealLanes<T>{} + value[1]);
  ComplexLanes<T> x[2];
  in_pairs<T>(w.x, x);
  x[0] *= interleaved<T>(pair);
  for (int i = 0; i < patch.planes; ++i) {
    T* plane = patch.at_plane(i);
    typename P::Register part[P::registers];
#pragma GCC unroll 8
    for (int r = 0; r < P::registers; ++r) part[r] = x[0].part[r] * w.z[i];
#pragma GCC unroll 8
    for (int j = 0; j < W; ++j)
#pragma GCC unroll 8
      for (int r = 0; r < P::registers; ++r) {
        T* cells = plane + patch.row[j] + P::lanes * r;
        P::write(cells, P::read(cells) + part[r] * w.y[j]);
      }
  }
}

// Volumes do not fit caches, and no hardware foresees the rows of the next samples.
template <class T>
inline void prefetch_cells(const Grid<T>& grid, const Located<T>& at, int point) {
  each_row_of(
      grid, at, point, at.first[2][point] / 8,
      [](const ComplexLanes<T>* line, int, int) {
        __builtin_prefetch(line);
        __builtin_prefetch(line + 1);
      },
      [](int) {});
}

// f(constant W) for the widths that benchmarks live on, f(0) for the others.
template <class F>
inline void with_width(int width, F&& f) {
  switch (width) {
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 7: return f(std::integral_constant<int, 7>{});
    case 8: return f(std::integral_constant<int, 8>{});
    default: return f(std::integral_constant<int, 0>{});
  }
}

// One sample of the one plane.
template <class T>
inline void gather_one(const Grid<T>& grid, const Located<T>& at, int point, T* out) {
  const Geometry<T>& g = grid.geometry;
  with_width(g.ndim > 1 ? g.width : 0, [&](auto w) {
    if constexpr (w.value > 0)
      gather_patch<T, w.value>(grid, at, point, out);
    else
      g.width <= 8 ? gather_cells<T, 1>(grid, at, point, out) : gather_cells<T, 2>(grid, at, point, out);
  });
}
template <class T>
inline void spread_one(const Grid<T>& grid, const Located<T>& at, int point, const T* value) {
  const Geometry<T>& g = grid.geometry;
  with_width(g.ndim > 1 ? g.width : 0, [&](auto w) {
    if constexpr (w.value > 0)
      spread_patch<T, w.value>(grid, at, point, value);
    else
      g.width <= 8 ? spread_cells<T, 1>(grid, at, point, value) : spread_cells<T, 2>(grid, at, point, value);
  });
}

// Samples of up to eight planes (null where absent) from the grid.
template <class T>
void interpolate(const Workers& workers, const Grid<T>& grid, const T* points, int64_t samples, bool sorted,
                 T* const* out) {
  const int64_t chunk = 2048;
  const int ndim = grid.geometry.ndim;
  workers.each((samples + chunk - 1) / chunk, [&](int64_t task) {
    const int64_t end = std::min(samples, (task + 1) * chunk);
    Located<T> at, next;
    next.locate(grid.geometry, points + task * chunk * ndim, std::min<int64_t>(8, end - task * chunk));
    for (int64_t m = task * chunk; m < end; m += 8) {
      const int count = static_cast<int>(std::min<int64_t>(8, end - m));
      at = next;
      if (m + 8 < end) next.locate(grid.geometry, points + (m + 8) * ndim, std::min<int64_t>(8, end - m - 8));
      if (grid.planes) {
        ComplexLanes<T> values[8] = {};
        with_width(grid.geometry.width, [&](auto w) {
          for (int i = 0; i < count; ++i) values[i] = gather_planes<T, w.value>(grid, at, i);
        });
        transpose<T>(values);
        for (int l = 0; l < 8; ++l)
          if (out[l]) store_complex<T>(out[l] + 2 * m, values[l], count);
      } else {
        for (int i = 0; i < count; ++i) {
          if (!sorted) prefetch_cells(grid, next, i);
          gather_one(grid, at, i, out[0] + 2 * (m + i));
        }
      }
    }
  });
}

// Samples in the order of their first cells, and bands of grid slabs that hold about equally many; a slab is
// what one cell of the slowest axis spans.
template <class T>
struct Sorted {
  Scratch memory;
  T* points;
  int32_t* rank;                     // of each sample among the sorted
  std::vector<int64_t> band, start;  // first slab of each band, first sorted sample of each band

  Sorted(const Workers& workers, const Geometry<T>& g, const T* input, int64_t samples)
      : memory(samples * (g.ndim * sizeof(T) + 2 * sizeof(int32_t))) {
    points = memory.as<T>();
    rank = reinterpret_cast<int32_t*>(points + samples * g.ndim);
    int32_t* key = rank + samples;
    const int slow = 3 - g.ndim, next = std::min(slow + 1, 2), ndim = g.ndim;
    const int slabs = ndim == 1 ? 1 : static_cast<int>(g.cells[slow]);
    // Tiles of a slab: what the samples of one meet should stay in the smallest cache.
    const int tile = ndim == 3 ? 8 : 16, row_tiles = ndim == 3 ? (static_cast<int>(g.cells[2]) + 31) / 32 : 1;
    const int parts = (static_cast<int>(g.cells[next]) + tile - 1) / tile * row_tiles, keys = slabs * parts;
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>(workers.count(), samples / 4096));
    std::vector<std::vector<int32_t>> counts(chunks);
    auto range = [&](int64_t c) { return samples * c / chunks; };
    workers.each(chunks, [&](int64_t c) {
      std::vector<int32_t>& count = counts[c];
      count.assign(keys, 0);
      Located<T> at;
      for (int64_t m = range(c); m < range(c + 1); m += 8) {
        const int here = static_cast<int>(std::min<int64_t>(8, range(c + 1) - m));
        at.locate(g, input + m * ndim, here);
        for (int i = 0; i < here; ++i) {
          const int along = ndim == 3 ? at.first[2][i] / 32 : 0;
          const int k = (ndim == 1 ? 0 : at.first[slow][i] * parts) + at.first[next][i] / tile * row_tiles + along;
          key[m + i] = k;
          ++count[k];
        }
      }
    });
    int32_t total = 0;
    std::vector<int64_t> slab_start(slabs + 1, samples);
    for (int k = 0; k < keys; ++k) {
      if (k % parts == 0) slab_start[k / parts] = total;
      for (auto& count : counts) {
        const int32_t here = count[k];
        count[k] = total;
        total += here;
      }
    }
    workers.each(chunks, [&](int64_t c) {
      std::vector<int32_t>& count = counts[c];
      for (int64_t m = range(c); m < range(c + 1); ++m) {
        const int32_t to = count[key[m]]++;
        rank[m] = to;
        for (int a = 0; a < ndim; ++a) points[int64_t{to} * ndim + a] = input[m * ndim + a];
      }
    });
    // Bands are at least a footprint high and even in number, so that every second one can be filled at once.
    const int64_t height = std::max(g.taps[slow] - 1, 1);
    const int64_t most = workers.count() == 1 ? 1 : std::min<int64_t>(8 * workers.count(), slabs / height);
    const int64_t wanted = std::max<int64_t>(1, most / 2 * 2);
    band = {0};
    for (int64_t s = height; s + height <= slabs; ++s) {
      const int64_t have = band.size();
      if (have >= wanted) break;
      const bool full = slab_start[s] * wanted >= samples * have;
      const bool must = slabs - s <= (wanted - have) * height;
      if (s - band.back() >= height && (full || must)) band.push_back(s);
    }
    if (band.size() % 2 && band.size() > 1) band.pop_back();
    band.push_back(slabs);
    for (int64_t b : band) start.push_back(slab_start[b]);
  }
};

// The order of these samples: that of an earlier call if it was the same samples, bit by bit.
template <class T>
std::shared_ptr<const Sorted<T>> sorted_samples(const Workers& workers, const Geometry<T>& g, const T* points,
                                                int64_t samples) {
  struct Kept {
    std::vector<int64_t> key;
    std::shared_ptr<Scratch> points;
    std::shared_ptr<const Sorted<T>> sorted;
    size_t bytes;
  };
  static std::mutex mutex;
  static auto* kept = new std::vector<Kept>;
  constexpr size_t most = size_t{64} << 20;
  const std::vector<int64_t> key = {g.ndim, g.width, g.cells[0], g.cells[1], g.cells[2], samples, workers.count()};
  const size_t size = samples * g.ndim * sizeof(T);
  std::vector<Kept> candidates;
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (const Kept& k : *kept)
      if (k.key == key) candidates.push_back(k);
  }
  for (const Kept& k : candidates) {
    std::atomic<bool> same{true};
    const size_t chunk = size_t{1} << 18;
    workers.each((size + chunk - 1) / chunk, [&](int64_t task) {
      const size_t from = task * chunk, count = std::min(chunk, size - from);
      const auto* bytes = reinterpret_cast<const char*>(points) + from;
      if (same && std::memcmp(bytes, k.points->template as<char>() + from, count)) same = false;
    });
    if (same) return k.sorted;
  }
  auto sorted = std::make_shared<const Sorted<T>>(workers, g, points, samples);
  const size_t bytes = 2 * size + 8 * samples;
  if (2 * bytes > most) return sorted;
  auto copy = std::make_shared<Scratch>(size);
  std::memcpy(copy->template as<char>(), points, size);
  std::lock_guard<std::mutex> lock(mutex);
  size_t held = bytes;
  for (const Kept& k : *kept) held += k.bytes;
  while (held > most && !kept->empty()) {
    held -= kept->front().bytes;
    kept->erase(kept->begin());
  }
  kept->push_back({key, copy, sorted, bytes});
  return sorted;
}

// Adds samples of up to eight planes to the grid, clearing it first.
template <class T>
void spread(const Workers& workers, const Grid<T>& grid, const Sorted<T>& sorted, const T* values) {
  const Geometry<T>& g = grid.geometry;
  const int slow = g.ndim == 1 ? 1 : 3 - g.ndim;
  const int64_t bands = sorted.band.size() - 1, reach = g.taps[slow] - 1;
  const int64_t slab = grid.rows() / g.cells[slow] * grid.row;
  const int64_t stride = grid.planes ? 16 : 2;
  auto clear = [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s)
      std::memset(static_cast<void*>(grid.data + s % g.cells[slow] * slab), 0, slab * sizeof(ComplexLanes<T>));
  };
  for (int64_t odd = 0; odd < 2; ++odd) {
    workers.each((bands + 1 - odd) / 2, [&](int64_t task) {
      const int64_t b = 2 * task + odd;
      // An even band also clears what it reaches of the next; that one clears the rest of itself.
      if (bands == 1)
        clear(0, g.cells[slow]);
      else if (odd)
        clear(sorted.band[b] + reach, sorted.band[b + 1]);
      else
        clear(sorted.band[b], sorted.band[b + 1] + reach);
      Located<T> at;
      const int64_t end = sorted.start[b + 1];
      for (int64_t j = sorted.start[b]; j < end; j += 8) {
        const int count = static_cast<int>(std::min<int64_t>(8, end - j));
        at.locate(g, sorted.points + j * g.ndim, count);
        if (grid.planes) {
          with_width(g.width, [&](auto w) {
            for (int i = 0; i < count; ++i) spread_planes<T, w.value>(grid, at, i, load<T>(values + (j + i) * stride));
          });
        } else {
          for (int i = 0; i < count; ++i) spread_one(grid, at, i, values + (j + i) * stride);
        }
      }
    });
  }
}

}  // namespace fedrecon
