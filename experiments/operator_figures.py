"""Draws the figures of docs/operators.md: the trajectories, and reconstructions of two measurements.

The measurements are read from DIR/phantom_radial33_17ch.h5 (radial HDF5) and DIR/brain_8ch_poisson.h5
(fastMRI HDF5); without --data_dir only the trajectories are drawn.

  python -m experiments.operator_figures --output_dir=docs/images
  python -m experiments.operator_figures --output_dir=docs/images --data_dir=DIR
"""

import io
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import operators
from fedrecon.data import read_measurement, read_radial
from fedrecon.files import write_atomically
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError

RADIAL, BRAIN = "phantom_radial33_17ch.h5", "brain_8ch_poisson.h5"
_CALIBRATION = (24, 24)
_BRIGHTEST = 99.7


def trajectory_figure() -> Figure:
    """Every trajectory of the library with a few readouts, colored in the order of acquisition."""
    design = {"field_of_view": 0.24, "gradient_limit": 0.03, "slew_limit": 120.0, "dwell_time": 4e-6}
    flat = {
        "cartesian_trajectory": operators.mri.cartesian_trajectory((16, 64)),
        "epi_trajectory\nshots=2, ramp_fraction=0.4": operators.mri.epi_trajectory(
            (16, 64), shots=2, samples=48, ramp_fraction=0.4
        ),
        "radial_trajectory\nlinear": operators.radial_trajectory(21, 64),
        "radial_trajectory\ngolden, center_out": operators.radial_trajectory(
            21, 64, "golden", full_circle=True, center_out=True
        ),
        "spiral_trajectory\n3 interleaves": operators.mri.spiral_trajectory(3, 48, **design),
        "spiral_trajectory\ndensity=(1.5, 0.5)": operators.mri.spiral_trajectory(
            3, 48, density=(1.5, 0.5), **design
        ),
        "propeller_trajectory\n6 blades": operators.mri.propeller_trajectory(6, 7, 48),
        "rosette_trajectory": operators.mri.rosette_trajectory(1, 4000, oscillations=9.5, rotations=1.8),
    }
    solid = {
        "stack_of_stars": operators.mri.stack_of_stars(5, 9, 32, "golden"),
        "stack_of_spirals": operators.mri.stack_of_spirals(5, 1, 20, **design),
        "kooshball_trajectory": operators.mri.kooshball_trajectory(60, 32),
        "phyllotaxis_trajectory\n5 interleaves": operators.mri.phyllotaxis_trajectory(5, 12, 32),
    }
    figure = Figure(figsize=(10.4, 8.4), layout="constrained")
    for index, (name, trajectory) in enumerate((flat | solid).items()):
        readouts = np.asarray(trajectory)
        space = readouts.shape[-1] == 3
        axis = figure.add_subplot(3, 4, index + 1, projection="3d" if space else None)
        if len(readouts) == 1:
            # Pieces of one long readout, each up to the first sample of the next.
            readouts = [readouts[0, start : start + 101] for start in range(0, readouts.shape[1], 100)]
        colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(readouts)))
        for line, color in zip(readouts, colors, strict=True):
            axis.plot(*np.asarray(line)[:, ::-1].T, color=color, linewidth=0.7)
            if index < 7:
                axis.plot(*np.asarray(line)[::4, ::-1].T, ".", color=color, markersize=1.6)
        axis.set_title(name, fontsize=8.5, family="monospace")
        axis.set(xlim=(-0.56, 0.56), ylim=(-0.56, 0.56), xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
        axis.tick_params(labelsize=6.5, pad=1 if not space else -3)
        if space:
            axis.set(zlim=(-0.56, 0.56), zticks=[-0.5, 0, 0.5])
            axis.set_box_aspect((1, 1, 1), zoom=0.92)
            axis.view_init(22, -60)
            axis.set_xlabel("kx", fontsize=7, labelpad=-9)
            axis.set_ylabel("ky", fontsize=7, labelpad=-9)
            axis.set_zlabel("kz", fontsize=7, labelpad=-9)
        else:
            axis.set_aspect("equal")
            axis.invert_yaxis()
            axis.set_xlabel("kx (cycles/pixel)", fontsize=7, labelpad=1)
            axis.set_ylabel("ky (cycles/pixel)", fontsize=7, labelpad=1)
    return figure


def radial_figure(path: Path) -> Figure:
    """The second slice of the radial phantom by gridding, CG-SENSE and L1-wavelet, with a zoom."""
    raw = read_radial(path)
    kspace, shape = raw.kspace[1], (160, 160)
    # The first excitations approach the steady state: every spoke has the same DC except for its amplitude.
    kspace = kspace / _spoke_amplitudes(kspace[..., kspace.shape[-1] // 2])[:, None]
    delays = operators.mri.estimate_gradient_delays(kspace, raw.trajectory)
    trajectory = operators.mri.gradient_delay(raw.trajectory, delays)
    density = operators.density_compensation(trajectory, shape, "analytic-radial").reshape(-1)
    A = operators.NUFFT(trajectory.reshape(-1, 2), shape)
    y = kspace.reshape(len(kspace), -1)
    y = y / operators.rss(A.H(density * y)).max()
    maps, _ = operators.espirit_maps(operators.fft2c(A.H(density * y)), _CALIBRATION, crop=0.0)
    S = operators.SENSE(A, maps)
    images = {
        "gridding": operators.solvers.gridding(S, y, density),
        "CG-SENSE": operators.cg_sense(S, y, regularization=3e-3, iterations=50),
        "L1-wavelet": operators.l1_wavelet(S, y, 1e-3, key=jax.random.key(0)),
    }
    # The object; the darker parts would vanish next to those under the coils.
    images = {name: np.asarray(image)[58:138, 28:132] for name, image in images.items()}
    return _comparison(images, zoom=(34, 30, 40, 52), gamma=0.7)


def brain_figure(path: Path) -> Figure:
    """The Poisson-disc brain by zero-filling, CG-SENSE and L1-wavelet, with a zoom."""
    measurement = read_measurement(path)
    y, mask = measurement.kspace[0], measurement.mask[0]
    A = operators.CartesianFourier(mask.shape, jnp.asarray(mask, jnp.float32))
    y = y / operators.rss(A.H(y)).max()
    maps, _ = operators.espirit_maps(y, _CALIBRATION, crop=0.0)
    S = operators.SENSE(A, maps)
    images = {
        "zero-filled, RSS": operators.rss(A.H(y)),
        "CG-SENSE": operators.cg_sense(S, y, regularization=1e-2),
        "L1-wavelet": operators.l1_wavelet(S, y, 1e-3, key=jax.random.key(0)),
    }
    images = {name: np.asarray(image)[4:222, 12:172] for name, image in images.items()}
    return _comparison(images, zoom=(18, 80, 56, 70))


def _spoke_amplitudes(dc: np.ndarray) -> np.ndarray:
    """Common factors of (coils, spokes) values that are otherwise equal along spokes, of mean one."""
    amplitudes = np.abs(np.linalg.svd(dc, full_matrices=False)[2][0])
    return amplitudes / amplitudes.mean()


def _comparison(
    images: Mapping[str, np.ndarray], zoom: tuple[int, int, int, int], gamma: float = 1.0
) -> Figure:
    """Magnitudes side by side, a zoom (row, column, height, width) below; white at 99.7 % of the pixels."""
    row, column, height, width = zoom
    ny, nx = next(iter(images.values())).shape
    inches, title = 3.0, 0.3
    heights = (inches * ny / nx, inches * height / width)
    size = (inches * len(images), sum(heights) + title)
    figure = Figure(figsize=size, facecolor="black")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - title / size[1], wspace=0.015, hspace=0.015)
    axes = figure.subplots(2, len(images), squeeze=False, height_ratios=heights)
    for (name, image), (upper, lower) in zip(images.items(), axes.T, strict=True):
        shown = np.minimum(np.abs(image) / np.percentile(np.abs(image), _BRIGHTEST), 1) ** gamma
        part = shown[row : row + height, column : column + width]
        for axis, pixels in ((upper, shown), (lower, part)):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="bicubic", aspect="auto")
            axis.set_axis_off()
        corner = (column - 0.5, row - 0.5)
        upper.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="white", linewidth=0.7))
        upper.set_title(name, color="white", fontsize=11)
    return figure


def save(figure: Figure, path: Path, *, gray: bool) -> None:
    """Writes a small PNG in one step: 64 levels of gray, or a palette of 64 colors."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor=figure.get_facecolor(), format="png")
    image = Image.open(buffer).convert("L" if gray else "RGB")
    image = (
        image.point(lambda v: v // 4 * 255 // 63) if gray else image.quantize(64, dither=Image.Dither.NONE)
    )
    image.save(small, "png", optimize=True)
    write_atomically(path, small.getvalue())
    print(f"wrote {path} ({len(small.getvalue()) / 1000:.0f} kB)")


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("output_dir", None, "Existing folder for the figures.", required=True)
    flags.DEFINE_string("data_dir", None, "Folder of the two measurements; none: the trajectories only.")


def main(_: list[str]) -> None:
    output, data = Path(flags.FLAGS.output_dir), flags.FLAGS.data_dir
    with ending():
        if not output.is_dir():
            raise FlagError("output_dir", "an existing folder", output)
        save(trajectory_figure(), output / "trajectories.png", gray=False)
        if data is not None:
            save(radial_figure(Path(data) / RADIAL), output / "radial_phantom.png", gray=True)
            save(brain_figure(Path(data) / BRAIN), output / "poisson_brain.png", gray=True)


if __name__ == "__main__":
    define_flags()
    run_program(main)
