"""Planners: decisions per second, compared with the steps per second of the dream that they plan in.

One decision is for one agent. Agents decide side by side in one compiled call, as in the actual environment.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from wm_jax.actors.planning import Planner, PlannerConfig
from wm_jax.actors.protocol import ACTORS
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import KEY, Setup, playing, set_up, steps_of
from wm_jax.bench.limit import operations, products
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import compiled, interleaved, waited
from wm_jax.lanes import many
from wm_jax.pipeline.progress import Screen
from wm_jax.types import Action
from wm_jax.worlds import World

LANES = 16
"""Most agents that decide side by side."""
STEPS = 2**16
"""Dream steps of a call, unless one decision takes more. A decision of PlaNet's cross-entropy method takes 120,000 and
fills a CPU alone."""
ACTIONS = ((0.0,), (1.0,), (-1.0,))
"""Take Cover's discrete actions, which the trees branch over."""


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Rows for the dream and for each planner in it. A planner's ratio is the share of the dream's rate that it
    reaches."""
    setup = set_up(config)
    works = {
        "products": products([setup.products()], config.precision),
        "dream": steps_of(playing(setup)[0], setup.params),
    }
    planners = {name: build(setup, planner) for name, planner in settings().items()}
    seconds = {}
    for name, planner in planners.items():
        lanes = side_by_side(planner)
        decide, seconds[name] = deciding(setup, planner, lanes)
        works[name] = waited(decide, lanes)
    rates = interleaved("plan", works, config.seconds, screen)
    most = rates["products"] * setup.dreams * setup.dream.config.horizon / operations([setup.products()])
    rows = [Row("dream", rates["dream"], "steps/s", most, "matrix products of the same shapes")]
    for name, planner in planners.items():
        lanes, steps = side_by_side(planner), planner.dream_steps
        words = f"{name}, {lanes} lanes" if lanes > 1 else f"{name}, 1 lane"
        rows.append(Row(words, rates[name], "decisions/s", rates["dream"] / steps, f"the dream, {steps:,} steps each"))
    rows += [Row(f"{name}: compile time", taken, "s") for name, taken in seconds.items()]
    return Result(f"the planners' default settings; {setup.words}", tuple(rows))


def settings() -> dict[str, PlannerConfig]:
    """The settings that are measured, by the names of their rows: those of every registered planner."""
    kinds = [ACTORS[name] for name in ACTORS.names()]
    return {
        row: config for kind in kinds if issubclass(kind, PlannerConfig) for row, config in kind.benchmarked().items()
    }


def side_by_side(planner: Planner) -> int:
    """Agents that decide side by side."""
    return max(1, min(LANES, STEPS // planner.dream_steps))


def build(setup: Setup, config: PlannerConfig) -> Planner:
    """The planner, in a dream that never ends."""
    planner = config.build(dataclasses.replace(setup.dream, actions=ACTIONS))
    assert isinstance(planner, Planner)
    return planner


def deciding(setup: Setup, planner: Planner, lanes: int) -> tuple[Callable[[], tuple[Action, Any]], float]:
    """A function that takes the first decision of an episode in each lane, returning actions [lanes, A] and carries
    [lanes, ...]; and its compile time in seconds. A policy's and a value's weights are fresh."""
    act = jax.jit(jax.vmap(planner.act, (None, None, 0, 0, 0)))
    states = jax.tree.map(lambda array: array[:lanes], setup.starts)
    weights = planner.init(jax.random.clone(KEY))
    keys = jax.random.split(jax.random.clone(KEY), lanes)
    arguments = weights, World(setup.model, setup.params), states, many(planner.begin(), lanes), keys
    executable, seconds = compiled(act, *arguments)
    return partial(executable, *arguments), seconds
