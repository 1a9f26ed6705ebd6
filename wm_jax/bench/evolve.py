"""CMA-ES: what ask and tell take of a generation whose dreams last as long as they do in the paper."""

import jax
import jax.numpy as jnp

from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import FIRST, KEY, playing, set_up, steps_of
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import compiled, interleaved
from wm_jax.controller import Evolution, EvolveConfig
from wm_jax.pipeline.progress import Screen
from wm_jax.types import Key, Population, Returns

GENERATIONS = 24
"""In a run: eight periods of the lazy eigendecomposition at the paper's size, which is due every third generation."""


def _all_equal(population: Population, key: Key) -> Returns:
    """A fitness [P] that costs nothing."""
    return jnp.zeros(len(population))


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: milliseconds of ask and tell, against the whole generation; the ratio is their share of it."""
    setup = set_up(config)
    evolution = Evolution(EvolveConfig(population=config.population, rollouts=config.rollouts), setup.policy.size)
    fitness, state = jax.tree_util.Partial(_all_equal), evolution.init(KEY)
    evolve, seconds = compiled(Evolution.generations, evolution, state, FIRST, fitness, KEY, GENERATIONS)

    def work() -> float:
        """The same generations each time: carried on, a search without aim drifts out of all bounds."""
        jax.block_until_ready(evolve(state, FIRST, fitness, KEY))
        return float(GENERATIONS)

    works = {
        "evolve": work,
        "dream": steps_of(playing(setup)[0], setup.params),
    }
    speeds = interleaved("evolve", works, config.seconds, screen)
    alone = 1e3 / speeds["evolve"].rate
    dream = 1e3 * setup.dreams * config.life / speeds["dream"].rate
    against = f"the whole generation, dreams of {config.life:,} steps included"
    rows = (
        Row("evolve", alone, "ms a generation", alone + dream, against),
        Row("evolve: compile time", seconds, "s"),
    )
    return Result(f"P {config.population}, D {setup.policy.size:,}; {setup.words}", rows)
