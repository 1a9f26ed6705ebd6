"""The figures of a run, as PNG and GIF files."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

COLOURS = {"actual": "#1f77b4", "dream": "#d62728", "baseline": "#7f7f7f", "population": "#2ca02c"}


def reconstructions(path: Path, frames: np.ndarray, decoded: Any) -> None:
    """Frames [n, 64, 64, 3] uint8 above what V makes of them (float, in [0, 1])."""
    pixels = np.round(np.asarray(decoded) * 255).astype(np.uint8)
    rows = [np.concatenate(list(row), axis=1) for row in (frames, pixels)]
    _enlarged(np.concatenate(rows), 3).save(path, "png")


def strip(path: Path, rows: dict[str, np.ndarray], columns: int = 12) -> None:
    """A film strip: for each named film [T, 64, 64, 3] uint8 a row of frames, evenly spread in time."""
    length = min(len(film) for film in rows.values())
    chosen = np.linspace(0, length - 1, min(columns, length)).astype(int)
    images = [_labelled(_enlarged(np.concatenate(list(film[chosen]), axis=1), 2), name) for name, film in rows.items()]
    _stacked(images).save(path, "png")


def film(path: Path, panels: dict[str, np.ndarray], frames_per_second: int, every: int = 2) -> None:
    """A GIF of films [T, 64, 64, 3] uint8 side by side, each under its name; every `every`-th frame is kept."""
    length = min(len(film) for film in panels.values())
    images = [
        _beside([_labelled(_enlarged(film[t], 3), name) for name, film in panels.items()])
        for t in range(0, length, every)
    ]
    palette = [image.quantize(96) for image in images]
    duration = round(1000 * every / frames_per_second)
    palette[0].save(path, "gif", save_all=True, append_images=palette[1:], duration=duration, loop=0, optimize=True)


def label(text: str) -> str:
    """A label that is shown as it is: matplotlib takes dollars for mathematics and hides what begins with an underscore."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG. Made without pyplot, it touches neither a screen nor the backend of the process."""
    target = BytesIO()
    figure.set_layout_engine("constrained")
    figure.savefig(target, dpi=110, format="png")
    return target.getvalue()


def _enlarged(pixels: np.ndarray, times: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _labelled(image: Image.Image, text: str) -> Image.Image:
    canvas = Image.new("RGB", (image.width, image.height + 16), "white")
    canvas.paste(image, (0, 16))
    ImageDraw.Draw(canvas).text((4, 2), text, fill="black")
    return canvas


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (sum(image.width + 4 for image in images) - 4, images[0].height), "white")
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + 4
    return canvas


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height
    return canvas
