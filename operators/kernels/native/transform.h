// Images of several coils to and from the oversampled grid: coil maps, FFTs and cropping, without the samples.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "fft.h"
#include "grid.h"
#include "lanes.h"
#include "threads.h"

namespace fedrecon {

// One plane, or one row of it: the image and the coil map it is multiplied by (null: none).
template <class T>
struct Lane {
  T* image = nullptr;
  const T* map = nullptr;
  T scale = 0;
};

inline int64_t on_grid(int64_t pixel, int64_t pixels, int64_t cells) {
  const int64_t n = pixel - pixels / 2;
  return n < 0 ? n + cells : n;
}

template <class T>
inline ComplexLanes<T> doubled(const T* weights) {
  RealLanes<T> w;
  std::memcpy(&w, weights, sizeof w);
  return joined<T>(w, w);
}

template <class T>
struct Transform {
  const Workers& workers;
  const Geometry<T>& geometry;
  const Grid<T>& grid;
  std::vector<T> scale_x;   // padded to eight
  const T* wave = nullptr;  // modulation of the pixels along x, if any

  Transform(const Workers& w, const Geometry<T>& g, const Grid<T>& grid)
      : workers(w), geometry(g), grid(grid), scale_x(g.scale[2], g.scale[2] + g.pixels[2]) {
    scale_x.resize((g.pixels[2] + 7) / 8 * 8);
  }

  int64_t image_rows() const { return geometry.pixels[0] * geometry.pixels[1]; }
  int64_t row_on_grid_z(int64_t r) const {
    return on_grid(r / geometry.pixels[1], geometry.pixels[0], geometry.cells[0]);
  }
  int64_t row_on_grid_y(int64_t r) const {
    return on_grid(r % geometry.pixels[1], geometry.pixels[1], geometry.cells[1]);
  }
  ComplexLanes<T>* grid_row(int64_t r) const { return grid.at(row_on_grid_z(r), row_on_grid_y(r)); }

  // Lanes of unit `unit`: all planes of one image row, or eight rows of the one plane.
  void lanes_of(const std::vector<Lane<T>>& planes, int64_t unit, Lane<T>* lanes) const {
    const int64_t nx = geometry.pixels[2];
    for (int l = 0; l < 8; ++l) {
      lanes[l] = Lane<T>();
      const int64_t r = grid.planes ? unit : 8 * unit + l;
      const Lane<T>* plane = grid.planes ? (l < static_cast<int>(planes.size()) ? &planes[l] : nullptr)
                                         : (r < image_rows() ? &planes[0] : nullptr);
      if (!plane) continue;
      lanes[l].image = plane->image + 2 * r * nx;
      lanes[l].map = plane->map ? plane->map + 2 * r * nx : nullptr;
      const int64_t z = r / geometry.pixels[1], y = r % geometry.pixels[1];
      lanes[l].scale = geometry.scale[0][z] * geometry.scale[1][y];
    }
  }
  int64_t units() const { return grid.planes ? image_rows() : (image_rows() + 7) / 8; }

  static ComplexLanes<T> times(ComplexLanes<T> a, ComplexLanes<T> b, bool conjugate) {
    const ComplexLanes<T> unit = imaginary_unit<T>(conjugate ? -1 : 1);
    const RealLanes<T> re = real<T>(b), im = imag<T>(b);
    return a * joined<T>(re, re) + swapped<T>(a) * (unit * joined<T>(im, im));
  }

  // Images times maps times scale, transformed along x, into the rows of the grid.
  void fill(const std::vector<Lane<T>>& planes) const {
    const int64_t nx = geometry.pixels[2], gx = geometry.cells[2];
    const Fft<T>& plan = Fft<T>::of(gx);
    workers.each(units(), [&](int64_t unit) {
      ComplexLanes<T>* line = local(4 * gx + 16);
      ComplexLanes<T>*out = line + gx + 8, *work = out + gx + 8;
      Lane<T> lanes[8];
      lanes_of(planes, unit, lanes);
      for (int64_t x = nx - nx / 2; x < gx - nx / 2; ++x) line[x] = ComplexLanes<T>{};
      for (int64_t x = 0; x < nx; x += 8) {
        ComplexLanes<T> a[8];
        const ComplexLanes<T> scale = doubled<T>(scale_x.data() + x);
        for (int l = 0; l < 8; ++l) {
          a[l] = ComplexLanes<T>{};
          if (!lanes[l].image) continue;
          a[l] = load_complex<T>(lanes[l].image + 2 * x, nx - x) * (scale * lanes[l].scale);
          if (lanes[l].map) a[l] = times(a[l], load_complex<T>(lanes[l].map + 2 * x, nx - x), geometry.conjugate);
          if (wave) a[l] = times(a[l], load_complex<T>(wave + 2 * x, nx - x), false);
        }
        transpose<T>(a);
        for (int64_t i = 0; i < std::min<int64_t>(8, nx - x); ++i) line[on_grid(x + i, nx, gx)] = a[i];
      }
      auto in = [&](int j) { return line[j]; };
      if (grid.planes) {
        ComplexLanes<T>* row = grid_row(unit);
        transform(plan, geometry.sign, work, in, [&](int j, ComplexLanes<T> v) { row[j] = v; });
        return;
      }
      transform(plan, geometry.sign, work, in, [&](int j, ComplexLanes<T> v) { out[j] = v; });
      for (int64_t x = 0; x < gx; x += 8) {
        ComplexLanes<T> a[8];
        for (int i = 0; i < 8; ++i) a[i] = x + i < gx ? out[x + i] : ComplexLanes<T>{};
        transpose<T>(a);
        for (int l = 0; l < 8; ++l)
          if (lanes[l].image) grid_row(8 * unit + l)[x / 8] = a[l];
      }
    });
  }

  // From the rows of the grid, transformed along x, times maps and scale: added to the images.
  void collect(const std::vector<Lane<T>>& planes, int sign, bool conjugate) const {
    const int64_t nx = geometry.pixels[2], gx = geometry.cells[2];
    const Fft<T>& plan = Fft<T>::of(gx);
    workers.each(units(), [&](int64_t unit) {
      ComplexLanes<T>* line = local(4 * gx + 16);
      ComplexLanes<T>*out = line + gx + 8, *work = out + gx + 8;
      Lane<T> lanes[8];
      lanes_of(planes, unit, lanes);
      auto write = [&](int j, ComplexLanes<T> v) { out[j] = v; };
      if (grid.planes) {
        const ComplexLanes<T>* row = grid_row(unit);
        transform(plan, sign, work, [&](int j) { return row[j]; }, write);
      } else {
        for (int64_t x = 0; x < gx; x += 8) {
          ComplexLanes<T> a[8];
          for (int l = 0; l < 8; ++l) a[l] = lanes[l].image ? grid_row(8 * unit + l)[x / 8] : ComplexLanes<T>{};
          transpose<T>(a);
          for (int i = 0; i < 8; ++i) line[x + i] = a[i];
        }
        transform(plan, sign, work, [&](int j) { return line[j]; }, write);
      }
      for (int64_t x = 0; x < nx; x += 8) {
        ComplexLanes<T> a[8];
        for (int64_t i = 0; i < 8; ++i) a[i] = x + i < nx ? out[on_grid(x + i, nx, gx)] : ComplexLanes<T>{};
        transpose<T>(a);
        const ComplexLanes<T> scale = doubled<T>(scale_x.data() + x);
        for (int l = 0; l < 8;) {
          if (!lanes[l].image) {
            ++l;
            continue;
          }
          // Coils of one image are summed before it is touched.
          T* image = lanes[l].image;
          ComplexLanes<T> total = {};
          for (; l < 8 && lanes[l].image == image; ++l) {
            ComplexLanes<T> value = a[l] * (scale * lanes[l].scale);
            if (lanes[l].map) value = times(value, load_complex<T>(lanes[l].map + 2 * x, nx - x), conjugate);
            if (wave) value = times(value, load_complex<T>(wave + 2 * x, nx - x), true);
            total += value;
          }
          total += load_complex<T>(image + 2 * x, nx - x);
          store_complex<T>(image + 2 * x, total, nx - x);
        }
      }
    });
  }

  // FFTs along y of the rows, or along z of the slabs, that hold pixels: `into_grid` from pixels to all cells,
  // else from all cells to pixels.
  void along(int axis, bool into_grid, int sign) const {
    const int64_t cells = geometry.cells[axis], pixels = geometry.pixels[axis];
    if (cells == 1) return;
    const Fft<T>& plan = Fft<T>::of(cells);
    const int64_t step = axis == 0 ? geometry.cells[1] * grid.row : grid.row;
    const int64_t lines = axis == 0 ? geometry.cells[1] : geometry.pixels[0];
    const int64_t chunk = 4, chunks = (grid.columns + chunk - 1) / chunk;
    const int64_t after = pixels - pixels / 2, before = cells - pixels / 2;
    auto holds = [&](int64_t j) { return j < after || j >= before; };
    workers.each(lines * chunks, [&](int64_t task) {
      ComplexLanes<T>* work = local(2 * cells);
      const int64_t l = task / chunks, from = task % chunks * chunk;
      ComplexLanes<T>* first =
          axis == 0 ? grid.at(0, l) : grid.at(on_grid(l, geometry.pixels[0], geometry.cells[0]), 0);
      for (int64_t x = from; x < std::min(grid.columns, from + chunk); ++x) {
        ComplexLanes<T>* column = first + x;
        if (into_grid) {
          transform(
              plan, sign, work, [&](int j) { return holds(j) ? column[j * step] : ComplexLanes<T>{}; },
              [&](int j, ComplexLanes<T> v) { column[j * step] = v; });
        } else {
          transform(
              plan, sign, work, [&](int j) { return column[j * step]; },
              [&](int j, ComplexLanes<T> v) {
                if (holds(j)) column[j * step] = v;
              });
        }
      }
    });
  }

  void each_row(bool add) const {
    const int64_t chunk = 32, rows = grid.rows();
    workers.each((rows + chunk - 1) / chunk, [&](int64_t task) {
      for (int64_t r = task * chunk; r < std::min(rows, (task + 1) * chunk); ++r) {
        ComplexLanes<T>* line = grid.data + r * grid.row;
        if (add) {
          if (!grid.planes) grid.separate(line);
          grid.fold(line);
        } else {
          grid.repeat(line);
          if (!grid.planes) grid.interleave(line);
        }
      }
    });
  }

  // Memory of this thread, valid until its next call.
  static ComplexLanes<T>* local(size_t vectors) {
    thread_local std::unique_ptr<Scratch> scratch;
    thread_local size_t have = 0;
    if (have < vectors) {
      scratch = std::make_unique<Scratch>(vectors * sizeof(ComplexLanes<T>));
      have = vectors;
    }
    return scratch->as<ComplexLanes<T>>();
  }
};

// Shapes of a call: images (t, b, pixels), samples (t, b, c, m), maps (t, c, pixels) or none, points (t, m, ndim).
struct Sizes {
  int64_t batch, images, coils, samples, pixels;
  bool own_points, own_images, own_samples, own_maps, has_maps;
};

template <class T>
std::vector<Lane<T>> lanes_from(const Sizes& s, int64_t t, int64_t first, int64_t count, T* images, const T* maps) {
  std::vector<Lane<T>> lanes(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t b = (first + i) / s.coils, c = (first + i) % s.coils;
    lanes[i].image = images + 2 * ((s.own_images ? t : 0) * s.images + b) * s.pixels;
    if (s.has_maps) lanes[i].map = maps + 2 * ((s.own_maps ? t : 0) * s.coils + c) * s.pixels;
  }
  return lanes;
}

// Eight planes as lanes waste some of them below this number, where one plane at a time is faster.
constexpr int64_t few_planes = 3;

}  // namespace fedrecon
