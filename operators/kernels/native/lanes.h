// Vectors of eight numbers, and of eight complex numbers: real parts in lanes 0-7, imaginary parts in lanes 8-15.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "registers.h"

namespace fedrecon {

// Several registers are copied one by one: compilers would copy a struct in smaller pieces, which the processor cannot
// read as a whole at once.
template <class T, int lanes, int count>
struct Registers {
  typedef T Register __attribute__((vector_size(lanes * sizeof(T))));
  Register part[count];

  Registers() = default;
  Registers(const Registers& other) { *this = other; }
  Registers& operator=(const Registers& other) {
    copy(other, std::make_index_sequence<count>());
    return *this;
  }

 private:
  template <size_t... I>
  void copy(const Registers& other, std::index_sequence<I...>) {
    ((part[I] = other.part[I]), ...);
  }
};
template <class T, int lanes>
struct Registers<T, lanes, 1> {
  typedef T Register __attribute__((vector_size(lanes * sizeof(T))));
  Register part[1];
};

template <class T, int N>
constexpr int lanes_of = std::min<int>(N, register_bytes / sizeof(T));

// N lanes in as many registers as that takes, for compilers keep a vector wider than a register in memory.
template <class T, int N>
struct Pack : Registers<T, lanes_of<T, N>, N / lanes_of<T, N>> {
  static constexpr int lanes = lanes_of<T, N>, count = N / lanes;
  using typename Registers<T, lanes, count>::Register;
  using Registers<T, lanes, count>::part;

  Pack() = default;
  explicit Pack(Register only) { part[0] = only; }

  T operator[](int i) const { return part[i / lanes][i % lanes]; }

  // The pack of f(0), f(1), ...; a loop would not be sure to end in registers.
  template <class F>
  static Pack of(F&& f) {
    return of(f, std::make_index_sequence<count>());
  }
  template <class F, size_t... I>
  static Pack of(F&& f, std::index_sequence<I...>) {
    Pack result;
    ((result.part[I] = f(static_cast<int>(I))), ...);
    return result;
  }

  // clang-format off: it would separate ## from =.
#define FEDRECON_OPERATOR(op)                                                                               \
  friend Pack operator op(const Pack& a, const Pack& b) {                                                   \
    return of([&](int i) { return a.part[i] op b.part[i]; });                                               \
  }                                                                                                         \
  friend Pack operator op(const Pack& a, T b) { return of([&](int i) { return a.part[i] op b; }); }          \
  friend Pack operator op(T a, const Pack& b) { return of([&](int i) { return a op b.part[i]; }); }          \
  Pack& operator op##=(const Pack& b) { return *this = *this op b; }                                        \
  Pack& operator op##=(T b) { return *this = *this op b; }
  // clang-format on
  FEDRECON_OPERATOR(+)
  FEDRECON_OPERATOR(-)
  FEDRECON_OPERATOR(*)
#undef FEDRECON_OPERATOR
};

template <class T>
using ComplexLanes = Pack<T, 16>;
template <class T>
using RealLanes = Pack<T, 8>;

// `count` lanes of two registers, the second's counted on from the first's: those that Map::lane says.
template <class Map, class Register, size_t... L>
inline auto shuffled(Register a, Register b, std::index_sequence<L...>) {
  return __builtin_shufflevector(a, b, Map::lane(static_cast<int>(L))...);
}
template <class Map, int count, class Register>
inline auto shuffled(Register a, Register b) {
  return shuffled<Map>(a, b, std::make_index_sequence<count>());
}

template <int first, int step>
struct From {
  static constexpr int lane(int l) { return first + step * l; }
};
// Even lanes, then odd ones.
template <int count>
struct Parted {
  static constexpr int lane(int l) { return l < count / 2 ? 2 * l : 2 * l - count + 1; }
};
template <int count>
struct Swapped {
  static constexpr int lane(int l) { return (l + count / 2) % count; }
};
// Lanes first, first + 1, ... of each of two halves of `count` lanes in turn.
template <int count, int first>
struct InTurn {
  static constexpr int lane(int l) { return l % 2 * (count / 2) + first + l / 2; }
};
// Groups of lanes, of every two the first (or the second) of either register in turn.
template <int count, int group, int second>
struct Groups {
  static constexpr int lane(int l) {
    const int within = l % (2 * group), begin = l - within + second * group;
    return within < group ? begin + within : count + begin + within - group;
  }
};

template <class T>
inline ComplexLanes<T> joined(const RealLanes<T>& re, const RealLanes<T>& im) {
  if constexpr (ComplexLanes<T>::count == 1)
    return ComplexLanes<T>(shuffled<From<0, 1>, 16>(re.part[0], im.part[0]));
  else
    return ComplexLanes<T>::of(
        [&](int i) { return i < RealLanes<T>::count ? re.part[i] : im.part[i - RealLanes<T>::count]; });
}
template <class T>
inline RealLanes<T> real(const ComplexLanes<T>& a) {
  if constexpr (ComplexLanes<T>::count == 1)
    return RealLanes<T>(shuffled<From<0, 1>, 8>(a.part[0], a.part[0]));
  else
    return RealLanes<T>::of([&](int i) { return a.part[i]; });
}
template <class T>
inline RealLanes<T> imag(const ComplexLanes<T>& a) {
  if constexpr (ComplexLanes<T>::count == 1)
    return RealLanes<T>(shuffled<From<8, 1>, 8>(a.part[0], a.part[0]));
  else
    return RealLanes<T>::of([&](int i) { return a.part[i + RealLanes<T>::count]; });
}
template <class T>
inline ComplexLanes<T> swapped(const ComplexLanes<T>& a) {
  if constexpr (ComplexLanes<T>::count == 1)
    return ComplexLanes<T>(shuffled<Swapped<16>, 16>(a.part[0], a.part[0]));
  else
    return joined<T>(imag<T>(a), real<T>(a));
}

// From pairs of a real and an imaginary part to lanes, and back.
template <class T>
inline ComplexLanes<T> deinterleaved(const ComplexLanes<T>& a) {
  constexpr int lanes = ComplexLanes<T>::lanes, half = RealLanes<T>::count;
  if constexpr (ComplexLanes<T>::count == 1)
    return ComplexLanes<T>(shuffled<Parted<16>, 16>(a.part[0], a.part[0]));
  else
    return ComplexLanes<T>::of([&](int i) {
      const auto &x = a.part[i % half * 2], &y = a.part[i % half * 2 + 1];
      return i < half ? shuffled<From<0, 2>, lanes>(x, y) : shuffled<From<1, 2>, lanes>(x, y);
    });
}
template <class T>
inline ComplexLanes<T> interleaved(const ComplexLanes<T>& a) {
  constexpr int lanes = ComplexLanes<T>::lanes, half = RealLanes<T>::count;
  if constexpr (ComplexLanes<T>::count == 1)
    return ComplexLanes<T>(shuffled<InTurn<16, 0>, 16>(a.part[0], a.part[0]));
  else
    return ComplexLanes<T>::of([&](int i) {
      const auto &x = a.part[i / 2], &y = a.part[i / 2 + half];
      return i % 2 ? shuffled<InTurn<2 * lanes, lanes / 2>, lanes>(x, y) : shuffled<InTurn<2 * lanes, 0>, lanes>(x, y);
    });
}

// sign * i * a is swapped(a) * imaginary_unit(sign).
template <class T>
inline ComplexLanes<T> imaginary_unit(int sign) {
  const T s = static_cast<T>(sign);
  return joined<T>(RealLanes<T>{} - s, RealLanes<T>{} + s);
}

template <class T>
inline ComplexLanes<T> load(const T* p) {
  return ComplexLanes<T>::of([&](int i) {
    typename ComplexLanes<T>::Register r;
    std::memcpy(&r, p + i * ComplexLanes<T>::lanes, sizeof r);
    return r;
  });
}
template <class T>
inline void store(T* p, const ComplexLanes<T>& v) {
  for (int i = 0; i < ComplexLanes<T>::count; ++i)
    std::memcpy(p + i * ComplexLanes<T>::lanes, &v.part[i], sizeof v.part[i]);
}

// `count` <= 8 interleaved complex numbers, zeros behind them, and back.
template <class T>
inline ComplexLanes<T> load_complex(const T* p, ptrdiff_t count) {
  if (count >= 8) return deinterleaved<T>(load<T>(p));
  T partial[16] = {};
  for (ptrdiff_t i = 0; i < 2 * count; ++i) partial[i] = p[i];
  return deinterleaved<T>(load<T>(partial));
}
template <class T>
inline void store_complex(T* p, const ComplexLanes<T>& v, ptrdiff_t count) {
  const ComplexLanes<T> pairs = interleaved<T>(v);
  if (count >= 8) return store<T>(p, pairs);
  T partial[16];
  store<T>(partial, pairs);
  for (ptrdiff_t i = 0; i < 2 * count; ++i) p[i] = partial[i];
}

// Of every two groups of `group` lanes the first (or the second) of x and of y in turn.
template <class T, int group, int second>
inline RealLanes<T> in_turn(const RealLanes<T>& x, const RealLanes<T>& y) {
  constexpr int lanes = RealLanes<T>::lanes;
  return RealLanes<T>::of([&](int i) {
    if constexpr (group < lanes) {
      return shuffled<Groups<lanes, group, second>, lanes>(x.part[i], y.part[i]);
    } else {
      constexpr int parts = group / lanes;
      const int within = i % (2 * parts), begin = i - within + second * parts;
      return within < parts ? x.part[begin + within] : y.part[begin + within - parts];
    }
  });
}

template <class T, int group>
inline void transpose_groups(RealLanes<T>* a) {
  for (int j = 0; j < 8; j += 2 * group)
    for (int i = j; i < j + group; ++i) {
      const RealLanes<T> x = a[i], y = a[i + group];
      a[i] = in_turn<T, group, 0>(x, y);
      a[i + group] = in_turn<T, group, 1>(x, y);
    }
}

// The first (or the second) two lanes of every four of x and of y in turn: what registers of any size do at once,
// in_turn of single floats not.
template <int count, int second>
struct Zipped {
  static constexpr int lane(int l) { return l % 2 * count + l - l % 4 + 2 * second + l % 4 / 2; }
};
template <int second>
inline RealLanes<float> zipped(const RealLanes<float>& x, const RealLanes<float>& y) {
  constexpr int lanes = RealLanes<float>::lanes;
  return RealLanes<float>::of([&](int i) { return shuffled<Zipped<lanes, second>, lanes>(x.part[i], y.part[i]); });
}

// Lane l of a[i] becomes lane i of a[l].
template <class T>
inline void transpose_half(RealLanes<T>* a) {
  transpose_groups<T, 4>(a);
  transpose_groups<T, 2>(a);
  transpose_groups<T, 1>(a);
}
template <>
inline void transpose_half<float>(RealLanes<float>* a) {
  for (int i = 0; i < 8; i += 4) {
    const RealLanes<float> b[4] = {zipped<0>(a[i], a[i + 1]), zipped<0>(a[i + 2], a[i + 3]), zipped<1>(a[i], a[i + 1]),
                                   zipped<1>(a[i + 2], a[i + 3])};
    for (int j = 0; j < 4; j += 2) {
      a[i + j] = in_turn<float, 2, 0>(b[j], b[j + 1]);
      a[i + j + 1] = in_turn<float, 2, 1>(b[j], b[j + 1]);
    }
  }
  transpose_groups<float, 4>(a);
}
template <class T>
inline void transpose(ComplexLanes<T>* a) {
  RealLanes<T> re[8], im[8];
  for (int i = 0; i < 8; ++i) re[i] = real<T>(a[i]), im[i] = imag<T>(a[i]);
  transpose_half<T>(re);
  transpose_half<T>(im);
  for (int i = 0; i < 8; ++i) a[i] = joined<T>(re[i], im[i]);
}

// The sum of eight interleaved complex numbers.
template <class T>
inline void sum_pairs(const ComplexLanes<T>& a, T* out) {
  const RealLanes<T> eight = real<T>(a) + imag<T>(a), four = eight + in_turn<T, 4, 1>(eight, eight);
  const RealLanes<T> two = four + in_turn<T, 2, 1>(four, four);
  out[0] = two[0];
  out[1] = two[1];
}

// The same for eight of half the length: their sums one after the other.
template <class T>
inline ComplexLanes<T> sums_of_pairs(const RealLanes<T>* a) {
  RealLanes<T> sums[2];
  for (int i = 0; i < 2; ++i) {
    const RealLanes<T>* of = a + 4 * i;
    const RealLanes<T> even = in_turn<T, 4, 0>(of[0], of[2]) + in_turn<T, 4, 1>(of[0], of[2]);
    const RealLanes<T> odd = in_turn<T, 4, 0>(of[1], of[3]) + in_turn<T, 4, 1>(of[1], of[3]);
    sums[i] = in_turn<T, 2, 0>(even, odd) + in_turn<T, 2, 1>(even, odd);
  }
  return joined<T>(sums[0], sums[1]);
}

}  // namespace fedrecon
