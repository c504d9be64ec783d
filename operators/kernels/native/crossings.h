// Where rays cross the lines of an image.
//
// A ray crosses the lines of an image (its rows, or its columns) at positions base + slope * (line - middle), in
// pixels. Knots are the rays, or the edges of detector elements.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fedrecon {

// Images (t, b, ny, nx), sinograms (t, b, views, bins), rays (t, 2, 2, views, knots): for lines that are rows, then
// columns, base and slope of every knot; lengths (t, views, bins): path per line, negative where lines are columns.
struct Sizes {
  int64_t batch, images, ny, nx, views, bins, knots;
  bool own_rays, own_lengths, own_input;
  bool integrated() const { return knots > bins; }  // distance-driven: knots are the edges of bins
  int64_t lines(int axis) const { return axis ? nx : ny; }
  int64_t pixels(int axis) const { return axis ? ny : nx; }
  int64_t entries(int axis) const { return pixels(axis) + 3; }
  int64_t pixel(int axis, int64_t line, int64_t i) const { return axis ? i * nx + line : line * nx + i; }
};

// Neighboring bins of one view whose rays cross the same kind of lines.
struct Run {
  int axis, direction;  // 1 where knots follow each other from pixel to pixel on every line, -1 backwards, else 0
  int64_t first, last;  // bins
};

// The geometry of one t.
template <class T>
struct Scan {
  const Sizes& s;
  const T *rays, *lengths;
  std::vector<std::vector<Run>> runs;

  Scan(const Sizes& s, const T* rays, const T* lengths) : s(s), rays(rays), lengths(lengths), runs(s.views) {
    for (int64_t v = 0; v < s.views; ++v) {
      for (int64_t j = 0; j < s.bins; ++j) {
        const int axis = lengths[v * s.bins + j] < 0;
        if (runs[v].empty() || runs[v].back().axis != axis) runs[v].push_back({axis, 0, j, j});
        runs[v].back().last = j + 1;
      }
      for (Run& run : runs[v]) run.direction = direction(run, v);
    }
  }
  const T* base(const Run& run, int64_t v) const { return rays + (2 * run.axis * s.views + v) * s.knots + run.first; }
  const T* slope(const Run& run, int64_t v) const { return base(run, v) + s.views * s.knots; }
  int64_t knots(const Run& run) const { return run.last - run.first + s.integrated(); }
  T line(int axis, int64_t number) const { return number - T(0.5) * (s.lines(axis) - 1); }

 private:
  int direction(const Run& run, int64_t v) const {
    const T *b = base(run, v), *m = slope(run, v), end = line(run.axis, s.lines(run.axis) - 1);
    int rising = 1, falling = 1;
    for (int64_t k = 0; k + 1 < knots(run); ++k) {
      const T width = b[k + 1] - b[k], change = std::abs((m[k + 1] - m[k]) * end);
      rising &= width > change;
      falling &= -width > change;
    }
    return rising ? 1 : falling ? -1 : 0;
  }
};

// Knots of a run on one line, from the first to the last that are needed.
struct Span {
  int64_t first = 0, last = 0;
};

template <class T>
struct Crossings {
  int64_t first, count;  // knots, from the first of the run
  std::vector<int32_t> entry;
  std::vector<T> fraction, value, inverse;

  explicit Crossings(int64_t knots) : entry(knots), fraction(knots), value(knots), inverse(knots) {}

  // Entries and fractions of all knots within the line and, where bins are integrated, of the next on
  // either side, with the inverse widths of the bins between. `span` is of a line nearby, then of this one.
  void locate(const Scan<T>& scan, const Run& run, int64_t v, T line, Span& span) {
    const bool integrated = scan.s.integrated();
    const T *base = scan.base(run, v), *slope = scan.slope(run, v);
    const T offset = integrated ? T(0.5) : T(1), last = scan.s.pixels(run.axis) + (integrated ? 0 : 1);
    const int64_t knots = scan.knots(run);
    auto at = [&](int64_t k) { return base[k] + slope[k] * line + offset; };
    if (run.direction) {
      const bool rising = run.direction > 0;
      auto before = [&](int64_t k) { return rising ? at(k) <= 0 : at(k) >= last; };
      auto behind = [&](int64_t k) { return rising ? at(k) >= last : at(k) <= 0; };
      int64_t low = std::min(span.first, knots), high = std::min(span.last, knots);
      while (low > 0 && !before(low - 1)) --low;
      while (low < knots && before(low)) ++low;
      while (high < knots && !behind(high)) ++high;
      while (high > 0 && behind(high - 1)) --high;
      span = {low, high};
    } else {
      span = {0, knots};
    }
    first = std::max<int64_t>(span.first - integrated, 0);
    count = std::max<int64_t>(std::min(span.last + integrated, knots) - first, 0);
    base += first, slope += first;
    for (int64_t k = 0; k < count; ++k) {
      T position = base[k] + slope[k] * line + offset;
      position = std::min(std::max(position, T(0)), last);
      const int32_t whole = static_cast<int32_t>(position);
      entry[k] = whole;
      fraction[k] = position - whole;
    }
    if (!integrated) return;
    for (int64_t k = 0; k + 1 < count; ++k) {
      const T width = (base[k + 1] - base[k]) + (slope[k + 1] - slope[k]) * line;
      // On a line through the source bins have no width.
      inverse[k] = std::abs(width) > T(1e-5) ? 1 / width : T(0);
    }
  }
};

}  // namespace fedrecon
