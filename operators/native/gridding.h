// Interpolation from the oversampled grid to samples, and its transpose.
#pragma once

#include <cmath>
#include <cstdint>
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
  V<T> coefficients[32];  // of u^p, a tap per lane
};

// A grid row holds `row` vectors: one per cell, lanes being planes, or one per eight cells of a single plane.
// The cells of the first taps are repeated behind the last one.
template <class T>
struct Grid {
  const Geometry<T>& geometry;
  bool planes;
  int64_t columns, row;  // vectors of cells proper, and with the repeated ones
  V<T>* data;

  Grid(const Geometry<T>& g, bool planes)
      : geometry(g), planes(planes), columns(planes ? g.cells[2] : (g.cells[2] + 7) / 8), data(nullptr) {
    row = planes ? g.cells[2] + g.taps[2] - 1 : (g.cells[2] - 1) / 8 + blocks();
  }
  int blocks() const { return (geometry.taps[2] + 6) / 8 + 1; }
  int64_t rows() const { return geometry.cells[0] * geometry.cells[1]; }
  size_t bytes() const { return rows() * row * sizeof(V<T>); }
  V<T>* at(int64_t z, int64_t y) const { return data + (z * geometry.cells[1] + y) * row; }

  T* cell(V<T>* line, int64_t x) const { return reinterpret_cast<T*>(line + x / 8) + x % 8; }

  // Repeats the first cells of a row behind its last.
  void repeat(V<T>* line) const {
    const int64_t n = geometry.cells[2], extra = geometry.taps[2] - 1;
    if (planes) {
      for (int64_t i = 0; i < extra; ++i) line[n + i] = line[i];
      return;
    }
    // Lanes behind are read with weight zero: they must not hold what memory happens to hold.
    for (int64_t i = 0; i < 8 * row - n; ++i)
      for (int part = 0; part < 16; part += 8) cell(line, n + i)[part] = i < extra ? cell(line, i)[part] : 0;
  }

  // Adds what is behind the last cell to the first.
  void fold(V<T>* line) const {
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

// First cell of a point on an axis; `u` is its position for the polynomials of the kernel.
template <class T>
inline int64_t first_cell(T k, int64_t cells, int width, T* u) {
  k -= std::nearbyint(k);
  const T n = static_cast<T>(cells), base = std::floor(k * n);
  // Fused, so that the product is not rounded before its integer part is taken off.
  const T offset = std::fma(k, n, -base) - static_cast<T>(0.5) * width, first = std::floor(offset) + 1;
  *u = 2 * (first - offset) - 1;
  if (!(first == first)) return 0;
  int64_t cell = static_cast<int64_t>(base) + static_cast<int64_t>(first);
  return cell < 0 ? cell + cells : cell >= cells ? cell - cells : cell;
}

template <class T>
inline V<T> tap_weights(const Geometry<T>& g, T u) {
  V<T> weight = g.coefficients[g.degree];
  for (int p = g.degree - 1; p >= 0; --p) weight = weight * u + g.coefficients[p];
  return weight;
}

// Where a point meets the grid: rows with their weights, and the weights along x.
template <class T>
struct Footprint {
  int rows;
  V<T>* line[256];
  T weight[256];
  T along[48];  // x weights of lanes-as-planes at 8; of lanes-as-cells at 8 + first cell modulo 8

  inline void locate(const Grid<T>& grid, const T* point) {
    const Geometry<T>& g = grid.geometry;
    int64_t first[3] = {0, 0, 0};
    T weights[3][16];
    weights[0][0] = weights[1][0] = 1;
    for (int axis = 3 - g.ndim; axis < 3; ++axis) {
      T u;
      first[axis] = first_cell(point[axis - (3 - g.ndim)], g.cells[axis], g.width, &u);
      store<T>(weights[axis], tap_weights(g, u));
    }
    rows = 0;
    for (int i = 0; i < g.taps[0]; ++i) {
      int64_t z = first[0] + i;
      if (z >= g.cells[0]) z -= g.cells[0];
      for (int j = 0; j < g.taps[1]; ++j) {
        int64_t y = first[1] + j;
        if (y >= g.cells[1]) y -= g.cells[1];
        line[rows] = grid.at(z, y) + (grid.planes ? first[2] : first[2] / 8);
        weight[rows++] = weights[0][i] * weights[1][j];
      }
    }
    const int shift = grid.planes ? 0 : first[2] % 8;
    std::memset(along, 0, sizeof along);
    std::memcpy(along + shift, weights[2], g.width * sizeof(T));
  }
};

// Eight planes at once: W taps along x, or any number where W is 0.
template <class T, int W>
inline V<T> gather_planes(const Footprint<T>& f, int width) {
  const int taps = W ? W : width;
  V<T> total = {};
  for (int r = 0; r < f.rows; ++r) {
    V<T> part = f.line[r][0] * f.along[0];
    for (int i = 1; i < taps; ++i) part += f.line[r][i] * f.along[i];
    total += part * f.weight[r];
  }
  return total;
}

template <class T, int W>
inline void spread_planes(const Footprint<T>& f, int width, V<T> value) {
  const int taps = W ? W : width;
  for (int r = 0; r < f.rows; ++r) {
    const V<T> part = value * f.weight[r];
    for (int i = 0; i < taps; ++i) f.line[r][i] += part * f.along[i];
  }
}

// Eight cells at once: B vectors cover the taps of a row.
template <class T, int B>
inline void gather_cells(const Footprint<T>& f, T* out) {
  V<T> total[B] = {};
  for (int r = 0; r < f.rows; ++r)
    for (int b = 0; b < B; ++b) total[b] += f.line[r][b] * f.weight[r];
  H<T> re = {}, im = {};
  for (int b = 0; b < B; ++b) {
    H<T> weight;
    std::memcpy(&weight, f.along + 8 * b, sizeof weight);
    re += real<T>(total[b]) * weight;
    im += imag<T>(total[b]) * weight;
  }
  out[0] = sum<T>(re);
  out[1] = sum<T>(im);
}

template <class T, int B>
inline void spread_cells(const Footprint<T>& f, const T* value) {
  V<T> along[B];
  for (int b = 0; b < B; ++b) {
    H<T> weight;
    std::memcpy(&weight, f.along + 8 * b, sizeof weight);
    along[b] = joined<T>(weight * value[0], weight * value[1]);
  }
  for (int r = 0; r < f.rows; ++r)
    for (int b = 0; b < B; ++b) f.line[r][b] += along[b] * f.weight[r];
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
template <class F>
inline void with_blocks(int blocks, F&& f) {
  if (blocks <= 1) return f(std::integral_constant<int, 1>{});
  if (blocks == 2) return f(std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, 3>{});
}

// Samples of up to eight planes (null where absent) from the grid.
template <class T>
void interpolate(const Workers& workers, const Grid<T>& grid, const T* points, int64_t samples, T* const* out) {
  const int64_t chunk = 2048;
  const int ndim = grid.geometry.ndim, width = grid.geometry.taps[2];
  workers.each((samples + chunk - 1) / chunk, [&](int64_t task) {
    const int64_t end = std::min(samples, (task + 1) * chunk);
    Footprint<T> foot;
    if (grid.planes) {
      with_width(width, [&](auto w) {
        for (int64_t m = task * chunk; m < end; m += 8) {
          V<T> values[8] = {};
          const int count = static_cast<int>(std::min<int64_t>(8, end - m));
          for (int i = 0; i < count; ++i) {
            foot.locate(grid, points + (m + i) * ndim);
            values[i] = gather_planes<T, w.value>(foot, width);
          }
          transpose<T>(values);
          for (int l = 0; l < 8; ++l)
            if (out[l]) store_complex<T>(out[l] + 2 * m, values[l], count);
        }
      });
    } else {
      with_blocks(grid.blocks(), [&](auto b) {
        for (int64_t m = task * chunk; m < end; ++m) {
          foot.locate(grid, points + m * ndim);
          gather_cells<T, b.value>(foot, out[0] + 2 * m);
        }
      });
    }
  });
}

// Samples in the order of their first cells, and bands of grid rows that hold about equally many.
template <class T>
struct Sorted {
  std::vector<T> points;
  std::vector<int64_t> rank;         // of each sample among the sorted
  std::vector<int64_t> band, start;  // first slab of each band, first sorted sample of each band

  // A slab is what one cell of the slowest axis spans.
  Sorted(const Workers& workers, const Geometry<T>& g, const T* input, int64_t samples)
      : points(samples * g.ndim), rank(samples) {
    const int slow = g.ndim == 1 ? 2 : 3 - g.ndim, next = slow == 2 ? 2 : slow + 1;
    const int64_t slabs = g.ndim == 1 ? 1 : g.cells[slow];
    const int64_t parts = slow == 2 ? g.cells[2] : (g.cells[next] + 3) / 4;
    const int64_t keys = slabs * parts;
    std::vector<int32_t> key(samples);
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>(workers.count(), samples / 4096));
    std::vector<std::vector<int64_t>> counts(chunks, std::vector<int64_t>(keys + 1, 0));
    auto range = [&](int64_t c) { return samples * c / chunks; };
    workers.each(chunks, [&](int64_t c) {
      for (int64_t m = range(c); m < range(c + 1); ++m) {
        T u;
        int64_t k;
        if (g.ndim == 1) {
          k = first_cell(input[m], g.cells[2], g.width, &u);
        } else {
          k = first_cell(input[m * g.ndim], g.cells[slow], g.width, &u) * parts;
          k += first_cell(input[m * g.ndim + 1], g.cells[next], g.width, &u) / 4;
        }
        key[m] = static_cast<int32_t>(k);
        ++counts[c][k];
      }
    });
    int64_t total = 0;
    std::vector<int64_t> slab_start(slabs + 1, samples);
    for (int64_t k = 0; k < keys; ++k) {
      if (k % parts == 0) slab_start[k / parts] = total;
      for (auto& count : counts) {
        const int64_t here = count[k];
        count[k] = total;
        total += here;
      }
    }
    workers.each(chunks, [&](int64_t c) {
      for (int64_t m = range(c); m < range(c + 1); ++m) {
        const int64_t to = counts[c][key[m]]++;
        rank[m] = to;
        for (int a = 0; a < g.ndim; ++a) points[to * g.ndim + a] = input[m * g.ndim + a];
      }
    });
    // Bands of at least a footprint's height, an even number of them: every second one can be filled at once.
    const int64_t height = std::max(g.taps[slow] - 1, 1);
    const int64_t most = workers.count() == 1 ? 1 : std::min<int64_t>(8 * workers.count(), slabs / height);
    const int64_t wanted = std::max<int64_t>(1, most / 2 * 2);
    band = {0};
    for (int64_t s = height; wanted > 1 && s + height <= slabs; ++s) {
      const int64_t have = band.size();
      if (have == wanted) break;
      const bool full = slab_start[s] * wanted >= samples * have;
      const bool must = slabs - s <= (wanted - have) * height;
      if (s - band.back() >= height && (full || must)) band.push_back(s);
    }
    if (band.size() % 2 && band.size() > 1) band.pop_back();
    band.push_back(slabs);
    for (int64_t b : band) start.push_back(slab_start[b]);
  }
};

// Adds samples of up to eight planes to the grid, clearing it first.
template <class T>
void spread(const Workers& workers, const Grid<T>& grid, const Sorted<T>& sorted, const T* values) {
  const Geometry<T>& g = grid.geometry;
  const int slow = g.ndim == 1 ? 1 : 3 - g.ndim;
  const int64_t bands = sorted.band.size() - 1, reach = g.taps[slow] - 1;
  const int64_t slab = grid.rows() / g.cells[slow] * grid.row;
  const int64_t width = g.taps[2], stride = grid.planes ? 16 : 2;
  auto clear = [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s)
      std::memset(static_cast<void*>(grid.data + s % g.cells[slow] * slab), 0, slab * sizeof(V<T>));
  };
  for (int64_t odd = 0; odd < 2; ++odd) {
    workers.each((bands + 1 - odd) / 2, [&](int64_t task) {
      const int64_t b = 2 * task + odd;
      // An even band also clears what it reaches of the next; that one clears the rest of itself.
      if (bands == 1) clear(0, g.cells[slow]);
      else if (odd) clear(sorted.band[b] + reach, sorted.band[b + 1]);
      else clear(sorted.band[b], sorted.band[b + 1] + reach);
      Footprint<T> foot;
      const int64_t from = sorted.start[b], to = sorted.start[b + 1];
      if (grid.planes) {
        with_width(width, [&](auto w) {
          for (int64_t j = from; j < to; ++j) {
            foot.locate(grid, sorted.points.data() + j * g.ndim);
            spread_planes<T, w.value>(foot, width, load<T>(values + j * stride));
          }
        });
      } else {
        with_blocks(grid.blocks(), [&](auto blocks) {
          for (int64_t j = from; j < to; ++j) {
            foot.locate(grid, sorted.points.data() + j * g.ndim);
            spread_cells<T, blocks.value>(foot, values + j * stride);
          }
        });
      }
    });
  }
}

}  // namespace fedrecon
