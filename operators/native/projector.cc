// Line-driven projectors of tomography as XLA FFI handlers.
//
// A ray crosses the lines of an image (its rows, or its columns) at positions base + slope * (line - middle), in
// pixels. "joseph" interpolates every line at the rays; "distance-driven" takes the mean of every line between the
// edges of a detector element, as a difference of its running integral. Both are sums of linearly interpolated
// tables, and the adjoint adds to the same entries with the same weights.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

constexpr int copies = 4;       // of the adjoint's table, so that neighbouring rays do not wait for each other
constexpr int64_t block = 16;   // views per visit of a line in the adjoint

// Images (t, b, ny, nx), sinograms (t, b, views, bins), rays (t, 2, 2, views, knots): for lines that are rows, then
// columns, base and slope of every knot; lengths (t, views, bins): path per line, negative where lines are columns.
struct Sizes {
  int64_t batch, images, ny, nx, views, bins, knots;
  bool own_rays, own_lengths, own_input;
  bool integrated() const { return knots > bins; }  // distance-driven: knots are the edges of bins
  int64_t lines(int axis) const { return axis ? nx : ny; }
  int64_t pixels(int axis) const { return axis ? ny : nx; }
  int64_t entries(int axis) const { return pixels(axis) + 3; }
};

// Neighbouring bins of one view whose rays cross the same kind of lines.
struct Run {
  int axis;
  int64_t first, last;  // bins
};

template <class T>
std::vector<std::vector<Run>> runs_of(const Sizes& s, const T* lengths) {
  std::vector<std::vector<Run>> runs(s.views);
  for (int64_t v = 0; v < s.views; ++v)
    for (int64_t j = 0; j < s.bins; ++j) {
      const int axis = lengths[v * s.bins + j] < 0;
      if (runs[v].empty() || runs[v].back().axis != axis) runs[v].push_back({axis, j, j});
      runs[v].back().last = j + 1;
    }
  return runs;
}

// Everything about the knots of one run on one line.
template <class T>
struct Crossings {
  std::vector<int32_t> entry;
  std::vector<T> fraction, value, weight;

  explicit Crossings(int64_t knots) : entry(knots + 1), fraction(knots + 1), value(knots + 1), weight(knots + 1) {}

  void locate(const Sizes& s, const Run& run, const T* base, const T* slope, T line) {
    const int64_t count = run.last - run.first + s.integrated();
    const T offset = s.integrated() ? T(0.5) : T(1), last = s.pixels(run.axis) + (s.integrated() ? 0 : 1);
    for (int64_t k = 0; k < count; ++k) {
      T position = base[run.first + k] + slope[run.first + k] * line + offset;
      position = std::min(std::max(position, T(0)), last);
      const int32_t whole = static_cast<int32_t>(position);
      entry[k] = whole;
      fraction[k] = position - whole;
    }
  }
  // Weights of bins, once located: path per line, over the width of the bin where that is integrated.
  void weigh(const Sizes& s, const Run& run, const T* base, const T* slope, const T* lengths, T line) {
    const int64_t count = run.last - run.first;
    const T sign = run.axis ? -1 : 1;
    base += run.first, slope += run.first, lengths += run.first;
    if (!s.integrated()) {
      for (int64_t j = 0; j < count; ++j) weight[j] = sign * lengths[j];
      return;
    }
    for (int64_t j = 0; j < count; ++j) {
      const T width = (base[j + 1] - base[j]) + (slope[j + 1] - slope[j]) * line;
      // Bins beside the image; on a line through the source they have no width.
      const T inside = T(entry[j + 1] - entry[j]) + (fraction[j + 1] - fraction[j]);
      weight[j] = inside != 0 ? sign * lengths[j] / width : T(0);
    }
  }
};

// Lines of an image, of either kind, as tables whose linear interpolation is wanted.
template <class T>
inline T pixel(const T* image, const Sizes& s, int axis, int64_t line, int64_t i) {
  return axis ? image[i * s.nx + line] : image[line * s.nx + i];
}

template <class T>
void tabulate(const Sizes& s, const T* image, int axis, int64_t line, T* out) {
  const int64_t n = s.pixels(axis);
  double sum = 0;
  T before = 0;
  for (int64_t i = 0; i < n + 3; ++i) {
    T entry;
    if (s.integrated()) {
      entry = static_cast<T>(sum);
      if (i < n) sum += pixel(image, s, axis, line, i);
    } else {
      entry = i >= 1 && i <= n ? pixel(image, s, axis, line, i - 1) : T(0);
    }
    if (i) out[2 * i - 2] = before, out[2 * i - 1] = entry - before;
    before = entry;
  }
}

// The transpose: what was added to values and steps of a table, as pixels.
template <class T>
void pixels_of(const Sizes& s, int axis, const T* table, T* out) {
  const int64_t n = s.pixels(axis);
  auto entry = [&](int64_t i) {
    return table[2 * i] - table[2 * i + 1] + (i ? table[2 * i - 1] : T(0));
  };
  if (!s.integrated()) {
    for (int64_t i = 0; i < n; ++i) out[i] = entry(i + 1);
    return;
  }
  double sum = 0;
  for (int64_t i = n; i > 0; --i) {
    sum += entry(i);
    out[i - 1] = static_cast<T>(sum);
  }
}

template <class T>
struct Tables {
  const Sizes& s;
  Scratch memory;
  explicit Tables(const Sizes& s)
      : s(s), memory(sizeof(T) * 2 * (s.ny * s.entries(0) + s.nx * s.entries(1))) {}
  T* at(int axis, int64_t line) const {
    return memory.as<T>() + 2 * (axis * s.ny * s.entries(0) + line * s.entries(axis));
  }
};

template <class T>
void project(const Workers& workers, const Sizes& s, const T* images, const T* rays, const T* lengths, T* out) {
  const Tables<T> tables(s);
  std::vector<std::vector<Run>> runs;
  for (int64_t t = 0; t < s.batch; ++t) {
    const T* own_lengths = lengths + (s.own_lengths ? t * s.views * s.bins : 0);
    const T* own_rays = rays + (s.own_rays ? t * 4 * s.views * s.knots : 0);
    if (runs.empty() || s.own_lengths) runs = runs_of(s, own_lengths);
    for (int64_t b = 0; b < s.images; ++b) {
      const T* image = images + ((s.own_input ? t : 0) * s.images + b) * s.ny * s.nx;
      workers.each(s.ny + s.nx, [&](int64_t line) {
        const int axis = line >= s.ny;
        if (axis) line -= s.ny;
        tabulate(s, image, axis, line, tables.at(axis, line));
      });
      const int64_t chunk = 4;
      workers.each((s.views + chunk - 1) / chunk, [&](int64_t task) {
        Crossings<T> c(s.knots);
        std::vector<T> total(s.bins);
        for (int64_t v = task * chunk; v < std::min(s.views, (task + 1) * chunk); ++v) {
          std::fill(total.begin(), total.end(), T(0));
          for (const Run& run : runs[v]) {
            const T* base = own_rays + (2 * run.axis * s.views + v) * s.knots;
            const T* slope = base + s.views * s.knots;
            const int64_t count = run.last - run.first + s.integrated();
            for (int64_t l = 0; l < s.lines(run.axis); ++l) {
              const T line = l - T(0.5) * (s.lines(run.axis) - 1);
              const T* table = tables.at(run.axis, l);
              c.locate(s, run, base, slope, line);
              for (int64_t k = 0; k < count; ++k)
                c.value[k] = table[2 * c.entry[k]] + c.fraction[k] * table[2 * c.entry[k] + 1];
              T* sum = total.data() + run.first;
              c.weigh(s, run, base, slope, own_lengths + v * s.bins, line);
              if (s.integrated()) {
                for (int64_t j = 0; j + 1 < count; ++j) sum[j] += (c.value[j + 1] - c.value[j]) * c.weight[j];
              } else {
                for (int64_t j = 0; j < count; ++j) sum[j] += c.value[j] * c.weight[j];
              }
            }
          }
          std::copy(total.begin(), total.end(), out + ((t * s.images + b) * s.views + v) * s.bins);
        }
      });
    }
  }
}

template <class T>
void back_project(const Workers& workers, const Sizes& s, const T* sinograms, const T* rays, const T* lengths, T* out) {
  Scratch parts(sizeof(T) * 2 * s.ny * s.nx);
  T* sums[2] = {parts.as<T>(), parts.as<T>() + s.ny * s.nx};
  std::vector<std::vector<Run>> runs;
  for (int64_t t = 0; t < s.batch; ++t) {
    const T* own_lengths = lengths + (s.own_lengths ? t * s.views * s.bins : 0);
    const T* own_rays = rays + (s.own_rays ? t * 4 * s.views * s.knots : 0);
    if (runs.empty() || s.own_lengths) runs = runs_of(s, own_lengths);
    for (int64_t b = 0; b < s.images; ++b) {
      const T* sinogram = sinograms + ((s.own_input ? t : 0) * s.images + b) * s.views * s.bins;
      const int64_t chunk = 8, chunks[2] = {(s.ny + chunk - 1) / chunk, (s.nx + chunk - 1) / chunk};
      workers.each(chunks[0] + chunks[1], [&](int64_t task) {
        const int axis = task >= chunks[0];
        if (axis) task -= chunks[0];
        const int64_t from = task * chunk, to = std::min(s.lines(axis), from + chunk), entries = s.entries(axis);
        Crossings<T> c(s.knots);
        std::vector<T> sum(2 * entries * (to - from)), part(2 * entries * copies);
        for (int64_t view = 0; view < s.views; view += block)
          for (int64_t l = from; l < to; ++l) {
            const T line = l - T(0.5) * (s.lines(axis) - 1);
            std::fill(part.begin(), part.end(), T(0));
            for (int64_t v = view; v < std::min(s.views, view + block); ++v)
              for (const Run& run : runs[v]) {
                if (run.axis != axis) continue;
                const T* base = own_rays + (2 * axis * s.views + v) * s.knots;
                const T* slope = base + s.views * s.knots;
                const int64_t count = run.last - run.first + s.integrated();
                c.locate(s, run, base, slope, line);
                c.weigh(s, run, base, slope, own_lengths + v * s.bins, line);
                const T* y = sinogram + v * s.bins + run.first;
                if (s.integrated()) {
                  T before = 0;
                  for (int64_t k = 0; k + 1 < count; ++k) {
                    const T next = y[k] * c.weight[k];
                    c.value[k] = before - next;
                    before = next;
                  }
                  c.value[count - 1] = before;
                } else {
                  for (int64_t k = 0; k < count; ++k) c.value[k] = y[k] * c.weight[k];
                }
                for (int64_t k = 0; k < count; ++k) {
                  T* pair = part.data() + 2 * ((k % copies) * entries + c.entry[k]);
                  pair[0] += c.value[k];
                  pair[1] += c.fraction[k] * c.value[k];
                }
              }
            T* line_sum = sum.data() + 2 * entries * (l - from);
            for (int copy = 0; copy < copies; ++copy)
              for (int64_t i = 0; i < 2 * entries; ++i) line_sum[i] += part[2 * copy * entries + i];
          }
        for (int64_t l = from; l < to; ++l)
          pixels_of(s, axis, sum.data() + 2 * entries * (l - from), sums[axis] + l * s.pixels(axis));
      });
      T* image = out + (t * s.images + b) * s.ny * s.nx;
      workers.each((s.ny + 15) / 16, [&](int64_t task) {
        const int64_t to = std::min(s.ny, 16 * task + 16);
        for (int64_t x = 0; x < s.nx; ++x)
          for (int64_t y = 16 * task; y < to; ++y) image[y * s.nx + x] = sums[0][y * s.nx + x] + sums[1][x * s.ny + y];
      });
    }
  }
}

template <ffi::DataType Real, bool forward>
ffi::Error call(ffi::ThreadPool pool, ffi::Buffer<Real> rays, ffi::Buffer<Real> array, ffi::Buffer<Real> lengths,
                ffi::ResultBuffer<Real> out) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(rays.typed_data())>>;
  try {
    const auto r = rays.dimensions(), l = lengths.dimensions(), o = out->dimensions(), a = array.dimensions();
    const auto image = forward ? a : o;
    const Sizes s = {o[0], o[1], image[2], image[3], l[1], l[2], r[4], r[0] > 1, l[0] > 1, a[0] > 1};
    Workers workers(static_cast<int>(pool.num_threads()),
                    [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    const auto function = forward ? project<T> : back_project<T>;
    function(workers, s, array.typed_data(), rays.typed_data(), lengths.typed_data(), out->typed_data());
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("projector: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace fedrecon

#define FEDRECON_HANDLER(name, REAL, forward)                                          \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call<ffi::DataType::REAL, forward>), \
                                ffi::Ffi::Bind()                                       \
                                    .Ctx<ffi::ThreadPool>()                            \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()           \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()           \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()           \
                                    .Ret<ffi::Buffer<ffi::DataType::REAL>>())

#pragma GCC visibility push(default)
#ifdef FEDRECON_FLOAT64
FEDRECON_HANDLER(fedrecon_projector_forward, F64, true);
FEDRECON_HANDLER(fedrecon_projector_adjoint, F64, false);
#else
FEDRECON_HANDLER(fedrecon_projector_forward, F32, true);
FEDRECON_HANDLER(fedrecon_projector_adjoint, F32, false);
#endif
#pragma GCC visibility pop
