"""Draws what attackers recover of updates, for docs/privacy.md, and prints the table beside it.

Four updates of one step on one example: of a small convolutional classifier with smooth activations and of an
unrolled network, on simulated images and, with --data, on measured ones (a radiograph of PneumoniaMNIST, and
the low-resolution k-space of a measured head). Each is attacked as it is, in a secure sum of eight, and
clipped with Gaussian noise. Measured images are in the table only.

  python -m experiments.inversion_figures --output=docs/images/inversion.png
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags, logging
from matplotlib.figure import Figure

from fedrecon import attacks
from fedrecon.data import simulate_mri_cohort
from fedrecon.models import Conv, Unrolled, gradient_step, regularized
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program
from fedrecon.tasks import classification_task, mri_measure, reconstruction_task
from fedrecon.types import Batch, Task, Variables

SITES, NORM, NOISE = 8, 1.0, 1.3
_SIZE = 24


class Case(NamedTuple):
    """An update and how it is attacked.

    Attributes:
      name: in the table.
      task, variables: what was trained, from what.
      batches: the examples of eight sites, the first one's is sought.
      public: (images, ny, nx[, 1]) that anybody has.
      invert: ``invert(update) -> (examples, ny, nx[, 1])``.
      shown: the image of a batch, as it is compared.
    """

    name: str
    task: Task
    variables: Variables
    batches: list[Batch]
    public: np.ndarray
    invert: Callable[[Any], jax.Array]
    shown: Callable[[Batch], jax.Array]


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("output", None, "PNG file of the simulated images.", required=True)
    flags.DEFINE_string("data", None, "Folder of measured data, or that of $FEDRECON_DATA.")
    flags.DEFINE_integer("iterations", 1000, "Steps of each inversion.", lower_bound=1)


class SmoothNetwork(nn.Module):
    """Two convolutions with smooth activations and a linear layer, as in the papers on gradient inversion."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for stride in (2, 1):
            layer = nn.Conv(12, (5, 5), (stride, stride), kernel_init=nn.initializers.normal(0.3))
            x = nn.sigmoid(layer(x))
        return nn.Dense(2, name="head")(x.reshape(len(x), -1))


class Filters(nn.Module):
    """R(x): filters, smooth activations and filters again, as in the first variational networks."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        del train, valid
        u = jnp.stack([x.real, x.imag], -1)
        u = jnp.tanh(Conv(24, 5)(u))
        u = 0.1 * Conv(2, 5)(u)
        return jax.lax.complex(u[..., 0], u[..., 1])


def classifier_case(name: str, images: np.ndarray, iterations: int) -> Case:
    """A classifier of images (nine or more, ny, nx), the first eight of which are of sites."""
    images = (images / images.max((1, 2), keepdims=True))[..., None].astype(np.float32)
    batches = [
        {"image": jnp.asarray(x[None]), "label": jnp.array([i % 2]), "valid": jnp.ones(1, bool)}
        for i, x in enumerate(images[:SITES])
    ]
    task = classification_task(SmoothNetwork(), batches[0])
    variables, update = task.init(jax.random.key(0)), attacks.gradient_update(task)

    def invert(seen: Any) -> jax.Array:
        unknown = attacks.images(batches[0])
        key = jax.random.key(1)
        found = attacks.invert(
            update, seen, variables, unknown, key, prior_weight=1e-4, iterations=2 * iterations
        )
        return found.batch["image"]

    return Case(name, task, variables, batches, images[1:], jax.jit(invert), lambda b: b["image"])


def unrolled_case(name: str, batches: list[Batch], iterations: int) -> Case:
    """A variational network without normalization, which the other sites trained for forty steps."""
    network = Unrolled(regularized(gradient_step(), Filters(parent=None), "parallel"), cascades=2)
    task = reconstruction_task(network, mri_measure, batches[0])
    start, optimizer = task.init(jax.random.key(0)), optax.adam(3e-3)
    others = {k: jnp.concatenate([b[k] for b in batches[1:]]) for k in batches[0]}

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        params, state = carry
        g = jax.grad(lambda p: task.loss(p, start.stats, others, jax.random.key(0))[0])(params)
        changes, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, changes), state), None

    @jax.jit
    def train(params: Any) -> Any:
        return jax.lax.scan(step, (params, optimizer.init(params)), None, 40)[0][0]

    variables = start._replace(params=train(start.params))

    def shown(batch: Batch) -> jax.Array:
        # But for the scale, which updates hardly hold.
        return batch["target"] / jnp.sqrt(jnp.square(batch["target"]).mean((1, 2), keepdims=True))

    public = np.concatenate([np.asarray(shown(b)) for b in batches[1:]])
    mean = others["target"].mean(0)
    smooth = attacks.gradient_update(attacks.smoothed(task, 0.03))
    unknown = attacks.measurements(batches[0], mri_measure, data_range=None, guess=mean)

    def invert(seen: Any) -> jax.Array:
        found = attacks.invert(
            smooth,
            seen,
            variables,
            unknown,
            jax.random.key(1),
            signs=False,
            prior_weight=1e-3,
            rate=0.03,
            iterations=iterations,
        )
        return shown(found.batch)

    return Case(name, task, variables, batches[:SITES], public, jax.jit(invert), shown)


def simulated_heads(size: int = _SIZE) -> list[Batch]:
    """One slice of each of nine simulated sites."""
    cohort = simulate_mri_cohort(SITES + 1, 3, slices=1, image_shape=(size, size), coils=2, seed=0)
    found = []
    for client in range(SITES + 1):
        number = int(np.flatnonzero(np.asarray(cohort.train.valid[client]))[0])
        example = {k: jnp.asarray(v[client][number][None]) for k, v in cohort.train.examples.items()}
        found.append({**example, "valid": jnp.ones(1, bool)})
    return found


def measured_head(file: Path, like: Batch) -> Batch:
    """The middle of a fully sampled measurement, coils compressed to those of ``like``, with its mask."""
    with h5py.File(file) as h5:
        kspace = np.asarray(h5["kspace"])[0]
    (_, ny, nx), (size_y, size_x) = kspace.shape, like["target"].shape[1:]
    y, x = (ny - size_y) // 2, (nx - size_x) // 2
    kspace = kspace[:, y : y + size_y, x : x + size_x]
    coils = like["coil_maps"].shape[1]
    basis = np.linalg.svd(kspace.reshape(len(kspace), -1), full_matrices=False)[0][:, :coils]
    kspace = np.tensordot(basis.conj().T, kspace, 1)
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
    target = np.sqrt((np.abs(images) ** 2).sum(0))
    scale = np.quantile(target, 0.99)
    images, target = images / scale, target / scale
    mask = np.asarray(like["mask"][0])
    centered = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes), norm="ortho"), axes)
    return {
        **like,
        "coil_maps": jnp.asarray((images / np.maximum(target, 1e-6))[None], jnp.complex64),
        "kspace": jnp.asarray((mask * centered)[None], jnp.complex64),
        "target": jnp.asarray(target[None], jnp.float32),
        "data_range": jnp.asarray([target.max()], jnp.float32),
    }


def attacked(case: Case) -> tuple[list[str], dict[str, np.ndarray]]:
    """A row of the table, and the pictures: original, unprotected, secure sum, noise."""
    send = jax.jit(attacks.gradient_update(case.task))
    sent = [send(case.variables, batch) for batch in case.batches]
    noised = attacks.clipped_and_noised(sent[0], jax.random.key(2), norm=NORM, noise_multiplier=NOISE)
    seen = {"unprotected": sent[0], f"secure sum of {len(sent)}": attacks.mean_update(sent), "noise": noised}
    original = case.shown(case.batches[0])
    pictures, row = {"original": _plane(original)}, [case.name]
    for name, update in seen.items():
        found = case.invert(update)
        match = attacks.match(found, original, public=case.public)
        row.append(f"{match.psnr[0]:.1f} / {match.ssim[0]:.2f}")
        pictures[name] = _plane(found)
    row.append(f"{match.mean_psnr:.1f} / {match.mean_ssim:.2f}")
    return [*row, f"{match.random_psnr:.1f} / {match.random_ssim:.2f}"], pictures


def _plane(images: jax.Array) -> np.ndarray:
    return np.asarray(images[0]).reshape(images.shape[1:3])


def cases(data: Path | None, iterations: int) -> list[tuple[Case, bool]]:
    """All cases, and whether their pictures are simulated."""
    heads = simulated_heads()
    slices = np.concatenate([np.asarray(b["target"]) for b in heads])
    found = [
        (classifier_case("classifier, simulated slice", slices, iterations), True),
        (unrolled_case("variational network, simulated head", heads, iterations), True),
    ]
    if data is None:
        return found
    with h5py.File(data / "multisite" / "pneumoniamnist_train.h5") as h5:
        radiographs = np.asarray(h5["image"][: SITES + 8], np.float32)
    head = measured_head(data / "mri" / "brain_cimax3t_16ch.h5", heads[0])
    found.append((classifier_case("classifier, radiograph", radiographs, iterations), False))
    found.append((unrolled_case("variational network, measured head", [head, *heads[1:]], iterations), False))
    return found


def main(_: list[str]) -> None:
    values = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with ending():
        folder = values.data or os.environ.get("FEDRECON_DATA")
        rows, drawn = [], []
        for case, simulated in cases(None if folder is None else Path(folder), values.iterations):
            row, pictures = attacked(case)
            rows.append(row)
            print(*row, sep=" | ", flush=True)
            drawn += [pictures] if simulated else []
        header = ["PSNR in dB / SSIM", "unprotected", "secure sum", "noise", "mean image", "random guess"]
        print(format_table(header, rows))
        figure = Figure(figsize=(9.2, 2.5 * len(drawn)), dpi=110, layout="constrained")
        for axes, pictures in zip(figure.subplots(len(drawn), 4), drawn, strict=True):
            most = float(pictures["original"].max())
            for axis, (name, image) in zip(axes, pictures.items(), strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=most)
                axis.set_axis_off()
                axis.set_title(name, fontsize=10)
        figure.savefig(values.output)
        print(f"wrote {values.output}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
