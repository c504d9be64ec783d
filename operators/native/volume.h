// What the projectors of volumes share: sizes, wide vectors and volumes stored with z contiguous.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "threads.h"

namespace fedrecon {

// Volumes (nz, ny, nx), sinograms (views, rows, columns).
struct VolumeSizes {
  int64_t nz, ny, nx, views, rows, columns;
  double pixel_size;
  int64_t voxels() const { return nz * ny * nx; }
  int64_t elements() const { return views * rows * columns; }
};

template <class T>
struct WideTypes {
  static constexpr int lanes = 64 / sizeof(T);
  typedef T Vector __attribute__((vector_size(64)));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Integer;
  typedef Integer Index __attribute__((vector_size(64)));
};
template <class T>
using W = typename WideTypes<T>::Vector;
template <class T>
using WI = typename WideTypes<T>::Index;
template <class T>
constexpr int wide = WideTypes<T>::lanes;

template <class T>
inline W<T> load_wide(const T* p) {
  W<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store_wide(T* p, W<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
inline W<T> iota() {
  W<T> v;
  for (int l = 0; l < wide<T>; ++l) v[l] = l;
  return v;
}

// Elements of p at indices; `near` promises that these are in 0 ... 2 * wide - 1.
template <class T>
inline W<T> lookup(const T* p, WI<T> index, bool near) {
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
  if (near) return __builtin_shuffle(load_wide(p), load_wide(p + wide<T>), index);
#endif
  W<T> v;
  for (int l = 0; l < wide<T>; ++l) v[l] = p[index[l]];
  return v;
}

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace fedrecon
