"""Write the content of a report as one HTML file, with its style and its program inside."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

_HEIGHT, _WIDE_HEIGHT = 240, 300


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes
    ----------
    title
        Its title; empty for none.
    head
        Titles of the columns.
    rows
        The cells, as text or numbers.
    note
        A sentence below; empty for none.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes
    ----------
    title
        What it shows.
    png
        The image, as a PNG file.
    """

    title: str
    png: bytes


@dataclass
class Content:
    """What the page shows.

    Attributes
    ----------
    title, about
        Title of the page, and the sentence below.
    charts
        What page.js draws: ``runs``, ``panels`` and ``time_unit``, of JSON types; see :mod:`dwiml.viz.page.charts`.
    runs, parameters, data, scores, environment
        Tables of these sections.
    pictures
        Pictures of streamlines.
    same
        Parameters that are the same in all experiments, as text.
    """

    title: str
    about: str
    charts: dict[str, Any]
    runs: list[Table] = field(default_factory=list)
    parameters: list[Table] = field(default_factory=list)
    data: list[Table] = field(default_factory=list)
    scores: list[Table] = field(default_factory=list)
    environment: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    same: str = ""


def render(content: Content) -> str:
    """Return the page. Every text of the content is escaped."""
    sections = [
        _tables("Experiments", content.runs),
        _curves(content.charts),
        _tables("Scores", content.scores),
        _pictures(content.pictures),
        _tables("Parameters", content.parameters, more=_same(content.same)),
        _tables("Data", content.data),
        _tables("Environment", content.environment),
    ]
    body = "\n".join(section for section in sections if section)
    return _PAGE.format(
        title=html.escape(content.title),
        about=html.escape(content.about),
        style=_resource("page.css"),
        body=body,
        # "</script>" in a name would end the element.
        data=json.dumps(content.charts, allow_nan=False).replace("<", "\\u003c"),
        program=_resource("page.js"),
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="faint">{about}</p>
<div class="bar"><button id="theme" type="button">Light or dark</button></div>
{body}
<script id="data" type="application/json">{data}</script>
<script>
{program}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return files("dwiml.viz.page").joinpath(name).read_text(encoding="utf-8")


def _curves(charts: dict[str, Any]) -> str:
    runs, panels = charts["runs"], charts["panels"]
    items = "\n".join(
        f'<li><button type="button" data-run="{i}" aria-pressed="true"><span class="swatch"></span>'
        f"{html.escape(run['name'])}</button></li>"
        for i, run in enumerate(runs)
    )
    legend = f'<ul class="legend">\n{items}\n</ul>' if len(runs) > 1 else '<ul class="legend" hidden></ul>'
    figures = "\n".join(_chart(i, panel) for i, panel in enumerate(panels))
    return (
        '<h2>Curves</h2>\n<div class="bar"><label>Horizontal axis <select id="x"><option value="epoch">epoch</option>'
        '<option value="time">time</option></select></label>'
        '<button id="reset" type="button" hidden>Show all epochs</button>'
        '<span class="faint">Point at a curve for its values; drag to zoom; click a name to hide it. '
        f'A star is the best model.</span></div>\n{legend}\n<div class="charts">\n{figures}\n</div>'
    )


def _chart(number: int, panel: dict[str, Any]) -> str:
    wide = panel["wide"]
    lines = [line for line in panel["lines"] if len(panel["lines"]) > 1]
    listed = ", ".join(f"{line['label']} ({_DASHES[line['style']]})" for line in lines)
    note = f'<div class="note">{html.escape(panel["note"])}</div>' if panel["note"] else ""
    box = '<label><input type="checkbox"> log scale</label>' if panel["positive"] else "<span></span>"
    return (
        f'<figure class="chart{" wide" * wide}" data-panel="{number}"><div class="head"><span>'
        f'{html.escape(panel["axis"])}</span>{box}</div><svg data-height="{_WIDE_HEIGHT if wide else _HEIGHT}" '
        f'role="img" aria-label="{html.escape(panel["axis"])}"></svg>{note}'
        f'<figcaption>{html.escape(listed)}</figcaption><div class="tip" hidden></div></figure>'
    )


_DASHES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}


def _tables(title: str, tables: Sequence[Table], *, more: str = "") -> str:
    if not tables and not more:
        return ""
    parts = [f"<h2>{html.escape(title)}</h2>"]
    for table in tables:
        if table.title:
            parts.append(f"<h3>{html.escape(table.title)}</h3>")
        if table.rows:
            parts.append(_table(table))
        if table.note:
            parts.append(f'<p class="faint">{html.escape(table.note)}</p>')
    return "\n".join([*parts, more])


def _table(table: Table) -> str:
    is_number = [
        all(isinstance(row[k], (int, float)) or _is_number(str(row[k])) for row in table.rows)
        for k in range(len(table.head))
    ]
    kinds = [' class="number"' if each else "" for each in is_number]
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, table.head, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _cell(cell: Any) -> str:
    return html.escape(str(cell)).replace("\n", "<br>")


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("%").replace(" ", ""))
    except ValueError:
        return text == "-"
    return True


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = "\n".join(
        f'<figure><img alt="{html.escape(picture.title)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.png).decode()}"><figcaption>{html.escape(picture.title)}</figcaption></figure>'
        for picture in pictures
    )
    return f'<h2>Streamlines</h2>\n<div class="pictures">\n{figures}\n</div>'


def _same(text: str) -> str:
    if not text:
        return ""
    return f"<details><summary>The same in all experiments</summary><pre>{html.escape(text)}</pre></details>"
