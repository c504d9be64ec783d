// Interpolating back-projection of tomography, and its transpose, as XLA FFI handlers.
//
// The formulas are those of operators/ct/inversion/back_projector.py. Pixels are taken in vectors along x, of which the
// columns are found together. In the plane their values are looked up in a window of the row that two registers
// hold, where it fits; in space every column of voxels blends two detector columns, whose rows are contiguous, and
// is interpolated along z in the same way.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "threads.h"
#include "wide.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

template <class T>
inline Wide<T> square_root(Wide<T> a) {
  for (int l = 0; l < wide<T>; ++l) a[l] = std::sqrt(a[l]);
  return a;
}

// Volumes (t, b, nz, ny, nx), sinograms (t, b, views, rows, columns), poses (t, views, 7), detector (t, 4),
// weights (t, views, nz).
struct Sizes {
  int64_t batch, images, views, rows, columns, nz, ny, nx;
  bool own_poses, own_detector, own_weights, own_input;
  bool planar() const { return rows == 1 && nz == 1; }
};

template <class T>
Wide<T> arctangent(Wide<T> t) {
  // Two half angles make the series short.
  for (int halving = 0; halving < 2; ++halving) t = t / (T(1) + square_root<T>(T(1) + t * t));
  const Wide<T> square = t * t;
  constexpr int terms = sizeof(T) == 4 ? 9 : 20;
  Wide<T> sum = T(1) / T(2 * terms - 1) + Wide<T>{};
  for (int n = terms - 2; n >= 0; --n) sum = T(1) / T(2 * n + 1) - square * sum;
  return T(4) * t * sum;
}

// Positions on an axis of the detector, moved to its edge, as a whole entry with one behind it and a fraction.
template <class T>
struct Axis {
  Wide<T> last;
  WideIndex<T> limit;
  explicit Axis(int64_t count)
      : last(Wide<T>{} + T(count - 1)),
        limit(WideIndex<T>{} + static_cast<typename WideTypes<T>::Integer>(count - 2)) {}

  void split(Wide<T> position, WideIndex<T>& whole, Wide<T>& fraction) const {
    const Wide<T> zero = {};
    position = position > zero ? position : zero;
    position = position < last ? position : last;
    whole = __builtin_convertvector(position, WideIndex<T>);
    whole = whole < limit ? whole : limit;
    fraction = position - __builtin_convertvector(whole, Wide<T>);
  }
};

template <class T>
struct Seen {
  Wide<T> fraction, weight, slope;  // slope: of detector rows along z
  WideIndex<T> column;
};

// Where the pixels of vectors along x are seen in one view. Copied into registers: nothing here is shared.
template <class T, bool curved>
struct View {
  Axis<T> columns;
  Wide<T> side_x, depth_x, scale, origin, row_scale, lane;
  T side_y, side_0, depth_y, depth_0, x0, y0;

  View(const Sizes& s, const T* pose, const T* detector)
      : columns(s.columns),
        side_x(pose[0] + Wide<T>{}),
        depth_x(pose[3] + Wide<T>{}),
        scale(detector[0] + Wide<T>{}),
        origin(detector[1] + Wide<T>{}),
        row_scale(detector[2] + Wide<T>{}),
        lane(iota<T>()),
        side_y(pose[1]),
        side_0(pose[2]),
        depth_y(pose[4]),
        depth_0(pose[5]),
        x0(T(-0.5) * (s.nx - 1)),
        y0(T(0.5) * (s.ny - 1)) {}

  Seen<T> at(int64_t i, int64_t j) const {
    const Wide<T> zero = {}, one = zero + T(1), across = lane + (j + x0);
    const T y = y0 - i;
    const Wide<T> side = side_x * across + (side_y * y + side_0);
    const Wide<T> depth = depth_x * across + (depth_y * y + depth_0);
    const Wide<T> inverse = depth > T(1e-3) ? one / depth : zero;
    const Wide<T> t = side * inverse;
    Seen<T> seen;
    columns.split(scale * (curved ? arctangent<T>(t) : t) + origin, seen.column, seen.fraction);
    seen.weight = inverse * inverse;
    seen.slope = row_scale * inverse;
    if (curved) seen.slope = seen.slope / square_root<T>(one + t * t);
    return seen;
  }
};

// Linear interpolation of a table of `count` >= 2 entries.
template <class T>
inline Wide<T> interpolate(const T* table, int64_t count, WideIndex<T> index, Wide<T> fraction) {
  constexpr int lanes = wide<T>;
  if (in_registers<T> && count >= 2 * lanes) {
    const int64_t ends[2] = {index[0], index[lanes - 1]};
    const int64_t base = std::min(std::min(ends[0], ends[1]), count - 2 * lanes);
    if (std::max(ends[0], ends[1]) - base + 1 < 2 * lanes) {
      const Wide<T> a = load_wide(table + base), b = load_wide(table + base + lanes);
      index -= static_cast<typename WideTypes<T>::Integer>(base);
      const Wide<T> low = look_up(a, b, index);
      index += 1;
      return low + fraction * (look_up(a, b, index) - low);
    }
  }
  const Wide<T> low = gathered(table, index);
  return low + fraction * (gathered(table + 1, index) - low);
}

// The same between two tables that are blended first.
template <class T>
inline Wide<T> interpolate(const T* near, const T* far, T blend, int64_t count, WideIndex<T> index, Wide<T> fraction) {
  constexpr int lanes = wide<T>;
  if (in_registers<T> && count >= 2 * lanes) {
    const int64_t base = std::min<int64_t>(index[0], count - 2 * lanes);
    if (index[lanes - 1] - base + 1 < 2 * lanes) {
      Wide<T> a = load_wide(near + base), b = load_wide(near + base + lanes);
      a += blend * (load_wide(far + base) - a), b += blend * (load_wide(far + base + lanes) - b);
      index -= static_cast<typename WideTypes<T>::Integer>(base);
      const Wide<T> low = look_up(a, b, index);
      index += 1;
      return low + fraction * (look_up(a, b, index) - low);
    }
  }
  Wide<T> low = gathered(near, index), high = gathered(near + 1, index);
  low += blend * (gathered(far, index) - low), high += blend * (gathered(far + 1, index) - high);
  return low + fraction * (high - low);
}

template <class T>
struct Geometry {
  const T *poses, *detector, *weights;
};

inline int64_t rounded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

template <class T, bool curved>
void gather_plane(const Workers& workers, const Sizes& sizes, const Geometry<T>& geometry, const T* sinogram,
                  T* image) {
  constexpr int lanes = wide<T>, chunk = 8;
  workers.each((sizes.ny + chunk - 1) / chunk, [&](int64_t task) {
    const Sizes s = sizes;
    const Geometry<T> g = geometry;
    const int64_t width = rounded(s.nx, lanes), from = task * chunk, to = std::min(s.ny, from + chunk);
    std::vector<T> memory(width * chunk);
    T* sums = memory.data();
    for (int64_t v = 0; v < s.views; ++v) {
      const T* row = sinogram + v * s.columns;
      const View<T, curved> view(s, g.poses + 7 * v, g.detector);
      const T weight = g.weights[v];
      for (int64_t i = from; i < to; ++i) {
        T* line = sums + (i - from) * width;
        for (int64_t j = 0; j < s.nx; j += lanes) {
          const Seen<T> seen = view.at(i, j);
          const Wide<T> value = interpolate(row, s.columns, seen.column, seen.fraction);
          store_wide(line + j, load_wide(line + j) + (weight * seen.weight) * value);
        }
      }
    }
    for (int64_t i = from; i < to; ++i) std::copy_n(sums + (i - from) * width, s.nx, image + i * s.nx);
  });
}

template <class T, bool curved>
void spread_plane(const Workers& workers, const Sizes& s, const Geometry<T>& g, const T* image, T* sinogram) {
  constexpr int lanes = wide<T>;
  workers.each(s.views, [&](int64_t v) {
    T* row = sinogram + v * s.columns;
    std::fill_n(row, s.columns, T(0));
    const View<T, curved> view(s, g.poses + 7 * v, g.detector);
    for (int64_t i = 0; i < s.ny; ++i)
      for (int64_t j = 0; j < s.nx; j += lanes) {
        const Seen<T> seen = view.at(i, j);
        for (int l = 0; l < std::min<int64_t>(lanes, s.nx - j); ++l) {
          const T value = g.weights[v] * seen.weight[l] * image[i * s.nx + j + l];
          row[seen.column[l]] += (1 - seen.fraction[l]) * value;
          row[seen.column[l] + 1] += seen.fraction[l] * value;
        }
      }
  });
}

// (views, rows, columns) to (views, columns, rows) and back, or any other two last axes.
template <class T>
void transpose(const Workers& workers, int64_t count, int64_t rows, int64_t columns, const T* in, T* out) {
  constexpr int64_t tile = 16;
  workers.each(count, [&](int64_t n) {
    const T* from = in + n * rows * columns;
    T* to = out + n * rows * columns;
    for (int64_t r = 0; r < rows; r += tile)
      for (int64_t c = 0; c < columns; c += tile)
        for (int64_t j = c; j < std::min(columns, c + tile); ++j)
          for (int64_t i = r; i < std::min(rows, r + tile); ++i) to[j * rows + i] = from[i * columns + j];
  });
}

template <class T, bool curved>
void gather_space(const Workers& workers, const Sizes& s, const Geometry<T>& g, const T* sinogram, T* volume) {
  constexpr int lanes = wide<T>, patch = 8;
  Scratch memory(sizeof(T) * s.views * s.rows * s.columns);
  T* views = memory.as<T>();
  transpose(workers, s.views, s.rows, s.columns, sinogram, views);
  const int64_t depth = rounded(s.nz, lanes), across = (s.nx + lanes - 1) / lanes, tasks = (s.ny + patch - 1) / patch;
  // What views weigh in slices, padded, and which vectors of slices they reach at all.
  std::vector<T> weights(s.views * depth);
  std::vector<int64_t> begin(s.views), end(s.views);
  for (int64_t v = 0; v < s.views; ++v) {
    std::copy_n(g.weights + v * s.nz, s.nz, weights.data() + v * depth);
    int64_t first = 0, last = s.nz;
    while (first < last && g.weights[v * s.nz + first] == 0) ++first;
    while (last > first && g.weights[v * s.nz + last - 1] == 0) --last;
    begin[v] = first / lanes * lanes, end[v] = last;
  }
  workers.each(tasks * across, [&](int64_t task) {
    const int64_t from = task / across * patch, to = std::min(s.ny, from + patch), x = task % across * lanes;
    const int64_t inside = std::min<int64_t>(lanes, s.nx - x), row_count = s.rows, column_count = s.columns;
    const Wide<T> lane = iota<T>();
    const Axis<T> rows(row_count);
    std::vector<T> sums(patch * lanes * depth);
    for (int64_t v = 0; v < s.views; ++v) {
      const T* pose = g.poses + 7 * v;
      const View<T, curved> view(s, pose, g.detector);
      const T start = pose[6] - T(0.5) * (s.nz - 1), origin = g.detector[3];
      const int64_t first = begin[v], last = end[v];
      const T* share = weights.data() + v * depth;
      for (int64_t i = from; i < to; ++i) {
        const Seen<T> seen = view.at(i, x);
        for (int64_t l = 0; l < inside; ++l) {
          if (seen.weight[l] == 0) continue;
          const T* near = views + (v * column_count + seen.column[l]) * row_count;
          const T blend = seen.fraction[l], slope = seen.slope[l], weight = seen.weight[l];
          T* sum = sums.data() + ((i - from) * lanes + l) * depth;
          for (int64_t k = first; k < last; k += lanes) {
            WideIndex<T> row;
            Wide<T> fraction;
            rows.split(lane * slope + ((k + start) * slope + origin), row, fraction);
            const Wide<T> value = interpolate(near, near + row_count, blend, row_count, row, fraction);
            store_wide(sum + k, load_wide(sum + k) + weight * load_wide(share + k) * value);
          }
        }
      }
    }
    for (int64_t k = 0; k < s.nz; ++k)
      for (int64_t i = from; i < to; ++i)
        for (int64_t l = 0; l < inside; ++l)
          volume[(k * s.ny + i) * s.nx + x + l] = sums[((i - from) * lanes + l) * depth + k];
  });
}

template <class T, bool curved>
void spread_space(const Workers& workers, const Sizes& s, const Geometry<T>& g, const T* volume, T* sinogram) {
  constexpr int lanes = wide<T>;
  const int64_t plane = s.ny * s.nx;
  Scratch turned(sizeof(T) * s.nz * plane), memory(sizeof(T) * s.views * s.rows * s.columns);
  T *columns = turned.as<T>(), *views = memory.as<T>();
  transpose(workers, 1, s.nz, plane, volume, columns);
  workers.each(s.views, [&](int64_t v) {
    T* view = views + v * s.rows * s.columns;
    std::fill_n(view, s.rows * s.columns, T(0));
    std::vector<T> line(s.rows);
    const T* pose = g.poses + 7 * v;
    const T* share = g.weights + v * s.nz;
    const View<T, curved> seen_from(s, pose, g.detector);
    const Axis<T> rows(s.rows);
    const Wide<T> lane = iota<T>();
    for (int64_t i = 0; i < s.ny; ++i)
      for (int64_t x = 0; x < s.nx; x += lanes) {
        const Seen<T> seen = seen_from.at(i, x);
        for (int64_t l = 0; l < std::min<int64_t>(lanes, s.nx - x); ++l) {
          if (seen.weight[l] == 0) continue;
          const T* values = columns + (i * s.nx + x + l) * s.nz;
          std::fill(line.begin(), line.end(), T(0));
          const T slope = seen.slope[l], start = pose[6] - T(0.5) * (s.nz - 1);
          for (int64_t k = 0; k < s.nz; k += lanes) {
            WideIndex<T> row;
            Wide<T> fraction;
            rows.split(lane * slope + ((k + start) * slope + g.detector[3]), row, fraction);
            for (int64_t m = 0; m < std::min<int64_t>(lanes, s.nz - k); ++m) {
              const T value = seen.weight[l] * share[k + m] * values[k + m];
              line[row[m]] += (1 - fraction[m]) * value;
              line[row[m] + 1] += fraction[m] * value;
            }
          }
          T* near = view + seen.column[l] * s.rows;
          const T blend = seen.fraction[l];
          for (int64_t r = 0; r < s.rows; ++r) near[r] += (1 - blend) * line[r], near[s.rows + r] += blend * line[r];
        }
      }
  });
  transpose(workers, s.views, s.columns, s.rows, views, sinogram);
}

template <class T, bool gather, bool curved>
void run(const Workers& workers, const Sizes& s, const Geometry<T>& shared, const T* array, T* out) {
  const int64_t voxels = s.nz * s.ny * s.nx, bins = s.views * s.rows * s.columns;
  const int64_t in_size = gather ? bins : voxels, out_size = gather ? voxels : bins;
  for (int64_t t = 0; t < s.batch; ++t) {
    const Geometry<T> g = {shared.poses + (s.own_poses ? t * s.views * 7 : 0),
                           shared.detector + (s.own_detector ? t * 4 : 0),
                           shared.weights + (s.own_weights ? t * s.views * s.nz : 0)};
    for (int64_t b = 0; b < s.images; ++b) {
      const T* from = array + ((s.own_input ? t : 0) * s.images + b) * in_size;
      T* to = out + (t * s.images + b) * out_size;
      const auto plane = gather ? gather_plane<T, curved> : spread_plane<T, curved>;
      const auto space = gather ? gather_space<T, curved> : spread_space<T, curved>;
      (s.planar() ? plane : space)(workers, s, g, from, to);
    }
  }
}

template <ffi::DataType Real, bool gather>
ffi::Error call(ffi::ThreadPool pool, ffi::Buffer<Real> poses, ffi::Buffer<Real> array, ffi::Buffer<Real> detector,
                ffi::Buffer<Real> weights, ffi::ResultBuffer<Real> out, bool curved) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(poses.typed_data())>>;
  try {
    const auto p = poses.dimensions(), d = detector.dimensions(), w = weights.dimensions();
    const auto a = array.dimensions(), o = out->dimensions();
    const auto volume = gather ? o : a, sinogram = gather ? a : o;
    const Sizes s = {o[0],      o[1],      p[1],     sinogram[3], sinogram[4], volume[2],
                     volume[3], volume[4], p[0] > 1, d[0] > 1,    w[0] > 1,    a[0] > 1};
    Workers workers(static_cast<int>(pool.num_threads()),
                    [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    const Geometry<T> g = {poses.typed_data(), detector.typed_data(), weights.typed_data()};
    const auto function = curved ? run<T, gather, true> : run<T, gather, false>;
    function(workers, s, g, array.typed_data(), out->typed_data());
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("backprojector: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace fedrecon

#define FEDRECON_HANDLER(name, REAL, gather)                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call<ffi::DataType::REAL, gather>), \
                                ffi::Ffi::Bind()                                     \
                                    .Ctx<ffi::ThreadPool>()                          \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()         \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()         \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()         \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()         \
                                    .Ret<ffi::Buffer<ffi::DataType::REAL>>()         \
                                    .Attr<bool>("curved"))

#pragma GCC visibility push(default)
#ifdef FEDRECON_FLOAT64
FEDRECON_HANDLER(fedrecon_backprojector_gather, F64, true);
FEDRECON_HANDLER(fedrecon_backprojector_spread, F64, false);
#else
FEDRECON_HANDLER(fedrecon_backprojector_gather, F32, true);
FEDRECON_HANDLER(fedrecon_backprojector_spread, F32, false);
#endif
#pragma GCC visibility pop
