"""Vectors of the native kernels, for registers of every size."""

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "operators" / "kernels" / "native"
CHECKS = r"""
#include <cstdio>
#include "lanes.h"
using namespace fedrecon;

int failures = 0;
template <class P, class F>
void check(const char* what, const P& found, int count, F&& expected) {
  for (int l = 0; l < count; ++l)
    if (found[l] != expected(l)) ++failures, std::printf("%s, lane %d: %g\n", what, l, double(found[l]));
}

template <class T>
void check_all() {
  T numbers[16];
  for (int i = 0; i < 16; ++i) numbers[i] = i;
  const ComplexLanes<T> a = load<T>(numbers);
  static_assert(sizeof(ComplexLanes<T>) == 16 * sizeof(T));
  static_assert(sizeof(typename ComplexLanes<T>::Register) <= register_bytes);
  check("real", real<T>(a), 8, [](int l) { return l; });
  check("imag", imag<T>(a), 8, [](int l) { return l + 8; });
  check("joined", joined<T>(imag<T>(a), real<T>(a)), 16, [](int l) { return (l + 8) % 16; });
  check("swapped", swapped<T>(a), 16, [](int l) { return (l + 8) % 16; });
  check("interleaved", interleaved<T>(a), 16, [](int l) { return l % 2 * 8 + l / 2; });
  check("deinterleaved", deinterleaved<T>(a), 16, [](int l) { return l < 8 ? 2 * l : 2 * l - 15; });
  check("unit", swapped<T>(a) * imaginary_unit<T>(-1), 16, [](int l) { return l < 8 ? l + 8 : 8 - l; });
  ComplexLanes<T> twice = a;
  twice += a;
  check("arithmetic", T(2) * a - a * T(0.5) + twice, 16, [](int l) { return 3.5 * l; });
  ComplexLanes<T> square[8];
  for (int i = 0; i < 8; ++i) square[i] = a + T(100 * i);
  transpose<T>(square);
  for (int i = 0; i < 8; ++i)
    check("transposed", square[i], 16, [&](int l) { return i + l / 8 * 8 + 100 * (l % 8); });
  T sums[2], parts[16] = {-1, -1, -1, -1, -1, -1, -1};
  sum_pairs<T>(load<T>(numbers), sums);
  check("sums", sums, 2, [](int part) { return 56 + 8 * part; });
  check("complex", load_complex<T>(numbers, 3), 16, [](int l) { return l % 8 < 3 ? l % 8 * 2 + l / 8 : 0; });
  store_complex<T>(parts, load_complex<T>(numbers, 8), 3);
  for (int i = 0; i < 7; ++i) failures += parts[i] != (i < 6 ? i : -1);
}

int main() {
  check_all<float>();
  check_all<double>();
  return failures > 0;
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("register_bytes", [16, 32, 64])
def test_lanes_do_not_depend_on_the_size_of_registers(register_bytes, tmp_path):
    (tmp_path / "checks.cc").write_text(CHECKS)
    program = tmp_path / "checks"
    flags = ["-std=c++17", "-O1", "-w", "-Wno-psabi", f"-DFEDRECON_REGISTER_BYTES={register_bytes}"]
    command = ["c++", *flags, f"-I{NATIVE}", str(tmp_path / "checks.cc"), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
