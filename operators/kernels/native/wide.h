// Vectors as wide as the machine's registers, and entries of tables at vectors of indices.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "registers.h"

namespace fedrecon {

template <class T>
struct WideTypes {
  static constexpr int lanes = register_bytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(register_bytes)));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Integer;
  typedef Integer Index __attribute__((vector_size(register_bytes)));
};
template <class T>
using Wide = typename WideTypes<T>::Vector;
template <class T>
using WideIndex = typename WideTypes<T>::Index;
template <class T>
constexpr int wide = WideTypes<T>::lanes;

template <class T>
inline Wide<T> load_wide(const T* p) {
  Wide<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store_wide(T* p, Wide<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
inline Wide<T> iota() {
  Wide<T> v;
  for (int l = 0; l < wide<T>; ++l) v[l] = l;
  return v;
}

// Entries `index` of the 2 * wide numbers in a and b, where `in_registers` says that this is fast.
#if defined(__AVX512F__)
template <class T>
constexpr bool in_registers = true;
inline Wide<float> look_up(Wide<float> a, Wide<float> b, WideIndex<float> index) {
  return (Wide<float>)_mm512_permutex2var_ps((__m512)a, (__m512i)index, (__m512)b);
}
inline Wide<double> look_up(Wide<double> a, Wide<double> b, WideIndex<double> index) {
  return (Wide<double>)_mm512_permutex2var_pd((__m512d)a, (__m512i)index, (__m512d)b);
}
#elif defined(__AVX2__)
template <class T>
constexpr bool in_registers = sizeof(T) == 4;
inline Wide<float> look_up(Wide<float> a, Wide<float> b, WideIndex<float> index) {
  const __m256i i = (__m256i)index;
  const __m256 low = _mm256_permutevar8x32_ps((__m256)a, i), high = _mm256_permutevar8x32_ps((__m256)b, i);
  // The bit that is worth 8 decides, from the place of the sign.
  return (Wide<float>)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
inline Wide<double> look_up(Wide<double> a, Wide<double>, WideIndex<double>) { return a; }
#else
template <class T>
constexpr bool in_registers = false;
template <class Numbers, class Index>
inline Numbers look_up(Numbers a, Numbers, Index) {
  return a;
}
#endif

// Elements of p at indices.
template <class T>
inline Wide<T> gathered(const T* p, WideIndex<T> index) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Wide<T>)_mm256_i32gather_ps((const float*)p, (__m256i)index, 4);
  if constexpr (sizeof(T) == 8) return (Wide<T>)_mm256_i64gather_pd((const double*)p, (__m256i)index, 8);
#endif
  Wide<T> v;
  for (int l = 0; l < wide<T>; ++l) v[l] = p[index[l]];
  return v;
}

// The same; `near` promises that indices are in 0 ... 2 * wide - 1, and that so much may be read.
template <class T>
inline Wide<T> lookup(const T* p, WideIndex<T> index, bool near) {
  return in_registers<T> && near ? look_up(load_wide(p), load_wide(p + wide<T>), index) : gathered(p, index);
}

}  // namespace fedrecon
