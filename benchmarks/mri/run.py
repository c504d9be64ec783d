"""The comparison of one workload: settings, routes, times, and the table of a tier."""

import functools
import gc
import importlib.util
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from benchmarks.mri.problems import MRIProblem
from benchmarks.mri.registry import LIBRARIES
from benchmarks.mri.worker import fresh_process

OURS = "fedrecon"
OPERATIONS = ("forward", "adjoint", "gram", "gradient")
OWN_OPERATIONS = ("trajectory gradient", "gram gradient")
TIERS = (2e-3, 3e-5)
CARTESIAN_TIERS = (1e-5,)
# Operations other than forward may err this much more than the tier: they compose two transforms.
_SLACK = 5.0
# Number of FFTs of all coil images that an operation cannot do without.
_TRANSFORMS = {"forward": 1, "adjoint": 1, "gram": 2, "gradient": 2}


def compare(
    problem: MRIProblem, reference: dict[str, np.ndarray], names: list[str], repeats: int, limit: float
) -> list[dict[str, Any]]:
    """Measures the libraries on a problem, tier by tier.

    Args:
      problem, reference: of :func:`benchmarks.mri.problems.make_problem`.
      names: libraries; those that do not take this kind of problem are left out.
      repeats: calls of every operation.
      limit: seconds for the calls of one operation of all libraries.

    Returns:
      By tier a JSON-able dict: ``bound``; ``limit_ms`` and ``limit_by``, the FFTs of all coil images once and
      what computes them fastest; ``libraries``, by name ``setting``, ``error`` of forward, ``operations``
      (each ``median_ms``, ``samples_ms``, ``error``, ``route``, ``accurate``), ``first_call_s`` and
      ``peak_mb``; and ``notes``, triples of library, operation (or "") and the reason why there is no number.
    """
    cartesian = problem.trajectory is None
    names = [n for n in names if LIBRARIES[n].cartesian in (None, cartesian)]
    bounds = CARTESIAN_TIERS if cartesian else TIERS
    chosen = {}
    for name in names:
        progress(f"choosing a setting of {name}")
        # Accuracy and cost do not depend on how many images there are.
        chosen[name] = _choose_settings(name, problem.first(), reference["forward"][:1, :1], bounds)
    tiers = []
    for index, bound in enumerate(bounds):
        settings = {name: chosen[name][index] for name in names}
        tiers.append(_measure_tier(problem, reference, bound, settings, repeats, limit))
    return tiers


def _choose_settings(name, problem, forward, bounds):
    """By tier the faster of the first two settings within the bound, or why there is none."""
    library = LIBRARIES[name]
    found = [[] for _ in bounds]
    reasons, best = [], np.inf
    for setting in library.settings if problem.mask is None else ({},):
        try:
            made = library.operations(problem, **setting)
            operation = made["forward"][0]
            error = relative_error(operation.result(operation.call()), forward)
            wanted = [f for f, bound in zip(found, bounds, strict=True) if error <= bound and len(f) < 2]
            cost = _cost(made) if wanted else None
        except Exception as reason:  # Libraries raise what they like.
            reasons.append(one_line(reason))
            continue
        finally:
            made = None
            gc.collect()
        best = min(best, error)
        for f in wanted:
            f.append((cost, setting))
        if all(len(f) == 2 for f in found):
            break
    none = f"no setting errs less, the best by {best:.1e}" if np.isfinite(best) else reasons[0]
    return [min(f, key=lambda pair: pair[0])[1] if f else none for f in found]


def _cost(made):
    """Seconds of forward and adjoint, or of forward alone where the adjoint fails."""
    forward = quickest(made["forward"][0].call)
    try:
        made["adjoint"][0].call()
    except Exception:
        return forward
    return forward + quickest(made["adjoint"][0].call)


def _measure_tier(problem, reference, bound, settings, repeats, limit):
    found, calls, jobs, notes = {}, {}, {}, []
    for name, setting in settings.items():
        if isinstance(setting, str):
            notes.append((name, "", setting))
            continue
        progress(f"preparing {name} for errors below {bound:.0e}")
        library = LIBRARIES[name]
        try:
            made = library.operations(problem, **setting)
        except Exception as reason:
            notes.append((name, "", one_line(reason)))
            continue
        entry = found[name] = {"setting": setting, "operations": {}}
        jobs[name] = {"setting": setting, "routes": {}}
        for operation in (*OPERATIONS, *OWN_OPERATIONS):
            if operation not in made:
                if operation in library.absent:
                    notes.append((name, operation, library.absent[operation]))
                continue
            allowed = bound * (1 if operation == "forward" else _SLACK)
            try:
                index, error = _choose_route(made[operation], reference.get(operation), allowed)
            except Exception as reason:
                notes.append((name, operation, one_line(reason)))
                continue
            route = made[operation][index]
            accurate = error is None or error <= allowed
            entry["operations"][operation] = {"error": error, "route": route.route, "accurate": accurate}
            jobs[name]["routes"][operation] = index
            calls.setdefault(operation, {})[name] = route.call
            if not accurate:
                notes.append((name, operation, f"errs by {error:.1e}, not compared"))
        entry["error"] = entry["operations"].get("forward", {}).get("error")
    for operation, by_library in calls.items():
        progress(f"timing {operation}")
        for name, times in round_robin(by_library, repeats, limit).items():
            entry = found[name]["operations"][operation]
            entry |= {"median_ms": median_ms(times), "samples_ms": [1e3 * t for t in times]}
    # Other processes are to find the memory free.
    calls.clear()
    made = route = None
    gc.collect()
    progress("first calls and memory, in processes of their own")
    for name, result in fresh_process(problem, jobs).items():
        if "error" in result:
            notes.append((name, "own process", result["error"]))
        found[name] |= {key: result.get(key) for key in ("first_call_s", "peak_mb")}
    by, times = _fft_times(problem, repeats, limit)
    progress("")
    return {"bound": bound, "limit_ms": times, "limit_by": by, "libraries": found, "notes": notes}


def _choose_route(routes, reference, allowed):
    """Index and error of the fastest route that errs no more than allowed, or else of the most accurate."""
    tried, failures = [], []
    for index, route in enumerate(routes):
        try:
            result = route.result(route.call())
            error = None if reference is None else relative_error(result, reference)
            tried.append((quickest(route.call) if len(routes) > 1 else 0.0, index, error))
        except Exception as reason:
            failures.append(reason)
    if not tried:
        raise failures[0]
    accurate = [t for t in tried if t[2] is None or t[2] <= allowed]
    _, index, error = min(accurate) if accurate else min(tried, key=lambda t: t[2])
    return index, error


def _fft_times(problem, repeats, limit):
    """The fastest FFT of all coil images that is installed, by name, and its median in ms."""
    axes = tuple(range(-len(problem.shape), 0))
    planes = np.ascontiguousarray((problem.image[:, :, None] * problem.maps).reshape(-1, *problem.shape))
    on_device, transform = jnp.asarray(planes), jax.jit(functools.partial(jnp.fft.fftn, axes=axes))
    calls = {"jnp": lambda: transform(on_device).block_until_ready()}
    if importlib.util.find_spec("scipy"):
        import scipy.fft

        calls["scipy"] = lambda: scipy.fft.fftn(planes, axes=axes, workers=os.cpu_count())
    if importlib.util.find_spec("ducc0"):
        import ducc0.fft

        out = np.empty_like(planes)
        calls["ducc0"] = lambda: ducc0.fft.c2c(planes, axes=axes, out=out, nthreads=os.cpu_count())
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(planes)
        calls["torch"] = lambda: torch.fft.fftn(tensor, dim=axes)
    for call in calls.values():
        call()
    medians = {name: median_ms(times) for name, times in round_robin(calls, repeats, limit).items()}
    by = min(medians, key=medians.get)
    return by, medians[by]


def describe(tier: dict[str, Any]) -> str:
    """The table of a tier, the ratios to the best peer and to the FFTs, and the notes."""
    numbers, notes = {}, []
    for name, operation, reason in tier["notes"]:
        if reason not in notes:
            notes.append(reason)
        numbers[name, operation] = notes.index(reason) + 1

    def cell(name, operation):
        entry = tier["libraries"][name]["operations"].get(operation)
        mark = f"[{numbers[name, operation]}]" if (name, operation) in numbers else ""
        return (format_ms(entry["median_ms"]) if entry else "-") + mark

    header = ["library", "setting", "error", *(f"{o} ms" for o in OPERATIONS), "first call s", "peak MB"]
    rows = []
    for name, entry in tier["libraries"].items():
        first, peak = entry["first_call_s"], entry["peak_mb"]
        rows.append(
            [
                name,
                " ".join(f"{key}={value}" for key, value in entry["setting"].items()),
                "-" if entry["error"] is None else f"{entry['error']:.1e}",
                *(cell(name, operation) for operation in OPERATIONS),
                f"{first['forward']:.2f}" if first else "-",
                "-" if peak is None else f"{peak:.0f}",
            ]
        )
    lines = [f"relative error of forward at most {tier['bound']:.0e}", format_table(header, rows)]
    lines += _ratios(tier) + _own(tier)
    absent = [(name, number) for (name, operation), number in numbers.items() if not operation]
    lines += [f"left out: {name} [{number}]" for name, number in absent]
    lines += [f"[{number}] {reason}" for number, reason in enumerate(notes, 1)]
    return "\n".join(lines)


def _ratios(tier):
    ours = tier["libraries"].get(OURS, {}).get("operations", {})
    peers, bounds = [], []
    for operation in OPERATIONS:
        if operation not in ours:
            continue
        mine = ours[operation]["median_ms"]
        others = {
            name: entry["operations"][operation]["median_ms"]
            for name, entry in tier["libraries"].items()
            if not name.startswith(OURS) and entry["operations"].get(operation, {}).get("accurate")
        }
        if others:
            best = min(others, key=others.get)
            peers.append(f"{operation} {mine / others[best]:.2f} ({best})")
        bounds.append(f"{operation} {mine / (_TRANSFORMS[operation] * tier['limit_ms']):.1f}")
    lines = [f"fedrecon / best peer: {', '.join(peers)}"] if peers else []
    fft = f"FFTs of all coil images by {tier['limit_by']} {format_ms(tier['limit_ms'])} ms"
    return [*lines, f"{fft}; fedrecon / its FFTs: {', '.join(bounds)}" if bounds else fft]


def _own(tier):
    lines = []
    for name, entry in tier["libraries"].items():
        operations = entry["operations"]
        texts = [f"{o} {format_ms(operations[o]['median_ms'])} ms" for o in OWN_OPERATIONS if o in operations]
        if "gram" in operations and "gram gradient" in operations:
            ratio = operations["gram gradient"]["median_ms"] / operations["gram"]["median_ms"]
            texts.append(f"gram gradient / gram {ratio:.2f}")
        if operations.get("gram", {}).get("route"):
            texts.append(f"gram by {operations['gram']['route']}")
        if name.startswith(OURS) and texts:
            lines.append(f"{name}: {', '.join(texts)}")
    return lines
