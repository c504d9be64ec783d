// Line-driven projectors of tomography as XLA FFI handlers.
//
// A ray crosses the lines of an image (its rows, or its columns) at positions base + slope * (line - middle), in
// pixels. "joseph" interpolates every line at the rays; "distance-driven" takes the mean of every line between the
// edges of a detector element, as a difference of its running integral. Both are sums of linearly interpolated
// tables, and the adjoint adds to the same entries with the same weights. Several images are taken side by side, in
// the lanes of a vector: where rays cross lines is found once for all.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "crossings.h"
#include "threads.h"
#include "wide.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

constexpr int64_t chunk = 8;       // lines per task of the adjoint
constexpr int64_t few_images = 3;  // fewer are faster one by one

// The values of W images at one place.
template <class T, int W>
struct CellOf {
  typedef T Type __attribute__((vector_size(W * sizeof(T))));
};
template <class T>
struct CellOf<T, 1> {
  using Type = T;
};
template <class T, int W>
using Cell = typename CellOf<T, W>::Type;

// Linear interpolation of one line; `in_order` says that entries only rise or only fall.
template <class T>
void interpolate(const T* table, const Crossings<T>& c, bool in_order, T* value) {
  typedef int32_t Entries __attribute__((vector_size(wide<T> * sizeof(int32_t))));
  int64_t k = 0;
  for (; k + wide<T> <= c.count; k += wide<T>) {
    Entries entries;
    std::memcpy(&entries, &c.entry[k], sizeof entries);
    const auto [low, high] = std::minmax(c.entry[k], c.entry[k + wide<T> - 1]);
    const WideIndex<T> place = __builtin_convertvector(entries, WideIndex<T>) - low;
    const bool near = in_order && high - low < 2 * wide<T> - 1;
    const Wide<T> here = lookup(table + low, place, near), next = lookup(table + low, place + 1, near);
    store_wide(value + k, here + load_wide(&c.fraction[k]) * (next - here));
  }
  for (; k < c.count; ++k) {
    const T* at = table + c.entry[k];
    value[k] = at[0] + c.fraction[k] * (at[1] - at[0]);
  }
}

// The transpose, added to a table of one line.
template <class T>
class Spread {
 public:
  explicit Spread(int64_t entries) : entries_(entries), parts_(copies * entries), pairs_(0) {}
  void add(const Crossings<T>& c, const T* value) {
    if (static_cast<int64_t>(pairs_.size()) < c.count) pairs_.resize(c.count);
    T* flat = reinterpret_cast<T*>(pairs_.data());
    for (int64_t k = 0; k < c.count; ++k) {
      flat[2 * k] = value[k];
      flat[2 * k + 1] = c.fraction[k] * value[k];
    }
    int64_t k = 0;
    for (; k + copies <= c.count; k += copies)
      for (int i = 0; i < copies; ++i) parts_[i * entries_ + c.entry[k + i]] += pairs_[k + i];
    for (; k < c.count; ++k) parts_[c.entry[k]] += pairs_[k];
  }
  void move_to(T* table) {
    for (int64_t i = 0; i + 1 < entries_; ++i) {
      Pair sum = parts_[i];
      for (int copy = 1; copy < copies; ++copy) sum += parts_[copy * entries_ + i];
      table[i] += sum[0] - sum[1];
      table[i + 1] += sum[1];
    }
    std::fill(parts_.begin(), parts_.end(), Pair{});
  }

 private:
  // Neighboring rays write to tables of their own, so that they do not wait for each other.
  static constexpr int copies = 4;
  // Sums of values, and of values times fractions.
  using Pair = Cell<T, 2>;
  int64_t entries_;
  std::vector<Pair> parts_, pairs_;
};

template <class T, int W>
inline T& lane(Cell<T, W>* cells, int64_t i, int w) {
  return reinterpret_cast<T*>(cells)[i * W + w];
}

// A line of `count` images as a table whose linear interpolation is wanted, and the transpose: tables as pixels.
template <class T, int W>
void tabulate(const Sizes& s, const T* images, int64_t count, int axis, int64_t line, Cell<T, W>* table) {
  const int64_t n = s.pixels(axis);
  double sums[W] = {};
  for (int64_t i = 0; i < n + 3; ++i)
    for (int w = 0; w < W; ++w) {
      const int64_t own = s.integrated() ? i : i - 1;
      const T value = w < count && own >= 0 && own < n ? images[w * s.ny * s.nx + s.pixel(axis, line, own)] : T(0);
      lane<T, W>(table, i, w) = s.integrated() ? static_cast<T>(sums[w]) : value;
      sums[w] += value;
    }
}
template <class T, int W>
void pixels_of(const Sizes& s, int axis, Cell<T, W>* table, Cell<T, W>* out) {
  const int64_t n = s.pixels(axis);
  if (!s.integrated()) {
    std::copy(table + 1, table + n + 1, out);
    return;
  }
  double sums[W] = {};
  for (int64_t i = n; i > 0; --i)
    for (int w = 0; w < W; ++w) lane<T, W>(out, i - 1, w) = static_cast<T>(sums[w] += lane<T, W>(table, i, w));
}

// `count` <= W images at once.
template <class T, int W>
void project(const Workers& workers, const Scan<T>& scan, const T* images, int64_t count, T* out) {
  const Sizes& s = scan.s;
  using C = Cell<T, W>;
  const int64_t columns = s.ny * s.entries(0);
  const Scratch memory(sizeof(C) * (columns + s.nx * s.entries(1) + 32));
  workers.each(s.ny + s.nx, [&](int64_t line) {
    const int axis = line >= s.ny;
    if (axis) line -= s.ny;
    tabulate<T, W>(s, images, count, axis, line, memory.as<C>() + axis * columns + line * s.entries(axis));
  });
  // Views that visit a line one after the other, while it is in the cache.
  const int64_t most = W == 1 ? 16 : 4, group = std::clamp<int64_t>(s.views / (4 * workers.count()), 1, most);
  workers.each((s.views + group - 1) / group, [&](int64_t task) {
    const int64_t from = task * group, to = std::min(s.views, from + group);
    Crossings<T> c(s.knots);
    std::vector<C> total((to - from) * s.bins, C{});
    // Weights vary from ray to ray: sums of equal pixels would else all be rounded the same way.
    std::vector<T> lengths(scan.lengths + from * s.bins, scan.lengths + to * s.bins);
    for (T& length : lengths) length = std::abs(length);
    std::vector<std::vector<Span>> spans(to - from);
    for (int64_t v = from; v < to; ++v) spans[v - from].resize(scan.runs[v].size());
    for (int axis = 0; axis < 2; ++axis)
      for (int64_t l = 0; l < s.lines(axis); ++l) {
        const C* table = memory.as<C>() + axis * columns + l * s.entries(axis);
        for (int64_t v = from; v < to; ++v)
          for (size_t r = 0; r < scan.runs[v].size(); ++r) {
            const Run& run = scan.runs[v][r];
            if (run.axis != axis) continue;
            c.locate(scan, run, v, scan.line(axis, l), spans[v - from][r]);
            C* sum = total.data() + (v - from) * s.bins + run.first + c.first;
            const T* length = lengths.data() + (v - from) * s.bins + run.first + c.first;
            if constexpr (W == 1) {
              T* value = c.value.data();
              interpolate(table, c, run.direction != 0, value);
              if (s.integrated()) {
                for (int64_t k = 0; k + 1 < c.count; ++k)
                  sum[k] += (value[k + 1] - value[k]) * (length[k] * c.inverse[k]);
              } else {
                for (int64_t k = 0; k < c.count; ++k) sum[k] += length[k] * value[k];
              }
            } else {
              auto value = [&](int64_t k) {
                const C* at = table + c.entry[k];
                return at[0] + c.fraction[k] * (at[1] - at[0]);
              };
              if (s.integrated()) {
                C before = c.count ? value(0) : C{};
                for (int64_t k = 0; k + 1 < c.count; ++k) {
                  const C next = value(k + 1);
                  sum[k] += (next - before) * (length[k] * c.inverse[k]);
                  before = next;
                }
              } else {
                for (int64_t k = 0; k < c.count; ++k) sum[k] += length[k] * value(k);
              }
            }
          }
      }
    for (int64_t w = 0; w < count; ++w)
      for (int64_t i = 0; i < (to - from) * s.bins; ++i)
        out[(w * s.views + from) * s.bins + i] = lane<T, W>(total.data(), i, w);
  });
}

template <class T, int W>
void back_project(const Workers& workers, const Scan<T>& scan, const T* sinograms, int64_t count, T* out) {
  const Sizes& s = scan.s;
  using C = Cell<T, W>;
  const Scratch scaled_memory(sizeof(C) * s.views * s.bins), parts(sizeof(C) * 2 * s.ny * s.nx);
  C *scaled = scaled_memory.as<C>(), *sums[2] = {parts.as<C>(), parts.as<C>() + s.ny * s.nx};
  workers.each(s.views, [&](int64_t v) {
    for (int64_t i = v * s.bins; i < (v + 1) * s.bins; ++i)
      for (int w = 0; w < W; ++w)
        lane<T, W>(scaled, i, w) = w < count ? std::abs(scan.lengths[i]) * sinograms[w * s.views * s.bins + i] : T(0);
  });
  const int64_t chunks[2] = {(s.ny + chunk - 1) / chunk, (s.nx + chunk - 1) / chunk}, block = 16;
  workers.each(chunks[0] + chunks[1], [&](int64_t task) {
    const int axis = task >= chunks[0];
    if (axis) task -= chunks[0];
    const int64_t from = task * chunk, to = std::min(s.lines(axis), from + chunk), entries = s.entries(axis);
    Crossings<T> c(s.knots);
    Spread<T> spread(W == 1 ? entries : 0);
    std::vector<C> tables((to - from) * entries, C{}), odd(W == 1 ? 0 : entries, C{});
    std::vector<std::vector<Span>> spans(block);
    Span seed;
    for (int64_t start = 0; start < s.views; start += block)
      for (int64_t l = from; l < to; ++l) {
        C* table = tables.data() + (l - from) * entries;
        for (int64_t v = start; v < std::min(s.views, start + block); ++v) {
          auto& own = spans[v - start];
          if (l == from) own.assign(scan.runs[v].size(), Span{});
          for (size_t r = 0; r < scan.runs[v].size(); ++r) {
            const Run& run = scan.runs[v][r];
            if (run.axis != axis) continue;
            if (l == from) own[r] = seed;
            c.locate(scan, run, v, scan.line(axis, l), own[r]);
            if (l == from) seed = own[r];
            const C* y = scaled + v * s.bins + run.first + c.first;
            if constexpr (W == 1) {
              const T* value = y;
              if (s.integrated()) {
                if (c.count < 2) continue;
                T* steps = c.value.data();
                const T* inverse = c.inverse.data();
                steps[0] = -y[0] * inverse[0];
                for (int64_t k = 1; k + 1 < c.count; ++k) steps[k] = y[k - 1] * inverse[k - 1] - y[k] * inverse[k];
                steps[c.count - 1] = y[c.count - 2] * inverse[c.count - 2];
                value = steps;
              }
              spread.add(c, value);
            } else {
              // As above, neighbors write to tables of their own.
              C* targets[2] = {table, odd.data()};
              C before{};
              for (int64_t k = 0; k < c.count; ++k) {
                C value = s.integrated() ? before : y[k];
                if (s.integrated()) {
                  before = k + 1 < c.count ? y[k] * c.inverse[k] : C{};
                  value -= before;
                }
                C* at = targets[k % 2] + c.entry[k];
                const C step = c.fraction[k] * value;
                at[0] += value - step;
                at[1] += step;
              }
            }
          }
        }
        if constexpr (W == 1) {
          spread.move_to(table);
        } else {
          for (int64_t i = 0; i < entries; ++i) table[i] += odd[i], odd[i] = C{};
        }
      }
    for (int64_t l = from; l < to; ++l)
      pixels_of<T, W>(s, axis, tables.data() + (l - from) * entries, sums[axis] + l * s.pixels(axis));
  });
  workers.each((s.ny + 15) / 16, [&](int64_t task) {
    const int64_t to = std::min(s.ny, 16 * task + 16);
    for (int64_t w = 0; w < count; ++w)
      for (int64_t x = 0; x < s.nx; ++x)
        for (int64_t y = 16 * task; y < to; ++y)
          out[(w * s.ny + y) * s.nx + x] = lane<T, W>(sums[0], y * s.nx + x, w) + lane<T, W>(sums[1], x * s.ny + y, w);
  });
}

template <class T, bool forward>
void apply(const Workers& workers, const Sizes& s, const T* rays, const T* array, const T* lengths, T* out) {
  const int64_t image = s.ny * s.nx, sinogram = s.views * s.bins;
  const int64_t in_size = forward ? image : sinogram, out_size = forward ? sinogram : image;
  std::unique_ptr<Scan<T>> scan;
  for (int64_t t = 0; t < s.batch; ++t) {
    if (!scan || s.own_rays || s.own_lengths)
      scan = std::make_unique<Scan<T>>(s, rays + (s.own_rays ? t * 4 * s.views * s.knots : 0),
                                       lengths + (s.own_lengths ? t * sinogram : 0));
    for (int64_t b = 0; b < s.images;) {
      const int64_t left = s.images - b, count = left < few_images ? 1 : std::min<int64_t>(left, wide<T>);
      const T* in = array + ((s.own_input ? t : 0) * s.images + b) * in_size;
      const auto function = forward ? (count > 1 ? project<T, wide<T>> : project<T, 1>)
                                    : (count > 1 ? back_project<T, wide<T>> : back_project<T, 1>);
      function(workers, *scan, in, count, out + (t * s.images + b) * out_size);
      b += count;
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
    apply<T, forward>(workers, s, rays.typed_data(), array.typed_data(), lengths.typed_data(), out->typed_data());
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("projector: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace fedrecon

#define FEDRECON_HANDLER(name, REAL, forward)                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call<ffi::DataType::REAL, forward>), \
                                ffi::Ffi::Bind()                                      \
                                    .Ctx<ffi::ThreadPool>()                           \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()          \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()          \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()          \
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
