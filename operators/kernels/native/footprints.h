// One sample: gathered from the cells it meets, and spread to them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "grid.h"
#include "lanes.h"

namespace fedrecon {

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

}  // namespace fedrecon
