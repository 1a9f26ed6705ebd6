"""The figures of a run, as PNG and GIF files."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_jax.extras import installed, need

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

EXTRA = "report"
"""The extra that installs the drawing packages."""
LABEL_WIDTH = 80
"""Characters in a line of a label."""
COLOURS = {"actual": "#1f77b4", "dream": "#d62728", "baseline": "#7f7f7f", "population": "#2ca02c"}


def can_draw() -> bool:
    """Whether the drawing packages are installed."""
    return installed("matplotlib") and installed("PIL")


def reconstructions(path: Path, frames: np.ndarray, decoded: Any) -> None:
    """Draw frames [n, 64, 64, 3] uint8 above their reconstructions (float, in [0, 1])."""
    pixels = np.round(np.asarray(decoded) * 255).astype(np.uint8)
    rows = [np.concatenate(list(row), axis=1) for row in (frames, pixels)]
    _enlarged(np.concatenate(rows), 3).save(path, "png")


def strip(path: Path, rows: dict[str, np.ndarray], columns: int = 12) -> None:
    """A film strip: one row of evenly spaced frames for each named film [T, 64, 64, 3] uint8."""
    length = min(len(film) for film in rows.values())
    chosen = np.linspace(0, length - 1, min(columns, length)).astype(int)
    images = [_labelled(_enlarged(np.concatenate(list(film[chosen]), axis=1), 2), name) for name, film in rows.items()]
    _stacked(images).save(path, "png")


def film(path: Path, panels: dict[str, np.ndarray], frames_per_second: int, every: int = 2) -> None:
    """A GIF of films [T, 64, 64, 3] uint8 side by side, each under its name. Every `every`-th frame is kept."""
    length = min(len(film) for film in panels.values())
    images = [
        _beside([_labelled(_enlarged(film[t], 3), name) for name, film in panels.items()])
        for t in range(0, length, every)
    ]
    palette = [image.quantize(96) for image in images]
    duration = round(1000 * every / frames_per_second)
    palette[0].save(path, "gif", save_all=True, append_images=palette[1:], duration=duration, loop=0, optimize=True)


def label(text: str) -> str:
    """Escape and wrap a label. Otherwise matplotlib cuts text wider than the figure, reads dollar signs as mathematics,
    and hides labels that begin with an underscore."""
    return textwrap.fill((" " if text.startswith("_") else "") + text.replace("$", r"\$"), LABEL_WIDTH)


def figure(width: float, height: float) -> "Figure":
    """An empty matplotlib figure; width and height in inches. It does not use pyplot, and so needs no display and
    leaves the process's backend alone. Raises `UserError` if matplotlib is not installed."""
    return need("matplotlib.figure", EXTRA).Figure(figsize=(width, height))


def png(figure: "Figure") -> bytes:
    """A matplotlib figure as PNG."""
    target = BytesIO()
    figure.set_layout_engine("constrained")
    figure.savefig(target, dpi=110, format="png")
    return target.getvalue()


def seed_curves(axis: Any, name: str, curves: Sequence[np.ndarray], colour: str) -> None:
    """Draw a curve of points [n, 2] for each training seed, and their mean over the points that all have."""
    for points in curves:
        axis.plot(*points.T, color=colour, alpha=0.3, linewidth=1)
    shared = min(map(len, curves))
    mean = np.mean([points[:shared] for points in curves], axis=0)
    seeds = f"{len(curves)} training seed{'s' * (len(curves) > 1)}"
    axis.plot(*mean.T, "o-", color=colour, label=f"{name}, {seeds}", markersize=3)


def _enlarged(pixels: np.ndarray, times: int) -> "Image":
    return need("PIL.Image", EXTRA).fromarray(pixels.repeat(times, 0).repeat(times, 1))


def _canvas(width: int, height: int) -> "Image":
    return need("PIL.Image", EXTRA).new("RGB", (width, height), "white")


def _labelled(image: "Image", text: str) -> "Image":
    canvas = _canvas(image.width, image.height + 16)
    canvas.paste(image, (0, 16))
    need("PIL.ImageDraw", EXTRA).Draw(canvas).text((4, 2), text, fill="black")
    return canvas


def _beside(images: "Sequence[Image]") -> "Image":
    canvas = _canvas(sum(image.width + 4 for image in images) - 4, images[0].height)
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + 4
    return canvas


def _stacked(images: "Sequence[Image]") -> "Image":
    canvas = _canvas(max(image.width for image in images), sum(image.height for image in images))
    top = 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height
    return canvas
