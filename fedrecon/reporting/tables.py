"""Plain-text tables."""

from collections.abc import Mapping, Sequence

from fedrecon.errors import ArgumentError

Scores = Mapping[str, Mapping[str, float]]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their width, the first one left-aligned, the others right-aligned.

    Raises:
      ValueError: a row has another number of cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ArgumentError("rows", f"{len(header)} cells as in the header", list(row))
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            str(cell).ljust(width) if i == 0 else str(cell).rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def metric_rows(
    methods: Mapping[str, Scores],
    metric: str,
    sites: Sequence[str],
    digits: int = 2,
    *,
    apart: Sequence[str] = (),
) -> tuple[list[str], list[list[str]]]:
    """One metric as a table of methods by sites, with the mean over the sites that have it.

    Args:
      methods: ``methods[method][site][metric]``.
      metric: which figure to show; "–" stands where a site has none.
      sites: the columns.
      digits: decimals.
      apart: columns after the mean, of sites that are not part of it.

    Returns:
      The header and the rows, for ``format_table``.
    """
    rows = []
    for method, scores in methods.items():
        values = [scores.get(site, {}).get(metric) for site in (*sites, *apart)]
        known = [value for value in values[: len(sites)] if value is not None and value == value]
        mean = sum(known) / len(known) if known else None
        cells = [
            f"{v:.{digits}f}" if v is not None and v == v else "–"
            for v in [*values[: len(sites)], mean, *values[len(sites) :]]
        ]
        rows.append([method, *cells])
    return ["method", *sites, "mean", *apart], rows
