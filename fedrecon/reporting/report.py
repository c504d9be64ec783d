"""One self-contained HTML page for a run: text, tables and embedded figures."""

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedrecon.files import write_atomically

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2a78d6; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { opacity: .75; margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0 1rem; }
table { font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .28rem .5rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; } th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } td:first-child, .text td { white-space: normal; }
.text td, .text th { text-align: left; overflow-wrap: anywhere; }
@media (max-width: 60rem) { table { font-size: .78rem; } th, td { padding: .25rem .22rem; } }
@media (max-width: 44rem) { figure img { max-width: none; width: 44rem; } }
tbody tr:hover { background: var(--soft); }
figure { margin: 1rem 0; } img { max-width: 100%; border-radius: 4px; background: white; }
figcaption { font-size: .88rem; opacity: .8; }
"""


class Table(NamedTuple):
    """A captioned table of text cells; ``prose`` breaks long cells and aligns them left."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False


class Figure(NamedTuple):
    """A PNG file and its caption, which also serves as the text for readers who cannot see it."""

    path: Path
    caption: str


class Section(NamedTuple):
    """A heading, paragraphs of plain text, tables and figures."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def write_report(path: str | os.PathLike, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Writes the page; it needs no other file and no network. All text is escaped.

    Args:
      path: the HTML file.
      title: heading of the page.
      lead: one sentence below it.
      sections: in the order shown.
    """
    body = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']
    for section in sections:
        body.append(f"<section><h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        body += [_table(table) for table in section.tables]
        body += [_figure(figure) for figure in section.figures]
        body.append("</section>")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )
    write_atomically(path, page.encode("utf-8"))


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    caption, style = html.escape(table.caption), ' class="text"' if table.prose else ""
    return (
        f'<div class="scroll"><table{style}><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    data = base64.b64encode(Path(figure.path).read_bytes()).decode("ascii")
    caption = html.escape(figure.caption)
    return (
        f'<figure><div class="scroll"><img alt="{caption}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
