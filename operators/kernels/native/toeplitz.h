// Products with Toeplitz matrices by circulants of twice the size, of which every parity of the frequencies is an FFT
// of modulated pixels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fft.h"
#include "grid.h"
#include "lanes.h"
#include "threads.h"
#include "transform.h"

namespace fedrecon {

// The pixels of one axis on its cells, and their modulation for odd frequencies.
template <class T>
struct Line {
  const Fft<T>& plan;
  int64_t cells, pixels;
  const T* wave;

  Line(const Geometry<T>& g, int axis, const T* wave)
      : plan(Fft<T>::of(g.cells[axis])), cells(g.cells[axis]), pixels(g.pixels[axis]), wave(wave) {}

  // -1 where a cell holds no pixel.
  int64_t pixel(int64_t cell) const {
    const int64_t after = pixels - pixels / 2, before = cells - pixels / 2;
    return cell < after ? cell + pixels / 2 : cell < before ? -1 : cell - before;
  }
  ComplexLanes<T> turned(ComplexLanes<T> v, int64_t pixel, int sign) const {
    return v * wave[2 * pixel] + swapped<T>(v) * (imaginary_unit<T>(sign) * wave[2 * pixel + 1]);
  }

  // Cells from pixels, in(pixel), modulated where `odd`.
  template <class In, class Out>
  void into_cells(bool odd, ComplexLanes<T>* work, In&& in, Out&& out) const {
    auto read = [&](int j) {
      const int64_t at = pixel(j);
      if (at < 0) return ComplexLanes<T>{};
      return odd ? turned(in(at), at, 1) : in(at);
    };
    transform(plan, -1, work, read, out);
  }
  // And back: out(pixel, value).
  template <class In, class Out>
  void into_pixels(bool odd, ComplexLanes<T>* work, In&& in, Out&& out) const {
    transform(plan, 1, work, in, [&](int j, ComplexLanes<T> v) {
      const int64_t at = pixel(j);
      if (at >= 0) out(at, odd ? turned(v, at, -1) : v);
    });
  }
};

// Multiplies a grid, transformed along x, by the spectra of all parities along y and z: `spectrum` holds those of one
// parity along x, `step` numbers from the next. A task takes a column of vectors through all it needs.
template <class T>
struct Columns {
  const Grid<T>& grid;
  const Geometry<T>& g;
  Line<T> along_z, along_y;
  int64_t step;

  int64_t plane() const { return g.pixels[0] * g.cells[1]; }

  ComplexLanes<T> times(ComplexLanes<T> v, const T* values, int64_t column) const {
    if (grid.planes) return v * values[column];
    T eight[8] = {};
    const int64_t count = std::min<int64_t>(8, g.cells[2] - 8 * column);
    for (int64_t i = 0; i < count; ++i) eight[i] = values[8 * column + i];
    return v * doubled<T>(eight);
  }

  // Of one parity along y, in place: a line of z per cell of y.
  void multiply_lines(ComplexLanes<T>* lines, const T* spectrum, int64_t column, ComplexLanes<T>* work) const {
    const int64_t cells = g.cells[1], row = g.cells[2];
    ComplexLanes<T>*middle = work + 2 * along_z.cells, *even = middle + along_z.cells;
    for (int64_t y = 0; y < cells; ++y) {
      ComplexLanes<T>* line = lines + y;
      if (g.ndim == 2) {
        *line = times(*line, spectrum + y * row, column);
        continue;
      }
      for (int odd = 0; odd < 2; ++odd) {
        const T* values = spectrum + 4 * odd * step + y * row;
        along_z.into_cells(
            odd, work, [&](int64_t z) { return line[z * cells]; },
            [&](int z, ComplexLanes<T> v) { middle[z] = times(v, values + z * cells * row, column); });
        along_z.into_pixels(
            odd, work, [&](int z) { return middle[z]; },
            [&](int64_t z, ComplexLanes<T> v) {
              if (odd)
                line[z * cells] = even[z] + v;
              else
                even[z] = v;
            });
      }
    }
  }

  void multiply(const T* spectrum, int64_t column) const {
    Scratch memory((2 * plane() + 4 * std::max(along_z.cells, along_y.cells)) * sizeof(ComplexLanes<T>));
    ComplexLanes<T>* parts = memory.as<ComplexLanes<T>>();
    ComplexLanes<T>*work = parts + 2 * plane(), *even = work + 2 * along_y.cells;
    auto cell = [&](int64_t z, int64_t y) -> ComplexLanes<T>& {
      return grid.at(on_grid(z, g.pixels[0], g.cells[0]), on_grid(y, g.pixels[1], g.cells[1]))[column];
    };
    for (int odd = 0; odd < 2; ++odd) {
      ComplexLanes<T>* part = parts + odd * plane();
      for (int64_t z = 0; z < g.pixels[0]; ++z)
        along_y.into_cells(
            odd, work, [&](int64_t y) { return cell(z, y); },
            [&](int y, ComplexLanes<T> v) { part[z * g.cells[1] + y] = v; });
      multiply_lines(part, spectrum + 2 * odd * step, column, work);
    }
    for (int64_t z = 0; z < g.pixels[0]; ++z)
      for (int odd = 0; odd < 2; ++odd)
        along_y.into_pixels(
            odd, work, [&](int y) { return parts[odd * plane() + z * g.cells[1] + y]; },
            [&](int64_t y, ComplexLanes<T> v) {
              if (odd)
                cell(z, y) = even[y] + v;
              else
                even[y] = v;
            });
  }
};

// Sum over coils of conj(map) T map u, T the Toeplitz matrix whose circulant has the real `spectrum`, kept by the
// parities of its frequencies (t, 2^ndim, half); waves are the modulations that select the odd ones.
template <class T>
void toeplitz(const Workers& workers, const Geometry<T>& g, const Sizes& s, const T* spectrum, const T* images,
              const T* maps, const T* waves, T* out) {
  const int64_t planes = s.images * s.coils, cells = g.cells[0] * g.cells[1] * g.cells[2];
  const bool together = planes > few_planes;
  Grid<T> grid(g, together);
  Scratch memory(grid.bytes());
  grid.data = memory.as<ComplexLanes<T>>();
  Transform<T> transform(workers, g, grid);
  Sizes result = s;
  result.own_images = true;
  std::memset(out, 0, s.batch * s.images * s.pixels * 2 * sizeof(T));
  const T* wave[3] = {nullptr, nullptr, nullptr};
  for (int axis = 3 - g.ndim; axis < 3; ++axis) {
    wave[axis] = waves;
    waves += 2 * g.pixels[axis];
  }
  const Columns<T> columns{grid, g, Line<T>(g, 0, wave[0]), Line<T>(g, 1, wave[1]), cells};
  // Neighboring columns share lines of the spectrum where a column is one cell.
  const int64_t chunk = together ? 4 : 1, chunks = (grid.columns + chunk - 1) / chunk;
  for (int64_t t = 0; t < s.batch; ++t)
    for (int64_t p = 0, count; p < planes; p += count) {
      count = together ? std::min<int64_t>(8, planes - p) : 1;
      for (int odd = 0; odd < 2; ++odd) {
        const T* values = spectrum + (((s.own_points ? t : 0) << g.ndim) + odd) * cells;
        transform.wave = odd ? wave[2] : nullptr;
        transform.fill(lanes_from(s, t, p, count, const_cast<T*>(images), maps));
        workers.each(chunks, [&](int64_t task) {
          for (int64_t x = task * chunk; x < std::min(grid.columns, (task + 1) * chunk); ++x)
            if (g.ndim == 1)
              grid.data[x] = columns.times(grid.data[x], values, x);
            else
              columns.multiply(values, x);
        });
        transform.collect(lanes_from(result, t, p, count, out, maps), 1, true);
      }
    }
}

}  // namespace fedrecon
