// The oversampled grid, and where samples meet it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

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
  ComplexLanes<T> paired[32];        // the first eight of them, each twice
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

// x * n - base, without rounding the product before its integer part is taken off.
template <class T>
inline T less_than_product(T x, T n, T base) {
#ifndef __FP_FAST_FMAF
  if constexpr (sizeof(T) == 4) return static_cast<T>(static_cast<double>(x) * n - base);
#endif
  return std::fma(x, n, -base);
}

// First cells and kernel positions of up to eight points, by axis (z, y, x).
template <class T>
struct Located {
  int first[3][8] = {};
  T u[3][8] = {};

  // `count` points one after the other.
  void locate(const Geometry<T>& g, const T* points, int64_t count) {
    T k[3][8] = {};
    if (count == 8 && g.ndim == 2) {
      for (int i = 0; i < 8; ++i) k[0][i] = points[2 * i], k[1][i] = points[2 * i + 1];
    } else {
      for (int i = 0; i < count; ++i)
        for (int a = 0; a < g.ndim; ++a) k[a][i] = points[i * g.ndim + a];
    }
    locate_along(g, k[0], 8);
  }

  // Eight numbers per axis, `stride` numbers from axis to axis.
  void locate_along(const Geometry<T>& g, const T* points, int64_t stride) {
    for (int axis = 3 - g.ndim; axis < 3; ++axis, points += stride) {
      const int cells = static_cast<int>(g.cells[axis]);
      const T n = static_cast<T>(cells), half = static_cast<T>(0.5) * g.width;
      for (int i = 0; i < 8; ++i) {
        const T x = points[i] - std::nearbyint(points[i]), base = std::floor(x * n);
        const T offset = less_than_product(x, n, base) - half, begin = std::floor(offset) + 1;
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
    x = tap_weights(g, at.u[2][point]);
    z[0] = y[0] = 1;
    if (g.ndim > 1) store<T>(y, tap_weights(g, at.u[1][point]));
    if (g.ndim > 2) store<T>(z, tap_weights(g, at.u[0][point]));
  }
};

}  // namespace fedrecon
