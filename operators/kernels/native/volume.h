// What the projectors of volumes share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "threads.h"
#include "wide.h"

namespace fedrecon {

// Volumes (nz, ny, nx), sinograms (views, rows, columns).
struct VolumeSizes {
  int64_t nz, ny, nx, views, rows, columns;
  double pixel_size;
  int64_t voxels() const { return nz * ny * nx; }
  int64_t elements() const { return views * rows * columns; }
};

// Elements of a line of the cache.
template <class T>
constexpr int64_t cache_line = 64 / sizeof(T);

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace fedrecon
