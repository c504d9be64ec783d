"""A progress bar on a terminal, nothing elsewhere."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows ``title``, the rounds done and left, and one line of figures.

    Silent when stderr is no terminal, or unless ``shown``. Use as a context manager and call ``advance``
    after each dispatch.
    """

    def __init__(self, title: str, total: int, done: int = 0, *, shown: bool = True) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=sys.stderr),
            disable=not shown or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=total, completed=done, figures="")

    def advance(self, rounds: int, **figures: float) -> None:
        """Adds ``rounds`` finished rounds and shows ``figures`` next to the bar."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.update(self._task, advance=rounds, figures=text)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
