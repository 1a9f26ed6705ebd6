"""How the dream's cost grows with the number of dreams, the horizon and the number of evolutions side by side."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import KEY, Setup, playing, set_up, steps_of
from wm_jax.bench.limit import operations, products
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Work, interleaved
from wm_jax.dream import population_returns
from wm_jax.pipeline.progress import Screen
from wm_jax.report.figures import figure as empty_figure
from wm_jax.report.figures import png

POPULATIONS = (1, 4, 16, 64, 256, 1024)
"""Times the rollouts: 16 to 16,384 dreams with the paper's 16."""
HORIZONS = (64, 128, 256, 512, 1024, 2100)
EVOLUTIONS = (1, 2, 4, 8, 16)
LABELS = {"dreams": "dreams side by side", "horizon": "steps of a dream", "evolutions": "evolutions side by side"}
"""The quantities that grow, and their axis labels. A row's name is one of these and the size."""
COLOURS = ("#d62728", "#7f7f7f")


def measure(config: BenchConfig, screen: Screen) -> Result:
    """A row for each size: steps per second when no dream ends, compared with matrix products alone."""
    # A few short dreams keep a CPU busy; an accelerator needs many to reach its speed.
    short, population, product_steps = (32, 4, 32) if jax.default_backend() == "cpu" else (256, config.population, 2100)
    grown = {
        f"dreams {size * config.rollouts}": dataclasses.replace(config, population=size, horizon=short)
        for size in POPULATIONS
    } | {
        f"horizon {horizon}": dataclasses.replace(config, population=population, horizon=horizon)
        for horizon in HORIZONS
    }
    rows = []
    for name, sizes in grown.items():
        setup = set_up(sizes)
        rows.append(_row(name, setup, steps_of(playing(setup)[0], setup.params), product_steps, screen))
    one = dataclasses.replace(config, population=population, horizon=short)
    for count in EVOLUTIONS:
        # Several evolutions form one larger population, with the same products.
        many = set_up(dataclasses.replace(one, population=count * population))
        rows.append(_row(f"evolutions {count}", many, _side_by_side(set_up(one), count), product_steps, screen))
    words = (
        f"dreams side by side, of {short} steps each; horizon of {population * config.rollouts} dreams; evolutions of "
        f"{population * config.rollouts} dreams of {short} steps"
    )
    return Result(words, tuple(rows))


def _side_by_side(setup: Setup, count: int) -> Work:
    """`count` evolutions' dreams in one program; returns their steps."""
    play = partial(population_returns, setup.dream, setup.actor, rollouts=setup.config.rollouts)
    many, keys = jax.jit(jax.vmap(play, (None, None, None, 0))), jax.random.split(jax.random.clone(KEY), count)
    arguments = setup.params, setup.starts, setup.population, keys
    return lambda: float(np.asarray(many(*arguments).lengths).sum(dtype=np.int64))


def _row(name: str, setup: Setup, play: Work, product_steps: int, screen: Screen) -> Row:
    steps, shapes = setup.products()
    # A fixed number of steps, however long the dreams are: every step of the products takes equally long.
    turn = (math.ceil(steps / setup.dream.config.horizon) * product_steps, shapes)
    works = {"dream": play, "products": products([turn], setup.config.precision)}
    rates = interleaved(f"scaling, {name}", works, setup.config.seconds / 10, screen)
    limit = rates["products"] * product_steps * setup.dreams / operations([turn])
    return Row(name, rates["dream"], "steps/s", limit, "matrix products of the same shapes")


def figure(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw `measure`'s rows as a PNG file, with one panel for each growing quantity."""
    panels = {axis: [row for row in rows if row.name.startswith(f"{axis} ")] for axis in LABELS}
    drawing = empty_figure(5.5 * len(panels), 4)
    axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)
    for plot, (axis, found) in zip(axes[0], panels.items(), strict=True):
        sizes = [int(row.name.removeprefix(f"{axis} ")) for row in found]
        for values, label, colour in (
            ([row.value for row in found], "dream", COLOURS[0]),
            ([row.limit for row in found], "matrix products of the same shapes", COLOURS[1]),
        ):
            plot.loglog(sizes, values, "o-", label=label, color=colour)
        plot.set(xlabel=LABELS[axis])
        plot.set_xticks(sizes, [f"{size:,}" for size in sizes])
        plot.minorticks_off()
        plot.yaxis.set_major_formatter("{x:,.0f}")
        plot.grid(True, which="major", alpha=0.3)
    values = [value for row in rows for value in (row.value, row.limit) if value]
    # Whole decades, so that there are ticks even if the curves are flat.
    axes[0][0].set_ylim(10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values))))
    axes[0][0].set(ylabel="dream steps per second")
    axes[0][0].legend(loc="lower right")
    drawing.suptitle(title)
    path.write_bytes(png(drawing))
