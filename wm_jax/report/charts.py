"""Charts of a report: their data, and drawing them as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from wm_jax.report.figures import COLOURS, figure, label, png
from wm_jax.report.page import Picture

Numbers = Sequence[float]


@dataclass(frozen=True)
class Line:
    """Points (x, y) under one label, in the order of x."""

    label: str
    x: Numbers
    y: Numbers
    style: str = "-"
    """matplotlib's style: "-" a line, "o" points, …"""
    colour: str | None = None
    errors: Numbers | None = None
    """One standard error of each point."""


@dataclass(frozen=True)
class Band:
    """The area between two curves."""

    label: str
    x: Numbers
    low: Numbers
    high: Numbers
    colour: str


@dataclass(frozen=True)
class Chart:
    """One chart."""

    name: str
    """Name of its file, without the suffix."""
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    bands: tuple[Band, ...] = ()
    levels: tuple[tuple[str, float], ...] = ()
    """(label, y): horizontal lines for comparison."""
    boundaries: tuple[float, ...] = ()
    """x at which a round ends and the next starts; lines are interrupted there."""
    logarithmic: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.lines


def draw(chart: Chart, caption: str) -> Picture:
    """The chart as a picture."""
    drawing = figure(6.4, 4.8)
    axis = drawing.subplots()
    for band in chart.bands:
        x, low, high = _by_round(chart.boundaries, band.x, band.low, band.high)
        axis.fill_between(x, low, high, color=band.colour, alpha=0.2, linewidth=0, label=label(band.label))
    for line in chart.lines:
        options: dict[str, Any] = {"color": line.colour, "label": label(line.label), "markersize": 5}
        if line.errors is None:
            axis.plot(*_by_round(chart.boundaries, line.x, line.y), line.style, **options)
        else:
            points = _by_round(chart.boundaries, line.x, line.y, line.errors)
            axis.errorbar(*points, fmt=line.style, capsize=3, **options)
    for (name, level), style in zip(chart.levels, cycle(["--", ":", "-."]), strict=False):
        axis.axhline(level, linestyle=style, color=COLOURS["baseline"], label=label(name))
    for boundary in chart.boundaries:
        axis.axvline(boundary, color="black", alpha=0.3, linewidth=1)
    axis.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    if chart.logarithmic:
        axis.set_yscale("log")
    if all(x == int(x) for line in chart.lines for x in line.x):
        axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        # Outside the axes, where it cannot hide points.
        drawing.legend(fontsize="small", loc="outside lower center")
    return Picture(f"{chart.name}.png", caption, png(drawing))


def _by_round(boundaries: Numbers, x: Numbers, *others: Numbers) -> list[np.ndarray]:
    """The points with a gap after each boundary; matplotlib interrupts lines at gaps."""
    gaps = np.searchsorted(x, boundaries, side="right")
    return [np.insert(np.asarray(values, float), gaps, np.nan) for values in (x, *others)]
