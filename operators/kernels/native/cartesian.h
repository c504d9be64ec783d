// The masked Fourier transform of Cartesian samples, and its adjoint.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "grid.h"
#include "lanes.h"
#include "threads.h"
#include "transform.h"

namespace fedrecon {

// Centered k-space: the cells of a grid of the size of the image, times a mask. Samples (t, b, c, ny, nx).
template <class T>
struct CenteredRow {
  int64_t cells;

  int64_t position(int64_t cell) const { return (cell + cells / 2) % cells; }
  ComplexLanes<T> masked(ComplexLanes<T> v, const T* mask, int64_t x) const {
    T eight[8] = {};
    for (int64_t i = 0; i < std::min<int64_t>(8, cells - x); ++i) eight[i] = mask[position(x + i)];
    return v * doubled<T>(eight);
  }
  void put(T* row, ComplexLanes<T> v, int64_t x) const {
    const int64_t count = std::min<int64_t>(8, cells - x), first = position(x);
    if (first + count <= cells) return store_complex<T>(row + 2 * first, v, count);
    v = interleaved<T>(v);
    for (int64_t i = 0; i < count; ++i)
      for (int part = 0; part < 2; ++part) row[2 * position(x + i) + part] = v[2 * i + part];
  }
  ComplexLanes<T> get(const T* row, int64_t x) const {
    const int64_t count = std::min<int64_t>(8, cells - x), first = position(x);
    if (first + count <= cells) return load_complex<T>(row + 2 * first, count);
    T pairs[16] = {};
    for (int64_t i = 0; i < count; ++i)
      for (int part = 0; part < 2; ++part) pairs[2 * i + part] = row[2 * position(x + i) + part];
    return deinterleaved<T>(load<T>(pairs));
  }
};

template <class T, bool forward>
void cartesian(const Workers& workers, const Geometry<T>& g, const Sizes& s, const T* mask, T* images, const T* maps,
               T* samples) {
  const int64_t planes = s.images * s.coils, ny = g.cells[1], nx = g.cells[2];
  const bool together = planes > few_planes;
  Grid<T> grid(g, together);
  Scratch memory(grid.bytes());
  grid.data = memory.as<ComplexLanes<T>>();
  const Transform<T> transform(workers, g, grid);
  const CenteredRow<T> centered{nx};
  if (!forward) std::memset(images, 0, s.batch * s.images * s.pixels * 2 * sizeof(T));
  for (int64_t t = 0; t < s.batch; ++t)
    for (int64_t p = 0, count; p < planes; p += count) {
      count = together ? std::min<int64_t>(8, planes - p) : 1;
      const int64_t first = ((forward || s.own_samples ? t : 0) * planes + p) * s.pixels;
      const T* own_mask = mask + (s.own_points ? t * s.pixels : 0);
      if (forward) {
        transform.fill(lanes_from(s, t, p, count, images, maps));
        transform.along(1, true, g.sign);
      }
      workers.each(ny, [&](int64_t y) {
        ComplexLanes<T>* cells = grid.at(0, on_grid(y, ny, ny));
        const T* factors = own_mask + y * nx;
        for (int64_t x = 0; x < nx; x += 8) {
          ComplexLanes<T> a[8] = {};
          const int64_t valid = std::min<int64_t>(8, nx - x);
          T* row = samples + 2 * (first + y * nx);
          if (forward) {
            if (together) {
              for (int64_t i = 0; i < valid; ++i) a[i] = cells[x + i];
              transpose<T>(a);
            } else {
              a[0] = cells[x / 8];
            }
            for (int64_t l = 0; l < count; ++l)
              centered.put(row + 2 * l * s.pixels, centered.masked(a[l], factors, x), x);
          } else {
            for (int64_t l = 0; l < count; ++l)
              a[l] = centered.masked(centered.get(row + 2 * l * s.pixels, x), factors, x);
            if (together) {
              transpose<T>(a);
              for (int64_t i = 0; i < valid; ++i) cells[x + i] = a[i];
            } else {
              cells[x / 8] = a[0];
            }
          }
        }
      });
      if (!forward) {
        transform.along(1, false, g.sign);
        transform.collect(lanes_from(s, t, p, count, images, maps), g.sign, g.conjugate);
      }
    }
}

}  // namespace fedrecon
