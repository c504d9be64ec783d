// Non-uniform FFTs of types 2 and 1 as XLA FFI handlers: coil multiplication, FFT and gridding in one call.

#include <algorithm>
#include <complex>
#include <string>

#include "fft.h"
#include "gridding.h"
#include "lanes.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

// One plane, or one row of it: the image and the coil map it is multiplied by (null: none).
template <class T>
struct Lane {
  T* image = nullptr;
  const T* map = nullptr;
  T scale = 0;
  T turn[2] = {1, 0};  // modulation along z and y
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
  std::vector<T> scale_x;                          // padded to eight
  const T* wave[3] = {nullptr, nullptr, nullptr};  // modulation of the pixels along (z, y, x), if any

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
      const std::complex<T> turn = at(wave[0], z) * at(wave[1], y);
      lanes[l].turn[0] = turn.real();
      lanes[l].turn[1] = turn.imag();
    }
  }
  static std::complex<T> at(const T* wave, int64_t i) {
    return wave ? std::complex<T>(wave[2 * i], wave[2 * i + 1]) : std::complex<T>(1);
  }
  bool modulated() const { return wave[0] || wave[1] || wave[2]; }
  ComplexLanes<T> modulation(const Lane<T>& lane, int64_t x) const {
    const ComplexLanes<T> one = joined<T>(RealLanes<T>{} + 1, RealLanes<T>{});
    const ComplexLanes<T> along = wave[2] ? load_complex<T>(wave[2] + 2 * x, geometry.pixels[2] - x) : one;
    return along * lane.turn[0] + swapped<T>(along) * (imaginary_unit<T>(1) * lane.turn[1]);
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
          if (modulated()) a[l] = times(a[l], modulation(lanes[l], x), false);
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
            if (modulated()) value = times(value, modulation(lanes[l], x), true);
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

  // FFT along the slowest axis, product with a real spectrum (z, y, x), and FFT back to the pixels.
  void convolve(const T* spectrum) const {
    if (geometry.ndim == 1) {
      for (int64_t x = 0; x < geometry.cells[2]; ++x) {
        if (grid.planes)
          grid.data[x] *= spectrum[x];
        else
          grid.cell(grid.data, x)[0] *= spectrum[x], grid.cell(grid.data, x)[8] *= spectrum[x];
      }
      return;
    }
    const int axis = geometry.ndim == 3 ? 0 : 1;
    const int64_t cells = geometry.cells[axis], pixels = geometry.pixels[axis], nx = geometry.cells[2];
    const Fft<T>& plan = Fft<T>::of(cells);
    const int64_t step = axis == 0 ? geometry.cells[1] * grid.row : grid.row;
    const int64_t lines = axis == 0 ? geometry.cells[1] : 1, spectrum_step = axis == 0 ? geometry.cells[1] * nx : nx;
    const int64_t chunk = 4, chunks = (grid.columns + chunk - 1) / chunk;
    const int64_t after = pixels - pixels / 2, before = cells - pixels / 2;
    auto holds = [&](int64_t j) { return j < after || j >= before; };
    workers.each(lines * chunks, [&](int64_t task) {
      ComplexLanes<T>* work = local(3 * cells);
      ComplexLanes<T>* middle = work + 2 * cells;
      const int64_t l = task / chunks, from = task % chunks * chunk;
      for (int64_t x = from; x < std::min(grid.columns, from + chunk); ++x) {
        ComplexLanes<T>* column = (axis == 0 ? grid.at(0, l) : grid.at(0, 0)) + x;
        const T* factor = spectrum + l * nx + (grid.planes ? x : 8 * x);
        const int64_t left = grid.planes ? 1 : std::min<int64_t>(8, nx - 8 * x);
        transform(
            plan, -1, work, [&](int j) { return holds(j) ? column[j * step] : ComplexLanes<T>{}; },
            [&](int j, ComplexLanes<T> v) {
              const T* f = factor + j * spectrum_step;
              if (grid.planes) {
                middle[j] = v * f[0];
              } else {
                T eight[8] = {};
                for (int64_t i = 0; i < left; ++i) eight[i] = f[i];
                middle[j] = v * doubled<T>(eight);
              }
            });
        transform(
            plan, 1, work, [&](int j) { return middle[j]; },
            [&](int j, ComplexLanes<T> v) {
              if (holds(j)) column[j * step] = v;
            });
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
Geometry<T> geometry_of(ffi::Span<const int64_t> shape, ffi::Span<const int64_t> grid, int64_t width, const T* kernel,
                        int64_t kernel_size, const T* scales, int sign, bool conjugate) {
  static const T one = 1;
  Geometry<T> g;
  g.ndim = static_cast<int>(shape.size());
  g.width = static_cast<int>(width);
  g.degree = static_cast<int>(kernel_size / width) - 1;
  if (g.width > 16 || g.degree >= 32) throw std::invalid_argument("kernel is too wide or of too high a degree");
  g.sign = sign;
  g.conjugate = conjugate;
  for (int axis = 0; axis < 3; ++axis) g.scale[axis] = &one;
  for (int a = 0; a < g.ndim; ++a) {
    const int axis = 3 - g.ndim + a;
    g.pixels[axis] = shape[a];
    g.cells[axis] = grid[a];
    g.taps[axis] = g.width;
    g.scale[axis] = scales;
    scales += shape[a];
  }
  for (int p = 0; p <= g.degree; ++p) {
    T lane[16] = {};
    std::copy(kernel + p * width, kernel + (p + 1) * width, lane);
    g.coefficients[p] = load<T>(lane);
    T repeated[16] = {};
    const int stride = g.ndim == 3 ? 5 : 8;
    for (int i = 0; i < stride * (16 / stride); ++i) repeated[i] = lane[i % stride];
    g.repeated[p] = load<T>(repeated);
  }
  return g;
}

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

template <class T>
void type2(const Workers& workers, const Geometry<T>& g, const Sizes& s, const T* points, T* images, const T* maps,
           T* out) {
  const int64_t planes = s.images * s.coils;
  const bool together = planes > few_planes;
  Grid<T> grid(g, together);
  Scratch memory(grid.bytes());
  grid.data = memory.as<ComplexLanes<T>>();
  const Transform<T> transform(workers, g, grid);
  const bool by_tile = g.ndim == 3 && !together && s.samples > 10000;
  const int64_t chunk = 4096;
  Scratch ordered(by_tile ? 2 * s.samples * sizeof(T) : 0);
  std::shared_ptr<const Sorted<T>> sorted;
  for (int64_t t = 0; t < s.batch; ++t)
    for (int64_t p = 0, count; p < planes; p += count) {
      count = together ? std::min<int64_t>(8, planes - p) : 1;
      transform.fill(lanes_from(s, t, p, count, images, maps));
      transform.along(1, true, g.sign);
      transform.along(0, true, g.sign);
      transform.each_row(false);
      T* rows[8] = {};
      for (int64_t l = 0; l < count; ++l) rows[l] = out + 2 * (t * planes + p + l) * s.samples;
      const T* own = points + (s.own_points ? t * s.samples * g.ndim : 0);
      if (!by_tile) {
        interpolate<T>(workers, grid, own, s.samples, false, rows);
        continue;
      }
      // Volumes do not fit caches: samples in the order of their cells, and then back in theirs.
      if (!sorted || (s.own_points && p == 0)) sorted = sorted_samples<T>(workers, g, own, s.samples);
      T* value = ordered.as<T>();
      interpolate<T>(workers, grid, sorted->points, s.samples, true, &value);
      workers.each((s.samples + chunk - 1) / chunk, [&](int64_t task) {
        for (int64_t m = task * chunk; m < std::min(s.samples, (task + 1) * chunk); ++m)
          std::memcpy(rows[0] + 2 * m, value + 2 * int64_t{sorted->rank[m]}, 2 * sizeof(T));
      });
    }
}

template <class T>
void type1(const Workers& workers, const Geometry<T>& g, const Sizes& s, const T* points, const T* samples,
           const T* maps, T* images) {
  const int64_t planes = s.images * s.coils;
  const bool together = planes > few_planes;
  Grid<T> grid(g, together);
  Scratch memory(grid.bytes()), order(s.samples * (together ? 16 : 2) * sizeof(T));
  grid.data = memory.as<ComplexLanes<T>>();
  T* values = order.as<T>();
  const Transform<T> transform(workers, g, grid);
  std::shared_ptr<const Sorted<T>> sorted;
  std::memset(images, 0, s.batch * s.images * s.pixels * 2 * sizeof(T));
  for (int64_t t = 0; t < s.batch; ++t) {
    if (!sorted || s.own_points)
      sorted = sorted_samples<T>(workers, g, points + (s.own_points ? t * s.samples * g.ndim : 0), s.samples);
    for (int64_t p = 0, count; p < planes; p += count) {
      count = together ? std::min<int64_t>(8, planes - p) : 1;
      const T* in = samples + 2 * ((s.own_samples ? t : 0) * planes + p) * s.samples;
      const int64_t chunk = 4096;
      workers.each((s.samples + chunk - 1) / chunk, [&](int64_t task) {
        const int64_t end = std::min(s.samples, (task + 1) * chunk);
        if (!together) {
          for (int64_t m = task * chunk; m < end; ++m) {
            values[2 * sorted->rank[m]] = in[2 * m];
            values[2 * sorted->rank[m] + 1] = in[2 * m + 1];
          }
          return;
        }
        for (int64_t m = task * chunk; m < end; m += 8) {
          ComplexLanes<T> a[8] = {};
          for (int64_t l = 0; l < count; ++l) a[l] = load_complex<T>(in + 2 * (l * s.samples + m), end - m);
          transpose<T>(a);
          for (int64_t i = 0; i < std::min<int64_t>(8, end - m); ++i) store<T>(values + 16 * sorted->rank[m + i], a[i]);
        }
      });
      spread<T>(workers, grid, *sorted, values);
      transform.each_row(true);
      transform.along(0, false, g.sign);
      transform.along(1, false, g.sign);
      transform.collect(lanes_from(s, t, p, count, images, maps), g.sign, g.conjugate);
    }
  }
}

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
  const int parities = 1 << g.ndim;
  for (int64_t t = 0; t < s.batch; ++t)
    for (int64_t p = 0, count; p < planes; p += count) {
      count = together ? std::min<int64_t>(8, planes - p) : 1;
      for (int parity = 0; parity < parities; ++parity) {
        const T* wave = waves;
        for (int axis = 3 - g.ndim; axis < 3; ++axis) {
          transform.wave[axis] = parity >> (2 - axis) & 1 ? wave : nullptr;
          wave += 2 * g.pixels[axis];
        }
        const T* values = spectrum + ((s.own_points ? t : 0) * parities + parity) * cells;
        transform.fill(lanes_from(s, t, p, count, const_cast<T*>(images), maps));
        if (g.ndim == 3) transform.along(1, true, -1);
        transform.convolve(values);
        if (g.ndim == 3) transform.along(1, false, 1);
        transform.collect(lanes_from(result, t, p, count, out, maps), 1, true);
      }
    }
}

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

template <ffi::DataType Real, ffi::DataType Complex, bool forward>
ffi::Error call_cartesian(ffi::ThreadPool pool, ffi::Buffer<Real> mask, ffi::Buffer<Complex> array,
                          ffi::Buffer<Complex> maps, ffi::Buffer<Real> scales, ffi::ResultBuffer<Complex> out,
                          int32_t sign, bool conjugate) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(mask.typed_data())>>;
  try {
    Sizes s = {};
    const auto m = mask.dimensions(), a = array.dimensions(), o = out->dimensions();
    s.has_maps = maps.element_count() > 0;
    s.batch = o[0];
    s.images = o[1];
    s.coils = s.has_maps ? maps.dimensions()[1] : 1;
    s.pixels = m[1] * m[2];
    s.own_points = m[0] > 1;
    s.own_maps = s.has_maps && maps.dimensions()[0] > 1;
    s.own_images = forward ? a[0] > 1 : true;
    s.own_samples = forward ? true : a[0] > 1;
    const int64_t shape[2] = {m[1], m[2]};
    const T one = 1;
    Geometry<T> g = geometry_of<T>({shape, 2}, {shape, 2}, 1, &one, 1, scales.typed_data(), sign, conjugate);
    // One spare column keeps rows from being a power of two apart.
    g.taps[2] = 2;
    Workers workers(static_cast<int>(pool.num_threads()),
                    [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    T* in = reinterpret_cast<T*>(array.typed_data());
    T* result = reinterpret_cast<T*>(out->typed_data());
    cartesian<T, forward>(workers, g, s, mask.typed_data(), forward ? in : result,
                          s.has_maps ? reinterpret_cast<const T*>(maps.typed_data()) : nullptr, forward ? result : in);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("cartesian: ") + error.what());
  }
  return ffi::Error::Success();
}

template <ffi::DataType Real, ffi::DataType Complex>
ffi::Error call_toeplitz(ffi::ThreadPool pool, ffi::Buffer<Real> spectrum, ffi::Buffer<Complex> array,
                         ffi::Buffer<Complex> maps, ffi::Buffer<Complex> waves, ffi::Buffer<Real> scales,
                         ffi::ResultBuffer<Complex> out, ffi::Span<const int64_t> shape,
                         ffi::Span<const int64_t> half) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(spectrum.typed_data())>>;
  try {
    Sizes s = {};
    s.has_maps = maps.element_count() > 0;
    s.batch = out->dimensions()[0];
    s.images = out->dimensions()[1];
    s.coils = s.has_maps ? maps.dimensions()[1] : 1;
    s.pixels = 1;
    for (int64_t n : shape) s.pixels *= n;
    s.own_points = spectrum.dimensions()[0] > 1;
    s.own_maps = s.has_maps && maps.dimensions()[0] > 1;
    s.own_images = array.dimensions()[0] > 1;
    const T one = 1;
    Geometry<T> g = geometry_of<T>(shape, half, 1, &one, 1, scales.typed_data(), -1, false);
    // One spare column keeps rows from being a power of two apart.
    g.taps[2] = 2;
    Workers workers(static_cast<int>(pool.num_threads()),
                    [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    toeplitz<T>(workers, g, s, spectrum.typed_data(), reinterpret_cast<const T*>(array.typed_data()),
                s.has_maps ? reinterpret_cast<const T*>(maps.typed_data()) : nullptr,
                reinterpret_cast<const T*>(waves.typed_data()), reinterpret_cast<T*>(out->typed_data()));
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("toeplitz: ") + error.what());
  }
  return ffi::Error::Success();
}

template <ffi::DataType Real, ffi::DataType Complex, bool forward>
ffi::Error call(ffi::ThreadPool pool, ffi::Buffer<Real> points, ffi::Buffer<Complex> array, ffi::Buffer<Complex> maps,
                ffi::Buffer<Real> kernel, ffi::Buffer<Real> scales, ffi::ResultBuffer<Complex> out,
                ffi::Span<const int64_t> shape, ffi::Span<const int64_t> grid, int64_t width, int32_t sign,
                bool conjugate) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(points.typed_data())>>;
  try {
    Sizes s;
    auto p = points.dimensions(), a = array.dimensions(), o = out->dimensions();
    s.has_maps = maps.element_count() > 0;
    s.batch = o[0];
    s.images = o[1];
    s.coils = s.has_maps ? maps.dimensions()[1] : 1;
    s.samples = p[1];
    s.pixels = 1;
    for (int64_t n : shape) s.pixels *= n;
    s.own_points = p[0] > 1;
    s.own_maps = s.has_maps && maps.dimensions()[0] > 1;
    s.own_images = forward ? a[0] > 1 : true;
    s.own_samples = forward ? true : a[0] > 1;
    const Geometry<T> g =
        geometry_of<T>(shape, grid, width, kernel.typed_data(), static_cast<int64_t>(kernel.element_count()),
                       scales.typed_data(), sign, conjugate);
    Workers workers(static_cast<int>(pool.num_threads()),
                    [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    T* in = reinterpret_cast<T*>(array.typed_data());
    const T* coil_maps = s.has_maps ? reinterpret_cast<const T*>(maps.typed_data()) : nullptr;
    T* result = reinterpret_cast<T*>(out->typed_data());
    if (forward)
      type2<T>(workers, g, s, points.typed_data(), in, coil_maps, result);
    else
      type1<T>(workers, g, s, points.typed_data(), in, coil_maps, result);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("nufft: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace fedrecon

#define FEDRECON_HANDLER(name, REAL, COMPLEX, forward)                                                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call<ffi::DataType::REAL, ffi::DataType::COMPLEX, forward>), \
                                ffi::Ffi::Bind()                                                              \
                                    .Ctx<ffi::ThreadPool>()                                                   \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                  \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                  \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                  \
                                    .Ret<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Attr<ffi::Span<const int64_t>>("shape")                                  \
                                    .Attr<ffi::Span<const int64_t>>("grid")                                   \
                                    .Attr<int64_t>("width")                                                   \
                                    .Attr<int32_t>("sign")                                                    \
                                    .Attr<bool>("conjugate"))

#define FEDRECON_CARTESIAN(name, REAL, COMPLEX, forward)                                                          \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name,                                                                             \
                                (fedrecon::call_cartesian<ffi::DataType::REAL, ffi::DataType::COMPLEX, forward>), \
                                ffi::Ffi::Bind()                                                                  \
                                    .Ctx<ffi::ThreadPool>()                                                       \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                      \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                                   \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                                   \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                      \
                                    .Ret<ffi::Buffer<ffi::DataType::COMPLEX>>()                                   \
                                    .Attr<int32_t>("sign")                                                        \
                                    .Attr<bool>("conjugate"))

#define FEDRECON_TOEPLITZ(name, REAL, COMPLEX)                                                                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call_toeplitz<ffi::DataType::REAL, ffi::DataType::COMPLEX>), \
                                ffi::Ffi::Bind()                                                              \
                                    .Ctx<ffi::ThreadPool>()                                                   \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                  \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Arg<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                                  \
                                    .Ret<ffi::Buffer<ffi::DataType::COMPLEX>>()                               \
                                    .Attr<ffi::Span<const int64_t>>("shape")                                  \
                                    .Attr<ffi::Span<const int64_t>>("half"))

#pragma GCC visibility push(default)
#ifdef FEDRECON_FLOAT64
FEDRECON_HANDLER(fedrecon_nufft_type2, F64, C128, true);
FEDRECON_HANDLER(fedrecon_nufft_type1, F64, C128, false);
FEDRECON_TOEPLITZ(fedrecon_nufft_toeplitz, F64, C128);
FEDRECON_CARTESIAN(fedrecon_nufft_cartesian, F64, C128, true);
FEDRECON_CARTESIAN(fedrecon_nufft_cartesian_adjoint, F64, C128, false);
#else
FEDRECON_HANDLER(fedrecon_nufft_type2, F32, C64, true);
FEDRECON_HANDLER(fedrecon_nufft_type1, F32, C64, false);
FEDRECON_TOEPLITZ(fedrecon_nufft_toeplitz, F32, C64);
FEDRECON_CARTESIAN(fedrecon_nufft_cartesian, F32, C64, true);
FEDRECON_CARTESIAN(fedrecon_nufft_cartesian_adjoint, F32, C64, false);
#endif
#pragma GCC visibility pop
