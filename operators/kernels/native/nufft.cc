// Non-uniform FFTs of types 2 and 1 as XLA FFI handlers: coil multiplication, FFT and gridding in one call.

#include <algorithm>
#include <string>

#include "cartesian.h"
#include "gridding.h"
#include "lanes.h"
#include "threads.h"
#include "toeplitz.h"
#include "transform.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

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
    const RealLanes<T> first = real<T>(g.coefficients[p]);
    g.paired[p] = interleaved<T>(joined<T>(first, first));
  }
  return g;
}

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
        interpolate<T>(workers, grid, own, s.samples, nullptr, rows);
        continue;
      }
      // Volumes do not fit caches: samples in the order of their cells, and then back in theirs.
      if (!sorted || (s.own_points && p == 0)) sorted = sorted_samples<T>(workers, g, own, s.samples);
      T* value = ordered.as<T>();
      interpolate<T>(workers, grid, nullptr, s.samples, sorted.get(), &value);
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
