"""Flags of the reconstruct command that are lists."""

from fedrecon.training import FlagError


def image_shape_of(words: list[str] | None) -> tuple[int, int] | None:
    """(ny, nx) of --image_shape; None without it."""
    if words is None:
        return None
    try:
        ny, nx = (int(n) for n in words)
    except ValueError as error:
        raise FlagError("image_shape", "rows,columns", ",".join(words)) from error
    return ny, nx


def selection_of(words: list[str] | None) -> dict[str, int] | None:
    """Kind of image -> number, of --select; None without it."""
    if words is None:
        return None
    try:
        pairs = [word.split("=") for word in words]
        return {name.strip(): int(number) for name, number in pairs}
    except ValueError as error:
        raise FlagError("select", "NAME=NUMBER,... as contrast=0", ",".join(words)) from error


def slices_of(words: list[str] | None) -> list[int] | None:
    """Numbers of slices of --slices, ranges written out; None without it."""
    if words is None:
        return None
    try:
        result = []
        for word in words:
            first, _, last = word.partition("-")
            result += range(int(first), int(last or first) + 1)
        return result
    except ValueError as error:
        raise FlagError("slices", "numbers and ranges", ",".join(words)) from error
