"""Convolution layers of the networks: native kernels, plain JAX and torch, forward and both gradients.

Every layer is timed as it stands in training: several evaluations in a loop, on CPU with all threads.
"native" is ``fedrecon.models.convolutions`` by the native kernels, "lax" the same by XLA's convolutions (its
gradients written as forward convolutions), "torch" the faster of its two memory formats. Libraries take
turns, and medians are given, in ms: forward, gradient of the input ("-" in first layers, which need none),
gradient of the kernel, and all in one. The rate in GFLOP/s, and as a part of the fastest product of large
matrices by numpy or XLA, is that of all in one by the native kernels. torch is optional.

  python -m benchmarks.convolution --json=convolution.json
  python -m benchmarks.convolution --workloads=varnet --repeats=5
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import lax

from benchmarks.command import check_json, print_machine, start
from benchmarks.measure import (
    describe_machine,
    format_ms,
    format_table,
    matmul_peak,
    median_ms,
    one_line,
    progress,
    quickest,
    round_robin,
)
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from operators.kernels import convolve, native

_PARTS = ("forward", "dx", "dw", "all")
# One call takes about this long, in seconds, by repeating a layer.
_CALL = 0.01


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution: square images and kernels, padded on both sides to keep the size at stride 1.

    Attributes:
      batch, size: number of images, and pixels along each axis.
      features_in, features_out: channels.
      kernel: pixels along each axis of the window.
      stride: along each axis.
      first: whether it is a network's first, which needs no gradient of its input.
    """

    batch: int
    size: int
    features_in: int
    features_out: int
    kernel: int = 3
    stride: int = 1
    first: bool = False

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return ((self.kernel // 2, self.kernel // 2),) * 2

    @property
    def out_size(self) -> int:
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in _PARTS if not (self.first and part == "dx"))

    @property
    def operations(self) -> float:
        """Floating-point operations of one part, zeros of the padding included."""
        pixels = self.batch * self.out_size**2
        return 2.0 * pixels * self.kernel**2 * self.features_in * self.features_out

    def __str__(self) -> str:
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return (
            f"{self.batch}x{self.size}x{self.size} {self.kernel}x{self.kernel}{stride} "
            f"{self.features_in}->{self.features_out}"
        )


def _unet(batch: int, size: int, channels: int, pools: int, features_in: int, features_out: int, first: bool):
    layers = [Layer(batch, size, features_in, channels, first=first), Layer(batch, size, channels, channels)]
    for level in range(1, pools + 1):
        features, pixels = channels << level, size >> level
        layers += [Layer(batch, pixels, features // 2, features), Layer(batch, pixels, features, features)]
    for level in reversed(range(pools)):
        features, pixels = channels << level, size >> level
        layers += [Layer(batch, pixels // 2, 2 * features, 4 * features, 1)]
        layers += [Layer(batch, pixels, 2 * features, features)]
    return [*layers, Layer(batch, size, channels, features_out, 1)]


WORKLOADS: dict[str, list[Layer]] = {
    "cnn": [Layer(20, 28, 1, 32, 5, first=True), Layer(20, 14, 32, 64, 5)],
    "unet": _unet(4, 96, 16, 4, 1, 1, True),
    "resnet": [
        Layer(8, 64, 3, 16, first=True),
        Layer(8, 64, 16, 16),
        Layer(8, 64, 16, 32, 3, 2),
        Layer(8, 64, 16, 32, 1, 2),
        Layer(8, 32, 32, 32),
        Layer(8, 32, 32, 64, 3, 2),
        Layer(8, 16, 64, 64),
    ],
    "varnet": _unet(2, 96, 8, 2, 2, 2, False),
}


@dataclasses.dataclass(frozen=True)
class ConvolutionOptions:
    """The flags; see `define_flags`."""

    workloads: list[str] = dataclasses.field(default_factory=lambda: list(WORKLOADS))
    json: str | None = None
    repeats: int = 9
    seconds: float = 5.0


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    default = ConvolutionOptions()
    flags.DEFINE_list("workloads", default.workloads, f"Networks, of {', '.join(WORKLOADS)}.")
    flags.DEFINE_string("json", default.json, "File for all results, every single time included.")
    flags.DEFINE_integer("repeats", default.repeats, "Calls of every part of every layer.", lower_bound=1)
    flags.DEFINE_float(
        "seconds", default.seconds, "Time for one part of a layer, after which no further round begins."
    )


def run(options: ConvolutionOptions) -> dict:
    """Runs the workloads, prints the tables and returns (and writes) everything measured.

    Raises:
      ValueError: an option is not as it should be; names it.
      OSError: the file cannot be written.
    """
    for name in options.workloads:
        if name not in WORKLOADS:
            raise ArgumentError("--workloads", f"some of {', '.join(WORKLOADS)}", repr(name))
    check_json(options.json)
    backend = native.load("convolution", "float32")
    report = {
        "machine": describe_machine(("jax", "jaxlib", "numpy", "torch")),
        "backend": backend,
        "options": dataclasses.asdict(options),
        "peak_gflops": 1e-9 * matmul_peak(),
        "workloads": {},
    }
    machine = report["machine"]
    print_machine(machine)
    print(f"native: {backend.split(' (')[0]}; product of matrices: {report['peak_gflops']:.0f} GFLOP/s")
    libraries = _libraries(backend.startswith("native"))
    for name in options.workloads:
        measured = []
        for layer in dict.fromkeys(WORKLOADS[name]):
            progress(f"{name}: {layer}")
            measured.append((layer, _measure(layer, libraries, options)))
        report["workloads"][name] = [
            {"layer": dataclasses.asdict(layer), "seconds": times} for layer, times in measured
        ]
        progress("")
        print(f"\n{name}\n{_describe(measured, list(libraries), report['peak_gflops'])}", flush=True)
        if options.json is not None:
            write_atomically(options.json, json.dumps(report, indent=1).encode())
    return report


def _libraries(has_native: bool) -> dict[str, Callable]:
    found = {"native": partial(_jax_calls, "auto")} if has_native else {}
    found["lax"] = partial(_jax_calls, "jax")
    try:
        import torch  # noqa: F401

        found["torch"] = _torch_calls
    except ImportError as error:
        print(f"skipped torch: {one_line(error)}")
    return found


def _measure(layer: Layer, libraries: dict[str, Callable], options: ConvolutionOptions) -> dict:
    rng = np.random.default_rng(0)
    shapes = (
        (layer.batch, layer.size, layer.size, layer.features_in),
        (layer.kernel, layer.kernel, layer.features_in, layer.features_out),
        (layer.batch, layer.out_size, layer.out_size, layer.features_out),
    )
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    times = {name: {} for name in libraries}
    for part in layer.parts:
        calls, counts = {}, {}
        for name, make in libraries.items():
            for variant, (call, count) in make(layer, part, *arrays).items():
                calls[name, variant], counts[name, variant] = call, count
        found = round_robin(calls, options.repeats, options.seconds)
        for name in libraries:
            variants = [[t / counts[key] for t in found[key]] for key in found if key[0] == name]
            times[name][part] = min(variants, key=median_ms)
    return times


def _jax_calls(backend: str, layer: Layer, part: str, x, kernel, cotangent) -> dict:
    def once(x, kernel, cotangent):
        def layer_of(x, kernel):
            strides = (layer.stride, layer.stride)
            return convolve(kernel[None], x[None], strides, layer.pads, backend)[0]

        y, pull = jax.vjp(layer_of, x, kernel)
        dx, dw = pull(cotangent)
        results = {"forward": y, "dx": dx, "dw": dw}
        if part == "all":
            return [results[name] for name in layer.parts[:-1]]
        return [results[part]]

    @partial(jax.jit, static_argnums=0)
    def repeated(count, *arrays):
        def body(carry, _):
            # Operands change a little, or XLA would move the evaluation out of the loop.
            value, *arrays = carry
            arrays = [a.at[(0,) * a.ndim].set(value) for a in arrays]
            value = sum(result[(0,) * result.ndim] for result in once(*arrays))
            return (jnp.clip(value, -1, 1), *arrays), None

        return lax.scan(body, (jnp.zeros((), jnp.float32), *arrays), length=count)[0][0]

    arrays = tuple(map(jnp.asarray, (x, kernel, cotangent)))
    return {"": _looped(lambda count: repeated(count, *arrays).block_until_ready())}


def _looped(run: Callable[[int], object]) -> tuple[Callable, int]:
    run(1)
    count = max(1, min(200, round(_CALL / quickest(lambda: run(1)))))
    run(count)
    return lambda: run(count), count


def _torch_calls(layer: Layer, part: str, x, kernel, cotangent) -> dict:
    import torch

    def operands(memory_format):
        axes = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        return [
            torch.from_numpy(np.ascontiguousarray(a.transpose(axis))).contiguous(memory_format=memory_format)
            for a, axis in zip((x, kernel, cotangent), axes, strict=True)
        ]

    def once(x, w, g):
        if part in ("forward", "all"):
            torch.nn.functional.conv2d(x, w, None, layer.stride, layer.kernel // 2)
        if part != "forward":
            mask = [part == "dx" or (part == "all" and not layer.first), part != "dx", False]
            torch.ops.aten.convolution_backward(
                g, x, w, None, [layer.stride] * 2, [layer.kernel // 2] * 2, [1, 1], False, [0, 0], 1, mask
            )

    def repeated(arrays, count):
        with torch.no_grad():
            for _ in range(count):
                once(*arrays)

    formats = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    return {name: _looped(partial(repeated, operands(memory))) for name, memory in formats.items()}


def _describe(measured: list, libraries: list[str], peak: float) -> str:
    header = ["layer", *(f"{name} {part}" for name in libraries for part in _PARTS)]
    header += ["GFLOP/s", "of peak", *(f"x {name}" for name in libraries[1:])]
    rows, sums = [], dict.fromkeys(libraries, 0.0)
    for layer, times in measured:
        medians = {
            (name, part): median_ms(found) for name, parts in times.items() for part, found in parts.items()
        }
        cells = [
            format_ms(medians[name, part]) if (name, part) in medians else "-"
            for name in libraries
            for part in _PARTS
        ]
        total = {name: medians[name, "all"] for name in libraries}
        sums = {name: sums[name] + total[name] for name in libraries}
        rate = 1e-6 * (len(layer.parts) - 1) * layer.operations / total[libraries[0]]
        ratios = [f"{total[name] / total[libraries[0]]:.2f}" for name in libraries[1:]]
        rows.append([str(layer), *cells, f"{rate:.0f}", f"{rate / peak:.2f}", *ratios])
    blank = [""] * (len(_PARTS) - 1)
    cells = [cell for name in libraries for cell in (*blank, format_ms(sums[name]))]
    rows.append(
        ["sum", *cells, "", "", *(f"{sums[name] / sums[libraries[0]]:.2f}" for name in libraries[1:])]
    )
    return format_table(header, rows)


if __name__ == "__main__":
    start("benchmarks.convolution", define_flags, ConvolutionOptions, run)
