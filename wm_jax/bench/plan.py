"""Planners: decisions per second, compared with the steps per second of the dream that they plan in.

One decision is for one agent. Agents decide side by side in one compiled call, as in the actual environment.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from wm_jax.actors.cem import CEMConfig
from wm_jax.actors.icem import ICEMConfig
from wm_jax.actors.mcts import MCTSConfig
from wm_jax.actors.mppi import MPPIConfig
from wm_jax.actors.planning import Planner, PlannerConfig
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
"""Agents that decide side by side."""
PLANNERS: dict[str, tuple[PlannerConfig, int]] = {
    # A decision with PlaNet's settings dreams a thousand dreams at a time: one lane fills a CPU, 16 would take minutes.
    "cem": (CEMConfig(), 1),
    "icem": (ICEMConfig(), LANES),
    "mppi": (MPPIConfig(), LANES),
    "mcts, gumbel": (MCTSConfig(policy="gumbel"), LANES),
    "mcts, stochastic": (MCTSConfig(policy="stochastic"), LANES),
}
"""Settings and lanes of each planner; the settings are the defaults."""
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
    planners = {name: build(setup, planner) for name, (planner, _) in PLANNERS.items()}
    seconds = {}
    for name, planner in planners.items():
        lanes = PLANNERS[name][1]
        decide, seconds[name] = deciding(setup, planner, lanes)
        works[name] = waited(decide, lanes)
    rates = interleaved("plan", works, config.seconds, screen)
    most = rates["products"] * setup.dreams * setup.dream.config.horizon / operations([setup.products()])
    rows = [Row("dream", rates["dream"], "steps/s", most, "matrix products of the same shapes")]
    for name, planner in planners.items():
        lanes, steps = PLANNERS[name][1], planner.dream_steps
        words = f"{name}, {lanes} lanes" if lanes > 1 else f"{name}, 1 lane"
        rows.append(Row(words, rates[name], "decisions/s", rates["dream"] / steps, f"the dream, {steps:,} steps each"))
    rows += [Row(f"{name}: compile time", taken, "s") for name, taken in seconds.items()]
    return Result(f"the planners' default settings; {setup.words}", tuple(rows))


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
