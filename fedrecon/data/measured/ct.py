"""Clinical CT images, seen again by simulated scanners of few views, with spheres of a known CT number."""

import dataclasses
import os
import zlib
from pathlib import Path

import numpy as np

from fedrecon.data.clients import PARTS, Cohort, stack_parts
from fedrecon.data.folders import Source, read_manifest
from fedrecon.data.formats import DataError, open_hdf5, read_array
from fedrecon.data.measured.manifest import manifest_path
from fedrecon.data.simulation import OVERSAMPLING, CTSite, measure_ct
from fedrecon.errors import ArgumentError

SPHERE_HU = 180.0
# Radii of spheres in mm, and the length of the body that has one.
_RADII, _APART = (12.0, 24.0), 30.0
# Slices of one stretch of the body that train, validate and test, its length and the gaps between them in mm.
_PARTS, _STRETCH, _GAP = (0.6, 0.15, 0.25), 120.0, 6.0
_SOFT = (-20.0, 160.0)
# Of the simulated scanners in turn.
_PHOTONS = (6e5, 1.5e5)
_NOTES = (
    "Sinograms are simulated from images that scanners have reconstructed (parallel beams, photon and "
    f"electronic noise), and lesions are spheres of {SPHERE_HU:g} HU that were inserted. Training, "
    f"validation and test are blocks of slices of the same patients, {_GAP:g} mm or more apart: "
    "nothing is said about other patients."
)


@dataclasses.dataclass(frozen=True)
class _Body:
    """A patient: CT numbers (slices, ny, nx) in HU, edges of a pixel and distance of slices in mm."""

    name: str
    hounsfield: np.ndarray
    pixel: float
    spacing: float


def load_clinical_ct(
    data_dir: str | os.PathLike,
    *,
    size: int = 64,
    views: int = 32,
    seed: int = 0,
    copies: int = 1,
    healthy: int = 0,
) -> Cohort:
    """Loads the CT images of the manifest ``clinical_ct``, a patient for each site, and measures them again.

    Examples are those of `simulate_ct_patient`; attenuation relative to water is 1 + HU / 1000. Patients are
    single, so that parts hold slices of the same ones: each stretch of about 120 mm has a block for
    training, one for validation and one for test in random order, 6 mm or more apart, and spheres end where
    their block does. All slices of a site and part are one volume, or one of every copy.

    Args:
      data_dir: the folder of the files, and of ``cohorts/clinical_ct.json`` where the cohort is another than
        that of this package. Files have ``pixel_spacing_mm`` (2,) and ``slice_spacing_mm`` as attributes.
      size: edge of the images, a power of two; the field of view is the smallest one of 2^k of the file's
        pixels that has room for its images.
      views: over 180 degrees.
      seed: of blocks, spheres and noise.
      copies: volumes of each site and part: the same slices with other spheres and noise.
      healthy: how many of these, the last ones, have no spheres.

    Raises:
      DataError: a file or the manifest is missing or not as it should be.
      ValueError: an argument is out of its range.
    """
    if size < 8 or size & (size - 1):
        raise ArgumentError("size", "a power of two from 8 on", size)
    if views < 2:
        raise ArgumentError("views", "at least 2", views)
    if copies < 1:
        raise ArgumentError("copies", "at least 1", copies)
    if not 0 <= healthy < copies:
        raise ArgumentError("healthy", f"0 to {copies - 1}, fewer than copies", healthy)
    path = manifest_path(data_dir, "clinical_ct")
    manifest = read_manifest(path, data_dir)
    volumes: dict[str, list] = {part: [] for part in PARTS}
    sites, bodies = [], []
    for number, source in enumerate(manifest.sources):
        body = _read(Path(data_dir), path, source)
        rng = np.random.default_rng([seed, zlib.crc32(body.name.encode())])
        site = CTSite(
            source.name or body.name,
            "abdomen",
            body.pixel * _edge(body.hounsfield),
            views=views,
            photons=_PHOTONS[number % len(_PHOTONS)],
            slice_spacing=body.spacing,
            patients=1,
            prevalence=1 - healthy / copies,
        )
        for part, blocks in blocks_of(len(body.hounsfield), body.spacing, rng).items():
            volumes[part].append(
                [_measured(site, body, blocks, size, rng, copy < copies - healthy) for copy in range(copies)]
            )
        sites.append(site)
        bodies.append(tuple(f"{body.name}, copy {i + 1}" if copies > 1 else body.name for i in range(copies)))
    return Cohort(
        **stack_parts(volumes, [site.name for site in sites]),
        sites=tuple(sites),
        image_shape=(size, size),
        patients=dict.fromkeys(PARTS, tuple(bodies)),
        notes=f"{_NOTES} {manifest.notes}".strip(),
    )


def blocks_of(slices: int, spacing: float, rng: np.random.Generator) -> dict[str, list[slice]]:
    """Blocks of slices for each part, of which no two are less than the gap apart.

    Args:
      slices: number of them.
      spacing: mm.
      rng: of the order of the blocks in each stretch.

    Raises:
      ValueError: there are too few slices.
    """
    stretches = max(round(slices * spacing / _STRETCH), 1)
    gap = int(np.ceil(_GAP / spacing))
    # The last block needs no gap after it.
    length = (slices + gap) // stretches
    counts = [max(int(part * (length - len(PARTS) * gap)), 1) for part in _PARTS]
    if length < sum(counts) + len(PARTS) * gap:
        raise ArgumentError("slices", f"at least {len(PARTS) * (gap + 1) - gap} at {spacing:g} mm", slices)
    found: dict[str, list[slice]] = {part: [] for part in PARTS}
    for stretch in range(stretches):
        start = stretch * length
        for index in rng.permutation(len(PARTS)):
            found[PARTS[index]].append(slice(start, start + counts[index]))
            start += counts[index] + gap
    return found


def insert_spheres(
    rng: np.random.Generator, hounsfield: np.ndarray, pixel: float, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """CT numbers with spheres in soft tissue, and the part of each pixel that is in one.

    Args:
      rng: source of randomness.
      hounsfield: (slices, ny, nx).
      pixel, spacing: edge of a pixel and distance of slices, mm.
    """
    image = hounsfield.astype(np.float32)
    soft = (image > _SOFT[0]) & (image < _SOFT[1])
    total = np.zeros(image.shape, np.float32)
    places = np.argwhere(soft)
    count = max(round(len(image) * spacing / _APART), 1) if len(places) else 0
    for radius in rng.uniform(*_RADII, count):
        # Of some places the one with the most soft tissue around it.
        found = [
            _sphere(image.shape, center, radius, pixel, spacing)
            for center in places[rng.integers(0, len(places), 16)]
        ]
        box, best = max(found, key=lambda each: float((each[1] * soft[each[0]]).sum() / each[1].sum()))
        total[box] = np.maximum(total[box], best)
    return image + total * (SPHERE_HU - image), total


def _measured(
    site: CTSite, body: _Body, blocks: list[slice], size: int, rng: np.random.Generator, ill: bool
) -> dict[str, np.ndarray]:
    """Examples of the slices of some blocks, with spheres if ``ill``."""
    stacks = []
    for block in blocks:
        image = body.hounsfield[block].astype(np.float32)
        clear = image, np.zeros_like(image)
        stacks.append(insert_spheres(rng, image, body.pixel, body.spacing) if ill else clear)
    hounsfield, spheres = (np.concatenate(x) for x in zip(*stacks, strict=True))
    relative = _on_grid(np.maximum(1 + hounsfield / 1000, 0), size)
    return measure_ct(site, relative, _on_grid(spheres, size), rng)


def _sphere(
    shape: tuple[int, ...], center: np.ndarray, radius: float, pixel: float, spacing: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of a sphere in an array, and the part of its pixels that is inside."""
    steps = (spacing, pixel, pixel)
    reach = [int(np.ceil(radius / step)) + 1 for step in steps]
    box = tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(center, reach, strict=True))
    grids = np.ogrid[tuple(slice(s.start, min(s.stop, n)) for s, n in zip(box, shape, strict=True))]
    squares = sum(((g - c) * step) ** 2 for g, c, step in zip(grids, center, steps, strict=True))
    return box, np.clip((radius - np.sqrt(squares)) / pixel + 0.5, 0, 1).astype(np.float32)


def _read(folder: Path, manifest: Path, source: Source) -> _Body:
    where = f"sites of {source.name}"
    if source.reader != "hdf5" or len(source.files) != 1 or set(source.keys) != {"image"}:
        raise DataError(manifest, where, "the reader hdf5, one file and the key image", source.reader)
    path = folder / source.files[0].file
    with open_hdf5(path) as file:
        image = read_array(file, source.keys["image"], kinds="iuf", dtype=np.float32, ndim=3)
        spacings = []
        for name, count in (("pixel_spacing_mm", 2), ("slice_spacing_mm", 1)):
            values = np.ravel(np.asarray(file.attrs.get(name, np.nan), float))
            if len(values) != count or not (values > 0).all() or not np.isfinite(values).all():
                raise DataError(path, name, f"{count} positive numbers as an attribute", values.tolist())
            spacings.append(values)
    if spacings[0][0] != spacings[0][1]:
        raise DataError(path, "pixel_spacing_mm", "square pixels", spacings[0].tolist())
    name = source.files[0].patient or path.stem
    return _Body(name, image, float(spacings[0][0]), float(spacings[1][0]))


def _edge(images: np.ndarray) -> int:
    return 1 << (max(images.shape[1:]) - 1).bit_length()


def _on_grid(images: np.ndarray, size: int) -> np.ndarray:
    """Images in the middle of a square, (slices, fine, fine) with fine = OVERSAMPLING * size."""
    edge, fine = _edge(images), OVERSAMPLING * size
    margins = [(edge - n) // 2 for n in images.shape[1:]]
    width = [(m, edge - n - m) for m, n in zip(margins, images.shape[1:], strict=True)]
    square = np.pad(images, [(0, 0), *width])
    if edge <= fine:
        return square.repeat(fine // edge, 1).repeat(fine // edge, 2)
    block = edge // fine
    return square.reshape(-1, fine, block, fine, block).mean((2, 4))
