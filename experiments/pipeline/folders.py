"""Cohorts in folders of the user's."""

from collections.abc import Sequence
from typing import Any

from fedrecon.data import Cohort, read_cohort
from fedrecon.data.folders import is_simulated
from fedrecon.data.simulation import read_mri_cohort_manifest
from fedrecon.training import FlagError


def data_kind(settings: Any) -> str:
    """``"simulated"`` or ``"measured"``, of the data that the settings of a program name."""
    if settings.cohort == "folder":
        return "simulated" if is_simulated(settings.data_dir) else "measured"
    return "simulated" if settings.cohort.startswith("simulated") else "measured"


def read_folder(
    data_dir: str,
    tasks: Sequence[str],
    *,
    pools: int,
    flag: str = "pools",
    size: int = 0,
    seed: int = 0,
    skip_bad: bool = False,
) -> Cohort:
    """The cohort of a folder, for the first of the tasks.

    Args:
      data_dir: the folder.
      tasks: what is trained; a simulated cohort has to be for all of them.
      pools: poolings of the networks.
      flag: that sets them.
      size: edge of the images; 0 for those of the data.
      seed: of the split and the masks of measured data.
      skip_bad: leave out files with a fault.

    Raises:
      DataError: the manifest or a file is missing or not as it should be.
      FlagError: the cohort is not for a task, or its images are too small.
    """
    simulated = is_simulated(data_dir)
    if simulated:
        manifest = read_mri_cohort_manifest(data_dir)
        if unfit := [task for task in tasks if task not in manifest.tasks]:
            expected = f"a cohort for {', '.join(tasks)}"
            raise FlagError("data_dir", expected, f"{data_dir}/cohort.json without the task {unfit[0]}")
        if size:
            raise FlagError("image_size", f"0, the {manifest.image_shape[0]} of a simulated cohort", size)
        _check_pools(flag, pools, manifest.image_shape)
    matrix = (size, size) if size else None
    cohort = read_cohort(data_dir, tasks[0], matrix=matrix, seed=seed, skip_bad=skip_bad)
    _check_pools(flag, pools, cohort.image_shape)
    return cohort


def _check_pools(flag: str, pools: int, image_shape: tuple[int, int]) -> None:
    if 2**pools > min(image_shape):
        ny, nx = image_shape
        raise FlagError(flag, f"poolings that leave a pixel of the {ny} x {nx} images", pools)
