"""Segments or classifies new files by a trained network.

--weights is a folder of experiments.export. --input is a DICOM file or series (a folder), a NIfTI volume, a
picture, or a folder of such; with --reconstruction also raw k-space, for networks that were trained on
reconstructions. Images are prepared as those of the training were.

A segmentation is written on the grid of the file: .nii, .nii.gz, .dcm (a DICOM segmentation of a DICOM
series), .png or .h5, with OUTPUT.json beside it; of a folder of files to a folder. A classification is a
table, .csv or .json, with a row for each slice. Every output says whether the images are unlike those that
the network was validated on.

  python -m experiments.predict --weights=exported --input=eye.png --output=vessels.png
  python -m experiments.predict --weights=exported --input=series/ --output=lesions.dcm
  python -m experiments.predict --weights=exported --input=radiographs/ --output=table.csv
  python -m experiments.predict --weights=lesions --reconstruction=network --input=scan.h5 --output=lesions.h5
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline.prediction import (
    MASKS,
    TABLES,
    Predictor,
    open_predictor,
    predict_file,
    table_rows,
    write_mask,
    write_table,
)
from fedrecon.data import DataError
from fedrecon.data.folders import is_dicom_series
from fedrecon.learned import load_network
from fedrecon.runtime import Progress, ending, run_program
from fedrecon.training import FlagError

# Of the masks of a folder of files, by their kind.
_SUFFIXES = {"dicom": ".dcm", "nifti": ".nii.gz", "picture": ".png", "mri": ".h5"}


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("weights", None, "Folder of experiments.export.", required=True)
    flags.DEFINE_string("input", None, "File, DICOM series (a folder), or a folder of files.", required=True)
    text = "Mask, table, or folder of masks of a folder of files; see above for the endings."
    flags.DEFINE_string("output", None, text, required=True)
    text = "Run or export of a reconstruction network, where --weights was trained on its images."
    flags.DEFINE_string("reconstruction", None, text)
    text = "Probability above which pixels are marked; that of the validation patients when not given."
    flags.DEFINE_float("threshold", None, text, lower_bound=0.0, upper_bound=1.0)


def run(
    weights: str, source: str, output: str, reconstruction: str | None = None, threshold: float | None = None
) -> list[dict[str, Any]]:
    """Predicts, writes, and returns what is written beside the masks, or the rows of the table.

    Raises:
      ValueError: a flag or a file is not as it should be; names it.
      ImportError: a file needs an extra that is not installed.
    """
    network = None if reconstruction is None else load_network(reconstruction)
    predictor = open_predictor(weights, network, threshold)
    files, target = _files(Path(source)), Path(output)
    several = files != [Path(source)]
    _check_output(predictor, target, several)
    if threshold is not None and (predictor.task != "segmentation" or len(predictor.classes) > 2):
        expected = "none with a classification, or with several structures, the likeliest of which is marked"
        raise FlagError("threshold", expected, threshold)
    records: list[dict[str, Any]] = []
    stems = [_stem(file) for file in files]
    if predictor.task == "segmentation" and len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise FlagError("input", "files of distinct names, which their masks get", f"{twice!r} twice")
    if predictor.task == "segmentation" and several:
        target.mkdir(exist_ok=True)
    with Progress(predictor.task, len(files)) as bar:
        for file in files:
            found = predict_file(predictor, file)
            for text in found.notices:
                print(f"notice: {file.name}: {text}")
            if predictor.task == "classification":
                records += table_rows(predictor, found)
            else:
                place = target
                if several:
                    place = target / f"{_stem(file)}{_SUFFIXES[found.prepared.reader]}"
                records.append(write_mask(predictor, found, place))
            bar.advance(1)
    if predictor.task == "classification":
        write_table(target, records)
    return records


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[0] or file.name


def _files(source: Path) -> list[Path]:
    """A file or series, or what a folder holds."""
    if not source.exists():
        raise FlagError(
            "input", "a file, a DICOM series or a folder of files", f"{source}, which is not there"
        )
    if source.is_file() or is_dicom_series(source):
        return [source]
    found = [
        path
        for path in sorted(source.iterdir())
        if not path.name.startswith(".") and (path.is_file() or is_dicom_series(path))
    ]
    if not found:
        raise DataError(source, None, "images, or sub-folders of DICOM series", "neither")
    return found


def _check_output(predictor: Predictor, target: Path, several: bool) -> None:
    """Fails before the work rather than after it."""
    endings: tuple[str, ...] = TABLES if predictor.task == "classification" else MASKS
    if not target.parent.is_dir():
        raise FlagError("output", "a file or folder in an existing folder", target)
    if predictor.task == "segmentation" and several:
        if target.name.endswith(MASKS) or (target.exists() and not target.is_dir()):
            raise FlagError("output", "a folder, for the masks of several files", target)
        return
    if not target.name.endswith(endings) or target.is_dir():
        raise FlagError("output", f"a name ending in {', '.join(endings)}", repr(target.name))


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending():
        records = run(values.weights, values.input, values.output, values.reconstruction, values.threshold)
    strange = sum(bool(record.get("out_of_distribution") or record.get("notices")) for record in records)
    verdict = "images as in validation"
    if strange:
        verdict = f"{strange} unlike what the network was validated on: do not trust them"
    print(f"wrote {values.output}: {len(records)} predictions, {verdict}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
