// Fast Fourier transforms of lines of eight-lane cells: Stockham autosort, radices 4, 2, 3, 5.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "lanes.h"

namespace fedrecon {

template <class T>
struct Stage {
  int radix, groups, stride;  // groups = remaining length / radix
  std::vector<T> twiddles;    // (groups, radix - 1) pairs of cosine and sine
};

template <class T>
struct Fft {
  int length;
  std::vector<Stage<T>> stages;

  explicit Fft(int n) : length(n) {
    int stride = 1;
    for (int rest = n; rest > 1;) {
      int radix = rest % 4 == 0 ? 4 : rest % 2 == 0 ? 2 : rest % 3 == 0 ? 3 : 5;
      if (rest % radix) throw std::invalid_argument("grid size is not 5-smooth");
      Stage<T> stage{radix, rest / radix, stride, {}};
      for (int p = 0; p < stage.groups; ++p)
        for (int k = 1; k < radix; ++k) {
          double angle = 2 * M_PI * p * k / rest;
          stage.twiddles.push_back(static_cast<T>(std::cos(angle)));
          stage.twiddles.push_back(static_cast<T>(std::sin(angle)));
        }
      stages.push_back(std::move(stage));
      rest /= radix;
      stride *= radix;
    }
  }

  // Plans are few and live as long as the process.
  static const Fft& of(int n) {
    static std::mutex mutex;
    static std::map<int, std::unique_ptr<Fft>> plans;
    std::lock_guard<std::mutex> lock(mutex);
    auto& plan = plans[n];
    if (!plan) plan = std::make_unique<Fft>(n);
    return *plan;
  }
};

template <class T, int R>
inline void butterfly(ComplexLanes<T>* a, ComplexLanes<T> unit);

#define FEDRECON_BUTTERFLIES(T)                                                                           \
  template <>                                                                                             \
  __attribute__((always_inline)) inline void butterfly<T, 2>(ComplexLanes<T> * a, ComplexLanes<T>) {      \
    ComplexLanes<T> x = a[0];                                                                             \
    a[0] = x + a[1];                                                                                      \
    a[1] = x - a[1];                                                                                      \
  }                                                                                                       \
  template <>                                                                                             \
  __attribute__((always_inline)) inline void butterfly<T, 3>(ComplexLanes<T> * a, ComplexLanes<T> unit) { \
    const T sine = static_cast<T>(0.86602540378443864676);                                                \
    ComplexLanes<T> sum = a[1] + a[2], turned = swapped<T>(a[1] - a[2]) * (unit * sine);                  \
    ComplexLanes<T> rest = a[0] - sum * static_cast<T>(0.5);                                              \
    a[0] = a[0] + sum;                                                                                    \
    a[1] = rest + turned;                                                                                 \
    a[2] = rest - turned;                                                                                 \
  }                                                                                                       \
  template <>                                                                                             \
  __attribute__((always_inline)) inline void butterfly<T, 4>(ComplexLanes<T> * a, ComplexLanes<T> unit) { \
    ComplexLanes<T> even = a[0] + a[2], odd = a[0] - a[2];                                                \
    ComplexLanes<T> sum = a[1] + a[3], turned = swapped<T>(a[1] - a[3]);                                  \
    a[0] = even + sum;                                                                                    \
    a[1] = odd + turned * unit;                                                                           \
    a[2] = even - sum;                                                                                    \
    a[3] = odd - turned * unit;                                                                           \
  }                                                                                                       \
  template <>                                                                                             \
  __attribute__((always_inline)) inline void butterfly<T, 5>(ComplexLanes<T> * a, ComplexLanes<T> unit) { \
    const T c1 = static_cast<T>(0.30901699437494742410);                                                  \
    const T c2 = static_cast<T>(-0.80901699437494742410);                                                 \
    const T s1 = static_cast<T>(0.95105651629515357212);                                                  \
    const T s2 = static_cast<T>(0.58778525229247312917);                                                  \
    ComplexLanes<T> p = a[1] + a[4], q = a[2] + a[3], r = a[1] - a[4], s = a[2] - a[3];                   \
    ComplexLanes<T> first = a[0] + p * c1 + q * c2, second = a[0] + p * c2 + q * c1;                      \
    ComplexLanes<T> u = swapped<T>(r * s1 + s * s2), v = swapped<T>(r * s2 - s * s1);                     \
    a[0] = a[0] + p + q;                                                                                  \
    a[1] = first + u * unit;                                                                              \
    a[4] = first - u * unit;                                                                              \
    a[2] = second + v * unit;                                                                             \
    a[3] = second - v * unit;                                                                             \
  }
FEDRECON_BUTTERFLIES(float)
FEDRECON_BUTTERFLIES(double)
#undef FEDRECON_BUTTERFLIES

template <class T, int R, class Load, class Store>
inline void pass(const Stage<T>& stage, ComplexLanes<T> unit, Load&& in, Store&& out) {
  const int groups = stage.groups, stride = stage.stride;
  const T* twiddle = stage.twiddles.data();
  ComplexLanes<T> a[R];
  for (int q = 0; q < stride; ++q) {
    for (int i = 0; i < R; ++i) a[i] = in(q + stride * groups * i);
    butterfly<T, R>(a, unit);
    for (int k = 0; k < R; ++k) out(q + stride * k, a[k]);
  }
  for (int p = 1; p < groups; ++p) {
    ComplexLanes<T> sines[R - 1];
    T cosines[R - 1];
    for (int k = 0; k < R - 1; ++k) {
      cosines[k] = twiddle[2 * (p * (R - 1) + k)];
      sines[k] = unit * twiddle[2 * (p * (R - 1) + k) + 1];
    }
    for (int q = 0; q < stride; ++q) {
      for (int i = 0; i < R; ++i) a[i] = in(q + stride * (p + groups * i));
      butterfly<T, R>(a, unit);
      out(q + stride * R * p, a[0]);
      for (int k = 1; k < R; ++k)
        out(q + stride * (R * p + k), a[k] * cosines[k - 1] + swapped<T>(a[k]) * sines[k - 1]);
    }
  }
}

template <class T, class Load, class Store>
inline void run_stage(const Stage<T>& stage, ComplexLanes<T> unit, Load&& in, Store&& out) {
  switch (stage.radix) {
    case 2: return pass<T, 2>(stage, unit, in, out);
    case 3: return pass<T, 3>(stage, unit, in, out);
    case 4: return pass<T, 4>(stage, unit, in, out);
    default: return pass<T, 5>(stage, unit, in, out);
  }
}

template <class T>
struct Read {
  const ComplexLanes<T>* from;
  ComplexLanes<T> operator()(int j) const { return from[j]; }
};
template <class T>
struct Write {
  ComplexLanes<T>* to;
  void operator()(int j, ComplexLanes<T> v) const { to[j] = v; }
};

// Compiled once, not for every pair of ends of a transform.
template <class T>
__attribute__((noinline)) void run_between(const Stage<T>& stage, ComplexLanes<T> unit, const ComplexLanes<T>* from,
                                           ComplexLanes<T>* to) {
  run_stage(stage, unit, Read<T>{from}, Write<T>{to});
}

// out(k, sum_j in(j) exp(sign 2 pi i j k / n)); `work` holds twice the length.
template <class T, class Load, class Store>
inline void transform(const Fft<T>& plan, int sign, ComplexLanes<T>* work, Load&& in, Store&& out) {
  const ComplexLanes<T> unit = imaginary_unit<T>(sign);
  ComplexLanes<T>*from = work, *to = work + plan.length;
  const int last = static_cast<int>(plan.stages.size()) - 1;
  if (last < 0) return out(0, in(0));
  run_stage(plan.stages[0], unit, in, Write<T>{to});
  for (int i = 1; i < last; ++i) {
    std::swap(from, to);
    run_between(plan.stages[i], unit, from, to);
  }
  if (last > 0) {
    std::swap(from, to);
    run_stage(plan.stages[last], unit, Read<T>{from}, out);
  } else {
    for (int k = 0; k < plan.length; ++k) out(k, to[k]);
  }
}

}  // namespace fedrecon
