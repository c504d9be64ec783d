"""Draws the tomography figures of docs/operators.md: the coordinates, and reconstructions of measured data.

The measurements are read from DIR: tooth_parallel.h5 (parallel beam, rotation axis off the middle),
htc2022_disc_ta.h5 (fan beam, limited arcs) and clinical_ct_512.h5 (slices in HU, projected again at lower
doses); without --data_dir only the coordinates are drawn.

  python -m experiments.tomography_figures --output_dir=docs/images
  python -m experiments.tomography_figures --output_dir=docs/images --data_dir=DIR
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

import operators
from experiments.operator_figures import save
from fedrecon.data import read_htc, read_tomography
from fedrecon.data.formats import open_hdf5, read_array
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError

TOOTH, DISC, CLINICAL = "tooth_parallel.h5", "htc2022_disc_ta.h5", "clinical_ct_512.h5"
_WATER = 0.0192  # 1/mm at about 70 keV (NIST XCOM)
_SLICE = 10
# A fan like that of a clinical scanner.
_FAN = {"source_distance": 595.0, "detector_distance": 490.6, "curved": True}
_PHOTONS = 2e5


def coordinate_figure() -> Figure:
    """Source, detector, axes and signs of the parallel and the fan geometry at an angle of 30 degrees."""
    figure = Figure(figsize=(10.4, 5.5))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.94, wspace=0.02)
    angle = np.deg2rad(30)
    across = np.array([np.cos(angle), np.sin(angle)])
    along = np.array([-np.sin(angle), np.cos(angle)])
    titles = ("ParallelBeam at angle t = 30°", "FanBeam and ConeBeam at angle t = 30°")
    for axis, title, fan in zip(figure.subplots(1, 2), titles, (False, True), strict=True):
        axis.set_title(title, fontsize=11)
        axis.set(xlim=(-4.6, 4.4), ylim=(-4.5, 4.4), xticks=[], yticks=[], aspect="equal")
        axis.add_patch(Rectangle((-1.2, -1.2), 2.4, 2.4, fill=False, edgecolor="0.5"))
        for step in np.linspace(-1.2, 1.2, 7)[1:-1]:
            axis.plot([step, step], [-1.2, 1.2], color="0.9", linewidth=0.6, zorder=0)
            axis.plot([-1.2, 1.2], [step, step], color="0.9", linewidth=0.6, zorder=0)
        axis.text(-1.17, 1.27, "row 0, column 0", fontsize=8, color="0.3")
        axis.add_patch(Circle((-1.0, 1.0), 0.06, color="0.3"))
        for tip, name in (((1.9, 0), "x"), ((0, 1.9), "y")):
            _arrow(axis, (0, 0), tip, "0.2")
            axis.text(*(1.08 * np.array(tip)), name, fontsize=10, ha="center", va="center")
        axis.text(-0.1, -0.12, "⊙ z", fontsize=9, ha="right", va="top")
        arc = np.linspace(0, angle, 30)
        axis.plot(1.45 * np.cos(arc), 1.45 * np.sin(arc), color="tab:green", linewidth=1)
        axis.plot(*np.stack([np.zeros(2), 1.75 * across]).T, color="tab:green", linewidth=0.8, linestyle=":")
        axis.text(
            *(1.62 * np.array([np.cos(angle / 2), np.sin(angle / 2)])), "t", color="tab:green", ha="center"
        )
        middle, half = 2.9 * along, 2.1 if fan else 1.9
        ends = [middle - half * across, middle + half * across]
        axis.plot(*np.stack(ends).T, color="tab:blue", linewidth=3)
        for fraction in np.linspace(-1, 1, 9):
            at = middle + half * fraction * across
            axis.plot(*np.stack([at - 0.09 * along, at + 0.09 * along]).T, color="tab:blue", linewidth=0.8)
        _arrow(axis, middle + 0.32 * along, middle + 0.32 * along + 1.3 * across, "tab:blue")
        axis.text(
            *(middle + 0.58 * along + 0.65 * across),
            "(cos t, sin t)",
            fontsize=8.5,
            color="tab:blue",
            ha="center",
            rotation=30,
        )
        axis.text(
            *(ends[0] - 0.15 * across - 0.25 * along),
            "element 0",
            fontsize=8.5,
            color="tab:blue",
            ha="right",
            va="center",
        )
        axis.text(*(ends[1] + 0.1 * across), "D − 1", fontsize=8.5, color="tab:blue", va="center")
        source = -3.4 * along
        for fraction in np.linspace(-0.8, 0.8, 5):
            end = middle + half * fraction * across
            start = source if fan else -2.2 * along + half * fraction * across
            _arrow(axis, start, end, "tab:orange", 0.8)
        if fan:
            axis.add_patch(Circle(source, 0.09, color="tab:red", zorder=3))
            axis.text(
                *(source + [0.2, -0.12]),
                "source = source_distance · (sin t, −cos t)",
                fontsize=8.5,
                color="tab:red",
                ha="center",
                va="top",
            )
            axis.text(
                -4.4,
                -3.45,
                "detector around detector_distance · (−sin t, cos t)",
                fontsize=8.5,
                color="tab:blue",
                va="top",
            )
            axis.text(
                -4.4,
                -3.85,
                "rows of a cone beam's detector along +z",
                fontsize=8.5,
                color="tab:blue",
                va="top",
            )
        else:
            axis.text(
                *(-2.45 * along),
                "rays along (−sin t, cos t)",
                fontsize=8.5,
                color="tab:orange",
                ha="center",
                va="top",
                rotation=30,
            )
            axis.text(
                -4.4,
                -3.7,
                "element j measures the line at\n"
                "s = (j − (D − 1)/2) · detector_spacing + detector_offset − axis_offset\n"
                "along the detector, from the rotation axis",
                fontsize=8,
                va="center",
            )
    return figure


def _arrow(axis, start, end, color, width=1.2) -> None:
    axis.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={"arrowstyle": "->", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0},
    )


def find_rotation_axis(
    sinogram: np.ndarray,
    angles: np.ndarray,
    binning: tuple[int, ...] = (8, 4),
    steps: tuple[int, ...] = (32, 8),
) -> float:
    """The rotation axis of a parallel-beam scan, by gradient descent on the misfit of its reconstruction.

    At each offset a few steps of SIRT reconstruct the object, which is then held fixed in the gradient of
    ``mean((A x - y)^2)``. Detector elements are binned, coarse ones first, so that the descent is smooth.

    Args:
      sinogram: (views, detectors), line integrals.
      angles: (views,) in radians.
      binning: elements per bin, one after the other; they must divide the number of elements.
      steps: of gradient descent at each.

    Returns:
      ``axis_offset`` in elements.
    """
    count = sinogram.shape[1]
    offset = jnp.float32(0)
    for size, number in zip(binning, steps, strict=True):
        bins = count // size
        y = jnp.asarray(sinogram.reshape(len(sinogram), bins, size).mean(-1))
        # A shift of the sinogram by one element would change it by this much.
        curvature = 2 * jnp.mean(jnp.diff(y, axis=1) ** 2) / size**2

        @jax.jit
        def step(offset, y=y, bins=bins, size=size, curvature=curvature):
            def projector(offset):
                beam = operators.ParallelBeam(angles, bins, float(size), axis_offset=offset)
                return operators.Radon(beam, (bins, bins), float(size))

            x, _ = operators.ct.sirt(projector(offset), y, nonnegative=True, iterations=10)
            slope = jax.grad(lambda offset: jnp.mean((projector(offset)(x) - y) ** 2))(offset)
            # The object follows the axis in part, which flattens the misfit.
            return offset - 4 * slope / curvature

        for _ in range(number):
            offset = step(offset)
    return float(offset)


def tooth_figure(path: Path) -> Figure:
    """A slice of the tooth: axis in the middle of the detector, and found, by FBP, SIRT and TV."""
    scan = read_tomography(path)
    y = operators.ct.flat_field(scan.raw[0], scan.white[:, 0].mean(0), scan.dark[:, 0].mean(0))
    found = find_rotation_axis(np.asarray(y), scan.angles)
    middle = (y.shape[1] - 1) / 2
    print(f"rotation axis found at element {middle + found:.2f}, stated {middle + scan.axis_offset:.2f}")
    shape = (y.shape[1],) * 2
    wrong, right = (
        operators.ParallelBeam(scan.angles, y.shape[1], axis_offset=offset) for offset in (0.0, found)
    )
    A = operators.Radon(right, shape)
    images = {
        "FBP, axis in the middle": operators.fbp(y, wrong, shape),
        "FBP, axis found": operators.fbp(y, right, shape),
        "SIRT, 100 iterations": operators.ct.sirt(A, y, nonnegative=True, iterations=100)[0],
        "TV": operators.ct.tv(A, y, 2e-2, iterations=200)[0],
    }
    images = {name: np.asarray(image)[90:520, 90:520] for name, image in images.items()}
    return _comparison(images, (0.0, 0.0125), zoom=(150, 230, 110, 110))


def disc_figure(path: Path) -> Figure:
    """The Helsinki disc from arcs of 60, 30 and 30 degrees by FBP, SIRT and TV, and the published mask."""
    rows, scores = {}, []
    for name, scan in read_htc(path).items():
        mask, shape = scan.image, scan.image.shape
        y = jnp.asarray(scan.values)
        A = operators.Radon(scan.geometry, shape, scan.pixel_size)
        images = {
            "FBP": operators.fbp(y, scan.geometry, shape, scan.pixel_size),
            "SIRT": operators.ct.sirt(A, y, nonnegative=True, iterations=200)[0],
            "TV": operators.ct.tv(A, y, 5e-2, iterations=300)[0],
        }
        arc = "{}° to {}°".format(*name.split("_")[1:])
        for method, image in images.items():
            score = _best_dice(np.asarray(image), mask)
            scores.append(f"{arc} {method} {score:.3f}")
            rows.setdefault(arc, {})[f"{method}, Dice {score:.2f}"] = np.asarray(image)
        rows[arc]["published mask"] = mask * 0.04
    print("best Dice of a threshold:", ", ".join(scores))
    figure = Figure(figsize=(8.8, 2.3 * len(rows)), facecolor="black", layout="constrained")
    for axes, (arc, images) in zip(figure.subplots(len(rows), 4, squeeze=False), rows.items(), strict=True):
        for axis, (name, image) in zip(axes, images.items(), strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=0.05)
            axis.set_title(name if "mask" in name else f"{arc}: {name}", color="white", fontsize=8)
            axis.set_axis_off()
    return figure


def _best_dice(image: np.ndarray, mask: np.ndarray) -> float:
    thresholds = np.quantile(image, np.linspace(0.02, 0.98, 97))
    return max(2 * np.sum((image > t) & mask) / (np.sum(image > t) + np.sum(mask)) for t in thresholds)


def low_dose_figure(path: Path) -> Figure:
    """A clinical slice, binned to 256 x 256, projected at full, a quarter and a tenth of the dose."""
    with open_hdf5(path) as file:
        hu = read_array(file, "image", kinds="i", ndim=3, dtype=np.float32)[_SLICE]
        pixel = 2 * float(np.asarray(file.attrs["pixel_spacing_mm"])[0])
    ny, nx = hu.shape
    hu = hu.reshape(ny // 2, 2, nx // 2, 2).mean((1, 3))
    truth = operators.ct.hu_to_attenuation(jnp.maximum(hu, -1000), _WATER)
    angles = np.arange(360) * 2 * np.pi / 360
    fan = operators.FanBeam(angles, 368, 2.5716, **_FAN)
    A = operators.Radon(fan, truth.shape, pixel, "distance-driven")
    clean, key = A(truth), jax.random.key(0)
    rows = {"FBP": {}, "PWLS": {}}
    for name, fraction in (("full dose", 1.0), ("a quarter", 0.25), ("a tenth", 0.1)):
        photons = fraction * _PHOTONS
        counts = operators.ct.simulate_counts(key, clean, photons, electronic_noise=5.0)
        y = operators.ct.counts_to_integrals(counts, photons)
        weights = operators.ct.statistical_weights(counts, electronic_noise=5.0)
        start = operators.fbp(y, fan, truth.shape, pixel, filter="hann")
        blurred = operators.fbp(y, fan, truth.shape, pixel, filter="hann", cutoff=0.6)
        smooth, _ = operators.ct.pwls(
            A, y, weights, regularization=1e7, huber=4e-4, x0=jnp.maximum(blurred, 0), iterations=150
        )
        for method, image in (("FBP", start), ("PWLS", smooth)):
            shown = operators.ct.attenuation_to_hu(image, _WATER)
            inside = np.asarray(hu) > -300
            error = np.sqrt(np.mean((np.asarray(shown)[inside] - hu[inside]) ** 2))
            rows[method][f"{method}, {name}: {error:.0f} HU"] = np.asarray(shown)
    print("root mean square errors in the body:", ", ".join(name for row in rows.values() for name in row))
    figure = Figure(figsize=(9.0, 6.0), facecolor="black", layout="constrained")
    for axes, images in zip(figure.subplots(2, 3), rows.values(), strict=True):
        for axis, (name, image) in zip(axes, images.items(), strict=True):
            axis.imshow(image[45:215, 30:230], cmap="gray", vmin=-160, vmax=240)
            axis.set_title(name, color="white", fontsize=9)
            axis.set_axis_off()
    return figure


def _comparison(
    images: Mapping[str, np.ndarray], window: tuple[float, float], zoom: tuple[int, int, int, int]
) -> Figure:
    """Images in one window, a zoom (row, column, height, width) below each."""
    row, column, height, width = zoom
    figure = Figure(figsize=(2.7 * len(images), 5.6), facecolor="black", layout="constrained")
    for (name, image), axes in zip(images.items(), figure.subplots(2, len(images)).T, strict=True):
        part = image[row : row + height, column : column + width]
        for axis, pixels in zip(axes, (image, part), strict=True):
            axis.imshow(pixels, cmap="gray", vmin=window[0], vmax=window[1])
            axis.set_axis_off()
        axes[0].add_patch(
            Rectangle((column, row), width, height, fill=False, edgecolor="white", linewidth=0.7)
        )
        axes[0].set_title(name, color="white", fontsize=9)
    return figure


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("output_dir", None, "Existing folder for the figures.", required=True)
    flags.DEFINE_string("data_dir", None, "Folder of the measurements; none: the coordinates only.")


def main(_: list[str]) -> None:
    output, data = Path(flags.FLAGS.output_dir), flags.FLAGS.data_dir
    with ending():
        if not output.is_dir():
            raise FlagError("output_dir", "an existing folder", output)
        save(coordinate_figure(), output / "ct_coordinates.png", gray=False)
        if data is not None:
            save(tooth_figure(Path(data) / TOOTH), output / "tooth.png", gray=True)
            save(disc_figure(Path(data) / DISC), output / "helsinki_disc.png", gray=True)
            save(low_dose_figure(Path(data) / CLINICAL), output / "low_dose_ct.png", gray=True)


if __name__ == "__main__":
    define_flags()
    run_program(main)
