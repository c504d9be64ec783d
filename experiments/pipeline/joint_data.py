"""Cohorts with measurements, masks and diagnoses of the same patients, for joint training.

Hearts of patients with simulated scanners, heads with simulated lesions, simulated CT with lesions, and
clinical CT with inserted ones.
Measurements of MRI are kept fully sampled with the mask of the evaluation beside them: training draws masks
of its own.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data import (
    ClientData,
    Cohort,
    DataError,
    simulate_ct_cohort,
    simulate_mri_patient,
    split_patients,
    stack_clients,
)
from fedrecon.data.measured import load_clinical_ct
from fedrecon.data.simulation import brain_hospitals, chest_coils
from fedrecon.tasks import measure_of, mri_measure
from fedrecon.training import FlagError
from fedrecon.types import Batch
from operators import ifft2c, random_mask
from operators.mri import coil_combine, estimate_coil_maps

HEARTS = "multisite/sunnybrook_cardiac.h5"
DATA = ("sunnybrook", "lesions", "ct", "clinical_ct")
# Parts of a site's patients for training, validation and test.
FRACTIONS = (1 / 2, 1 / 6, 1 / 3)
GROUPS = ("HF-I", "HF-NI", "HYP", "N")
# Fully sampled part of the columns, and lines of the prescan that coil maps come from.
CENTER, PRESCAN = 1 / 16, 12
# Part of the rounds after which training masks have the acceleration of the test.
LATE = 0.6
_CHUNK = 8


class Scanner(NamedTuple):
    """A simulated scanner of the hearts: coils, contrast (a power of the image), signal to noise."""

    name: str
    coils: int
    gamma: float
    snr: float


SCANNERS = (
    Scanner("scanner A", 4, 1.0, 30.0),
    Scanner("scanner B", 5, 0.8, 20.0),
    Scanner("scanner C", 6, 1.25, 40.0),
    Scanner("scanner D", 4, 0.9, 25.0),
    Scanner("scanner E", 5, 1.1, 15.0),
)


class JointData(NamedTuple):
    """What is trained, validated and tested; no patient is in two of them.

    Attributes:
      train, validation, test: the same sites, with "volume" the number of the patient in the part.
      patients: part -> site -> names of the patients, by the number of the volume.
      groups: name of a patient -> diagnosis.
      phase: name of the entry that tells the two phases of a heart apart; empty without.
      notes: what a reader must know.
    """

    train: ClientData
    validation: ClientData
    test: ClientData
    patients: Mapping[str, tuple[tuple[str, ...], ...]]
    groups: Mapping[str, str]
    notes: str


def load(data: str, folder: str, size: int, acceleration: float, patients: int, seed: int) -> JointData:
    """The cohort of a name.

    Args:
      data: one of `DATA`.
      folder: of the public files; of hearts and clinical CT.
      size: edge of the images.
      acceleration: of the evaluation's masks; of CT the part of 96 views that is left out.
      patients: mean number of simulated patients of a site; of clinical CT the copies of each body.
      seed: of noise, masks, coils and division of the patients.

    Raises:
      DataError: the file is not there or not as described.
    """
    if data == "sunnybrook":
        return hearts(Path(folder), size, acceleration, seed)
    if data == "lesions":
        return lesions(size, acceleration, patients, seed)
    if data == "clinical_ct":
        return clinical_ct(folder, size, acceleration, patients, seed)
    return ct(size, acceleration, patients, seed)


def hearts(folder: Path, size: int, acceleration: float, seed: int) -> JointData:
    """Thirty patients of Sunnybrook, divided over five simulated scanners by turns within diagnoses."""
    path = folder / HEARTS
    if not path.exists():
        raise DataError(path, None, "the hearts of Sunnybrook", "no such file")
    try:
        with h5py.File(path) as file:
            image, mask = (np.asarray(file[name], np.float32) for name in ("image", "mask"))
            names, groups = (np.asarray(file[name]).astype(str) for name in ("patient_id", "group"))
            frames = np.asarray(file["frame"])
    except (OSError, KeyError) as error:
        raise DataError(path, None, "image, mask, patient_id, group and frame", error) from error
    image, mask = (_central(x, size) for x in (image / 255, mask))
    order = sorted(set(names), key=lambda name: (groups[names == name][0], name))
    site_of = {name: number % len(SCANNERS) for number, name in enumerate(order)}
    sites = np.asarray([SCANNERS[site_of[name]].name for name in names])
    parts = split_patients(names, FRACTIONS, seed, sites)
    # Twenty frames of a heartbeat are numbered on from slice to slice; it begins at end-diastole.
    systole = ((frames % 20 > 3) & (frames % 20 < 16)).astype(np.int32)
    volumes: dict[str, dict[str, np.ndarray]] = {}
    for name in order:
        here = names == name
        number = GROUPS.index(groups[here][0])
        scan = _scan(SCANNERS[site_of[name]], image[here], name, seed)
        volumes[name] = _examples(*scan, mask[here] >= 0.5, acceleration, f"{seed} {name}") | {
            "systole": systole[here],
            "group": np.full(int(here.sum()), number, np.int32),
        }
    chosen = [sorted(set(names[part])) for part in parts]
    stacked = _stack(volumes, chosen, [s.name for s in SCANNERS], lambda name: SCANNERS[site_of[name]].name)
    notes = (
        "Hearts of 30 patients of one hospital, expert masks of the cavity; the five scanners (coils, "
        "contrast, phase, noise) and the undersampling are simulated from magnitude images."
    )
    return JointData(*stacked, {name: groups[names == name][0] for name in order}, notes)


def lesions(size: int, acceleration: float, patients: int, seed: int) -> JointData:
    """Heads of five simulated scanners; some patients have lesions."""
    sites, _ = brain_hospitals(5, patients, size_skew=0.0, seed=seed)
    volumes, site_of, groups = {}, {}, {}
    coils = max(site.coils for site in sites)
    for site in sites:
        full = dataclasses.replace(site, acceleration=1.0, mask="random")
        for patient in range(site.patients):
            ill = patient < round(site.prevalence * site.patients)
            scan = simulate_mri_patient(full, patient, ill, (size, size), 6, seed, coils)
            name = f"{site.name}-{patient:02}"
            volumes[name] = _examples(
                scan.kspace, scan.reconstruction_rss, scan.segmentation, acceleration, f"{seed} {name}"
            ) | {"group": np.full(len(scan.kspace), int(scan.segmentation.any()), np.int32)}
            site_of[name], groups[name] = site.name, "lesion" if scan.segmentation.any() else "none"
    names = sorted(volumes)
    parts = split_patients(names, FRACTIONS, seed, [site_of[name] for name in names])
    chosen = [[names[i] for i in part] for part in parts]
    stacked = _stack(volumes, chosen, [site.name for site in sites], lambda name: site_of[name])
    return JointData(*stacked, groups, "Simulated heads, lesions and scanners.")


def ct(size: int, acceleration: float, patients: int, seed: int) -> JointData:
    """Simulated CT of five scanners with few views; some patients have lesions."""
    views = ct_views(acceleration)
    return _with_groups(
        simulate_ct_cohort(5, patients, 6, (size, size), views=views, size_skew=0.0, seed=seed)
    )


def clinical_ct(folder: str, size: int, acceleration: float, copies: int, seed: int) -> JointData:
    """CT of two patients seen again with few views, in each copy with other spheres; a quarter has none."""
    views = ct_views(acceleration)
    healthy = copies // 4
    return _with_groups(
        load_clinical_ct(folder, size=size, views=views, seed=seed, copies=copies, healthy=healthy)
    )


def ct_views(acceleration: float) -> int:
    """Views of CT over 180 degrees."""
    return max(round(96 / acceleration), 4)


def _with_groups(cohort: Cohort) -> JointData:
    """A cohort of CT with the diagnosis of every volume: whether there is a lesion."""
    groups: dict[str, str] = {}
    parts = {}
    for part in ("train", "validation", "test"):
        data: ClientData = getattr(cohort, part)
        examples = dict(data.examples)
        group = np.zeros(data.valid.shape, np.int32)
        for site, names in enumerate(cohort.patients[part]):
            for number, name in enumerate(names):
                here = np.asarray(data.valid[site]) & (np.asarray(examples["volume"][site]) == number)
                ill = bool(np.asarray(examples["segmentation"][site])[here].any())
                group[site, here], groups[name] = int(ill), "lesion" if ill else "none"
        parts[part] = ClientData({**examples, "group": group}, data.valid, data.names)
    return JointData(**parts, patients=cohort.patients, groups=groups, notes=cohort.notes)


def measure_full(batch: Batch) -> Any:
    """The measurement under the example's mask, of fully sampled MRI; of CT what `measure_of` finds."""
    if "sinogram" in batch:
        return measure_of(batch)(batch)
    return mri_measure({**batch, "kspace": batch["kspace"] * batch["mask"][:, None]})


def random_masks(acceleration: float, ramp: bool) -> Any:
    """``augment(key, batch)``: another mask of the same acceleration for every example of every step.

    With ``ramp`` half the acceleration until `LATE` of the rounds is over ("progress" of the batch).
    """

    def augment(key: jax.Array, batch: Batch) -> Batch:
        if "sinogram" in batch:
            return batch
        count, ny, nx = batch["mask"].shape
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))

        def draw(factor: float) -> jax.Array:
            return jax.vmap(lambda k: random_mask(k, nx, factor, CENTER, exact=True))(keys)

        columns = draw(acceleration)
        if ramp and "progress" in batch:
            early = (batch["progress"] < LATE)[:, None]
            columns = jnp.where(early, draw(max(acceleration / 2, 1.0)), columns)
        return {**batch, "mask": jnp.broadcast_to(columns[:, None], (count, ny, nx))}

    return augment


def shifted(data: ClientData, acceleration: float, noise: float, seed: int) -> ClientData:
    """Test data with other masks and more noise (a factor of the deviation that is estimated in k-space)."""
    kspace, shape = np.asarray(data.examples["kspace"]), data.examples["mask"].shape
    mask = np.zeros(shape, np.float32)
    for place in np.ndindex(shape[:2]):
        key = _key(f"shift {seed} {place}")
        mask[place] = np.asarray(random_mask(key, shape[-1], acceleration, CENTER, exact=True))
    if noise > 1:
        rng = np.random.default_rng([seed, 7])
        corner = kspace[..., :4, :4]
        present = (np.abs(kspace).max((-1, -2), keepdims=True) > 0).astype(np.float32)
        sigma = np.sqrt((np.abs(corner) ** 2).mean((-1, -2), keepdims=True) / 2)
        drawn = rng.standard_normal((2, *kspace.shape), np.float32)
        added = np.sqrt(noise**2 - 1) * sigma * present * (drawn[0] + 1j * drawn[1])
        kspace = (kspace + added).astype(np.complex64)
    return ClientData({**data.examples, "mask": mask, "kspace": kspace}, data.valid, data.names)


def _central(images: np.ndarray, size: int) -> np.ndarray:
    """The central half of each image, averaged to ``size`` x ``size`` pixels."""
    edge = images.shape[-1] // 2
    factor = edge // size
    if factor < 1 or edge % size:
        raise FlagError("image_size", f"a divisor of {edge}", size)
    low = images.shape[-1] // 4
    part = images[:, low : low + edge, low : low + edge]
    return part.reshape(len(part), size, factor, size, factor).mean((2, 4))


def _key(text: str) -> jax.Array:
    return jax.random.key(zlib.crc32(text.encode()) >> 1)


def _scan(scanner: Scanner, image: np.ndarray, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fully sampled noisy k-space (slices, coils, n, n) of magnitudes, and the reference without noise."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    size = image.shape[-1]
    # The images are the central half of a field of view of 340 mm.
    maps = np.asarray(chest_coils(rng, scanner.coils, (2 * size, 2 * size), 340.0))
    maps = maps[:, size // 2 : size // 2 + size, size // 2 : size // 2 + size]
    maps = np.pad(maps, ((0, max(s.coils for s in SCANNERS) - scanner.coils), (0, 0), (0, 0)))
    y, x = np.meshgrid(*(np.linspace(-1, 1, size),) * 2, indexing="ij")
    tilt = rng.uniform(-1, 1, 5)
    phase = tilt @ np.stack([x.ravel(), y.ravel(), (x * y).ravel(), (x**2).ravel(), (y**2).ravel()])
    contrast = np.clip(image, 0, None) ** scanner.gamma * np.exp(1j * phase.reshape(size, size))
    coil_images = maps * contrast[:, None]
    reference = np.sqrt((np.abs(coil_images) ** 2).sum(1))
    sigma = reference[reference > 0.1 * reference.max()].mean() / scanner.snr
    noise = rng.standard_normal((2, *coil_images.shape))
    present = np.abs(maps).max((1, 2))[:, None, None] > 0
    shifted = np.fft.ifftshift(coil_images, axes=(-2, -1))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))
    return (kspace + sigma * present * (noise[0] + 1j * noise[1])).astype(np.complex64), reference


def _examples(
    kspace: np.ndarray, reference: np.ndarray, marked: np.ndarray, acceleration: float, name: str
) -> dict[str, np.ndarray]:
    """Examples of a volume: maps of a prescan of the center, a mask, one scale made of what is measured."""
    n = kspace.shape[-1]
    middle = slice(n // 2 - PRESCAN // 2, n // 2 + PRESCAN // 2)
    prescan = np.zeros_like(kspace)
    prescan[..., middle, middle] = kspace[..., middle, middle]
    columns = random_mask(_key(name), n, acceleration, CENTER, exact=True)
    mask = np.broadcast_to(np.asarray(columns, np.float32), (len(kspace), n, n))
    maps, zero_filled = _estimated(prescan, kspace * mask[:, None])
    scale = np.float32(np.percentile(zero_filled, 99))
    target = (np.asarray(reference) / scale).astype(np.float32)
    return {
        "kspace": (kspace / scale).astype(np.complex64),
        "mask": np.array(mask),
        "coil_maps": maps,
        "target": target,
        "data_range": np.full(len(kspace), target.max(), np.float32),
        "segmentation": np.asarray(marked, np.float32),
    }


def _estimated(prescan: np.ndarray, kspace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coil maps (slices, coils, n, n), and magnitudes of the zero-filled images (slices, n, n)."""
    parts = []
    for start in range(0, len(kspace), _CHUNK):
        # One shape, which compiles once.
        part = [x[start : start + _CHUNK] for x in (prescan, kspace)]
        padded = [np.pad(x, ((0, _CHUNK - len(x)), (0, 0), (0, 0), (0, 0))) for x in part]
        parts.append(tuple(np.asarray(x)[: len(part[0])] for x in _combine(*padded)))
    maps, images = (np.concatenate(x) for x in zip(*parts, strict=True))
    return maps, images


@jax.jit
def _combine(prescan: jax.Array, kspace: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps = estimate_coil_maps(prescan, (PRESCAN, PRESCAN))
    return maps, jnp.abs(coil_combine(ifft2c(kspace), maps))


def _stack(
    volumes: Mapping[str, dict[str, np.ndarray]],
    parts: Sequence[Sequence[str]],
    sites: Sequence[str],
    of: Any,
) -> tuple[ClientData, ClientData, ClientData, dict[str, tuple[tuple[str, ...], ...]]]:
    stacked, patients = [], {}
    for part, names in zip(("train", "validation", "test"), parts, strict=True):
        own = [[name for name in names if of(name) == site] for site in sites]
        clients = []
        for members in own:
            numbered = [
                volumes[name] | {"volume": np.full(len(volumes[name]["mask"]), i, np.int32)}
                for i, name in enumerate(members)
            ]
            clients.append({key: np.concatenate([v[key] for v in numbered]) for key in numbered[0]})
        stacked.append(stack_clients(clients, sites))
        patients[part] = tuple(map(tuple, own))
    return (*stacked, patients)
