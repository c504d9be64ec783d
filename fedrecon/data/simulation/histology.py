"""Simulated slides of stained tissue with clusters of lymphocytes, at sites whose stains differ.

Fields and dots in two stains, not tissue: they show that what is done with slides works, and no more.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedrecon.data.clients import FRACTIONS, PARTS, Cohort, split_patients, stack_parts, tile_slide
from fedrecon.errors import ArgumentError

# Optical densities (red, green, blue) of hematoxylin and eosin (Ruifrok and Johnston 2001).
STAINS = np.asarray([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
# Mean and deviation of optical densities after `normalized_stain`.
_DENSITY, _SPREAD = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class SlideSite:
    """A site, for instance all slides of one organ.

    Attributes:
      name: of the client.
      strength: factors of both stains.
      tint: what is added to `STAINS`, by stain and color.
      infiltrated: mean part of the tissue with lymphocytes.
      cells: mean part of its pixels where nuclei of other cells begin.
    """

    name: str
    strength: tuple[float, ...]
    tint: tuple[tuple[float, ...], ...]
    infiltrated: float
    cells: float


class Slide(NamedTuple):
    """A slide.

    Attributes:
      image: float32 (ny, nx, 3), transmitted light between 0 and 1.
      tissue: bool (ny, nx).
      infiltrated: bool (ny, nx), tissue with lymphocytes.
    """

    image: np.ndarray
    tissue: np.ndarray
    infiltrated: np.ndarray


def slide_sites(count: int, *, shift: float = 0.3, seed: int = 0) -> tuple[SlideSite, ...]:
    """Sites with stains, numbers of cells and frequencies of lymphocytes of their own.

    Args:
      count: of sites.
      shift: logarithms of factors of stains are within ± this, a third of it is added to colors; 0 is one
        stain for all.
      seed: of the draws; site k's do not depend on the number of sites.

    Raises:
      ValueError: arguments out of range.
    """
    if count < 1:
        raise ArgumentError("count", "a positive number", count)
    if not shift >= 0:
        raise ArgumentError("shift", "a number of at least 0", shift)
    sites = []
    for number in range(count):
        rng = np.random.default_rng([seed, 31, number])
        strength, tint = np.exp(rng.uniform(-shift, shift, 2)), rng.uniform(-shift, shift, (2, 3)) / 3
        sites.append(
            SlideSite(
                f"site{number}",
                tuple(strength.tolist()),
                tuple(map(tuple, tint.tolist())),
                float(rng.uniform(0.15, 0.5)),
                float(rng.uniform(0.01, 0.03)),
            )
        )
    return tuple(sites)


def simulate_slide(site: SlideSite, shape: tuple[int, int], rng: np.random.Generator) -> Slide:
    """A slide of a site: tissue with large nuclei everywhere, and small dense ones where it is infiltrated.

    Args:
      site: where it is stained.
      shape: (ny, nx) in pixels.
      rng: of its draws.
    """

    def smooth(width: float) -> np.ndarray:
        ky, kx = (np.fft.fftfreq(size) for size in shape)
        window = np.exp(-2 * (np.pi * width) ** 2 * (ky[:, None] ** 2 + kx**2))
        field = np.fft.ifft2(window * np.fft.fft2(rng.normal(size=shape))).real
        return (field - field.mean()) / max(field.std(), 1e-9)

    y, x = (np.linspace(-1, 1, size) for size in shape)
    edge = y[:, None] ** 2 + x**2 + 0.2 * smooth(max(shape) / 8)
    tissue = edge < np.quantile(edge, 0.6)
    field = smooth(max(shape) / 12)
    part = np.clip(site.infiltrated * rng.uniform(0.5, 1.5), 0, 1)
    infiltrated = tissue & (field > np.quantile(field[tissue], 1 - part))
    large = _grown(_grown(rng.random(shape) < site.cells))
    small = _grown((rng.random(shape) < 0.12) & infiltrated)
    hematoxylin = 0.15 + 0.5 * large + 0.9 * small
    eosin = 0.5 + 0.1 * smooth(2)
    amounts = np.stack([hematoxylin, eosin], -1) * tissue[..., None] * np.asarray(site.strength)
    density = np.maximum(amounts @ np.maximum(STAINS + np.asarray(site.tint), 0), 0)
    image = np.exp(-density) + 0.01 * rng.normal(size=(*shape, 3))
    return Slide(np.clip(image, 0.02, 1).astype(np.float32), tissue, infiltrated)


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask with its four neighbors, across edges, too."""
    return mask | np.any([np.roll(mask, step, axis) for step in (-1, 1) for axis in (0, 1)], axis=0)


def normalized_stain(image: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """The slide with optical densities of one mean and deviation in every color, of its tissue.

    As Reinhard et al. (2001) transfer colors, in optical density. It undoes factors of single colors and
    offsets of their density, not stains that are mixed otherwise.

    Args:
      image: (ny, nx, 3) transmitted light, above 0.
      tissue: bool (ny, nx), some of it True.

    Returns:
      float32 densities like ``image``; 0 outside of tissue.
    """
    density = -np.log(np.asarray(image, np.float64))
    inside = density[tissue]
    scaled = (density - inside.mean(0)) / np.maximum(inside.std(0), 1e-9)
    return np.where(tissue[..., None], _DENSITY + _SPREAD * scaled, 0).astype(np.float32)


def simulate_slide_cohort(
    sites: int = 8,
    slides_per_site: int = 6,
    *,
    edge: int = 16,
    tiles: int = 8,
    shift: float = 0.3,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
) -> Cohort:
    """Tiles of simulated slides, with and without lymphocytes; every slide is of a patient of its own.

    Examples: ``image`` (edge, edge, 3) float32, normalized densities; ``label`` () int32, 1 where half of the
    tissue of a tile or more is infiltrated; ``corner`` (2,) int32, for `heat_map`; ``volume`` () int32.

    Args:
      sites: their number.
      slides_per_site: of every site, at least 3.
      edge: of tiles, in pixels.
      tiles: along an edge of a slide.
      shift: of stains, as in `slide_sites`.
      fractions: of each site's slides in training, validation and test.
      seed: of everything.

    Raises:
      ValueError: arguments out of range.
    """
    plan = slide_sites(sites, shift=shift, seed=seed)
    volumes: dict[str, list] = {part: [] for part in PARTS}
    names: dict[str, list[tuple[str, ...]]] = {part: [] for part in PARTS}
    for number, site in enumerate(plan):
        slides = [f"{site.name}-slide{i}" for i in range(slides_per_site)]
        found = [_tiles(site, edge, tiles, np.random.default_rng([seed, 32, number, i]))
                 for i in range(slides_per_site)]  # fmt: skip
        for part, members in zip(PARTS, split_patients(slides, fractions, seed), strict=True):
            volumes[part].append([found[i] for i in members])
            names[part].append(tuple(slides[i] for i in members))
    return Cohort(
        **stack_parts(volumes, [site.name for site in plan]),
        sites=plan,
        image_shape=(edge, edge),
        patients={part: tuple(ids) for part, ids in names.items()},
        notes="Simulated slides of fields and dots: shows that a method works, not how well on tissue.",
    )


def _tiles(site: SlideSite, edge: int, tiles: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    slide = simulate_slide(site, (edge * tiles, edge * tiles), rng)
    cut = tile_slide(normalized_stain(slide.image, slide.tissue), slide.tissue, edge)
    inside = tile_slide(slide.infiltrated[..., None], slide.tissue, edge).images[..., 0]
    label = 2 * inside.sum((1, 2)) >= cut.tissue.sum((1, 2))
    return {"image": cut.images, "label": label.astype(np.int32), "corner": cut.corners}
