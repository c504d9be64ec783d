"""Cohorts in folders of the user's."""

from collections.abc import Sequence

from fedrecon.data import Cohort, read_mri_cohort
from fedrecon.data.simulation import read_mri_cohort_manifest
from fedrecon.training import FlagError


def read_folder(data_dir: str, tasks: Sequence[str], *, pools: int, flag: str = "pools") -> Cohort:
    """The cohort of a folder with cohort.json.

    Args:
      data_dir: the folder.
      tasks: what is trained.
      pools: poolings of the networks.
      flag: that sets them.

    Raises:
      DataError: the manifest or a file is missing or not as it should be.
      FlagError: the cohort is not for a task, or its images are too small.
    """
    manifest = read_mri_cohort_manifest(data_dir)
    if unfit := [task for task in tasks if task not in manifest.tasks]:
        expected = f"a cohort for {', '.join(tasks)}"
        raise FlagError("data_dir", expected, f"{data_dir}/cohort.json without the task {unfit[0]}")
    if 2**pools > min(manifest.image_shape):
        ny, nx = manifest.image_shape
        raise FlagError(flag, f"poolings that leave a pixel of the {ny} x {nx} images", pools)
    return read_mri_cohort(data_dir)
