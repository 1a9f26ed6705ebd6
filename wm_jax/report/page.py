"""A page of sections, tables and pictures, written as one self-contained HTML file and as Markdown.

This module only formats; other modules build the contents. All text is escaped: names and settings come from files of
unknown origin.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif"}
MARK = '<meta name="generator" content="wm-jax">'
"""In the head of every HTML report."""
PICTURES = "report-pictures"
"""The folder, beside the Markdown file, of its pictures."""


@dataclass(frozen=True)
class Row:
    """A table's row. `own` rows belong to the run; a `group` row has one cell, a heading for the rows below it."""

    cells: tuple[str, ...]
    kind: Literal["plain", "own", "group"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table. A `folded` table opens on a click, if the format supports it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    align: str
    """One letter for each column: l for text, r for numbers."""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture's file."""

    name: str
    """File name, unique in a page; its suffix is one of `MEDIA_TYPES`."""
    caption: str
    data: bytes
    wide: bool = False
    """Whether it takes the whole width of the page."""

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return f"data:{MEDIA_TYPES[Path(self.name).suffix]};base64,{b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Section:
    """The contents under one heading: text, notes, code, tables and pictures, in this order."""

    title: str
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to interpret the numbers."""
    code: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Part:
    """A group of sections: those of one run, or the comparison."""

    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: tuple[str, ...]
    """The opening: the result in one or two sentences."""
    parts: tuple[Part, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, in order."""
        return tuple(picture for part in self.parts for section in part.sections for picture in section.pictures)


def html(page: Page) -> str:
    """The page as one HTML file that includes its pictures and loads nothing from elsewhere."""
    return _environment().get_template("page.html.jinja").render(page=page)


def markdown(page: Page) -> str:
    """The page as Markdown; its pictures are in the folder `PICTURES` beside it."""
    return _environment().get_template("page.md.jinja").render(page=page, folder=PICTURES)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wm_jax.report", ""), autoescape=lambda name: name == "page.html.jinja",
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"plain": _plain, "rule": _rule}
    return environment


def _plain(text: Any) -> str:
    """Text escaped for Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~#&])", r"\\\1", " ".join(str(text).split()))


def _rule(align: str) -> str:
    """The line under a Markdown table's head."""
    return "|" + "|".join({"l": "---", "r": "--:"}[letter] for letter in align) + "|"
