// Vectors of eight complex numbers: real parts in lanes 0-7, imaginary parts in lanes 8-15.
#pragma once

#include <cstddef>
#include <cstring>

namespace fedrecon {

template <class T>
struct Types {
  typedef T Complex8 __attribute__((vector_size(16 * sizeof(T))));
  typedef T Real8 __attribute__((vector_size(8 * sizeof(T))));
};
template <class T>
using V = typename Types<T>::Complex8;
template <class T>
using H = typename Types<T>::Real8;

#define FEDRECON_SWAPPED 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define FEDRECON_ALL 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

template <class T>
inline V<T> swapped(V<T> a) {
  return __builtin_shufflevector(a, a, FEDRECON_SWAPPED);
}
template <class T>
inline V<T> joined(H<T> re, H<T> im) {
  return __builtin_shufflevector(re, im, FEDRECON_ALL);
}
template <class T>
inline H<T> real(V<T> a) {
  return __builtin_shufflevector(a, a, 0, 1, 2, 3, 4, 5, 6, 7);
}
template <class T>
inline H<T> imag(V<T> a) {
  return __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
}
template <class T>
inline V<T> deinterleaved(V<T> a) {
  return __builtin_shufflevector(a, a, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
}
template <class T>
inline V<T> interleaved(V<T> a) {
  return __builtin_shufflevector(a, a, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
}

// sign * i * a is swapped(a) * imaginary_unit(sign).
template <class T>
inline V<T> imaginary_unit(int sign) {
  T s = static_cast<T>(sign);
  return V<T>{-s, -s, -s, -s, -s, -s, -s, -s, s, s, s, s, s, s, s, s};
}

template <class T>
inline V<T> load(const T* p) {
  V<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, V<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// `count` <= 8 interleaved complex numbers, zeros behind them, and back.
template <class T>
inline V<T> load_complex(const T* p, ptrdiff_t count) {
  if (count >= 8) return deinterleaved<T>(load<T>(p));
  T partial[16] = {};
  for (ptrdiff_t i = 0; i < 2 * count; ++i) partial[i] = p[i];
  return deinterleaved<T>(load<T>(partial));
}
template <class T>
inline void store_complex(T* p, V<T> v, ptrdiff_t count) {
  v = interleaved<T>(v);
  if (count >= 8) return store<T>(p, v);
  for (ptrdiff_t i = 0; i < 2 * count; ++i) p[i] = v[i];
}

template <class T>
inline void transpose_half(H<T>* a) {
  for (int i = 0; i < 4; ++i) {
    H<T> x = a[i], y = a[i + 4];
    a[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11);
    a[i + 4] = __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int j = 0; j < 8; j += 4)
    for (int i = j; i < j + 2; ++i) {
      H<T> x = a[i], y = a[i + 2];
      a[i] = __builtin_shufflevector(x, y, 0, 1, 8, 9, 4, 5, 12, 13);
      a[i + 2] = __builtin_shufflevector(x, y, 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 8; i += 2) {
    H<T> x = a[i], y = a[i + 1];
    a[i] = __builtin_shufflevector(x, y, 0, 8, 2, 10, 4, 12, 6, 14);
    a[i + 1] = __builtin_shufflevector(x, y, 1, 9, 3, 11, 5, 13, 7, 15);
  }
}

// Lane l of a[i] becomes lane i of a[l].
template <class T>
inline void transpose(V<T>* a) {
  H<T> re[8], im[8];
  for (int i = 0; i < 8; ++i) re[i] = real<T>(a[i]), im[i] = imag<T>(a[i]);
  transpose_half<T>(re);
  transpose_half<T>(im);
  for (int i = 0; i < 8; ++i) a[i] = joined<T>(re[i], im[i]);
}

template <class T>
inline T sum(H<T> a) {
  return ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]));
}

}  // namespace fedrecon
