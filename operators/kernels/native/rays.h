// Projection along single rays of detectors of any pose, interpolating in planes across each ray's main axis.
#pragma once

#include "volume.h"

namespace fedrecon {

template <class T>
struct Rays {
  const VolumeSizes s;
  const bool diverging;
  // By axes x, y, z: voxels, and elements from one to the next in the stored volume, with a margin of zeros.
  const int64_t size[3], stride[3];

  Rays(const VolumeSizes& s, bool diverging)
      : s(s), diverging(diverging), size{s.nx, s.ny, s.nz}, stride{1, s.nx + 2, (s.nx + 2) * (s.ny + 2)} {}

  int64_t stored() const { return (s.nz + 2) * stride[2]; }

  struct Ray {
    int axis, u, v;       // main axis and the others
    T base[2], slope[2];  // position along u and v on plane 0, in entries of the stored volume, and per plane
    T length;             // path from plane to plane
    int64_t from, to;     // planes on which it may meet the volume
  };

  // Never inlined: both directions must round alike.
  __attribute__((noinline)) Ray ray(const T* table, int64_t view, int64_t row, int64_t column) const {
    const T *source = table + 12 * view, *detector = source + 3, *across = source + 6, *up = source + 9;
    const double i = row - 0.5 * (s.rows - 1), j = column - 0.5 * (s.columns - 1);
    double point[3], direction[3];
    for (int a = 0; a < 3; ++a) {
      const double element = detector[a] + j * across[a] + i * up[a];
      point[a] = diverging ? source[a] : element;
      direction[a] = diverging ? element - source[a] : source[a];
    }
    Ray r;
    r.axis = 0;
    for (int a = 1; a < 3; ++a)
      if (std::abs(direction[a]) > std::abs(direction[r.axis])) r.axis = a;
    r.u = r.axis == 0 ? 1 : 0, r.v = r.axis == 2 ? 1 : 2;
    double square = 1, low = 0, high = size[r.axis] - 1;
    const double middle = 0.5 * high;
    for (int k = 0; k < 2; ++k) {
      const int a = k ? r.v : r.u;
      const double slope = direction[a] / direction[r.axis];
      const double base = point[a] - point[r.axis] * slope + 0.5 * (size[a] - 1) + 1 - middle * slope;
      r.base[k] = static_cast<T>(base), r.slope[k] = static_cast<T>(slope);
      square += slope * slope;
      // Planes with entries in 0 ... size + 1.
      if (std::abs(slope) > 1e-9) {
        const double one = -base / slope, other = (size[a] + 1 - base) / slope;
        low = std::max(low, std::min(one, other)), high = std::min(high, std::max(one, other));
      } else if (!(base > 0 && base < size[a] + 1)) {
        high = -1;
      }
    }
    r.length = static_cast<T>(s.pixel_size * std::sqrt(square));
    r.from = static_cast<int64_t>(std::ceil(low)), r.to = high < low ? r.from : static_cast<int64_t>(high) + 1;
    return r;
  }

  // The four voxels around the ray on a plane, the first by its place, and the fractions towards the others.
  struct Place {
    int64_t first;
    T u, v;
  };
  inline Place place(const Ray& r, int64_t plane) const {
    T fraction[2];
    int64_t entry[2];
    for (int k = 0; k < 2; ++k) {
      // Rounding may leave the margin.
      const int64_t n = size[k ? r.v : r.u];
      const T position = std::min(std::max(r.base[k] + r.slope[k] * plane, T(0)), T(n + 1));
      entry[k] = std::min(static_cast<int64_t>(position), n);
      fraction[k] = position - entry[k];
    }
    return {(plane + 1) * stride[r.axis] + entry[0] * stride[r.u] + entry[1] * stride[r.v], fraction[0], fraction[1]};
  }

  void project(const Workers& workers, const T* volume, const T* table, T* sinogram) const {
    Scratch memory(sizeof(T) * stored());
    T* padded_volume = memory.as<T>();
    workers.each(s.nz + 2, [&](int64_t z) {
      T* out = padded_volume + z * stride[2];
      std::fill(out, out + stride[2], T(0));
      if (z == 0 || z > s.nz) return;
      for (int64_t y = 0; y < s.ny; ++y)
        std::copy_n(volume + ((z - 1) * s.ny + y) * s.nx, s.nx, out + (y + 1) * stride[1] + 1);
    });
    workers.each(s.views * s.rows, [&](int64_t task) {
      const int64_t view = task / s.rows, row = task % s.rows;
      for (int64_t column = 0; column < s.columns; ++column) {
        const Ray r = ray(table, view, row, column);
        const int64_t du = stride[r.u], dv = stride[r.v];
        T total = 0;
        for (int64_t plane = r.from; plane < r.to; ++plane) {
          const Place at = place(r, plane);
          const T* p = padded_volume + at.first;
          const T one = p[0] + at.u * (p[du] - p[0]), other = p[dv] + at.u * (p[du + dv] - p[dv]);
          total += one + at.v * (other - one);
        }
        sinogram[task * s.columns + column] = total * r.length;
      }
    });
  }

  void back_project(const Workers& workers, const T* sinogram, const T* table, T* volume) const {
    Scratch memory(sizeof(T) * stored());
    T* sum = memory.as<T>();
    workers.each(s.nz + 2, [&](int64_t z) { std::fill_n(sum + z * stride[2], stride[2], T(0)); });
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t block = std::max<int64_t>(1, std::min<int64_t>(16, size[axis] / (2 * workers.count())));
      workers.each((size[axis] + block - 1) / block, [&](int64_t task) {
        const int64_t from = task * block, to = std::min(size[axis], from + block);
        for (int64_t view = 0; view < s.views; ++view)
          for (int64_t row = 0; row < s.rows; ++row)
            for (int64_t column = 0; column < s.columns; ++column) {
              const T value = sinogram[(view * s.rows + row) * s.columns + column];
              const Ray r = ray(table, view, row, column);
              if (r.axis != axis) continue;
              const int64_t du = stride[r.u], dv = stride[r.v];
              for (int64_t plane = std::max(from, r.from); plane < std::min(to, r.to); ++plane) {
                const Place at = place(r, plane);
                T* p = sum + at.first;
                const T all = value * r.length, right = all * at.v, left = all - right;
                p[0] += left - left * at.u, p[du] += left * at.u;
                p[dv] += right - right * at.u, p[du + dv] += right * at.u;
              }
            }
      });
    }
    workers.each(s.nz, [&](int64_t z) {
      for (int64_t y = 0; y < s.ny; ++y)
        std::copy_n(sum + (z + 1) * stride[2] + (y + 1) * stride[1] + 1, s.nx, volume + (z * s.ny + y) * s.nx);
    });
  }
};

}  // namespace fedrecon
