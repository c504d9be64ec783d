"""FLARE jobs: submitted with the researcher's certificate, watched, and stopped."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.deployment.flare.kits import ADMIN


@contextlib.contextmanager
def session(kits: Path, seconds: float = 10.0) -> Iterator[Any]:
    """A session with the server, as the researcher.

    Raises:
      Exception: of FLARE, if the server does not answer within this time.
    """
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    with contextlib.redirect_stdout(io.StringIO()):
        opened = new_secure_session(ADMIN, str(Path(kits) / ADMIN), timeout=seconds)
    try:
        yield opened
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            opened.close()


def submit(kits: Path, folder: Path, name: str, settings: dict, sites: list[str], **options: Any) -> str:
    """Writes the job of a `TrainingRecipe` into a folder and submits it; returns FLARE's number of it."""
    from fedrecon.deployment.flare.parts import TrainingRecipe

    recipe = TrainingRecipe(name, settings, sites, **options)
    with contextlib.redirect_stdout(io.StringIO()):
        recipe.export(str(folder))
        with session(kits) as opened:
            return opened.submit_job(str(Path(folder) / name))


def job_status(kits: Path, number: str) -> str:
    """What FLARE says of a job, such as "RUNNING"."""
    with session(kits) as opened:
        return str(opened.get_job_status(number))


def abort(kits: Path, number: str) -> None:
    """Ends a job."""
    with session(kits) as opened:
        opened.abort_job(number)
