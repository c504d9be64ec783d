"""Predictions of an exported network for new files, and the files that they are written to."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from fedrecon import __version__, ood
from fedrecon.data import DataError, read_measurement
from fedrecon.data.folders import Preparation, PreparedImages, read_images, to_native_grid
from fedrecon.data.formats import dicom_segmentation_bytes, nifti_bytes
from fedrecon.exports import ExportedModel, is_export, load
from fedrecon.files import replacing, write_atomically
from fedrecon.learned import CheckedNetwork, notices, reconstruct_measurement, strangeness
from fedrecon.training import FlagError, as_json

TASKS = ("segmentation", "classification")
TABLES, MASKS = (".csv", ".json"), (".nii.gz", ".nii", ".dcm", ".png", ".h5")
_BATCH = 16
_THRESHOLD = 0.5
_ROUNDING = 1e-4


class Prediction(NamedTuple):
    """What a network says of one file.

    Attributes:
      path: of the file.
      probabilities: (slices, classes), or (slices, ny, nx, classes) on the native grid of the file.
      prepared: the images.
      strange: (slices,) as `fedrecon.ood.strangeness`; NaN where the export does not know.
      notices: sentences of what is unlike the data that the network was validated on.
      residual: (slices,) share of the measured samples that the reconstruction leaves unexplained; None of
        images.
    """

    path: Path
    probabilities: np.ndarray
    prepared: PreparedImages
    strange: np.ndarray
    notices: tuple[str, ...]
    residual: np.ndarray | None


class Predictor(NamedTuple):
    """An exported network with what its card says of its images.

    Attributes:
      model: the network.
      task: "segmentation" or "classification".
      classes: names, of segmentations the first is the background.
      preparation: of images of files; None where images are reconstructions of ``network``.
      network: reconstructs measurements; None of images of files.
      reference: of the images of the training; None where the export has none.
      threshold: above which a probability of a segmentation is marked, with two classes.
    """

    model: ExportedModel
    task: str
    classes: tuple[str, ...]
    preparation: Preparation | None
    network: CheckedNetwork | None
    reference: ood.Reference | None
    threshold: float


def open_predictor(weights: str, network: CheckedNetwork | None, threshold: float | None) -> Predictor:
    """The network of a folder of experiments.export.

    Raises:
      FlagError: the folder is none, or its network is for something else; names the flag.
      ValueError: a file of the export is damaged.
      ImportError: without the extra ``fedrecon[export]``.
    """
    folder = Path(weights)
    if not is_export(folder):
        raise FlagError("weights", "a folder of experiments.export", weights)
    model = load(folder)
    card = model.card
    task = _kind_of(card)
    if task not in TASKS:
        advice = "; experiments.reconstruct takes it" if task == "reconstruction" else ""
        raise FlagError("weights", f"a network of {' or '.join(TASKS)}", f"one of {task}{advice}")
    path = folder / "card.json"
    try:
        known = card.get("preparation")
        preparation = None if known is None else Preparation.from_document(known)
        reference = ood.from_document(card["images"]) if "images" in card else None
        count = int(card["outputs"]["shape"][-1])
        chosen = card["scores"].get("methods", {}).get("threshold", _THRESHOLD)
        shape = card["inputs"]["image"]["shape"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(path, None, "a card of experiments.export", repr(error)) from error
    if preparation is None and network is None:
        expected = "a network of images in files, or --reconstruction of the measurements that it sees"
        raise FlagError("weights", expected, f"one of images {tuple(shape)} that no file holds")
    if preparation is not None and network is not None:
        raise FlagError("reconstruction", "none with a network of images in files", "a network")
    names = preparation.classes if preparation is not None else ()
    if not names:
        names = ("background", "structure") if task == "segmentation" and count == 2 else ()
    if len(names) != count:
        names = tuple(f"class {i}" for i in range(count))
    bound = float(chosen if threshold is None else threshold)
    return Predictor(model, task, names, preparation, network, reference, bound)


def _kind_of(card: Mapping[str, Any]) -> str:
    """The task of a card; tasks of users are told by their outputs, probabilities of pixels or of images."""
    task = str(card.get("task"))
    output, image = card.get("outputs"), card.get("inputs", {}).get("image")
    if task in (*TASKS, "reconstruction") or not isinstance(output, dict) or image is None:
        return task
    shape, wanted = output.get("shape", [])[1:], [str(n) for n in image["shape"]]
    if len(shape) == 1 and shape[0] != "1":
        return "classification"
    return "segmentation" if len(shape) == 3 and shape[:2] == wanted[:2] and shape[2] != "1" else task


def predict_file(predictor: Predictor, path: Path) -> Prediction:
    """Predictions for the slices of a file, or of a DICOM series.

    Raises:
      DataError: the file cannot be read, or the network cannot take it; names it.
    """
    residual, found = None, []
    if predictor.preparation is not None:
        prepared = read_images(path, predictor.preparation)
    else:
        assert predictor.network is not None, "one of both is there"
        measurement = read_measurement(path)
        images, signs = reconstruct_measurement(predictor.network, measurement, normalized=True)
        found, residual = notices(signs, predictor.network.bounds), np.asarray(signs.residual)
        found += ood.verdict(strangeness(predictor.network, images))
        images = np.abs(images).astype(np.float32)[..., None]
        prepared = PreparedImages(images, (images.shape[1], images.shape[2]), measurement.affine, "mri")
    wanted = tuple(predictor.model.card["inputs"]["image"]["shape"])
    if prepared.images.shape[1:] != wanted:
        raise DataError(path, None, f"images of shape {wanted} for this network", prepared.images.shape[1:])
    parts = [
        np.asarray(predictor.model.predict({"image": prepared.images[i : i + _BATCH]}))
        for i in range(0, len(prepared.images), _BATCH)
    ]
    probabilities = np.concatenate(parts)
    if not (np.min(probabilities) >= 0 and np.max(probabilities) <= 1 + _ROUNDING):
        found = f"values from {np.min(probabilities):.3g} to {np.max(probabilities):.3g} for {path.name}"
        raise FlagError("weights", "a network whose predictions are probabilities", found)
    if predictor.task == "segmentation" and predictor.preparation is not None:
        probabilities = to_native_grid(probabilities, prepared.native_shape)
    strange = np.full(len(prepared.images), np.nan)
    if predictor.reference is not None:
        strange = ood.strangeness(prepared.images, predictor.reference)
    return Prediction(path, probabilities, prepared, strange, (*ood.verdict(strange), *found), residual)


def masks_of(predictor: Predictor, prediction: Prediction) -> np.ndarray:
    """uint8 (slices, ny, nx): the number of the class, 0 is background."""
    if len(predictor.classes) == 2:
        return (prediction.probabilities[..., 1] > predictor.threshold).astype(np.uint8)
    return np.argmax(prediction.probabilities, -1).astype(np.uint8)


def write_mask(predictor: Predictor, prediction: Prediction, output: Path) -> dict[str, Any]:
    """Writes a segmentation in the format of the suffix, and what is known of it beside, ``OUTPUT.json``.

    - ``.nii``, ``.nii.gz``: numbers of classes on the native grid of the file, in its place.
    - ``.dcm``: Segmentation Storage that refers to the DICOM series.
    - ``.png``: white where marked (of more classes, gray by number); of one picture.
    - ``.h5``: ``mask`` and ``probabilities`` (slices, ny, nx, classes).

    Returns:
      What is written beside.

    Raises:
      FlagError: the format does not fit the file.
    """
    mask = masks_of(predictor, prediction)
    affine, name = prediction.prepared.affine, output.name
    if name.endswith(".h5"):
        with replacing(output) as temporary, h5py.File(temporary, "w") as file:
            file["mask"], file["probabilities"] = mask, prediction.probabilities
    elif name.endswith(".dcm"):
        if prediction.prepared.reader != "dicom":
            raise FlagError("output", "DICOM of DICOM images alone; NIfTI, PNG or HDF5 of others", name)
        labels = predictor.classes[1:]
        content = dicom_segmentation_bytes(prediction.path, mask, labels, "fedrecon", __version__)
        write_atomically(output, content)
    elif name.endswith((".nii", ".nii.gz")):
        known = affine is not None
        content = nifti_bytes(mask, affine if known else np.eye(4), "mm" if known else "unknown")
        write_atomically(output, gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    else:
        if len(mask) > 1:
            raise FlagError("output", "NIfTI, DICOM or HDF5 of several slices", name)
        write_atomically(output, _png(mask[0], len(predictor.classes)))
    record = describe(predictor, prediction)
    marked = [int(x) for x in (mask > 0).sum((1, 2))]
    record["marked_pixels"] = marked
    if len(predictor.classes) == 2:
        record["threshold"] = predictor.threshold
    else:
        names = enumerate(predictor.classes[1:], 1)
        record["pixels_by_class"] = {name: int((mask == number).sum()) for number, name in names}
    if affine is not None:
        record["marked_ml"] = sum(marked) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    write_atomically(_beside(output), (json.dumps(as_json(record), indent=2) + "\n").encode())
    return record


def describe(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    """What a reader must know of a prediction, JSON-able."""
    card = predictor.model.card
    record: dict[str, Any] = {
        "source": prediction.path.name,
        "slices": len(prediction.probabilities),
        "task": predictor.task,
        "classes": list(predictor.classes),
        "trained_on": card.get("trained_on"),
        "use": card.get("use"),
        "strangeness": prediction.strange.tolist(),
        "out_of_distribution": list(prediction.notices),
    }
    if prediction.residual is not None:
        record["residual"] = prediction.residual.tolist()
    return record


def table_rows(predictor: Predictor, prediction: Prediction) -> Iterator[dict[str, Any]]:
    """A row for each slice of a file: probabilities, the class of the largest, and strangeness."""
    for number, row in enumerate(prediction.probabilities):
        yield {
            "file": prediction.path.name,
            "slice": number,
            **{name: float(p) for name, p in zip(predictor.classes, row, strict=True)},
            "predicted": predictor.classes[int(np.argmax(row))],
            "strangeness": float(prediction.strange[number]),
            "notices": "; ".join(prediction.notices),
        }


def write_table(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Writes rows as CSV or JSON, by the suffix."""
    if path.suffix == ".json":
        write_atomically(path, (json.dumps(as_json(rows), indent=2) + "\n").encode())
        return
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())


def _beside(output: Path) -> Path:
    return output.with_name(f"{output.name}.json")


def _png(mask: np.ndarray, classes: int) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, mask, cmap="gray", vmin=0, vmax=max(classes - 1, 1), format="png")
    return buffer.getvalue()
