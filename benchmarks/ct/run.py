"""The comparison of one CT workload: accuracy, times, memory, and the table."""

import functools
import gc
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ct.problems import CTProblem
from benchmarks.ct.registry import libraries
from benchmarks.ct.worker import Remote, fresh_process
from benchmarks.measure import (
    format_ms,
    format_table,
    median_ms,
    one_line,
    progress,
    quickest,
    relative_error,
    round_robin,
)

OURS = "fedrecon"
OPERATIONS = ("forward", "adjoint", "gradient", "fbp")
# What is compared: forward operations that err at most so much more than the best, adjoints (and gradients)
# that are those of the library's own forward operation, reconstructions hardly worse than the best.
_ERROR_FACTOR = 3.0
_ADJOINT_BOUND = 1e-4
_PSNR_SLACK = 3.0


def compare(
    problem: CTProblem,
    names: list[str],
    repeats: int,
    limit: float,
    pythons: dict[str, str],
    bandwidth: float,
) -> dict[str, Any]:
    """Measures the libraries on a problem.

    Args:
      problem: of :func:`benchmarks.ct.problems.make_problem`.
      names: libraries; those that do not take this kind of scan are left out.
      repeats: calls of every operation.
      limit: seconds for the calls of one operation of all libraries.
      pythons: by library the interpreter of its environment, where it is not this one.
      bandwidth: bytes per second, of :func:`stream_bandwidth`.

    Returns:
      A JSON-able dict: ``limit_ms``, by operation the time in which what it must read and write is moved;
      ``libraries``, by name ``error`` (relative l2, of forward against the exact sinogram), ``adjoint_error``
      (|<A x, y> - <x, A' y>| / (|A x| |y|), of the image or of noise the larger), ``gradient_error``
      (likewise), ``psnr`` (of FBP or FDK in the inscribed disc, dB), ``operations`` (each ``median_ms``,
      ``samples_ms``, ``route``, ``accurate``), ``first_call_s`` and ``peak_mb``; and ``notes``, triples of
      library, operation (or "") and the reason why there is no number.
    """
    known = libraries()
    names = [name for name in names if problem.scan.kind in known[name].kinds]
    found, calls, jobs, notes, remotes = {}, {}, {}, [], []
    try:
        for name in names:
            progress(f"preparing {name}")
            entry = {
                "error": None,
                "adjoint_error": None,
                "gradient_error": None,
                "psnr": None,
                "operations": {},
                "first_call_s": None,
                "peak_mb": None,
            }
            failed = {}
            try:
                prepare = functools.partial(_prepare, name, pythons=pythons, remotes=remotes)
                routes = _check(problem, prepare, entry, failed)
            except Exception as reason:  # Libraries raise what they like.
                notes.append((name, "", one_line(reason)))
                continue
            found[name] = entry
            notes += [(name, *pair) for pair in failed.items()]
            absent = known[name].absent
            notes += [(name, o, absent[o]) for o in OPERATIONS if o in absent and o not in routes]
            jobs[name] = {operation: index for operation, (index, _) in routes.items()}
            for operation, (_, call) in routes.items():
                calls.setdefault(operation, {})[name] = call
        _judge(found, notes)
        for operation, by_library in calls.items():
            progress(f"timing {operation}")
            for name, times in round_robin(by_library, repeats, limit).items():
                timing = {"median_ms": median_ms(times), "samples_ms": [1e3 * t for t in times]}
                found[name]["operations"][operation] |= timing
    finally:
        for remote in remotes:
            remote.close()
    # Other processes are to find the memory free.
    calls.clear()
    routes = None
    gc.collect()
    progress("first calls and memory, in processes of their own")
    for name, result in fresh_process(problem, {n: job for n, job in jobs.items() if job}, pythons).items():
        if "error" in result:
            notes.append((name, "own process", result["error"]))
        found[name] |= {key: result.get(key) for key in ("first_call_s", "peak_mb")}
    progress("")
    return {
        "limit_ms": {o: 1e3 * size / bandwidth for o, size in _bytes_moved(problem).items()},
        "libraries": found,
        "notes": notes,
    }


def _prepare(name, problem, pythons, remotes):
    library = libraries()[name]
    if name not in pythons and not library.environment:
        return library.prepare(problem)
    remotes.append(Remote(name, problem, pythons.get(name, sys.executable)))
    return remotes[-1].prepared()


def _check(problem: CTProblem, prepare, entry: dict, failed: dict) -> dict[str, tuple]:
    """Fills in the errors of an entry and what failed; by operation index and call of the fastest route."""
    prepared, chosen = prepare(problem), {}
    x, y, exact = (
        np.asarray(a, np.float64) for a in (_image(problem, prepared), problem.samples, problem.sinogram)
    )
    projected = None
    for operation in (o for o in OPERATIONS if o in prepared.operations):
        try:
            index, result = _fastest(prepared.operations[operation])
            result = np.asarray(result, np.float64).reshape(
                exact.shape if operation == "forward" else x.shape
            )
            if operation == "forward":
                projected = result
                entry["error"] = relative_error(result, exact)
            elif operation == "adjoint" and projected is not None:
                # What a smooth image hides, noise shows, and the other way round.
                errors = (_duality(*pair, y, result) for pair in ((x, projected), _noise(problem, prepare)))
                entry["adjoint_error"] = max(errors)
            elif operation == "gradient" and projected is not None:
                entry["gradient_error"] = _duality(x, projected, projected - y, result)
            elif operation == "fbp":
                entry["psnr"] = psnr_in_disc(result, x, min(problem.scan.image_shape[-2:]))
        except Exception as reason:
            failed[operation] = one_line(reason)
            continue
        route = prepared.operations[operation][index]
        entry["operations"][operation] = {"route": route.route, "accurate": True}
        chosen[operation] = index, route.call
    return chosen


def _image(problem, prepared):
    return problem.image if prepared.image is None else prepared.image


def _noise(problem, prepare):
    """An image of noise and its projections."""
    problem = problem.with_noise_for_image()
    prepared = prepare(problem)
    route = prepared.operations["forward"][0]
    projected = np.asarray(route.result(route.call()), np.float64).reshape(problem.sinogram.shape)
    return np.asarray(_image(problem, prepared), np.float64), projected


def _fastest(routes):
    """Index and result of the fastest route that does not fail."""
    tried, failures = [], []
    for index, route in enumerate(routes):
        try:
            result = route.result(route.call())
            tried.append((quickest(route.call) if len(routes) > 1 else 0.0, index, result))
        except Exception as reason:
            failures.append(reason)
    if not tried:
        raise failures[0]
    return min(tried, key=lambda t: t[0])[1:]


def _duality(x, projected, y, back_projected):
    """|<A x, y> - <x, A' y>| / (|A x| |y|)."""
    difference = np.vdot(projected, y) - np.vdot(x, back_projected)
    return float(abs(difference) / (np.linalg.norm(projected) * np.linalg.norm(y)))


def psnr_in_disc(found: np.ndarray, image: np.ndarray, diameter: int | None = None) -> float:
    """Peak signal-to-noise ratio in dB inside a disc in the middle of each (ny, nx), by the image's peak.

    The diameter is in pixels; without one, the disc is that inscribed in the image.
    """
    ny, nx = image.shape[-2:]
    y, x = np.arange(ny) - (ny - 1) / 2, np.arange(nx) - (nx - 1) / 2
    disc = np.hypot(y[:, None], x) <= (diameter or min(ny, nx)) / 2
    error = np.mean((found - image)[..., disc] ** 2)
    return float(10 * np.log10(image.max() ** 2 / error))


def _judge(found, notes):
    """Marks what is too far from the best to be compared."""
    errors = [e["error"] for e in found.values() if e["error"] is not None and np.isfinite(e["error"])]
    qualities = [e["psnr"] for e in found.values() if e["psnr"] is not None and np.isfinite(e["psnr"])]
    error_bound = _ERROR_FACTOR * min(errors, default=np.inf)
    psnr_bound = max(qualities, default=-np.inf) - _PSNR_SLACK
    for name, entry in found.items():
        close = entry["error"] is not None and entry["error"] <= error_bound
        judged = {
            "forward": (close, f"more than {_ERROR_FACTOR:g} times the error of the best"),
            "fbp": (entry["psnr"] is not None and entry["psnr"] >= psnr_bound, "PSNR far from the best"),
        }
        for operation in ("adjoint", "gradient"):
            error = entry[f"{operation}_error"]
            judged[operation] = (
                close and error is not None and error <= _ADJOINT_BOUND,
                judged["forward"][1] if not close else "not the adjoint of its forward operation",
            )
        for operation, measured in entry["operations"].items():
            measured["accurate"], reason = bool(judged[operation][0]), judged[operation][1]
            if not measured["accurate"]:
                notes.append((name, operation, f"{reason}: not compared"))


def _bytes_moved(problem):
    image, sinogram = problem.image.nbytes, problem.sinogram.nbytes
    once = image + sinogram
    # The gradient reads image and samples, and writes an image.
    return {"forward": once, "adjoint": once, "gradient": once + image, "fbp": once}


def stream_bandwidth(megabytes: int = 256) -> float:
    """Bytes per second at which this device reads one array and writes another, the best of some calls."""
    source = jnp.ones(megabytes * 10**6 // 4, jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    calls = [lambda: copy(source).block_until_ready()]
    if jax.default_backend() == "cpu":
        host = np.ones(source.shape, np.float32)
        target = np.empty_like(host)
        calls.append(lambda: np.copyto(target, host))
    for call in calls:
        call()
    return 2 * source.nbytes / min(quickest(call, 5) for call in calls)


def describe(result: dict[str, Any]) -> str:
    """The table of a workload, the ratios to the best peer and to the bandwidth, and the notes."""
    numbers, notes = {}, []
    for name, operation, reason in result["notes"]:
        if reason not in notes:
            notes.append(reason)
        numbers[name, operation] = notes.index(reason) + 1

    def cell(name, operation):
        entry = result["libraries"][name]["operations"].get(operation)
        mark = f"[{numbers[name, operation]}]" if (name, operation) in numbers else ""
        return (format_ms(entry["median_ms"]) if entry else "-") + mark

    def number(value, form):
        return "-" if value is None else format(value, form)

    header = [
        "library",
        "error",
        "adjoint error",
        "PSNR dB",
        *(f"{o} ms" for o in OPERATIONS),
        "first call s",
        "peak MB",
    ]
    rows = []
    for name, entry in result["libraries"].items():
        first = entry["first_call_s"] or {}
        rows.append(
            [
                name,
                number(entry["error"], ".1e"),
                number(entry["adjoint_error"], ".0e"),
                number(entry["psnr"], ".1f"),
                *(cell(name, operation) for operation in OPERATIONS),
                number(next(iter(first.values()), None), ".2f"),
                number(entry["peak_mb"], ".0f"),
            ]
        )
    lines = [format_table(header, rows), *_ratios(result)]
    absent = [(name, number) for (name, operation), number in numbers.items() if not operation]
    lines += [f"left out: {name} [{number}]" for name, number in absent]
    lines += [f"[{number}] {reason}" for number, reason in enumerate(notes, 1)]
    return "\n".join(lines)


def _ratios(result):
    entries, limits = result["libraries"], result["limit_ms"]
    ours = entries.get(OURS)
    peers = {name: entry for name, entry in entries.items() if not name.startswith(OURS)}
    bound = ", ".join(f"{o} {format_ms(limits[o])} ms" for o in OPERATIONS)
    lines = [f"limit by memory bandwidth: {bound}"]
    if ours is None or not ours["operations"]:
        return lines
    mine = {o: ours["operations"][o]["median_ms"] for o in OPERATIONS if o in ours["operations"]}
    reached = ", ".join(f"{o} {limits[o] / time:.2g}" for o, time in mine.items())
    lines.append(f"fraction of it that fedrecon reaches: {reached}")
    ratios = []
    for operation, time in mine.items():
        others = {
            name: entry["operations"][operation]["median_ms"]
            for name, entry in peers.items()
            if entry["operations"].get(operation, {}).get("accurate")
        }
        if others:
            best = min(others, key=others.get)
            ratios.append(f"{operation} {time / others[best]:.2f} ({best})")
    for field, text, choose, form in (("error", "error", min, ".1e"), ("psnr", "PSNR", max, ".1f")):
        others = {name: entry[field] for name, entry in peers.items() if entry[field] is not None}
        if others and ours[field] is not None:
            best = choose(others, key=others.get)
            ratios.append(f"{text} {ours[field]:{form}} / {others[best]:{form}} ({best})")
    if ratios:
        lines.insert(0, f"fedrecon / best peer: {', '.join(ratios)}")
    if {"forward", "adjoint", "gradient"} <= set(mine):
        ratio = mine["gradient"] / (mine["forward"] + mine["adjoint"])
        lines.append(f"fedrecon: gradient / (forward + adjoint) {ratio:.2f}")
    return lines
