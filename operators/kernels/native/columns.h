// Projection where the rays of a detector column share their path in the plane of x and y.
//
// On a plane of constant y or x, all rays of a column cross the same few lines along z. These are added up with
// their weights to one profile, which is then read where the rows cross it, at positions affine in the row: by
// linear interpolation (Joseph) or, of running sums along z, as differences (distance-driven). Backward, rows are
// added to the profile with the same weights, and the profile to the lines.
#pragma once

#include "volume.h"

namespace fedrecon {

template <class T>
struct Columns {
  const VolumeSizes s;
  const bool integrated;          // distance-driven
  const int64_t line, row_of_y;   // elements of a line along z, and from one y to the next, in the stored volume
  const int64_t span, view_span;  // elements of a column of rows, with room at both ends, and of a view
  const T last;                   // position of the last entry of a line that is not padding

  Columns(const VolumeSizes& s, bool integrated)
      : s(s),
        integrated(integrated),
        line(padded(s.nz + 3, cache_line<T>)),
        // An odd number of cache lines: consecutive y go to different sets of the cache.
        row_of_y(s.nx * line + (s.nx * line / cache_line<T> % 2 ? 0 : cache_line<T>)),
        span(padded(s.rows + 1, wide<T>) + 5 * wide<T>),
        view_span(s.columns * span),
        last(integrated ? s.nz : s.nz + 1) {}

  static constexpr int64_t before = 2 * wide<T>;  // zeros before the first row
  int64_t stored() const { return s.ny * row_of_y + 4 * wide<T>; }
  int64_t planes(int axis) const { return axis ? s.nx : s.ny; }
  int64_t lines(int axis) const { return axis ? s.ny : s.nx; }
  // Between planes, and between the lines of a plane.
  int64_t plane_stride(int axis) const { return axis ? line : row_of_y; }
  int64_t line_stride(int axis) const { return axis ? row_of_y : line; }

  // One column of one view: the entries of operators/ct/projection/planes.py, in their order.
  struct Path {
    T length, left, left_slope, right, right_slope, height, height_slope, step, step_slope;
    int axis() const { return length < 0; }
  };
  Path path(const T* table, int64_t view, int64_t column) const {
    Path p;
    T* const entries[] = {&p.length, &p.left,         &p.left_slope, &p.right,     &p.right_slope,
                          &p.height, &p.height_slope, &p.step,       &p.step_slope};
    for (T* entry : entries) *entry = table[view * s.columns + column], table += s.views * s.columns;
    return p;
  }
  T path_length(const Path& p, int64_t row) const {
    const T climb = p.height_slope + p.step_slope * (row - T(0.5) * (s.rows - 1));
    return static_cast<T>(s.pixel_size) * std::sqrt(p.length * p.length + climb * climb);
  }

  // Where a column crosses one plane.
  struct Crossing {
    int64_t first, count;      // lines along z
    int64_t row_from, row_to;  // rows that may meet the volume
    int64_t from, to;          // entries of a line that these touch, in whole vectors
    T start, step;             // position of row 0, or of its edge, in entries of a line, and from row to row
    T scale;                   // of differences
    T inverse;                 // 1 / step
  };

  T clipped(T position) const { return std::min(std::max(position, T(0)), last); }

  // False if it misses the volume. Never inlined: both directions must round alike.
  __attribute__((noinline)) bool cross(const Path& p, int64_t plane, Crossing& c, T* weights) const {
    const int axis = p.axis();
    const int64_t n = lines(axis);
    const T number = plane - T(0.5) * (planes(axis) - 1), middle = T(0.5) * (n - 1);
    const T left = p.left + p.left_slope * number + middle;
    if (!integrated) {
      if (!(left > -1 && left < n)) return false;
      const T entry = std::floor(left), fraction = left - entry;
      const int64_t low = static_cast<int64_t>(entry);
      c.first = std::max<int64_t>(low, 0);
      c.count = 0;
      if (low >= 0) weights[c.count++] = 1 - fraction;
      if (low + 1 < n) weights[c.count++] = fraction;
    } else {
      const T right = p.right + p.right_slope * number + middle;
      const T width = std::abs((p.right - p.left) + (p.right_slope - p.left_slope) * number);
      const T low = std::max(std::min(left, right) + T(0.5), T(0));
      const T high = std::min(std::max(left, right) + T(0.5), T(n));
      if (!(high > low) || !(width > 0)) return false;
      c.first = static_cast<int64_t>(low);
      c.count = 0;
      for (int64_t i = c.first; i < high; ++i)
        weights[c.count++] = (std::min(high, T(i + 1)) - std::max(low, T(i))) / width;
    }
    c.step = p.step + p.step_slope * number;
    const int64_t knots = s.rows + integrated;
    const T offset = T(0.5) * (s.nz - 1) + (integrated ? T(0.5) : T(1));
    c.start = (p.height + p.height_slope * number) - c.step * (T(0.5) * (knots - 1)) + offset;
    c.row_from = 0, c.row_to = s.rows;
    c.inverse = c.scale = 1;
    if (std::abs(c.step) > T(1e-6)) {
      c.inverse = 1 / c.step;
      const T a = (0 - c.start) * c.inverse, b = (last - c.start) * c.inverse, rows = s.rows;
      c.row_from = static_cast<int64_t>(std::floor(std::min(std::max(std::min(a, b), T(0)), rows)));
      c.row_to = static_cast<int64_t>(std::ceil(std::min(std::max(std::max(a, b), T(0)), rows)));
      if (integrated) c.scale = c.inverse;
    } else if (integrated) {
      return false;
    }
    if (c.row_from >= c.row_to) return false;
    const T one = clipped(c.start + c.step * c.row_from), other = clipped(c.start + c.step * c.row_to);
    c.from = static_cast<int64_t>(std::min(one, other)) / wide<T> * wide<T>;
    c.to = padded(static_cast<int64_t>(std::max(one, other)) + 2, wide<T>);
    return true;
  }

  // Entries and fractions of the positions of `wide` rows from `row` on.
  static inline Wide<T> positions(const Crossing& c, Wide<T> row, T last) {
    Wide<T> position = c.start + c.step * row;
    position = position > T(0) ? position : Wide<T>{};
    const Wide<T> most = Wide<T>{} + last;
    return position < most ? position : most;
  }

  // Forward.

  void blend(const Crossing& c, const T* weights, const T* from, int64_t stride, T* profile) const {
    for (int64_t k = c.from; k < c.to; k += wide<T>) {
      Wide<T> sum = weights[0] * load_wide(from + k);
      for (int64_t m = 1; m < c.count; ++m) sum += weights[m] * load_wide(from + m * stride + k);
      store_wide(profile + k, sum);
    }
  }

  void sample(const Crossing& c, const T* profile, T* values, T* total) const {
    const Wide<T> numbers = iota<T>();
    const bool near = std::abs(c.step) < T(1.9);
    const int64_t end = c.row_to + (integrated ? wide<T> : 0);
    for (int64_t i = c.row_from / wide<T> * wide<T>; i < end; i += wide<T>) {
      const Wide<T> position = positions(c, numbers + T(i), last);
      const WideIndex<T> entry = __builtin_convertvector(position, WideIndex<T>);
      const Wide<T> fraction = position - __builtin_convertvector(entry, Wide<T>);
      const int64_t start = std::min(entry[0], entry[wide<T> - 1]);
      const WideIndex<T> index = entry - static_cast<typename WideTypes<T>::Integer>(start);
      const Wide<T> low = lookup(profile + start, index, near), high = lookup(profile + start + 1, index, near);
      const Wide<T> value = low + fraction * (high - low);
      if (integrated)
        store_wide(values + i, value);
      else
        store_wide(total + i, load_wide(total + i) + value);
    }
    if (!integrated) return;
    for (int64_t i = c.row_from / wide<T> * wide<T>; i < c.row_to; i += wide<T>)
      store_wide(total + i, load_wide(total + i) + c.scale * (load_wide(values + i + 1) - load_wide(values + i)));
  }

  // Backward.

  // The edges of rows, from row_from on, as what they add to the entries of a line, with zeros at both ends.
  void differences(const Crossing& c, const T* y, T* knots) const {
    store_wide(knots - wide<T>, Wide<T>{});
    store_wide(knots - 2 * wide<T>, Wide<T>{});
    const int64_t count = c.row_to - c.row_from, n = count + 1;
    y += c.row_from;
    for (int64_t i = 1; i < count; i += wide<T>)
      store_wide(knots + i, c.scale * (load_wide(y + i - 1) - load_wide(y + i)));
    knots[0] = -c.scale * y[0];
    knots[count] = c.scale * y[count - 1];
    for (int i = 0; i < 3; ++i) store_wide(knots + n + i * wide<T>, Wide<T>{});
  }

  void gather_profile(const Crossing& c, const T* knots, int64_t count, T* profile) const {
    const Wide<T> numbers = iota<T>();
    const T margin = 2 * wide<T>;
    const int reach = static_cast<int>(2 / c.step) + 1;
    for (int64_t k = c.from; k < c.to; k += wide<T>) {
      const Wide<T> entry = numbers + T(k);
      // The first row past the entry before, from row_from on; truncation is of positive numbers.
      Wide<T> first = (entry - (1 + c.start)) * c.inverse + (1 + margin - c.row_from);
      first = first > T(0) ? first : Wide<T>{};
      const Wide<T> most = Wide<T>{} + (margin + count);
      first = first < most ? first : most;
      const WideIndex<T> row = __builtin_convertvector(first, WideIndex<T>);
      const int64_t start = row[0];
      const WideIndex<T> index = row - static_cast<typename WideTypes<T>::Integer>(start);
      Wide<T> number = __builtin_convertvector(row, Wide<T>) + (c.row_from - margin), sum = {};
      const T* y = knots + start - 2 * wide<T>;
      for (int m = 0; m < reach; ++m) {
        const Wide<T> distance = positions(c, number, last) - entry;
        Wide<T> weight = T(1) - (distance > T(0) ? distance : -distance);
        weight = weight > T(0) ? weight : Wide<T>{};
        sum += weight * lookup(y + m, index, true);
        number += T(1);
      }
      store_wide(profile + k, sum);
    }
  }

  void scatter_profile(const Crossing& c, const T* knots, int64_t count, T* profile) const {
    for (int64_t k = c.from; k < c.to; k += wide<T>) store_wide(profile + k, Wide<T>{});
    for (int64_t i = 0; i < count; ++i) {
      const T position = clipped(c.start + c.step * T(c.row_from + i));
      const int64_t entry = static_cast<int64_t>(position);
      const T fraction = position - entry;
      profile[entry] += (1 - fraction) * knots[i];
      profile[entry + 1] += fraction * knots[i];
    }
  }

  void spread(const Crossing& c, const T* weights, const T* profile, int64_t stride, T* to) const {
    for (int64_t m = 0; m < c.count; ++m)
      for (int64_t k = c.from; k < c.to; k += wide<T>) {
        T* p = to + m * stride + k;
        store_wide(p, load_wide(p) + weights[m] * load_wide(profile + k));
      }
  }

  // Volumes with z contiguous, and with running sums along it for the distance-driven model.

  void store_volume(const Workers& workers, const T* volume, T* stored) const {
    workers.each(s.ny, [&](int64_t y) {
      T* out = stored + y * row_of_y;
      const int64_t tile = wide<T>;
      for (int64_t x0 = 0; x0 < s.nx; x0 += tile) {
        const int64_t x1 = std::min(s.nx, x0 + tile);
        for (int64_t z = 0; z < s.nz; ++z)
          for (int64_t x = x0; x < x1; ++x) out[x * line + z + 1] = volume[(z * s.ny + y) * s.nx + x];
        for (int64_t x = x0; x < x1; ++x) {
          T* p = out + x * line;
          p[0] = 0;
          if (integrated) {
            double sum = 0;
            for (int64_t z = 1; z <= s.nz; ++z) p[z] = static_cast<T>(sum += p[z]);
          }
          std::fill(p + s.nz + 1, p + line, integrated ? p[s.nz] : T(0));
        }
      }
    });
  }

  void unstore_volume(const Workers& workers, T* stored, T* volume) const {
    workers.each(s.ny, [&](int64_t y) {
      T* in = stored + y * row_of_y;
      const int64_t tile = wide<T>;
      for (int64_t x0 = 0; x0 < s.nx; x0 += tile) {
        const int64_t x1 = std::min(s.nx, x0 + tile);
        if (integrated)
          for (int64_t x = x0; x < x1; ++x) {
            T* p = in + x * line;
            double sum = 0;
            for (int64_t z = s.nz; z > 0; --z) p[z] = static_cast<T>(sum += p[z]);
          }
        for (int64_t z = 0; z < s.nz; ++z)
          for (int64_t x = x0; x < x1; ++x) volume[(z * s.ny + y) * s.nx + x] = in[x * line + z + 1];
      }
    });
  }

  void project(const Workers& workers, const T* volume, const T* table, T* sinogram) const {
    Scratch memory(sizeof(T) * stored());
    T* stored_volume = memory.as<T>();
    store_volume(workers, volume, stored_volume);
    const int64_t longest = std::max(s.ny, s.nx);
    // Planes whose lines along one column's path stay in the cache for the next column.
    const int64_t block = std::max<int64_t>(8, (int64_t{32} << 10) / (2 * line * sizeof(T)));
    workers.each(s.views, [&](int64_t view) {
      const int64_t profile = line + 4 * wide<T>;
      Scratch room(sizeof(T) * (view_span + span + 2 * profile + longest + 2));
      T* totals = room.as<T>();
      T *values = totals + view_span, *profiles = values + span, *weights = profiles + 2 * profile;
      std::fill(totals, weights, T(0));
      Crossing crossings[2];
      for (int64_t from = 0; from < longest; from += block)
        for (int64_t column = 0; column < s.columns; ++column) {
          const Path p = path(table, view, column);
          const int axis = p.axis();
          const int64_t to = std::min(planes(axis), from + block), stride = line_stride(axis);
          // A profile is read when the next is written: reading at once what was stored otherwise would wait.
          int64_t met = 0;
          for (int64_t plane = from; plane < to; ++plane) {
            Crossing& c = crossings[met % 2];
            if (!cross(p, plane, c, weights)) continue;
            const T* first = stored_volume + plane * plane_stride(axis) + c.first * stride;
            blend(c, weights, first, stride, profiles + met % 2 * profile);
            if (met++) sample(crossings[met % 2], profiles + met % 2 * profile, values, totals + column * span);
          }
          if (met--) sample(crossings[met % 2], profiles + met % 2 * profile, values, totals + column * span);
        }
      T* out = sinogram + view * s.rows * s.columns;
      for (int64_t column = 0; column < s.columns; ++column) {
        const Path p = path(table, view, column);
        const T* total = totals + column * span;
        for (int64_t i = 0; i < s.rows; ++i) out[i * s.columns + column] = total[i] * path_length(p, i);
      }
    });
  }

  void back_project(const Workers& workers, const T* sinogram, const T* table, T* volume) const {
    Scratch memory(sizeof(T) * stored());
    T* stored_volume = memory.as<T>();
    workers.each(s.ny,
                 [&](int64_t y) { std::fill(stored_volume + y * row_of_y, stored_volume + (y + 1) * row_of_y, T(0)); });
    const int64_t fitting = (int64_t{32} << 20) / (sizeof(T) * view_span);
    const int64_t views = std::max<int64_t>(1, std::min<int64_t>(s.views, fitting));
    Scratch room(sizeof(T) * (before + views * view_span));
    T* weighted = room.as<T>() + before;
    std::fill_n(room.as<T>(), before, T(0));
    for (int64_t first = 0; first < s.views; first += views) {
      const int64_t end = std::min(s.views, first + views);
      workers.each(end - first,
                   [&](int64_t view) { weigh(sinogram, table, first + view, weighted + view * view_span); });
      for (int axis = 0; axis < 2; ++axis) {
        const int64_t n = planes(axis), bytes = sizeof(T) * lines(axis) * line;
        const int64_t fitting = std::max<int64_t>(1, (int64_t{384} << 10) / bytes);
        const int64_t shared = std::max<int64_t>(1, n / (4 * workers.count()));
        const int64_t block = std::min(fitting, shared);
        workers.each((n + block - 1) / block, [&](int64_t task) {
          add_planes(axis, task * block, std::min(n, (task + 1) * block), first, end, weighted, table, stored_volume);
        });
      }
    }
    unstore_volume(workers, stored_volume, volume);
  }

 private:
  // A view of a sinogram with rows contiguous, times the paths from plane to plane.
  void weigh(const T* sinogram, const T* table, int64_t view, T* out) const {
    std::fill(out, out + view_span, T(0));
    const T* in = sinogram + view * s.rows * s.columns;
    for (int64_t column = 0; column < s.columns; ++column) {
      const Path p = path(table, view, column);
      T* own = out + column * span;
      for (int64_t i = 0; i < s.rows; ++i) own[i] = in[i * s.columns + column] * path_length(p, i);
    }
  }

  void add_planes(int axis, int64_t from, int64_t to, int64_t first, int64_t end, const T* weighted, const T* table,
                  T* stored_volume) const {
    Scratch room(sizeof(T) * (2 * span + line + std::max(s.ny, s.nx) + 16 * wide<T>));
    T *edges = room.as<T>() + before, *profile = edges + 2 * span, *weights = profile + line + 2 * wide<T>;
    const int64_t stride = line_stride(axis);
    Crossing c;
    for (int64_t view = first; view < end; ++view)
      for (int64_t column = 0; column < s.columns; ++column) {
        const Path p = path(table, view, column);
        if (p.axis() != axis) continue;
        const T* y = weighted + (view - first) * view_span + column * span;
        for (int64_t plane = from; plane < to; ++plane) {
          if (!cross(p, plane, c, weights)) continue;
          // What rows outside of the volume add falls on entries that are padding.
          const T* knots = y + c.row_from;
          const int64_t count = c.row_to - c.row_from + integrated;
          if (integrated) differences(c, y, edges), knots = edges;
          // Entries are gathered where few rows reach each of them.
          if (c.step > T(0.52) && c.step < T(1.9))
            gather_profile(c, knots, count, profile);
          else
            scatter_profile(c, knots, count, profile);
          spread(c, weights, profile, stride, stored_volume + plane * plane_stride(axis) + c.first * stride);
        }
      }
  }
};

}  // namespace fedrecon
