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
    result: list[int] = []
    for word in words:
        first, dash, last = (part.strip() for part in word.partition("-"))
        numbers = [first, last] if dash else [first]
        # Longer numbers are no slices, and their ranges would not fit into memory.
        if not all(number.isdecimal() and len(number) < 7 for number in numbers):
            raise FlagError("slices", "numbers and ranges, as 0,4-6", repr(word))
        chosen = range(int(numbers[0]), int(numbers[-1]) + 1)
        if not chosen:
            raise FlagError("slices", f"a range that rises, as {last}-{first}", repr(word))
        result += chosen
    if len(set(result)) < len(result):
        twice = next(number for number in result if result.count(number) > 1)
        raise FlagError("slices", "every number once", f"{twice} twice")
    if not result:
        raise FlagError("slices", "numbers and ranges, as 0,4-6", "none")
    return result
