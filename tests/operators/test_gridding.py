"""Gridding of the native kernels against sums over the cells, for registers of every size."""

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "operators" / "kernels" / "native"
CHECKS = r"""
#include <cmath>
#include <cstdio>
#include <random>
#include "gridding.h"
using namespace fedrecon;

int failures = 0;
void check(const char* what, int ndim, int width, double found, double expected) {
  if (!(std::abs(found - expected) < 1e-4)) {
    ++failures;
    std::printf("%s, %d axes, width %d: found %g, expected %g\n", what, ndim, width, found, expected);
  }
}

std::mt19937 random_bits(0);
double drawn() { return std::uniform_real_distribution<double>(-1, 1)(random_bits); }

// Taps of a linear kernel, and the cells that they fall on.
struct Axis {
  int cells[16] = {};
  double weights[16] = {1};
  Axis(double k, int n, int width, const double* kernel) {
    const double position = k * n, begin = std::floor(position - width / 2.) + 1;
    const double u = 2 * (begin - (position - width / 2.)) - 1;
    for (int t = 0; t < width; ++t) {
      cells[t] = ((static_cast<int>(begin) + t) % n + n) % n;
      weights[t] = kernel[t] + kernel[width + t] * u;
    }
  }
  Axis() {}
};

template <class T>
void check_gridding(int ndim, int width, bool planes) {
  const int samples = 61, lanes = planes ? 3 : 1;
  const int cells[3] = {ndim > 2 ? 41 : 1, ndim > 1 ? 11 : 1, 21};
  double kernel[32];
  for (int i = 0; i < 2 * width; ++i) kernel[i] = drawn();
  Geometry<T> g;
  g.ndim = ndim, g.width = width, g.degree = 1;
  for (int axis = 3 - ndim; axis < 3; ++axis) g.cells[axis] = cells[axis], g.taps[axis] = width;
  for (int p = 0; p < 2; ++p) {
    T lane[16] = {};
    for (int t = 0; t < width; ++t) lane[t] = kernel[p * width + t];
    g.coefficients[p] = load<T>(lane);
    const RealLanes<T> first = real<T>(g.coefficients[p]);
    g.paired[p] = interleaved<T>(joined<T>(first, first));
  }
  Grid<T> grid(g, planes);
  Scratch memory(grid.bytes());
  grid.data = memory.as<ComplexLanes<T>>();
  T* numbers = memory.as<T>();
  // What no sample may read or keep: the unused lanes of a row.
  for (size_t i = 0; i < grid.bytes() / sizeof(T); ++i) numbers[i] = 1e6;
  auto number = [&](int z, int y, int x, int lane, int part) -> T& {
    ComplexLanes<T>* line = grid.at(z, y);
    return planes ? reinterpret_cast<T*>(line + x)[8 * part + lane] : grid.cell(line, x)[8 * part];
  };
  std::vector<double> values(cells[0] * cells[1] * cells[2] * lanes * 2);
  auto value = [&](int z, int y, int x, int lane, int part) -> double& {
    return values[(((z * cells[1] + y) * cells[2] + x) * lanes + lane) * 2 + part];
  };
  auto each = [&](auto&& f) {
    for (int z = 0; z < cells[0]; ++z)
      for (int y = 0; y < cells[1]; ++y)
        for (int x = 0; x < cells[2]; ++x)
          for (int lane = 0; lane < lanes; ++lane)
            for (int part = 0; part < 2; ++part) f(z, y, x, lane, part);
  };
  each([&](auto... at) { number(at...) = value(at...) = drawn(); });
  std::vector<T> points(samples * ndim);
  for (T& k : points) k = drawn() / 2;
  auto axis_of = [&](int m, int axis) {
    const int a = axis - (3 - ndim);
    return a < 0 ? Axis() : Axis(points[m * ndim + a], cells[axis], width, kernel);
  };
  // f(weight, z, y, x) for the cells of a sample.
  auto footprint = [&](int m, auto&& f) {
    const Axis z = axis_of(m, 0), y = axis_of(m, 1), x = axis_of(m, 2);
    for (int i = 0; i < g.taps[0]; ++i)
      for (int j = 0; j < g.taps[1]; ++j)
        for (int k = 0; k < width; ++k)
          f(z.weights[i] * y.weights[j] * x.weights[k], z.cells[i], y.cells[j], x.cells[k]);
  };

  // Two threads in name: samples are spread in bands, one after the other.
  const Workers workers(2, [](std::function<void()> task) { task(); });
  for (int64_t row = 0; row < grid.rows(); ++row) {
    grid.repeat(grid.data + row * grid.row);
    if (!planes) grid.interleave(grid.data + row * grid.row);
  }
  const Sorted<T> order(workers, g, points.data(), samples);
  for (const Sorted<T>* sorted : {static_cast<const Sorted<T>*>(nullptr), &order}) {
    std::vector<T> out(lanes * samples * 2 + 16);
    T* rows[8] = {};
    for (int lane = 0; lane < lanes; ++lane) rows[lane] = out.data() + lane * samples * 2;
    interpolate<T>(workers, grid, points.data(), samples, sorted, rows);
    for (int m = 0; m < samples; ++m)
      for (int lane = 0; lane < lanes; ++lane)
        for (int part = 0; part < 2; ++part) {
          double sum = 0;
          footprint(m, [&](double w, int z, int y, int x) { sum += w * value(z, y, x, lane, part); });
          check("gathered", ndim, width, rows[lane][2 * (sorted ? order.rank[m] : m) + part], sum);
        }
  }

  std::vector<T> in(samples * (planes ? 16 : 2));
  std::fill(values.begin(), values.end(), 0);
  for (int m = 0; m < samples; ++m)
    for (int lane = 0; lane < lanes; ++lane)
      for (int part = 0; part < 2; ++part) {
        const double v = drawn();
        in[order.rank[m] * (planes ? 16 : 2) + (planes ? 8 * part + lane : part)] = v;
        footprint(m, [&](double w, int z, int y, int x) { value(z, y, x, lane, part) += w * v; });
      }
  spread<T>(workers, grid, order, in.data());
  for (int64_t row = 0; row < grid.rows(); ++row) {
    if (!planes) grid.separate(grid.data + row * grid.row);
    grid.fold(grid.data + row * grid.row);
  }
  each([&](auto... at) { check("spread", ndim, width, number(at...), value(at...)); });
}

int main() {
  // Widths with a kernel of their own, and those below and above.
  for (int width : WIDTHS)
    for (int ndim = 1; ndim <= 3; ++ndim)
      for (bool planes : {false, true}) check_gridding<TYPE>(ndim, width, planes);
  return failures > 0;
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("register_bytes", "dtype"),
    [
        (32, "float"),
        pytest.param(16, "float", marks=pytest.mark.slow),
        pytest.param(64, "float", marks=pytest.mark.nightly),
        pytest.param(16, "double", marks=pytest.mark.nightly),
        pytest.param(64, "double", marks=pytest.mark.slow),
    ],
)
def test_samples_are_gathered_and_spread_as_sums_over_cells(register_bytes, dtype, tmp_path):
    (tmp_path / "checks.cc").write_text(CHECKS)
    program = tmp_path / "checks"
    flags = ["-std=c++17", "-O1", "-w", "-Wno-psabi", f"-DFEDRECON_REGISTER_BYTES={register_bytes}"]
    flags += [f"-DTYPE={dtype}", "-DWIDTHS={3,4,5,6,7,8,9}"]
    command = ["c++", *flags, f"-I{NATIVE}", str(tmp_path / "checks.cc"), "-o", str(program), "-pthread"]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[:2000] + done.stderr
