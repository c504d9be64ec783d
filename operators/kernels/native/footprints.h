// One sample: gathered from the cells it meets, and spread to them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "grid.h"
#include "lanes.h"

namespace fedrecon {

// Eight planes at once: up to sixteen taps along x, of weight zero beyond the width.
template <class T>
inline ComplexLanes<T> gather_planes(const Grid<T>& grid, const Located<T>& at, int point) {
  const int taps = grid.geometry.width;
  const Weights<T> w(grid.geometry, at, point);
  ComplexLanes<T> total = {}, plane = {};
  each_row_of(
      grid, at, point, at.first[2][point],
      [&](const ComplexLanes<T>* line, int, int j) {
        ComplexLanes<T> part = line[0] * w.x[0];
        for (int i = 1; i < taps; ++i) part += line[i] * w.x[i];
        plane += part * w.y[j];
      },
      [&](int i) {
        total += plane * w.z[i];
        plane = ComplexLanes<T>{};
      });
  return total;
}

template <class T>
inline void spread_planes(const Grid<T>& grid, const Located<T>& at, int point, ComplexLanes<T> value) {
  const int taps = grid.geometry.width;
  const Weights<T> w(grid.geometry, at, point);
  each_row_of(
      grid, at, point, at.first[2][point],
      [&](ComplexLanes<T>* line, int i, int j) {
        const ComplexLanes<T> part = value * (w.z[i] * w.y[j]);
        for (int k = 0; k < taps; ++k) line[k] += part * w.x[k];
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

// The taps of eight samples along y and z, and x where wanted, by tap: their polynomials are computed for all samples
// at once.
template <class T, int W>
struct Taps {
  alignas(64) T y[W][8], z[W][8], x[W][8];

  Taps(const Geometry<T>& g, const Located<T>& at, bool with_x = false) {
    if (with_x) along(g, at.u[2], x);
    along(g, at.u[1], y);
    if (g.ndim == 3) along(g, at.u[0], z);
  }

 private:
  static void along(const Geometry<T>& g, const T* u, T (*taps)[8]) {
    RealLanes<T> at, value[W];
    std::memcpy(&at, u, sizeof at);
    const T* c = reinterpret_cast<const T*>(&g.coefficients[g.degree]);
#pragma GCC unroll 8
    for (int j = 0; j < W; ++j) value[j] = RealLanes<T>{} + c[j];
    for (int p = g.degree - 1; p >= 0; --p) {
      c -= 16;
#pragma GCC unroll 8
      for (int j = 0; j < W; ++j) value[j] = value[j] * at + c[j];
    }
#pragma GCC unroll 8
    for (int j = 0; j < W; ++j) std::memcpy(taps[j], &value[j], sizeof value[j]);
  }
};

// Walks over the rows of a sample, plane by plane; only where `wraps` may they meet the ends of the grid.
template <class T, bool wraps>
struct Walk {
  T* front;  // of the next plane
  T* at;     // the next row
  const int64_t row, plane;
  const int top, rows, planes;
  int y = 0, z;

  Walk(const Grid<T>& grid, const Located<T>& on, int point)
      : row(grid.row * 16),
        plane(grid.geometry.cells[1] * row),
        top(on.first[1][point]),
        rows(static_cast<int>(grid.geometry.cells[1])),
        planes(static_cast<int>(grid.geometry.cells[0])),
        z(on.first[0][point]) {
    front = at = reinterpret_cast<T*>(grid.at(z, top)) + 2 * on.first[2][point];
  }
  void next_plane() {
    at = front;
    front += plane;
    y = top;
    if (wraps && ++z == planes) front -= planes * plane;
  }
  T* next_row() {
    T* here = at;
    at += row;
    if (wraps && ++y == rows) at -= plane;
    return here;
  }
};

// The cells of a sample: W rows of W cells of every plane, in no more registers than that takes.
template <class T, int W>
struct Patch {
  using Register = typename ComplexLanes<T>::Register;
  static constexpr int lanes = ComplexLanes<T>::lanes, registers = (2 * W + lanes - 1) / lanes;

  static Register read(const T* p) {
    Register r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static void write(T* p, Register r) { std::memcpy(p, &r, sizeof r); }
  static bool within(const Geometry<T>& g, const Located<T>& at, int point) {
    return at.first[1][point] + W <= g.cells[1] && at.first[0][point] + g.taps[0] <= g.cells[0];
  }

  // Those along x, for the real and the imaginary part of a cell.
  static void along_x(const Geometry<T>& g, T u, Register* x) {
#pragma GCC unroll 8
    for (int r = 0; r < registers; ++r) x[r] = g.paired[g.degree].part[r];
    for (int p = g.degree - 1; p >= 0; --p)
#pragma GCC unroll 8
      for (int r = 0; r < registers; ++r) x[r] = x[r] * u + g.paired[p].part[r];
  }

  // body(weight) for the planes of sample `point`.
  template <class Body>
  static void each_plane(const Geometry<T>& g, const Taps<T, W>& taps, int point, Body&& body) {
    if (g.ndim < 3) return body(T(1));
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) body(taps.z[i][point]);
  }

  // The weighted cells: pairs whose sum is wanted.
  template <bool wraps>
  static RealLanes<T> gather(const Grid<T>& grid, const Located<T>& at, int point, const Taps<T, W>& taps) {
    Walk<T, wraps> walk(grid, at, point);
    Register total[registers] = {};
    each_plane(grid.geometry, taps, point, [&](T weight) {
      Register sum[registers] = {};
      walk.next_plane();
#pragma GCC unroll 8
      for (int j = 0; j < W; ++j) {
        const T* cells = walk.next_row();
#pragma GCC unroll 8
        for (int r = 0; r < registers; ++r) sum[r] += read(cells + lanes * r) * taps.y[j][point];
      }
#pragma GCC unroll 8
      for (int r = 0; r < registers; ++r) total[r] += sum[r] * weight;
    });
    ComplexLanes<T> all = {};
    Register x[registers];
    along_x(grid.geometry, at.u[2][point], x);
#pragma GCC unroll 8
    for (int r = 0; r < registers; ++r) all.part[r] = total[r] * x[r];
    return real<T>(all) + imag<T>(all);
  }

  template <bool wraps>
  static void spread(const Grid<T>& grid, const Located<T>& at, int point, const Taps<T, W>& taps, const T* value) {
    const ComplexLanes<T> pair = joined<T>(RealLanes<T>{} + value[0], RealLanes<T>{} + value[1]);
    const ComplexLanes<T> pairs = interleaved<T>(pair);
    Register x[registers];
    along_x(grid.geometry, at.u[2][point], x);
#pragma GCC unroll 8
    for (int r = 0; r < registers; ++r) x[r] *= pairs.part[r];
    Walk<T, wraps> walk(grid, at, point);
    each_plane(grid.geometry, taps, point, [&](T weight) {
      Register part[registers];
#pragma GCC unroll 8
      for (int r = 0; r < registers; ++r) part[r] = x[r] * weight;
      walk.next_plane();
#pragma GCC unroll 8
      for (int j = 0; j < W; ++j) {
        T* cells = walk.next_row();
#pragma GCC unroll 8
        for (int r = 0; r < registers; ++r)
          write(cells + lanes * r, read(cells + lanes * r) + part[r] * taps.y[j][point]);
      }
    });
  }
};

template <class T, int W>
__attribute__((noinline)) RealLanes<T> gather_wrapped(const Grid<T>& grid, const Located<T>& at, int point,
                                                      const Taps<T, W>& taps) {
  return Patch<T, W>::template gather<true>(grid, at, point, taps);
}
template <class T, int W>
__attribute__((noinline)) void spread_wrapped(const Grid<T>& grid, const Located<T>& at, int point,
                                              const Taps<T, W>& taps, const T* value) {
  Patch<T, W>::template spread<true>(grid, at, point, taps, value);
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

// Up to eight samples of eight planes at once.
template <class T, int W>
__attribute__((noinline)) void gather_lanes(const Grid<T>& grid, const Located<T>& at, int count,
                                            ComplexLanes<T>* out) {
  const Geometry<T>& g = grid.geometry;
  const Taps<T, W> taps(g, at, true);
  for (int point = 0; point < count; ++point) {
    ComplexLanes<T> total = {}, plane = {};
    each_row_of(
        grid, at, point, at.first[2][point],
        [&](const ComplexLanes<T>* line, int, int j) {
          ComplexLanes<T> part = line[0] * taps.x[0][point];
#pragma GCC unroll 8
          for (int k = 1; k < W; ++k) part += line[k] * taps.x[k][point];
          plane += part * taps.y[j][point];
        },
        [&](int i) {
          total = g.ndim == 3 ? total + plane * taps.z[i][point] : plane;
          plane = ComplexLanes<T>{};
        });
    out[point] = total;
  }
}
template <class T, int W>
__attribute__((noinline)) void spread_lanes(const Grid<T>& grid, const Located<T>& at, int count, const T* values) {
  const Geometry<T>& g = grid.geometry;
  const Taps<T, W> taps(g, at, true);
  for (int point = 0; point < count; ++point) {
    const ComplexLanes<T> value = load<T>(values + 16 * point);
    each_row_of(
        grid, at, point, at.first[2][point],
        [&](ComplexLanes<T>* line, int i, int j) {
          const ComplexLanes<T> part = value * (g.ndim == 3 ? taps.z[i][point] * taps.y[j][point] : taps.y[j][point]);
#pragma GCC unroll 8
          for (int k = 0; k < W; ++k) line[k] += part * taps.x[k][point];
        },
        [](int) {});
  }
}

// Up to eight samples of the one plane. Functions of their own: registers are few.
template <class T, int W>
__attribute__((noinline)) void gather_patches(const Grid<T>& grid, const Located<T>& at, int count, T* out) {
  const Geometry<T>& g = grid.geometry;
  const Taps<T, W> taps(g, at);
  RealLanes<T> pairs[8] = {};
  for (int i = 0; i < count; ++i)
    pairs[i] = Patch<T, W>::within(g, at, i) ? Patch<T, W>::template gather<false>(grid, at, i, taps)
                                             : gather_wrapped<T, W>(grid, at, i, taps);
  const ComplexLanes<T> sums = sums_of_pairs<T>(pairs);
  if (count == 8) return store<T>(out, sums);
  for (int i = 0; i < 2 * count; ++i) out[i] = sums[i];
}
template <class T, int W>
__attribute__((noinline)) void spread_patches(const Grid<T>& grid, const Located<T>& at, int count, const T* values) {
  const Geometry<T>& g = grid.geometry;
  const Taps<T, W> taps(g, at);
  for (int i = 0; i < count; ++i)
    if (Patch<T, W>::within(g, at, i))
      Patch<T, W>::template spread<false>(grid, at, i, taps, values + 2 * i);
    else
      spread_wrapped<T, W>(grid, at, i, taps, values + 2 * i);
}

template <class T>
inline void gather_few(const Grid<T>& grid, const Located<T>& at, int count, T* out) {
  const Geometry<T>& g = grid.geometry;
  with_width(g.ndim > 1 ? g.width : 0, [&](auto w) {
    if constexpr (w.value > 0) return gather_patches<T, w.value>(grid, at, count, out);
    for (int i = 0; i < count; ++i)
      g.width <= 8 ? gather_cells<T, 1>(grid, at, i, out + 2 * i) : gather_cells<T, 2>(grid, at, i, out + 2 * i);
  });
}
template <class T>
inline void spread_few(const Grid<T>& grid, const Located<T>& at, int count, const T* values) {
  const Geometry<T>& g = grid.geometry;
  with_width(g.ndim > 1 ? g.width : 0, [&](auto w) {
    if constexpr (w.value > 0) return spread_patches<T, w.value>(grid, at, count, values);
    for (int i = 0; i < count; ++i)
      g.width <= 8 ? spread_cells<T, 1>(grid, at, i, values + 2 * i) : spread_cells<T, 2>(grid, at, i, values + 2 * i);
  });
}

template <class T>
inline void gather_few_planes(const Grid<T>& grid, const Located<T>& at, int count, ComplexLanes<T>* out) {
  with_width(grid.geometry.ndim > 1 ? grid.geometry.width : 0, [&](auto w) {
    if constexpr (w.value > 0) return gather_lanes<T, w.value>(grid, at, count, out);
    for (int i = 0; i < count; ++i) out[i] = gather_planes<T>(grid, at, i);
  });
}
template <class T>
inline void spread_few_planes(const Grid<T>& grid, const Located<T>& at, int count, const T* values) {
  with_width(grid.geometry.ndim > 1 ? grid.geometry.width : 0, [&](auto w) {
    if constexpr (w.value > 0) return spread_lanes<T, w.value>(grid, at, count, values);
    for (int i = 0; i < count; ++i) spread_planes<T>(grid, at, i, load<T>(values + 16 * i));
  });
}

}  // namespace fedrecon
