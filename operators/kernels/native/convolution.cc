// Convolution of images and its two gradients as XLA FFI handlers.
//
// Images are (t, n, ny, nx, features), kernels (t, ky, kx, features_in, features_out); an operand whose axis t has
// length one is shared. The convolution and the gradient of its input are both sums over taps of the window,
// gathered at pixels: for strides, the gradient is one such sum for each phase of the pixels. The gradient of the
// kernel sums outer products over pixels, in parts that are added in a fixed order, whatever the number of threads.
// Where that takes less time, all three go by tiles with fewer multiplications (tiles.h).

#include <string>
#include <type_traits>
#include <vector>

#include "blocks.h"
#include "threads.h"
#include "tiles.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

// A tap before it is placed in memory: input pixel relative to output pixel, and number in the window.
struct Offset {
  int64_t y, x, tap;
};
// Output pixels (y + i * out_step, x + j * out_step) are sums over `offsets` of the input pixels
// (i * in_step + offset.y, j * in_step + offset.x).
struct Phase {
  int64_t y, x;
  std::vector<Offset> offsets;
};
template <class T>
struct Gathering {
  int64_t batch;
  Shape in, out;
  Pair in_step, out_step;
  std::vector<Phase> phases;
  bool own_in, own_weights;
  int64_t taps;
  const T* weights;  // (t or 1, taps, in.features, row), padded where out.features are not whole vectors
  int64_t row;
};

template <class T>
void run(const Workers& pool, const Gathering<T>& g, const T* in, T* out) {
  Pair least = {0, 0}, most = {0, 0};
  bool any = false;
  int64_t products = 0;
  for (const Phase& phase : g.phases)
    for (const Offset& o : phase.offsets) {
      least = any ? Pair{std::min(least.y, o.y), std::min(least.x, o.x)} : Pair{o.y, o.x};
      most = any ? Pair{std::max(most.y, o.y), std::max(most.x, o.x)} : Pair{o.y, o.x};
      any = true;
      ++products;
    }
  const int64_t rows = over(g.out.ny, g.out_step.y), columns = over(g.out.nx, g.out_step.x);
  products *= g.batch * g.in.images * rows * columns * g.in.features * g.row;

  // Rows of input lie as planes of one channel and one phase of in_step each, so that pixels of a block are neighbors.
  const int64_t pitch = columns + (most.x - least.x) / g.in_step.x, plane_row = g.in_step.x * g.in.features * pitch;
  std::vector<bool> used_row(g.in_step.y), used_column(g.in_step.x);
  std::vector<std::vector<Tap>> taps;
  for (const Phase& phase : g.phases) {
    taps.emplace_back();
    for (const Offset& o : phase.offsets) {
      const int64_t y = o.y - least.y, x = o.x - least.x;
      used_row[y % g.in_step.y] = used_column[x % g.in_step.x] = true;
      taps.back().push_back(
          {y * plane_row + x % g.in_step.x * g.in.features * pitch + x / g.in_step.x, o.tap * g.in.features});
    }
  }

  const std::vector<Features> features = split<T>(g.out.features, columns <= sums / 4 ? 4 : 2);
  // Rearranging an image costs about as much as a few multiplications.
  const int64_t work = products + 4 * g.batch * (g.in.size() + g.out.size());
  const Workers workers = work < alone ? Workers(1, nullptr) : pool;
  const int64_t wanted = 4 * workers.count(), images = g.batch * g.in.images;
  int64_t height = std::max<int64_t>(1, std::min(over(rows * images, wanted), rows));
  height = std::min(height, std::max<int64_t>(4, (int64_t{1} << 19) / (sizeof(T) * plane_row * g.in_step.y + 1)));
  const int64_t chunks = over(rows, height);
  int64_t groups = 1;
  if (workers.count() > 1 && images * chunks < wanted)
    groups = std::max<int64_t>(
        1, std::min<int64_t>({static_cast<int64_t>(features.size()), over(wanted, images * chunks), products / alone}));

  workers.each(images * chunks * groups, [&](int64_t task) {
    const int64_t group = task % groups, from = task / groups % chunks * height, to = std::min(rows, from + height);
    const int64_t image = task / groups / chunks, t = image / g.in.images;
    const T* own_in = in + (g.own_in ? image : image % g.in.images) * (g.in.size() / g.in.images);
    const T* own_weights = g.weights + (g.own_weights ? t * g.taps * g.in.features * g.row : 0);
    T* own_out = out + image * (g.out.size() / g.out.images);

    const int64_t span = (to - from - 1) * g.in_step.y + most.y - least.y + 1;
    const Scratch memory(sizeof(T) * (span * plane_row + slack));
    T* planes = memory.as<T>();
    for (int64_t r = 0; r < span; ++r) {
      if (!used_row[r % g.in_step.y]) continue;
      const int64_t y = from * g.in_step.y + least.y + r;
      for (int64_t x = 0; x < g.in_step.x; ++x) {
        if (!used_column[x]) continue;
        T* to_planes = planes + r * plane_row + x * g.in.features * pitch;
        const bool inside = y >= 0 && y < g.in.ny;
        planes_of_row(inside ? own_in + y * g.in.row() : own_in, inside ? g.in.nx : 0, g.in.features, least.x + x,
                      g.in_step.x, pitch, to_planes, pitch);
      }
    }
    for (size_t f = group; f < features.size(); f += groups)
      for (size_t k = 0; k < g.phases.size(); ++k) {
        const Phase& phase = g.phases[k];
        const int64_t last = std::min(to, over(g.out.ny - phase.y, g.out_step.y));
        const int64_t width = over(g.out.nx - phase.x, g.out_step.x), most_pixels = sums / features[f].vectors;
        const int64_t pieces = std::max<int64_t>(1, over(width, most_pixels)), piece = over(width, pieces);
        for (int64_t y = from; y < last; ++y)
          for (int64_t x = 0; x < width; x += piece) {
            T* pixel = own_out + (phase.y + y * g.out_step.y) * g.out.row() +
                       (phase.x + x * g.out_step.x) * g.out.features + features[f].first;
            apply(features[f],
                  Gather<T>{taps[k].data(), taps[k].data() + taps[k].size(),
                            planes + (y - from) * g.in_step.y * plane_row + x, pitch, g.in.features,
                            own_weights + features[f].first, g.row, pixel, g.out_step.x * g.out.features,
                            g.out.features - features[f].first},
                  std::min(piece, width - x));
          }
      }
  });
}

template <class T>
void forward(const Workers& workers, const Window& w, const T* kernel, const Shape& in, bool own_in, const T* x,
             const Shape& out, int64_t batch, Pair steps, Pair pads, T* y) {
  if (by_tiles(w, out.images, out.ny, out.nx, steps)) {
    const auto tiles = w.ny == 3 ? run_tiles<T, 3> : run_tiles<T, 5>;
    return tiles(workers, batch, in, own_in, x, kernel, w.batch > 1, false, pads, out, y);
  }
  Gathering<T> g{batch, in, out, steps, {1, 1}, {{0, 0, {}}}, own_in, w.batch > 1, w.taps(), kernel, w.out};
  for (int64_t i = 0; i < w.ny; ++i)
    for (int64_t j = 0; j < w.nx; ++j) g.phases[0].offsets.push_back({i - pads.y, j - pads.x, i * w.nx + j});
  g.row = padded<T>(w.out);
  const bool copied = g.row != w.out;
  const Scratch memory(copied ? sizeof(T) * w.batch * w.taps() * w.in * g.row : 0);
  if (copied) {
    T* rows = memory.as<T>();
    for (int64_t r = 0; r < w.batch * w.taps() * w.in; ++r)
      for (int64_t f = 0; f < g.row; ++f) rows[r * g.row + f] = f < w.out ? kernel[r * w.out + f] : T(0);
    g.weights = rows;
  }
  run(workers, g, x, y);
}

template <class T>
void input_gradient(const Workers& workers, const Window& w, const T* kernel, const Shape& in, bool own_in, const T* y,
                    const Shape& out, int64_t batch, Pair steps, Pair pads, T* x) {
  Gathering<T> g{batch, in, out, {1, 1}, steps, {}, own_in, w.batch > 1, w.taps(), nullptr, padded<T>(w.in)};
  for (int64_t a = 0; a < std::min(steps.y, out.ny); ++a)
    for (int64_t b = 0; b < std::min(steps.x, out.nx); ++b) {
      g.phases.push_back({a, b, {}});
      for (int64_t i = 0; i < w.ny; ++i)
        for (int64_t j = 0; j < w.nx; ++j)
          if (modulo(a + pads.y - i, steps.y) == 0 && modulo(b + pads.x - j, steps.x) == 0)
            g.phases.back().offsets.push_back({(a + pads.y - i) / steps.y, (b + pads.x - j) / steps.x, i * w.nx + j});
    }
  const Scratch memory(sizeof(T) * w.batch * w.taps() * w.out * g.row);
  const auto transpose = [&](int64_t tap) {
    planes_of_row(kernel + tap * w.in * w.out, w.in, w.out, 0, 1, g.row, memory.as<T>() + tap * w.out * g.row, g.row);
  };
  (w.batch * w.size() < alone / 8 ? Workers(1, nullptr) : workers).each(w.batch * w.taps(), transpose);
  g.weights = memory.as<T>();
  if (by_tiles(w, out.images, out.ny, out.nx, steps)) {
    const auto tiles = w.ny == 3 ? run_tiles<T, 3> : run_tiles<T, 5>;
    return tiles(workers, batch, in, own_in, y, g.weights, w.batch > 1, true, {w.ny - 1 - pads.y, w.nx - 1 - pads.x},
                 out, x);
  }
  run(workers, g, y, x);
}

// For every t and b, the gradient (ky, kx, in, out) from images x (t, n, ...) and cotangents y (t, b, n, ...).
template <class T>
void kernel_gradient(const Workers& pool, const Window& w, const Shape& in, bool own_in, const T* x, const Shape& out,
                     bool own_out, const T* y, int64_t cotangents, Pair steps, Pair pads, T* result) {
  if (by_tiles(w, in.images, out.ny, out.nx, steps)) {
    const auto tiles = w.ny == 3 ? kernel_gradient_tiles<T, 3> : kernel_gradient_tiles<T, 5>;
    return tiles(pool, w, in, own_in, x, out, own_out, y, cotangents, pads, result);
  }
  const int64_t problems = w.batch * cotangents, row = w.nx * w.in, features_row = padded<T>(w.out);
  const int64_t columns = (out.nx - 1) * steps.x + w.nx;
  const std::vector<Features> features = split<T>(w.out, 2);
  const int64_t products = in.images * out.ny * out.nx * w.taps() * w.in * features_row;

  // Chunks of rows, or of whole images, that stay in the cache.
  const int64_t budget = int64_t{1} << 17, row_bytes = sizeof(T) * (steps.y * columns * w.in + out.nx * features_row);
  const int64_t height = std::min(out.ny, std::max<int64_t>(1, budget / row_bytes));
  const int64_t depth = height < out.ny ? 1 : std::min(in.images, std::max<int64_t>(1, budget / (row_bytes * out.ny)));
  const int64_t strips = over(out.ny, height), chunks = over(in.images, depth) * strips;
  const int64_t parts =
      std::max<int64_t>(1, std::min<int64_t>({chunks, 16, products / (2 * alone), in.images * out.ny * out.nx / 512}));
  const int64_t pairs = w.ny * static_cast<int64_t>(features.size());
  const int64_t groups =
      std::max<int64_t>(1, std::min<int64_t>({pairs, 16 / (parts * problems), products / (alone * parts)}));
  const Workers workers = products * problems < alone ? Workers(1, nullptr) : pool;

  const Scratch memory(parts > 1 ? sizeof(T) * problems * parts * w.size() : 0);
  T* sums_of_parts = parts > 1 ? memory.as<T>() : result;
  workers.each(problems * parts * groups, [&](int64_t task) {
    const int64_t group = task % groups, part = task / groups % parts, problem = task / groups / parts;
    const T* own_x = x + (own_in ? problem / cotangents * in.size() : 0);
    const T* own_y = y + (own_out ? problem : problem % cotangents) * out.size();
    T* sum = sums_of_parts + (problem * parts + part) * w.size();
    const int64_t tall = (height - 1) * steps.y + w.ny;
    const Scratch rows(sizeof(T) * (depth * tall * columns * w.in + slack));
    const Scratch values(features_row != w.out ? sizeof(T) * (depth * height * out.row() + slack) : 0);
    const int64_t first = chunks * part / parts, last = chunks * (part + 1) / parts;
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t image = chunk / strips * depth, from = chunk % strips * height;
      const int64_t images = std::min(depth, in.images - image), lines = std::min(height, out.ny - from);
      for (int64_t i = 0; i < images; ++i)
        for (int64_t r = 0; r < (lines - 1) * steps.y + w.ny; ++r) {
          const int64_t line = from * steps.y - pads.y + r;
          const bool inside = line >= 0 && line < in.ny;
          planes_of_row(inside ? own_x + ((image + i) * in.ny + line) * in.row() : own_x, inside ? in.row() : 0, 1,
                        -pads.x * w.in, 1, columns * w.in, rows.as<T>() + (i * tall + r) * columns * w.in, 0);
        }
      Outer<T> a{images, lines, out.nx};
      a.x_image = tall * columns * w.in, a.x_row = steps.y * columns * w.in, a.x_pixel = steps.x * w.in;
      a.y = own_y + (image * out.ny + from) * out.row();
      a.y_image = out.ny * out.row(), a.y_row = out.row(), a.y_pixel = out.features;
      if (features_row != w.out && image + images == in.images && from + lines == out.ny) {
        // Vectors of the last pixel reach beyond it, elsewhere into the next pixel.
        const int64_t size = ((images - 1) * out.ny + lines) * out.row();
        std::copy(a.y, a.y + size, values.as<T>());
        a.y = values.as<T>();
      }
      const T* begin = a.y;
      a.row = w.out;
      a.add = chunk > first;
      for (int64_t pair = pairs * group / groups; pair < pairs * (group + 1) / groups; ++pair) {
        const Features& f = features[pair / w.ny];
        const int64_t tap_row = pair % w.ny, pieces = over(row, sums / f.vectors), piece = over(row, pieces);
        a.y = begin + f.first;
        a.features = w.out - f.first;
        for (int64_t j = 0; j < row; j += piece) {
          a.x = rows.as<T>() + tap_row * columns * w.in + j;
          a.out = sum + (tap_row * row + j) * w.out + f.first;
          apply(f, a, std::min(piece, row - j));
        }
      }
    }
  });
  if (parts == 1) return;
  const int64_t size = w.size(), piece = 4096, pieces = over(size, piece);
  (problems * parts * size < alone / 4 ? Workers(1, nullptr) : pool).each(problems * pieces, [&](int64_t task) {
    const int64_t problem = task / pieces, from = task % pieces * piece, to = std::min(size, from + piece);
    const T* part = sums_of_parts + problem * parts * size;
    T* total = result + problem * size;
    std::copy(part + from, part + to, total + from);
    for (int64_t k = 1; k < parts; ++k)
      for (int64_t i = from; i < to; ++i) total[i] += part[k * size + i];
  });
}

enum Kind { kForward, kInput, kKernel };

// kForward: kernels, images -> images; kInput: kernels, cotangents -> images; kKernel: images, cotangents -> kernels.
template <ffi::DataType Real, Kind kind>
ffi::Error call(ffi::ThreadPool pool, ffi::Buffer<Real> first, ffi::Buffer<Real> second, ffi::ResultBuffer<Real> result,
                ffi::Span<const int64_t> strides, ffi::Span<const int64_t> pads) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(first.typed_data())>>;
  try {
    const auto a = first.dimensions(), b = second.dimensions(), r = result->dimensions();
    const Workers workers(static_cast<int>(pool.num_threads()),
                          [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    const Pair steps = {strides[0], strides[1]}, low = {pads[0], pads[1]};
    if (result->element_count() == 0) return ffi::Error::Success();
    if (first.element_count() == 0 || second.element_count() == 0) {
      std::fill_n(result->typed_data(), result->element_count(), T(0));
      return ffi::Error::Success();
    }
    if constexpr (kind == kKernel) {
      const Window window = {r[0], r[2], r[3], r[4], r[5]};
      kernel_gradient<T>(workers, window, {a[1], a[2], a[3], a[4]}, a[0] > 1, first.typed_data(),
                         {b[2], b[3], b[4], b[5]}, b[0] > 1, second.typed_data(), b[1], steps, low,
                         result->typed_data());
    } else {
      const Window window = {a[0], a[1], a[2], a[3], a[4]};
      const auto function = kind == kForward ? forward<T> : input_gradient<T>;
      function(workers, window, first.typed_data(), {b[1], b[2], b[3], b[4]}, b[0] > 1, second.typed_data(),
               {r[1], r[2], r[3], r[4]}, r[0], steps, low, result->typed_data());
    }
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("convolution: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace fedrecon

#define FEDRECON_HANDLER(name, REAL, kind)                                                   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call<ffi::DataType::REAL, fedrecon::kind>), \
                                ffi::Ffi::Bind()                                             \
                                    .Ctx<ffi::ThreadPool>()                                  \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                 \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                 \
                                    .Ret<ffi::Buffer<ffi::DataType::REAL>>()                 \
                                    .Attr<ffi::Span<const int64_t>>("strides")               \
                                    .Attr<ffi::Span<const int64_t>>("pads"))

#pragma GCC visibility push(default)
#ifdef FEDRECON_FLOAT64
FEDRECON_HANDLER(fedrecon_convolution_forward, F64, kForward);
FEDRECON_HANDLER(fedrecon_convolution_input, F64, kInput);
FEDRECON_HANDLER(fedrecon_convolution_kernel, F64, kKernel);
#else
FEDRECON_HANDLER(fedrecon_convolution_forward, F32, kForward);
FEDRECON_HANDLER(fedrecon_convolution_input, F32, kInput);
FEDRECON_HANDLER(fedrecon_convolution_kernel, F32, kKernel);
#endif
#pragma GCC visibility pop
