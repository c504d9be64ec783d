// Projectors of volumes as XLA FFI handlers: volumes (t, b, nz, ny, nx), sinograms (t, b, views, rows, columns).

#include <string>

#include "columns.h"
#include "rays.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fedrecon {
namespace {

// Tables (t, 9, views, columns) and Columns, or (t, views, 4, 3) and Rays; `variant` is the model's flag.
template <ffi::DataType Real, template <class> class Model, bool forward>
ffi::Error call(ffi::ThreadPool pool, ffi::Buffer<Real> table, ffi::Buffer<Real> array, ffi::ResultBuffer<Real> out,
                double pixel_size, bool variant) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(table.typed_data())>>;
  try {
    const auto t = table.dimensions(), a = array.dimensions(), o = out->dimensions();
    const auto volume = forward ? a : o, sinogram = forward ? o : a;
    const VolumeSizes s = {volume[2], volume[3], volume[4], sinogram[2], sinogram[3], sinogram[4], pixel_size};
    const int64_t in_size = forward ? s.voxels() : s.elements(), out_size = forward ? s.elements() : s.voxels();
    const Workers workers(static_cast<int>(pool.num_threads()),
                          [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
    const Model<T> model(s, variant);
    for (int64_t i = 0; i < o[0] * o[1]; ++i) {
      const int64_t scan = i / o[1], image = (a[0] > 1 ? scan : 0) * o[1] + i % o[1];
      const T* own = table.typed_data() + (t[0] > 1 ? scan * (table.element_count() / t[0]) : 0);
      const T* in = array.typed_data() + image * in_size;
      T* to = out->typed_data() + i * out_size;
      if constexpr (forward)
        model.project(workers, in, own, to);
      else
        model.back_project(workers, in, own, to);
    }
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("projector of volumes: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace fedrecon

#define FEDRECON_HANDLER(name, REAL, Model, forward)                                                   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (fedrecon::call<ffi::DataType::REAL, fedrecon::Model, forward>), \
                                ffi::Ffi::Bind()                                                       \
                                    .Ctx<ffi::ThreadPool>()                                            \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                           \
                                    .Arg<ffi::Buffer<ffi::DataType::REAL>>()                           \
                                    .Ret<ffi::Buffer<ffi::DataType::REAL>>()                           \
                                    .Attr<double>("pixel_size")                                        \
                                    .Attr<bool>("variant"))

#ifdef FEDRECON_FLOAT64
#define FEDRECON_REAL F64
#else
#define FEDRECON_REAL F32
#endif

#pragma GCC visibility push(default)
FEDRECON_HANDLER(fedrecon_volume_forward, FEDRECON_REAL, Columns, true);
FEDRECON_HANDLER(fedrecon_volume_adjoint, FEDRECON_REAL, Columns, false);
FEDRECON_HANDLER(fedrecon_volume_rays_forward, FEDRECON_REAL, Rays, true);
FEDRECON_HANDLER(fedrecon_volume_rays_adjoint, FEDRECON_REAL, Rays, false);
#pragma GCC visibility pop
