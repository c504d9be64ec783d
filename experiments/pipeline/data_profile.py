"""What sites have, in counts and histograms that add: the sums behind `experiments.data_report`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.pipeline.federated_data import FederatedData
from fedrecon.data import ClientData
from fedrecon.data.folders import Faults, Volume, find_manifest, list_items, load_volumes
from fedrecon.data.formats import Scanner, file_format, read_fastmri, read_scanner
from fedrecon.errors import ArgumentError
from fedrecon.evaluation import Released, add_released, release_counts

# Answers of volumes that do not say.
UNKNOWN = "not said"
# Intensities by sign and magnitude, twenty bins a decade; ratios of signal to noise in dB.
_MAGNITUDES = np.logspace(-12, 8, 401)
INTENSITY_EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])
SNR_EDGES = np.arange(-20.0, 101.0)
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
# Of the brightest: what is darker is background; and of a normal variable's absolute value the median.
_OBJECT, _MEDIAN = 0.1, 0.6745


class Record(NamedTuple):
    """One volume.

    Attributes:
      patient: whose it is.
      slices: their number.
      answers: question -> answer.
      images: (slices, ny, nx), real.
    """

    patient: str
    slices: int
    answers: dict[str, str]
    images: np.ndarray


class Profile(NamedTuple):
    """Sums over the volumes of a site; all but ``patients`` add over its parts.

    Attributes:
      patients, volumes, slices: their numbers.
      counts: question -> answer -> volumes.
      intensities: of pixels, int64 by ``INTENSITY_EDGES``.
      snr: of volumes, int64 by ``SNR_EDGES``.
    """

    patients: int
    volumes: int
    slices: int
    counts: dict[str, dict[str, int]]
    intensities: np.ndarray
    snr: np.ndarray


def profile(records: Iterable[Record]) -> Profile:
    """The sums of one site."""
    patients, slices, volumes = set(), 0, 0
    counts: dict[str, Counter] = {}
    intensities = np.zeros(len(INTENSITY_EDGES) - 1, np.int64)
    ratios = []
    for record in records:
        patients.add(record.patient)
        slices, volumes = slices + record.slices, volumes + 1
        for question, answer in record.answers.items():
            counts.setdefault(question, Counter())[answer] += 1
        pixels = np.clip(record.images, INTENSITY_EDGES[0], INTENSITY_EDGES[-1])
        intensities += np.histogram(pixels, INTENSITY_EDGES)[0]
        ratios.append(signal_to_noise(record.images))
    known = np.clip([ratio for ratio in ratios if np.isfinite(ratio)], SNR_EDGES[0], SNR_EDGES[-1])
    snr = np.histogram(known, SNR_EDGES)[0].astype(np.int64)
    return Profile(
        len(patients), volumes, slices, {q: dict(of) for q, of in counts.items()}, intensities, snr
    )


def signal_to_noise(images: np.ndarray) -> float:
    """Mean over standard deviation of the noise in dB, of what is brighter than a tenth of the brightest.

    The noise is that of the diagonal details of blocks of 2 x 2 pixels, by their median (Donoho and
    Johnstone, Biometrika 81, 1994): fine texture counts as noise. NaN where there is no noise, or no object.

    Args:
      images: (slices, ny, nx), of two pixels a side at least.
    """
    ny, nx = (n // 2 * 2 for n in images.shape[1:])
    corners = [images[:, i:ny:2, j:nx:2].astype(np.float64) for i in (0, 1) for j in (0, 1)]
    means = sum(corners) / 4
    detail = np.abs(corners[0] - corners[1] - corners[2] + corners[3]) / 2
    bright = means > _OBJECT * np.quantile(means, 0.99) if means.size else np.zeros(0, bool)
    noise = np.median(detail[bright]) / _MEDIAN if bright.any() else 0.0
    return float(20 * np.log10(means[bright].mean() / noise)) if noise > 0 else float("nan")


def quantiles(histogram: np.ndarray, edges: np.ndarray, at: Iterable[float]) -> list[float] | None:
    """Quantiles of what was counted, linear within a bin, of two digits; None where nothing was."""
    total = histogram.sum()
    if not total:
        return None
    reached = np.concatenate([[0], np.cumsum(histogram)]) / total
    found = []
    for part in at:
        place = min(int(np.searchsorted(reached, part, side="right")), len(edges) - 1)
        low, high = reached[place - 1], reached[place]
        inside = (part - low) / (high - low) if high > low else 0.0
        value = edges[place - 1] + inside * (edges[place] - edges[place - 1])
        found.append(float(f"{value:.2g}"))
    return found


def of_volumes(volumes: Iterable[Volume]) -> Iterator[Record]:
    """Records of volumes in files; scanners are those that files name."""
    for volume in volumes:
        answers = {"matrix": _size(volume.matrix), "kind": volume.unit or UNKNOWN}
        scanner = Scanner() if volume.path is None else read_scanner(volume.path)
        answers |= {"vendor": scanner.vendor or UNKNOWN}
        answers |= {"field": UNKNOWN if scanner.field is None else f"{scanner.field:.1f} T"}
        if volume.kspace is not None:
            answers["coils"] = str(volume.kspace.shape[1])
            answers["acceleration"] = acceleration(volume.sampling)
        yield Record(volume.patient, volume.slices, answers, _images(volume))


def of_folder(data_dir: str, *, skip_bad: bool = False) -> dict[str, list[Record]]:
    """Records of all files of a folder of hospitals, by site.

    Undersampled fastMRI files without a reference, as those of its test sets, count, too; no training reads
    them.

    Raises:
      DataError: a file has a fault, unless ``skip_bad``.
    """
    loaded = load_volumes(data_dir, None, skip_bad=True)
    found = {name: list(of_volumes(volumes)) for name, volumes in loaded.volumes.items()}
    items = {item.path: item for item in list_items(find_manifest(data_dir), Faults(True))}
    for error in loaded.skipped:
        item = items.get(Path(error.path))
        if item is not None and item.path.is_file() and file_format(item.path) == "fastMRI":
            volume = read_fastmri(item.path, single_coil=None)
            if volume.mask is not None and volume.reconstruction_rss is None:
                sampled = {"kspace": volume.kspace, "sampling": volume.mask, "unit": "k-space"}
                undersampled = Volume(item.site, item.patient, None, item.name, item.path, **sampled)
                found.setdefault(item.site, []).extend(of_volumes([undersampled]))
                continue
        if not skip_bad:
            raise error
    return found


def of_clients(data: FederatedData) -> dict[str, list[Record]]:
    """Records of the clients of a training, of all their parts."""
    found: dict[str, list[Record]] = {name: [] for name in data.train.names}
    parts = {"train": data.train, "validation": data.validation, "test": data.test, "unseen": data.unseen}
    for part, clients in parts.items():
        for index, name in enumerate(() if clients is None else clients.names):
            found.setdefault(name, []).extend(_of_client(clients, index, part))
    return found


def acceleration(mask: np.ndarray | None) -> str:
    """How many times fewer samples than a full grid has, to a half; of a mask (..., ny, nx), None is full."""
    measured = 1.0 if mask is None else float(np.mean(np.asarray(mask) > 0))
    return f"{round(2 / measured) / 2:.1f}" if measured else UNKNOWN


def document(profiles: Mapping[str, Profile], minimum: int) -> dict[str, Any]:
    """What the sites release, and the sums of it, JSON-able.

    Args:
      profiles: of the sites.
      minimum: the least count that is told. Sites of fewer volumes tell no quantiles either.

    Raises:
      ValueError: there is no site.
    """
    if not profiles:
        raise ArgumentError("profiles", "at least one site", "none")
    released = {name: release_counts(p.volumes, p.counts, minimum) for name, p in profiles.items()}
    sites = {name: _site(p, released[name], minimum) for name, p in profiles.items()}
    told = [p for name, p in profiles.items() if released[name].total is not None]
    whole = _figures(told)
    whole |= {kind: _sum(site[kind] for site in sites.values()) for kind in ("patients", "slices")}
    sums = add_released(released)
    return {
        "minimum": minimum,
        "sites": sites,
        "all": {"volumes": sums.total, "counts": sums.counts, **whole},
    }


def _site(profile: Profile, released: Released, minimum: int) -> dict[str, Any]:
    numbers = {"patients": profile.patients, "slices": profile.slices}
    told = [] if released.total is None else [profile]
    # Of few volumes the slices would tell how many.
    shown = {kind: number if told and number >= minimum else None for kind, number in numbers.items()}
    return {"volumes": released.total, "counts": released.counts, **shown, **_figures(told)}


def _figures(profiles: list[Profile]) -> dict[str, Any]:
    """Quantiles of added histograms."""
    intensities = sum((p.intensities for p in profiles), np.zeros(len(INTENSITY_EDGES) - 1, np.int64))
    snr = sum((p.snr for p in profiles), np.zeros(len(SNR_EDGES) - 1, np.int64))
    return {
        "intensity_quantiles": quantiles(intensities, INTENSITY_EDGES, QUANTILES),
        "snr_db_quartiles": quantiles(snr, SNR_EDGES, (0.25, 0.5, 0.75)),
    }


def _sum(numbers: Iterable[int | None]) -> int | None:
    shown = [number for number in numbers if number is not None]
    return sum(shown) if shown else None


def _of_client(clients: ClientData, index: int, part: str) -> Iterator[Record]:
    valid = np.asarray(clients.valid[index])
    mine = {name: np.asarray(x[index])[valid] for name, x in clients.examples.items()}
    images = mine.get("target", mine.get("image"))
    if images is None or not len(images):
        return
    volumes = mine.get("volume", np.arange(len(images)))
    for number in np.unique(volumes):
        inside = volumes == number
        shown = np.abs(images[inside]) if np.iscomplexobj(images) else images[inside]
        shown = shown.mean(-1) if shown.ndim == 4 else shown
        answers = {"matrix": _size(shown.shape[1:])}
        if "coil_maps" in mine:
            # Coils that a site lacks are zero.
            answers["coils"] = str(int(np.any(mine["coil_maps"][inside], axis=(0, -2, -1)).sum()))
        if "mask" in mine:
            answers["acceleration"] = acceleration(mine["mask"][inside])
        if "sinogram" in mine:
            answers["views"] = str(int(mine["view_mask"][inside][0].sum()))
        yield Record(f"{part} {number}", int(inside.sum()), answers, shown)


def _images(volume: Volume) -> np.ndarray:
    if volume.reference is not None:
        return volume.reference
    if volume.kspace is not None:
        axes = (-2, -1)
        coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(volume.kspace, axes), norm="ortho"), axes)
        root: np.ndarray = np.sqrt(np.sum(np.abs(coils) ** 2, 1))
        return root
    assert volume.image is not None, "one of both is there"
    return volume.image.mean(-1)


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
