"""Writing files so that a crash never leaves half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it over ``path`` when the block succeeds.

    A crash or an exception leaves ``path`` as it was; the temporary file is removed on an exception. Errors
    of the temporary file, and those without a name, such as a full disk, name ``path``.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            own = error.filename is None or Path(os.fsdecode(error.filename)).name.startswith(
                f".{path.name}."
            )
            error.filename = str(path) if own else error.filename
        raise


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file so that a crash leaves either the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
