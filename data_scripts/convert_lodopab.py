"""LoDoPaB-CT, as it is published, as files of patients in folders of hospitals that training programs read.

SOURCE holds observation_PART.zip, or the HDF5 files of 128 slices that are in it, and the table of the
slices' patients, patient_ids_rand_PART.csv (https://zenodo.org/records/3384092). A patient's slices lie
scattered over the blocks; OUTPUT gets one file of the same layout for each patient, in folders of --sites
hospitals that patients are drawn for, which cohort.json describes. Blocks that were read are listed in
converted.json; the same command continues an interrupted conversion, and does nothing after the last.

  python -m data_scripts.convert_lodopab --source=lodopab --output=ct --sites=5
  python -m experiments.train_recon --workdir=runs/ct --data_dir=ct --network=primal-dual

The observations are measured again from images of clinical CT at a low dose: simulated, with real anatomies.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from absl import flags

from fedrecon.data import DataError
from fedrecon.data.formats import open_hdf5, read_array
from fedrecon.files import replacing, write_atomically
from fedrecon.runtime import Progress, ending, run_program

PARTS = ("train", "validation", "test")
STATE = "converted.json"
_STAGING = ".staging"
_NOTES = (
    "LoDoPaB-CT: measurements simulated at a low dose from clinical CT of the LIDC/IDRI database; the "
    "hospitals are drawn, patients of all are of the same sources."
)


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("source", None, "Folder of the published files.", required=True)
    flags.DEFINE_string("output", None, "Folder to write; continued if there is one.", required=True)
    flags.DEFINE_enum("part", "train", PARTS, "Part of the data set.")
    flags.DEFINE_integer("sites", 5, "Hospitals that patients are drawn for.", lower_bound=1)
    flags.DEFINE_integer("patients", 0, "Patients, those of the first slices; 0 for all.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of the hospitals.", lower_bound=0)


def convert(
    source: Path, output: Path, *, part: str = "train", sites: int = 5, patients: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Writes the files of patients, or those that an interrupted conversion left to do.

    Each block is read once; its rows go to fixed places of patients' arrays, so that a block that was not
    finished is read again without harm.

    Args:
      source: folder of the published files.
      output: folder of hospitals.
      part: of the data set.
      sites: number of hospitals.
      patients: their number; 0 for all.
      seed: of the division over hospitals.

    Returns:
      The content of ``converted.json``: settings, rows of each block, patients by hospital.

    Raises:
      DataError: a file is missing, damaged or does not fit the table; or ``output`` has another conversion.
    """
    table = source / f"patient_ids_rand_{part}.csv"
    ids = _ids(table)
    chosen = list(dict.fromkeys(ids))[: patients or None]
    settings = {"part": part, "sites": sites, "patients": len(chosen), "seed": seed, "slices": len(ids)}
    state = _state(output / STATE, settings)
    if sites > len(chosen):
        raise DataError(table, None, f"at least {sites} patients for as many hospitals", len(chosen))
    order = np.random.default_rng(seed).permutation(len(chosen))
    place = {chosen[number]: f"site{rank % sites}" for rank, number in enumerate(order)}
    names = list(_blocks(source, part))
    if not names:
        raise DataError(source, None, f"observation_{part}.zip, or the HDF5 files in it", "none")
    start = 0
    with Progress(f"LoDoPaB {part}", len(names), done=len(state["blocks"])) as bar:
        for name, opened in _blocks(source, part).items():
            if name not in state["blocks"]:
                with opened as path:
                    values = _values(path, name)
                _scatter(output, values, ids, start, set(chosen), table)
                state["blocks"][name] = len(values)
                _save(output / STATE, state)
                bar.advance(1)
            start += state["blocks"][name]
    if start != len(ids):
        raise DataError(table, None, f"{start} lines, as many as slices in the blocks", len(ids))
    for patient in chosen:
        _finish(output, patient, place[patient])
    members = {site: sorted(p for p in chosen if place[p] == site) for site in sorted(set(place.values()))}
    state |= {"hospitals": members}
    _save(output / STATE, state)
    _save(output / "cohort.json", _cohort(members))
    with contextlib.suppress(OSError):
        (output / _STAGING).rmdir()
    return state


def _ids(table: Path) -> list[str]:
    try:
        lines = [line.strip().split(",")[-1] for line in table.read_text().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise DataError(table, None, "a table of the patient of each slice", "no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(table, None, "a table of the patient of each slice", error) from error
    if not lines or not all(line.replace("-", "").isalnum() for line in lines):
        raise DataError(table, None, "a name or number in each line", "nothing" if not lines else "others")
    return [f"p{line}" for line in lines]


def _state(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an earlier conversion has done, of the same settings."""
    if not path.is_file():
        return {"settings": settings, "blocks": {}}
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        found = state["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(path, None, "what a conversion has written", error) from error
    if found != settings:
        raise DataError(path, "settings", f"another folder for {settings}", found)
    return state


def _blocks(source: Path, part: str) -> dict[str, contextlib.AbstractContextManager[Path]]:
    """Name of each block, in order -> a context of its file, which is removed where it came out of a zip."""
    prefix = f"observation_{part}_"
    archive = source / f"observation_{part}.zip"
    loose = sorted(source.glob(f"{prefix}*.hdf5"))
    if loose or not archive.is_file():
        return {path.name: contextlib.nullcontext(path) for path in loose}
    try:
        with zipfile.ZipFile(archive) as file:
            inside = [name for name in file.namelist() if name.endswith(".hdf5")]
    except zipfile.BadZipFile as error:
        raise DataError(archive, None, "a zip file", error) from error
    inside = sorted(name for name in inside if Path(name).name.startswith(prefix))
    return {Path(name).name: _extracted(archive, name) for name in inside}


@contextlib.contextmanager
def _extracted(archive: Path, name: str) -> Iterator[Path]:
    path = archive.parent / f".{Path(name).name}"
    try:
        with zipfile.ZipFile(archive) as file, file.open(name) as packed, path.open("wb") as target:
            while piece := packed.read(1 << 24):
                target.write(piece)
        yield path
    except zipfile.BadZipFile as error:
        raise DataError(archive, name, "a member that can be read", error) from error
    finally:
        path.unlink(missing_ok=True)


def _values(path: Path, name: str) -> np.ndarray:
    with open_hdf5(path) as file:
        return read_array(file, "data", kinds="f", ndim=3, dtype=np.float32)


def _scatter(
    output: Path, values: np.ndarray, ids: list[str], start: int, chosen: set[str], table: Path
) -> None:
    """Puts the rows of a block, which begins with slice ``start``, into the arrays of their patients."""
    owners = ids[start : start + len(values)]
    if len(owners) < len(values):
        raise DataError(table, None, f"at least {start + len(values)} lines", len(ids))
    (output / _STAGING).mkdir(parents=True, exist_ok=True)
    for patient in chosen.intersection(owners):
        rows = [row for row, owner in enumerate(owners) if owner == patient]
        first = ids[:start].count(patient)
        path = output / _STAGING / f"{patient}.npy"
        shape = (ids.count(patient), *values.shape[1:])
        there = False
        # What a crash has begun may be no array yet.
        with contextlib.suppress(OSError, ValueError):
            there = np.load(path, mmap_mode="r").shape == shape
        array = np.lib.format.open_memmap(path, "r+" if there else "w+", np.dtype(np.float32), shape)
        array[first : first + len(rows)] = values[rows]
        array.flush()


def _finish(output: Path, patient: str, site: str) -> None:
    """Makes the patient's array a file of its hospital; nothing where that was done."""
    staged, path = output / _STAGING / f"{patient}.npy", output / site / f"{patient}.hdf5"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file["data"] = np.load(staged)
    staged.unlink(missing_ok=True)


def _cohort(members: dict[str, list[str]]) -> dict[str, Any]:
    sites = [{"name": site, "reader": "ct", "files": [f"{site}/*.hdf5"]} for site in members]
    return {"format": "fedrecon-cohort-1", "tasks": ["reconstruction"], "sites": sites, "notes": _NOTES}


def _save(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())


def main(_: list[str]) -> None:
    values = flags.FLAGS
    names = ("part", "sites", "patients", "seed")
    with ending(f"the same command with --output={values.output} continues"):
        given = {name: values[name].value for name in names}
        state = convert(Path(values.source), Path(values.output), **given)
    for site, members in state["hospitals"].items():
        print(f"{site}: {len(members)} patients")


if __name__ == "__main__":
    define_flags()
    run_program(main)
